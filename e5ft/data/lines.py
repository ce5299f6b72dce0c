"""Strict reading of JSON lines: every bad line is reported as `path:line: reason`; nothing is guessed or dropped silently."""

import json
import math
import os
import re
import stat
import unicodedata
from codecs import BOM_UTF8
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from e5ft.data.opening import open_utf8
from e5ft.errors import DataError

MAX_LINE_BYTES = 1_000_000  # a passage is a few kilobytes; a line of a megabyte is a file without line ends
NOT_UTF8 = "mend it, or name the encoding of the whole file: data.encoding=NAME"
_MESSAGE = 400  # characters of a reason: a line without line ends may be one long key
_QUOTED = re.compile(r": ['\"].*", re.DOTALL)  # a value stands at the end, as Python writes it
_MAX_MARKS = 1_000  # combining marks in a row; languages need a handful, Unicode's stream-safe format allows 30


class Location(NamedTuple):
    """A row's place in its source; it prints as `source:line`, as `source:line (row 3)` where a row is not a line.

    Attributes:
        source: the file, of several that one that holds the row; or the name of a hub data set with the split.
        line: counted from 1; 0 where there are no lines, as in a spreadsheet.
        row: as a spreadsheet counts it, from 1 and with the header; in a JSON array the number of the object; 0: the line.
    """

    source: str | os.PathLike
    line: int
    row: int = 0

    def __str__(self) -> str:
        line = f":{self.line}" if self.line else ""
        return f"{self.source}{line} (row {self.row})" if self.row not in (0, self.line) else f"{self.source}{line}"


class NoRows(DataError):
    """A file is sound and empty; among others it is nothing."""


class BadLine(DataError):
    """A line or row cannot be used; the message is `location: reason`, in printable characters and of bounded length.

    Where rows are counted it is caught, or yielded in the row's place; elsewhere it ends the reading.

    Attributes:
        location: of the line.
        kind: the reason without the value that it quotes, and with every number as 0: what faults have in common.
        words: the reason without that value.
    """

    def __init__(self, location: Location | str, reason: str):
        super().__init__(f"{location}: {printable(reason)}")  # a library's message may quote a tab or worse
        self.location = location
        self.words = printable(_QUOTED.sub("", reason))
        self.kind = re.sub(r"\d+", "0", self.words)


class Told:
    """What was understood of a source, beyond the plain case: said once, however many of its files show it.

    Args:
        name: of the source, for a person.
        notes: takes ("read", text).
    """

    def __init__(self, name: str, notes: list[tuple[str, str]]):
        self._name, self._notes, self._counts = name, notes, {}

    def say(self, *facts: str) -> None:
        """Note facts, if there are any."""
        note = ("read", f"{self._name}: {', '.join(filter(None, facts))}")
        if any(facts) and note not in self._notes:
            self._notes.append(note)

    def count(self, fact: str) -> None:
        """Count what is told at the end: "blank row"."""
        self._counts[fact] = self._counts.get(fact, 0) + 1

    def close(self) -> None:
        """Note the counts."""
        self.say(*(f"{count:,} {fact}{'s' * (count > 1)} left out" for fact, count in self._counts.items()))


def printable(text: str) -> str:
    """The text with control characters and lone surrogates escaped, as it can be in a message and on a terminal.

    Of a long one the middle is left out: what is wrong stands at the beginning, the remedy at the end.
    """
    if len(text) > _MESSAGE:
        text = f"{text[: _MESSAGE // 2]} ... {text[-_MESSAGE // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def read_json_lines(path: str | os.PathLike, encoding: str | None = None) -> Iterator[tuple[Location, dict | BadLine]]:
    """Yield every non-blank line of a JSON lines file.

    Args:
        path: the file, one object a line; memory does not grow with its size.
        encoding: as of `open_utf8`.

    Yields:
        `(location, value)`: the value is the object, or a `BadLine` that the caller counts or raises.

    Raises:
        DataError: the file is missing, unreadable or empty.
    """
    empty = True
    for number, line in enumerate(raw_lines(path, encoding), start=1):
        if line is None or line.strip():
            empty, location = False, Location(path, number)
            try:
                yield location, _parse(location, line)
            except BadLine as bad_line:
                yield location, bad_line
    if empty:
        raise NoRows(f"{path}: the file holds no rows")


def is_file(path: str | os.PathLike) -> bool:
    """Whether a regular file stands there; False for a folder and for nothing.

    Raises:
        DataError: the name can be no file's, or a pipe or device stands there, which would be waited for, or has no end.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:  # the latter: a NUL, a lone surrogate
        name, reason = printable(str(path)), getattr(error, "strerror", None) or error
        raise DataError(f"{name}: cannot be read ({reason})") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DataError(f"{path}: a pipe or device; must be a file that can be read twice: write it to disk first")
    return stat.S_ISREG(mode)


def raw_lines(path: str | os.PathLike, encoding: str | None = None) -> Iterator[bytes | None]:
    """Lines as UTF-8; None stands for one longer than MAX_LINE_BYTES, which is read past but never held.

    Raises:
        DataError: the file is missing or unreadable, see `open_utf8`.
    """
    if not is_file(path) and os.path.isdir(path):
        raise DataError(f"{path}: this is a folder; must be a file")
    with open_utf8(path, encoding)[0] as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES)
                yield None
            else:
                yield line


def _parse(location: Location, line: bytes | None) -> dict:
    if line is None:
        raise BadLine(location, f"the line is longer than {MAX_LINE_BYTES:,} bytes; must be one row a line")
    try:
        text = line.removeprefix(BOM_UTF8).decode("utf-8").strip(WHITE)  # files may have been put end to end
    except UnicodeDecodeError as error:
        raise BadLine(location, f"not UTF-8 (byte {error.start}); {NOT_UTF8}") from None
    try:
        # Not decode(), which looks for white space with regular expressions.
        value, end = STRICT.scan_once(text, 0)
        if end != len(text):
            raise json.JSONDecodeError("Extra data", text, end)
    except StopIteration:
        raise BadLine(location, f"not JSON (Expecting value): {text[:60]!r}") from None
    except RecursionError:
        raise BadLine(location, "not usable: nested too deeply") from None
    except ValueError as error:  # JSONDecodeError is one
        message = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise BadLine(location, f"not JSON ({message}): {text[:60]!r}") from None
    if not isinstance(value, dict):
        raise BadLine(location, f"must be an object {{...}}, this is {type(value).__name__}: {text[:60]!r}")
    return value


def _refuse_constant(name: str):
    raise ValueError(f"{name} is not a JSON value; write null")


def _unique_keys(pairs: list) -> dict:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"duplicate key {twice!r}")
    return value


# Made once: json.loads would make one for every line.
WHITE = " \t\n\r"  # JSON's
STRICT = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)


def check_text(location: Location | str, field: str, value: object) -> str:
    """Return `value` if it is a usable, non-blank string.

    Raises:
        BadLine: wrong type, blank, a NUL, or a lone surrogate (which no tokenizer takes).
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise BadLine(location, f"{field} is missing (null)")
    if not isinstance(value, str):
        raise BadLine(location, f"{field} must be a string, this is {type(value).__name__}: {str(value)[:60]!r}")
    if not value or value.isspace():
        raise BadLine(location, f"{field} is blank")
    if "\x00" in value:
        raise BadLine(location, f"{field} holds a NUL character: {value[:60]!r}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadLine(location, f"{field} holds a lone surrogate, which is no text: {value[:60]!a}") from None
    if len(value) > 10 * _MAX_MARKS and _has_many_marks(value):
        # Normalising sorts such a run by insertion: half a megabyte of them takes many minutes.
        raise BadLine(location, f"{field} holds more than {_MAX_MARKS:,} combining marks in a row, which is no text")
    return value


def _has_many_marks(text: str) -> bool:
    # A longer run holds one of these positions.
    if not any(map(unicodedata.combining, text[::_MAX_MARKS])):
        return False
    runs = groupby(text, lambda c: unicodedata.combining(c) > 0)
    return any(marks and sum(1 for _ in run) > _MAX_MARKS for marks, run in runs)
