"""What a finished run's folder records of the model before training and of the hybrid's weight."""

from pathlib import Path
from typing import Any, Literal

import yaml  # OmegaConf's and transformers' own parser

from e5ft.errors import ConfigurationError
from e5ft.files import read_json
from e5ft.modeling.settings import ModelSource, model_folder
from e5ft.retrieval.hybrid import DEFAULT_WEIGHT
from e5ft.settings import build


def run_of(model: str | None) -> Path | None:
    """The run that a model's folder, its model/ or a checkpoint of it, belongs to; None if it is no run's."""
    folder = None if model is None else Path(model).resolve().parent
    return folder if folder is not None and (folder / "config.yaml").is_file() else None


def base_of(source: ModelSource, asked: Literal["auto"] | str | None) -> ModelSource | None:
    """The model to show beside another.

    Args:
        source: of the other.
        asked: a folder or a run; "auto": the model before training where the other is a run's; None: none.

    Returns:
        The base's source; None where there is none.

    Raises:
        ConfigurationError: there is no such folder; or the run started from random weights, which tell nothing, its record
            cannot be read, or its base is not there any more.
    """
    common = {"seed": source.seed, "cache": source.cache}
    if asked not in ("auto", None):
        return ModelSource(path=model_folder(asked, "base"), **common)
    run = run_of(source.path)
    if asked is None or run is None:
        return None
    values = {name: value for name, value in _model_group(run / "config.yaml").items() if name not in ("lora", "freeze")}
    base = build(ModelSource, {**values, **common})
    if base.init == "random":
        raise ConfigurationError("the run started from random weights")
    return base


def _model_group(file: Path) -> dict[str, Any]:
    try:
        return dict(yaml.safe_load(file.read_text(encoding="utf-8"))["model"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{file}: cannot be read ({type(error).__name__})") from error


def weight_of(source: ModelSource, asked: Literal["auto"] | float | None) -> float | None:
    """The model's share in the hybrid.

    Args:
        source: of the model.
        asked: from 0 to 1; "auto": what the model's run chose, the default where it is no run's or measured no hybrid; None: no
            hybrid.
    """
    if asked != "auto":
        return asked
    run = run_of(source.path)
    summary = run / "summary.json" if run is not None else None
    hybrid = (read_json(summary) if summary is not None and summary.is_file() else {}).get("hybrid") or {}
    weight = (hybrid.get("weight") or {}).get("value")
    return float(weight) if isinstance(weight, int | float) and 0 <= weight <= 1 else DEFAULT_WEIGHT
