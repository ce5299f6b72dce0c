"""Losses over a step. They see unit vectors and a `Step`, never a model, so a loss of your own is one small class.

    loss(embeddings, step) -> scalar

`embeddings` is (N, D) float32, the vectors of the step's N texts over all micro-batches and processes; the loss is the
mean over the step's own rows. Name your class in a YAML (`_target_: my_package.MyLoss`) and pass `loss=my_loss`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import relu
from torch.utils.checkpoint import checkpoint

from e5ft.data.step import Step
from e5ft.errors import ConfigurationError, DataError

BLOCKS = ("query_passage", "passage_query", "query_query", "passage_passage")


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
    to answer (passage_query), queries with an answer in common with q, itself included (query_query).

    Args:
        temperature: above 0. E5 was trained at 0.01.
        blocks: which blocks stand in the one softmax; query_passage always does.
        chunk_size: rows whose scores stand in memory at once; the result does not depend on it.

    Source: van den Oord et al. 2018, equation 4; the blocks are those of SimLM (Wang et al. 2023, microsoft/unilm,
    simlm/src/models/biencoder_model.py), with masks for what is known to be no negative.
    """

    def __init__(self, temperature: float = 0.01, blocks: Sequence[str] = ("query_passage",), chunk_size: int = 1024):
        super().__init__()
        _positive("loss.temperature", temperature)
        if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
            raise ConfigurationError(f"loss.chunk_size={chunk_size!r}: a number of rows, at least 1, is needed")
        unknown = [block for block in blocks if block not in BLOCKS]
        if unknown or "query_passage" not in blocks or len(set(blocks)) != len(blocks):
            raise ConfigurationError(
                f"loss.blocks={list(blocks)}: query_passage and any of {', '.join(BLOCKS[1:])} are needed, each once"
            )
        self.temperature, self.blocks, self.chunk_size = float(temperature), tuple(blocks), chunk_size

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
        start, stop = step.own
        if not any(self._count(block, step) for block in self.blocks):
            raise DataError(
                "a step without any negative: every passage in it answers every query; use a larger "
                "training.per_device_train_batch_size or rows with hard negatives"
            )
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = embeddings.float()  # at cosine .8 half precision rounds a logit by .05 (fp16) or .4 (bf16)
            query = embeddings[_index(step.query[start:stop], embeddings)]  # (B, D)
            positive = embeddings[_index(step.positive[start:stop], embeddings)]  # (B, D)
            passages = embeddings[_index(step.passage, embeddings)]  # (P, D)
            queries = None
            if "passage_query" in self.blocks or "query_query" in self.blocks:
                queries = embeddings[_index(step.query[step.distinct_query], embeddings)]  # (Q, D)
            total = embeddings.new_zeros(())
            for first in range(0, stop - start, self.chunk_size):
                last = min(first + self.chunk_size, stop - start)
                excluded = [self._excluded(block, step, start + first, start + last, embeddings.device) for block in self.blocks]
                arguments = (query[first:last], positive[first:last], passages, queries, excluded)
                if last - first == stop - start:
                    total = total + self._chunk(*arguments)
                else:  # recomputed in the backward pass: the score matrix never stands whole
                    total = total + checkpoint(self._chunk, *arguments, use_reentrant=False)
            return total / (stop - start)

    def _chunk(self, query, positive, passages, queries, excluded):
        """Sum of loss_i over a chunk of rows."""
        own = (query * positive).sum(dim=1, keepdim=True) / self.temperature  # (b, 1)
        columns = [own]
        for block, pairs in zip(self.blocks, excluded, strict=True):
            anchor, _, candidate = block.partition("_")
            scores = (query if anchor == "query" else positive) @ (queries if candidate == "query" else passages).T
            columns.append((scores / self.temperature).index_put(pairs, scores.new_tensor(float("-inf"))))
        return (torch.logsumexp(torch.cat(columns, dim=1), dim=1) - own[:, 0]).sum()

    def _pairs(self, block: str, step: Step) -> tuple[np.ndarray, np.ndarray]:
        return {
            "query_passage": lambda: step.answers,
            "passage_query": lambda: step.answered_by_positive,
            "query_query": lambda: step.same_answer,
            "passage_passage": lambda: step.answers,
        }[block]()

    def _count(self, block: str, step: Step) -> int:
        columns = len(step.passage) if block.endswith("passage") else len(step.distinct_query)
        return (step.own[1] - step.own[0]) * columns - len(self._pairs(block, step)[0])

    def _excluded(self, block: str, step: Step, first: int, last: int, device) -> tuple[torch.Tensor, torch.Tensor]:
        rows, columns = self._pairs(block, step)  # sorted by row
        low, high = np.searchsorted(rows, [first, last])
        return torch.from_numpy(rows[low:high] - first).to(device), torch.from_numpy(columns[low:high].copy()).to(device)


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
        start, stop = step.own
        ends = np.cumsum(step.negative_count)
        begin = ends[start - 1] if start else 0
        negatives = step.negative[begin : ends[stop - 1]]
        if len(step.negative) == 0:
            raise DataError("triplet loss: no row of the step has a hard negative; mine them, or use loss=infonce")
        rows = np.repeat(np.arange(start, stop), step.negative_count[start:stop])
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = embeddings.float()
            query = embeddings[_index(step.query[rows], embeddings)]
            positive = (query * embeddings[_index(step.positive[rows], embeddings)]).sum(dim=1)
            negative = (query * embeddings[_index(negatives, embeddings)]).sum(dim=1)
            share = (stop - start) / len(step.query)  # of the step's rows: 1 / number of processes
            return relu(negative - positive + self.margin).sum() / (len(step.negative) * share)


def _index(array: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(like.device, non_blocking=True)


def _positive(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ConfigurationError(f"{name}={value!r}: a number above 0 is needed")
