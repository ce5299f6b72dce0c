"""A multirun: begun or resumed, and its table, made from what the jobs' folders hold, so that a failed job is in it too."""

import csv
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf

from e5ft.app.runs.folder import hold, lasting
from e5ft.app.telling.state import holds_work, status_of
from e5ft.errors import ConfigurationError, E5ftError, VerdictError
from e5ft.files import read_json, replace_link, write_text
from e5ft.formatting import harmless
from e5ft.retrieval import verdict
from e5ft.retrieval.tables import HEADLINE, aligned, main_metric
from e5ft.settings import shown

MAIN = main_metric(HEADLINE)
_failed = 0
_lacking: VerdictError | None = None  # what the best job of this process's sweep lacks
_held: tuple[int, FileLock] | None = None  # the process that started a multirun, and the lock of its folder


class EndOfSweep(BaseException):
    """Ends a whole multirun with the error that it carries.

    No `Exception`: Hydra turns those of a callback into warnings, and continues with the next job after one of a job's.
    """

    def __init__(self, error: E5ftError):
        super().__init__(error)
        self.error = error


class AnotherSweepError(ConfigurationError):
    """sweep.resume=true, but the multirun of this name has other jobs."""


def runs_here() -> bool:
    """Whether the jobs run in the process that started the multirun, not in one of their own (joblib, submitit)."""
    return _held is not None and _held[0] == os.getpid()


def state_before(job: Path, overrides: Sequence[str]) -> str | None:
    """The state of a job when its multirun is started again; None where it has not begun.

    Args:
        job: the job's folder.
        overrides: of this job, as Hydra composed it.

    Raises:
        AnotherSweepError: it was begun with other overrides.
    """
    status = status_of(job)
    if status is None:
        return None
    file = job / "overrides.yaml"
    then, now = (sorted(OmegaConf.load(file)) if file.is_file() else None), sorted(lasting(overrides))
    if then is not None and then != now:
        before, after = (" ".join(x for x in one if x not in other) or "without" for one, other in ((then, now), (now, then)))
        raise AnotherSweepError(
            f"sweep.resume=true: job {job.name} of {job.parent} was begun with other overrides:\n  then: {before}\n  now:  {after}\n"
            "Resume with those of then, or choose another name=."
        )
    return status["state"]


def failures() -> int:
    """Jobs of this process's sweeps that did not finish."""
    return _failed


def check_verdict() -> None:
    """Raise the error of a multirun whose best job ended without the verdict that was demanded (require)."""
    if _lacking is not None:
        raise _lacking


def failed_objective() -> float:
    """What a failed job answers: NaN to Hydra's own sweeper, which compares nothing; the worst value to one that searches.

    Optuna's ends the whole sweep with a traceback on NaN (hydra-optuna-sweeper 1.3).
    """
    return -math.inf if _searches(HydraConfig.get().sweeper) else math.nan


def _searches(sweeper: DictConfig) -> bool:
    return not str(sweeper.get("_target_")).endswith(".BasicSweeper")


def _check_search(config: DictConfig) -> None:
    """Refuse a search for the worst run, or for nothing.

    Raises:
        ConfigurationError: the sweeper minimises (Optuna's default), or no run is measured.
    """
    direction = config.hydra.sweeper.get("direction", "maximize")
    for each in direction if isinstance(direction, ListConfig) and len(direction) == 1 else [direction]:
        name = str(getattr(each, "name", each))
        if name != "maximize":
            raise ConfigurationError(f"hydra.sweeper.direction={name}: must be maximize, since the dev score is to be high")
    if config.training.eval_strategy in ("no", False):
        raise ConfigurationError("training.eval_strategy=no: must be steps or epoch, since a search compares dev scores")


class SweepTable(Callback):
    """Hydra callback: refuse a multirun whose name is taken; write sweep.csv and print it when one ends."""

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        """Called by Hydra before the first job."""
        folder = Path(config.hydra.sweep.dir)
        try:
            if _searches(config.hydra.sweeper):
                _check_search(config)
            begin(folder, config.sweep.resume)
        except ConfigurationError as error:
            raise EndOfSweep(error) from error
        # Hydra's sweeper keeps a multirun's overrides there, secrets included. There is no switch for it, and to mend the
        # file afterwards would leave it to a kill; every job's folder has its own overrides.yaml, without secrets.
        file = folder / "multirun.yaml"
        file.unlink(missing_ok=True)
        file.symlink_to(os.devnull)

    def on_multirun_end(self, config: DictConfig, **kwargs: object) -> None:
        """Called by Hydra after the last job."""
        global _failed, _lacking
        folder = Path(config.hydra.sweep.dir)
        (folder / "multirun.yaml").unlink(missing_ok=True)
        rows = write_table(folder)
        _failed += sum(row["state"] != "finished" for row in rows)
        replace_link(folder.parent / "latest", folder)
        if rows and rows[0]["state"] == "finished":  # the best job, since failures come last
            try:
                verdict.check_verdict(
                    config.require, rows[0].get("verdict", "").partition(",")[0], folder / rows[0]["job"] / "summary.json"
                )
            except VerdictError as error:
                _lacking = error


def begin(folder: Path, resume: object) -> None:
    """Take a multirun's folder for this process, until it ends.

    Raises:
        ConfigurationError: another process has it, it holds jobs already, or there is nothing to resume.
    """
    global _held
    if not isinstance(resume, bool):
        raise ConfigurationError(f"sweep.resume={shown(resume)}: must be true or false")
    if resume and not folder.is_dir():
        raise ConfigurationError(f"sweep.resume=true: there is no multirun in {folder}; name it (name=NAME)")
    folder.mkdir(parents=True, exist_ok=True)
    lock = hold(folder / "sweep.lock", f"{folder}: another process is running the multirun of this name")
    jobs = [job.name for job in _jobs(folder) if holds_work(job)]
    if jobs and not resume:
        lock.release()
        raise ConfigurationError(
            f"{folder}: holds a multirun already (jobs {', '.join(jobs)}); choose another name=, or resume it: sweep.resume=true"
        )
    _held = os.getpid(), lock


def write_table(folder: Path) -> list[dict]:
    """Write sweep.csv and print it; returns its rows."""
    rows = collect(folder)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.writer(text)  # ends lines with CR LF, and so quotes a cell that holds either
    writer.writerows([list(map(harmless, line)) for line in [columns, *([row.get(c, "") for c in columns] for row in rows)]])
    write_text(folder / "sweep.csv", text.getvalue())
    cells = [columns] + [[_cell(row.get(column, "")) for column in columns] for row in rows]
    print(f"\n{len(rows)} runs, {folder}/sweep.csv\n\n{aligned(cells, text_columns=len(columns))}")
    return rows


def collect(folder: Path) -> list[dict]:
    """One row a job: number, overrides, state, dev score, test scores, what changed on keep sets, seconds.

    Best dev score first, failures last.

    Args:
        folder: the sweep's folder.
    """
    rows = []
    for job in _jobs(folder):
        try:
            status = status_of(job) or {"state": "failed"}
        except ConfigurationError as error:  # damaged
            status = {"state": "failed", "error": str(error)}
        overrides = job / "overrides.yaml"
        listed = OmegaConf.load(overrides) if overrides.is_file() else ()
        row = {"job": job.name, **dict(str(override).split("=", 1) for override in listed), "state": status["state"]}
        # The state decides: a job that went wrong leaves a summary too, without scores.
        if status["state"] == "finished" and (job / "summary.json").is_file():
            summary = read_json(job / "summary.json")
            if summary["best"]["score"] is not None:  # training.eval_strategy=no measures nothing on the dev set
                row[f"dev {summary['objective']}"] = summary["best"]["score"]
            after = summary["scores"]["after"]["metrics"]
            row.update({f"{summary['test_set']} {name}": after[name] for name in HEADLINE if name in after})
            changes = ((entry["set"], entry["differences"]) for entry in summary["keep"])  # gain and loss side by side
            row.update(
                {f"{name} {MAIN} change": differences[MAIN]["mean"] for name, differences in changes if MAIN in differences}
            )
            if "verdict" in summary:  # older ones have none
                row["verdict"] = verdict.verdict_words(summary["verdict"])
            row["seconds"] = summary["training"]["seconds"]
        elif "error" in status:
            row["error"] = status["error"].splitlines()[0]
        rows.append(row)
    return sorted(rows, key=lambda row: -next((v for k, v in row.items() if k.startswith("dev ")), -1.0))


def _jobs(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
