"""Duplicate rows, exact and near, and documents that are nearly the same."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from e5ft.auditing.near_pairs import Similarity, near_heads
from e5ft.auditing.rows import DOCUMENT, QUERY, AuditedRows, Finding, field_name
from e5ft.formatting import portable

BESIDE = 0.5  # similarity from which two queries are near-copies, given that their documents are
_COMPARED = 50  # rows of the same documents that a row is compared with


class Duplicates:
    """Rows and documents by what they are near-copies of.

    Args:
        rows: what is audited.

    Attributes:
        first: row -> the earlier row that it equals.
        near: row -> the earlier row of which it is a near-copy: its documents equal the other's or are near-copies of them, and
            the queries share `BESIDE` or more.
        heads: (T,) int64, of each document the first that it equals or is a near-copy of.
    """

    def __init__(self, rows: AuditedRows):
        self._rows = rows
        chosen = rows.distinct(DOCUMENT)
        self.heads = np.arange(len(rows.texts))
        self.heads[chosen] = chosen[near_heads([rows.texts[number] for number in chosen])]
        queries = rows.distinct(QUERY)
        similarity, position = Similarity([rows.texts[number] for number in queries]), np.full(len(rows.texts), -1)
        position[queries] = np.arange(len(queries))
        earlier: dict[frozenset[int], list[int]] = defaultdict(list)
        self.first, keys = exact_duplicates(rows)
        self.near = {}
        for row, key in enumerate(keys):
            if row in self.first:
                continue
            others = earlier[frozenset(self.heads[list(key[1])].tolist())]
            for other in others[:_COMPARED]:
                their = keys[other]
                # Another set of hard negatives makes a row of its own where the texts are the same.
                if their[:2] != key[:2] and similarity(position[their[0]], position[key[0]]) >= BESIDE:
                    self.near[row] = other
                    break
            others.append(row)

    def faults(self) -> Iterator[Finding]:
        """Yield rows and documents that equal or resemble an earlier one; the evidence is that one."""
        rows = self._rows
        for kind, found in (("exact_duplicate", self.first), ("near_duplicate", self.near)):
            for row, earlier in found.items():
                own, other = (int(rows.uses[QUERY].numbers[number]) for number in (row, earlier))
                yield Finding(kind, row, QUERY, own, f"{portable(rows.place(earlier))}: {rows.texts[other]}")
        uses, told = rows.uses[DOCUMENT], set()
        for at, number in enumerate(rows.same[uses.numbers].tolist()):
            row, head = int(uses.rows[at]), int(self.heads[number])
            if head != number and number not in told and row not in self.near and row not in self.first:
                told.add(number)  # a document is told once, however many queries have it
                yield Finding("near_document", row, field_name(DOCUMENT, int(uses.places[at])), number, rows.texts[head])


def exact_duplicates(rows: AuditedRows) -> tuple[dict[int, int], list[tuple[int, frozenset[int], frozenset[int]]]]:
    """Rows that equal an earlier one -> that one; and of every row its query, documents and hard negatives, whatever their order."""
    first, keys, seen = {}, [], {}
    parts = [
        np.split(rows.same[uses.numbers], np.searchsorted(uses.rows, np.arange(1, len(rows)))) for uses in rows.uses.values()
    ]
    for row, (query, documents, negatives) in enumerate(zip(*parts, strict=True)):
        keys.append((int(query[0]), frozenset(documents.tolist()), frozenset(negatives.tolist())))
        earlier = seen.setdefault(keys[-1], row)
        if earlier != row:
            first[row] = earlier
    return first, keys
