"""Ground floor: settings are frozen dataclasses whose annotations say what a value may be; they are checked when one is made.

Neither torch nor transformers is imported here, so that a wrong setting is refused before anything slow begins.
"""

import dataclasses
import difflib
import functools
import os
import re
import shlex
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from e5ft.errors import ConfigurationError

_LARGE = 10**12  # more rows, passages or tokens than any machine holds
_HUGE = 1e300  # numbers beyond it overflow in the first sum
HUB_NAME = re.compile(r"(\w[\w.\-]{0,94}\w/)?\w[\w.\-]{0,94}\w", re.ASCII)
BARE_WORD = re.compile(r"[^\W\d][\w.\-]*")
_WORDS_OF_HYDRA = ("null", "true", "false", "nan", "inf", "none")
_NULL_WORDS = ("None", "none", "~None")  # YAML reads them as words


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a value must be beyond its type: in words, which are in messages and in the documentation, and as a check."""

    words: str
    accepts: Callable[[Any], bool]


def whole(least: int, most: int = _LARGE) -> Any:
    """The annotation of a whole number in a range, both ends included."""
    words = f"a whole number, at least {least:,}" if most == _LARGE else f"a whole number from {least:,} to {most:,}"
    return Annotated[int, Rule(words, lambda value: least <= value <= most)]


def number(*, least: float = -_HUGE, most: float = _HUGE, above: float = -_HUGE, below: float = _HUGE) -> Any:
    """The annotation of a finite number in a range."""
    limits = (("at least", least, -_HUGE), ("above", above, -_HUGE), ("at most", most, _HUGE), ("below", below, _HUGE))
    limited = [f"{word} {limit:g}" for word, limit, default in limits if limit != default]
    words = " and ".join(limited) if limited else "a number"
    return Annotated[float, Rule(words, lambda value: least <= value <= most and above < value < below)]


def _is_path(value: str) -> bool:
    return bool(value.strip()) and len(value.encode()) <= 4000 and all(len(part.encode()) <= 255 for part in value.split("/"))


Word = Annotated[str, Rule("a string that is not blank", lambda value: bool(value.strip()))]
FilePath = Annotated[str, Rule("the name of a file or folder", _is_path)]
SplitName = Annotated[
    str, Rule("the name of a split", lambda value: _is_path(value) and "/" not in value and value not in (".", ".."))
]
HubName = Annotated[str, Rule("a name on the hub, USER/MODEL", lambda value: bool(HUB_NAME.fullmatch(value)))]
Probability = number(least=0, below=1)


class Settings:
    """The base of settings. A subclass is a frozen dataclass; `check` refuses what depends on more than one field."""

    PATH: ClassVar[str] = ""  # of the group in the configuration: "data.columns"
    FLAT: ClassVar[tuple[str, ...]] = ()  # fields whose own fields stand beside the others

    def __post_init__(self):
        for name, hint in hints(type(self)).items():
            value, nested = getattr(self, name), nested_settings(hint)
            if nested is not None and isinstance(value, Mapping):
                object.__setattr__(self, name, build(nested, value, self.field(name)))
                continue
            check_value(value, hint, self.field(name))
            if isinstance(value, list) and not _accepts_type(value, hint):
                value = tuple(value)
            object.__setattr__(self, name, _at_home(value) if holds_path(hint) else value)
        self.check()

    def check(self) -> None:
        """Refuse combinations of fields; does nothing unless a subclass says more."""

    @classmethod
    def field(cls, name: str) -> str:
        """The dotted path of a field, as a user types it."""
        return f"{cls.PATH}.{name}" if cls.PATH else name

    def refuse(self, name: str, reason: str) -> typing.NoReturn:
        """Raise the error for a field's value.

        Args:
            name: of the field.
            reason: what must be, and what to type.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(f"{self.field(name)}={shown(getattr(self, name))}: {reason}")


def build(kind: type, values: object, path: str | None = None) -> Any:
    """Make settings, and those nested in them, from plain values.

    Args:
        kind: a subclass of `Settings`.
        values: field -> value.
        path: where they are in the configuration; the class's own path unless given.

    Raises:
        ConfigurationError: a field is unknown or missing, or has a value that it cannot have.
    """
    path = kind.PATH if path is None else path
    start = f"{path}." if path else ""
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{path}={shown(values)}: must be a mapping, {{field: value}}")
    fields, made = hints(kind), {}
    for name, value in values.items():
        if name not in fields:
            raise ConfigurationError(f"{start}{name}={shown(value)}: no such field{nearest(str(name), fields, start)}")
        nested = nested_settings(fields[name])
        if nested is not None and not isinstance(value, nested) and not (value is None and _accepts(None, fields[name])):
            made[name] = build(nested, value, path if name in kind.FLAT else f"{start}{name}")
        else:
            check_value(value, fields[name], f"{start}{name}")
            made[name] = value
    missing = [f.name for f in dataclasses.fields(kind) if f.init and f.name not in made and _has_no_default(f)]
    if missing:
        raise ConfigurationError(f"{start}{missing[0]}: must be given")
    try:
        return kind(**made)
    except ConfigurationError as error:
        text = str(error)
        if not path or text.startswith(path):
            raise
        if kind.PATH and text.startswith(kind.PATH):  # settings that have a second place, as a round's mining
            raise ConfigurationError(path + text.removeprefix(kind.PATH)) from None
        prefix = path.removesuffix(kind.PATH) if path.endswith(kind.PATH) else ""
        raise ConfigurationError(f"{prefix}{'' if kind.PATH else '.'}{text}") from None


@functools.cache
def hints(kind: type) -> dict[str, Any]:
    """Field -> annotation of a settings class."""
    annotated = typing.get_type_hints(kind, include_extras=True)
    return {field.name: annotated[field.name] for field in dataclasses.fields(kind)}


def nested_settings(hint: Any) -> type | None:
    """The settings class that an annotation holds, alone or beside null; None if there is none."""
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return next((part for part in parts if isinstance(part, type) and issubclass(part, Settings)), None)


def holds_path(hint: Any) -> bool:
    """Whether an annotation is of names of files or folders, one or several."""
    return hint == FilePath or any(map(holds_path, typing.get_args(hint)))


def words(hint: Any) -> str:
    """An annotation in words: "a whole number, at least 1, or null"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return arguments[1].words
    if origin in (typing.Union, types.UnionType):
        return ", or ".join(words(part) for part in arguments)
    if origin is Literal:
        return " or ".join(filter(None, [", ".join(map(_word, arguments[:-1])), _word(arguments[-1])]))
    if origin is tuple:
        return f"a list, each item {words(arguments[0])}"
    if hint is Any:
        return ""
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", dict: "a mapping", list: "a list"}
    return names.get(origin or hint, "null" if hint is type(None) else "a mapping")


def nearest(name: str, known: Iterable[str], start: str = "") -> str:
    """A hint for a misspelt name: "; did you mean loss.temperature?", else the known names; empty if there are none."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {start}{close[0]}?"
    return f"; there are {', '.join(sorted(known))}" if known else ""


def override(field: str, value: object) -> str:
    """A setting as it is typed, in one line: quoted as Hydra's grammar and a shell need it."""
    text = f"{field}="
    if value != "":
        text += f"[{','.join(map(_typed, value))}]" if isinstance(value, list | tuple) else _typed(value)
    if "\n" in text:
        escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
        return f"$'{escaped}'"
    return text if re.fullmatch(r"[\w@%+=:,./-]*", text) else shlex.quote(text)


def _typed(value: object) -> str:
    if not isinstance(value, str) or (BARE_WORD.fullmatch(value) and value.lower() not in _WORDS_OF_HYDRA):
        return str(value)
    # Of backslashes only those before a quote are doubled.
    return '"' + re.sub(r'(\\*)("|\Z)', lambda match: 2 * match[1] + (match[2] and '\\"'), value) + '"'


def shown(value: object) -> str:
    """A value for a message, as Python writes it: cut where it is long, and printable everywhere."""
    text = repr(value)
    return (text if len(text) <= 100 else f"{text[:97]}...").encode("utf-8", "backslashreplace").decode()


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield every value of nested mappings and lists with its dotted path."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}[{index}]")
    else:
        yield path, value


def check_value(value: object, hint: Any, field: str) -> None:
    """Hold one value against an annotation.

    Raises:
        ConfigurationError: it is of another type or out of range; the message says what it must be.
    """
    if _accepts(value, hint):
        return
    if isinstance(value, str) and value in _NULL_WORDS:
        raise ConfigurationError(f"{field}={value}: the word for nothing is null")
    raise ConfigurationError(f"{field}={shown(value)}: must be {words(hint)}")


def _at_home(value: Any) -> Any:
    """Names of files in which a leading `~` or `~user` is that person's folder: no shell expands it behind a `=`."""
    if isinstance(value, tuple):
        return tuple(map(_at_home, value))
    return os.path.expanduser(value) if isinstance(value, str) else value


def _accepts(value: object, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _accepts(value, arguments[0]) and arguments[1].accepts(value)
    if origin in (typing.Union, types.UnionType):
        return any(_accepts(value, part) for part in arguments)
    if origin is Literal:
        return any(value == word and type(value) is type(word) for word in arguments)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_accepts(item, arguments[0]) for item in value)
    if hint is Any:
        return True
    kind = type(None) if hint is None else origin or hint
    if kind is float:  # compared, not converted: a whole number of 400 digits is no float
        return isinstance(value, int | float) and not isinstance(value, bool) and -_HUGE < value < _HUGE
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGE
    if kind is str:
        return isinstance(value, str) and value not in _NULL_WORDS and _is_printable(value)
    return isinstance(value, kind)


def _accepts_type(value: object, hint: Any) -> bool:
    """Whether an annotation names the value's own type, so that a list need not become a tuple."""
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return type(value) in [typing.get_origin(part) or part for part in parts]


def _is_printable(text: str) -> bool:
    # A byte of the command line that is not UTF-8 arrives as a lone surrogate, which no file or message takes.
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _has_no_default(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
