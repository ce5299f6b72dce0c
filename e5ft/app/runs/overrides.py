"""Overrides as Hydra's grammar reads them: file names and words that it cannot read are put in quotes before it sees them.

What it reads today keeps its meaning: lists, sweeps, `choice(...)`, quoted values and interpolations. In a field that names
a file or folder, a whole value that is the name of one which exists is that name, also `a,b` under --multirun.
"""

import os
import re
import shlex
from collections.abc import Iterable
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Quote, QuotedString
from hydra.errors import HydraException

from e5ft.app.settings import build
from e5ft.errors import ConfigurationError

_UNREADABLE = object()
_PART = re.compile(r"""\s*("(?:\\.|[^"\\])*"(?=\s*(?:,|$))|'(?:\\.|[^'\\])*'(?=\s*(?:,|$))|[^,]+)""")
_FIELD = re.compile(r"[+~]{0,2}\w[\w.@/:-]*")


def readable(verb: str, arguments: Iterable[str]) -> list[str]:
    """A command line whose overrides Hydra can read.

    Args:
        verb: train, eval, mine or export.
        arguments: of the command line; flags and what stands between quotes already are left alone.

    Raises:
        ConfigurationError: an override that cannot be read; the message has what to type.
    """
    arguments, paths = list(arguments), build.path_fields(verb)
    swept = any(argument in ("-m", "--multirun") for argument in arguments)
    return [_readable(argument, paths, swept) for argument in arguments]


def _readable(argument: str, paths: set[str], swept: bool) -> str:
    field, equals, value = argument.partition("=")
    if not equals or not _FIELD.fullmatch(field) or not value or "${" in value or _is_quoted(value):
        return argument
    name = re.sub(r"^data\.sources\.\w[\w-]*(\.train_file)?$", "data.train_file", field.lstrip("+"))
    given = (_of_path(field, value, swept) if name in paths else None) or quoted(argument)
    if _read(given) is _UNREADABLE and (items := re.fullmatch(r"\[([^][{}]*)\]", value)):
        given = f"{field}=[{_each_quoted(field, items[1])}]"
    if _read(given) is not _UNREADABLE:
        return given
    text = argument if len(argument) <= 200 else f"{argument[:197]}..."
    raise ConfigurationError(f"{text}: Hydra cannot read this; with quotes: {shlex.quote(_advice(field, value))}")


def _of_path(field: str, value: str, swept: bool) -> str | None:
    """An override of a field that names files or folders; None where it stays as it is."""
    whole, read = f"{field}={_in_quotes(value)}", _read(f"{field}={value}")
    if read is None or read == value:
        return None
    if os.path.lexists(os.path.expanduser(value)):
        return whole
    items = re.fullmatch(r"\s*\[(.*)\]\s*", value)
    if read is _UNREADABLE:
        if items:
            return f"{field}=[{_each_quoted(field, items[1])}]"
        return f"{field}={_each_quoted(field, value)}" if swept and "," in value else whole
    if isinstance(read, ChoiceSweep) and read.simple_form and not swept:
        if any(os.path.lexists(os.path.expanduser(part.strip())) for part in value.split(",")):
            raise ConfigurationError(
                f"{field}={value}: there is no file of that name; several are a list, {shlex.quote(f'{field}=[{value}]')}, and a sweep has -m"
            )
        return whole
    return whole if isinstance(read, int | float) and not isinstance(read, bool) else None  # a folder's name is 2024


def quoted(argument: str) -> str:
    """An override whose values Hydra's grammar can read: outside quotes it knows ASCII only, and no Korean name."""
    field, equals, value = argument.partition("=")
    if not equals or field.startswith("--") or value.isascii() or re.search(r"['\"\\]|\$\{", value):
        return argument
    inner = r"[^][{}(),:]" if "{" in value else r"[^][{}(),]"  # what stands between the grammar's own characters
    part = rf"(?=\S){inner}+(?<=\S)"
    return field + equals + re.sub(part, lambda match: match[0] if match[0].isascii() else f"'{match[0]}'", value)


def _read(override: str) -> Any:
    try:
        return OverridesParser.create().parse_override(override).value()
    except (HydraException, ValueError):
        return _UNREADABLE


def _each_quoted(field: str, items: str) -> str:
    """Items between commas, each as it is where Hydra reads it."""
    return ",".join(_quoted_item(field, part.strip()) for part in _PART.findall(items))


def _quoted_item(field: str, item: str) -> str:
    return item if _read(f"{field}={item}") is not _UNREADABLE else _in_quotes(item)


def _advice(field: str, value: str) -> str:
    if not value.lstrip().startswith(("{", "[")):
        return f"{field}={_in_quotes(value)}"
    inside = r"""(?<=[:,\[])(\s*)(?!\s)([^:,\[\]{}"']+?)(?=\s*(?:[,\]}]|$))"""  # values of a mapping, items of a list
    suggested = re.sub(inside, lambda match: match[1] + _quoted_item(field, match[2]), value)
    return f"{field}={suggested}" if _read(f"{field}={suggested}") is not _UNREADABLE else field + '={NAME: "FILE (1).jsonl"}'


def _is_quoted(value: str) -> bool:
    return len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" and _read(f"x={value}") is not _UNREADABLE


def _in_quotes(value: str) -> str:
    return QuotedString(value, Quote.double).with_quotes()  # double: a shell's own quotes around them are single
