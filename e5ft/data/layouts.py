"""Which columns of a source are query, document, hard negatives and scores: the field's formats, found by the columns' names.

A format is found by itself only where exactly one reading explains every column; `data.format` and `data.columns` always
win. What cannot be decided is refused in one message whose lines can be pasted back.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from e5ft.data.column_names import (
    DOCUMENTS,
    FIRST_SENTENCES,
    QUERIES,
    are_values,
    can_be_typed,
    fold,
    is_label,
    is_negative,
    present,
    quoted,
)
from e5ft.data.row_formats import BY_NAME, FORMATS, Format, Layout
from e5ft.data.settings import Columns, Reading
from e5ft.errors import DataError
from e5ft.settings import nearest, override


class UnknownColumns(DataError):
    """Columns that the one reading there is does not explain; `ignoring` are the settings that leave them out."""

    def __init__(self, message: str, ignoring: Columns):
        super().__init__(message)
        self.ignoring = ignoring


_SHORTEST_TEXT = 5  # characters on average; what is shorter is a number or a key


def find_layout(source: object, rows: Sequence[Mapping], columns: Columns, reading: Reading) -> Layout:
    """Decide how a source's columns are read.

    Args:
        source: for messages.
        rows: the first ones, unchecked; at least one.
        columns: named ones, and those to ignore.
        reading: its `format` may name the format.

    Raises:
        DataError: no reading explains all columns, or several do.
    """
    counts = Counter(name for row in rows for name in row)
    names = tuple(counts)
    # A name in few of the rows is those rows' fault.
    common = tuple(name for name in names if 2 * counts[name] >= len(rows)) or names
    if reading.format != "auto" or columns.mapped:
        return _told(source, names, common, columns, BY_NAME["standard" if reading.format == "auto" else reading.format])
    for there in (names, common):
        found = _explaining(there, columns)
        if len(found) == 1:
            return found[0]
        if found:
            lines = " or ".join(_line(layout, there, columns) for layout in found)
            raise DataError(f"{source}: {quoted(there)} can be read in {len(found)} ways; type one: {lines}")
    ignoring = dataclasses.replace(columns, ignore=(*columns.ignore, *_unexplained(common, columns)))
    message = f"{source}: {_not_found(common, columns, rows)}"
    raise UnknownColumns(message, ignoring) if len(_explaining(common, ignoring)) == 1 else DataError(message)


def as_spelt(columns: Columns, rows: Sequence[Mapping]) -> Columns:
    """The named columns as a source spells them: capitals, spaces around, and letters that a Mac wrote in parts do not matter."""
    names = dict.fromkeys(name for row in rows for name in row)
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(fold(name), []).append(name)

    def spelt(given):
        if given is None or given in names:
            return given
        if isinstance(given, tuple):
            return tuple(map(spelt, given))
        found = alike.get(fold(given), ())
        return found[0] if len(found) == 1 else given

    return dataclasses.replace(columns, **{field: spelt(given) for field, given in vars(columns).items()})


def unknown_words(names: Sequence[str], layout: Layout, columns: Columns) -> str:
    """What to say of columns that nothing explains, and what to type."""
    shown = f"unknown column{'s' * (len(names) > 1)} {quoted(names)}"
    labels = [name for name in names if is_label(name)]
    negatives = [name for name in names if is_negative(name)]
    rest = [name for name in names if name not in labels]
    words = [shown]
    if labels:
        answers = f"{quoted(labels)}: rows must hold only answers as documents"
        if layout.negatives and layout.format.name != "standard":
            scores = f"; a list of a teacher's scores: {override('data.columns.scores', labels[0])}"
            words.append(f"{answers}; what is none belongs among the hard negatives{scores}")
        else:
            words.append(f"{answers}; data.format=labelled reads 1 as one and 0 as none")
    if negatives and can_be_typed(negatives):
        every = (*(name for name in layout.negatives if columns.hard_negative), *negatives)
        words.append(f"hard negatives: {override('data.columns.hard_negative', every if len(every) > 1 else every[0])}")
    if labels and can_be_typed(names):
        words.append(f"if all are answers: {override('data.columns.ignore', (*columns.ignore, *labels, *rest))}")
    elif rest and can_be_typed(rest):
        it = "them" if len(rest) > 1 else "it"
        words.append(f"to leave {it} out: {override('data.columns.ignore', (*columns.ignore, *rest))}")
    elif rest:
        words.append("to leave them out: data.columns.ignore")
    return "; ".join(words)


def _told(source: object, names: tuple[str, ...], common: tuple[str, ...], columns: Columns, chosen: Format) -> Layout:
    layouts = sorted(chosen.readings(names, columns), key=lambda layout: len(set(names) - layout.known))
    if not layouts:
        raise DataError(
            f"{source}: data.columns: {quoted(names)}: query, document, hard_negative and scores must be different columns"
        )
    layout = layouts[0]
    named = {"query": columns.query, "document": columns.document}
    for field, name in named.items():
        if name is not None and name not in names:
            raise DataError(f"{source}: {override(f'data.columns.{field}', name)}: no such column{nearest(name, names[:99])}")
    for name in layout.needs():
        if name not in names:
            start = f"column {name!r} is missing" if columns.mapped else f"data.format={chosen.name}: column {name!r} is missing"
            raise DataError(f"{source}: {start}; there are {quoted(names)} (data.columns maps names)")
    unknown = [name for name in common if name not in layout.known]
    if unknown:
        ignoring = dataclasses.replace(columns, ignore=(*columns.ignore, *unknown))
        raise UnknownColumns(f"{source}: {unknown_words(unknown, layout, columns)}", ignoring)
    return layout


def _explaining(names: Sequence[str], columns: Columns) -> list[Layout]:
    """The readings that explain every column, those of one meaning once."""
    meanings = {}
    for layout in _possible(names, columns):
        if layout.known.issuperset(names):
            roles = frozenset(name for name in layout.roles if name in names)
            meanings.setdefault((layout.query, layout.document, layout.label, roles), layout)
    return list(meanings.values())


def _possible(names: Sequence[str], columns: Columns) -> list[Layout]:
    """The readings whose columns are there, whatever else there is."""
    there = set(names) - set(columns.ignore)
    return [layout for each in FORMATS for layout in each.readings(names, columns) if there.issuperset(layout.needs())]


def _not_found(names: tuple[str, ...], columns: Columns, rows: Sequence[Mapping]) -> str:
    """What to say where no reading explains all columns."""
    readings = _possible(names, columns)
    if not readings:
        if are_values(names):
            return f"{quoted(names)}: texts or numbers where the names of the columns must be; put a line of names before them: query,document"
        guess = _guess(names, rows, columns)
        if guess is None:
            return f"{quoted(names) or 'no column'}: no two columns of texts; a row is a query and a document that answers it, as texts"
        return f"{quoted(names)}: no known format; name the query's and the document's column, {guess}"

    def unread(layout: Layout) -> tuple[int, int]:  # a label is no column that a reading lacks
        left = set(names) - layout.known
        return sum(not is_label(name) for name in left), len(left)

    fewest = min(map(unread, readings))
    best: dict[tuple, Layout] = {}
    for layout in readings:
        if unread(layout) == fewest:
            best.setdefault((layout.query, layout.document), layout)
    unknown = [[name for name in names if name not in layout.known] for layout in best.values()]
    if len(best) == 1 and can_be_typed(names):
        ((layout, left),) = zip(best.values(), unknown, strict=True)
        mapping = _mapping(layout)
        kept = _explaining([name for name in names if name in layout.known], columns)
        words = unknown_words(left, layout, columns)
        return words if len(kept) == 1 else f"{words} {mapping}"
    if not can_be_typed(names):
        return unknown_words(unknown[0], next(iter(best.values())), columns)
    lines = " or ".join(_line(layout, names, columns) for layout in best.values())
    return f"{quoted(names)} can be read in {len(best)} ways; type one: {lines}"


def _unexplained(names: tuple[str, ...], columns: Columns) -> list[str]:
    """What the fullest reading leaves over, labels aside, which nobody is told to ignore."""
    readings = _possible(names, columns)
    left = min(([name for name in names if name not in layout.known] for layout in readings), key=len, default=[])
    return [name for name in left if not is_label(name)]


def _line(layout: Layout, names: Sequence[str], columns: Columns) -> str:
    """The settings that choose a reading."""
    left = [name for name in names if name not in layout.known and not is_label(name)]
    ignore = [override("data.columns.ignore", (*columns.ignore, *left))] if left else []
    return " ".join([_mapping(layout), *ignore])


def _mapping(layout: Layout) -> str:
    if layout.format.name != "named":
        return "data.format=standard" if layout.format.name == "standard" else f"data={layout.format.name}"
    fields = {"query": layout.query, "document": layout.document}
    if layout.negatives:
        fields["hard_negative"] = layout.negatives if len(layout.negatives) > 1 else layout.negatives[0]
    return " ".join(override(f"data.columns.{field}", name) for field, name in fields.items() if name != field)


def _guess(names: tuple[str, ...], rows: Sequence[Mapping], columns: Columns) -> str | None:
    """Settings for columns of unknown names: the first texts are the queries, the longest others the documents; None without two."""
    if not can_be_typed(names):
        return "data.columns.query=NAME data.columns.document=NAME"
    lengths = {
        name: sum(len(str(row[name])) for row in rows if isinstance(row.get(name), str | list)) / len(rows)
        for name in names
        if name not in columns.ignore and not is_label(name)
    }
    negatives = [name for name in lengths if is_negative(name) and lengths[name] >= _SHORTEST_TEXT]
    texts = [name for name, length in lengths.items() if length >= _SHORTEST_TEXT and name not in negatives]
    texts = [
        name for name in texts if len(rows) < 3 or len({str(row.get(name)) for row in rows}) > 1
    ]  # an instruction is no query
    query = next(iter([*present(QUERIES, texts), *present(FIRST_SENTENCES, texts), *texts]), None)
    for each in FORMATS[1:-2]:  # of a format all but the query's name
        known = {*each.document, *each.negatives, *each.scores, *each.others}
        named = next((name for name in texts if name not in known), None)
        if present(each.document, names) and named is not None:
            return f"data={each.name} {override('data.columns.query', named)}"
    others = [name for name in texts if name != query]
    document = next(iter(present(DOCUMENTS, others)), None) or max(others, key=lengths.get, default=None)
    if query is None or document is None:
        return None
    rest = [name for name in lengths if name not in (query, document, *negatives)]
    labelled = ["data=labelled"] if any(map(is_label, names)) else []
    parts = [*labelled, override("data.columns.query", query), override("data.columns.document", document)]
    if negatives and not labelled:
        parts.append(override("data.columns.hard_negative", negatives if len(negatives) > 1 else negatives[0]))
    return f"for instance {' '.join([*parts, *([override('data.columns.ignore', (*columns.ignore, *rest))] if rest else [])])}"
