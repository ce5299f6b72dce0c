"""Ground floor: ranks, barriers, and what one process tells all. torch is imported only where processes are several."""

import contextlib
import os
import sys
from collections.abc import Iterator

import numpy as np


def active() -> bool:
    """Whether several processes train together."""
    if "torch.distributed" not in sys.modules:  # nobody can have joined a process group
        return False
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's number, also before the process group exists."""
    if not active():
        return int(os.environ.get("RANK", 0))
    import torch.distributed as dist

    return dist.get_rank()


def world_size() -> int:
    """Number of processes, also before the process group exists."""
    if not active():
        return int(os.environ.get("WORLD_SIZE", 1))
    import torch.distributed as dist

    return dist.get_world_size()


def is_main() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if active():
        import torch.distributed as dist

        dist.barrier()


def any_process(flag: bool) -> bool:
    """Whether the flag is set on any process; every process gets the same answer."""
    return bool(any(part[0] for part in gather_arrays(np.array([int(flag)], dtype=np.int64))))


def shutdown() -> None:
    """Leave the process group, so that torch does not warn at exit."""
    if "torch.distributed" in sys.modules:
        from e5ft.gathering import leave_process_group

        leave_process_group()


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


def gather_arrays(array: np.ndarray) -> list[np.ndarray]:
    """Return every process's int64 array, (n,), in the order of ranks; lengths may differ."""
    if not active():
        return [array]
    from e5ft.gathering import arrays_on_hosts

    return arrays_on_hosts(array)
