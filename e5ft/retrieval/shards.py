"""Vectors of one collection in several files, read as if they were one matrix, and searched by several processes at once."""

from collections.abc import Sequence

import numpy as np
import torch

from e5ft import distributed, gathering
from e5ft.errors import NonFiniteError
from e5ft.retrieval.search import check_search, merge, top_k


class Shards(Sequence):
    """Consecutive rows in several arrays; nothing is copied before it is asked for.

    Args:
        blocks: at least one, each (rows, D), may be memory maps; their rows follow one another.
    """

    def __init__(self, blocks: Sequence[np.ndarray]):
        self.blocks = tuple(blocks)
        self.starts = np.cumsum([0, *map(len, self.blocks)])  # of each block, and the end
        self.shape = (int(self.starts[-1]), self.blocks[0].shape[1])
        self.dtype = self.blocks[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows):
        """Return a row, a slice's rows as `Shards`, or those of an array of indices or truth values; of maps only these are read."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step != 1:
                return self[np.arange(start, stop, step)]
            borders = self.starts[:-1]
            parts = [block[max(0, start - at) : max(0, stop - at)] for at, block in zip(borders, self.blocks, strict=True)]
            return Shards([part for part in parts if len(part)] or parts[:1])
        if isinstance(rows, int | np.integer):
            return self[np.array([rows])][0]
        rows = np.asarray(rows)
        if rows.dtype == bool:
            rows = np.arange(len(self))[rows]
        if len(rows) and not -len(self) <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        rows = np.where(rows < 0, rows + len(self), rows)
        chosen = np.empty((*rows.shape, self.shape[1]), dtype=self.dtype)
        owner = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(owner):
            local = owner == number
            chosen[local] = self.blocks[number][rows[local] - self.starts[number]]
        return chosen

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """Return all rows, in memory."""
        return np.concatenate(self.blocks).astype(self.dtype if dtype is None else dtype, copy=False)


def search_shards(
    queries: np.ndarray | torch.Tensor, passages: Shards, k: int, *, device: str | torch.device = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """Search as `top_k` does, with the same result; each process reads its own shards alone. Every process must call this.

    Args:
        queries: (Q, D), the same in every process.
        passages: the shards.
        k: passages a query, at least 1.
        device: where the products are computed, and where the backend communicates (the GPU for NCCL).

    Returns:
        As of `top_k`, in every process.

    Raises:
        ConfigurationError, DataError, NonFiniteError: as of `top_k`, in every process.
    """
    check_search(queries, passages, k=k)  # here, since a process may have no shard
    size, rank = processes()
    parts, failed = [], None
    try:
        for block, start in list(zip(passages.blocks, passages.starts, strict=False))[rank::size]:
            if len(block):
                scores, indices = top_k(queries, block, k, device=device)
                parts.append((scores, indices + start))
    except NonFiniteError as error:
        failed = error
    if distributed.any_process(failed is not None):  # together: the others would wait for this one below
        raise failed or NonFiniteError("another process's passages hold NaN or an infinity: the model that made them is broken")
    width = min(k, len(passages))
    scores, indices = merge(parts, width) if parts else (np.empty((len(queries), 0)), np.empty((len(queries), 0)))
    if size == 1:
        return scores, indices
    missing = ((0, 0), (0, width - scores.shape[1]))  # a process with few rows, or none: the widths must agree
    scores = np.pad(scores.astype(np.float32), missing, constant_values=-np.inf)
    indices = np.pad(indices.astype(np.int64), missing, constant_values=-1)
    everyone = gathering.gather_rows(torch.from_numpy(scores).to(device)).cpu().numpy()  # (size x Q, width)
    positions = distributed.gather_arrays(indices.ravel())
    return merge(list(zip(np.split(everyone, size), (p.reshape(-1, width) for p in positions), strict=True)), width)


def processes() -> tuple[int, int]:
    """Return how many processes work together, and which of them this is."""
    return (distributed.world_size(), distributed.rank()) if distributed.active() else (1, 0)
