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
from e5ft.gathering import Gathering


@dataclasses.dataclass
class CachedMicroBatch:
    """A micro-batch with its part of the whole step's loss and gradient.

    Attributes:
        micro_batch: the micro-batch.
        number: its position in the step, which seeds its dropout.
        loss: its part of the step's loss (a detached scalar; the parts sum to the loss).
        gradient: (N, D) float32, d loss / d vector; None if the loss is computed from this micro-batch directly.
        embeddings: (N, D) with graph, if its first pass was kept; None if it must be embedded again.
    """

    micro_batch: MicroBatch
    number: int
    loss: torch.Tensor | None = None
    gradient: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None

    def __len__(self) -> int:
        """Return the number of texts; Trainer refuses an empty batch."""
        return len(self.micro_batch.lengths)


def whole_step(steps: Sequence[Step]) -> Step:
    """Return the step over all micro-batches and processes, of which this process scores its local rows."""
    local = join(steps)
    if not distributed.active():
        return local
    return join([Step.unpack(packed) for packed in distributed.gather_arrays(local.pack())], local=distributed.rank())


def first_pass(
    micro_batches: Sequence[MicroBatch],
    embed: Callable[[MicroBatch, int], torch.Tensor],
    loss: Callable[[torch.Tensor, Step], torch.Tensor],
) -> tuple[list[CachedMicroBatch], Step]:
    """Compute the step's loss and the gradient of every vector.

    Args:
        micro_batches: k of them, on the device.
        embed: (micro-batch, its number) -> (N, D) vectors. Called twice for a micro-batch it must give the same
            result (the caller seeds its dropout), the second time with gradient.
        loss: (all vectors, step) -> scalar mean over the local rows.

    Returns:
        The cached micro-batches in order (the first with its graph), and the step.
    """
    sizes = [len(batch.lengths) for batch in micro_batches]
    gathering = Gathering(sizes)
    leaf = None  # (local N, D), made at once: vectors kept one by one between activations would keep the memory around them

    def store(number: int, vectors: torch.Tensor) -> None:
        """Copy the vectors of one micro-batch into the leaf and begin to send them to the other processes."""
        nonlocal leaf
        if leaf is None:
            leaf = vectors.new_empty(sum(sizes), vectors.shape[1], dtype=torch.float32)
        leaf.split(sizes)[number].copy_(vectors)
        gathering.send(number, leaf.split(sizes)[number])

    with torch.no_grad():  # micro-batches 2..k first, so that there is only one graph at a time
        for number in range(1, len(micro_batches)):
            store(number, embed(micro_batches[number], number))
    first = embed(micro_batches[0], 0)
    store(0, first.detach())
    leaf.requires_grad_()
    step = whole_step([batch.step for batch in micro_batches])
    value = loss(gathering.rows(leaf), step)
    (gradient,) = torch.autograd.grad(value, leaf)
    cached = [
        CachedMicroBatch(batch, number, value.detach() / len(micro_batches), piece)
        for number, (batch, piece) in enumerate(zip(micro_batches, gradient.split(sizes), strict=True))
    ]
    cached[0].embeddings = first
    return cached, step


def surrogate(embeddings: torch.Tensor, cached: CachedMicroBatch) -> torch.Tensor:
    """Return a scalar with the value of the micro-batch's loss and, by the chain rule, the gradient of the whole step's.

    It is float32 and runs outside autocast: a half precision sum of many small products would lose them.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        product = (embeddings.float() * cached.gradient).sum()
    return product - product.detach() + cached.loss
