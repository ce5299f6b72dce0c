"""The formats in which rows arrive (JSON lines, CSV, TSV, Parquet, a hub data set), each read into raw rows with their location."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from e5ft.data.lines import MAX_LINE_BYTES, BadLine, Location, is_file, printable, read_json_lines
from e5ft.data.settings import Reading
from e5ft.errors import DataError
from e5ft.settings import shown

JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
TABLE_SUFFIXES = (".csv", ".tsv")
SUFFIXES = (*JSON_SUFFIXES, *TABLE_SUFFIXES, ".parquet")


def raw_rows(source: str | os.PathLike, reading: Reading) -> Iterator[tuple[Location, dict | BadLine]]:
    """Yield every row of a source as a mapping of its columns, unchecked; see `e5ft.data.rows.read_rows`."""
    known_path = is_file(source) or Path(source).is_dir()
    suffix = Path(source).suffix.lower()
    if suffix in JSON_SUFFIXES:
        return read_json_lines(source)
    if suffix in TABLE_SUFFIXES:
        return _read_table(source, "\t" if suffix == ".tsv" else ",")
    if suffix == ".parquet":
        return _read_parquet(source)
    if known_path:
        raise DataError(f"{source}: unknown kind of file; {', '.join(SUFFIXES)} are read")
    return _read_hub(source, reading.split)


def _read_table(path: str | os.PathLike, delimiter: str) -> Iterator[tuple[Location, dict | BadLine]]:
    try:
        # Bytes that are not UTF-8 become lone surrogates, which _table_row reports with their line.
        file = open(path, encoding="utf-8", errors="surrogateescape", newline="")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))  # one for the process: never lowered
    with file:
        lines = _RowLines(file)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        header = _header(path, reader)
        empty = True
        while True:
            location = Location(path, reader.line_num + 1)
            lines.left = MAX_LINE_BYTES
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as error:  # the lines after it may be pieces of a cell, and would pass for rows
                raise DataError(
                    f"{location}: {_not_a_row(error)}, so that where the next row begins is unknown; "
                    'write a " inside a cell as "", and close every " that opens a cell'
                ) from None
            if cells:
                empty = False
                yield location, _table_row(location, header, cells)
        if empty:
            raise DataError(f"{path}: the file holds no rows below its header")


def _header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    try:
        header = next(reader)
    except StopIteration:
        raise DataError(f"{path}: the file holds no rows") from None
    except csv.Error as error:
        raise DataError(f"{path}:1: {_not_a_row(error)}") from None
    if _not_utf8(header):
        raise DataError(f"{path}:1: not UTF-8; convert the file, for instance from CP949")
    if header and header[0].startswith("\ufeff"):
        raise DataError(f"{path}:1: the file begins with a byte order mark; save it as UTF-8 without BOM")
    if len(set(header)) != len(header):
        raise DataError(f"{path}:1: a column name stands twice: {shown(header)}")
    return header


class _RowLines:
    """A table's lines for the csv module; those of one row are at most MAX_LINE_BYTES characters together.

    Attributes:
        left: how many characters the row that is being read may still have.
    """

    def __init__(self, file: TextIO):
        self.left, self._file = MAX_LINE_BYTES, file

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(self.left + 1)
        if not line:
            raise StopIteration
        if len(line) > self.left:
            raise csv.Error(f"longer than {MAX_LINE_BYTES:,} characters")
        self.left -= len(line)
        return line


def _not_a_row(error: csv.Error) -> str:
    """What is wrong, in words; "unexpected end of data" are the csv module's for a quote that nothing closes."""
    reason = printable(str(error)).replace("unexpected end of data", 'a cell opens with " and nothing closes it')
    return f"not a table row ({reason})"


def _table_row(location: Location, header: list[str], cells: list[str]) -> dict | BadLine:
    if len(cells) != len(header):
        return BadLine(location, f"{len(cells)} cells, but the header names {len(header)} columns")
    if _not_utf8(cells):
        return BadLine(location, "not UTF-8; convert the file, for instance from CP949")
    return {name: _cell(cell) for name, cell in zip(header, cells, strict=True)}


def _not_utf8(cells: list[str]) -> bool:
    return any("\udc80" <= character <= "\udcff" for cell in cells for character in cell)


def _cell(cell: str) -> object:
    """An empty cell is null; a cell that is a JSON list of strings is a list, so that CSV can hold several negatives."""
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


def _read_parquet(path: str | os.PathLike) -> Iterator[tuple[Location, dict | BadLine]]:
    import pyarrow
    import pyarrow.parquet

    unreadable = (OSError, ValueError, pyarrow.ArrowException)  # ValueError: a column's name is not UTF-8
    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = file.schema_arrow.names
    except unreadable as error:
        raise DataError(f"{path}: not readable as Parquet ({_first_line(error)})") from error
    if len(set(names)) != len(names):
        raise DataError(f"{path}: a column name stands twice: {shown(names)}")
    promised, read = file.metadata.num_rows, 0
    if promised == 0:
        raise DataError(f"{path}: the file holds no rows")
    try:
        for batch in file.iter_batches(batch_size=1000):
            for row in _batch_rows(batch):
                read += 1
                location = Location(path, read)
                yield location, BadLine(location, f"not readable ({row})") if isinstance(row, Exception) else row
    except unreadable as error:
        raise DataError(f"{path}:{read + 1}: cannot be read on ({_first_line(error)})") from error
    if read != promised:
        raise DataError(f"{path}: its footer promises {promised:,} rows, it holds {read:,}; write the file again")


def _first_line(error: Exception) -> str:
    return printable((str(error).strip() or type(error).__name__).splitlines()[0])


def _batch_rows(batch) -> list[dict | Exception]:
    """A record batch's rows; one with bytes that are no text, a date beyond Python's or an unknown time zone is its error."""
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError) as error:
        if batch.num_rows == 1:
            return [error]
        return [row for index in range(batch.num_rows) for row in _batch_rows(batch.slice(index, 1))]


def _read_hub(name: str, split: str) -> Iterator[tuple[Location, dict]]:
    import datasets

    if name.count("/") > 1 or name.startswith((".", "/", "~")) or name.endswith("/"):
        raise DataError(f"{name}: there is no such file")
    try:
        rows = datasets.load_dataset(name, split=split)
    except Exception as error:  # the library raises a dozen kinds; each means that there are no rows
        raise DataError(
            f"{name}: there is no such file, and no hub data set of that name could be read ({_first_line(error)}); "
            "name a local file (data.train_file=FILE.jsonl)"
        ) from error
    for number, row in enumerate(rows, start=1):
        yield Location(f"{name}[{split}]", number), row
