"""Pairs with a label: what is labelled 0 becomes a hard negative of its query's answers."""

import contextlib
from collections.abc import Iterator

from e5ft.data.cells import as_label, is_blank
from e5ft.data.formats import raw_rows
from e5ft.data.lines import BadLine, Location
from e5ft.data.making import Row, RowMaker, Rows
from e5ft.data.passages import Texts
from e5ft.data.settings import Reading
from e5ft.data.shards import Names, display
from e5ft.data.text import text_id
from e5ft.errors import DataError
from e5ft.settings import override


def labelled_rows(source: Names, reading: Reading, rows: Rows, maker: RowMaker) -> Iterator[tuple[Location, Row | BadLine]]:
    """Rows of labelled pairs: each answer with all that is labelled 0 for its query. The source is read twice.

    Identities stay in memory, the texts labelled 0 lie in a file.
    """
    layout, rejected, seen = maker.layout, Texts(), set()
    answers: dict[int, set[int]] = {}
    others: dict[int, dict[int, int]] = {}  # query -> text -> its place among the rejected ones

    def pairs(location: Location, raw: dict) -> tuple[str, list[tuple[str, int]]]:
        query = maker.query(location, raw)
        texts = maker.texts(location, layout.document, raw[layout.document])
        given = raw[layout.label]
        each = given if isinstance(given, list) else [given] * len(texts)
        if any(map(is_blank, each)):
            raise BadLine(location, f"{layout.label} is missing (null)")
        labels = list(map(as_label, each))
        if None in labels or len(labels) != len(texts):
            remedy = "only 0/1 and true/false are read, as hard negative and answer"
            scored = "of scores keep the pairs above one of your choice as rows of query and document, without this column"
            raise DataError(f"{location}: {layout.label} holds {str(given)[:40]!r}; {remedy}; write words so; {scored}")
        return query, list(zip(texts, labels, strict=True))

    for location, raw in rows:
        with contextlib.suppress(BadLine):
            query, labelled = pairs(location, raw) if isinstance(raw, dict) else ("", [])
            for text, label in labelled:
                identity, of = text_id(text), text_id(query)
                seen.add(label)
                if label:
                    answers.setdefault(of, set()).add(identity)
                elif identity not in others.setdefault(of, {}):
                    others[of][identity] = rejected.append(text)
    if len(seen) == 1:
        (only,) = seen
        left_out = override("data.columns.ignore", (*maker.columns.ignore, layout.label))
        remedy = f"if all are answers: {left_out}" if only else "no document answers a query"
        raise DataError(f"{display(source)}: {layout.label} is {only} in every row; {remedy}")
    maker.counts["no answer"] = len(others.keys() - answers.keys())
    for location, raw in raw_rows(source, reading, []):
        try:
            if isinstance(raw, BadLine):
                raise raw
            query, labelled = pairs(location, raw)
            positives = tuple(text for text, label in labelled if label)
            if positives:
                # A pair that this row has both ways is counted: as a negative that is a document of its row.
                of, own = text_id(query), set(map(text_id, positives))
                elsewhere = answers[of] - own
                negatives = (number for identity, number in others.get(of, {}).items() if identity not in elsewhere)
                yield location, maker.made(location, query, positives, tuple(map(rejected.__getitem__, negatives)), {})
        except BadLine as bad_line:
            yield location, bad_line
