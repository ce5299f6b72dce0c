"""From settings to the loss with its wrappers, and to what it needs beside the texts: other models' vectors."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from e5ft.data.store import RowStore
from e5ft.data.text import TextSpec
from e5ft.errors import ConfigurationError, DataError
from e5ft.modeling.encoder import Encoder
from e5ft.modeling.loading import load_encoder
from e5ft.modeling.settings import ModelSource, model_folder
from e5ft.retrieval.guide import Guide, guide_vectors
from e5ft.settings import HUB_NAME
from e5ft.training.distillation import Regularised
from e5ft.training.matryoshka import Matryoshka
from e5ft.training.settings import KeepSettings, MatryoshkaSettings

E5_TEMPERATURE = 0.01  # of E5's own training: what the base is held to where the loss has no temperature


@dataclasses.dataclass(frozen=True)
class LossSetup:
    """A loss, and the models whose vectors it needs.

    Attributes:
        loss: the module, with its wrappers.
        base: the model before training.
        guide: the model whose cosines tell false negatives or teach; None where the loss needs none.
    """

    loss: torch.nn.Module
    base: ModelSource
    guide: ModelSource | None

    @property
    def needs(self) -> frozenset[str]:
        """The names of what a step must carry beside the texts: "guide", "base", "teacher"."""
        return frozenset(getattr(self.loss, "needs", ()))

    def side_vectors(
        self, encoder: Encoder, rows: RowStore, cache: Path, batch_tokens: int, formats: Sequence[TextSpec] = ()
    ) -> dict[str, Guide]:
        """Compute what steps carry beside the texts, and check that the rows have a teacher's scores where those are needed.

        Args:
            encoder: the base, loaded and not yet trained.
            rows: the training rows.
            cache: the folder in which vectors are kept.
            batch_tokens: tokens that are encoded at once.
            formats: of each source of a mix: the base reads its texts as they are trained on. Another guide has its own.

        Returns:
            name -> vectors by identity.

        Raises:
            DataError: the loss needs a teacher's scores, and rows have none.
        """
        if "teacher" in self.needs:
            _check_scores(rows)
        vectors = {}
        if "guide" in self.needs:
            is_base = self.guide == self.base
            guide, read_as = (encoder, formats) if is_base else (load_encoder(self.guide, encoder.device), ())
            vectors["guide"] = guide_vectors(guide, rows, cache, formats=read_as, batch_tokens=batch_tokens)
        if "base" in self.needs:
            is_same = "guide" in vectors and self.guide == self.base
            how = {"formats": formats, "batch_tokens": batch_tokens}
            vectors["base"] = vectors["guide"] if is_same else guide_vectors(encoder, rows, cache, **how)
        return vectors


def loss_setup(
    loss: torch.nn.Module, matryoshka: MatryoshkaSettings, keep: KeepSettings, guide: str | None, base: ModelSource
) -> LossSetup:
    """Put wrappers around a loss, and find the models whose vectors it needs.

    Args:
        loss: over (embeddings, step).
        matryoshka, keep: the wrappers.
        guide: a model's folder or hub name; None takes the base.
        base: the model before training.

    Raises:
        ConfigurationError: a guide that nothing uses, or a guide or base with random weights.
    """
    temperature = getattr(loss, "temperature", E5_TEMPERATURE) if keep.temperature is None else keep.temperature
    if matryoshka.dimensions is not None:
        loss = Matryoshka(loss, matryoshka.dimensions, matryoshka.weights)
    if keep.weight:
        if base.init == "random":
            raise ConfigurationError(
                f"keep.weight={keep.weight:g}: must be 0, since the model before training has random weights: nothing to keep"
            )
        loss = Regularised(loss, keep.weight, temperature)
    needs = frozenset(getattr(loss, "needs", ()))
    if guide is not None and "guide" not in needs:
        raise ConfigurationError(
            f"step.guide={guide}: nothing uses it; add loss.false_negatives=guide, or loss=distill loss.teacher=guide"
        )
    return LossSetup(loss, base, _guide(guide, base) if "guide" in needs else None)


def _guide(name: str | None, base: ModelSource) -> ModelSource:
    if name is not None:
        # A hub name is USER/MODEL; what looks like a path, or begins with a folder that is there, was meant as one.
        is_path = Path(name).is_dir() or not HUB_NAME.fullmatch(name) or ("/" in name and Path(name).parent.is_dir())
        return ModelSource(path=model_folder(name, "step.guide")) if is_path else ModelSource(hub=name)
    if base.init == "random":
        raise ConfigurationError("step.guide=null: must name a model (step.guide=DIR), since the model before training is random")
    return base


def _check_scores(rows: RowStore) -> None:
    without = rows.without_scores()
    if len(without):
        raise DataError(
            f"{rows.place(int(without[0]))}: no scores; the loss learns from a teacher's, and {len(without):,} of {len(rows.rows):,} "
            "rows have none. Write them (python mine.py cross_encoder.path=DIR ...), or learn from a guide: loss.teacher=guide"
        )
