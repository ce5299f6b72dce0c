"""JSON files of rows: one object a line, an array of objects, or one object that holds the rows, as pandas and others write it."""

import json
import os
from collections.abc import Iterator
from itertools import pairwise

from e5ft.data.lines import MAX_LINE_BYTES, STRICT, WHITE, BadLine, Location, NoRows, Told, printable, read_json_lines
from e5ft.data.opening import open_utf8
from e5ft.errors import DataError

LARGEST = 1_000_000_000  # bytes of a file that is not lines, and so is read whole
_HOLDERS = ("data", "rows", "records", "items", "examples", "samples", "results", "train", "validation", "dev", "test")
_LENIENT = json.JSONDecoder()
_LINES = "write one object a line"


def read_json_file(path: str | os.PathLike, encoding: str | None, told: Told) -> Iterator[tuple[Location, dict | BadLine]]:
    """Yield the rows of a JSON file of any layout that says plainly which its rows are.

    Args:
        path: the file.
        encoding: as of `open_utf8`.
        told: takes what was understood.

    Raises:
        DataError: the file cannot be read, or does not say which its rows are.
    """
    file, found = open_utf8(path, encoding)
    with file:
        start = file.read(MAX_LINE_BYTES)
        text = None if _is_lines(start) else _whole(path, start, file)
    if text is None:
        told.say(found)
        yield from read_json_lines(path, encoding)
        return
    layout, rows = _rows_of(path, text)
    told.say(found, layout)
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise NoRows(f"{path}: the file holds no rows")


def _is_lines(start: bytes) -> bool:
    """Whether a file begins with one JSON value on a line of its own, and goes on."""
    lines = [line for line in start.split(b"\n", 200) if line.strip()]
    return len(lines) != 1 and (not lines or not lines[0].strip().startswith((b"[", b"{")) or _is_json(lines[0]))


def _is_json(line: bytes) -> bool:
    try:
        _LENIENT.decode(line.decode())
    except (ValueError, RecursionError):
        return False
    return True


def _whole(path: str | os.PathLike, start: bytes, file) -> str | None:
    """The text of a file that is one JSON value; None for lines, of which the first may be damaged.

    Raises:
        DataError: it is an array that is too large or damaged, so that its lines are no rows.
    """
    array = start.lstrip()[:1] == b"[" and start.lstrip()[1:].lstrip()[:1] in (b"{", b"]")
    content = start + file.read(LARGEST + 1 - len(start))
    if len(content) > LARGEST:
        if not array:
            return None
        raise DataError(f"{path}: a JSON array of more than {LARGEST:,} bytes; {_LINES}: jq -c '.[]' {path} > rows.jsonl")
    place, text = str(path), ""
    try:
        text = content.decode()
        end, reason = _next(text, 0), None
        while end < len(text):  # one value, or objects one after another
            end = _next(text, _LENIENT.scan_once(text, end)[1])
            if array and end < len(text):
                place, reason = f"{path}:{text.count(chr(10), 0, end) + 1}", "more text after its end"
                break
    except json.JSONDecodeError as error:
        place, reason = f"{path}:{error.lineno}", error.msg
    except StopIteration as stop:
        place, reason = f"{path}:{text.count(chr(10), 0, stop.value) + 1}", "Expecting value"
    except RecursionError:
        reason = "nested too deeply"
    except ValueError as error:
        reason = str(error)
    if reason is None:
        return text
    if array or start.strip().partition(b"\n")[0].strip() == b"{":
        raise DataError(f"{place}: not JSON ({printable(reason)}), and the file is one JSON value; {_LINES}") from None
    return None


def _rows_of(path: str | os.PathLike, text: str) -> tuple[str, Iterator[tuple[Location, dict | BadLine]]]:
    """What the layout is, and the rows."""
    start = len(text) - len(text.lstrip(WHITE))
    if text[start] == "[":
        if text[_next(text, start + 1)] == "[":
            raise DataError(f'{path}: an array of lists, which name no columns; write df.to_json(FILE, orient="records")')
        return "a JSON array", _array(path, text, start)
    end = _next(text, _LENIENT.scan_once(text, start)[1])
    if text[start] != "{" or end < len(text):
        return "objects one after another" if end < len(text) else "", _sequence(path, text, start)
    try:
        value, _ = STRICT.scan_once(text, start)
    except (ValueError, RecursionError) as error:
        if "\n" not in text.strip():  # one row, which its reader refuses with its line
            return "", _sequence(path, text, start)
        raise DataError(f"{path}: not JSON ({printable(str(error)) or 'nested too deeply'})") from None
    parts = list(value.values())
    if {"columns", "data"} <= set(value) <= {"columns", "data", "index"}:
        return "pandas' split", _split(path, value)
    if set(value) == {"schema", "data"} and isinstance(value["schema"], dict):
        return "pandas' table", _table(path, value)
    if len(parts) > 1 and all(isinstance(part, list) and len(part) == len(parts[0]) and not _is_table(part) for part in parts):
        rows = [dict(zip(value, cells, strict=True)) for cells in zip(*parts, strict=True)]  # no row: its query is no list
        return "a list for each column", _objects(path, rows)
    tables = [name for name, part in value.items() if _is_table(part)]
    if len(tables) == 1 and (len(value) == 1 or tables[0] in _HOLDERS):
        offset = _offset(text, start, tables[0])
        return f"the list {tables[0]!r}", _array(path, text, offset)
    if len(tables) > 1 and len(tables) == len(value):
        names = ", ".join(map(repr, tables))
        raise DataError(f"{path}: {len(tables)} lists of rows ({names}); jq -c '.{tables[0]}[]' {path} > rows.jsonl takes one")
    if parts and all(isinstance(part, dict) for part in parts) and all(a.keys() == b.keys() for a, b in pairwise(parts)):
        outer, inner = all(map(str.isdigit, value)), all(map(str.isdigit, parts[0]))
        if outer and not inner:
            return "pandas' index", _objects(path, parts)
        if inner and not outer:
            rows = [{name: column[label] for name, column in value.items()} for label in parts[0]]
            return "pandas' columns", _objects(path, rows)
        raise DataError(f'{path}: mappings of mappings, of which are the rows? Write df.to_json(FILE, orient="records")')
    return "", _sequence(path, text, start)


def _is_table(part: object) -> bool:
    return isinstance(part, list) and bool(part) and all(isinstance(row, dict) for row in part)


def _sequence(path: str | os.PathLike, text: str, at: int) -> Iterator[tuple[Location, dict | BadLine]]:
    """The only row of a file, or several one after another, each perhaps written over several lines."""
    line, seen = 1, 0
    while at < len(text):
        line, seen = line + text.count("\n", seen, at), at
        location = Location(path, line)
        value, end = _checked(location, text, at)
        yield location, value
        at = _next(text, end)


def _checked(location: Location, text: str, start: int) -> tuple[dict | BadLine, int]:
    """The row that begins there, and where it ends; NaN and a duplicate key are faults of the row alone."""
    value, end = _LENIENT.scan_once(text, start)
    try:
        value, end = STRICT.scan_once(text, start)
    except (ValueError, RecursionError) as error:
        return BadLine(location, f"not JSON ({error}): {text[start : min(end, start + 60)]!r}"), end
    if not isinstance(value, dict):
        shown = text[start : min(end, start + 60)]
        return BadLine(location, f"must be an object {{...}}, this is {type(value).__name__}: {shown!r}"), end
    if end - start > MAX_LINE_BYTES:
        return BadLine(location, f"longer than {MAX_LINE_BYTES:,} characters"), end
    return value, end


def _array(path: str | os.PathLike, text: str, start: int) -> Iterator[tuple[Location, dict | BadLine]]:
    """The objects of the array that opens at `start`, which is known to be JSON; one at a time."""
    line, seen, number, at = 1, 0, 0, _next(text, start + 1)
    while text[at] != "]":
        line, seen, number = line + text.count("\n", seen, at), at, number + 1
        location = Location(path, line, number)
        value, end = _checked(location, text, at)
        yield location, value
        at = _next(text, end)
        at = _next(text, at + 1) if text[at] == "," else at


def _next(text: str, at: int) -> int:
    while at < len(text) and text[at] in WHITE:
        at += 1
    return at


def _offset(text: str, start: int, name: str) -> int:
    """Where the value of a member of the object that opens at `start` begins."""
    at = _next(text, start + 1)
    while True:
        key, at = _LENIENT.scan_once(text, at)
        at = _next(text, _next(text, at) + 1)  # past the colon
        if key == name:
            return at
        at = _next(text, _LENIENT.scan_once(text, at)[1])
        at = _next(text, at + 1)  # past the comma


def _objects(path: str | os.PathLike, rows: list[dict]) -> Iterator[tuple[Location, dict]]:
    for number, row in enumerate(rows, start=1):
        yield Location(path, 0, number), row


def _split(path: str | os.PathLike, value: dict) -> Iterator[tuple[Location, dict]]:
    names, data = value["columns"], value["data"]
    width = len(names) if isinstance(names, list) and len(set(map(str, names))) == len(names) else -1
    if not isinstance(data, list) or any(not isinstance(row, list) or len(row) != width for row in data):
        raise DataError(f'{path}: "columns" and "data" do not fit each other; write df.to_json(FILE, orient="records")')
    return _objects(path, [dict(zip(map(str, names), row, strict=True)) for row in data])


def _table(path: str | os.PathLike, value: dict) -> Iterator[tuple[Location, dict]]:
    if not _is_table(value["data"]):
        raise DataError(f'{path}: "data" is no list of rows; write df.to_json(FILE, orient="records")')
    key = value["schema"].get("primaryKey")
    index = set(key) if isinstance(key, list) else set()
    return _objects(path, [{name: cell for name, cell in row.items() if name not in index} for row in value["data"]])
