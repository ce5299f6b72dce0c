"""Strict reading of JSON lines: every fault is a `path:line: reason`, nothing is guessed and nothing is dropped in silence."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

from e5ft.errors import DataError

MAX_LINE_BYTES = 1_000_000  # a passage is a few kilobytes; a line of a megabyte is a file without line ends


class Fault(Exception):
    """One bad line or row.

    Attributes:
        place: `path:line`.
        reason: what is wrong, and with what value.
    """

    def __init__(self, place: str, reason: str):
        super().__init__(f"{place}: {reason}")
        self.place, self.reason = place, reason


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
    for number, line in enumerate(_raw_lines(path), start=1):
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


def _raw_lines(path) -> Iterator[bytes | None]:
    """Lines as bytes; None stands for one longer than MAX_LINE_BYTES, which is read past but never held."""
    path = Path(path)
    if path.is_dir():
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
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
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


def check_text(place: str, field: str, value: object) -> str:
    """Return `value` if it is a usable, non-blank string.

    Raises:
        Fault: wrong type, blank, a NUL, or a lone surrogate (which no tokenizer takes).
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise Fault(place, f"{field} is missing (null)")
    if not isinstance(value, str):
        raise Fault(place, f"{field} must be a string, this is {type(value).__name__}: {str(value)[:60]!r}")
    if not value.strip():
        raise Fault(place, f"{field} is blank")
    if "\x00" in value:
        raise Fault(place, f"{field} holds a NUL character: {value[:60]!r}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise Fault(place, f"{field} holds a lone surrogate, which is no text: {value[:60]!a}") from None
    return value
