"""Rows that stand twice, exactly or nearly, and documents that are nearly the same."""

from collections.abc import Iterator

import numpy as np

from e5ft.auditing.near_pairs import near_heads
from e5ft.auditing.rows import DOCUMENT, NEGATIVE, QUERY, AuditedRows, Finding, field_name


class Duplicates:
    """Rows and texts by what they are near-copies of.

    Args:
        rows: what is audited.

    Attributes:
        first: row -> the earlier row that it equals.
        near: row -> the earlier row of which it is a near-copy.
        heads: (T,) int64: of each query, and of each document, the first of its kind that it equals or is a near-copy of.
    """

    def __init__(self, rows: AuditedRows):
        self._rows = rows
        self.heads = {role: self._heads(role) for role in (QUERY, DOCUMENT)}
        exact, near = {}, {}
        self.first, self.near = {}, {}
        for row in range(len(rows)):
            key = self._key(row)
            if key in exact:
                self.first[row] = exact[key]
                continue
            exact[key] = row
            query, documents = self.heads[QUERY][key[0]], frozenset(self.heads[DOCUMENT][list(key[1])].tolist())
            earlier = near.setdefault((int(query), documents), row)
            # Another set of hard negatives, or one more document, makes a row of its own where the texts are the same.
            if earlier != row and self._key(earlier)[:2] != key[:2]:
                self.near[row] = earlier

    def _heads(self, role: str) -> np.ndarray:
        chosen = self._rows.distinct(role)
        heads = np.arange(len(self._rows.texts))
        heads[chosen] = chosen[near_heads([self._rows.texts[number] for number in chosen])]
        return heads

    def _key(self, row: int) -> tuple[int, frozenset[int], frozenset[int]]:
        rows = self._rows
        documents, negatives = (frozenset(rows.same[rows.of_row(role, row)].tolist()) for role in (DOCUMENT, NEGATIVE))
        return int(rows.same[rows.uses[QUERY].numbers[row]]), documents, negatives

    def faults(self) -> Iterator[Finding]:
        """Yield rows and documents that equal or resemble an earlier one; the evidence is that one."""
        rows = self._rows
        for kind, found in (("exact_duplicate", self.first), ("near_duplicate", self.near)):
            for row, earlier in found.items():
                own, other = (int(rows.uses[QUERY].numbers[number]) for number in (row, earlier))
                yield Finding(kind, row, QUERY, own, f"{rows.place(earlier)}: {rows.texts[other]}")
        uses, told = rows.uses[DOCUMENT], set()
        for at, number in enumerate(rows.same[uses.numbers].tolist()):
            row, head = int(uses.rows[at]), int(self.heads[DOCUMENT][number])
            if head != number and number not in told and row not in self.near and row not in self.first:
                told.add(number)  # a document is told once, however many queries have it
                yield Finding("near_document", row, field_name(DOCUMENT, int(uses.places[at])), number, rows.texts[head])
