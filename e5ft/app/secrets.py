"""Secrets: what looks like one, and how it is kept out of everything that a run writes or prints.

Three nets, one behind the other. A value of the configuration that is a token, or holds the value of a secret of the
environment, is refused. A field whose name says that it is a secret is left out of every record. And whatever is printed
passes a stream that blanks known secrets and their shapes: messages of libraries and tracebacks too.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import TextIO

from omegaconf import DictConfig, OmegaConf

from e5ft.errors import ConfigurationError

BLANK = "[secret]"
_LEAST = 8  # characters: shorter values, "1" or "none", stand in too many places that are no secrets
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
    """Plain values without the fields that are secrets by name, and with the texts redacted."""
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
    found = {value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)}
    return {value for value in found if len(value) >= 12 and not value.startswith(("/", "~", "."))}


def check_no_secrets(config: DictConfig) -> None:
    """Learn the values of fields that are secrets by name, and refuse a secret in any other field.

    Raises:
        ConfigurationError: a token, a password in an address, or the value of a secret environment variable.
    """
    for path, value in _leaves(OmegaConf.to_container(config, resolve=True)):
        if is_secret_field(path):
            _learn(str(value))
    for path, value in _leaves(OmegaConf.to_container(config, resolve=True)):
        if isinstance(value, str) and not is_secret_field(path) and holds_secret(value):
            raise ConfigurationError(
                f"{path}: holds a secret (a token, or a password in an address), which would end in the run's records. "
                "e5ft takes none from the configuration: log in with `hf auth login` or `wandb login`, or set HF_TOKEN or "
                "WANDB_API_KEY in the environment"
            )


def _learn(value: str) -> None:
    _known.update(part for part in re.split(r"[,\s'\"\[\]{}]+", value) if len(part) >= _LEAST)


def _without_tokens(text: str) -> str:
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, BLANK)
    text = _IN_URL.sub(BLANK, _TOKEN.sub(BLANK, text))
    return _IN_QUERY.sub(rf"\1{BLANK}", text)


def _leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, item in value.items():
            inner = f"{path}.{key}" if path else str(key)
            # All that stands below a secret field is secret.
            yield from ((path if is_secret_field(path) else at, leaf) for at, leaf in _leaves(item, inner))
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, path)
    else:
        yield path, value


class _Redacting:
    """A text stream that blanks secrets in what is written to it; in all else the stream that it stands for."""

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
