"""Where a script may write: one folder below the output root, whatever a name, a link or an override says."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from e5ft.app import secrets
from e5ft.errors import ConfigurationError

OUTPUTS, SWEEPS = "outputs", "multirun"
_NAME = re.compile(r"\w[\w.\-]{0,99}")
_RESERVED = ("latest",)  # the link to the last run
# Hydra would write there before any of our code runs; output_subdir holds the configuration as it was given, secrets included.
_OWNED = {
    "hydra.run.dir": "name=NAME",
    "hydra.sweep.dir": "name=NAME",
    "hydra.sweep.subdir": "nothing: a job's folder is its number",
    "hydra.output_subdir": "nothing: config.yaml in the run's folder is the record, without secrets",
}


def run_dir(name: object, doctor: bool = False) -> str:
    """outputs/NAME, after the name was checked: Hydra makes the folder before any of our code sees it.

    Args:
        name: the run's.
        doctor: whether nothing will run: then it is the folder that is there anyway, so that none is left behind.
    """
    if not isinstance(doctor, bool):
        raise ConfigurationError(f"doctor={doctor!r}: true or false is needed")
    return "." if doctor else str(below(OUTPUTS, name))


def sweep_dir(name: object, doctor: bool = False) -> str:
    """multirun/NAME, checked in the same way."""
    if doctor is not False:
        raise ConfigurationError("doctor=true looks at one configuration: leave --multirun out")
    return str(below(SWEEPS, name))


def below(root: str, name: object) -> Path:
    """ROOT/NAME, where that is one folder in the root, or will be.

    Raises:
        ConfigurationError: the name is no folder's, or a link there leads out of the root.
    """
    path = Path(root) / checked_name(name)
    check_inside(path, Path(root), f"name={name}")
    return path


def checked_name(name: object) -> str:
    """A name that is one folder's, below the output root.

    Raises:
        ConfigurationError: separators, `..`, control characters, too long, a token, or the link to the last run.
    """
    text = str(name)
    if not _NAME.fullmatch(text) or len(text.encode()) > 200:
        raise ConfigurationError(
            f"name={text!r}: letters, digits, '-', '_' and '.' only, at most 100, beginning with a letter or digit"
        )
    if text.casefold() in _RESERVED:
        raise ConfigurationError(f"name={text}: this is the link to the last run; name the run itself")
    if secrets.holds_secret(text):
        raise ConfigurationError("name: it looks like a token, which a folder's name would show; choose another one")
    return text


def check_inside(path: Path, root: Path, field: str) -> None:
    """Refuse a path that a symbolic link leads out of its root; the root itself may be a link, to a larger disk.

    Raises:
        ConfigurationError: it leads out.
    """
    if not path.resolve().is_relative_to(root.resolve()):
        raise ConfigurationError(f"{field}: {path} is a link that leads out of {root}/; remove it, or choose another name")


def check_overrides(arguments: Iterable[str]) -> None:
    """Refuse overrides of Hydra's own folders.

    Raises:
        ConfigurationError: one of them is set, added or removed.
    """
    for argument in arguments:
        field = argument.lstrip("+~").partition("=")[0]
        for owned, owner in _OWNED.items():
            if field == owned or owned.startswith(f"{field}.") and field != "hydra":
                raise ConfigurationError(f"{field} is set through {owner}")
            if field == "hydra":
                raise ConfigurationError("hydra: name the field to set, for instance hydra.verbose=true")


def check_job_folder() -> None:
    """Refuse a job whose folder is neither where the command was given nor in outputs/ or multirun/ there.

    Raises:
        ConfigurationError: a link, or a configuration of the user's own, leads out.
    """
    runtime = HydraConfig.get().runtime
    here, path = Path(runtime.cwd), Path(runtime.output_dir)
    if os.path.normpath(path) == os.path.normpath(here):
        return
    roots = [(here / name).resolve() for name in (OUTPUTS, SWEEPS)]
    if not any(root in path.resolve().parents for root in roots):
        raise ConfigurationError(f"{runtime.output_dir} leads out of {OUTPUTS}/ and {SWEEPS}/; choose another name")


def keep_no_multirun_yaml(folder: Path) -> None:
    """Let the file in which Hydra's sweeper keeps a multirun's overrides, secrets included, come to nothing.

    Args:
        folder: of the multirun; every job's folder has its own overrides.yaml, without secrets.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "multirun.yaml"
    file.unlink(missing_ok=True)
    file.symlink_to(os.devnull)  # there is no switch for it, and to mend the file afterwards would leave it to a kill
