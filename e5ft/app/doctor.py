"""python train.py doctor=true ...: could this run start here? One line a check, in seconds; nothing is trained or left behind."""

from collections.abc import Callable

from omegaconf import DictConfig

from e5ft.app import machine_checks, run_checks, service_checks
from e5ft.app.finding import Finding, fault
from e5ft.app.report import say
from e5ft.errors import ConfigurationError, E5ftError

CHECKS: dict[str, Callable[[DictConfig], Finding]] = {
    "python": machine_checks.check_python,
    "packages": machine_checks.check_packages,
    "optional": machine_checks.check_optional,
    "device": machine_checks.check_device,
    "precision": machine_checks.check_precision,
    "processes": machine_checks.check_processes,
    "limits": machine_checks.check_limits,
    "settings": run_checks.check_settings,
    "data": run_checks.check_data,
    "model": run_checks.check_model,
    "hub": service_checks.check_hub,
    "memory": run_checks.check_memory,
    "disk": run_checks.check_disk,
    "cache": run_checks.check_cache,
    "W&B": service_checks.check_wandb,
}


def examine(config: DictConfig) -> None:
    """Run every check and print a line for each as soon as it is known.

    Args:
        config: the composed configuration of train.py.

    Raises:
        ConfigurationError: something is in the way of a run.
    """
    faults, told = [], set()
    for name, check in CHECKS.items():
        finding = _found(check, config)
        # Several checks read the same settings, and each would refuse them in the same words.
        say((finding if finding not in told or finding.state != "fault" else fault("as above")).line(name))
        told.add(finding)
        if finding.state == "fault":
            faults.append(name)
    if faults:
        raise ConfigurationError(f"doctor: a run could not start; see {', '.join(faults)} above")
    say("a run can start")


def _found(check: Callable[[DictConfig], Finding], config: DictConfig) -> Finding:
    try:
        return check(config)
    except E5ftError as error:  # its message names the remedy
        return fault(str(error))
    except Exception as error:  # what a check cannot stand, a run would not survive either; the other checks still count
        return fault(f"{type(error).__name__}: {error}")
