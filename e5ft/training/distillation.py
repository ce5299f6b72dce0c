"""Losses that follow another model's scores: a teacher's, or those of the model before training."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn.functional import log_softmax

from e5ft.data.step import Step
from e5ft.errors import ConfigurationError
from e5ft.settings import check_value
from e5ft.training.chunking import Take, mean_over_rows, to_device
from e5ft.training.losses import WITH_NEGATIVES, InfoNCE
from e5ft.training.settings import Scale, Weight
from e5ft.training.tiles import Block, kl_sum


class Distillation(nn.Module):
    """KL divergence between a teacher's and the model's distribution over a query's candidates, plus weighted InfoNCE.

    For row i with candidates c and the teacher's scores t:

        loss_i = sum over c of P_c (log P_c - log Q_c) + weight * InfoNCE_i
        P = softmax(t / teacher_temperature),  Q = softmax(cos(q, c) / temperature)

    Args:
        temperature: of the model's cosines, in both parts; above 0.
        teacher: "scores": those in the rows (a cross-encoder's, from mine.py or elsewhere); "guide": cosines of the
            step's "guide" vectors.
        teacher_temperature: divides the teacher's scores; above 0. 1 suits a cross-encoder's logits; None takes 1 for
            "scores" and `temperature` for "guide".
        weight: of InfoNCE, at least 0.
        mask_hard: leave a row's own hard negatives out of InfoNCE: some are false, and the KL part, which has soft labels,
            learns them already.
        candidates: "own": the row's positive and its hard negatives; "step": every passage of the step ("guide" only).
        blocks, chunk_size, false_negatives, margin, hard_margin: of the InfoNCE part, see there.

    Source: Wang et al. 2022 (E5, arXiv:2212.03533, equation 2) and 2023 (SimLM, microsoft/unilm,
    simlm/src/models/biencoder_model.py: kd_cont_loss_weight, kd_mask_hn).
    """

    def __init__(
        self,
        temperature: float,
        teacher: str = "scores",
        teacher_temperature: float | None = None,
        weight: float = 0.2,
        mask_hard: bool = True,
        candidates: str = "own",
        **infonce,
    ):
        super().__init__()
        check_value(teacher, Literal["scores", "guide"], "loss.teacher")
        check_value(candidates, Literal["own", "step"], "loss.candidates")
        if candidates == "step" and teacher == "scores":
            raise ConfigurationError(
                f"loss.candidates={candidates!r}: must be own with loss.teacher=scores; rows carry scores of their own documents and hard "
                "negatives only"
            )
        check_value(weight, Weight, "loss.weight")
        self.infonce = InfoNCE(temperature, mask_hard=mask_hard, **infonce)
        self.temperature = self.infonce.temperature
        default = self.temperature if teacher == "guide" else 1.0
        self.teacher_temperature = default if teacher_temperature is None else teacher_temperature
        check_value(self.teacher_temperature, Scale, "loss.teacher_temperature")
        self.teacher, self.candidates, self.weight = teacher, candidates, float(weight)
        self.chunk_size = self.infonce.chunk_size
        self.needs = self.infonce.needs | {"guide" if teacher == "guide" else "teacher"}
        self.needs |= {"hard_negatives"} if candidates == "own" else set()
        self.statistics: dict[str, torch.Tensor | int] = {}

    def forward(self, embeddings: torch.Tensor, step: Step) -> torch.Tensor:
        """Return the mean over the step's local rows.

        Args:
            embeddings: (N, D) unit vectors.
            step: indices and identities, with "guide" or the teacher's scores at its side.

        Returns:
            A float32 scalar.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            divergence = self._divergence(embeddings.float(), step)
        contrastive = self.infonce(embeddings, step) if self.weight else divergence.new_zeros(())
        self.statistics = {**self.infonce.statistics, "kl": divergence.detach(), "infonce": contrastive.detach()}
        counts = step.negative_count[slice(*step.local_rows)]
        with_negatives = np.count_nonzero(counts) if self.candidates == "own" else len(counts) * (len(step.passage) > 1)
        if with_negatives or not self.weight:
            self.statistics[WITH_NEGATIVES] = with_negatives
        return divergence + self.weight * contrastive

    def _divergence(self, embeddings: torch.Tensor, step: Step) -> torch.Tensor:
        temperatures = self.infonce.temperature, self.teacher_temperature
        if self.candidates == "step":
            return divergence_over_step(embeddings, step, "guide", *temperatures, self.chunk_size)
        columns = own_candidates(step)  # (B, K)
        valid = torch.from_numpy(columns >= 0).to(embeddings.device)
        indices = to_device(np.maximum(columns, 0), embeddings)
        queries = to_device(step.query[slice(*step.local_rows)], embeddings)
        teacher = self._teacher_scores(step, columns, indices, queries, embeddings)

        def chunk(take: Take, rows: slice) -> torch.Tensor:
            """The divergence of each of these rows, (b,)."""
            student = (take(queries[rows])[:, None] * take(indices[rows])).sum(dim=2)  # (b, 1, D) x (b, K, D) -> (b, K)
            return kl(student / temperatures[0], teacher(rows) / temperatures[1], valid[rows])

        return mean_over_rows(chunk, step, self.chunk_size, embeddings)

    def _teacher_scores(self, step, columns, indices, queries, embeddings) -> Callable[[slice], torch.Tensor]:
        """Return a function of rows: their (b, K) scores."""
        if self.teacher == "guide":
            guide = to_device(step.side_array("guide"), embeddings)
            return lambda rows: (guide[queries[rows], None] * guide[indices[rows]]).sum(dim=2)
        scores = np.zeros(columns.shape, dtype=np.float32)
        scores[:, 0] = step.side_array("teacher_positive")[slice(*step.local_rows)]
        scores[:, 1:][columns[:, 1:] >= 0] = step.side_array("teacher_negative")[slice(*step.local_range)]
        scores = torch.from_numpy(scores).to(embeddings.device)
        return lambda rows: scores[rows]


class Regularised(nn.Module):
    """The weighted mean of any loss and of a divergence from how the model before training scored the step.

        (loss + weight * D) / (1 + weight)
        D = mean over rows of KL( softmax(cos_base(q, c) / temperature) || softmax(cos(q, c) / temperature) )

    with the step's distinct passages c. A mean, so that gradients are clipped alike whatever the weight. Only scores
    between the step's own texts are held. The rows whose scores are in memory at once are the loss's `chunk_size`.

    Args:
        loss: the loss.
        weight: above 0.
        temperature: of both distributions, above 0.

    Source: Li and Hoiem 2016 (Learning without Forgetting, arXiv:1606.09282), with similarities in place of classes.
    """

    def __init__(self, loss: nn.Module, weight: float, temperature: float):
        super().__init__()
        check_value(weight, Scale, "keep.weight")
        check_value(temperature, Scale, "keep.temperature")
        self.loss, self.weight, self.temperature = loss, float(weight), float(temperature)
        self.chunk_size = getattr(loss, "chunk_size", 1024)
        self.needs = frozenset(getattr(loss, "needs", ())) | {"base"}
        self.statistics: dict[str, torch.Tensor | int] = {}

    def forward(self, embeddings: torch.Tensor, step: Step) -> torch.Tensor:
        """Return the loss of (N, D) unit vectors, a float32 scalar."""
        with torch.autocast(embeddings.device.type, enabled=False):
            temperatures = self.temperature, self.temperature
            divergence = divergence_over_step(embeddings.float(), step, "base", *temperatures, self.chunk_size)
        loss = self.loss(embeddings, step)
        self.statistics = {**getattr(self.loss, "statistics", {}), "kl_to_base": divergence.detach()}
        return (loss + self.weight * divergence) / (1 + self.weight)


def divergence_over_step(
    embeddings: torch.Tensor, step: Step, side: str, temperature: float, teacher_temperature: float, chunk_size: int
) -> torch.Tensor:
    """Return the mean over the local rows of KL(other model's || the model's distribution over the step's distinct passages).

    Args:
        embeddings: (N, D) unit vectors, float32.
        step: with the other model's vectors at its side.
        side: the name of these vectors in the step, "guide" or "base".
        temperature, teacher_temperature: of the model's and the other's cosines.
        chunk_size: rows whose scores are in memory at once.
    """
    local = slice(*step.local_rows)
    others, weight = to_device(step.side_array(side), embeddings), to_device(step.weight[local], embeddings)
    block = Block(to_device(step.query[local], embeddings), to_device(step.passage, embeddings))
    return kl_sum(embeddings, block, others, (temperature, teacher_temperature), weight, chunk_size) / weight.sum()


def kl(student: torch.Tensor, teacher: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Return KL(softmax(teacher) || softmax(student)) of each row.

    Args:
        student, teacher: (b, K) logits.
        valid: (b, K), True where a candidate counts.

    Returns:
        (b,), at least 0.
    """
    # Finite, so that 0 * (-inf - -inf) is 0 and not NaN.
    student, teacher = (logits.masked_fill(~valid, -1e9) for logits in (student, teacher))
    teacher, student = log_softmax(teacher, dim=1), log_softmax(student, dim=1)
    return (teacher.exp() * (teacher - student)).sum(dim=1)


def own_candidates(step: Step) -> np.ndarray:
    """Return (B, 1 + most hard negatives of a row): indices of each local row's positive and hard negatives, padded with -1."""
    counts = step.negative_count[slice(*step.local_rows)]
    columns = np.full((len(counts), 1 + int(counts.max(initial=0))), -1, dtype=np.int64)
    columns[:, 0] = step.positive[slice(*step.local_rows)]
    columns[:, 1:][np.arange(columns.shape[1] - 1) < counts[:, None]] = step.negative[slice(*step.local_range)]
    return columns
