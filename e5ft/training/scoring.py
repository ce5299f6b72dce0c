"""What losses share: a model's vectors of a step as scores are taken from them, rows in chunks, indices where the vectors are."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from e5ft.data.step import Step
from e5ft.errors import ConfigurationError

# Of a chunk at most. On a CPU 4 MB in float32, and ten times that with what is made of them; on a GPU more, whose kernels wait for work.
SCORES = {"cpu": 2**20, "cuda": 2**24}


class Vectors:
    """A step's vectors, of which a loss takes rows.

    Args:
        values: (N, D), float32.
        gradient: (N, D), to which the gradients of what is taken are added by `settle`; None leaves that to torch, whose way takes
            as much memory as all vectors for every time that some are taken.
    """

    def __init__(self, values: torch.Tensor, gradient: torch.Tensor | None = None):
        self.values, self.gradient = values, gradient
        self._taken: list[tuple[torch.Tensor, torch.Tensor]] = []

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """(n, D) vectors of (n,) rows, or (n, m, D) of (n, m)."""
        found = self.values[rows]
        if self.gradient is not None:
            self._taken.append((rows, found.requires_grad_()))
        return found

    def kept(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """What was taken since the last time, to be settled later."""
        taken, self._taken = self._taken, []
        return taken

    def settle(self, taken: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Add up the gradients of what was taken."""
        for rows, found in taken:
            if found.grad is not None:
                # Not index_add_, whose sums have another order each time on a GPU.
                self.gradient.index_put_((rows,), found.grad, accumulate=True)


Build = Callable[[Vectors], Callable[[int, int], torch.Tensor]]


class Side:
    """One model's vectors of a step, as scores are taken from them: distinct passages and queries, and own rows when asked for."""

    def __init__(self, vectors: Vectors, step: Step, blocks: Sequence[str]):
        self._vectors, like = vectors, vectors.values
        self._query, self._positive = (index(part[slice(*step.own)], like) for part in (step.query, step.positive))
        self.passages = vectors.take(index(step.passage, like))  # (P, D)
        self.queries = None
        if "passage_query" in blocks or "query_query" in blocks:
            self.queries = vectors.take(index(step.query[step.distinct_query], like))  # (Q, D)

    def rows(self, rows: slice) -> "Rows":
        """Scores of some of the own rows."""
        return Rows(self, self._vectors.take(self._query[rows]), self._vectors.take(self._positive[rows]))


class Rows:
    """Some of a side's own rows, b of them: their queries' and positives' vectors, (b, D)."""

    def __init__(self, side: Side, query: torch.Tensor, positive: torch.Tensor):
        self.side, self.query, self.positive = side, query, positive

    def own(self) -> torch.Tensor:
        """(b, 1) cosines of each query and its positive."""
        return (self.query * self.positive).sum(dim=1, keepdim=True)

    def scores(self, block: str) -> torch.Tensor:
        """(b, C) cosines of a block."""
        anchor, _, candidate = block.partition("_")
        candidates = self.side.queries if candidate == "query" else self.side.passages
        return (self.query if anchor == "query" else self.positive) @ candidates.T


def over_rows(build: Build, step: Step, size: int, embeddings: torch.Tensor) -> torch.Tensor:
    """Sum over the own rows of what a chunk of them gives, each row by its weight.

    Where there is more than one chunk, each is computed anew in the backward pass, and its gradient added up before the next one
    begins: neither the scores of all rows nor a graph of all chunks ever stands in memory. The more passages a step has, the
    fewer rows make a chunk, so that memory does not grow with the step.

    Args:
        build: vectors -> chunk, and chunk(first, last) -> (b, n), rows counted from the first own one; the first column is a loss,
            further ones are counts. What a loss needs of the vectors it takes from them: for all chunks in `build`, for one in `chunk`.
        step: the step.
        size: rows of a chunk at most.
        embeddings: (N, D), float32.

    Returns:
        (n,): the weighted sum of the first column, the plain sums of the others, which have no gradient.
    """
    rows, device = step.own[1] - step.own[0], embeddings.device
    size = min(size, max(1, SCORES.get(device.type, SCORES["cpu"]) // max(1, len(step.passage))))
    weights = torch.from_numpy(step.weight[slice(*step.own)]).to(device, non_blocking=True)
    if rows <= size:
        return _weighted(build(Vectors(embeddings)), weights, 0, rows)
    return _Chunks.apply(embeddings, build, weights, [(start, min(start + size, rows)) for start in range(0, rows, size)])


def _weighted(chunk: Callable[[int, int], torch.Tensor], weights: torch.Tensor, first: int, last: int) -> torch.Tensor:
    found = chunk(first, last)
    return torch.cat([(found[:, :1] * weights[first:last, None]).sum(dim=0), found[:, 1:].sum(dim=0)])


class _Chunks(torch.autograd.Function):
    """The sum over chunks. (torch's checkpoint kept no scores either, but small things of every chunk, between which the memory
    of its scores could not be used again: it grew by a chunk's scores a chunk.)"""

    @staticmethod
    def forward(ctx, embeddings, build, weights, bounds):
        ctx.save_for_backward(embeddings, weights)
        ctx.given = build, bounds
        chunk = build(Vectors(embeddings.detach()))
        total = _weighted(chunk, weights, *bounds[0])
        for first, last in bounds[1:]:
            total += _weighted(chunk, weights, first, last)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        embeddings, weights = ctx.saved_tensors
        build, bounds = ctx.given
        vectors = Vectors(embeddings.detach(), torch.zeros_like(embeddings))
        with torch.enable_grad(), torch.autocast(embeddings.device.type, enabled=False):
            chunk = build(vectors)
            shared = vectors.kept()
            for first, last in bounds:
                _weighted(chunk, weights, first, last)[0].backward(gradient[0])
                vectors.settle(vectors.kept())
            vectors.settle(shared)
        return vectors.gradient, None, None, None


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
