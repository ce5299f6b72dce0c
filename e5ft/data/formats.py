"""Files of every kind, and hub data sets, read into raw rows with their location."""

import os
import re
from collections.abc import Iterator

from e5ft.data.json_files import read_json_file
from e5ft.data.lines import BadLine, Location, NoRows, Told, is_file, printable
from e5ft.data.opening import kind_of
from e5ft.data.settings import AS_IS, Reading
from e5ft.data.shards import JSON_SUFFIXES, Names, display, find_shards, unread
from e5ft.data.tables import read_table, read_workbook
from e5ft.errors import DataError
from e5ft.settings import shown

_PANDAS_INDEX = "__index_level_"  # how pandas names an index in a Parquet file
_BATCH = 1000
_CHOICES = {"Config name is missing": "config", "BuilderConfig": "config", "Unknown split": "split"}  # datasets' words


def raw_rows(source: Names, reading: Reading, notes: list[tuple[str, str]]) -> Iterator[tuple[Location, dict | BadLine]]:
    """Yield every row of a source as a mapping of its columns, unchecked; see `e5ft.data.rows.read_rows`.

    Args:
        source: as of `find_shards`; no URLs.
        reading: how it is read.
        notes: takes what was understood, while it is read.
    """
    shards, told = find_shards(source, reading), Told(display(source), notes)
    if len(shards) > 1 or (isinstance(source, str | os.PathLike) and os.fspath(source) != os.fspath(shards[0])):
        names = [os.path.basename(shard) for shard in shards]
        told.say(
            f"{len(shards):,} files, {names[0]} to {names[-1]}" if len(shards) > 1 else f"the file {names[0]}",
            *unread(source, shards),
        )
    empty = []
    for shard in shards:
        try:
            yield from _rows_of(shard, reading, told)
        except NoRows as error:  # an empty file among others is nothing
            empty.append(error)
            if len(empty) == len(shards):
                raise
            told.count("empty file")
    told.close()


def sound_rows(path: str | os.PathLike, reading: Reading = AS_IS) -> Iterator[tuple[Location, dict]]:
    """Yield every row of a file none of whose rows may be faulty.

    Raises:
        BadLine: one is.
    """
    for location, value in raw_rows(path, reading, []):
        if isinstance(value, BadLine):
            raise value
        yield location, value


def _rows_of(path: str | os.PathLike, reading: Reading, told: Told) -> Iterator[tuple[Location, dict | BadLine]]:
    kind = kind_of(path)
    if not is_file(path):
        return _read_hub(os.fspath(path), reading)
    if kind in JSON_SUFFIXES:
        return read_json_file(path, reading.encoding, told)
    if kind in (".csv", ".tsv"):
        return read_table(path, "\t" if kind == ".tsv" else ",", reading.encoding, told)
    if kind == ".xlsx":
        return read_workbook(path, reading.config, told)
    return _read_parquet(path, told) if kind == ".parquet" else _read_arrow(path)


def _read_parquet(path: str | os.PathLike, told: Told) -> Iterator[tuple[Location, dict | BadLine]]:
    import pyarrow
    import pyarrow.parquet

    unreadable = (OSError, ValueError, pyarrow.ArrowException)  # ValueError: a column's name is not UTF-8
    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = file.schema_arrow.names
    except unreadable as error:
        raise DataError(f"{path}: not readable as Parquet ({_first_line(error)})") from error
    _check_names(path, names)
    chosen = [name for name in names if not name.startswith(_PANDAS_INDEX)]
    if len(chosen) < len(names):
        told.say("index column left out")
    promised, read = file.metadata.num_rows, 0
    if promised == 0:
        raise NoRows(f"{path}: the file holds no rows")
    try:
        for batch in file.iter_batches(batch_size=_BATCH, columns=None if len(chosen) == len(names) else chosen):
            for location, row in _located(path, read, batch):
                read += 1
                yield location, row
    except unreadable as error:
        raise DataError(f"{path}:{read + 1}: cannot be read on ({_first_line(error)})") from error
    if read != promised:
        raise DataError(f"{path}: its footer promises {promised:,} rows, it holds {read:,}; write the file again")


def _read_arrow(path: str | os.PathLike) -> Iterator[tuple[Location, dict | BadLine]]:
    """Yield the rows of an Arrow file, as a stream (what datasets writes) or with a footer."""
    import pyarrow

    unreadable, read = (OSError, ValueError, pyarrow.ArrowException), 0
    try:
        with pyarrow.memory_map(os.fspath(path)) as file:
            if file.read(6) == b"ARROW1":
                reader = pyarrow.ipc.open_file(file)
                batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
            else:
                file.seek(0)
                batches = reader = pyarrow.ipc.open_stream(file)
            _check_names(path, reader.schema.names)
            for batch in batches:
                for start in range(0, batch.num_rows, _BATCH):
                    for location, row in _located(path, read, batch.slice(start, _BATCH)):
                        read += 1
                        yield location, row
    except unreadable as error:
        raise DataError(f"{path}:{read + 1}: not readable as Arrow ({_first_line(error)})") from error
    if not read:
        raise NoRows(f"{path}: the file holds no rows")


def _check_names(path: str | os.PathLike, names: list[str]) -> None:
    if len(set(names)) != len(names):
        raise DataError(f"{path}: two columns have the same name: {shown(names)}")


def _first_line(error: Exception) -> str:
    return printable((str(error).strip() or type(error).__name__).splitlines()[0])


def _located(path: str | os.PathLike, before: int, batch) -> Iterator[tuple[Location, dict | BadLine]]:
    for number, row in enumerate(_batch_rows(batch), start=before + 1):
        location = Location(path, number)
        yield location, BadLine(location, f"not readable ({row})") if isinstance(row, Exception) else row


def _batch_rows(batch) -> list[dict | Exception]:
    """A record batch's rows; one with bytes that are no text, a date beyond Python's or an unknown time zone is its error."""
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError) as error:
        if batch.num_rows == 1:
            return [error]
        return [row for index in range(batch.num_rows) for row in _batch_rows(batch.slice(index, 1))]


def _read_hub(name: str, reading: Reading) -> Iterator[tuple[Location, dict]]:
    import datasets

    try:
        rows = datasets.load_dataset(name, reading.config, split=reading.split, revision=reading.revision)
    except Exception as error:  # the library raises a dozen kinds; each means that there are no rows
        there = re.search(r"\[('[^\]]*')\]", str(error))
        field = next((field for words, field in _CHOICES.items() if words in str(error)), None)
        if there and field:
            first = there[1].split("'")[1]
            asked = getattr(reading, field)
            what = "several configurations" if asked is None else f"no such data.{field}={asked}"
            raise DataError(f"{name}: {what}; there are {there[1].replace(chr(39), '')}: data.{field}={first}") from error
        raise DataError(
            f"{name}: there is no such file, and no hub data set of that name could be read ({_first_line(error)}); "
            "name a local file (data.train_file=FILE.jsonl)"
        ) from error
    place = f"{name}[{reading.split}]" if reading.config is None else f"{name}[{reading.config}/{reading.split}]"
    for number, row in enumerate(rows, start=1):
        yield Location(place, number), row
