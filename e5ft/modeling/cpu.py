"""Work on a CPU: every core encodes texts of its own, matrices are laid out as oneDNN wants them, freed memory is given back."""

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import torch
from torch import nn
from transformers.activations import GELUActivation

# Most tokens of a forward pass on one core: more gains nothing (docs/log.md). With fewer than `FEWEST` the products are small.
TOKENS = 4096
FEWEST = 256
# Laying weights out costs as much time as some hundred tokens: a lone query is faster without.
PACK_FROM = 2048
# Python runs one thread at a time, so that more threads than this gain nothing.
WORKERS = 16
# torch's operators on oneDNN are no public interface: they are called in this file alone, and where one is missing or takes
# other arguments (one of these errors) the plain computation does the work.
_UNFIT = (AttributeError, RuntimeError, TypeError)
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None  # glibc has it, musl has not


def max_concurrent_tokens(limit: int) -> int:
    """How many tokens all forward passes hold that run at the same time, where at most `limit` are allowed."""
    return min(limit, _workers() * TOKENS)


def batch_tokens(tokens: int, limit: int) -> int:
    """Tokens of a forward pass, such that all of `tokens` are even work for every core and at most `limit` run at once."""
    workers = _workers()
    largest = max(1, max_concurrent_tokens(limit) // workers)
    rounds = max(1, -(-tokens // (workers * largest)))
    return min(largest, max(FEWEST, -(-tokens // (workers * rounds))))


def on_every_core(work: Callable[[list[int]], None], batches: Sequence[list[int]]) -> None:
    """Run `work` on each batch, several at a time, each on its share of torch's threads.

    An operation split over the cores makes all of them wait at its end, and small ones are not split at all. Gradient is
    off in the threads; autocast is what `work` itself sets. The first error is raised here, when running work has ended.
    """
    threads, workers = torch.get_num_threads(), min(_workers(), len(batches))
    if workers <= 1:
        for batch in batches:
            work(batch)
        return
    pool = ThreadPoolExecutor(workers, "encode", initializer=torch.set_num_threads, initargs=(threads // workers,))
    try:
        list(pool.map(torch.no_grad()(work), batches))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # for threads to come; this one's number never was another


@contextmanager
def packed(model: nn.Module, tokens: int) -> Iterator[None]:
    """Within, linear layers without gradient have their weights in oneDNN's own layout, and GELU is part of its product.

    The layout is made again each time: nothing here remembers weights that training changes. What runs with gradient, a half
    precision that oneDNN does not know on this machine, and everything without oneDNN is computed plainly, with the same result.

    Args:
        model: on a CPU.
        tokens: how many will pass; for few of them the layers stay as they are.
    """
    changed = []
    if tokens >= PACK_FROM and torch.backends.mkldnn.is_available():
        for module in model.modules():
            if type(module) is nn.Linear:
                changed.append((module, _Packed(module, module.forward, "none")))
            elif type(getattr(module, "dense", None)) is nn.Linear and _is_gelu(getattr(module, "intermediate_act_fn", None)):
                changed.append((module, _Packed(module.dense, module.forward, "gelu")))
    try:
        for module, forward in changed:  # not the module itself: adapters ask it for its weight, hooks hang on it
            module.forward = forward
        yield
    finally:
        for module, _ in changed:
            module.__dict__.pop("forward", None)


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left @ right.T in float32, (n, D) and (m, D) -> (n, m); oneDNN's, on a CPU, where torch would take another library's (docs/log.md)."""
    if left.device.type == "cpu" and torch.backends.mkldnn.is_available() and len(left) and len(right):
        with suppress(*_UNFIT):
            return torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "none")
    return left @ right.T


def release_freed_memory() -> None:
    """Give freed memory back to the system; where the C library has no such call, do nothing.

    Texts of other lengths make tensors of other sizes, which do not fit into the holes that earlier ones left: without this
    the process grows from step to step.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)


class _Packed:
    """Forward pass of a linear layer and the activation after it; `plain` is what it stands in for."""

    def __init__(self, linear: nn.Linear, plain: Callable[[torch.Tensor], torch.Tensor], activation: str):
        self.linear, self.plain, self.activation, self.weights = linear, plain, activation, {}

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else self.linear.weight.dtype
            with suppress(*_UNFIT):
                if dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
                    return self._product(values, dtype)
        return self.plain(values)

    def _product(self, values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if dtype not in self.weights:  # two threads may both do it, with the same result
            bias = self.linear.bias
            weight = torch.ops.mkldnn._reorder_linear_weight(self.linear.weight.to(dtype), TOKENS)
            self.weights[dtype] = weight, None if bias is None else bias.to(dtype)
        return torch.ops.mkldnn._linear_pointwise(values.to(dtype), *self.weights[dtype], self.activation, [], "none")


def _is_gelu(module: nn.Module | None) -> bool:
    """Say whether this is the exact GELU, by the error function."""
    if type(module) is GELUActivation:
        return module.act is nn.functional.gelu
    return type(module) is nn.GELU and module.approximate == "none"


def _workers() -> int:
    return min(torch.get_num_threads(), WORKERS)
