"""Tables as programs and people export them: CSV and TSV with whatever separates their cells, and Excel's workbooks."""

import csv
import io
import json
import os
import re
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count, islice
from typing import TextIO

from e5ft.data.lines import MAX_LINE_BYTES, NOT_UTF8, BadLine, Location, NoRows, Told, printable
from e5ft.data.opening import open_binary, open_utf8
from e5ft.errors import DataError
from e5ft.settings import nearest, shown

SEPARATORS = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
_SAMPLE_ROWS = 200  # by which the separator is recognised
_UNPACKED = 1_000_000_000  # bytes of an Excel file, which is a zip archive
_QUOTED = re.compile(r'"([^"]|"")*"')
_INDEX = re.compile(r"(Unnamed: \d+(\.\d+)*|__index_level_\d+__)?")  # pandas' names for a column that it was given no name for


def read_table(
    path: str | os.PathLike, usual: str, encoding: str | None, told: Told
) -> Iterator[tuple[Location, dict | BadLine]]:
    """Yield the rows of a CSV or TSV file; see `e5ft.data.formats.raw_rows`.

    Args:
        path: the file.
        usual: the separator that its suffix stands for; another one is taken only if this one gives no table.
        encoding: as of `open_utf8`.
        told: takes what was understood.
    """
    binary, found = open_utf8(path, encoding)
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))  # one for the process: never lowered
    # Bytes that are not UTF-8 become lone surrogates, which _Table reports with their line.
    with io.TextIOWrapper(binary, encoding="utf-8", errors="surrogateescape", newline="") as file:
        lines = _RowLines(file)
        separator, skipped = _separator(path, lines.sample, usual)
        if skipped:
            next(lines)
        reader = csv.reader(lines, delimiter=separator, strict=True)
        names = _header(path, reader, skipped)
        table = _Table(path, names, told, [found, f"separator {SEPARATORS[separator]}" if separator != usual else ""])
        row, are_text, are_quoted = 1, False, False
        while True:
            row, location, fault = row + 1, Location(path, lines.number + 1, row + 1), None
            lines.begin_row()
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as error:  # the lines after it may be pieces of a cell, and would pass for rows
                fault = error
            suspect = not are_quoted and (fault or len(lines.taken) > 1)
            if suspect and (alone := lines.first_alone(separator, len(names))):
                if not are_text:
                    told.say(f"quotes are text from line {location.line} on, where each line has the tabs of a row")
                cells, fault, are_text = alone, None, True
            elif suspect:  # a cell with line ends: whoever wrote it put quotes around
                are_quoted = True
            if fault:
                raise DataError(
                    f"{location}: {_not_a_row(fault)}, so that where the next row begins is unknown; "
                    'write a " inside a cell as "", and close every " that opens a cell'
                )
            yield from table.row(location, cells)
        table.close()


def read_workbook(path: str | os.PathLike, sheet: str | None, told: Told) -> Iterator[tuple[Location, dict | BadLine]]:
    """Yield the rows of a sheet of an Excel file (.xlsx).

    Args:
        path: the file.
        sheet: `data.config`; None: the only one that holds anything.
        told: takes what was understood.

    Raises:
        DataError: it cannot be read, or has several sheets with cells and none is chosen.
    """
    try:
        import openpyxl
    except ImportError:
        raise DataError(f"{path}: Excel files need openpyxl: pip install openpyxl; or save the sheet as CSV UTF-8") from None

    with open_binary(path) as file:
        try:
            unpacked = sum(part.file_size for part in zipfile.ZipFile(file).infolist())
            if unpacked > _UNPACKED:
                raise DataError(
                    f"{path}: {unpacked:,} bytes unpacked, at most {_UNPACKED:,} are read; save the sheet as CSV UTF-8"
                )
            sheets, formulas = (
                {each.title: each for each in openpyxl.load_workbook(file, read_only=True, data_only=cached).worksheets}
                for cached in (True, False)
            )
            for each in (*sheets.values(), *formulas.values()):
                each.reset_dimensions()  # which other programs write wrong: cells beyond them would be lost
            name = _sheet(path, sheets, sheet)
            rows = zip(count(1), sheets[name].iter_rows(), formulas[name].iter_rows(), strict=False)
            first, header = next((number, cells) for number, cells, _ in rows if _is_filled(cells))
            names = ["" if _value(cell) is None else str(_value(cell)) for cell in header]
            _check_names(f"{path} (row {first})", names)
            table = _Table(path, names, told, [f"sheet {name!r}" if len(sheets) > 1 else ""])
            for number, cells, written in rows:
                location = Location(path, 0, number)
                values = [_value(cell) for cell in cells] + [None] * (len(names) - len(cells))
                faulty = [value for cell, value in zip(cells, values, strict=False) if cell.data_type == "e"]
                unknown = [
                    cell.value for cell, value in zip(written, values, strict=False) if cell.data_type == "f" and value is None
                ]
                if faulty or unknown:
                    what = f"Excel's error {faulty[0]}" if faulty else f"a formula without its result: {shown(unknown[0])}"
                    table.empty = False
                    yield location, BadLine(location, f"a cell must hold a value, this is {what}")
                    continue
                yield from table.row(location, values)
            table.close()
        except DataError:
            raise
        except Exception as error:  # the library raises what its XML parser, zip and itself raise
            raise DataError(f"{path}: not readable as .xlsx ({printable(str(error))}); save the sheet as CSV UTF-8") from error


def _value(cell) -> object:
    value = cell.value
    return None if isinstance(value, str) and not value.strip() else value


def _is_filled(cells: Iterable) -> bool:
    return any(_value(cell) is not None for cell in cells)


def _sheet(path: str | os.PathLike, sheets: dict, chosen: str | None) -> str:
    if chosen is not None:
        if chosen not in sheets:
            raise DataError(f"{path}: no sheet data.config={chosen}{nearest(chosen, sheets, 'data.config=')}")
        names = [chosen]
    else:
        names = list(sheets)
    filled = [name for name in names if any(map(_is_filled, sheets[name].iter_rows()))]
    if not filled:
        raise NoRows(f"{path}: the file holds no rows")
    if len(filled) > 1:
        raise DataError(
            f"{path}: {len(filled)} sheets with cells ({', '.join(filled)}); name one: data.config={shown(filled[0])[1:-1]} (of rows), "
            "or save it alone, as .xlsx or CSV UTF-8"
        )
    return filled[0]


class _Table:
    """The rows below a header: blank ones are nothing, and an index column or empty columns at the end are left out.

    Args:
        path: for messages.
        names: the header's.
        told: takes what was understood.
        facts: what is known so far.
    """

    def __init__(self, path: str | os.PathLike, names: list[str], told: Told, facts: list[str]):
        self._path, self._told = path, told
        self._width = len(names)
        while names and not names[-1].strip():
            names = names[:-1]
        self._names, self.empty = names, True
        self._index = [number for number, name in enumerate(names) if _INDEX.fullmatch(name.strip())]
        if len(names) < self._width:
            empty = self._width - len(names)
            facts = [*facts, f"{empty:,} empty column{'s' * (empty > 1)} left out"]
        told.say(*facts, f"index column {names[self._index[0]]!r} left out" if self._index else "")

    def row(self, location: Location, cells: list) -> Iterator[tuple[Location, dict | BadLine]]:
        """Yield the row, unless it is blank."""
        if not any(cell is not None and str(cell).strip() for cell in cells):
            if cells:
                self._told.count("blank row")
            return
        if cells and isinstance(cells[0], str):  # files that were put end to end
            cells[0] = cells[0].removeprefix("\ufeff")
        if cells[: len(self._names)] == self._names:
            self._told.count("repeated header")
            return
        self.empty = False
        yield location, self._row(location, cells)

    def close(self) -> None:
        """Refuse a table without rows."""
        if self.empty:
            raise DataError(f"{self._path}: the file holds no rows below its header")

    def _row(self, location: Location, cells: list) -> dict | BadLine:
        width = len(self._names)
        if width == 1 and any(cells[1:]):
            raise DataError(
                f"{location}: cells beside the only name {shown(self._names[0])}; if that is a title, delete all above the row that "
                "names the columns"
            )
        if len(cells) != self._width and (len(cells) < width or any(cells[width:])):
            return BadLine(location, f"{len(cells)} cells, but the header names {self._width} columns")
        if any(_has_surrogates(cell) for cell in cells):
            return BadLine(location, f"not UTF-8; {NOT_UTF8}")
        if any(cells[width:]):
            return BadLine(location, f"a cell below no name in the header: {shown(next(filter(None, cells[width:])))}")
        row = {name: _cell(cell) for name, cell in zip(self._names, cells, strict=False)}
        for number in self._index:
            cell = "" if cells[number] is None else str(cells[number])
            if cell.isdigit() or not cell.strip():  # anything else is an unknown column, which is a fault
                del row[self._names[number]]
        return row


def _separator(path: str | os.PathLike, sample: list[str], usual: str) -> tuple[str, int]:
    """The character between the cells, and how many lines stand before the header: Excel writes `sep=;` into one.

    The usual one is kept unless it makes no table and another one does: the same number of cells, at least two, in the
    header and in nine of ten rows. So a text with semicolons is never cut while the header names its columns by commas.
    """
    if sample and (declared := re.fullmatch(r"\"?sep=(.)\"?[;,\t|]*[\r\n]*", sample[0], re.IGNORECASE)):
        return (declared[1] if declared[1] in SEPARATORS else usual), 1
    fits = {separator: _fit(sample, separator) for separator in SEPARATORS}
    if fits[usual] >= 0.9:
        return usual, 0
    others = [separator for separator, fit in fits.items() if fit >= 0.9 and separator != usual]
    if len(others) > 1:
        others = [separator for separator in others if fits[separator] == 1] if len(set(map(fits.get, others))) > 1 else others
    if len(others) > 1:
        kinds = " or ".join(SEPARATORS[separator] for separator in others)
        raise DataError(
            f"{path}:1: its cells may be separated by {kinds}; must be plain: begin the file with the line sep={others[0]}"
        )
    return (others or [usual])[0], 0


def _fit(sample: list[str], separator: str) -> float:
    """The share of the sample's rows with as many cells as the header, where these are at least two; else 0."""
    widths, reader = [], csv.reader(iter(sample), delimiter=separator, strict=True)
    try:
        for cells in islice(reader, _SAMPLE_ROWS):
            if any(cell.strip() for cell in cells):
                widths.append(len(cells))
    except csv.Error:  # a quote that closes below the sample, or never
        pass
    if not widths or widths[0] < 2:
        return 0.0
    return sum(width == widths[0] for width in widths[1:]) / (len(widths) - 1) if len(widths) > 1 else 1.0


def _header(path: str | os.PathLike, reader: Iterator[list[str]], skipped: int) -> list[str]:
    try:
        header = next(reader)
    except StopIteration:
        raise NoRows(f"{path}: the file holds no rows") from None
    except csv.Error as error:
        raise DataError(f"{path}:{1 + skipped}: {_not_a_row(error)}") from None
    if any(map(_has_surrogates, header)):
        raise DataError(f"{path}:{1 + skipped}: not UTF-8; {NOT_UTF8}")
    _check_names(f"{path}:{1 + skipped}", header)
    return header


def _check_names(place: str, names: list[str]) -> None:
    if names and names[0].startswith('{"'):
        raise DataError(f"{place}: an object where the names of the columns must be: these are JSON lines; name the file .jsonl")
    named = [name for name in names if name.strip()]
    if len(set(named)) != len(named):
        raise DataError(f"{place}: two columns have the same name: {shown(names)}")
    if not named:
        raise DataError(f"{place}: no column has a name; the first row must name the columns")
    first_unnamed = next((number for number, name in enumerate(names) if not name.strip() and number), None)
    if first_unnamed is not None and any(name.strip() for name in names[first_unnamed:]):
        raise DataError(
            f"{place}: column {first_unnamed + 1} of {len(names)} has no name; must have one, if data.columns.ignore is to name it; or delete what "
            "is above the row of column names"
        )


class _RowLines:
    """A table's lines for the csv module; those of one row are at most MAX_LINE_BYTES characters together.

    Attributes:
        number: of the last line.
        taken: the lines of the row that is being read.
        sample: the first lines, looked at ahead.
    """

    def __init__(self, file: TextIO):
        self.number, self.taken, self._file, self._again = 0, [], file, deque()
        self.sample, size = [], 0
        while size <= MAX_LINE_BYTES and len(self.sample) < 5 * _SAMPLE_ROWS and (line := file.readline(MAX_LINE_BYTES + 1)):
            self.sample.append(line)
            size += len(line)
        self._lines, self._length = iter(self.sample), 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines, None)
        if line is None:
            line = self._file.readline(MAX_LINE_BYTES + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.taken.append(line)
        self._length += len(line)
        if self._length > MAX_LINE_BYTES:
            raise csv.Error(f"longer than {MAX_LINE_BYTES:,} characters")
        return line

    def begin_row(self) -> None:
        """Count the lines of a row from here on."""
        self.taken, self._length = [], 0

    def first_alone(self, separator: str, width: int) -> list[str] | None:
        """The cells of the first line of what was read as one row, where each line has a row's tabs: then quotes are text.

        The other lines are read again. None where they are no rows.
        """
        first, *others = self.taken
        rows = [first, *(line for line in others if line.strip())]
        if separator != "\t" or width < 2 or any(line.count("\t") != width - 1 or len(line) > MAX_LINE_BYTES for line in rows):
            return None
        self._again.extendleft(reversed(others))
        self.number -= len(others)
        cells = first.rstrip("\r\n").split("\t")
        return [cell[1:-1].replace('""', '"') if _QUOTED.fullmatch(cell) else cell for cell in cells]


def _not_a_row(error: csv.Error) -> str:
    """What is wrong, in words; "unexpected end of data" are the csv module's for a quote that nothing closes."""
    reason = printable(str(error)).replace("unexpected end of data", 'a cell opens with " and nothing closes it')
    return f"not a table row ({reason})"


def _has_surrogates(cell: object) -> bool:
    return isinstance(cell, str) and any("\udc80" <= character <= "\udcff" for character in cell)


def _cell(cell: object) -> object:
    """An empty cell is null; a cell that is a JSON list of strings is a list, so that a table can hold several negatives."""
    if not isinstance(cell, str):
        return cell
    if not cell:
        return None
    if cell.startswith("[") and cell.endswith("]"):
        try:
            value = json.loads(cell)
        except (ValueError, RecursionError):  # the latter: thousands of brackets
            return cell
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
    return cell
