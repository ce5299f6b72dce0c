"""Training rows to micro-batches: distinct texts once, end to end, with the indices and identities of a `Step`."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Protocol

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset

from e5ft.data.augmentation import Augmentation
from e5ft.data.step import Step
from e5ft.data.store import PLACE, RowStore, TokenStore


class Vectors(Protocol):
    """Vectors of another model, by identity (`e5ft.retrieval.guide.Guide` is one)."""

    def of(self, role: str, ids: np.ndarray, source: int = 0) -> np.ndarray:
        """Return (n, D') float32 vectors of a source's texts with these identities; role is "query" or "passage"."""


@dataclasses.dataclass(frozen=True)
class Example:
    """One row of an epoch: token ids and identities of its query, its positives and its hard negatives.

    `positives` are those that the row shows in this epoch, one or all. `source` tells apart rows whose texts carry
    different prefixes. The scores are a teacher's, None where there is none.
    """

    query: Sequence[int]
    positives: Sequence[Sequence[int]]
    negatives: Sequence[Sequence[int]]
    query_id: int
    positive_ids: Sequence[int]
    negative_ids: Sequence[int]
    known: np.ndarray
    source: int = 0
    positive_scores: Sequence[float] | None = None
    negative_scores: Sequence[float] | None = None


@dataclasses.dataclass(frozen=True)
class MicroBatch:
    """A micro-batch is what one forward pass sees.

    Attributes:
        input_ids: (T,) int64, N distinct texts end to end, sorted by length.
        lengths: their N lengths.
        step: who answers whom among them.
        rows: row numbers in the training data, for messages.
    """

    input_ids: torch.Tensor
    lengths: tuple[int, ...]
    step: Step
    rows: tuple[int, ...]

    def to(self, device: torch.device) -> "MicroBatch":
        """Return the same micro-batch with its tokens on a device."""
        return dataclasses.replace(self, input_ids=self.input_ids.to(device, non_blocking=True))

    def pin_memory(self) -> "MicroBatch":
        """Pin the tokens: the DataLoader calls this, so that copies overlap with work."""
        return dataclasses.replace(self, input_ids=self.input_ids.pin_memory())


class TrainingRows(Dataset):
    """Examples by (row, epoch): which positive and which hard negatives a row shows in an epoch is fixed by the two.

    Args:
        store: the rows' identities.
        tokens: the rows' tokens, same order.
        negatives_per_query: at most so many hard negatives of a row in an epoch, rotated over the epochs; None for all,
            0 for none (then other queries' passages are the only negatives).
        positives: "sample": a row shows one of its positives in an epoch, rotated over the epochs; "all": every one.
        vectors: of other models, by the name under which steps carry them (`Step.side`).
        augmentation: noise in the queries, whose identities stay; None: none.
    """

    def __init__(
        self,
        store: RowStore,
        tokens: TokenStore,
        negatives_per_query: int | None = None,
        *,
        positives: str = "sample",
        vectors: Mapping[str, Vectors] | None = None,
        augmentation: Augmentation | None = None,
    ):
        if len(store.rows) != len(tokens.tokens):
            raise ValueError(f"{len(store.rows)} rows but tokens of {len(tokens.tokens)}")
        self.ids = store.rows.remove_columns(["query", "positives", "negatives", *PLACE])
        self._store = store
        self.tokens, self.lengths = tokens.tokens, tokens.lengths
        self.limit, self.positives, self.vectors = negatives_per_query, positives, dict(vectors or {})
        self.augmentation = augmentation
        self._group, self._known, self._starts = _known_positives(store)

    def __len__(self) -> int:
        return len(self.ids)

    def known(self, row: int) -> np.ndarray:
        """Return the identities of every passage that any row names as an answer to this row's query."""
        group = self._group[row]
        return self._known[self._starts[group] : self._starts[group + 1]]

    @cached_property
    def most_tokens(self) -> np.ndarray:
        """The most tokens that each row shows in any epoch, (rows,) int64."""
        queries = None if self.augmentation is None else self.augmentation.longest
        return most_tokens(
            self.tokens, positives=1 if self.positives == "sample" else None, negatives=self.limit, queries=queries
        )

    @property
    def source(self) -> str:
        """Where the rows come from, for messages."""
        return self._store.source

    @cached_property
    def shows_negatives(self) -> bool:
        """Whether any row has a hard negative to show."""
        chunks = self.tokens.with_format("arrow")[:]["negatives"].chunks
        return self.limit != 0 and any(len(chunk.flatten()) for chunk in chunks)

    def place(self, row: int) -> str:
        """Return where a row is in its source, as `path:line`."""
        return self._store.place(row)

    def __getitem__(self, request: tuple[int, int]) -> tuple[int, Example]:
        row, epoch = request
        ids, tokens, known = self.ids[row], self.tokens[row], self.known(row)
        # Duplicates within a row count once.
        positives, negatives = (_first_occurrences(ids[name]) for name in ("positive_ids", "negative_ids"))
        if self.positives == "sample":
            positives = [positives[(row + epoch) % len(positives)]]
        # A hard negative that another row names as an answer to the same query is a false one.
        negatives = [i for i in negatives if ids["negative_ids"][i] not in known]
        if self.limit is not None and len(negatives) > self.limit:
            start = (row + epoch) * self.limit % len(negatives)
            negatives = (negatives + negatives)[start : start + self.limit]
        scores, query = ids["scores"], tokens["query"]
        if self.augmentation is not None:
            query = self.augmentation.query(row, ids["query_id"], epoch, query)
        return row, Example(
            query=query,
            positives=[tokens["positives"][i] for i in positives],
            negatives=[tokens["negatives"][i] for i in negatives],
            query_id=ids["query_id"],
            positive_ids=[ids["positive_ids"][i] for i in positives],
            negative_ids=[ids["negative_ids"][i] for i in negatives],
            known=known,
            source=ids.get("source", 0),
            positive_scores=[scores[i] for i in positives] if scores else None,
            negative_scores=[scores[len(ids["positive_ids"]) + i] for i in negatives] if scores else None,
        )


def _first_occurrences(ids: Sequence[int]) -> list[int]:
    """Return where each distinct identity stands first, ascending."""
    return sorted({identity: i for i, identity in reversed(list(enumerate(ids)))}.values())


def _known_positives(store: RowStore) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the group of each row, all groups' identities end to end, and where each group begins; a group is a distinct query."""
    _, group = np.unique(store.query_ids(), return_inverse=True)
    group = group.astype(np.int32)  # these stay in memory as long as the rows do
    ids, counts = store.positive_ids()
    owners = np.repeat(group, counts)
    order = np.lexsort((ids, owners))
    owners, ids = owners[order], ids[order]
    first = np.ones(len(ids), dtype=bool)
    first[1:] = (ids[1:] != ids[:-1]) | (owners[1:] != owners[:-1])
    starts = np.concatenate([[0], np.cumsum(np.bincount(owners[first], minlength=group.max() + 1))])
    pa.default_memory_pool().release_unused()  # the columns, which are read from the disk when they are needed again
    return group, ids[first], starts.astype(np.int32 if len(ids) < 2**31 else np.int64)


def collate(examples: Sequence[tuple[int, Example]], vectors: Mapping[str, Vectors] | None = None) -> MicroBatch:
    """Lay a micro-batch's distinct texts end to end.

    A text is distinct by role, identity and source: the same string as a query and as a passage carries two prefixes.

    Args:
        examples: (row number, example) pairs.
        vectors: of other models, to be carried along under these names.
    """
    texts: dict[tuple[str, int, int], Sequence[int]] = {}
    for _, example in examples:
        texts.setdefault(("query", example.query_id, example.source), example.query)
        for identity, tokens in _passages(example):
            texts.setdefault(("passage", identity, example.source), tokens)
    # Sorted by length: attention runs over neighbours of equal length together. The identity settles ties, so that the
    # order does not depend on the order of the rows.
    order = sorted(texts, key=lambda key: (len(texts[key]), key))
    index = {key: i for i, key in enumerate(order)}
    # A row of the step is a query with one positive: an example that shows several positives becomes several rows.
    pairs = [(example, identity) for _, example in examples for identity in example.positive_ids]
    text_id = np.array([identity for _, identity, _ in order], dtype=np.int64)
    step = Step(
        text_id=text_id,
        query=_array(index["query", e.query_id, e.source] for e, _ in pairs),
        positive=_array(index["passage", identity, e.source] for e, identity in pairs),
        negative=_array(index["passage", i, e.source] for e, _ in pairs for i in e.negative_ids),
        negative_count=_array(len(e.negative_ids) for e, _ in pairs),
        query_id=_array(e.query_id for e, _ in pairs),
        known=np.concatenate([e.known for e, _ in pairs]),
        known_count=_array(len(e.known) for e, _ in pairs),
        positive_count=_array(len(e.positive_ids) for e, _ in pairs),
        local_rows=(0, len(pairs)),
        side={**_teacher(examples), **_side(order, text_id, vectors or {})},
    )
    flat = np.concatenate([np.asarray(texts[key], dtype=np.int64) for key in order])
    return MicroBatch(torch.from_numpy(flat), tuple(len(texts[key]) for key in order), step, tuple(row for row, _ in examples))


def _passages(example: Example) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield identity and tokens of an example's positives and negatives."""
    yield from zip(example.positive_ids, example.positives, strict=True)
    yield from zip(example.negative_ids, example.negatives, strict=True)


def _teacher(examples: Sequence[tuple[int, Example]]) -> dict[str, np.ndarray]:
    """Return the teacher's scores, where every row has them."""
    if any(example.positive_scores is None for _, example in examples):
        return {}
    positive = [score for _, example in examples for score in example.positive_scores]
    negative = [score for _, example in examples for _ in example.positive_ids for score in example.negative_scores]
    return {"teacher_positive": np.array(positive, np.float32), "teacher_negative": np.array(negative, np.float32)}


def _side(order: Sequence[tuple[str, int, int]], text_id: np.ndarray, vectors: Mapping[str, Vectors]) -> dict[str, np.ndarray]:
    """Return every text's vector of each other model."""
    places: dict[tuple[str, int], list[int]] = {}
    for place, (role, _, source) in enumerate(order):
        places.setdefault((role, source), []).append(place)
    back = np.argsort(np.concatenate(list(places.values())))
    return {
        name: np.concatenate([table.of(role, text_id[at], source) for (role, source), at in places.items()])[back]  # (N, D')
        for name, table in vectors.items()
    }


def _array(values: Iterable[int]) -> np.ndarray:
    return np.fromiter(values, dtype=np.int64)


def most_tokens(
    tokens: datasets.Dataset, *, positives: int | None, negatives: int | None, queries: np.ndarray | None = None
) -> np.ndarray:
    """Return the largest number of tokens that each row shows in any epoch.

    Args:
        tokens: columns query, positives and negatives of a `TokenStore`.
        positives, negatives: how many of a row's a micro-batch holds at most; None for all.
        queries: (rows,) tokens of what may take the place of each row's query; None: nothing.

    Returns:
        (rows,) int64.
    """
    columns = tokens.with_format("arrow")[:]
    query = np.concatenate([chunk.value_lengths().to_numpy() for chunk in columns.column("query").chunks])
    query = query if queries is None else np.maximum(query, queries)
    return query + _longest(columns.column("positives"), positives) + _longest(columns.column("negatives"), negatives)


def _longest(column: pa.ChunkedArray, count: int | None) -> np.ndarray:
    """Return (rows,) tokens of the `count` longest texts of each row, straight from Arrow: rows may be millions."""
    totals = []
    for chunk in column.chunks:
        counts, lengths = chunk.value_lengths().to_numpy(), chunk.flatten().value_lengths().to_numpy().astype(np.int64)
        owners = np.repeat(np.arange(len(counts)), counts)
        if count is not None and counts.max(initial=0) > count:
            lengths = lengths[np.lexsort((-lengths, owners))]  # the owners stay in order
            rank = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
            lengths = np.where(rank < count, lengths, 0)
        totals.append(np.bincount(owners, weights=lengths, minlength=len(counts)).astype(np.int64))
    return np.concatenate(totals)
