"""Gathers between processes, of which one carries gradients back.

What lies on the host goes from host to host (gloo), also where tensors go from GPU to GPU (NCCL): so no process waits for its GPU
to tell the others which texts it has.
"""

import functools
import os
from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

from e5ft.distributed import active, rank, world_size


def joined(device: torch.device) -> torch.device:
    """Under torchrun, join a process group for work that is never even; the device of this process."""
    if world_size() == 1:
        return device
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        device = torch.device("cuda", torch.cuda.current_device())
    if not dist.is_initialized():
        # A day: the processes of mining meet after each has filtered its own rows, perhaps by a cross-encoder.
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=1))
    return device


def leave_process_group() -> None:
    """Destroy the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
        _gloo_group.cache_clear()


def arrays_on_hosts(array: np.ndarray) -> list[np.ndarray]:
    """Return every process's int64 array, (n,), in the order of ranks; lengths may differ."""
    sizes = _everyones_numbers([len(array)])[:, 0].tolist()
    padded = torch.zeros(max(sizes), dtype=torch.int64)
    padded[: len(array)] = torch.from_numpy(np.ascontiguousarray(array))
    return [part[:size].numpy() for part, size in zip(_gathered_on_hosts(padded), sizes, strict=True)]


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Return every process's rows below each other, in the order of ranks, with gradient; see `Gathering`.

    Args:
        rows: (n, D); n may differ between processes.

    Returns:
        (sum of n, D).
    """
    gathering = Gathering([len(rows)])
    gathering.send(0, rows)
    return gathering.rows(rows)


class Gathering:
    """A gathering puts every process's rows below each other, sent piece by piece: one travels while the next one is made.

    The gradient that comes back to a process is the sum of what all processes have for its rows, so with each process
    scoring its own queries and DDP averaging, the parameters see the gradient of the mean over all queries.
    (`torch.distributed.nn.all_gather` aborts when counts differ between ranks.)

    Args:
        sizes: rows of each piece of this process; others may have other rows, and must have as many pieces.
    """

    def __init__(self, sizes: Sequence[int]):
        self.sizes = _everyones_numbers(sizes) if active() else None  # (processes, pieces)
        self._sent: dict[int, tuple] = {}

    def send(self, piece: int, rows: torch.Tensor) -> None:
        """Send a piece to the other processes. All processes send their pieces in the same order.

        Args:
            piece: its number.
            rows: (n, D), n as announced; they may change afterwards.
        """
        if self.sizes is None:
            return
        most = int(self.sizes[:, piece].max())
        padded = rows.new_zeros(most, rows.shape[1])
        padded[: len(rows)] = rows.detach()
        gathered = rows.new_empty(world_size() * most, rows.shape[1])
        self._sent[piece] = gathered, padded, _all_gather(gathered, padded, async_op=True)

    def rows(self, local_rows: torch.Tensor) -> torch.Tensor:
        """Return all rows, when all pieces have been sent.

        Args:
            local_rows: (n, D), the rows of this process, piece after piece; the gradient flows to them.

        Returns:
            (sum of n, D), in the order of ranks and pieces; in one process, `local_rows` itself.
        """
        return local_rows if self.sizes is None else _Gathered.apply(local_rows, self)

    def _received(self, like: torch.Tensor) -> torch.Tensor:
        all_rows = like.new_empty(int(self.sizes.sum()), like.shape[1])
        targets = all_rows.split(self.sizes.flatten().tolist())
        pieces = self.sizes.shape[1]
        for piece in range(pieces):
            gathered, _, work = self._sent.pop(piece)
            work.wait()
            for target, part in zip(targets[piece::pieces], gathered.chunk(world_size()), strict=False):  # none of no rows
                target.copy_(part[: len(target)])
        return all_rows


@functools.lru_cache(maxsize=1)
def _gloo_group(world: dist.ProcessGroup) -> dist.ProcessGroup:
    """Return a gloo group of the same processes, which sends what lies on the host."""
    if dist.get_backend(world) == "gloo":
        return world
    kind = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # Whoever made the group said how long one process may wait for another; torch has no public way to ask for it.
    timeout = getattr(getattr(world._get_backend(kind), "options", None), "_timeout", None)
    return dist.new_group(backend="gloo", timeout=timeout)


def _everyones_numbers(numbers: Sequence[int]) -> torch.Tensor:
    """Return every process's whole numbers, as many on each, (processes, numbers)."""
    return _gathered_on_hosts(torch.tensor(list(numbers), dtype=torch.int64))


def _gathered_on_hosts(local: torch.Tensor) -> torch.Tensor:
    """Gather a tensor on the host, (n,) on every process: (processes, n)."""
    gathered = local.new_empty(world_size() * len(local))
    _all_gather(gathered, local, group=_gloo_group(dist.group.WORLD))
    return gathered.view(world_size(), -1)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(context, local_rows, gathering):
        context.sizes = gathering.sizes.sum(dim=1).tolist()
        return gathering._received(local_rows)

    @staticmethod
    def backward(context, gradient):
        sizes = context.sizes
        padded = gradient.new_zeros(world_size(), max(sizes), gradient.shape[1])
        for part, piece in zip(padded, gradient.split(sizes), strict=True):
            part[: len(piece)] = piece
        local = gradient.new_empty(max(sizes), gradient.shape[1])
        _reduce_scatter(local, padded.flatten(0, 1))
        return local[: sizes[rank()]], None


# The *_single functions replace the *_tensor ones from torch 2.13 on, which warn at every first call.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
