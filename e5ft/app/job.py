"""What every script does around its work: turn errors into one message and an exit code, and keep a sweep going."""

import logging
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from e5ft import distributed
from e5ft.app import configuration, sweep
from e5ft.errors import ConfigurationError, E5ftError, Terminated

log = logging.getLogger("e5ft")
_SAME_REQUEST = 5  # seconds
_began = False  # whether the configuration was composed: what is raised before is about the overrides
_ended_by: E5ftError | None = None  # what ended the one job of a plain run; told by run_script, not through Hydra's own lines


def run_job(function: Callable[[DictConfig], float | None], config: DictConfig) -> float | None:
    """Run one job. Inside a multirun a failing job gives NaN, so that the others go on; the sweep's end tells of it."""
    global _began, _ended_by
    _began = True
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        configuration.check(config)
        return function(config)
    except Terminated as error:  # whoever stops the process means the whole sweep
        _ended_by = error
        if in_sweep:
            raise
        return None
    except Exception as error:
        if not in_sweep:
            if not isinstance(error, E5ftError):
                raise
            _ended_by = error
            return None
        log.error(f"job {HydraConfig.get().job.num}: {_message(error)}")
        if not isinstance(error, E5ftError):
            traceback.print_exc()
        return math.nan


def run_script(main: Callable[[], None]) -> None:
    """Call a Hydra main and exit: 0, 2 configuration, 3 data, 4 non-finite training, 143 stopped by SIGTERM, 1 otherwise."""
    show_everything = bool(os.environ.get("HYDRA_FULL_ERROR"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come to us, instead of a traceback and exit code 1
    code = 0
    try:
        _check_launch()
        main()
        code = sweep.failures() and 1
        if _ended_by is not None:
            raise _ended_by
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
    if code:
        sys.exit(code)


def _check_launch() -> None:
    """torchrun's processes would each make up a name from their own clock (hydra#2070)."""
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


def stop_on_sigterm(ask: Callable[[], None]) -> None:
    """Call `ask` at the first SIGTERM; a later one ends the process at once.

    Within five seconds it is the same request: a cluster signals every process, and torchrun passes on what it gets.
    """
    first: list[float] = []

    def handle(number, frame):
        if not first:
            first.append(time.monotonic())
            ask()
        elif time.monotonic() - first[0] > _SAME_REQUEST:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, handle)
