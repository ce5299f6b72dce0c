"""Every text of files of any kind, whatever its role: what a vocabulary must cover."""

import os
from collections.abc import Iterator, Sequence
from itertools import chain

from e5ft.data.cells import text_key
from e5ft.data.column_names import QUERIES, present
from e5ft.data.lines import NOT_UTF8, BadLine, Location, NoRows, check_text, is_file, raw_lines
from e5ft.data.opening import kind_of
from e5ft.data.passages import passage_texts, read_passages
from e5ft.data.rows import read_rows
from e5ft.data.settings import AS_IS, Columns, Reading
from e5ft.errors import ConfigurationError

_STANDARD = Columns()


def all_texts(
    paths: Sequence[str | os.PathLike], columns: Columns = _STANDARD, reading: Reading = AS_IS, field: str = "texts"
) -> Iterator[str]:
    """The texts of files, each as often as it stands there; they are read while they are asked for.

    Args:
        paths: files of rows, of which queries, documents and hard negatives are read; of passages or of queries, with title
            and text; or .txt, in which each line that is not blank is a text.
        columns, reading: of rows, as of `read_rows`.
        field: of the setting, for messages.

    Raises:
        ConfigurationError: at once, a file is not there.
        DataError: while they are read, a file or line is faulty.
    """
    for path in paths:
        if not is_file(path):
            raise ConfigurationError(
                f"{field}={path}: no such file; must be rows (.jsonl, .csv), a corpus.jsonl or queries.jsonl, or lines (.txt)"
            )
    return chain.from_iterable(_texts_of(path, columns, reading) for path in paths)


def _texts_of(path: str | os.PathLike, columns: Columns, reading: Reading) -> Iterator[str]:
    if kind_of(path) == ".txt":
        return _lines(path, reading.encoding)
    if _are_passages(path, columns, reading):
        return passage_texts(path, reading.encoding)
    return _texts_of_rows(path, columns, reading)


def _are_passages(path: str | os.PathLike, columns: Columns, reading: Reading) -> bool:
    if columns.mapped or reading.format != "auto":
        return False
    _, first = next(read_passages(path, Reading(encoding=reading.encoding)))
    # A header of two columns other than a text's reads as MS MARCO's id and text.
    return text_key(first) is not None and not present(QUERIES, [*first, str(first.get("id"))])


def _texts_of_rows(path: str | os.PathLike, columns: Columns, reading: Reading) -> Iterator[str]:
    for _, row in read_rows(path, columns, reading):
        if isinstance(row, BadLine):
            raise row
        yield from (row.query, *row.positives, *row.negatives)


def _lines(path: str | os.PathLike, encoding: str | None) -> Iterator[str]:
    empty = True
    for number, line in enumerate(raw_lines(path, encoding), start=1):
        location = Location(path, number)
        if line is None:
            raise BadLine(location, "the line is too long; must be one text a line")
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadLine(location, f"not UTF-8 (byte {error.start}); {NOT_UTF8}") from None
        if text.strip():
            empty = False
            yield check_text(location, "text", text)
    if empty:
        raise NoRows(f"{path}: the file holds no text")
