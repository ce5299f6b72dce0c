"""From the `loss` group to the loss, and to what it needs beside the texts: other models' vectors, a teacher's scores."""

import dataclasses
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from e5ft.app.configuration import model_folder
from e5ft.app.telling.report import say
from e5ft.data.store import RowStore
from e5ft.errors import ConfigurationError, DataError, E5ftError
from e5ft.modeling.encoder import Encoder
from e5ft.modeling.loading import ModelSource, load_encoder
from e5ft.retrieval.guide import Guide, guide_vectors
from e5ft.training.distillation import Regularised
from e5ft.training.matryoshka import Matryoshka

# Fields of every loss's YAML that belong to the trainer or to wrappers, not to the loss's class (conf/loss/common.yaml).
_COMMON = {
    "negatives": "step",
    "positives": "sample",
    "guide": None,
    "dimensions": None,
    "dimension_weights": None,
    "keep_weight": 0.0,
    "keep_temperature": None,
}


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is trained for.

    Attributes:
        loss: the module, with its wrappers.
        negatives: "step" or "micro_batch".
        positives: "sample" or "all".
        guide: the guide's source; None where the loss needs none.
    """

    loss: torch.nn.Module
    negatives: str
    positives: str
    guide: ModelSource | None


def objective(config: DictConfig, source: ModelSource) -> Objective:
    """The `loss` group, checked.

    Args:
        config: the composed configuration.
        source: the model before training, the guide unless another is named.

    Raises:
        ConfigurationError: a value out of range, or one that nothing uses; a loss that cannot be made, or a guide with
            random weights.
    """
    values = OmegaConf.to_container(config.loss, resolve=True)
    common = {name: values.pop(name, default) for name, default in _COMMON.items()}
    temperature = values.get("temperature")
    _refuse_idle(common)
    loss = _instantiated(values)
    if common["dimensions"] is not None:
        if not isinstance(common["dimensions"], list):
            raise ConfigurationError(f"loss.dimensions={common['dimensions']!r}: a list, such as [384,128,64], is needed")
        loss = Matryoshka(loss, common["dimensions"], common["dimension_weights"])
    if common["keep_weight"] != 0:
        given = common["keep_temperature"]
        loss = Regularised(loss, common["keep_weight"], given if given is not None else temperature or 0.05)
    needs = frozenset(getattr(loss, "needs", ()))
    if common["guide"] is not None and "guide" not in needs:
        raise ConfigurationError(
            f"loss.guide={common['guide']}: nothing uses it; add loss.false_negatives=guide, or loss=distill loss.teacher=guide"
        )
    guide = _guide(common["guide"], source) if "guide" in needs else None
    if "base" in needs and source.init == "random":
        raise ConfigurationError("loss.keep_weight: the model before training has random weights; there is nothing to keep")
    return Objective(loss, common["negatives"], common["positives"], guide)


def _refuse_idle(common: dict) -> None:
    """Fields that belong to a wrapper, given without it."""
    if common["dimension_weights"] is not None and common["dimensions"] is None:
        raise ConfigurationError(
            f"loss.dimension_weights={common['dimension_weights']!r}: nothing uses it without loss.dimensions=[384,128,64]"
        )
    if common["keep_temperature"] is not None and common["keep_weight"] == 0:
        raise ConfigurationError(
            f"loss.keep_temperature={common['keep_temperature']!r}: nothing uses it without loss.keep_weight, above 0"
        )


def side_vectors(goal: Objective, source: ModelSource, encoder: Encoder, rows: RowStore, config: DictConfig) -> dict[str, Guide]:
    """What steps carry beside the texts, computed before training; also checks that the rows have a teacher's scores.

    Args:
        goal: the objective.
        source: the model before training.
        encoder: the same, loaded and not yet trained.
        rows: the training rows.
        config: for the cache folder and `evaluation.batch_tokens`.

    Returns:
        name -> vectors by identity.

    Raises:
        DataError: the loss needs a teacher's scores, and rows have none.
    """
    needs = frozenset(getattr(goal.loss, "needs", ()))
    if "teacher" in needs:
        _check_scores(rows)
    cache, tokens = Path(config.cache_dir), config.evaluation.batch_tokens
    made = {}
    if needs & {"guide", "base"}:
        say(
            f"  vectors     of all training texts by {goal.guide.label if goal.guide else source.label}, made once, kept in {cache}"
        )
    if "guide" in needs:
        guide = encoder if goal.guide == source else load_encoder(goal.guide, encoder.device)
        made["guide"] = guide_vectors(guide, rows, cache, batch_tokens=tokens)
    if "base" in needs:
        made["base"] = made["guide"] if goal.guide == source else guide_vectors(encoder, rows, cache, batch_tokens=tokens)
    return made


def _guide(named: str | None, source: ModelSource) -> ModelSource:
    if named is None:
        if source.init == "random":
            raise ConfigurationError(
                "loss.guide=null: the guide is the model before training, and its weights are random: it would mask at random. "
                "Name a model that knows something: loss.guide=DIR"
            )
        return source
    return ModelSource(path=model_folder(named, "loss.guide")) if Path(named).is_dir() else ModelSource(hub=named)


def _check_scores(rows: RowStore) -> None:
    without = rows.without_scores()
    if len(without):
        raise DataError(
            f"{rows.source}:{without[0]}: no scores; the loss learns from a teacher's, and {len(without):,} of {len(rows.rows):,} rows "
            "have none. Write them (python mine.py cross_encoder.path=DIR ...), or learn from a guide: loss.teacher=guide"
        )


def _instantiated(values: dict) -> torch.nn.Module:
    if "_target_" not in values:
        raise ConfigurationError("loss: the YAML needs a _target_, the class of the loss")
    try:
        return instantiate(values, _convert_="all")
    except Exception as error:
        cause = error.__cause__
        if isinstance(cause, E5ftError):
            raise cause from error
        raise ConfigurationError(f"loss: {values['_target_']} could not be made: {cause or error}") from error
