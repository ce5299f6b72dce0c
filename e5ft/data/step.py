"""What stands in a step and who answers whom: indices and identities, never a query x passage matrix.

A `Step` describes a micro-batch, all micro-batches of an optimizer step, or those of all processes: `join` makes the
larger from the smaller. All arrays are int64 and live on the host.
"""

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import numpy as np


@dataclasses.dataclass(frozen=True)
class Step:
    """Indices into N texts for B rows (one query each).

    Attributes:
        text_id: (N,) identity of each text, from its normalised text without prefix.
        query: (B,) index of each row's query among the texts.
        positive: (B,) index of the passage that answers it.
        negative: (M,) indices of all rows' hard negatives, row after row.
        negative_count: (B,) how many of them belong to each row.
        query_id: (B,) identity of the query.
        known: (K,) identities of all known positives of each row's query *in the whole data*, row after row.
        known_count: (B,) how many of them belong to each row; at least 1.
        own: rows that this process scores, as (start, stop).
    """

    text_id: np.ndarray
    query: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    negative_count: np.ndarray
    query_id: np.ndarray
    known: np.ndarray
    known_count: np.ndarray
    own: tuple[int, int]

    @cached_property
    def passage(self) -> np.ndarray:
        """(P,) index of each distinct passage (its first occurrence), in ascending order of identity.

        A passage that stands in several micro-batches or on several ranks counts once, so that a step has the same
        loss however it is cut.
        """
        occurrences = np.concatenate([self.positive, self.negative])
        _, first = np.unique(self.text_id[occurrences], return_index=True)
        return occurrences[first]

    @cached_property
    def distinct_query(self) -> np.ndarray:
        """(Q,) row of each distinct query (its first occurrence), in ascending order of identity."""
        return np.unique(self.query_id, return_index=True)[1]

    @cached_property
    def answers(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (own row, column of `passage`) in which the passage is a known positive of the row's query, by row."""
        start, stop = self.own
        rows = np.repeat(np.arange(start, stop), self.known_count[start:stop])
        ends = np.cumsum(self.known_count)
        ids = self.known[(ends[start - 1] if start else 0) : ends[stop - 1]]
        return _match(rows, ids, self.text_id[self.passage])

    @cached_property
    def answered_by_positive(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (own row, column of `distinct_query`) in which the row's positive is a known positive of that query."""
        start, stop = self.own
        rows, ids = np.arange(start, stop), self.text_id[self.positive[start:stop]]
        return self._queries_that_know(rows, ids)

    @cached_property
    def same_answer(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (own row, column of `distinct_query`) whose queries have a known positive in common; each once, by row."""
        start, stop = self.own
        rows = np.repeat(np.arange(start, stop), self.known_count[start:stop])
        ends = np.cumsum(self.known_count)
        ids = self.known[(ends[start - 1] if start else 0) : ends[stop - 1]]
        row, column = self._queries_that_know(rows, ids)
        pairs = np.unique(np.stack([row, column], axis=1), axis=0)
        return pairs[:, 0], pairs[:, 1]

    def _queries_that_know(self, rows, ids):
        """Join (row, passage identity) with (distinct query, known identity) on the identity."""
        counts = self.known_count[self.distinct_query]
        ends = np.cumsum(self.known_count)[self.distinct_query]
        columns = np.repeat(np.arange(len(counts)), counts)
        known = np.concatenate([self.known[end - count : end] for end, count in zip(ends, counts, strict=True)])
        order = np.argsort(known, kind="stable")
        low = np.searchsorted(known[order], ids, side="left")
        high = np.searchsorted(known[order], ids, side="right")
        matches = np.concatenate([order[a:b] for a, b in zip(low, high, strict=True)] or [np.empty(0, np.int64)])
        return np.repeat(rows, high - low), columns[matches.astype(np.int64)]

    @property
    def negatives(self) -> int:
        """Query-passage pairs that count as negatives in the own rows."""
        return (self.own[1] - self.own[0]) * len(self.passage) - len(self.answers[0])

    def pack(self) -> np.ndarray:
        """One int64 array that `unpack` reads, to send to other processes."""
        parts = [getattr(self, field) for field in _ARRAYS]
        return np.concatenate([np.array([len(part) for part in parts]), *parts]).astype(np.int64)

    @classmethod
    def unpack(cls, packed: np.ndarray) -> "Step":
        """The inverse of `pack`; all rows are own."""
        sizes = packed[: len(_ARRAYS)]
        parts = np.split(packed[len(_ARRAYS) :], np.cumsum(sizes)[:-1])
        step = dict(zip(_ARRAYS, parts, strict=True))
        return cls(**step, own=(0, len(step["query"])))


_ARRAYS = ("text_id", "query", "positive", "negative", "negative_count", "query_id", "known", "known_count")


def join(steps: Sequence[Step], own: int | None = None) -> Step:
    """One step from several, texts and rows in the given order.

    Args:
        steps: micro-batches, or the joined steps of all processes.
        own: which of them this process scores; None for all.
    """
    offsets = np.cumsum([0] + [len(step.text_id) for step in steps])
    rows = np.cumsum([0] + [len(step.query) for step in steps])
    moved = {
        field: np.concatenate([getattr(step, field) + offset for step, offset in zip(steps, offsets[:-1], strict=True)])
        for field in ("query", "positive", "negative")
    }
    kept = {field: np.concatenate([getattr(step, field) for step in steps]) for field in _ARRAYS if field not in moved}
    scored = (0, int(rows[-1])) if own is None else (int(rows[own]), int(rows[own + 1]))
    return Step(**moved, **kept, own=scored)


def _match(rows: np.ndarray, ids: np.ndarray, sorted_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (row, column) where an identity of the row equals the column's; `sorted_ids` ascending and distinct."""
    columns = np.searchsorted(sorted_ids, ids)
    columns_in_range = np.minimum(columns, len(sorted_ids) - 1)
    found = sorted_ids[columns_in_range] == ids
    return rows[found], columns_in_range[found]
