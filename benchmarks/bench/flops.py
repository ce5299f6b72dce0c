"""How many floating point operations a text costs, and how many the machine can do."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch


def training_flops(weights: int, layers: int, hidden: int, lengths: Sequence[int]) -> int:
    """Operations of forward and backward over texts of these lengths, without padding and without recomputation.

    Every weight outside the embedding tables: 2 a token forward, 4 backward. Attention, a layer and a text of L tokens:
    scores L x L x H and the weighted sum of as many, 2 operations each, forward once and backward twice: 12 L^2 H.

    Args:
        weights: parameters outside the embedding tables (and without the pooler, which no vector uses).
        layers, hidden: of the model.
        lengths: tokens of each text.
    """
    return 6 * weights * sum(lengths) + 12 * layers * hidden * sum(length * length for length in lengths)


def product_of(
    tokens: int, hidden: int, dtype: torch.dtype, flops: float = 1e11, device: str = "cpu"
) -> tuple[Callable[[], None], int]:
    """The model's largest matrix product, (tokens, H) x (H, 4H), as often as it takes to do about so many operations.

    Returns:
        The call, and its operations.
    """
    left, right = (torch.randn(*shape).to(device, dtype) for shape in ((tokens, hidden), (hidden, 4 * hidden)))
    one = 8 * tokens * hidden * hidden
    rounds = max(1, round(flops / one))

    def call() -> None:
        for _ in range(rounds):
            left @ right

    return call, rounds * one


def wait() -> None:
    """Until the GPU has done what it was given; nothing where none is in use."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def matmul_rate(tokens: int, hidden: int, dtype: torch.dtype, repetitions: int = 5, device: str = "cpu") -> float:
    """FLOP/s of this machine at the model's largest product: the median, after one to warm up."""
    call, flops = product_of(tokens, hidden, dtype, 2e10, device)
    times = []
    for _ in range(repetitions + 1):
        start = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - start)
    return flops / statistics.median(times[1:])
