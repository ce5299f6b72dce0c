"""Dropout whose masks are cheap to draw on a CPU, where torch's own draw takes up to a third of a step.

torch draws one uniform number an element; 16 random bits are enough for a probability to within 2^-17, and a counter-free
64-bit generator hands out four elements a call. On other devices torch's fused kernel is as cheap as it gets and is used.
"""

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable

_LEVELS = 1 << 16


def keep_mask(shape: tuple[int, ...], probability: float) -> torch.Tensor:
    """Which elements stay.

    Args:
        shape: of the mask.
        probability: of dropping an element, in [0, 1); rounded to a multiple of 2^-16.

    Returns:
        A bool tensor on the CPU. It depends on torch's CPU generator alone, which moves on by one number: seeding torch
        (or restoring its state, as activation checkpointing does) gives the same mask again.
    """
    count = int(np.prod(shape))
    seed = int(torch.randint(2**62, ()))
    bits = np.random.SFC64(seed).random_raw(-(-count // 4)).view(np.int16)[:count]
    return (torch.from_numpy(bits) >= round(probability * _LEVELS) - _LEVELS // 2).view(shape)


def drop(values: torch.Tensor, mask: torch.Tensor, probability: float) -> torch.Tensor:
    """The values that stay, multiplied by 1 / (1 - probability); the others become 0. A new tensor."""
    # The mask is widened first: torch multiplies by a bool tensor several times more slowly.
    return mask.to(values.dtype).mul_(values).mul_(1 / (1 - probability))


class Dropout(nn.Module):
    """`torch.nn.Dropout` with cheap masks on a CPU.

    Args:
        p: probability of zeroing an element, in [0, 1); the others are multiplied by 1 / (1 - p).
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Drop elements while training; any shape."""
        if not self.training or self.p == 0.0:
            return values
        if values.device.type != "cpu":
            return nn.functional.dropout(values, self.p)
        return _Drop.apply(values, self.p)

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"p={self.p}"


class _Drop(torch.autograd.Function):
    """Keeps one byte an element for the backward pass."""

    @staticmethod
    def forward(ctx, values, p):
        mask = keep_mask(values.shape, p)
        ctx.save_for_backward(mask)
        ctx.p = p
        return drop(values, mask, p)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (mask,) = ctx.saved_tensors
        return drop(gradient, mask, ctx.p), None


def with_cheap_masks(model: nn.Module) -> None:
    """Put `Dropout` in the place of every `torch.nn.Dropout` of a model."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p).train(child.training))
