"""Poolings turn a text's token vectors into one vector. A row of `POOLINGS` is all that one needs to be trained and exported.

The functions use methods of tensors alone, so that settings can read the names without importing torch.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Pooling(NamedTuple):
    """One pooling and its names in sentence-transformers.

    Attributes:
        flat: pools texts laid end to end: token vectors (T, D) and the texts' lengths (N,) -> (N, D).
        padded: pools a padded batch: (N, L, D) and its attention mask (N, L) -> (N, D). The export's check uses it, so that a
            fault in `flat` shows.
        name: sentence-transformers' name from version 6 on.
        legacy_name: its name before, in 1_Pooling/config.json behind `pooling_mode_`.
    """

    flat: "Callable[[Tensor, Tensor], Tensor]"
    padded: "Callable[[Tensor, Tensor], Tensor]"
    name: str
    legacy_name: str


def _mean(hidden: "Tensor", sizes: "Tensor") -> "Tensor":
    text = (sizes.new_ones(len(sizes)).cumsum(0) - 1).repeat_interleave(sizes, output_size=len(hidden))  # (T,), of each token
    sums = hidden.new_zeros(len(sizes), hidden.shape[1]).index_add(0, text, hidden)
    return sums / sizes.unsqueeze(1)


def _padded_mean(hidden: "Tensor", mask: "Tensor") -> "Tensor":
    return (hidden * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)


def _padded_last(hidden: "Tensor", mask: "Tensor") -> "Tensor":
    return hidden.take_along_dim((mask.sum(dim=1) - 1)[:, None, None], dim=1)[:, 0]


POOLINGS = {
    "mean": Pooling(_mean, _padded_mean, "mean", "mean_tokens"),
    "cls": Pooling(lambda hidden, sizes: hidden[sizes.cumsum(0) - sizes], lambda hidden, mask: hidden[:, 0], "cls", "cls_token"),
    "last": Pooling(lambda hidden, sizes: hidden[sizes.cumsum(0) - 1], _padded_last, "lasttoken", "lasttoken"),
}
