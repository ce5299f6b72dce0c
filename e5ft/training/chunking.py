"""Helpers for losses: rows in chunks, arrays on the vectors' device."""

from collections.abc import Callable

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from e5ft.data.step import Step

Take = Callable[[torch.Tensor], torch.Tensor]  # indices of texts -> their vectors: (n,) -> (n, D), (n, m) -> (n, m, D)


def mean_over_rows(chunk: Callable[[Take, slice], torch.Tensor], step: Step, size: int, embeddings: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean over the local rows of a loss that is computed for some rows at a time.

    Each chunk is computed again in the backward pass, and its gradient is added up before the next chunk: memory never holds
    the graph of all chunks.

    Args:
        chunk: (take, rows) -> (b,) losses of some rows, counted from the first local one.
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
        ctx.arguments = chunk, size
        with torch.autocast(embeddings.device.type, enabled=False):
            return sum((chunk(embeddings.__getitem__, rows) * weight[rows]).sum() for rows in row_slices(len(weight), size))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        embeddings, weight = ctx.saved_tensors
        chunk, size = ctx.arguments
        embeddings = embeddings.detach()
        total = torch.zeros_like(embeddings)
        for rows in row_slices(len(weight), size):
            taken = []

            def take(indices: torch.Tensor, taken: list = taken) -> torch.Tensor:
                """Return the rows of these indices as leaves, and remember them for their gradient."""
                taken.append((indices, embeddings[indices].requires_grad_()))
                return taken[-1][1]

            with torch.enable_grad(), torch.autocast(embeddings.device.type, enabled=False):
                loss = (chunk(take, rows) * weight[rows]).sum()
            slopes = torch.autograd.grad(loss, [vectors for _, vectors in taken], gradient, materialize_grads=True)
            for (indices, _), slope in zip(taken, slopes, strict=True):
                add_rows(total, indices, slope)
        return total, None, None, None


def row_slices(count: int, size: int) -> list[slice]:
    """Return consecutive slices of at most `size` rows."""
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def add_rows(total: torch.Tensor, indices: torch.Tensor, rows: torch.Tensor) -> None:
    """Add rows at indices, which may repeat, in place."""
    # Not index_add_, whose order of addition changes from call to call on a GPU if indices repeat.
    total.index_put_((indices,), rows, accumulate=True)


def to_device(array: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """Copy an array to `like.device` without synchronising."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(like.device, non_blocking=True)


def relative_to_local_rows(pairs: tuple[np.ndarray, np.ndarray], step: Step) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs (row, column) with rows counted from the first local one."""
    return pairs[0] - step.local_rows[0], pairs[1]
