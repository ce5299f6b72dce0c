"""Read a user's rows, strictly: JSON lines, CSV, TSV, Parquet or a hub data set, through one column mapping.

A row is a query, one or more documents that answer it, any number of hard negatives, and perhaps a teacher's scores of
them. Every row read is either accepted or a `BadLine` with its location; nothing is guessed.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping

from e5ft.data.formats import raw_rows
from e5ft.data.lines import BadLine, Location, check_text
from e5ft.data.settings import Columns, Reading
from e5ft.data.shards import Names
from e5ft.data.text import text_id

LARGEST_SCORE = 3.4e38  # of float32, in which scores are kept
_AS_IS = Reading()


@dataclasses.dataclass(frozen=True)
class Row:
    """A validated row. `positives` is never empty; texts are as in the file (normalised where they are used).

    `scores` are a teacher's, of the positives and then the negatives; empty where there are none. The ids are each text's
    `text_id`, made while the row is checked and empty in a row that was not read from a source.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    positive_ids: tuple[int, ...] = dataclasses.field(default=(), compare=False, repr=False)
    negative_ids: tuple[int, ...] = dataclasses.field(default=(), compare=False, repr=False)


def read_rows(
    source: Names, columns: Columns, reading: Reading = _AS_IS, notes: list[tuple[str, str]] | None = None
) -> Iterator[tuple[Location, Row | BadLine]]:
    """Yield every row of a source with its location.

    Args:
        source: a file, a list or folder of files, or the name of a hub data set; see `find_shards`.
        columns: the mapping.
        reading: how the source is read.
        notes: takes what was understood of it, (name, text), while it is read.

    Yields:
        `(location, Row)` or `(location, BadLine)`.

    Raises:
        DataError: the source as a whole cannot be read.
    """
    for location, value in raw_rows(source, reading, [] if notes is None else notes):
        try:
            yield location, value if isinstance(value, BadLine) else validate(location, value, columns)
        except BadLine as bad_line:
            yield location, bad_line


def validate(location: Location | str, raw: Mapping, columns: Columns) -> Row:
    """Check one raw row.

    Raises:
        BadLine: an unknown column, a missing, blank or mistyped field, a document that is its own hard negative, or scores
            that are not as many as the texts they belong to.
    """
    if not columns.known.issuperset(raw):
        unknown = next(name for name in raw if name not in columns.known)
        raise BadLine(location, f"unknown column {unknown!r}; map it in data.columns or name it in data.columns.ignore")
    for name in (columns.query, columns.document):
        if name not in raw:
            present = ", ".join(map(repr, raw)) or "none"
            raise BadLine(location, f"column {name!r} is missing; there are {present} (data.columns maps names)")
    query = check_text(location, columns.query, raw[columns.query])
    positives = _texts(location, columns.document, raw[columns.document])
    if not positives:
        raise BadLine(location, f"{columns.document} is an empty list; at least one passage must answer the query")
    negatives = raw.get(columns.hard_negative)
    negatives = () if negatives is None else _texts(location, columns.hard_negative, negatives)
    positive_ids, negative_ids = tuple(map(text_id, positives)), tuple(map(text_id, negatives))
    for text, identity in zip(negatives, negative_ids, strict=True):
        if identity in positive_ids:
            raise BadLine(location, f"{columns.hard_negative} equals {columns.document}: {text[:60]!r}")
    scores = _scores(location, columns, raw.get(columns.scores), len(positives), len(negatives))
    return Row(query, positives, negatives, scores, positive_ids, negative_ids)


def _scores(location: Location | str, columns: Columns, value: object, positives: int, negatives: int) -> tuple[float, ...]:
    if isinstance(value, str):  # a table's cell
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or any(isinstance(v, bool) or not isinstance(v, int | float) for v in value):
        raise BadLine(location, f"{columns.scores} must be a list of numbers or null, this is {str(value)[:60]!r}")
    if len(value) != positives + negatives:
        raise BadLine(
            location,
            f"{columns.scores} holds {len(value)} numbers; must be {positives + negatives}, one for each {columns.document} "
            f"({positives}) and then one for each {columns.hard_negative} ({negatives})",
        )
    if not all(-LARGEST_SCORE <= v <= LARGEST_SCORE for v in value):
        raise BadLine(location, f"{columns.scores} holds NaN, an infinity or a number beyond float32: {str(value)[:60]}")
    return tuple(float(v) for v in value)


def _texts(location: Location | str, field: str, value: object) -> tuple[str, ...]:
    if isinstance(value, dict) and "doc_id" in value:
        raise BadLine(location, f"{field} holds passage ids (doc_id); must be the passages' texts")
    if isinstance(value, list | tuple):
        return tuple(check_text(location, f"{field}[{i}]", text) for i, text in enumerate(value))
    return (check_text(location, field, value),)
