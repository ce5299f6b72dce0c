"""What must not leave its place: output folders stay below outputs/ and multirun/, and secrets out of every record and line.

Secrets meet three layers. A value of the configuration that is a token, or holds the value of a secret of the environment,
is refused. A field whose name says that it is a secret is left out of every record. And whatever is printed passes a stream
that blanks known secrets and their shapes, in messages of libraries and tracebacks too.
"""

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from e5ft.errors import ConfigurationError
from e5ft.settings import leaves

OUTPUTS, SWEEPS = "outputs", "multirun"
BLANK = "[secret]"
_NAME = re.compile(r"\w[\w.\-]{0,99}")
# Hydra would write there before any of our code runs; output_subdir holds the configuration as it was given, secrets included.
_OWNED = {
    "hydra.run.dir": "name=NAME",
    "hydra.sweep.dir": "name=NAME",
    "hydra.sweep.subdir": "nothing: a job's folder is its number",
    "hydra.output_subdir": "nothing: config.yaml in the run's folder is the record, without secrets",
}
NO_RECORD = "hydra.output_subdir=null"  # on every command line: an experiment of the user's own wins over conf/
_SHORTEST = 8  # characters: shorter values, "1" or "none", are in too many places that are no secrets
_KEYS = r"(?:api_?key|access_?key|private_?key|token|secret|passwd|password|credentials?)"
_SECRET_FIELD = re.compile(_KEYS + "$", re.IGNORECASE)
_SECRET_VARIABLE = re.compile(r"(?:key|token|secret|passwd|password|pat|credentials?)$", re.IGNORECASE)
# Tokens by their issuers' published prefixes; W&B's own keys are bare hexadecimal, like commits, and known by their names only.
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"hf_[A-Za-z0-9]{30,}|(?:AKIA|ASIA)[A-Z0-9]{16}|sk-[A-Za-z0-9_-]*[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|github_pat_\w{30,}|glpat-[\w-]{20,}|xox[abprs]-[\w-]{20,}|AIza[\w-]{35}|wandb_v1_\w{20,}"
    r"|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}"
    r")"
)
_IN_URL = re.compile(r"(?<=://)[^\s/@'\"]+(?=@)")
_IN_QUERY = re.compile(r"(?<=[?&])([\w.-]*(?:key|token|secret|password|signature|sig)=)[^\s&'\"]+", re.IGNORECASE)
_ASSIGNED = re.compile(rf"({_KEYS}['\"]?\s*[=:]\s*)(?!\[secret\])('[^']*'|\"[^\"]*\"|[^\s'\",}}&\])]+)", re.IGNORECASE)
_known: set[str] = set()


# -- folders ---------------------------------------------------------------------------------------------------------------


def run_dir(name: object, doctor: bool = False) -> str:
    """The current folder, after the name was checked: Hydra makes this one at once, and a run its own when its rows were read.

    Args:
        name: the run's.
        doctor: whether nothing will run.
    """
    if not isinstance(doctor, bool):
        raise ConfigurationError(f"doctor={doctor!r}: must be true or false")
    folder_in(OUTPUTS, name)
    return "."


def sweep_dir(name: object, doctor: bool = False) -> str:
    """multirun/NAME, checked in the same way."""
    if doctor is True:
        raise ConfigurationError("doctor=true looks at one configuration: leave --multirun out")
    return str(folder_in(SWEEPS, name))


def folder_in(root: str, name: object) -> Path:
    """ROOT/NAME, where that is one folder in the root, or will be. The root itself may be a link, to a larger disk.

    Raises:
        ConfigurationError: the name is no folder's, is a token, or a link there leads out of the root.
    """
    text = str(name)
    if not _NAME.fullmatch(text) or len(text.encode()) > 200:
        raise ConfigurationError(
            f"name={text!r}: must be letters, digits, '-', '_' and '.' only, at most 100, beginning with a letter or digit"
        )
    if text.casefold() == "latest":
        raise ConfigurationError(f"name={text}: this is the link to the last run; name the run itself")
    if holds_secret(text):
        raise ConfigurationError("name: it looks like a token, which a folder's name would show; choose another one")
    path = Path(root) / text
    if not path.resolve().is_relative_to(Path(root).resolve()):
        raise ConfigurationError(f"name={text}: {path} is a link that leads out of {root}/; remove it, or choose another name")
    return path


def check_overrides(arguments: Iterable[str]) -> None:
    """Refuse overrides of Hydra's own folders.

    Raises:
        ConfigurationError: one of them is set, added or removed.
    """
    for argument in arguments:
        field = argument.lstrip("+~").partition("=")[0]
        if field == "hydra":
            raise ConfigurationError("hydra: name the field to set, for instance hydra.verbose=true")
        for owned, owner in _OWNED.items():
            if field == owned or owned.startswith(f"{field}."):
                raise ConfigurationError(f"{field} is set through {owner}")


def check_job_folder(here: Path, path: Path) -> None:
    """Refuse a job whose folder is neither where the command was given nor in outputs/ or multirun/ there.

    Raises:
        ConfigurationError: a link, or a configuration of the user's own, leads out.
    """
    if os.path.normpath(path) == os.path.normpath(here):
        return
    roots = [(here / name).resolve() for name in (OUTPUTS, SWEEPS)]
    if not any(root in path.resolve().parents for root in roots):
        raise ConfigurationError(f"{path} leads out of {OUTPUTS}/ and {SWEEPS}/; choose another name")


# -- secrets ---------------------------------------------------------------------------------------------------------------


def is_secret_field(name: object) -> bool:
    """Whether a field's name says that its value is a secret: api_key, hub_token, my_password."""
    return bool(_SECRET_FIELD.search(str(name)))


def redacted(text: str) -> str:
    """The text with every known secret, what has the shape of one, and what a secret's name is set to, blanked."""
    return _ASSIGNED.sub(rf"\1{BLANK}", _without_tokens(text))


def holds_secret(text: str) -> bool:
    """Whether a text holds a known secret, a token, or an address with a password."""
    return _without_tokens(text) != text


def without_secrets(value: object) -> object:
    """Plain values without the fields that are secrets by name, and with the texts redacted; tuples become lists."""
    if isinstance(value, dict):
        return {key: without_secrets(item) for key, item in value.items() if not is_secret_field(key)}
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    return redacted(value) if isinstance(value, str) else value


def guard(arguments: Iterable[str] = ()) -> None:
    """Learn the secrets of the environment and of the command line, and blank them in all that this process prints."""
    _known.update(environment_secrets())
    for argument in arguments:
        name, _, value = argument.partition("=")
        if is_secret_field(name):
            _learn(value)
    sys.stdout, sys.stderr = _guarded(sys.stdout), _guarded(sys.stderr)


def environment_secrets() -> set[str]:
    """Values of the environment variables that are secrets by name; paths, as of a file of credentials, are none."""
    values = {value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)}
    return {value for value in values if len(value) >= 12 and not value.startswith(("/", "~", "."))}


def check_no_secrets(values: dict) -> None:
    """Learn the values of fields that are secrets by name, and refuse a secret in any other field.

    Args:
        values: the configuration, resolved.

    Raises:
        ConfigurationError: a token, a password in an address, or the value of a secret environment variable.
    """
    # All that stands below a secret field is secret.
    split = [(path, value, any(map(is_secret_field, re.split(r"[.\[]", path)))) for path, value in leaves(values)]
    for _, value, is_secret in split:
        if is_secret:
            _learn(str(value))
    for path, value, is_secret in split:
        if isinstance(value, str) and not is_secret and holds_secret(value):
            raise ConfigurationError(
                f"{path}: holds a secret (a token, or a password in an address), which would end in the run's records. "
                "e5ft takes none from the configuration: log in with `hf auth login` or `wandb login`, or set HF_TOKEN or "
                "WANDB_API_KEY in the environment"
            )


def _learn(value: str) -> None:
    _known.update(part for part in re.split(r"[,\s'\"\[\]{}]+", value) if len(part) >= _SHORTEST)


def _without_tokens(text: str) -> str:
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, BLANK)
    text = _IN_URL.sub(BLANK, _TOKEN.sub(BLANK, text))
    return _IN_QUERY.sub(rf"\1{BLANK}", text)


class _Redacting:
    """A text stream that blanks secrets in what is written to it; in all else the stream that it wraps."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text, redacted; the count is the caller's."""
        self._stream.write(redacted(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write every line, redacted."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def _guarded(stream: TextIO) -> TextIO | _Redacting:
    return stream if isinstance(stream, _Redacting) or stream is None else _Redacting(stream)
