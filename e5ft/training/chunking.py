"""What losses share: rows in chunks, indices where the vectors are, checks of their numbers."""

from collections.abc import Callable

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from e5ft.data.step import Step
from e5ft.errors import ConfigurationError

Take = Callable[[torch.Tensor], torch.Tensor]
Chunk = Callable[[Take, slice], torch.Tensor]


def mean_over_rows(chunk: Chunk, step: Step, size: int, embeddings: torch.Tensor) -> torch.Tensor:
    """The weighted mean over the own rows of a loss that is computed for some rows at a time.

    Each chunk is computed anew in the backward pass, and its gradient added up before the next one begins: no graph of all chunks
    stands in memory.

    Args:
        chunk: (take, rows) -> (b,) losses of some rows, counted from the first own one. `take` gives the vectors of places among
            the step's texts: (n,) -> (n, D), (n, m) -> (n, m, D).
        step: the step.
        size: rows of a chunk at most.
        embeddings: (N, D), float32.
    """
    weight = to_device(step.weight[slice(*step.local_rows)], embeddings)
    return _Chunks.apply(embeddings, chunk, weight, size) / weight.sum()


class _Chunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, embeddings, chunk, weight, size):
        ctx.save_for_backward(embeddings, weight)
        ctx.given = chunk, size
        return sum((chunk(embeddings.__getitem__, rows) * weight[rows]).sum() for rows in row_slices(len(weight), size))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        embeddings, weight = ctx.saved_tensors
        chunk, size = ctx.given
        embeddings = embeddings.detach()
        found = torch.zeros_like(embeddings)
        for rows in row_slices(len(weight), size):
            taken = []

            def take(places: torch.Tensor, taken: list = taken) -> torch.Tensor:
                taken.append((places, embeddings[places].requires_grad_()))
                return taken[-1][1]

            with torch.enable_grad(), torch.autocast(embeddings.device.type, enabled=False):
                (chunk(take, rows) * weight[rows]).sum().backward(gradient)
            for places, vectors in taken:
                add_rows(found, places, vectors.grad)
        return found, None, None, None


def row_slices(count: int, size: int) -> list[slice]:
    """Consecutive slices of `size` rows at most."""
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def add_rows(total: torch.Tensor, places: torch.Tensor, rows: torch.Tensor) -> None:
    """Add rows where they belong, in place; a place may stand twice."""
    # Not index_add_, whose sums have another order each time on a GPU where a place stands twice.
    total.index_put_((places,), rows, accumulate=True)


def to_device(array: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """An array where `like` is; the host does not wait for the device (a copy that waits, waits for all work before it)."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(like.device, non_blocking=True)


_SMALLEST, _LARGEST = 1e-6, 1e6  # of temperatures and weights: a cosine times or divided by them is far within float32


def check_positive(name: str, value: float) -> None:
    """Refuse what is not a number above 0 that float32 can divide and multiply by."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ConfigurationError(f"{name}={value!r}: a number above 0 is needed")
    if not _SMALLEST <= value <= _LARGEST:
        raise ConfigurationError(f"{name}={value!r}: from {_SMALLEST:g} to {_LARGEST:g}; beyond, float32 gives no numbers")


def relative_to_local_rows(pairs: tuple[np.ndarray, np.ndarray], step: Step) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (row, column) with rows counted from the first own one."""
    return pairs[0] - step.local_rows[0], pairs[1]


def check_weight(name: str, value: float) -> None:
    """Refuse what is not a number of at least 0 that float32 can multiply by."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LARGEST:
        raise ConfigurationError(f"{name}={value!r}: a number, at least 0 and at most {_LARGEST:g}, is needed")
