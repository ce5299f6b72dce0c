"""Strict reading of JSON lines: every fault is a `path:line: reason`, nothing is guessed and nothing is dropped in silence."""

import json
import math
import os
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from e5ft.errors import DataError

MAX_LINE_BYTES = 1_000_000  # a passage is a few kilobytes; a line of a megabyte is a file without line ends
_MAX_MARKS = 1_000  # combining marks in a row; languages need a handful, Unicode's stream-safe format allows 30


class Fault(Exception):
    """One bad line or row.

    Attributes:
        place: `path:line`.
        reason: what is wrong, and with what value.
    """

    def __init__(self, place: str, reason: str):
        reason = printable(reason)  # a library's message may quote a tab or worse
        super().__init__(f"{place}: {reason}")
        self.place, self.reason = place, reason


def printable(text: str) -> str:
    """The text with control characters and lone surrogates escaped, so that it can stand in a message and on a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def read_json_lines(path: str | os.PathLike) -> Iterator[tuple[str, dict | Fault]]:
    """Yield every non-blank line of a JSON lines file.

    Args:
        path: the file, UTF-8, one object a line; memory does not grow with its size.

    Yields:
        `(place, value)`: the place as `path:line` and the object, or a `Fault` that the caller counts or raises.

    Raises:
        DataError: the file is missing, unreadable or empty.
    """
    found = False
    for number, line in enumerate(raw_lines(path), start=1):
        place = f"{path}:{number}"
        if line is not None and not line.strip():
            continue
        found = True
        try:
            yield place, _parse(place, number, line)
        except Fault as fault:
            yield place, fault
    if not found:
        raise DataError(f"{path}: the file holds no rows")


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
        raise DataError(f"{path}: a pipe or device; a file is needed that can be read twice: write it to disk first")
    return stat.S_ISREG(mode)


def raw_lines(path: str | os.PathLike) -> Iterator[bytes | None]:
    """Lines as bytes; None stands for one longer than MAX_LINE_BYTES, which is read past but never held.

    Raises:
        DataError: the file is missing or unreadable.
    """
    path = Path(path)
    if not is_file(path) and path.is_dir():
        raise DataError(f"{path}: this is a folder; a file is needed")
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    with file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES)
                yield None
            else:
                yield line


def _parse(place: str, number: int, line: bytes | None) -> dict:
    if line is None:
        raise Fault(place, f"the line is longer than {MAX_LINE_BYTES:,} bytes; one row a line is needed")
    if number == 1 and line.startswith(b"\xef\xbb\xbf"):
        raise Fault(place, "the file begins with a byte order mark; save it as UTF-8 without BOM")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Fault(place, f"not UTF-8 (byte {error.start}); convert the file, for instance from CP949") from None
    try:
        # Not decode(), which looks for white space with regular expressions.
        text = text.strip(_WHITE)
        value, end = _DECODER.scan_once(text, 0)
        if end != len(text):
            raise json.JSONDecodeError("Extra data", text, end)
    except StopIteration:
        raise Fault(place, f"not JSON (Expecting value): {text[:60]!r}") from None
    except RecursionError:
        raise Fault(place, "not usable: nested too deeply") from None
    except ValueError as error:  # JSONDecodeError is one
        message = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise Fault(place, f"not JSON ({message}): {text.strip()[:60]!r}") from None
    if not isinstance(value, dict):
        raise Fault(place, f"an object {{...}} is needed, this is {type(value).__name__}: {text.strip()[:60]!r}")
    return value


def _refuse_constant(name: str):
    raise ValueError(f"{name} is not a JSON value")


def _unique_keys(pairs: list) -> dict:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice!r} stands twice")
    return value


# Made once: json.loads would make one for every line.
_WHITE = " \t\n\r"  # JSON's
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)


def check_text(place: str, field: str, value: object) -> str:
    """Return `value` if it is a usable, non-blank string.

    Raises:
        Fault: wrong type, blank, a NUL, or a lone surrogate (which no tokenizer takes).
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise Fault(place, f"{field} is missing (null)")
    if not isinstance(value, str):
        raise Fault(place, f"{field} must be a string, this is {type(value).__name__}: {str(value)[:60]!r}")
    if not value or value.isspace():
        raise Fault(place, f"{field} is blank")
    if "\x00" in value:
        raise Fault(place, f"{field} holds a NUL character: {value[:60]!r}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise Fault(place, f"{field} holds a lone surrogate, which is no text: {value[:60]!a}") from None
    if len(value) > 10 * _MAX_MARKS and _longest_run_of_marks(value) > _MAX_MARKS:
        # Normalising sorts such a run by insertion: half a megabyte of them takes many minutes.
        raise Fault(place, f"{field} holds more than {_MAX_MARKS:,} combining marks in a row, which is no text")
    return value


def _longest_run_of_marks(text: str) -> int:
    longest = run = 0
    for character in text:
        run = run + 1 if unicodedata.combining(character) else 0
        longest = max(longest, run)
    return longest
