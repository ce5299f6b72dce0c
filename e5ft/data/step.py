"""The texts of a step and which passage answers which query: indices and identities, never a query x passage matrix.

A `Step` describes a micro-batch, all micro-batches of an optimizer step, or those of all processes: `join` makes the
larger from the smaller. All arrays live on the host; they are int64, but for the side arrays.
"""

import dataclasses
import json
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from e5ft.errors import ConfigurationError


@dataclasses.dataclass(frozen=True)
class Step:
    """Indices into N texts for B rows (one query and one positive each).

    Attributes:
        text_id: (N,) identity of each text, from its normalised text without prefix.
        query: (B,) index of each row's query among the texts.
        positive: (B,) index of the passage that answers it.
        negative: (M,) indices of all rows' hard negatives, row after row.
        negative_count: (B,) how many of them belong to each row.
        query_id: (B,) identity of the query.
        known: (K,) identities of all known positives of each row's query *in the whole data*, row after row.
        known_count: (B,) how many of them belong to each row; at least 1.
        positive_count: (B,) 1 where a query shows one of its positives; where it shows all of them, each in a row of its
            own (`step.positives=all`), how many they are: such a row counts 1 / positive_count in a mean.
        local_rows: the rows that this process scores, as (start, stop).
        side: further float32 arrays by name: per text (N, ...), per row (B,) or per hard negative (M,). "guide" and "base"
            are (N, D') vectors of other models; "teacher_positive" (B,) and "teacher_negative" (M,) a teacher's scores.
    """

    text_id: np.ndarray
    query: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    negative_count: np.ndarray
    query_id: np.ndarray
    known: np.ndarray
    known_count: np.ndarray
    positive_count: np.ndarray
    local_rows: tuple[int, int]
    side: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @cached_property
    def passage(self) -> np.ndarray:
        """(P,) index of each distinct passage (its first occurrence), in ascending order of identity.

        A passage that is in several micro-batches or on several ranks counts once, so that a step has the same
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
        """Pairs (local row, column of `passage`) in which the passage is a known positive of the row's query, by row."""
        return _match(*self._known_positives, self.text_id[self.passage])

    @cached_property
    def _known_positives(self) -> tuple[np.ndarray, np.ndarray]:
        """(row, passage identity) of every known positive of the local rows' queries, by row."""
        start, stop = self.local_rows
        ends = np.cumsum(self.known_count)
        ids = self.known[(ends[start - 1] if start else 0) : ends[stop - 1]]
        return np.repeat(np.arange(start, stop), self.known_count[start:stop]), ids

    @cached_property
    def local_negatives(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (local row, column of `passage`) in which the passage is one of the row's hard negatives, by row."""
        start, stop = self.local_rows
        rows = np.repeat(np.arange(start, stop), self.negative_count[start:stop])
        return _match(rows, self.text_id[self.negative[slice(*self.local_range)]], self.text_id[self.passage])

    @property
    def local_range(self) -> tuple[int, int]:
        """The slice of `negative` that belongs to the local rows, as (start, stop)."""
        before, inside = self.negative_count[: self.local_rows[0]].sum(), self.negative_count[slice(*self.local_rows)].sum()
        return int(before), int(before + inside)

    @cached_property
    def weight(self) -> np.ndarray:
        """(B,) float32 weight of each row in a mean: 1 / positive_count."""
        return (1 / self.positive_count).astype(np.float32)

    def side_array(self, name: str) -> np.ndarray:
        """The side array of a name.

        Raises:
            ConfigurationError: the step carries none of that name.
        """
        if name not in self.side:
            raise ConfigurationError(
                f"the loss needs {name!r} with every step, and the training data carries {sorted(self.side) or 'no side arrays'}; "
                "name it in the loss's `needs`, so that it is prepared"
            )
        return self.side[name]

    @cached_property
    def answered_by_positive(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (local row, column of `distinct_query`) in which the row's positive is a known positive of that query."""
        rows = np.arange(*self.local_rows)
        return self._queries_answered_by(rows, self.text_id[self.positive[rows]])

    @cached_property
    def same_answer(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (local row, column of `distinct_query`) whose queries have a known positive in common; each once, by row."""
        row, column = np.unique(np.stack(self._queries_answered_by(*self._known_positives)), axis=1)
        return row, column

    def _queries_answered_by(self, rows: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Join (row, passage identity) with (distinct query, known identity) on the identity: (row, column) pairs by row."""
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
        """Number of query-passage pairs of the local rows that count as negatives."""
        return (self.local_rows[1] - self.local_rows[0]) * len(self.passage) - len(self.answers[0])

    def pack(self) -> np.ndarray:
        """One int64 array that `unpack` reads, to send to other processes."""
        side = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in sorted(self.side.items())}
        header = _words(json.dumps({name: array.shape for name, array in side.items()}).encode())
        parts = [header, *(getattr(self, field) for field in _ARRAYS), *(_words(array.tobytes()) for array in side.values())]
        return np.concatenate([np.array([len(parts)]), [len(part) for part in parts], *parts]).astype(np.int64)

    @classmethod
    def unpack(cls, packed: np.ndarray) -> "Step":
        """The inverse of `pack`; all rows are local."""
        count = int(packed[0])
        header, *parts = np.split(packed[1 + count :], np.cumsum(packed[1 : 1 + count])[:-1])
        step = dict(zip(_ARRAYS, parts, strict=False))
        shapes = json.loads(header.tobytes().rstrip(b" "))
        side = {
            name: part.view(np.float32)[: int(np.prod(shape))].reshape(shape)
            for (name, shape), part in zip(shapes.items(), parts[len(_ARRAYS) :], strict=True)
        }
        return cls(**step, local_rows=(0, len(step["query"])), side=side)


_ARRAYS = ("text_id", "query", "positive", "negative", "negative_count", "query_id", "known", "known_count", "positive_count")


def _words(data: bytes) -> np.ndarray:
    """Return bytes as int64, padded with spaces."""
    return np.frombuffer(data + b" " * (-len(data) % 8), dtype=np.int64)


def join(steps: Sequence[Step], local: int | None = None) -> Step:
    """One step from several, texts and rows in the given order.

    Args:
        steps: micro-batches, or the joined steps of all processes; side arrays that one of them lacks are left out.
        local: number of the step whose rows this process scores; None for all.
    """
    offsets = np.cumsum([0] + [len(step.text_id) for step in steps])
    rows = np.cumsum([0] + [len(step.query) for step in steps])
    moved = {
        field: np.concatenate([getattr(step, field) + offset for step, offset in zip(steps, offsets[:-1], strict=True)])
        for field in ("query", "positive", "negative")
    }
    unchanged = {field: np.concatenate([getattr(step, field) for step in steps]) for field in _ARRAYS if field not in moved}
    shared = set.intersection(*(set(step.side) for step in steps))
    side = {name: np.concatenate([step.side[name] for step in steps]) for name in sorted(shared)}
    local_rows = (0, int(rows[-1])) if local is None else (int(rows[local]), int(rows[local + 1]))
    return Step(**moved, **unchanged, local_rows=local_rows, side=side)


def _match(rows: np.ndarray, ids: np.ndarray, sorted_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (row, column) where an identity of the row equals the column's; `sorted_ids` is ascending and distinct."""
    columns = np.minimum(np.searchsorted(sorted_ids, ids), len(sorted_ids) - 1)
    matches = sorted_ids[columns] == ids
    return rows[matches], columns[matches]
