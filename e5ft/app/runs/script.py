"""What every script does around its command: compose, check, turn errors into one message and an exit code, keep a sweep going.

Neither torch nor transformers is imported before the settings were checked.
"""

import contextlib
import gc
import importlib
import io
import logging
import os
import re
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from e5ft import distributed
from e5ft.app.runs import overrides, sweep
from e5ft.app.settings import build, guard
from e5ft.data.remote import check_url
from e5ft.errors import ConfigurationError, E5ftError, StorageError, TerminatedError
from e5ft.files import write_refused

if TYPE_CHECKING:
    import torch

log = logging.getLogger("e5ft")
COMMANDS = {
    "train": "e5ft.app.commands.rounds:train_rounds",
    "eval": "e5ft.app.commands.evaluate:evaluate",
    "mine": "e5ft.app.commands.mine:mine",
    "export": "e5ft.app.commands.export:export",
    "check": "e5ft.app.commands.check:check",
    "serve": "e5ft.app.commands.serve:serve",
    "rows": "e5ft.app.commands.rows:rows",
    "split": "e5ft.app.commands.rows:split",
    "audit": "e5ft.app.commands.audit:audit",
    "runs": "e5ft.app.commands.report:runs",
    "report": "e5ft.app.commands.report:report",
}
_LIGHT = ("check", "audit", "runs", "report")  # commands that import torch and transformers themselves, where they need them
_WITH_VALUE = re.compile(r"--(cfg|package|config-(path|name|dir)|experimental-rerun|info)|-(c|p|cp|cn|cd|i)")  # flags of Hydra's
_began = False  # whether the configuration was composed: what is raised before is about the overrides
_verb: str | None = None  # set by run; a launcher's processes have the configuration's name instead
_ended_by: E5ftError | None = None  # what ended the one job of a plain run; printed by run, not through Hydra's own lines


def run(verb: str) -> None:
    """Run a command under Hydra and exit with 0, an error's code (`e5ft.errors`), 130 where interrupted, 1 otherwise.

    Args:
        verb: a key of COMMANDS.
    """
    global _verb
    _verb = verb
    show_everything = bool(os.environ.get("HYDRA_FULL_ERROR"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come to us, instead of a traceback and exit code 1
    code = 0
    guard.guard(sys.argv[1:])
    try:
        given = [renamed(verb, argument) for argument in sys.argv[1:]]
        sys.argv[1:] = build.with_model_group(verb, overrides.readable(verb, given))
        guard.check_overrides(sys.argv[1:])
        _check_launch(verb)
        build.register()
        sys.argv[1:] = _for_hydra(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(build.shipped("conf")), config_name=verb)(run_job)()
        code = int(sweep.failed > 0)
        if _ended_by is not None:
            raise _ended_by
        if sweep.lacking is not None and not code:
            raise sweep.lacking
    except KeyboardInterrupt:
        code = 130
    except (sweep.EndOfSweep, Exception) as raised:
        error = _typed(verb, raised)
        if error is None:
            raise
        code = error.exit_code
        if distributed.is_main():
            if show_everything:
                traceback.print_exc()
            print(f"error: {guard.redacted(str(error))}", file=sys.stderr)
    sys.stdout.flush()
    distributed.shutdown()
    trackers = sys.modules.get("e5ft.training.trackers")
    if trackers is not None and trackers.hung_or_failed():  # wandb's hooks at exit would wait for what hangs
        sys.stderr.flush()
        os._exit(code)
    if code:
        sys.exit(code)


def run_job(config: DictConfig) -> float | None:
    """Run one job. Inside a multirun a failing job lets the others continue; the sweep's end tells of it."""
    global _began, _ended_by
    _began = True
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return _run_in_sweep(config)
    try:
        return _checked(config)
    except (E5ftError, OSError) as error:
        _ended_by = _typed(_verb or "train", error)
        if _ended_by is None:
            raise
        _ended_by.__cause__ = error.__cause__ if _ended_by is error else error
        return None


def _checked(config: DictConfig, left_out: tuple[str, ...] = ()) -> float | None:
    guard.guard()  # a launcher's processes do not come through run
    job = HydraConfig.get()
    guard.check_job_folder(Path(job.runtime.cwd), Path(job.runtime.output_dir))
    guard.check_no_secrets(OmegaConf.to_container(config, resolve=True))
    verb = _verb or job.job.config_name  # --config-name may name a file of the user's own
    build.check_model_group(verb, config, job.runtime.choices, job.overrides.task)
    try:
        settings = build.settings_of(verb, config)
    except ConfigurationError as error:
        if verb == "train" and config.get("doctor") is True:
            _examine_the_rest(error, left_out)
        raise
    read = importlib.import_module("e5ft.app.commands.reading").read_first(verb, settings)
    given = [settings] if read is None else [settings, read]
    module, _, name = COMMANDS[verb].partition(":")
    if verb in _LIGHT:
        return getattr(importlib.import_module(module), name)(*given)
    prepare_libraries()
    from e5ft.app.runs.stopping import out_of_memory_explained

    with contextlib.redirect_stdout(io.StringIO()):  # transformers prints "Running in WANDB offline mode", whatever tracking says
        function = getattr(importlib.import_module(module), name)
    with out_of_memory_explained(settings):
        return function(*given)


def _examine_the_rest(error: ConfigurationError, left_out: tuple[str, ...]) -> None:
    """doctor=true: tell the override that was refused, and look at all else without it and those left out before."""
    field, given = re.match("[^=: ]*", str(error))[0], HydraConfig.get().overrides.task
    names = {o: o.lstrip("+~").partition("=")[0] for o in given if o not in left_out}
    blamed = [override for override, name in names.items() if f"{field}.".startswith(f"{name}.")]
    if blamed:  # else it is in a YAML
        left_out += (max(blamed, key=lambda override: len(names[override])),)
        left_out += ("model=folder",) * (field in ("model.path", "model.hub"))  # it would lack the folder
        print(f"fault  settings     {error} (what follows is without it)")
        config = hydra.compose(HydraConfig.get().job.config_name, [o for o in given if o not in left_out])
        with contextlib.suppress(ConfigurationError):
            _checked(config, left_out)
        raise ConfigurationError("doctor: a run could not start; see above") from error


def prepare_libraries() -> None:
    """Set what users of tokenizers, accelerate and transformers would see."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # DataLoader workers fork after the tokenizer was used
    # accelerate passes ddp_broadcast_buffers on under the name that torch 2.13 deprecates; no setting of ours avoids it.
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # transformers' own bars, of loading and saving shards, would cut through ours


def device_of(name: str) -> "torch.device":
    """The device that eval.py, mine.py and export.py work on.

    Args:
        name: auto, cpu or cuda.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("device=cuda: must be cpu or auto, since there is no GPU")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _run_in_sweep(config: DictConfig) -> float | None:
    try:
        return _checked(config)
    except Exception as error:
        _end_sweep(error)
        message = _typed("train", error) or f"{type(error).__name__}: {error}"
        log.error(f"job {HydraConfig.get().job.num}: {guard.redacted(str(message))}")
        if not isinstance(error, E5ftError):
            traceback.print_exc()
        return sweep.failed_objective()
    finally:
        gc.collect()  # an error and its traceback hold each other, and with them the memory that the next job needs


def _end_sweep(error: Exception) -> None:
    """End the multirun, where the error is not the job's alone."""
    if isinstance(error, TerminatedError) and sweep.runs_here():  # whoever stops this process means the whole multirun
        hydra_config = HydraConfig.get()
        folder = Path(hydra_config.sweep.dir)
        sweep.write_table(folder)
        how = f"Resume with the same command and sweep.resume=true name={folder.name}"
        stopped = TerminatedError(f"stopped by a signal in job {hydra_config.job.num}. {how}")
        raise sweep.EndOfSweep(stopped) from error
    if isinstance(error, sweep.AnotherSweepError):
        if sweep.runs_here():
            raise sweep.EndOfSweep(error) from error
        raise error  # Hydra hands it to the process that started the multirun


def renamed(verb: str, argument: str) -> str:
    """An override under the name that its setting has now; a moved one is said.

    Raises:
        ConfigurationError: the old setting cannot be said in the new one.
    """
    field, equals, value = argument.partition("=")
    name = field.lstrip("+")
    new = build.MOVED.get(verb, {}).get(name)
    own_files = any(given.startswith(("--config-dir", "--config-path", "-cd", "-cp")) for given in sys.argv[1:])
    if new is None or (name.startswith("loss.") and own_files):  # a loss of the user's own may have a field of this name
        return argument
    if name == "output_file":
        folder, _, file = value.rpartition("/")
        if file != "rows.jsonl":
            raise ConfigurationError(f"output_file={value}: has moved; name a folder, output_dir=DIR, for DIR/rows.jsonl")
        value = folder or "."
    if distributed.is_main():
        print(f"note: {name} is {new} now; the old name works for this version", file=sys.stderr)
    return f"{new}{equals}{value}"


def _for_hydra(arguments: list[str]) -> list[str]:
    """The arguments as Hydra reads them: flags last, --config-path of the working directory (not beside this file), no record."""
    flags, fields, left = [], [guard.NO_RECORD], list(arguments)
    while left:
        flag, equals, value = left.pop(0).partition("=")
        if not flag.startswith("-"):
            fields.append(flag + equals + value)
            continue
        takes = _WITH_VALUE.fullmatch(flag) and not equals and left and not left[0].startswith("-")
        if takes and (flag not in ("--info", "-i") or "=" not in left[0]):  # those may go without
            equals, value = "=", left.pop(0)
        if flag in ("--config-path", "-cp") and "://" not in value:
            value = os.path.abspath(value)
        flags.append(flag + equals + value)
    return fields + flags


def _check_launch(verb: str) -> None:
    """What Hydra would write down, or torchrun's processes make up from their own clocks (hydra#2070), before a job begins."""
    for argument in sys.argv[1:]:
        check_url(argument, argument.partition("=")[0] if "=" in argument.partition("://")[0] else "")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        if verb not in ("train", "mine"):
            raise ConfigurationError(f"{verb} under torchrun: it runs in one process; start it with python")
        if not any(argument.startswith("name=") for argument in sys.argv[1:]):
            raise ConfigurationError("name: must be given under torchrun, so that all processes know it: name=NAME")
        if any(argument in ("-m", "--multirun") for argument in sys.argv[1:]):
            raise ConfigurationError("torchrun and --multirun do not go together: start one torchrun a job")


def _typed(verb: str, error: BaseException) -> E5ftError | None:
    """The error as a person should see it; None for one of a job that nobody foresaw."""
    if isinstance(error, sweep.EndOfSweep):
        return error.error
    if isinstance(error, E5ftError):
        return error
    if isinstance(error, HydraException | OmegaConfBaseException):
        cause = error.__cause__ or error.__context__
        while cause is not None and not isinstance(cause, E5ftError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:  # our own, raised by a resolver
            return cause
        lines = [str(error).strip()]
        if error.__cause__ is not None and str(error.__cause__).strip() not in lines[0]:
            lines.append(str(error.__cause__).strip())
        text = "\n".join(lines)
        every_field = f"Every field: docs/configuration.md; this run's: python {sys.argv[0]} --cfg job"
        # Hydra's own advice, to add the field, would make a misspelling worse.
        return ConfigurationError(build.hint(text, verb, sys.argv[1:]) or f"{text}\n{every_field}")
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python's own flush at the end fails, too
        return StorageError("nobody reads the output any more (a closed pipe)")
    reason = write_refused(error) if isinstance(error, OSError) else None
    if reason is not None:
        place = error.filename or f"{guard.OUTPUTS} or output_dir"
        return StorageError(f"{place}: cannot be written ({reason}); make room there, or start in a folder that can be written")
    if _began:
        return None
    if isinstance(error, OSError):
        return ConfigurationError(f"{error.filename}: cannot be written ({error.strerror})")
    # Hydra trips over an option of a group that is no word (model=1.5), and its error names no field.
    groups = [argument for argument in sys.argv[1:] if "." not in argument.partition("=")[0]]
    return ConfigurationError(
        f"the configuration cannot be composed ({type(error).__name__}: {error}); look at {' '.join(groups) or 'the overrides'}. "
        "Groups take the name of a YAML, as model=mini"
    )
