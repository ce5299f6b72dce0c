"""What every script does around its work: turn errors into one message and an exit code, and keep a sweep going."""

import gc
import logging
import math
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from e5ft import distributed
from e5ft.app import configuration, mirror, places, secrets, sweep
from e5ft.app.memory import explained
from e5ft.data.remote import check_url
from e5ft.errors import ConfigurationError, E5ftError, TerminatedError

log = logging.getLogger("e5ft")
_began = False  # whether the configuration was composed: what is raised before is about the overrides
_ended_by: E5ftError | None = None  # what ended the one job of a plain run; told by run_script, not through Hydra's own lines


def run_job(function: Callable[[DictConfig], float | None], config: DictConfig) -> float | None:
    """Run one job. Inside a multirun a failing job gives NaN, so that the others go on; the sweep's end tells of it."""
    global _began, _ended_by
    _began = True
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    if in_sweep:
        return _run_in_sweep(function, config)
    try:
        return _checked(function, config)
    except E5ftError as error:
        _ended_by = error
        return None


def _checked(function: Callable[[DictConfig], float | None], config: DictConfig) -> float | None:
    secrets.guard()  # a launcher's processes do not come through run_script
    places.check_job_folder()
    secrets.check_no_secrets(config)
    configuration.check(config)
    with explained(config):
        return function(config)


def _run_in_sweep(function: Callable[[DictConfig], float | None], config: DictConfig) -> float | None:
    try:
        return _checked(function, config)
    except Exception as error:
        _end_sweep(error)
        log.error(f"job {HydraConfig.get().job.num}: {_message(error)}")
        if not isinstance(error, E5ftError):
            traceback.print_exc()
        return math.nan
    finally:
        gc.collect()  # an error and its traceback hold each other, and with them the memory that the next job needs


def _end_sweep(error: Exception) -> None:
    """End the multirun, where the error is not the job's alone."""
    if isinstance(error, TerminatedError) and sweep.runs_here():  # whoever stops this process means the whole multirun
        folder = Path(HydraConfig.get().sweep.dir)
        sweep.write_table(folder)
        raise sweep.EndOfSweep(
            TerminatedError(
                f"stopped by a signal in job {HydraConfig.get().job.num}. Go on with the same command and sweep.resume=true name={folder.name}"
            )
        ) from error
    if isinstance(error, sweep.AnotherSweep):
        if sweep.runs_here():
            raise sweep.EndOfSweep(error) from error
        raise error  # Hydra hands it to the process that started the multirun


def run_script(main: Callable[[], None]) -> None:
    """Call a Hydra main and exit: 0, 2 configuration, 3 data, 4 non-finite, 5 memory, 6 disk, 130, 143 stopped, 1 otherwise."""
    show_everything = bool(os.environ.get("HYDRA_FULL_ERROR"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come to us, instead of a traceback and exit code 1
    code = 0
    secrets.guard(sys.argv[1:])
    sys.argv[1:] = map(quoted, sys.argv[1:])
    try:
        places.check_overrides(sys.argv[1:])
        _check_launch()
        main()
        code = sweep.failures() and 1
        if _ended_by is not None:
            raise _ended_by
    except sweep.EndOfSweep as end:
        code = _tell(end.error, end.error.exit_code, show_everything)
    except E5ftError as error:
        code = _tell(error, error.exit_code, show_everything)
    except (HydraException, OmegaConfBaseException) as error:
        code = _tell(_known_cause(error), ConfigurationError.exit_code, show_everything)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        if _began:
            raise
        code = _tell(_composition_error(error), ConfigurationError.exit_code, show_everything)
    sys.stdout.flush()
    distributed.shutdown()
    if mirror.given_up():  # wandb's hooks at exit would wait for what hangs, or print a traceback of what is dead
        sys.stderr.flush()
        os._exit(code)
    if code:
        sys.exit(code)


def quoted(argument: str) -> str:
    """An override whose values Hydra's grammar can read: outside quotes it knows ASCII only, and no Korean name or path."""
    field, equals, value = argument.partition("=")
    if not equals or field.startswith("--") or value.isascii() or re.search(r"['\"\\]|\$\{", value):
        return argument
    part = r"[^][{}(),:]+" if "{" in value else r"[^][{}(),]+"  # what stands between the grammar's own characters
    return field + equals + re.sub(part, lambda match: match[0] if match[0].isascii() else _in_quotes(match[0]), value)


def _in_quotes(text: str) -> str:
    inner = text.strip()
    return text.replace(inner, f"'{inner}'")


def _check_launch() -> None:
    """What Hydra would write down, or torchrun's processes make up from their own clocks (hydra#2070), before a job begins."""
    for argument in sys.argv[1:]:
        check_url(argument, argument.partition("=")[0] if "=" in argument.partition("://")[0] else "")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        if not any(argument.startswith("name=") for argument in sys.argv[1:]):
            raise ConfigurationError("under torchrun the run needs a name that all processes know: name=NAME")
        if any(argument in ("-m", "--multirun") for argument in sys.argv[1:]):
            raise ConfigurationError("torchrun and --multirun do not go together: start one torchrun a job")


def _composition_error(error: Exception) -> ConfigurationError:
    """Hydra trips over an option of a group that is no word (model=1.5), and its error names no field."""
    groups = [argument for argument in sys.argv[1:] if "." not in argument.partition("=")[0]]
    return ConfigurationError(
        f"the configuration cannot be composed ({type(error).__name__}: {error}); look at {' '.join(groups) or 'the overrides'}. "
        "Groups take the name of a YAML, as model=mini"
    )


def _known_cause(error: BaseException) -> BaseException:
    """Our own error, where a resolver raised it inside Hydra."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, E5ftError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return error


def _tell(error: BaseException, code: int, show_everything: bool) -> int:
    if distributed.is_main():
        if show_everything:
            traceback.print_exc()
        print(f"error: {_message(error)}", file=sys.stderr)
    return code


def _message(error: BaseException) -> str:
    return secrets.redacted(_whole_message(error))


def _whole_message(error: BaseException) -> str:
    if isinstance(error, E5ftError):
        return str(error)
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return f"{type(error).__name__}: {error}"
    lines = [str(error).strip()]
    if error.__cause__ is not None and str(error.__cause__).strip() not in lines[0]:
        lines.append(str(error.__cause__).strip())
    text = "\n".join(lines)
    remedy = configuration.hint(text)
    return (
        f"{text}\n{remedy}"
        if remedy
        else f"{text}\nEvery field: docs/configuration.md; this run's: python {sys.argv[0]} --cfg job"
    )
