"""What a run needs and what this machine has: memory, disk, and whether low precision pays."""

import contextlib
import time
from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")


def training_memory(weights: int, trained: int, shards: int = 1) -> int:
    """Bytes of weights, gradient and AdamW's two moments that a process holds, in float32; activations come on top.

    Args:
        weights: parameters in all.
        trained: those with a gradient.
        shards: processes over which they are spread (training.fsdp); each then holds whole weights too, while it evaluates.
    """
    everything = 4 * weights + 12 * trained
    return everything if shards == 1 else everything // shards + 4 * weights


def checkpoint_disk(weights: int, trained: int, checkpoints: int) -> int:
    """Bytes of so many checkpoints (weights and moments) and of the exported model.

    Args:
        weights: parameters in all.
        trained: those with moments.
        checkpoints: that stand on the disk at once; 0 where none is saved.
    """
    return (4 * weights + 8 * trained) * checkpoints + 4 * weights


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had, of the GPU's or of the machine's (the container's, where that is less); 0 if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            values = dict(line.split(":", 1) for line in file)
        free = int(values["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 0
    with contextlib.suppress(OSError, KeyError, ValueError):  # no cgroup v2, or no limit ("max")
        used = int((_CGROUP / "memory.current").read_text())
        statistics = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        reclaimable = int(statistics["inactive_file"])
        free = min(free, int((_CGROUP / "memory.max").read_text()) - used + reclaimable)
    return max(free, 0)


def bf16_is_emulated() -> bool:
    """Whether a matrix product takes longer in bfloat16 than in float32 here (0.1 s at most where it does)."""
    seconds = []
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(256, 256, dtype=dtype)
        matrix @ matrix
        start = time.perf_counter()
        for _ in range(3):
            matrix @ matrix
        seconds.append(time.perf_counter() - start)
    return seconds[1] > 2 * seconds[0]


def size(count: float) -> str:
    """1.2 GB, 35 MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
