"""A look at a source's first rows: what its cells hold decides whether its columns mean what their names say."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from e5ft.data.cells import decoded, is_bare_id, is_id, is_null_word, text_key
from e5ft.data.column_names import is_label, is_passage_id
from e5ft.data.passages import as_id
from e5ft.data.row_formats import Layout
from e5ft.data.settings import Columns, Reading
from e5ft.errors import DataError

_FEWEST = 3  # values that show what a column holds
_NEARLY_ALL = 0.95


def look(
    source: object, rows: Sequence[Mapping], layout: Layout, columns: Columns, reading: Reading, corpus_has_ids: bool
) -> Layout:
    """Complete a layout by what its columns hold.

    Args:
        source: for messages.
        rows: the first ones, unchecked.
        layout: as the names say.
        columns: the ignored ones.
        reading: whether the format was found by itself.
        corpus_has_ids: whether there is a corpus in which ids can be looked up.

    Raises:
        DataError: ids stand where texts must, or queries are their own documents.
    """
    passages = (layout.document, *layout.negatives)
    encoded = frozenset(name for name in passages if _is_encoded([row.get(name) for row in rows]))
    layout = dataclasses.replace(layout, encoded=encoded)
    ids = {name: example for name in passages if (example := _id_in(name, rows, layout, corpus_has_ids)) is not None}
    for name, example in ids.items():
        if not corpus_has_ids:
            raise DataError(
                f"{source}: {name} holds what looks like passage ids ({example!r}); the passages' texts are needed: "
                "data.corpus_file=FILE, whose lines have _id and text"
            )
    queries = [row[layout.query] for row in rows if row.get(layout.query) is not None]
    if _share(queries, lambda value: is_bare_id(str(value).strip())) >= _NEARLY_ALL and len(queries) >= _FEWEST:
        raise DataError(f"{source}: {layout.query} holds what looks like ids ({str(queries[0])!r}); must be the queries' texts")
    pairs = [(row.get(layout.query), next(_values(layout, layout.document, row), None)) for row in rows]
    pairs = [pair for pair in pairs if all(isinstance(text, str) and text for text in pair)]
    same = sum(query.strip() == document.strip() for query, document in pairs)
    if len(pairs) >= _FEWEST and 2 * same > len(pairs) and not ids:
        raise DataError(
            f"{source}: {layout.query} and {layout.document} are one text in {same:,} of {len(pairs):,} rows; must be a query and "
            "a passage that answers it: data.columns.document=NAME"
        )
    labels = tuple(name for name in columns.ignore if is_label(name)) if reading.format == "auto" else ()
    return dataclasses.replace(layout, ids=frozenset(ids), ignored_labels=labels)


def _is_encoded(values: Sequence[object]) -> bool:
    cells = [value for value in values if isinstance(value, str) and value and not is_null_word(value)]
    return bool(cells) and _share(cells, lambda cell: decoded(cell) is not None) >= 0.9


def _id_in(name: str, rows: Sequence[Mapping], layout: Layout, corpus_has_ids: bool) -> str | None:
    """An id in a column of ids; None of a column of texts."""
    if layout.format.name == "msmarco":
        return None
    values = [value for row in rows for value in _values(layout, name, row)]
    enough = 1 if corpus_has_ids or is_passage_id(name) else _FEWEST
    shortest = 2 if corpus_has_ids else 4  # "d1" may be a text where nobody says that there are ids
    if len(values) < enough or _share(values, lambda value: _may_be_id(value, shortest)) < _NEARLY_ALL:
        return None
    return next((identity for value in values if (identity := as_id(value)) is not None), None)


def _values(layout: Layout, name: str, row: Mapping) -> Iterator[object]:
    """A column's passages in one row, lists opened."""
    value = row.get(name)
    if isinstance(value, str) and name in layout.encoded:
        value = decoded(value)
    if isinstance(value, dict) and isinstance(value.get("doc_id"), list):
        value = value["doc_id"]
    yield from () if value is None else value if isinstance(value, list) else (value,)


def _may_be_id(value: object, shortest: int) -> bool:
    if isinstance(value, dict):
        return text_key(value) is None and as_id(value) is not None
    return isinstance(value, int) or (isinstance(value, str) and is_id(value.strip(), shortest))


def _share(values: Iterable, test) -> float:
    found = [bool(test(value)) for value in values]
    return sum(found) / len(found) if found else 0.0
