"""A multirun: begun or resumed, and its table, made from what the jobs' folders hold, so that a failed job is in it too."""

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from e5ft.app.runs.folder import command, hold, lasting
from e5ft.app.telling.report import relative, say
from e5ft.app.telling.state import holds_work, status_of
from e5ft.errors import ConfigurationError, E5ftError, VerdictError
from e5ft.files import replace_link, write_json
from e5ft.reporting.sweep_table import beginning, ending
from e5ft.reporting.sweeps import BEST, PLAN, Sweep, jobs_of, read_sweep, split, write_csv
from e5ft.retrieval import verdict
from e5ft.settings import shown

log = logging.getLogger("e5ft")
failed = 0  # jobs of this process's sweeps that did not finish
lacking: VerdictError | None = None  # of the verdict that was demanded (require), and that the best job ended without
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
            planned = _planned(config)
            _check_same(folder, planned or () if config.sweep.resume else ())
        except ConfigurationError as error:
            raise EndOfSweep(error) from error
        # Hydra's sweeper keeps a multirun's overrides there, secrets included. There is no switch for it, and to mend the
        # file afterwards would leave it to a kill; every job's folder has its own overrides.yaml, without secrets.
        file = folder / "multirun.yaml"
        file.unlink(missing_ok=True)
        file.symlink_to(os.devnull)
        write_json(folder / PLAN, {"jobs": planned, "given": lasting(config.hydra.overrides.task)})

    def on_job_start(self, config: DictConfig, **kwargs: object) -> None:
        """Called by Hydra in the job's own process, before the job."""
        if config.hydra.mode == RunMode.MULTIRUN:
            folder, overrides = Path(config.hydra.sweep.dir), lasting(config.hydra.overrides.task)
            say(f"\n{beginning(folder, config.hydra.job.num, split(overrides))}")

    def on_multirun_end(self, config: DictConfig, **kwargs: object) -> None:
        """Called by Hydra after the last job."""
        global failed, lacking
        folder = Path(config.hydra.sweep.dir)
        (folder / "multirun.yaml").unlink(missing_ok=True)
        table = write_table(folder)
        failed += sum(not job.facts.finished for job in table.jobs)
        replace_link(folder.parent / "latest", folder)
        if table.best is not None:
            try:
                verdict.check_verdict(config.require, table.verdict, table.best.facts.folder / "summary.json")
            except VerdictError as error:
                lacking = error


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
    jobs = [job.name for job in jobs_of(folder) if holds_work(job)]
    if jobs and not resume:
        lock.release()
        raise ConfigurationError(
            f"{folder}: holds a multirun already (jobs {', '.join(jobs)}); choose another name=, or resume it: sweep.resume=true"
        )
    _held = os.getpid(), lock


def write_table(folder: Path) -> Sweep:
    """Write sweep.csv and report.html, and print the table; returns the record that they are made from."""
    sweep = read_sweep(folder)
    write_csv(sweep)
    _link_best(sweep)
    try:
        from e5ft.reporting.sweep_page import write_page

        write_page(sweep)
    except Exception as error:  # the models are there, whatever their picture lacks
        log.warning(f"{folder}/report.html could not be made ({error!r}); python -m e5ft report tries again")
    say(ending(sweep, command(folder.name, resume=True, of="sweep.")))
    return sweep


def _link_best(sweep: Sweep) -> None:
    """Point NAME/best at the best job's folder; where the file system has no links, or none is chosen, there is none."""
    link = sweep.folder / BEST
    try:
        if sweep.chosen:
            replace_link(link, sweep.best.facts.folder)
        elif link.is_symlink():  # of the jobs that an earlier process ended with
            link.unlink()
    except OSError as error:
        log.warning(f"{relative(link)}: no link could be made ({error.strerror or error}); the best job's folder is told below")


def _planned(config: DictConfig) -> list[list[str]] | None:
    """Each job's overrides, without secrets, as Hydra's own sweeper will make them; None of a search, which makes them as it goes."""
    if _searches(config.hydra.sweeper):
        return None
    params = [f"{name}={value}" for name, value in (config.hydra.sweeper.get("params") or {}).items()]
    try:
        overrides = OverridesParser.create().parse_overrides([*params, *config.hydra.overrides.task])
        return [lasting(job) for batch in BasicSweeper.split_arguments(overrides, None) for job in batch]
    except HydraException:  # glob(...), which only the sweeper itself can look up
        return None


def _check_same(folder: Path, planned: Sequence[Sequence[str]]) -> None:
    """Refuse a multirun whose jobs were begun as others."""
    for number, overrides in enumerate(planned):
        try:
            state_before(folder / str(number), overrides)
        except AnotherSweepError:
            raise
        except ConfigurationError:  # damaged: the job itself says so, and the others run
            continue
