"""Training rows to micro-batches: distinct texts once, end to end, with the indices and identities of a `Step`."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from e5ft.data.step import Step
from e5ft.data.store import RowStore, TokenStore
from e5ft.errors import ConfigurationError


@dataclasses.dataclass(frozen=True)
class Example:
    """One row of an epoch: token ids and identities of its query, one positive and its hard negatives."""

    query: Sequence[int]
    positive: Sequence[int]
    negatives: Sequence[Sequence[int]]
    query_id: int
    positive_id: int
    negative_ids: Sequence[int]
    known: np.ndarray


@dataclasses.dataclass(frozen=True)
class MicroBatch:
    """What one forward pass sees.

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
        """The same with its tokens on a device."""
        return dataclasses.replace(self, input_ids=self.input_ids.to(device, non_blocking=True))

    def pin_memory(self) -> "MicroBatch":
        """Called by the DataLoader, for copies that overlap with work."""
        return dataclasses.replace(self, input_ids=self.input_ids.pin_memory())


class TrainingRows(Dataset):
    """Examples by (row, epoch): which positive and which hard negatives a row shows in an epoch is fixed by the two.

    Args:
        store: the rows' identities.
        tokens: the rows' tokens, same order.
        negatives_per_query: at most so many hard negatives of a row in an epoch, rotated over the epochs; None for all,
            0 for none (then other queries' passages are the only negatives).
    """

    def __init__(self, store: RowStore, tokens: TokenStore, negatives_per_query: int | None = None):
        if negatives_per_query is not None and negatives_per_query < 0:
            raise ConfigurationError(f"data.negatives_per_query={negatives_per_query}: at least 0, or null for all")
        if len(store.rows) != len(tokens.tokens):
            raise ValueError(f"{len(store.rows)} rows but tokens of {len(tokens.tokens)}")
        self.ids = store.rows.remove_columns(["query", "positives", "negatives", "line"])
        self._store = store
        self.tokens, self.lengths = tokens.tokens, tokens.lengths
        self.limit = negatives_per_query
        self._group, self._known, self._starts = _known_positives(store)

    def __len__(self) -> int:
        return len(self.ids)

    def known(self, row: int) -> np.ndarray:
        """Identities of every passage that any row names as an answer to this row's query."""
        group = self._group[row]
        return self._known[self._starts[group] : self._starts[group + 1]]

    def place(self, row: int) -> str:
        """Where a row stands in its source, as `path:line`."""
        return self._store.place(row)

    def __getitem__(self, request: tuple[int, int]) -> tuple[int, Example]:
        row, epoch = request
        ids, tokens, known = self.ids[row], self.tokens[row], self.known(row)
        positive = (row + epoch) % len(tokens["positives"])
        # A hard negative that another row names as an answer to the same query is a false one; one named twice counts once.
        distinct = {identity: i for i, identity in reversed(list(enumerate(ids["negative_ids"])))}
        usable = sorted(i for identity, i in distinct.items() if identity not in known)
        if self.limit is not None and len(usable) > self.limit:
            start = (row + epoch) * self.limit % len(usable)
            usable = (usable + usable)[start : start + self.limit]
        return row, Example(
            query=tokens["query"],
            positive=tokens["positives"][positive],
            negatives=[tokens["negatives"][i] for i in usable],
            query_id=ids["query_id"],
            positive_id=ids["positive_ids"][positive],
            negative_ids=[ids["negative_ids"][i] for i in usable],
            known=known,
        )


def _known_positives(store: RowStore) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(group of each row, all groups' identities end to end, where each group begins); a group is a distinct query."""
    _, group = np.unique(store.query_ids(), return_inverse=True)
    ids, counts = store.positive_ids()
    owners = np.repeat(group, counts)
    order = np.lexsort((ids, owners))
    owners, ids = owners[order], ids[order]
    first = np.ones(len(ids), dtype=bool)
    first[1:] = (ids[1:] != ids[:-1]) | (owners[1:] != owners[:-1])
    starts = np.concatenate([[0], np.cumsum(np.bincount(owners[first], minlength=group.max() + 1))])
    return group, ids[first], starts


def collate(examples: Sequence[tuple[int, Example]]) -> MicroBatch:
    """Lay a micro-batch's distinct texts end to end.

    A text is distinct by role and identity: the same string as a query and as a passage carries two prefixes.
    """
    texts: dict[tuple[str, int], Sequence[int]] = {}
    for _, example in examples:
        texts.setdefault(("query", example.query_id), example.query)
        texts.setdefault(("passage", example.positive_id), example.positive)
        for identity, tokens in zip(example.negative_ids, example.negatives, strict=True):
            texts.setdefault(("passage", identity), tokens)
    # Sorted by length: attention runs over neighbours of equal length together. The identity settles ties, so that the
    # order does not depend on the order of the rows.
    order = sorted(texts, key=lambda key: (len(texts[key]), key))
    index = {key: i for i, key in enumerate(order)}
    batch = [example for _, example in examples]
    step = Step(
        text_id=np.array([identity for _, identity in order], dtype=np.int64),
        query=np.array([index["query", e.query_id] for e in batch], dtype=np.int64),
        positive=np.array([index["passage", e.positive_id] for e in batch], dtype=np.int64),
        negative=np.array([index["passage", i] for e in batch for i in e.negative_ids], dtype=np.int64),
        negative_count=np.array([len(e.negative_ids) for e in batch], dtype=np.int64),
        query_id=np.array([e.query_id for e in batch], dtype=np.int64),
        known=np.concatenate([e.known for e in batch]),
        known_count=np.array([len(e.known) for e in batch], dtype=np.int64),
        own=(0, len(batch)),
    )
    flat = np.concatenate([np.asarray(texts[key], dtype=np.int64) for key in order])
    return MicroBatch(torch.from_numpy(flat), tuple(len(texts[key]) for key in order), step, tuple(row for row, _ in examples))
