"""doctor=true: versions, device, precision, memory and limits of this machine."""

import os
import resource
import shutil
import sys
from importlib import metadata, util
from pathlib import Path

import torch
from omegaconf import DictConfig
from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import Version

from e5ft.app.configuration import PROJECT
from e5ft.app.estimate import bf16_is_emulated, size
from e5ft.app.finding import Finding, fault, note, ok

_PYTHON = (3, 11)
_FLOORS = {"torch": "2.10", "transformers": "5.3"}  # below: known holes (CVE-2026-24747, CVE-2026-4372)
_OPEN_FILES = 1024
_SHARED = 256_000_000  # bytes; Docker's default is 64 MB
# Package -> the module that tells whether it is there, and what it is for.
_OPTIONAL = {
    "kiwipiepy": ("kiwipiepy", "BM25 by morphemes"),
    "faiss-cpu": ("faiss", "approximate search when mining"),
    "flash-attn": ("flash_attn", "faster attention on some GPUs"),
    "hydra-joblib-launcher": ("hydra_plugins.hydra_joblib_launcher", "hydra/launcher=parallel"),
    "hydra-submitit-launcher": ("hydra_plugins.hydra_submitit_launcher", "hydra/launcher=submitit"),
}


def check_python(config: DictConfig) -> Finding:
    """The interpreter's version."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < _PYTHON:
        return fault(found, f"{'.'.join(map(str, _PYTHON))} or newer is needed: make PYTHON=python3.11 setup")
    return ok(found)


def check_packages(config: DictConfig) -> Finding:
    """Installed versions against requirements.txt: older than the floors or missing is a fault, different is a note."""
    wanted = _requirements(PROJECT / "requirements.txt")
    missing, low, other = [], [], []
    for name, requirement in {**{name: Requirement(name) for name in _FLOORS}, **wanted}.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(f"{name} is missing")
            continue
        if name in _FLOORS and Version(version) < Version(_FLOORS[name]):
            low.append(f"{name} {version} is below {_FLOORS[name]}")
        elif not requirement.specifier.contains(version, prereleases=True):
            other.append(f"{name} {version} instead of {requirement.specifier}")
    if missing or low:
        return fault(", ".join(missing + low), "pip install -r requirements.txt")
    if other:
        return note(", ".join(other), "the tests passed with those of requirements.txt: pip install -r requirements.txt")
    return ok(
        f"torch {torch.__version__}, transformers {metadata.version('transformers')}; all {len(wanted)} as in requirements.txt"
    )


def _requirements(file: Path) -> dict[str, Requirement]:
    """By name; lines of options and hashes of a lock file are passed over, and what is for other platforms."""
    found = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        text = line.partition("#")[0].partition("--")[0].strip().rstrip("\\").strip()
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate():
            found[requirement.name] = requirement
    return found


def check_device(config: DictConfig) -> Finding:
    """GPU, or cores and threads."""
    if uses_gpu(config):
        count = torch.cuda.device_count()
        if count > 1 and int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return fault(
                f"{count} GPUs, which one process cannot share",
                f"torchrun --standalone --nproc_per_node {count} train.py name=NAME ..., or CUDA_VISIBLE_DEVICES=0",
            )
        index = int(os.environ.get("LOCAL_RANK", 0))
        gpu = torch.cuda.get_device_properties(index)
        text = f"{gpu.name}, compute capability {gpu.major}.{gpu.minor}, {size(gpu.total_memory)}"
        if (gpu.major, gpu.minor) < (8, 0):
            return note(text, "below 8.0 texts are padded, which is slower")
        return ok(text if count == 1 else f"{count} x {text}")
    cores, threads = usable_cores(), torch.get_num_threads()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    text = f"CPU, {cores:g} cores, {threads} thread{'s' * (threads > 1)}" + (
        f" in each of {processes} processes" if processes > 1 else ""
    )
    if not config.training.use_cpu and torch.version.cuda is None and shutil.which("nvidia-smi"):
        return note(f"{text}; there is a GPU, but torch {torch.__version__} cannot use it", "install torch's CUDA build")
    if threads * processes > max(cores, 1):
        return note(text, f"more threads than cores wait for each other: OMP_NUM_THREADS={max(1, int(cores / processes))}")
    return ok(text)


def uses_gpu(config: DictConfig) -> bool:
    """Whether the run would train on a GPU."""
    return torch.cuda.is_available() and not config.training.use_cpu


def usable_cores() -> float:
    """Cores that this process may run on; a container's quota may be a fraction."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(cores, int(quota) / int(period))
    except (OSError, ValueError):  # no cgroup v2, or no quota ("max")
        return cores


def check_precision(config: DictConfig) -> Finding:
    """Whether the chosen precision pays here."""
    bf16, fp16 = bool(config.training.bf16), bool(config.training.fp16)
    chosen = "bfloat16" if bf16 else "float16" if fp16 else "float32"
    if uses_gpu(config):
        capable = torch.cuda.get_device_capability()[0] >= 8
        better = "training.bf16=true" if capable else "training.fp16=true"
        if bf16 and not capable:
            return note("bfloat16, which this GPU emulates", better)
        return ok(chosen) if bf16 or fp16 else note("float32", f"{better} is about twice as fast here, with half the activations")
    if fp16:
        return fault("training.fp16=true on a CPU", "training.bf16=true, or neither")
    emulated = bf16_is_emulated()
    if bf16 and emulated:
        return note("bfloat16, which this CPU emulates", "many times slower than without it: training.bf16=false")
    if not bf16 and not emulated:
        return ok("float32; this CPU multiplies bfloat16 no slower: try training.bf16=true")
    return ok(chosen + ("; this CPU emulates bfloat16: leave training.bf16=false" if emulated else ""))


def check_limits(config: DictConfig) -> Finding:
    """Open files, and with DataLoader workers shared memory."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    unlimited = files in (-1, resource.RLIM_INFINITY)
    text = f"{'any number of' if unlimited else f'{files:,}'} open files"
    if not unlimited and files < _OPEN_FILES:
        return note(text, f"ulimit -n {_OPEN_FILES} before starting")
    workers = config.training.dataloader_num_workers
    if not workers:
        return ok(text)
    try:
        shared = shutil.disk_usage("/dev/shm").free
    except OSError:
        return note(f"{text}, no /dev/shm", "training.dataloader_num_workers=0")
    text = f"{text}, {size(shared)} of /dev/shm for {workers} workers"
    if shared < _SHARED:
        return note(text, "more (docker run --shm-size=1g), or training.dataloader_num_workers=0")
    return ok(text)


def check_processes(config: DictConfig) -> Finding:
    """What torchrun sets, whole and without contradiction."""
    given = {name: os.environ.get(name) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")}
    tasks = os.environ.get("SLURM_NTASKS", "1")
    if given["WORLD_SIZE"] is None and given["RANK"] is None:
        if tasks.isdigit() and int(tasks) > 1:
            return note(f"SLURM has {tasks} tasks, this is one process", "let each run torchrun: docs/cluster.md")
        return ok("one")
    absent = [name for name, value in given.items() if not value]
    if absent:
        return fault(f"{', '.join(absent)} not set, but others of torchrun's variables are", "start with torchrun, or unset them")
    try:
        world, rank, local, _ = (int(given[name]) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT"))
    except ValueError:
        return fault(", ".join(f"{name}={value}" for name, value in given.items()), "whole numbers are needed; use torchrun")
    if not 0 <= rank < world:
        return fault(f"RANK={rank} of WORLD_SIZE={world}", "ranks count from 0; use torchrun")
    if uses_gpu(config) and local >= torch.cuda.device_count():
        return fault(
            f"LOCAL_RANK={local}, but {torch.cuda.device_count()} GPUs are visible", "--nproc_per_node is to be their number"
        )
    return ok(f"{world} processes")


def check_optional(config: DictConfig) -> Finding:
    """Packages that some settings need."""
    there = {package for package, (module, _) in _OPTIONAL.items() if _importable(module)}
    needed = []
    if config.evaluation.bm25 == "kiwi" and "kiwipiepy" not in there:
        needed.append(("evaluation.bm25=kiwi", "kiwipiepy"))
    if config.rounds.count != 1 and config.rounds.mining.search != "exact" and "faiss-cpu" not in there:
        needed.append((f"rounds.mining.search={config.rounds.mining.search}", "faiss-cpu"))
    if config.model.lora.rank is not None and not _importable("peft"):
        needed.append(("model.lora.rank", "peft"))
    if needed:
        return fault(
            ", ".join(f"{setting} without {package}" for setting, package in needed),
            f"pip install {' '.join(package for _, package in needed)}",
        )
    others = [f"{package} ({use})" for package, (_, use) in _OPTIONAL.items() if package not in there]
    return ok(
        ", ".join(sorted(there)) + ("; " if there and others else "") + (f"not there: {', '.join(others)}" if others else "")
    )


def _importable(module: str) -> bool:
    try:
        return util.find_spec(module) is not None
    except (ImportError, ValueError):  # the package around it is missing, or half there
        return False
