"""Read a user's rows, strictly: JSON lines, CSV, TSV, Parquet or a hub data set, through one column mapping.

A row is a query, one or more documents that answer it, any number of hard negatives, and perhaps a teacher's scores of
them. Every row read is either accepted or a `Fault` with its place; nothing is guessed.
"""

import contextlib
import csv
import dataclasses
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

from e5ft.data.lines import MAX_LINE_BYTES, Fault, check_text, is_file, printable, read_json_lines
from e5ft.data.settings import Columns
from e5ft.data.text import text_id
from e5ft.errors import DataError

JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
TABLE_SUFFIXES = (".csv", ".tsv")
_NO_CLOSING_QUOTE = "unexpected end of data"  # the csv module's words
LARGEST_SCORE = 3.4e38  # of float32, in which scores are kept
SUFFIXES = (*JSON_SUFFIXES, *TABLE_SUFFIXES, ".parquet")


@dataclasses.dataclass(frozen=True)
class Row:
    """A validated row. `positives` is never empty; texts are as in the file (normalised where they are used).

    `scores` are a teacher's, of the positives and then the negatives; empty where there are none.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()


def read_rows(source: str | os.PathLike, columns: Columns, split: str = "train") -> Iterator[tuple[str, Row | Fault]]:
    """Yield every row of a source.

    Args:
        source: a file (.jsonl, .json, .ndjson, .csv, .tsv, .parquet) or the name of a hub data set.
        columns: the mapping.
        split: of a hub data set; not used for files.

    Yields:
        `(place, Row)` or `(place, Fault)`.

    Raises:
        DataError: the source as a whole cannot be read.
    """
    there = is_file(source) or Path(source).is_dir()
    suffix = Path(source).suffix.lower()
    if suffix in JSON_SUFFIXES:
        raw = read_json_lines(source)
    elif suffix in TABLE_SUFFIXES:
        raw = _read_table(source, "\t" if suffix == ".tsv" else ",")
    elif suffix == ".parquet":
        raw = _read_parquet(source)
    elif there:
        raise DataError(f"{source}: unknown kind of file; {', '.join(SUFFIXES)} are read")
    else:
        raw = _read_hub(source, split)
    for place, value in raw:
        if isinstance(value, Fault):
            yield place, value
            continue
        try:
            yield place, validate(place, value, columns)
        except Fault as fault:
            yield place, fault


def validate(place: str, raw: Mapping, columns: Columns) -> Row:
    """Check one raw row.

    Raises:
        Fault: an unknown column, a missing, blank or mistyped field, a document that is its own hard negative, or scores
            that are not as many as the texts they belong to.
    """
    if not columns.known.issuperset(raw):
        unknown = next(name for name in raw if name not in columns.known)
        raise Fault(place, f"unknown column {unknown!r}; map it in data.columns or name it in data.columns.ignore")
    for name in (columns.query, columns.document):
        if name not in raw:
            raise Fault(
                place, f"column {name!r} is missing; there are {', '.join(map(repr, raw)) or 'none'} (data.columns maps names)"
            )
    query = check_text(place, columns.query, raw[columns.query])
    positives = _texts(place, columns.document, raw[columns.document])
    if not positives:
        raise Fault(place, f"{columns.document} is an empty list; at least one passage must answer the query")
    negatives = _texts(place, columns.hard_negative, raw.get(columns.hard_negative), optional=True)
    answers = {text_id(text) for text in positives}
    for text in negatives:
        if text_id(text) in answers:
            raise Fault(place, f"{columns.hard_negative} equals {columns.document}: {text[:60]!r}")
    scores = _scores(place, columns, raw.get(columns.scores), len(positives), len(negatives))
    return Row(query, positives, negatives, scores)


def _scores(place: str, columns: Columns, value: object, positives: int, negatives: int) -> tuple[float, ...]:
    if isinstance(value, str):  # a table's cell
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or any(isinstance(v, bool) or not isinstance(v, int | float) for v in value):
        raise Fault(place, f"{columns.scores} must be a list of numbers or null, this is {str(value)[:60]!r}")
    if len(value) != positives + negatives:
        raise Fault(
            place,
            f"{columns.scores} holds {len(value)} numbers; {positives + negatives} are needed, one for each {columns.document} "
            f"({positives}) and then one for each {columns.hard_negative} ({negatives})",
        )
    if not all(-LARGEST_SCORE <= v <= LARGEST_SCORE for v in value):
        raise Fault(place, f"{columns.scores} holds NaN, an infinity or a number beyond float32: {str(value)[:60]}")
    return tuple(float(v) for v in value)


def _texts(place: str, field: str, value: object, optional: bool = False) -> tuple[str, ...]:
    if optional and value is None:
        return ()
    if isinstance(value, dict) and "doc_id" in value:
        raise Fault(place, f"{field} holds passage ids (doc_id); the passages' texts are needed in their place")
    if isinstance(value, list | tuple):
        return tuple(check_text(place, f"{field}[{i}]", text) for i, text in enumerate(value))
    return (check_text(place, field, value),)


def _read_table(path: str | os.PathLike, delimiter: str) -> Iterator[tuple[str, dict | Fault]]:
    try:
        # Bytes that are not UTF-8 become lone surrogates, which _table_row reports with their line.
        file = open(path, encoding="utf-8", errors="surrogateescape", newline="")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    with file:
        reader = csv.reader(_bounded_lines(path, file), delimiter=delimiter, strict=True)
        header = _header(path, reader)
        found = False
        while True:
            place = f"{path}:{reader.line_num + 1}"
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                if str(error) == _NO_CLOSING_QUOTE:  # all lines after it stand in one cell: rows that nobody would miss
                    raise DataError(
                        f'{place}: a cell opens with " here and nothing closes it to the end of the file (line {reader.line_num}); '
                        'close it, or write a " inside a cell as ""'
                    ) from None
                found = True
                yield place, Fault(place, f"not a table row ({error})")
                continue
            if not cells:
                continue
            found = True
            yield place, _table_row(place, header, cells)
        if not found:
            raise DataError(f"{path}: the file holds no rows below its header")


def _header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    try:
        header = next(reader)
    except StopIteration:
        raise DataError(f"{path}: the file holds no rows") from None
    except csv.Error as error:
        raise DataError(f"{path}:1: not a table ({printable(str(error))})") from None
    if _not_utf8(header):
        raise DataError(f"{path}:1: not UTF-8; convert the file, for instance from CP949")
    if header and header[0].startswith("\ufeff"):
        raise DataError(f"{path}:1: the file begins with a byte order mark; save it as UTF-8 without BOM")
    if len(set(header)) != len(header):
        raise DataError(f"{path}:1: a column name stands twice: {header}")
    return header


def _bounded_lines(path: Path, file: TextIO) -> Iterator[str]:
    for number in itertools.count(1):
        line = file.readline(MAX_LINE_BYTES)
        if len(line) == MAX_LINE_BYTES and not line.endswith(("\n", "\r")):
            raise DataError(f"{path}:{number}: the line is longer than {MAX_LINE_BYTES:,} characters; one row a line is needed")
        if not line:
            return
        yield line


def _table_row(place: str, header: list[str], cells: list[str]) -> dict | Fault:
    if len(cells) != len(header):
        return Fault(place, f"{len(cells)} cells, but the header names {len(header)} columns")
    if _not_utf8(cells):
        return Fault(place, "not UTF-8; convert the file, for instance from CP949")
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


def _read_parquet(path: str | os.PathLike) -> Iterator[tuple[str, dict | Fault]]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = file.schema_arrow.names
    except (OSError, ValueError, pyarrow.ArrowException) as error:  # ValueError: a column's name is not UTF-8
        raise DataError(f"{path}: not readable as Parquet ({_first_line(error)})") from error
    if len(set(names)) != len(names):
        raise DataError(f"{path}: a column name stands twice: {names}")
    number = itertools.count(1)
    if file.metadata.num_rows == 0:
        raise DataError(f"{path}: the file holds no rows")
    try:
        for batch in file.iter_batches(batch_size=1000):
            for row in _batch_rows(batch):
                place = f"{path}:{next(number)}"
                yield place, Fault(place, f"not readable ({row})") if isinstance(row, Exception) else row
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}:{next(number)}: cannot be read on ({_first_line(error)})") from error
    read = next(number) - 1
    if read != file.metadata.num_rows:
        raise DataError(f"{path}: its footer promises {file.metadata.num_rows:,} rows, it holds {read:,}; write the file again")


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


def _read_hub(name: str, split: str) -> Iterator[tuple[str, dict]]:
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
        yield f"{name}[{split}]:{number}", row
