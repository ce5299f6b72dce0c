"""Ground floor: ranks, barriers, and a gather through which gradients flow."""

import contextlib
import os
from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist


def active() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's number, also before the process group exists."""
    return dist.get_rank() if active() else int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Number of processes, also before the process group exists."""
    return dist.get_world_size() if active() else int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if active():
        dist.barrier()


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set on any process; every process gets the same answer.

    Args:
        flag: this process's.
        device: where the backend communicates (the GPU for NCCL).
    """
    if not active():
        return flag
    everyone = torch.tensor([int(flag)], device=device)
    dist.all_reduce(everyone, dist.ReduceOp.MAX)
    return bool(everyone.item())


def shutdown() -> None:
    """Leave the process group, so that torch does not warn at exit."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@contextlib.contextmanager
def main_process_first() -> Iterator[None]:
    """Let the main process run the block before the others: one writes a cache, then all read it."""
    if not is_main():
        barrier()
    try:
        yield
    finally:
        if is_main():
            barrier()


def gather_arrays(array: np.ndarray, device: torch.device) -> list[np.ndarray]:
    """Every process's int64 array, in the order of ranks; lengths may differ.

    Args:
        array: (n,) int64.
        device: where the backend communicates (the GPU for NCCL).
    """
    if not active():
        return [array]
    own = torch.from_numpy(np.ascontiguousarray(array)).to(device)
    sizes = _sizes(len(array), device)
    padded = own.new_zeros(max(sizes))
    padded[: len(own)] = own
    everyone = own.new_empty(world_size() * max(sizes))
    _all_gather(everyone, padded)
    return [part[:size].cpu().numpy() for part, size in zip(everyone.view(world_size(), -1), sizes, strict=True)]


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Every process's rows below each other, in the order of ranks, with gradient.

    The gradient that comes back to a process is the sum of what all processes have for its rows, so with each process
    scoring its own queries and DDP averaging, the parameters see the gradient of the mean over all queries.
    (`torch.distributed.nn.all_gather` aborts when counts differ between ranks.)

    Args:
        rows: (n, D); n may differ between processes.

    Returns:
        (sum of n, D).
    """
    return _GatherRows.apply(rows) if active() else rows


def _sizes(own: int, device: torch.device) -> list[int]:
    sizes = torch.empty(world_size(), dtype=torch.int64, device=device)
    _all_gather(sizes, torch.tensor([own], dtype=torch.int64, device=device))
    return sizes.tolist()


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(context, rows):
        sizes = _sizes(len(rows), rows.device)
        context.sizes = sizes
        padded = rows.new_zeros(max(sizes), rows.shape[1])
        padded[: len(rows)] = rows
        everyone = rows.new_empty(world_size() * max(sizes), rows.shape[1])
        _all_gather(everyone, padded)
        parts = everyone.view(world_size(), max(sizes), rows.shape[1])  # -1 has no answer when nobody has rows
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(context, gradient):
        sizes = context.sizes
        padded = gradient.new_zeros(world_size(), max(sizes), gradient.shape[1])
        for part, piece in zip(padded, gradient.split(sizes), strict=True):
            part[: len(piece)] = piece
        own = gradient.new_empty(max(sizes), gradient.shape[1])
        _reduce_scatter(own, padded.flatten(0, 1))
        return own[: sizes[rank()]]


# The *_single functions replace the *_tensor ones from torch 2.13 on, which warn at every first call.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
