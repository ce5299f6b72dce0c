"""Hard negatives that are an answer: of the row itself, of the same query in another row, or a copy of one."""

from collections.abc import Iterator, Mapping

import numpy as np

from e5ft.auditing.rows import DOCUMENT, NEGATIVE, QUERY, SURE, AuditedRows, Finding, field_name
from e5ft.data.store import seeded_choice
from e5ft.formatting import portable
from e5ft.retrieval.near_duplicates import NearDuplicates

CONTAINED = 0.5  # share of a negative's or an answer's n-grams in common from which one holds the other
NGRAM = 3  # characters
LOOKED_AT = 20_000  # rows with hard negatives whose texts are compared


def negative_faults(rows: AuditedRows, equal: Mapping[str, tuple[str, ...]], seed: int = 0) -> Iterator[Finding]:
    """Find hard negatives that answer.

    Args:
        rows: what is audited.
        equal: place of a row -> its hard negatives that are a document of it, which reading leaves out.
        seed: chooses the rows whose texts are compared where there are more than 20,000.

    Yields:
        Hard negatives, with the answer that they are or hold.
    """
    if equal:
        for row in range(len(rows)):
            for text in equal.get(rows.place(row), ()):
                yield Finding("negative_equals", row, NEGATIVE, text, text)
    uses = rows.uses[NEGATIVE]
    if not len(uses.numbers):
        return
    queries, passages = rows.answers()
    size = len(rows.texts)
    asked = rows.same[rows.uses[QUERY].numbers[uses.rows]]
    pairs = asked * size + rows.same[uses.numbers]
    known = np.isin(pairs, queries * size + passages)
    documents = rows.uses[DOCUMENT]
    keys = rows.same[rows.uses[QUERY].numbers[documents.rows]] * size + rows.same[documents.numbers]
    where = dict(zip(keys[::-1].tolist(), documents.rows[::-1].tolist(), strict=True)) if known.any() else {}
    for at in np.flatnonzero(known).tolist():
        field, row = field_name(NEGATIVE, int(uses.places[at])), where[int(pairs[at])]
        told = f"{portable(rows.place(row))}: {rows.texts[int(rows.uses[QUERY].numbers[row])]}"
        yield Finding("negative_answers", int(uses.rows[at]), field, int(uses.numbers[at]), told, weight=SURE)
    alike = NearDuplicates(rows.texts, ngram=NGRAM, threshold=CONTAINED, measure="containment")
    with_negatives = np.unique(uses.rows)
    for row in with_negatives[seeded_choice(len(with_negatives), LOOKED_AT, seed)].tolist():
        first, last = np.searchsorted(uses.rows, [row, row + 1])
        part = slice(*np.searchsorted(queries, [asked[first], asked[first] + 1]))
        near = alike(passages[part], uses.numbers[first:last]) & ~known[first:last]
        for at in (first + np.flatnonzero(near)).tolist():
            overlaps = [float(alike.overlaps(int(answer), uses.numbers[at : at + 1])[0]) for answer in passages[part]]
            copied = rows.texts[int(passages[part][int(np.argmax(overlaps))])]
            field = field_name(NEGATIVE, int(uses.places[at]))
            share = max(overlaps)
            yield Finding("negative_answers", row, field, int(uses.numbers[at]), f"{share:.0%}: {copied}", weight=share)
