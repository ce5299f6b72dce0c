"""One model with vectors of several sizes: their first components are useful vectors too."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import normalize

from e5ft.data.step import Step
from e5ft.errors import ConfigurationError
from e5ft.settings import check_value
from e5ft.training.settings import Weight


class Matryoshka(nn.Module):
    """Any loss, summed over the vectors truncated to several dimensions and normalised again.

        loss = sum over d of weight_d * loss(normalise(vectors[:, :d]))

    Args:
        loss: the loss.
        dimensions: each at least 1, at most the model's, all different.
        weights: one for each dimension, at least 0; None for 1 each.

    Source: Kusupati et al. 2022 (arXiv:2205.13147, equation 1).
    """

    def __init__(self, loss: nn.Module, dimensions: Sequence[int], weights: Sequence[float] | None = None):
        super().__init__()
        dimensions = list(dimensions)
        whole = all(isinstance(d, int) and not isinstance(d, bool) and d >= 1 for d in dimensions)
        if not dimensions or not whole or len(set(dimensions)) != len(dimensions):
            raise ConfigurationError(f"matryoshka.dimensions={dimensions}: must be different whole numbers, each at least 1")
        weights = [1.0] * len(dimensions) if weights is None else list(weights)
        if len(weights) != len(dimensions):
            raise ConfigurationError(
                f"matryoshka.weights={weights}: must be {len(dimensions)} numbers, one for each of matryoshka.dimensions"
            )
        for weight in weights:
            check_value(weight, Weight, "matryoshka.weights")
        if not any(weights):
            raise ConfigurationError(f"matryoshka.weights={weights}: at least one must be above 0")
        self.loss, self.dimensions, self.weights = loss, dimensions, [float(weight) for weight in weights]
        self.chunk_size = getattr(loss, "chunk_size", 1024)
        self.needs = frozenset(getattr(loss, "needs", ()))
        self.statistics: dict[str, torch.Tensor] = {}

    def forward(self, embeddings: torch.Tensor, step: Step) -> torch.Tensor:
        """Return the loss of (N, D) unit vectors, a float32 scalar.

        Raises:
            ConfigurationError: a dimension above D.
        """
        if max(self.dimensions) > embeddings.shape[1]:
            raise ConfigurationError(f"matryoshka.dimensions={self.dimensions}: the model's vectors have {embeddings.shape[1]}")
        total, statistics = embeddings.new_zeros((), dtype=torch.float32), {}
        for dimension, weight in zip(self.dimensions, self.weights, strict=True):
            value = self.loss(normalize(embeddings[:, :dimension].float(), dim=1), step)
            statistics[f"loss_{dimension}"] = value.detach()
            total = total + weight * value
            if dimension == max(self.dimensions):
                statistics.update(getattr(self.loss, "statistics", {}))
        self.statistics = statistics
        return total
