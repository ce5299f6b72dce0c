"""Exact accumulation: k micro-batches give the loss and the gradient of one batch k times larger.

Contrastive losses do not add up over micro-batches, for every query must meet every passage. So the vectors of all k
are made first (without gradient), the loss of the whole step gives a gradient for each vector, and each micro-batch is
then embedded again and given its slice of it. Source: Gao et al. 2021 (GradCache), with one forward pass saved.
"""

import dataclasses
from collections.abc import Callable, Sequence

import torch

from e5ft import distributed
from e5ft.data.collator import MicroBatch
from e5ft.data.step import Step, join


@dataclasses.dataclass
class CachedMicroBatch:
    """A micro-batch with what the whole step's loss asks of it.

    Attributes:
        micro_batch: the micro-batch.
        number: its place in the step, which seeds its dropout.
        loss: its share of the step's loss (a detached scalar; the shares sum to the loss).
        gradient: (N, D) float32, d loss / d vector; None when the loss is taken from this micro-batch directly.
        embeddings: (N, D) with graph, when its first pass was kept; None when it must be embedded again.
    """

    micro_batch: MicroBatch
    number: int
    loss: torch.Tensor | None = None
    gradient: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None


def whole_step(steps: Sequence[Step]) -> Step:
    """The step over all micro-batches and processes, of which this process scores its own rows."""
    own = join(steps)
    if not distributed.active():
        return own
    everyone = [Step.unpack(packed) for packed in distributed.gather_arrays(own.pack())]
    return join(everyone, local=distributed.rank())


def first_pass(
    micro_batches: Sequence[MicroBatch],
    embed: Callable[[MicroBatch, int], torch.Tensor],
    loss: Callable[[torch.Tensor, Step], torch.Tensor],
) -> tuple[list[CachedMicroBatch], Step]:
    """Run the step's first half and give each micro-batch its share.

    Args:
        micro_batches: k of them, on the device.
        embed: (micro-batch, its number) -> (N, D) vectors; called twice for a micro-batch it must give the same
            result (the caller seeds its dropout), the second time with gradient.
        loss: (all vectors, step) -> scalar mean over the own rows.

    Returns:
        The shares in the order of the micro-batches (the first with its graph), and the step.
    """
    sizes = [len(batch.lengths) for batch in micro_batches]
    gathering = distributed.Gathering(sizes)
    leaf = None  # (own N, D), made at once: vectors kept one by one between activations would keep the memory around them
    with torch.no_grad():  # micro-batches 2..k first, so that only one graph ever stands
        for number in range(1, len(micro_batches)):
            found = embed(micro_batches[number], number)
            leaf = found.new_empty(sum(sizes), found.shape[1], dtype=torch.float32) if leaf is None else leaf
            leaf.split(sizes)[number].copy_(found)
            gathering.send(number, leaf.split(sizes)[number])
    first = embed(micro_batches[0], 0)
    leaf = first.new_empty(sizes[0], first.shape[1], dtype=torch.float32) if leaf is None else leaf
    leaf.split(sizes)[0].copy_(first.detach())
    gathering.send(0, leaf.split(sizes)[0])
    leaf.requires_grad_()
    step = whole_step([batch.step for batch in micro_batches])
    value = loss(gathering.rows(leaf), step)
    (gradient,) = torch.autograd.grad(value, leaf)
    slices = gradient.split(sizes)
    shares = [
        CachedMicroBatch(batch, number, value.detach() / len(micro_batches), piece)
        for number, (batch, piece) in enumerate(zip(micro_batches, slices, strict=True))
    ]
    shares[0].embeddings = first
    return shares, step


def surrogate(embeddings: torch.Tensor, share: CachedMicroBatch) -> torch.Tensor:
    """A scalar with the value of the share's loss and, by the chain rule, the gradient of the whole step's.

    In float32: it runs outside autocast, and a half precision sum of many small products would lose them.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        product = (embeddings.float() * share.gradient).sum()
    return product - product.detach() + share.loss
