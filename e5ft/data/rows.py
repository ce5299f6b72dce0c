"""Read a user's rows, strictly: files of every kind of `e5ft.data.shards` or a hub data set, in any format of `e5ft.data.layouts`.

A row is a query, one or more documents that answer it, any number of hard negatives, and perhaps a teacher's scores of
them. Every row read is either accepted or a `BadLine` with its location; nothing is guessed.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from e5ft.data.column_names import quoted
from e5ft.data.faults import Faults
from e5ft.data.formats import raw_rows
from e5ft.data.labelled import labelled_rows
from e5ft.data.layouts import UnknownColumns, as_spelt, find_layout
from e5ft.data.lines import BadLine, Location
from e5ft.data.looks import look
from e5ft.data.making import Row, RowMaker, Rows
from e5ft.data.opening import OtherEncoding
from e5ft.data.passages import Corpus, have_ids
from e5ft.data.settings import AS_IS, Columns, Reading
from e5ft.data.shards import Names, display
from e5ft.errors import ConfigurationError, DataError

__all__ = ["Row", "read_rows", "row_lines"]
_LOOKED_AT = 1000  # rows that decide how a source is read
_READ_ON = 100_000  # rows that are looked through for further faults
_STANDARD = Columns()


def read_rows(
    source: Names,
    columns: Columns = _STANDARD,
    reading: Reading = AS_IS,
    notes: list[tuple[str, str]] | None = None,
    corpus_file: str | os.PathLike | None = None,
) -> Iterator[tuple[Location, Row | BadLine]]:
    """Yield every row of a source with its location.

    Args:
        source: a file, a list or folder of files, or the name of a hub data set; see `find_shards`.
        columns: those that are named; the format's names, which are found by themselves, for the others.
        reading: how the source is read.
        notes: takes what was understood, as (name, text): the columns before the first row, counts after the last.
        corpus_file: where the one that `reading` names lies, if it is a URL.

    Yields:
        `(location, Row)` or `(location, BadLine)`.

    Raises:
        DataError: the source as a whole cannot be read, or what its columns are cannot be decided.
    """
    notes = [] if notes is None else notes
    name = display(source)
    try:
        head, rows = _beginning(raw_rows(source, reading, notes))
    except OtherEncoding as error:
        then = _refusal(source, columns, dataclasses.replace(reading, encoding=error.encoding))
        raise DataError("\n  ".join(filter(None, [str(error), then]))) from None
    first = [value for _, value in head if isinstance(value, dict)]
    _check_alike(name, head)
    if not first:  # each is a fault of its own, and so are all later ones with other names
        first = [dict.fromkeys((columns.query or "query", columns.document or "document"))]
    columns = as_spelt(columns, first)
    try:
        layout = find_layout(name, first, columns, reading)
        corpus_reading = Reading(encoding=reading.encoding)
        named = corpus_file or reading.corpus_file
        has_ids = named is not None and have_ids(named, corpus_reading)
        layout = look(name, first, layout, columns, reading, has_ids)
    except UnknownColumns as error:  # what else is wrong belongs into the same answer
        raise DataError("\n".join([str(error), *_further(source, error.ignoring, reading)])) from None
    notes.append(("columns", layout.described(tuple(dict.fromkeys(key for row in first for key in row)))))
    corpus = Corpus(named, corpus_reading) if layout.ids else None
    if corpus is not None:
        notes.append(("corpus", f"{len(corpus):,} passages of {corpus.path}, which the rows name by id"))
    maker = RowMaker(layout, columns, corpus)
    try:
        shown = False
        for location, value in labelled_rows(source, reading, rows, maker) if layout.label else maker.rows(name, rows):
            if not shown and isinstance(value, Row):
                notes.append(("first row", value.shown()))
                shown = True
            yield location, value
    finally:
        notes += maker.notes()


def row_lines(rows: Iterable[Row]) -> Iterator[str]:
    """The lines of a file with rows, in the standard columns."""
    for row in rows:
        values = {"query": row.query, "document": list(row.positives), "hard_negative": list(row.negatives)}
        yield json.dumps({**values, "scores": list(row.scores)} if row.scores else values, ensure_ascii=False)


def _refusal(source: Names, columns: Columns, reading: Reading) -> str | None:
    """Why a source as a whole is refused; None where it is not."""
    try:
        next(read_rows(source, columns, reading), None)
    except (DataError, ConfigurationError) as error:
        return str(error)


def _further(source: Names, columns: Columns, reading: Reading) -> list[str]:
    """The faults that a source's first rows have beside its unknown columns, a line for each kind."""
    faults = Faults()
    with contextlib.suppress(DataError):
        for _, value in islice(read_rows(source, columns, reading), _READ_ON):
            if isinstance(value, BadLine):
                faults.add(value)
    return [f"  {line}" for line in faults.lines()]


def _check_alike(name: str, head: list[tuple[Location, dict | BadLine]]) -> None:
    """Refuse files that have no column in common: no reading could fit both."""
    names: dict[str, dict[str, None]] = {}
    for location, value in head:
        if isinstance(value, dict):
            names.setdefault(str(location.source), {}).update(dict.fromkeys(value))
    (first, columns), *others = names.items() or [("", {})]
    for other, its in others:
        if columns and its and not columns.keys() & its.keys():
            raise DataError(
                f"{name}: files of different columns: {first} has {quoted(tuple(columns))}, {other} {quoted(tuple(its))}; "
                f"make each a source (data=mix), or name one: data.train_file={first}"
            )


def _beginning(rows: Rows) -> tuple[list[tuple[Location, dict | BadLine]], Rows]:
    """The first rows, and all rows; a fault of the whole file is raised where it was, behind the rows before it."""
    head = []

    def failing(error: DataError) -> Rows:
        raise error
        yield

    try:
        for item in islice(rows, _LOOKED_AT):
            head.append(item)
        rest = rows
    except DataError as error:
        if not head:
            raise
        rest = failing(error)
    return head, chain(head, rest)
