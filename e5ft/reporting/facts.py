"""What a run's folder says of the run: how it ended, on what, from what, with which scores. No file there is trusted to be whole."""

import dataclasses
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # OmegaConf's and transformers' own parser

from e5ft.errors import DataError
from e5ft.files import read_json
from e5ft.formatting import shareable
from e5ft.retrieval.verdict import metric_of, verdict_words

FINISHED, FAILED, STOPPED, RUNNING, KILLED, DAMAGED, WAITING = (
    "finished", "failed", "stopped", "running", "killed", "damaged", "waiting",
)  # fmt: skip
SYSTEMS, ENDS = ("before", "bm25", "after"), ("mean", "low", "high")
_UNREADABLE = (OSError, ValueError, OverflowError, KeyError, TypeError, AttributeError, IndexError, StopIteration, yaml.YAMLError)


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What is known of one run.

    Attributes:
        folder: the run's.
        state: finished, failed, stopped, running; killed: it says that it is running and its process is gone; damaged: a
            record cannot be read; waiting: a multirun's job that has not begun.
        date: seconds since the epoch, when its state was last written.
        seconds: that it has run, in all its legs; None: not known.
        error: one line on why it did not finish, paths as others may see them; None where it did.
        step: the last one that was logged.
        start: dev metrics of the model before training.
        config: as config.yaml holds it; empty where it is not there.
        summary: as summary.json holds it; empty but of a finished run. Rounds have that of the round that was taken, with the
            verdict on all.
    """

    folder: Path
    state: str
    date: float = 0.0
    seconds: float | None = None
    error: str | None = None
    step: int = 0
    start: Mapping[str, float] = dataclasses.field(default_factory=dict)
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    summary: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether there is a model with scores."""
        return self.state == FINISHED

    @property
    def metric(self) -> str:
        """The metric that a single sentence reports, as ndcg@10; of a finished run."""
        return metric_of(self.summary)

    @property
    def difference(self) -> Mapping[str, float] | None:
        """After against before on the test set by that metric: mean, low, high; None where it is not recorded."""
        return self.summary.get("differences", {}).get(self.metric)

    @property
    def verdict(self) -> str:
        """The verdict's words; empty of older runs, which have none."""
        return verdict_words(self.summary["verdict"]) if "verdict" in self.summary else ""

    @property
    def objective(self) -> str:
        """The dev metric that chose the weights."""
        return self.summary["objective"]

    @property
    def dev_score(self) -> float | None:
        """The best score by it; None where nothing was measured on a dev set."""
        return self.summary["best"]["score"]

    @property
    def dev_set(self) -> str:
        """The digest of the dev set by which it was measured; empty where the record, an older one, does not say."""
        return str(self.summary.get("made", {}).get("digests", {}).get("dev set", ""))

    def scores(self, system: str) -> Mapping[str, Any] | None:
        """Label, metrics and intervals on the test set of before, bm25, after, hybrid or another system; None: not measured."""
        return self.summary["scores"].get(system)

    def score(self, system: str) -> float | None:
        """A system's score on the test set by `metric`; None: not measured."""
        entry = self.scores(system)
        return None if entry is None else float(entry["metrics"][self.metric])

    @property
    def weights(self) -> str:
        """Which weights the run ended with: step 40, base, or a mixture; of rounds with the round's number."""
        best, of = self.summary["best"], f"round {self.summary['round']}, " if "round" in self.summary else ""
        alpha = best.get("alpha", 1)
        if not best["step"] or not alpha:
            return f"{of}base"
        return f"{of}step {best['step']:,}" + (f", alpha {alpha:g}" if alpha != 1 else "")

    @property
    def model(self) -> str:
        """What was trained: the label, or what the settings say; empty where neither is there."""
        named = self.summary.get("model") or _first(self.config.get("model"), "path", "hub", "package", "preset")
        return str(named or "")

    @property
    def data(self) -> str:
        """The training rows' source; empty where nothing says it."""
        named = self.summary.get("data", {}).get("source") or _first(self.config.get("data"), "train_file")
        return str(named or ("" if not self.config else "the shipped sample"))


def facts_of(folder: Path) -> RunFacts:
    """Read a run's folder; one whose records are damaged is a line that says so, never an error."""
    try:
        return _read(folder)
    except _UNREADABLE as error:
        date = _time_of(folder / "status.json") or _time_of(folder)
        return RunFacts(folder, DAMAGED, date, error=_reason(error, folder))


def is_run(folder: Path) -> bool:
    """Whether a folder holds the record of a training."""
    return any((folder / name).is_file() for name in ("status.json", "summary.json"))


def find_runs(folders: Sequence[Path]) -> Iterator[Path]:
    """Yield the runs in folders and the jobs of the multiruns in them; a run or multirun may be named itself."""
    for root in folders:
        if is_run(root):
            yield root
            continue
        for folder in _below(root):
            if is_run(folder):
                yield folder
            else:
                yield from (job for job in jobs_of(folder) if is_run(job))


def jobs_of(folder: Path) -> list[Path]:
    """The jobs' folders of a multirun, by number; empty where it is none."""
    return sorted((path for path in _below(folder) if path.name.isdecimal()), key=lambda path: int(path.name))


def locate(name: str) -> Path:
    """The folder of a run or multirun by its path or its name.

    Args:
        name: a path; or NAME of outputs/NAME or multirun/NAME.

    Raises:
        DataError: there is none.
    """
    places = [Path(name).expanduser(), Path("outputs", name), Path("multirun", name)]
    found = next((place for place in places if is_run(place) or any(map(is_run, jobs_of(place)))), None)
    if found is None:
        raise DataError(f"runs={name}: no run is there; python -m e5ft runs lists those there are")
    return found.resolve() if found.is_symlink() else found


def _read(folder: Path) -> RunFacts:
    file = folder / "status.json"
    status = _mapping(file) if file.is_file() else {"state": FINISHED}
    config = folder / "config.yaml"
    settings = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
    state, error = str(status["state"]), status.get("error")
    if state == RUNNING and _is_gone(status):
        state = KILLED
    step, start = _log(folder)
    date, seconds = _time_of(file if file.is_file() else folder), status.get("seconds")
    error = shareable(str(error).strip().splitlines()[0]) if error else None
    facts = RunFacts(folder, state, date, seconds, error, step, start, settings)
    if not facts.finished:
        return facts
    facts = dataclasses.replace(facts, summary=_summary(folder))
    # Whatever a table takes from it is looked at here, where a fault has a line of its own.
    _ = (facts.verdict, facts.objective, facts.dev_score, facts.weights, facts.summary["test_set"])
    _ = [facts.score(name) for name in SYSTEMS] + [float((facts.difference or {end: 0.0})[end]) for end in ENDS]
    return facts


def _summary(folder: Path) -> dict:
    rounds = folder / "rounds.json"
    if not rounds.is_file():
        return _mapping(folder / "summary.json")
    record = _mapping(rounds)
    number = record["best"] or len(record["rounds"])
    return {**_mapping(folder / f"round-{number}" / "summary.json"), "verdict": record["verdict"], "round": number}


def _mapping(file: Path) -> dict:
    try:
        values = read_json(file)
    except ValueError as error:
        raise ValueError(f"{file.name} is no JSON") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file.name} is no JSON object")
    return values


def _log(folder: Path) -> tuple[int, dict[str, float]]:
    """The last step in metrics.jsonl and the dev metrics of step 0; lines that a kill cut in half are passed over."""
    rounds = sorted(folder.glob("round-*/metrics.jsonl"), key=lambda file: int(file.parent.name.partition("-")[2]))
    file, last, start = (rounds or [folder / "metrics.jsonl"])[-1], 0, {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else ():
        try:
            entry = json.loads(line)
            last = max(last, int(entry["step"]))
        except _UNREADABLE:
            continue
        if not entry["step"]:
            start |= {name.removeprefix("eval_"): value for name, value in entry.items() if name.startswith("eval_")}
    return last, start


def _is_gone(status: Mapping[str, Any]) -> bool:
    """Whether the process that a status names ran on this machine and does not any more."""
    if status.get("host") != socket.gethostname() or not isinstance(status.get("pid"), int):
        return False
    try:
        os.kill(status["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:  # of another user
        return False
    return False


def _time_of(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _below(folder: Path) -> list[Path]:
    """The folders in a folder, by name; links, latest among them, are left out."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return []


def _first(group: Any, *names: str) -> Any:
    return next(filter(None, map(group.get, names)), None) if isinstance(group, Mapping) else None


def _reason(error: Exception, folder: Path) -> str:
    if isinstance(error, KeyError):
        return f"its record lacks {error.args[0]!r}"
    if isinstance(error, OSError):
        return f"{Path(error.filename or folder).name}: {error.strerror}"
    return (str(error) or type(error).__name__).splitlines()[0]
