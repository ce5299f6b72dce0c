"""Dropout whose masks are cheap to draw on a CPU, where torch's own draw takes up to a third of a step.

torch draws one uniform number an element; 16 random bits are enough for a probability to within 2^-17, and numpy's SFC64
generator hands out four elements a call. On other devices torch's fused kernel is as cheap as it gets and is used.
"""

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable

_LEVELS = 1 << 16
_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes: bfloat16, float32, float64


def keep_mask(shape: tuple[int, ...], probability: float) -> torch.Tensor:
    """Which elements stay.

    Args:
        shape: of the mask.
        probability: of dropping an element, in [0, 1); rounded to a multiple of 2^-16.

    Returns:
        An int16 tensor on the CPU, -1 (all bits set) where an element stays and 0 where it is dropped: torch's operations on
        int16 take a tenth of those on bool. It depends on torch's CPU generator alone, which moves on by one number: seeding
        torch (or restoring its state, as activation checkpointing does) gives the same mask again.
    """
    count = int(np.prod(shape))
    seed = int(torch.randint(2**62, ()))
    bits = np.random.SFC64(seed).random_raw(-(-count // 4)).view(np.int16)[:count]
    return torch.from_numpy(bits).ge_(round(probability * _LEVELS) - _LEVELS // 2).neg_().view(shape)


def drop(values: torch.Tensor, mask: torch.Tensor, probability: float) -> torch.Tensor:
    """The values that stay, multiplied by 1 / (1 - probability); the others become 0. A new tensor."""
    return _as_wide(mask, values).bitwise_and_(_bits(values)).view(values.dtype).mul_(1 / (1 - probability))


def mark_dropped(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Encode a mask in the sign bit of values that are not negative, in place: dropped ones get a minus sign.

    No mask need be kept: `values.abs()` are the values, `values.relu()` those that stay.
    """
    sign = torch.iinfo(_INTEGER[values.element_size()]).min
    _bits(values).bitwise_or_(_as_wide(mask, values).bitwise_not_().bitwise_and_(sign))
    return values


def _as_wide(mask: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return mask.to(_INTEGER[values.element_size()], copy=True)


def _bits(values: torch.Tensor) -> torch.Tensor:
    return values.view(_INTEGER[values.element_size()])


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
    """Keeps two bytes an element for the backward pass."""

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
