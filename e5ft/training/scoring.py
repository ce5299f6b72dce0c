"""What losses share: a model's vectors of a step as scores are taken from them, rows in chunks, indices where the vectors are."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from e5ft.data.step import Step
from e5ft.errors import ConfigurationError

# Of a chunk at most. On a CPU 4 MB in float32, and ten times that with what is made of them; on a GPU more, whose kernels wait for work.
SCORES = {"cpu": 2**20, "cuda": 2**24}

Boundary = Callable[[torch.Tensor], torch.Tensor]
Build = Callable[[torch.Tensor, Boundary], Callable[[int, int], torch.Tensor]]


def _as_it_is(shared: torch.Tensor) -> torch.Tensor:
    """The boundary where there is none."""
    return shared


class Side:
    """One model's vectors of a step, as scores are taken from them: own rows, distinct passages, distinct queries."""

    def __init__(self, vectors: torch.Tensor, step: Step, blocks: Sequence[str], boundary: Boundary = _as_it_is):
        start, stop = step.own
        self.query = boundary(vectors[index(step.query[start:stop], vectors)])  # (B, D)
        self.positive = boundary(vectors[index(step.positive[start:stop], vectors)])  # (B, D)
        self.passages = boundary(vectors[index(step.passage, vectors)])  # (P, D)
        self.queries = None
        if "passage_query" in blocks or "query_query" in blocks:
            self.queries = boundary(vectors[index(step.query[step.distinct_query], vectors)])  # (Q, D)

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


def over_rows(build: Build, step: Step, size: int, embeddings: torch.Tensor) -> torch.Tensor:
    """Sum over the own rows of what a chunk of them gives, each row by its weight.

    Where there is more than one chunk, each is computed anew in the backward pass, and its gradient added up before the next one
    begins: neither the scores of all rows nor a graph of all chunks ever stands in memory. The more passages a step has, the
    fewer rows make a chunk, so that memory does not grow with the step.

    Args:
        build: (embeddings, boundary) -> chunk, and chunk(first, last) -> (b, n), rows counted from the first own one; the first
            column is a loss, further ones are counts. What chunks take from the embeddings must pass through
            `boundary` (a tensor to a tensor of the same values), where its gradients are added up.
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
        return _weighted(build(embeddings, _as_it_is), weights, 0, rows)
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
        chunk = build(embeddings.detach(), _as_it_is)
        total = _weighted(chunk, weights, *bounds[0])
        for first, last in bounds[1:]:
            total += _weighted(chunk, weights, first, last)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        embeddings, weights = ctx.saved_tensors
        build, bounds = ctx.given
        shared = []

        def boundary(tensor: torch.Tensor) -> torch.Tensor:
            shared.append((tensor, tensor.detach().requires_grad_()))
            return shared[-1][1]

        with torch.enable_grad(), torch.autocast(embeddings.device.type, enabled=False):
            leaf = embeddings.detach().requires_grad_()
            chunk = build(leaf, boundary)
            for first, last in bounds:
                _weighted(chunk, weights, first, last)[0].backward(gradient[0])
            used = [(tensor, copy.grad) for tensor, copy in shared if copy.grad is not None]
            torch.autograd.backward([tensor for tensor, _ in used], [found for _, found in used])
        return leaf.grad, None, None, None


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
