"""Kill real runs at named places and go on with them: weights, losses and scores must be those of a run that nothing stopped."""

import dataclasses
import functools
import hashlib
import itertools
import json
import multiprocessing
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.chaos.faults import FULL, KILL, NAN, TERM, USR1, Fault, Place, install
from tests.chaos.forking import ROOT, Ended, run_script

EPOCH, STEPS = 4, 8  # steps of an epoch, and in all
FIRST, MIDDLE, END = 0, 5, 3  # the steps under way, from 0: the first, amid the second epoch, the last of the first epoch
PHASES = {FIRST: "first step", MIDDLE: "mid-epoch", END: "epoch's end", None: "outside training"}

_COMMON = [
    "tracking=off", "model.shape.hidden_size=16", "model.shape.num_hidden_layers=1", "model.shape.num_attention_heads=2",
    "model.shape.intermediate_size=16", "model.text.query_max_length=16", "model.text.passage_max_length=16",
    "model.dropout=0.1", "model.attention_dropout=0.1", "evaluation.intervals=2", "optimizer.lr=0.01", "training.use_cpu=true",
    f"training.max_steps={STEPS}", "training.warmup_steps=2", "evaluation.cutoffs=[10]", "evaluation.bm25=null",
]  # fmt: skip
_EVERY = ["training.save_steps=1", "training.eval_steps=1", "training.logging_steps=1", "training.save_total_limit=2"]
# Log lines that cover steps of two checkpoints, and steps that are lost and made again.
_SPARSE = ["training.save_steps=2", "training.eval_steps=2", "training.logging_steps=3", "training.save_total_limit=2"]


_TIMED = re.compile("runtime|per_second|^train_loss$")


def _cut(rows: int, k: int) -> tuple[str, ...]:
    return (f"training.per_device_train_batch_size={rows}", f"training.gradient_accumulation_steps={k}")


# Trainings that are stopped in many ways; 16 rows a step and 4 steps an epoch in all of them.
SETTINGS = {
    "k = 1": (*_EVERY, *_cut(16, 1)),
    "k = 4": (*_EVERY, *_cut(4, 4)),
    "k = 1, sparse": (*_SPARSE, *_cut(16, 1)),
    "k = 4, sparse": (*_SPARSE, *_cut(4, 4)),
    "k = 4, by length": (*_SPARSE, *_cut(4, 4), "training.group_by_length=true"),
    "k = 1, mix": (*_SPARSE, *_cut(16, 1), "data=mix", "data.sources={a: a.jsonl, b: {train_file: b.jsonl, weight: 2}}"),
    "k = 1, early stopping": (*_EVERY, *_cut(16, 1), "training.early_stopping_patience=2", "optimizer.lr=1.0"),
    "2 processes, k = 1": (*_SPARSE, *_cut(8, 1)),
    "2 processes, k = 4": (*_SPARSE, *_cut(2, 4)),
}

_T, _C = "e5ft.training.trainer:ContrastiveTrainer.", "e5ft.training.checkpoint:"
IN_A_STEP = (
    Place("before fetching micro-batches", _T + "get_batch_samples"),
    Place("before a forward pass", _T + "_embed"),
    Place("before a micro-batch's loss", _T + "compute_loss"),
    Place("between micro-batches' backward passes", _T + "training_step", "after"),
    Place("before clipping the gradient", _T + "_clip_grad_norm"),
    Place("before the optimizer's step", "torch.optim:AdamW.step"),
    Place("after the optimizer's step", "torch.optim:AdamW.step", "after"),
    Place("after the scheduler's step", "torch.optim.lr_scheduler:LambdaLR.step", "after"),
    Place("at the step's end, before logging", _T + "_maybe_log_save_evaluate"),
    Place("after the step's end", _T + "_maybe_log_save_evaluate", "after"),
)
AROUND_A_LOG = (
    Place("before a line of metrics.jsonl", "e5ft.app.runs.tracking:MetricsFile.on_log"),
    Place("after a line of metrics.jsonl", "e5ft.app.runs.tracking:MetricsFile.on_log", "after"),
)
IN_EVALUATION = (
    Place("before an evaluation", _T + "evaluate"),
    Place("amid an evaluation", "e5ft.modeling.encoder:Encoder.encode_tokens", "after"),
    Place("after an evaluation", _T + "evaluate", "after"),
)
IN_A_SAVE = (
    Place("before a checkpoint", _T + "_write_checkpoint"),
    Place("checkpoint: before the weights", "e5ft.training.resuming:save_encoder"),
    Place("checkpoint: half the weights", "transformers.modeling_utils:safe_save_file", "half", "model.safetensors"),
    Place("checkpoint: after the weights", "e5ft.training.resuming:save_encoder", "after"),
    Place("checkpoint: half the optimizer", "torch:save", "half", "optimizer.pt"),
    Place("checkpoint: before the scheduler", "torch:save", "before", "scheduler.pt"),
    Place("checkpoint: half the random state", "torch:save", "half", ".pth"),
    Place("checkpoint: before the progress", "e5ft.training.log_sums:LogSums.save"),
    Place("checkpoint: before the trainer's state", "transformers.trainer_callback:TrainerState.save_to_json"),
    Place("checkpoint: half the trainer's state", "transformers.trainer_callback:TrainerState.save_to_json", "half", ".json"),
    Place("checkpoint: before the manifest", _C + "write_manifest"),
    Place("checkpoint: after the manifest", _C + "write_manifest", "after"),
    Place("checkpoint: half the manifest", "e5ft.files:write_json", "half", "manifest.json"),
    Place("checkpoint: after the renaming", _C + "_show", "after"),
    Place("before removing old checkpoints", _C + "rotate"),
    Place("amid removing an old checkpoint", _C + "_remove"),
    Place("after removing old checkpoints", _C + "rotate", "after"),
)
A_LOSS = Place("the loss", "e5ft.training.losses:InfoNCE.forward", "after")
A_NORM = Place("the gradient's norm", _T + "_clip_grad_norm", "after")
OUTSIDE = (
    Place("start: before the run's folder", "e5ft.app.commands.train:RunFolder"),
    Place("start: before config.yaml", "e5ft.app.runs.folder:RunFolder.write_config"),
    Place("start: before the model", "e5ft.app.commands.train:load_encoder"),
    Place("start: before the rows", "e5ft.app.commands.reading:load_training_data"),
    Place("start: amid the rows' cache", "e5ft.caches:new_folder", "after"),
    Place("start: before the tokens", "e5ft.app.commands.train:tokenize_rows"),
    Place("start: after the tokens", "e5ft.app.commands.train:tokenize_rows", "after"),
    Place("start: amid scoring the base", "e5ft.retrieval.evaluation:encode_collection", "after"),
    Place("start: before the trainer", "e5ft.app.commands.train:ContrastiveTrainer"),
    Place("start: before what defines the run", "e5ft.app.commands.train:_Run._compare"),
    Place("start: after what defines the run", "e5ft.app.commands.train:_Run._compare", "after"),
    Place("start: before training", _T + "train"),
    Place("end: after training", _T + "train", "after"),
    Place("end: before the last scores", "e5ft.app.commands.train:score_sizes"),
    Place("end: after the last scores", "e5ft.app.commands.train:score_sizes", "after"),
    Place("end: before the run files", "e5ft.retrieval.evaluation:Evaluation.save"),
    Place("end: after the run files", "e5ft.retrieval.evaluation:Evaluation.save", "after"),
    Place("end: before the export", "e5ft.app.commands.train:export_model"),
    Place("end: amid the export", "e5ft.exporting.folder:save_encoder", "after"),
    Place("end: before the export's check", "e5ft.exporting.folder:check_export"),
    Place("end: after the export", "e5ft.app.commands.train:export_model", "after"),
    Place("end: before summary.json", "e5ft.app.commands.train:write_json"),
    Place("end: after summary.json", "e5ft.app.commands.train:write_json", "after"),
    Place("end: before the last status", "e5ft.app.runs.folder:RunFolder.__exit__"),
)


_ALL = (*IN_A_STEP, *AROUND_A_LOG, *IN_EVALUATION, *IN_A_SAVE)
_CUT = (IN_A_STEP[1], IN_A_STEP[6], IN_EVALUATION[1], IN_A_SAVE[4], IN_A_SAVE[10])
_STOPPING = (IN_A_STEP[1], IN_EVALUATION[2], IN_A_SAVE[13])
_PROCESSES = (*IN_A_STEP[:2], IN_A_STEP[3], IN_A_STEP[6], IN_EVALUATION[1], IN_A_SAVE[1], IN_A_SAVE[6])
_ONE, _TWO = ("k = 1", "k = 4"), ("2 processes, k = 1", "2 processes, k = 4")
_MATRIX = (  # settings, places, steps, kinds, ranks, counts: every combination
    (_ONE[:1], _ALL, (FIRST, MIDDLE, END), (KILL,), (0,), (1,)),
    (_ONE[1:], IN_A_STEP, (FIRST, MIDDLE, END), (KILL,), (0,), (1,)),
    (_ONE[1:], _ALL[len(IN_A_STEP) :], (MIDDLE,), (KILL,), (0,), (1,)),
    (("k = 1, sparse", "k = 4, sparse"), IN_A_STEP, (MIDDLE,), (KILL,), (0,), (1,)),
    (("k = 4, sparse",), IN_A_STEP[1:4], (MIDDLE,), (KILL,), (0,), (2, 3)),  # a later micro-batch of the step
    (_ONE[:1], OUTSIDE, (None,), (KILL,), (0,), (1,)),
    (("k = 4, by length", "k = 1, mix"), _CUT, (MIDDLE,), (KILL,), (0,), (1,)),
    (("k = 1, early stopping",), _STOPPING, (0, 1), (KILL,), (0,), (1,)),  # the second is the last one
    (_TWO, _PROCESSES, (MIDDLE,), (KILL,), (0, 1), (1,)),
    (_ONE[:1], IN_A_SAVE[:13], (MIDDLE,), (FULL,), (0,), (1,)),
    (("k = 4, sparse",), (*_CUT[:3], IN_A_SAVE[3]), (MIDDLE,), (TERM, USR1), (0,), (1,)),
    (("k = 4, sparse",), (OUTSIDE[7], OUTSIDE[13]), (None,), (TERM, USR1), (0,), (1,)),
    (_TWO[1:], (IN_A_STEP[3],), (MIDDLE,), (TERM,), (0, 1), (1,)),
    (_ONE, (A_LOSS, A_NORM), (FIRST, MIDDLE), (NAN,), (0,), (1,)),
)


def faults() -> Iterator[tuple[str, Fault]]:
    """The whole matrix: (setting, fault)."""
    for setting, *what in (combination for axes in _MATRIX for combination in itertools.product(*axes)):
        fault = Fault(*what)
        is_too_early = fault.place.name == "amid removing an old checkpoint" and fault.step == FIRST  # there is none yet
        if not is_too_early and not (fault.place is IN_A_SAVE[1] and fault.rank == 1):  # rank 0 alone writes the weights
            yield setting, fault


def phase(fault: Fault) -> str:
    """Of the training, in words."""
    return PHASES.get(fault.step, "mid-epoch")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one fault.

    Attributes:
        setting: of `SETTINGS`.
        fault: the fault; or the kind of damage.
        survived: the process ended as the fault makes it end, and the next call resumed it and came to its end.
        identical: with the same weights, optimizer, scores and log as the run that nothing stopped.
        detail: what was not as it should be.
    """

    setting: str
    fault: Fault | str
    survived: bool
    identical: bool
    detail: str


class Laboratory:
    """Runs settings with and without faults below a folder.

    Args:
        folder: for caches, rows and runs; whatever failed stays there to be looked at.
    """

    def __init__(self, folder: Path):
        self.folder, self._references = folder, {}
        folder.mkdir(parents=True, exist_ok=True)
        lines = (ROOT / "data/sample/train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        self._files = {"rows": lines[:67], "dev": lines[100:112], "a": lines[200:240], "b": lines[300:330]}

    def reference(self, setting: str) -> dict:
        """What the uninterrupted run leaves; made once."""
        if setting not in self._references:
            work = self.work(f"reference {setting}")
            ended = self.call(setting, work)
            if any(one.code != 0 for one in ended):
                raise RuntimeError(f"{setting}: the run without any fault: {_tail(ended)}")
            self._references[setting] = fingerprint(work / "outputs/run")
        return self._references[setting]

    def try_out(self, setting: str, fault: Fault) -> Outcome:
        """Run with the fault, resume until the end, compare."""
        reference, work = self.reference(setting), self.work(f"{setting} {fault.name} {fault.place.when} {fault.count}")
        first, run = self.call(setting, work, fault), work / "outputs/run"
        expected = {KILL: -9, FULL: 6, TERM: 143, USR1: 143, NAN: 4}[fault.kind]
        if first[fault.rank].code != expected or (fault.kind == FULL and "No space left" not in first[0].output):
            return Outcome(setting, fault, False, False, _tail(first))
        second = self.call(setting, work, resume=(run / "status.json").is_file())
        if any(ended.code != 0 for ended in second):
            return Outcome(setting, fault, False, False, _tail(second))
        different = differences(reference, fingerprint(run))
        if not different:
            shutil.rmtree(work, ignore_errors=True)
        return Outcome(setting, fault, True, not different, "; ".join(different))

    def work(self, name: str) -> Path:
        """A new folder with the rows."""
        work = self.folder / hashlib.blake2b(name.encode(), digest_size=6).hexdigest()
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        (work / "what.txt").write_text(name)
        for file, lines in self._files.items():
            (work / f"{file}.jsonl").write_text("".join(lines), encoding="utf-8")
        return work

    def call(self, setting: str, work: Path, fault: Fault | None = None, resume: bool = False) -> list[Ended]:
        """Run train.py there; how each process ended."""
        overrides, processes = SETTINGS[setting], 2 if setting.startswith("2 processes") else 1
        data = [] if "data=mix" in overrides else ["data.train_file=rows.jsonl"]
        arguments = [*_COMMON, *data, "data.dev_file=dev.jsonl", *overrides, "name=run", f"resume={str(resume).lower()}"]
        prepare = None if fault is None else (lambda rank: install(fault, rank))
        return run_script("train.py", arguments, work, seconds=180, processes=processes, prepare=prepare)


_laboratory = functools.cache(Laboratory)


def in_laboratory(folder: Path, function: Callable, arguments: tuple) -> object:
    """Call a function with this process's own laboratory, below a folder, and the arguments."""
    return function(_laboratory(folder / multiprocessing.current_process().name), *arguments)


def fingerprint(run: Path) -> dict:
    """Everything of a finished run that must not depend on whether it was stopped."""
    summary = json.loads((run / "summary.json").read_text())
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = {
        "log": [{name: value for name, value in line.items() if not _TIMED.search(name)} for line in log],
        "best": summary["best"],
        "scores": summary["scores"],
        "model": _digest(load_file(run / "model/model.safetensors")),
        "files": sorted(path.name for path in run.iterdir()),
    }
    for checkpoint in sorted(run.glob("checkpoint-*")):
        kept[f"{checkpoint.name}: weights"] = _digest(load_file(checkpoint / "model.safetensors"))
        for name in ("optimizer.pt", "scheduler.pt"):
            kept[f"{checkpoint.name}: {name}"] = _digest(torch.load(checkpoint / name, weights_only=True))
    return kept | {str(path.relative_to(run)): path.read_text() for path in sorted(run.glob("eval/*/*/run.trec"))}


def differences(expected: dict, actual: dict) -> list[str]:
    """The names of what is not equal."""
    names = [name for name in {**expected, **actual} if expected.get(name) != actual.get(name)]
    pairs = {name: f" ({expected.get(name)} / {actual.get(name)})" for name in ("files", "best")}
    return [f"{name} differs{pairs.get(name, '')}" for name in names]


def _digest(value: object) -> str:
    digest = lambda tensor: [str(tensor.dtype), *tensor.shape, hashlib.sha256(tensor.numpy().tobytes()).hexdigest()]  # noqa: E731
    return json.dumps(value, default=digest, sort_keys=True)


def _tail(ended: list[Ended]) -> str:
    return " | ".join(f"[{one.code}] {one.output[-600:]}" for one in ended)
