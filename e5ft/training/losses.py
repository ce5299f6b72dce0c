"""Losses over a step. They see unit vectors and a `Step`, never a model, so a loss of your own is one small class.

    loss(embeddings, step) -> scalar

`embeddings` is (N, D) float32, the vectors of the step's N texts over all micro-batches and processes; the loss is the
mean over the step's local rows. Name your class in a YAML (`_target_: my_package.MyLoss`) and pass `loss=my_loss`.

A loss may have two more attributes. `needs`, a set of names, lists what steps must carry beside the texts: "guide" or "base"
(another model's vectors of all texts), "teacher" (scores in the rows), "hard_negatives" (in some rows at least). `statistics`,
a dict of name -> scalar tensor that the loss fills at each call, goes into the training log. One of them, `WITH_NEGATIVES`, does
not: the number of local rows with anything to tell their positive apart from. Where all have 0, the trainer says so.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize, relu

from e5ft.data.step import Step
from e5ft.errors import ConfigurationError
from e5ft.settings import check_value, number, whole
from e5ft.training.chunking import relative_to_local_rows, to_device
from e5ft.training.settings import Scale
from e5ft.training.tiles import Block, ContrastiveProblem, FalseNegativeMask, contrast

BLOCKS = ("query_passage", "passage_query", "query_query", "passage_passage")
# Score margin above the positive at which a candidate is masked: Qwen3-Embedding's 0.1, GISTEmbed's 0.
MARGINS = {"none": None, "margin": 0.1, "guide": 0.0}
WITH_NEGATIVES = "queries_with_negatives"


class InfoNCE(nn.Module):
    """Temperature-scaled InfoNCE of each query against every distinct passage of the step.

    For row i with query q and positive p, with s(a, b) = a.b / temperature:

        loss_i = log( exp s(q, p) + sum over candidates of exp s ) - s(q, p)

    The candidates are, block by block:
        query_passage    s(q, c) for the step's distinct passages c
        passage_query    s(p, c) for the step's distinct queries c
        query_query      s(q, c) for the step's distinct queries c
        passage_passage  s(p, c) for the step's distinct passages c
    without those that are not negatives: known positives of q (query_passage, passage_passage), queries that p is known
    to answer (passage_query), queries with an answer in common with q, itself included (query_query); and, with
    `false_negatives`, without every candidate whose cosine is above cos(q, p) + margin.

    Args:
        temperature: above 0. E5 was trained at 0.01.
        blocks: score blocks concatenated in the softmax; must include query_passage.
        chunk_size: rows whose scores are in memory at once; the result does not depend on it.
        false_negatives: whose cosines decide what is a false negative: "none" (no mask), "margin" (the current model's),
            "guide" (those of the step's "guide" vectors, a frozen model's).
        margin: cosine, above -2 (which masks all) to 2, for candidates that came with other rows; None takes 0.1 for
            "margin", 0 for "guide". A negative margin masks more: also candidates that score a little below the positive.
        hard_margin: the same for a row's own hard negatives; None takes `margin`; 2 masks none of them.
        mask_hard: leave a row's own hard negatives out altogether (`Distillation` learns them from the teacher).

    Source: van den Oord et al. 2018, equation 4; the blocks are those of SimLM (Wang et al. 2023, microsoft/unilm,
    simlm/src/models/biencoder_model.py), with masks for known positives. The margin mask is that of
    Zhang et al. 2025 (Qwen3 Embedding, arXiv:2506.05176, section 3), the guide mask that of Solatorio 2024 (GISTEmbed,
    arXiv:2402.16829).
    """

    def __init__(
        self,
        temperature: float,
        blocks: Sequence[str] = ("query_passage",),
        chunk_size: int = 1024,
        false_negatives: str = "none",
        margin: float | None = None,
        hard_margin: float | None = None,
        mask_hard: bool = False,
    ):
        super().__init__()
        check_value(temperature, Scale, "loss.temperature")
        check_value(chunk_size, whole(1), "loss.chunk_size")
        if not set(blocks) <= set(BLOCKS) or "query_passage" not in blocks or len(set(blocks)) != len(blocks):
            raise ConfigurationError(
                f"loss.blocks={list(blocks)}: must be query_passage and any of {', '.join(BLOCKS[1:])}, each once"
            )
        check_value(false_negatives, Literal[tuple(MARGINS)], "loss.false_negatives")
        for name, value in (("loss.margin", margin), ("loss.hard_margin", hard_margin)):
            if value is not None:
                check_value(value, number(above=-2, most=2), name)
                if false_negatives == "none":
                    raise ConfigurationError(f"{name}={value!r}: has no effect without loss.false_negatives=margin or guide")
        self.temperature, self.chunk_size = float(temperature), chunk_size
        self.blocks = tuple(name for name in BLOCKS if name in blocks)  # tiles.py takes the first for the one with hard negatives
        self.false_negatives, self.mask_hard = false_negatives, mask_hard
        self.margin = MARGINS[false_negatives] if margin is None else float(margin)
        self.hard_margin = self.margin if hard_margin is None else float(hard_margin)
        self.needs = frozenset({"guide"} if false_negatives == "guide" else ())
        self.statistics: dict[str, torch.Tensor] = {}

    def forward(self, embeddings: torch.Tensor, step: Step) -> torch.Tensor:
        """Return the mean InfoNCE over the step's local rows.

        Args:
            embeddings: (N, D) unit vectors.
            step: indices and identities.

        Returns:
            A float32 scalar; a row without a negative adds 0 to it.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            # Not in half precision: at cosine .8 it rounds a logit by .05 (fp16) or .4 (bf16); TF32, where it is on, by .01.
            total, masked, with_negatives = contrast(embeddings.float(), self._problem(step, embeddings))
        self._record_statistics(step, masked, with_negatives)
        return total / float(step.weight[slice(*step.local_rows)].sum())

    def _problem(self, step: Step, like: torch.Tensor) -> ContrastiveProblem:
        local = slice(*step.local_rows)
        anchors = {"query": to_device(step.query[local], like), "passage": to_device(step.positive[local], like)}
        candidates = {"passage": step.passage, "query": step.query[step.distinct_query]}
        blocks = []
        for name in self.blocks:
            anchor, _, candidate = name.partition("_")
            pairs = relative_to_local_rows(self._excluded(name, step), step)
            blocks.append(Block(anchors[anchor], to_device(candidates[candidate], like), pairs))
        mask = None
        if self.false_negatives != "none":
            guide = None
            if self.false_negatives == "guide":
                guide = normalize(to_device(step.side_array("guide"), like), dim=1)
            mask = FalseNegativeMask(guide, self.margin, self.hard_margin, relative_to_local_rows(step.local_negatives, step))
        weight = to_device(step.weight[local], like)
        return ContrastiveProblem(
            anchors["query"], anchors["passage"], tuple(blocks), self.temperature, weight, self.chunk_size, mask
        )

    def _record_statistics(self, step: Step, masked: torch.Tensor, with_negatives: torch.Tensor) -> None:
        """Record how many rows have a negative, and the shares of in-batch and of hard negatives that were masked."""
        self.statistics = {WITH_NEGATIVES: with_negatives}
        if self.false_negatives == "none":
            return
        hard = 0 if self.mask_hard else len(step.local_negatives[0])
        pairs = (step.local_rows[1] - step.local_rows[0]) * len(step.passage)
        in_batch = pairs - len(self._excluded("query_passage", step)[0]) - hard
        self.statistics["false_negative_share"] = masked[0] / max(in_batch, 1)
        if hard:
            self.statistics["false_hard_negative_share"] = masked[1] / hard

    def _excluded(self, block: str, step: Step) -> tuple[np.ndarray, np.ndarray]:
        """Return pairs (local row, column) excluded from a block, sorted by row."""
        if block == "query_passage" and self.mask_hard:
            rows, columns = (np.concatenate(part) for part in zip(step.answers, step.local_negatives, strict=True))
            order = np.argsort(rows, kind="stable")
            return rows[order], columns[order]
        if block.endswith("passage"):
            return step.answers
        return step.answered_by_positive if block == "passage_query" else step.same_answer


class Triplet(nn.Module):
    """Triplet loss with margin on cosine similarity, over each row's own hard negatives.

        loss = mean over (query q, positive p, negative n) of max(0, s(q, n) - s(q, p) + margin)

    Args:
        margin: required cosine difference between positive and negative, above 0 and at most 2.

    Source: Schroff et al. 2015 (FaceNet), equation 1, with cosine in place of Euclidean distance.
    """

    def __init__(self, margin: float = 0.1):
        super().__init__()
        check_value(margin, number(least=1e-6, most=2), "loss.margin")
        self.margin = float(margin)
        self.needs = frozenset({"hard_negatives"})
        self.statistics: dict[str, int] = {}

    def forward(self, embeddings: torch.Tensor, step: Step) -> torch.Tensor:
        """Return this process's part of the mean over the step's triplets.

        Args:
            embeddings: (N, D) unit vectors.
            step: indices and identities.

        Returns:
            A float32 scalar: the local rows' sum over the average number of triplets of a process, because DDP averages
            losses and ranks hold different numbers of negatives. With one process it is the mean; 0 without a triplet.
        """
        start, stop = step.local_rows
        self.statistics = {WITH_NEGATIVES: np.count_nonzero(step.negative_count[start:stop])}
        rows = np.repeat(np.arange(start, stop), step.negative_count[start:stop])
        with torch.autocast(embeddings.device.type, enabled=False):
            indices = step.query[rows], step.positive[rows], step.negative[slice(*step.local_range)]
            query, positive, negative = (embeddings.float()[to_device(each, embeddings)] for each in indices)
            difference = (query * negative).sum(dim=1) - (query * positive).sum(dim=1)
            share = float(step.weight[start:stop].sum() / step.weight.sum())  # 1 / number of processes
            return relu(difference + self.margin).sum() / (max(len(step.negative), 1) * share)
