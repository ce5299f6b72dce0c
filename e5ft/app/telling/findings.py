"""What a training run prints before its first step: notes on the machine, what it will do, and what that takes.

`doctor=true` prints the part that needs no rows in memory, every line of it, and trains nothing.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from importlib import util
from pathlib import Path

import torch
from huggingface_hub import constants, try_to_load_from_cache
from torch import nn

from e5ft.app.configuration import lora_settings, model_source, optimizer_class
from e5ft.app.places import OUTPUTS, below
from e5ft.app.telling.report import duration, relative, say, size
from e5ft.data.lines import Fault
from e5ft.data.mixing import MixSampler
from e5ft.data.remote import is_url
from e5ft.data.rows import SUFFIXES, read_rows
from e5ft.data.store import TokenStore
from e5ft.errors import ConfigurationError, E5ftError
from e5ft.files import read_json
from e5ft.modeling.compact import compacted
from e5ft.modeling.loading import ModelSource, load_config, load_description, without_memory
from e5ft.retrieval.beir import check_layout
from e5ft.training.trainer import ContrastiveTrainer

_ROWS = 200  # read of each source
_CACHE_ROOM = 1_000_000_000  # bytes that the caches of a data set of middling size take
_SECONDS = 3  # for which a server is waited
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_CGROUP = Path("/sys/fs/cgroup")


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
Findings = Iterable[tuple[str, Finding]]


@dataclasses.dataclass
class PlannedRun:
    """What the checks look at. A check raises what a run of these settings would raise, and gives a Finding of all else.

    Attributes:
        settings: all of the run's.
        build: makes what a run makes of its settings first (TrainingArguments, optimizer, loss), and raises what that refuses.
        plan: gives the plan of the run's data.
        wandb: gives W&B's mode (online, offline, off), whether there is an API key, and the server.
    """

    settings: object
    build: Callable[[], object] = lambda: None
    plan: Callable[[], object] = lambda: None
    wandb: Callable[[], tuple[str, bool, str]] = lambda: ("off", False, "")

    @property
    def uses_gpu(self) -> bool:
        """Whether the run trains on a GPU."""
        return torch.cuda.is_available() and not self.settings.training.use_cpu

    @property
    def step_rows(self) -> int:
        """Rows of one optimizer step over all processes."""
        training, processes = self.settings.training, int(os.environ.get("WORLD_SIZE", 1))
        return training.per_device_train_batch_size * training.gradient_accumulation_steps * processes

    @functools.cached_property
    def source(self) -> ModelSource:
        """Where the model comes from."""
        return model_source(self.settings)

    @functools.cached_property
    def parameters(self) -> tuple[int, int, int] | None:
        """All parameters, the trained ones, and how many of these are token embeddings that a compact table may leave out.

        None where only the hub knows the model's shape.
        """
        source, lora = self.source, lora_settings(self.settings)
        if source.path is None and not source.shape:
            return None
        if source.path is None:
            source = ModelSource(init="random", shape=source.shape, tokenizer=".")
        model = without_memory(load_config(source))
        total = sum(parameter.numel() for parameter in model.parameters())
        if lora is not None:
            names = lora.target_modules
            layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and not n.startswith("pooler")]
            adapted = [m for n, m in layers if names == "all-linear" or n.rpartition(".")[2] in names]
            added = sum(lora.rank * (layer.in_features + layer.out_features) for layer in adapted)
            return total + added, added, 0
        compact = self.settings.training.compact_embedding and optimizer_class(self.settings)[0] is torch.optim.AdamW
        return total, total, model.get_input_embeddings().weight.numel() if compact else 0


def examine(run: PlannedRun) -> None:
    """Print every check of CHECKS, each as soon as its result is known (doctor=true).

    Raises:
        ConfigurationError: a run could not start.
    """
    faults, printed = [], set()
    for name, check in CHECKS.items():
        try:
            finding = check(run)
        except E5ftError as error:  # its message names the remedy
            finding = fault(str(error))
        except Exception as error:  # a run would not survive it either; the other checks still count
            finding = fault(f"{type(error).__name__}: {error}")
        # Several checks read the same settings, and each would refuse them in the same words.
        repeated = finding.state == "fault" and finding in printed
        say(f"{finding.state:<6} {name:<12} {'as above' if repeated else _line(finding)}")
        printed.add(finding)
        faults += [name] * (finding.state == "fault")
    if faults:
        raise ConfigurationError(f"doctor: a run could not start; see {', '.join(faults)} above")
    say("a run can start")


def machine_notes(settings: object) -> Findings:
    """Give what is worth a word about this machine before a run with these settings.

    Raises:
        ConfigurationError: the run cannot succeed here.
    """
    findings = [(name, check(PlannedRun(settings))) for name, check in _MACHINE.items()]
    return [(name, finding) for name, finding in findings if finding.state != "ok"]


def show(findings: Findings) -> None:
    """Print findings in a run, where a fault is a note: what a run cannot survive it raises itself."""
    for name, finding in findings:
        say(f"  {name:<12}{'' if finding.state == 'ok' else 'note: '}{_line(finding)}")


def _line(finding: Finding) -> str:
    return " ".join("; ".join(filter(None, (finding.text, finding.remedy))).split())


def check_device(run: PlannedRun) -> Finding:
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


def check_precision(run: PlannedRun) -> Finding:
    """Judge whether the chosen precision pays on this device."""
    bf16, fp16 = run.settings.training.bf16, run.settings.training.fp16
    chosen = "bfloat16" if bf16 else "float16" if fp16 else "float32"
    if run.uses_gpu:
        capable = torch.cuda.get_device_capability()[0] >= 8
        better = "training.bf16=true" if capable else "training.fp16=true"
        if bf16 and not capable:
            return note("bfloat16, which this GPU emulates", better)
        return ok(chosen) if bf16 or fp16 else note(chosen, f"{better} is about twice as fast here, with half the activations")
    if bf16_is_emulated():
        slower = "this CPU has no bfloat16 instructions"
        return (
            note(f"bfloat16, but {slower}", "many times slower than training.bf16=false") if bf16 else ok(f"{chosen}; {slower}")
        )
    return ok(chosen if bf16 else f"{chosen}; this CPU multiplies bfloat16 no slower: try training.bf16=true")


def bf16_is_emulated() -> bool:
    """Return whether a matrix product takes longer in bfloat16 than in float32 here (in 0.1 s at most)."""
    seconds = []
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(256, 256, dtype=dtype)
        matrix @ matrix
        start = time.perf_counter()
        for _ in range(3):
            matrix @ matrix
        seconds.append(time.perf_counter() - start)
    return seconds[1] > 2 * seconds[0]


def check_packages(run: PlannedRun) -> Finding:
    """Refuse settings whose optional package is not installed."""
    settings = run.settings
    mines = settings.rounds.count != 1
    search = settings.rounds.mining.search
    uses = (
        ("evaluation.bm25=kiwi", settings.evaluation.bm25 == "kiwi", "kiwipiepy", "kiwipiepy"),
        (f"rounds.mining.search={search}", mines and search != "exact", "faiss", "faiss-cpu"),
        ("model.lora.rank", settings.model.lora.rank is not None, "peft", "peft"),
    )
    used = {package: (field, module) for field, chosen, module, package in uses if chosen}
    missing = {package: field for package, (field, module) in used.items() if util.find_spec(module) is None}
    if missing:
        raise ConfigurationError(
            f"{', '.join(f'{field}: needs {package}' for package, field in missing.items())}; pip install {' '.join(missing)}"
        )
    return ok(f"{', '.join(used) or 'no optional one'} needed")


def check_cache(run: PlannedRun) -> Finding:
    """Find out whether cache_dir can be written, and how much room it has."""
    folder = Path(run.settings.cache_dir)
    there = _existing(folder)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return fault(f"{folder} cannot be written", "cache_dir=DIR names another folder")
    free = shutil.disk_usage(there).free
    text = f"{size(free)} free for {folder}"
    if free < _CACHE_ROOM:
        return note(text, "rows and vectors are kept there: make room (what it holds may be deleted), or cache_dir=DIR")
    return ok(text)


def check_settings(run: PlannedRun) -> Finding:
    """Build what a run builds of its settings first, and refuse the name of a run that is there already."""
    run.build()
    folder = below(OUTPUTS, run.settings.name)
    status = folder / "status.json"
    state = read_json(status)["state"] if status.is_file() else None
    if run.settings.resume and state is None:
        return fault(f"resume=true, but there is no run in {folder}", "resume=false, or another name=")
    if not run.settings.resume and state is not None and (state != "failed" or any(folder.glob("checkpoint-*"))):
        return fault(f"{folder} holds a run already ({state})", "another name=, or resume=true to resume it")
    return ok(f"{run.step_rows:,} queries a step")


def check_data(run: PlannedRun) -> Finding:
    """Read the first rows of each source as strictly as a run does, and look at the evaluation folders' layout."""
    plan, texts, faults, count, complete = run.plan(), [], [], 0, True
    for source in (*plan.sources, *filter(None, [plan.dev])):
        file = source.file
        if is_url(file) or (not Path(file).exists() and Path(file).suffix.lower() not in SUFFIXES):
            texts.append(f"{file} ({'a URL' if is_url(file) else 'a hub data set'}, not looked at)")
            complete = False
            continue
        rows = list(itertools.islice(read_rows(file, source.columns, source.split), _ROWS))
        faults += [str(row) for _, row in rows if isinstance(row, Fault)]
        count, complete = count + len(rows), complete and len(rows) < _ROWS
        texts.append(f"{relative(Path(file))} ({'first ' * (len(rows) == _ROWS)}{len(rows):,} rows)")
    folders = [folder for folder in (plan.evaluation_dir, *plan.keep_dirs) if folder is not None]
    for folder in folders:
        if not is_url(folder):
            check_layout(Path(folder), plan.eval_split)
    text = ", ".join(texts) + (f"; evaluation: {', '.join(map(str, folders))}" if folders else "")
    if faults:
        text = faults[0] + (f" and {len(faults) - 1} more of the {count:,} rows looked at" if len(faults) > 1 else "")
        if run.settings.data.on_bad_row == "skip":
            return note(text, "data.on_bad_row=skip leaves them out")
        return fault(text, "mend the rows, or data.on_bad_row=skip to leave them out")
    if complete and count < run.step_rows:
        return fault(
            f"{text}: {count:,} rows do not fill one step of {run.step_rows:,}",
            "lower training.per_device_train_batch_size or training.gradient_accumulation_steps",
        )
    return ok(text)


def check_model(run: PlannedRun) -> Finding:
    """Read a local model's configuration, tokenizer and text format, but no weights; look for a hub's in the local cache."""
    source = run.source
    local_tokenizer = source.tokenizer is not None and Path(source.tokenizer).is_dir()
    if source.path is None and source.init == "pretrained":
        return _find_on_hub(source.hub, source.revision, ("config.json",), _WEIGHTS)
    if source.path is None and not local_tokenizer:  # random weights in the shape of a hub's model
        name = source.tokenizer or source.hub
        return _find_on_hub(name, source.revision if name == source.hub else None, ("tokenizer.json",))
    loaded, spec, tokenizer = load_description(source)
    text = f"{source.label}: {loaded.model_type}, {loaded.num_hidden_layers} layers, {len(tokenizer):,} pieces, {spec.pooling}"
    if source.init == "random":
        return note(text, "random weights are for trying things out; a real model: model=e5_small")
    if not list(Path(source.path).glob("*.safetensors")):
        return fault(f"{source.path} has no *.safetensors", "pickled weights are not read: save the model as safetensors")
    return ok(text)


def _find_on_hub(name: str, revision: str | None, *files: tuple[str, ...]) -> Finding:
    """Find one of each tuple of files in the local cache, or else the hub's server."""
    if all(any(isinstance(try_to_load_from_cache(name, file, revision=revision), str) for file in some) for some in files):
        return ok(f"{name} is in the local cache")
    absent, remedy = f"{name} is not in the local cache, and", "model.path=DIR with a local copy, or model=mini"
    if constants.HF_HUB_OFFLINE:
        return fault(f"{absent} HF_HUB_OFFLINE is set", f"unset it, or {remedy}")
    reason = unreachable(constants.ENDPOINT)
    if reason is not None:
        return fault(f"{absent} {constants.ENDPOINT} does not answer ({reason})", remedy)
    return ok(f"{name} will be fetched from {constants.ENDPOINT}")


def unreachable(url: str, seconds: float = _SECONDS) -> str | None:
    """Return why a server does not answer; None where it does, whatever it answers.

    Args:
        url: of the server.
        seconds: to wait, at most: looking up a name can take longer than any timeout of the request itself.
    """
    reasons = [f"no answer in {seconds:g} s"]

    def ask() -> None:
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


def check_memory(run: PlannedRun) -> Finding:
    """Compare free memory with what the model's shape and the settings say it takes."""
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if run.uses_gpu else torch.device("cpu")
    if run.parameters is None:
        return ok(f"{size(free_memory(device))} free; what the model takes is known once it is here")
    weights, trained, spared = run.parameters
    shards = int(os.environ.get("WORLD_SIZE", 1)) if run.settings.training.fsdp else 1
    return memory(weights, trained, device, spared=spared, shards=shards)


def memory(
    weights: int,
    trained: int,
    device: torch.device,
    *,
    spared: int = 0,
    compact: int = 0,
    shards: int = 1,
    loaded: bool = False,
) -> Finding:
    """Compare free memory with weights, gradient and AdamW's two moments in float32; activations come on top.

    Args:
        weights: all parameters.
        trained: parameters with a gradient.
        device: of this process; the processes of a machine share its CPU's memory.
        spared: parameters of `trained` that may turn out not to be trained.
        compact: parameters of the compact table of token embeddings, which stands beside the whole one.
        shards: processes that share all this (training.fsdp); each holds whole weights too, while it evaluates.
        loaded: whether the weights are in memory already.
    """
    processes = 1 if device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    rest = 0 if shards == 1 else 4 * weights
    most, least = (
        processes * ((4 * weights + 12 * count) // shards + rest + 4 * compact) for count in (trained, trained - spared)
    )
    free = free_memory(device)
    room = free + processes * 4 * (weights + compact) * loaded
    text = f"{size(most)} for weights, gradient and optimizer, more for activations; {size(free)} free"
    smaller = "a smaller model, or model.lora.rank=16"
    if free and least > room:
        return fault(text, smaller)
    if free and most > 0.8 * room:
        return note(text, f"it may not fit: {smaller}, training.activation_checkpointing=true")
    return ok(text)


def free_memory(device: torch.device) -> int:
    """Return the free bytes of the GPU, or of the machine (of the container, where that is less); 0 if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = int(dict(line.split(":", 1) for line in lines)["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 0
    with contextlib.suppress(OSError, KeyError, ValueError):  # no cgroup v2, or no limit ("max")
        used = int((_CGROUP / "memory.current").read_text())
        reclaimable = int(dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())["inactive_file"])
        free = min(free, int((_CGROUP / "memory.max").read_text()) - used + reclaimable)
    return max(free, 0)


def check_disk(run: PlannedRun) -> Finding:
    """Compare the free disk with what the model's shape and the settings say it takes."""
    if run.parameters is None:
        return ok(f"{size(shutil.disk_usage(_existing(Path(OUTPUTS))).free)} free for {OUTPUTS}/")
    return disk(*run.parameters[:2], run.settings.training, Path(OUTPUTS))


def disk(weights: int, trained: int, training: object, folder: Path, steps: int = 10) -> Finding:
    """Compare the free disk with the checkpoints (weights and AdamW's moments) and the exported model.

    Args:
        weights: all parameters.
        trained: parameters with moments.
        training: has `save_strategy` and `save_total_limit`.
        folder: the run's.
        steps: checkpoints that stand there at once where no limit is set.

    Raises:
        ConfigurationError: they do not fit.
    """
    saves, limit = training.save_strategy != "no", training.save_total_limit
    checkpoints = (limit or steps) + 1 if saves else 0
    need, free = (4 * weights + 8 * trained) * checkpoints + 4 * weights, shutil.disk_usage(_existing(folder)).free
    text = f"{size(need)} for {checkpoints} checkpoints and the model; {size(free)} free"
    if need > free:
        raise ConfigurationError(f"{folder}: {text}; lower training.save_total_limit, or make room")
    if saves and limit is None:
        return note(text, "training.save_total_limit=null keeps every checkpoint: set it")
    return ok(text)


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above that is there."""
    path = path.absolute()
    return next((folder for folder in (path, *path.parents) if folder.exists()), path)


def check_wandb(run: PlannedRun) -> Finding:
    """Look at W&B's mode, key and server. Never a fault: a run continues without W&B."""
    mode, has_key, server = run.wandb()
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


# A run looks at these as it starts. What the others find, it finds itself, in the same words, a moment later.
_MACHINE: dict[str, Callable[[PlannedRun], Finding]] = {
    "device": check_device,
    "precision": check_precision,
    "packages": check_packages,
    "cache": check_cache,
}
CHECKS = {
    **_MACHINE,
    "settings": check_settings,
    "data": check_data,
    "model": check_model,
    "memory": check_memory,
    "disk": check_disk,
    "W&B": check_wandb,
}


def run_facts(
    trainer: ContrastiveTrainer, data, tokens: TokenStore, row_tokens: float, tokens_per_second: float, evaluation
) -> Findings:
    """Give what the run will do and what that takes, one finding a fact.

    Args:
        trainer: with its data.
        data: the TrainingData.
        tokens: of the training rows' texts.
        row_tokens: tokens that a row shows in an epoch, on average.
        tokens_per_second: of a forward pass, measured a moment ago.
        evaluation: the EvaluationPlan; None where nothing is measured while training.

    Raises:
        ConfigurationError: the disk cannot hold the checkpoints.
    """
    args, sampler, table = trainer.args, trainer.make_sampler(), compacted(trainer.model)
    steps = args.max_steps if args.max_steps > 0 else int(-(-args.num_train_epochs * sampler.steps // 1))
    epochs = args.num_train_epochs if args.max_steps < 0 else steps / sampler.steps
    processes = f" x {args.world_size} processes" if args.world_size > 1 else ""
    cut = f"{args.per_device_train_batch_size} x {args.gradient_accumulation_steps}{processes}"
    rejected = f" ({data.rejected:,} rejected)" if data.rejected else ""
    dev, test = len(data.dev.queries), len(data.test.queries)
    yield "rows", ok(f"{len(data.train.rows):,} for training{rejected}, {dev:,} dev queries, {test:,} test queries")
    if isinstance(sampler, MixSampler):
        drawn, width = sampler.steps * sampler.step_rows, max(map(len, sampler.mix.names))
        sources = zip(sampler.mix.names, sampler.source_rows, sampler.shares, strict=True)
        for number, (name, rows, share) in enumerate(sources):
            times = f"each about {share * drawn / len(rows):.3g} times an epoch"
            yield "" if number else "sources", ok(f"{name:{width}} {len(rows):,} rows, {share:.1%} of the rows drawn: {times}")
    yield "steps", ok(f"{steps:,} of {sampler.step_rows:,} queries ({cut}); {epochs:.3g} epochs")
    yield "texts", ok(f"{tokens.texts:,}, of which {tokens.truncated / max(tokens.texts, 1):.1%} are cut to the model's length")
    weights = sum(p.numel() for p in trainer.model.parameters())
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    compact = 0
    if table is not None:
        compact = table.weight.numel()
        weights += table.rest.numel() - compact
        counts = f"{len(table.weight):,} of {len(table.rest):,} token embeddings"
        yield "embeddings", ok(f"{counts} are trained; the rest receive weight decay only")
    if evaluation is not None:
        times = "once" if evaluation.times == 1 else f"{evaluation.times} times"
        sizes = f"{evaluation.queries:,} dev queries against {evaluation.passages:,} passages"
        cost = f"about {evaluation.share:.1%} of training's work"
        yield "evaluation", ok(f"{times} while training, {sizes}: {cost}", evaluation.reason)
    shards = args.world_size if trainer.is_fsdp_enabled else 1
    yield "memory", memory(weights, trained, args.device, compact=compact, shards=shards, loaded=True)
    yield "disk", disk(weights, trained, args, Path(args.output_dir), max(1, steps))
    accumulation = args.gradient_accumulation_steps
    passes = 4 - 1 / accumulation if accumulation > 1 else 3  # that a step is worth; exact accumulation embeds twice
    seconds = passes * row_tokens * sampler.step_rows * steps / args.world_size / tokens_per_second
    yield "time", ok(f"about {duration(seconds)} on {args.device}, by the speed of a forward pass just measured")
