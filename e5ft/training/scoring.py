"""What losses share: a model's vectors of a step as scores are taken from them, rows in chunks, indices where the vectors are."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from e5ft.data.step import Step
from e5ft.errors import ConfigurationError

# Of a chunk at most. On a CPU 4 MB in float32, and ten times that with what is made of them; on a GPU more, whose kernels wait for work.
SCORES = {"cpu": 2**20, "cuda": 2**24}


class Side:
    """One model's vectors of a step, as scores are taken from them: own rows, distinct passages, distinct queries."""

    def __init__(self, vectors: torch.Tensor, step: Step, blocks: Sequence[str]):
        start, stop = step.own
        self.query = vectors[index(step.query[start:stop], vectors)]  # (B, D)
        self.positive = vectors[index(step.positive[start:stop], vectors)]  # (B, D)
        self.passages = vectors[index(step.passage, vectors)]  # (P, D)
        self.queries = None
        if "passage_query" in blocks or "query_query" in blocks:
            self.queries = vectors[index(step.query[step.distinct_query], vectors)]  # (Q, D)

    def rows(self, rows: slice) -> "Side":
        """The same for some of the own rows."""
        side = object.__new__(Side)
        side.query, side.positive, side.passages, side.queries = (
            self.query[rows],
            self.positive[rows],
            self.passages,
            self.queries,
        )
        return side

    def own(self) -> torch.Tensor:
        """(b, 1) cosines of each query and its positive."""
        return (self.query * self.positive).sum(dim=1, keepdim=True)

    def scores(self, block: str) -> torch.Tensor:
        """(b, C) cosines of a block."""
        anchor, _, candidate = block.partition("_")
        return (self.query if anchor == "query" else self.positive) @ (self.queries if candidate == "query" else self.passages).T


def over_rows(chunk: Callable[[int, int], torch.Tensor], step: Step, size: int, device: torch.device) -> torch.Tensor:
    """Sum over the own rows of what `chunk(first, last) -> (b, n)` gives, each row by its weight.

    Where there is more than one chunk, each is recomputed in the backward pass: the scores of all rows never stand in memory
    together. The more passages a step has, the fewer rows make a chunk, so that memory does not grow with the step.

    Args:
        chunk: rows counted from the first own one; the first column is a loss, further ones are counts.
        step: the step.
        size: rows of a chunk at most.
        device: where the result is.

    Returns:
        (n,): the weighted sum of the first column, the plain sums of the others.
    """
    rows = step.own[1] - step.own[0]
    size = min(size, max(1, SCORES.get(device.type, SCORES["cpu"]) // max(1, len(step.passage))))
    weights = torch.from_numpy(step.weight[slice(*step.own)]).to(device, non_blocking=True)

    def weighted(first: int, last: int) -> torch.Tensor:
        found = chunk(first, last)
        return torch.cat([(found[:, :1] * weights[first:last, None]).sum(dim=0), found[:, 1:].sum(dim=0)])

    if rows <= size:
        return weighted(0, rows)
    parts = [checkpoint(weighted, start, min(start + size, rows), use_reentrant=False) for start in range(0, rows, size)]
    return torch.stack(parts).sum(dim=0)


def index(array: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """An index array where `like` is."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(like.device, non_blocking=True)


_SMALLEST, _LARGEST = 1e-6, 1e6  # of temperatures and weights: a cosine times or divided by them is far within float32


def check_positive(name: str, value: float) -> None:
    """Refuse what is not a number above 0 that float32 can divide and multiply by."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ConfigurationError(f"{name}={value!r}: a number above 0 is needed")
    if not _SMALLEST <= value <= _LARGEST:
        raise ConfigurationError(f"{name}={value!r}: from {_SMALLEST:g} to {_LARGEST:g}; beyond, float32 gives no numbers")


def pairs_between(
    pairs: tuple[np.ndarray, np.ndarray], first: int, last: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """The pairs of rows first to last - 1, sorted by row, with rows counted from `first`."""
    rows, columns = pairs
    low, high = np.searchsorted(rows, [first, last])
    return torch.from_numpy(rows[low:high] - first).to(device), torch.from_numpy(columns[low:high].copy()).to(device)


def check_weight(name: str, value: float) -> None:
    """Refuse what is not a number of at least 0 that float32 can multiply by."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LARGEST:
        raise ConfigurationError(f"{name}={value!r}: a number, at least 0 and at most {_LARGEST:g}, is needed")
