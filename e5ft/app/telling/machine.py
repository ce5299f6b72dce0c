"""What this machine has, and what a training takes of it: device, precision, memory, disk, and servers that answer."""

import contextlib
import dataclasses
import functools
import os
import shutil
import threading
import urllib.error
import urllib.request
from importlib import util
from pathlib import Path

import torch

from e5ft.app.settings.groups import has_wandb_key, wandb_server
from e5ft.errors import ConfigurationError
from e5ft.formatting import size
from e5ft.training.fitting import StepCost

_CACHE_ROOM = 1_000_000_000  # bytes that the caches of a data set of middling size take
_CGROUP = Path("/sys/fs/cgroup")
_CPUINFO = Path("/proc/cpuinfo")


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        state: "ok", "note" (a run can start, but a person wants to know) or "fault" (doctor=true: a run would fail).
        text: what was found.
        remedy: what to do about it; empty where there is nothing to do.
    """

    state: str
    text: str
    remedy: str = ""


ok, note, fault = (functools.partial(Finding, state) for state in ("ok", "note", "fault"))


def check_device(run) -> Finding:
    """Look at the GPU, or at cores and threads."""
    if run.uses_gpu:
        count = torch.cuda.device_count()
        if count > 1 and int(os.environ.get("WORLD_SIZE", 1)) == 1:
            raise ConfigurationError(
                f"{count} GPUs are visible to one process, which can use one of them: "
                f"torchrun --standalone --nproc_per_node {count} train.py name=NAME ..., or CUDA_VISIBLE_DEVICES=0"
            )
        gpu = torch.cuda.get_device_properties(int(os.environ.get("LOCAL_RANK", 0)))
        text = f"{gpu.name}, compute capability {gpu.major}.{gpu.minor}, {size(gpu.total_memory)}"
        if gpu.major < 8:
            return note(text, "below 8.0 texts are padded, which is slower")
        return ok(text if count == 1 else f"{count} x {text}")
    cores, threads = usable_cores(), torch.get_num_threads()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    each = f" in each of {processes} processes" if processes > 1 else ""
    text = f"CPU, {cores:g} cores, {threads} thread{'s' * (threads > 1)}{each}"
    if not run.settings.training.use_cpu and torch.version.cuda is None and shutil.which("nvidia-smi"):
        return note(f"{text}; there is a GPU, but torch {torch.__version__} cannot use it", "install torch's CUDA build")
    if threads * processes > max(cores, 1):
        return note(text, f"more threads than cores wait for each other: OMP_NUM_THREADS={max(1, int(cores / processes))}")
    return ok(text)


def usable_cores() -> float:
    """Return the cores that this process may run on; a container's quota may be a fraction."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return min(cores, int(quota) / int(period))
    except (OSError, ValueError):  # no cgroup v2, or no quota ("max")
        return cores


def check_precision(run) -> Finding:
    """Judge whether the chosen precision pays on this device."""
    bf16, fp16 = run.settings.training.bf16, run.settings.training.fp16
    chosen = "bfloat16" if bf16 else "float16" if fp16 else "float32"
    if run.uses_gpu:
        capable = torch.cuda.get_device_capability()[0] >= 8
        better = "training.bf16=true" if capable else "training.fp16=true"
        if bf16 and not capable:
            return note("bfloat16, which this GPU emulates", better)
        return ok(chosen) if bf16 or fp16 else note(chosen, f"{better} is about twice as fast here, with half the activations")
    has = cpu_has_bf16()
    if has is None:
        return ok(chosen)
    if has:
        return ok(chosen if bf16 else f"{chosen}; this CPU has bfloat16 instructions: try training.bf16=true")
    slower = "this CPU has no bfloat16 instructions"
    return note(f"bfloat16, but {slower}", "training.bf16=false") if bf16 else ok(f"{chosen}; {slower}")


def cpu_has_bf16() -> bool | None:
    """Whether the processor's flags name bfloat16 instructions (x86: avx512_bf16, amx_bf16; ARM: bf16); None if unknown."""
    with contextlib.suppress(OSError):
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, flags = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags.split())
    return None


def memory(weights: int, trained: int, device: torch.device, *, spared: int = 0, shards: int = 1) -> Finding:
    """Compare free memory with weights, gradient and AdamW's two moments in float32; activations come on top.

    Args:
        weights: all parameters.
        trained: parameters with a gradient.
        device: of this process; the processes of a machine share its CPU's memory.
        spared: parameters of `trained` that may turn out not to be trained.
        shards: processes that share all this (training.fsdp); each holds whole weights too, while it evaluates.
    """
    processes = 1 if device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    rest = 0 if shards == 1 else 4 * weights
    most, least = (processes * ((4 * weights + 12 * count) // shards + rest) for count in (trained, trained - spared))
    free = free_memory(device)
    text = f"{size(most)} for weights, gradient and optimizer, more for activations"
    if free is None:
        return ok(text)
    text, smaller = f"{text}; {size(free)} free", "a smaller model, or model.lora.rank=16"
    if least > free:
        return fault(text, smaller)
    if most > 0.8 * free:
        return note(text, f"it may not fit: {smaller}, training.activation_checkpointing=true")
    return ok(text)


def measured_memory(cost: StepCost, device: torch.device) -> Finding:
    """Compare free memory with what the largest micro-batch took when it was tried."""
    processes, free = 1 if device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", 1)), free_memory(device)
    if cost.memory is None or free is None:
        return ok("unknown here")
    text = f"at most about {size(cost.memory)}{f' in each of {processes} processes' if processes > 1 else ''}; {size(free)} free"
    if processes * cost.growth > free:
        return note(text, "it may not fit: training.fit_micro_batch=true, training.activation_checkpointing=true")
    return ok(text)


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes of the GPU, or of the machine (of the container, where that is less); None if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = int(dict(line.split(":", 1) for line in lines)["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    with contextlib.suppress(OSError, KeyError, ValueError):  # no cgroup v2, or no limit ("max")
        used = int((_CGROUP / "memory.current").read_text())
        reclaimable = int(dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())["inactive_file"])
        free = min(free, int((_CGROUP / "memory.max").read_text()) - used + reclaimable)
    return max(free, 0)


def disk(weights: int, trained: int, saves: bool, limit: int | None, folder: Path, steps: int = 10) -> Finding:
    """Compare the free disk with the checkpoints (weights and AdamW's moments) and the exported model.

    Args:
        weights: all parameters.
        trained: parameters with moments.
        saves: whether checkpoints are written.
        limit: how many stay; None: all.
        folder: the run's.
        steps: checkpoints that stand there at once where no limit is set.

    Raises:
        ConfigurationError: they do not fit.
    """
    checkpoints = (limit or steps) + 1 if saves else 0
    need, free = (4 * weights + 8 * trained) * checkpoints + 4 * weights, shutil.disk_usage(existing(folder)).free
    text = f"{size(need)} for {checkpoints} checkpoints and the model; {size(free)} free"
    if need > free:
        raise ConfigurationError(f"{folder}: {text}; lower training.save_total_limit, or make room")
    if saves and limit is None:
        return note(text, "training.save_total_limit=null keeps every checkpoint: set it")
    return ok(text)


def existing(path: Path) -> Path:
    """The path, or the nearest folder above that is there."""
    path = path.absolute()
    return next((folder for folder in (path, *path.parents) if folder.exists()), path)


def check_cache(run) -> Finding:
    """Find out whether cache_dir can be written, and how much room it has."""
    folder = Path(run.settings.cache_dir)
    there = existing(folder)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return fault(f"{folder} cannot be written", "cache_dir=DIR names another folder")
    free = shutil.disk_usage(there).free
    text = f"{size(free)} free for {folder}"
    if free < _CACHE_ROOM:
        return note(text, "rows and vectors are kept there: make room (what it holds may be deleted), or cache_dir=DIR")
    return ok(text)


def check_wandb(run) -> Finding:
    """Look at W&B's mode, key and server. Never a fault: a run continues without W&B."""
    mode, has_key, server = run.settings.tracking.mode, has_wandb_key(), wandb_server()
    if mode == "off":
        return ok(mode)
    if util.find_spec("wandb") is None:
        return note("wandb is not installed", "pip install wandb, or tracking=off; metrics.jsonl has everything")
    if mode != "online":
        return ok(f"{mode}{'' if has_key else ', no API key'}: files in the run's folder, which `wandb sync` sends")
    if not has_key:
        return note("online, but there is no API key", "wandb login, WANDB_API_KEY=..., or tracking.wandb=offline")
    reason = unreachable(server)
    if reason is not None:
        return note(f"online, but {server} does not answer ({reason})", "tracking.wandb=offline, and `wandb sync` later")
    return ok(f"online, {server} answers")


def unreachable(url: str, seconds: float = 3) -> str | None:
    """Return why a server does not answer; None where it does, whatever it answers.

    Args:
        url: of the server.
        seconds: to wait, at most: looking up a name can take longer than any timeout of the request itself.
    """
    reasons = [f"no answer in {seconds:g} s"]

    def ask() -> None:
        """Note an empty reason once the server has answered, else why it has not."""
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds).close()
            reasons.append("")
        except urllib.error.HTTPError:
            reasons.append("")  # an answer, too
        except Exception as error:  # a dozen kinds, from the name that is not found to the certificate
            reasons.append(str(getattr(error, "reason", None) or error) or type(error).__name__)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return reasons[-1] or None
