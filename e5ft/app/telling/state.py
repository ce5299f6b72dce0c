"""What a run's folder says of its state, and whether it holds work to lose."""

from pathlib import Path

from e5ft.errors import ConfigurationError
from e5ft.files import read_json

_WORK = ("checkpoint-*", "model", "round-*/checkpoint-*", "round-*/model")


def status_of(path: Path) -> dict | None:
    """What a run's folder says of its state.

    Returns:
        status.json; {"state": "unknown"} where it is gone and a run's work is there; None where no run has begun.

    Raises:
        ConfigurationError: the file is damaged.
    """
    file = path / "status.json"
    if file.is_file():
        return record(file, "state")
    return {"state": "unknown"} if _has_work(path) else None


def holds_work(path: Path) -> bool:
    """Whether a run's folder holds something to lose: one that failed before its first checkpoint does not."""
    status = status_of(path)
    return status is not None and (status["state"] != "failed" or _has_work(path))


def check_startable(path: Path, resume: bool) -> None:
    """Refuse to begin a run where one is, and to resume one where none is.

    Raises:
        ConfigurationError: so it is, or the folder's status is damaged.
    """
    status = status_of(path)
    if resume and status is None:
        raise ConfigurationError(f"resume=true: there is no run in {path}; leave it out, or choose another name=")
    if not resume and holds_work(path):
        raise ConfigurationError(
            f"{path}: holds a run already ({status['state']}); choose another name=, or resume it: resume=true"
        )


def record(file: Path, *needed: str) -> dict:
    """Read a record of a run's folder, a JSON object with at least the needed keys.

    Raises:
        ConfigurationError: it is damaged.
    """
    try:
        values = read_json(file)
    except ValueError:
        values = None
    if not isinstance(values, dict) or not values.keys() >= set(needed):
        way_on = " and resume (resume=true)" if _has_work(file.parent) else ""
        raise ConfigurationError(f"{file}: damaged; remove it{way_on}, or choose another name=")
    return values


def _has_work(path: Path) -> bool:
    return any(any(path.glob(pattern)) for pattern in _WORK)
