"""Losses over a step. They see unit vectors and a `Step`, never a model, so a loss of your own is one small class.

    loss(embeddings, step) -> scalar

`embeddings` is (N, D) float32, the vectors of the step's N texts over all micro-batches and processes; the loss is the
mean over the step's own rows. Name your class in a YAML (`_target_: my_package.MyLoss`) and pass `loss=my_loss`.

A loss may have two attributes more. `needs`, a set of names, says what steps must carry beside the texts: "guide" or "base"
(another model's vectors of all texts), "teacher" (scores in the rows). `statistics`, a dict of name -> scalar tensor that
the loss fills at each call, goes into the training log.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize, relu

from e5ft.data.step import Step
from e5ft.errors import ConfigurationError, DataError
from e5ft.training.chunking import check_positive, relative_to_local_rows, to_device
from e5ft.training.tiles import Block, ContrastiveProblem, FalseNegativeMask, contrast

BLOCKS = ("query_passage", "passage_query", "query_query", "passage_passage")
# What a candidate may score above the positive before it counts as a false negative: Qwen3-Embedding's 0.1, GISTEmbed's 0.
MARGINS = {"none": None, "margin": 0.1, "guide": 0.0}


class InfoNCE(nn.Module):
    """Temperature-scaled InfoNCE of each query against every distinct passage of the step.

    For row i with query q and positive p, with s(a, b) = a.b / temperature:

        loss_i = log( exp s(q, p) + sum over candidates of exp s ) - s(q, p)

    The candidates are, block by block:
        query_passage    s(q, c) for the step's distinct passages c
        passage_query    s(p, c) for the step's distinct queries c
        query_query      s(q, c) for the step's distinct queries c
        passage_passage  s(p, c) for the step's distinct passages c
    without those that are no negatives: known positives of q (query_passage, passage_passage), queries that p is known
    to answer (passage_query), queries with an answer in common with q, itself included (query_query); and without those
    that look like false negatives, where that is asked for: a candidate whose cosine is above cos(q, p) + margin.

    Args:
        temperature: above 0. E5 was trained at 0.01.
        blocks: which blocks stand in the one softmax; query_passage always does.
        chunk_size: rows whose scores stand in memory at once; the result does not depend on it.
        false_negatives: whose cosines tell false negatives: "none" (no such mask), "margin" (the model's own, as it is at
            this step), "guide" (those of the step's "guide" vectors, a frozen model's).
        margin: cosine, -2 to 2, for candidates that came with other rows; None takes 0.1 for "margin", 0 for "guide".
            Negative masks more: also candidates that score a little below the positive.
        hard_margin: the same for a row's own hard negatives; None takes `margin`; 2 masks none of them.
        mask_hard: leave a row's own hard negatives out altogether (`Distillation` learns them from the teacher).

    Source: van den Oord et al. 2018, equation 4; the blocks are those of SimLM (Wang et al. 2023, microsoft/unilm,
    simlm/src/models/biencoder_model.py), with masks for what is known to be no negative. The margin mask is that of
    Zhang et al. 2025 (Qwen3 Embedding, arXiv:2506.05176, section 3), the guide mask that of Solatorio 2024 (GISTEmbed,
    arXiv:2402.16829).
    """

    def __init__(
        self,
        temperature: float = 0.01,
        blocks: Sequence[str] = ("query_passage",),
        chunk_size: int = 1024,
        false_negatives: str = "none",
        margin: float | None = None,
        hard_margin: float | None = None,
        mask_hard: bool = False,
    ):
        super().__init__()
        check_positive("loss.temperature", temperature)
        if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
            raise ConfigurationError(f"loss.chunk_size={chunk_size!r}: a number of rows, at least 1, is needed")
        unknown = [block for block in blocks if block not in BLOCKS]
        if unknown or "query_passage" not in blocks or len(set(blocks)) != len(blocks):
            raise ConfigurationError(
                f"loss.blocks={list(blocks)}: query_passage and any of {', '.join(BLOCKS[1:])} are needed, each once"
            )
        if false_negatives not in MARGINS:
            raise ConfigurationError(f"loss.false_negatives={false_negatives!r}: one of {', '.join(MARGINS)} is needed")
        for name, value in (("margin", margin), ("hard_margin", hard_margin)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not -2 <= value <= 2):
                raise ConfigurationError(f"loss.{name}={value!r}: a cosine difference between -2 and 2, or null, is needed")
            if value is not None and false_negatives == "none":
                raise ConfigurationError(
                    f"loss.{name}={value!r} without loss.false_negatives=margin or guide: it would do nothing"
                )
        self.temperature, self.blocks, self.chunk_size = float(temperature), tuple(blocks), chunk_size
        self.false_negatives, self.mask_hard = false_negatives, mask_hard
        self.margin = MARGINS[false_negatives] if margin is None else float(margin)
        self.hard_margin = self.margin if hard_margin is None else float(hard_margin)
        self.needs = frozenset({"guide"} if false_negatives == "guide" else ())
        self.statistics: dict[str, torch.Tensor] = {}

    def forward(self, embeddings: torch.Tensor, step: Step) -> torch.Tensor:
        """Mean InfoNCE over the step's own rows.

        Args:
            embeddings: (N, D) unit vectors.
            step: indices and identities.

        Returns:
            A float32 scalar.

        Raises:
            DataError: no own row has a single negative.
        """
        if not any(self._count(block, step) for block in self.blocks):
            raise DataError(
                "a step without any negative: every passage in it answers every query; use a larger "
                "training.per_device_train_batch_size or rows with hard negatives"
            )
        with torch.autocast(embeddings.device.type, enabled=False):
            # Not in half precision: at cosine .8 it rounds a logit by .05 (fp16) or .4 (bf16).
            total, masked = contrast(embeddings.float(), self._problem(step, embeddings))
        self._record_statistics(step, masked)
        return total / float(step.weight[slice(*step.local_rows)].sum())

    def _problem(self, step: Step, like: torch.Tensor) -> ContrastiveProblem:
        own = slice(*step.local_rows)
        query, positive = (to_device(places[own], like) for places in (step.query, step.positive))
        candidates = {"passage": step.passage, "query": step.query[step.distinct_query]}
        blocks = []
        for name in self.blocks:
            anchor, _, candidate = name.partition("_")
            pairs = relative_to_local_rows(self._pairs(name, step), step)
            blocks.append(Block(query if anchor == "query" else positive, to_device(candidates[candidate], like), pairs))
        judge = None
        if self.false_negatives != "none":
            guide = None
            if self.false_negatives == "guide":
                guide = normalize(to_device(step.side_array("guide"), like), dim=1)
            judge = FalseNegativeMask(guide, self.margin, self.hard_margin, relative_to_local_rows(step.local_negatives, step))
        weight = to_device(step.weight[own], like)
        return ContrastiveProblem(query, positive, tuple(blocks), self.temperature, weight, self.chunk_size, judge)

    def _record_statistics(self, step: Step, masked: torch.Tensor) -> None:
        """The share of in-batch and of hard negatives that were masked as false."""
        if self.false_negatives == "none":
            return
        hard = 0 if self.mask_hard else len(step.local_negatives[0])
        in_batch = self._count("query_passage", step) - hard
        self.statistics = {"false_negative_share": masked[0] / max(in_batch, 1)}
        if hard:
            self.statistics["false_hard_negative_share"] = masked[1] / hard

    def _pairs(self, block: str, step: Step) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (own row, column) that are no candidates, by row."""
        if block == "query_passage" and self.mask_hard:
            pairs = [np.concatenate(part) for part in zip(step.answers, step.local_negatives, strict=True)]
            order = np.argsort(pairs[0], kind="stable")
            return pairs[0][order], pairs[1][order]
        return {
            "query_passage": lambda: step.answers,
            "passage_query": lambda: step.answered_by_positive,
            "query_query": lambda: step.same_answer,
            "passage_passage": lambda: step.answers,
        }[block]()

    def _count(self, block: str, step: Step) -> int:
        columns = len(step.passage) if block.endswith("passage") else len(step.distinct_query)
        return (step.local_rows[1] - step.local_rows[0]) * columns - len(self._pairs(block, step)[0])


class Triplet(nn.Module):
    """Triplet loss with margin on cosine similarity, over each row's own hard negatives.

        loss = mean over (query q, positive p, negative n) of max(0, s(q, n) - s(q, p) + margin)

    Args:
        margin: cosine difference wanted between positive and negative, above 0 and at most 2.

    Source: Schroff et al. 2015 (FaceNet), equation 1, with cosine in place of Euclidean distance.
    """

    def __init__(self, margin: float = 0.1):
        super().__init__()
        if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 < margin <= 2:
            raise ConfigurationError(f"loss.margin={margin!r}: a cosine difference above 0 and at most 2 is needed")
        self.margin = float(margin)

    def forward(self, embeddings: torch.Tensor, step: Step) -> torch.Tensor:
        """This process's part of the mean over the step's triplets.

        Args:
            embeddings: (N, D) unit vectors.
            step: indices and identities.

        Returns:
            A float32 scalar: the own rows' sum over the number of triplets that a process has on average, for processes
            average their losses and hard negatives are not spread evenly. With one process it is the mean.

        Raises:
            DataError: no row of the step has a hard negative.
        """
        start, stop = step.local_rows
        negatives = step.negative[slice(*step.local_range)]
        if len(step.negative) == 0:
            raise DataError("triplet loss: no row of the step has a hard negative; mine them, or use loss=infonce")
        rows = np.repeat(np.arange(start, stop), step.negative_count[start:stop])
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = embeddings.float()
            query = embeddings[to_device(step.query[rows], embeddings)]
            positive = (query * embeddings[to_device(step.positive[rows], embeddings)]).sum(dim=1)
            negative = (query * embeddings[to_device(negatives, embeddings)]).sum(dim=1)
            share = float(step.weight[start:stop].sum() / step.weight.sum())  # 1 / number of processes
            return relu(negative - positive + self.margin).sum() / (len(step.negative) * share)
