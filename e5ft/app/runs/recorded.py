"""What a finished run's folder records of the model before training and of the hybrid's weight."""

from pathlib import Path

from omegaconf import OmegaConf

from e5ft.errors import ConfigurationError
from e5ft.files import read_json
from e5ft.modeling.settings import ModelSource
from e5ft.settings import build


def run_of(model: str | None) -> Path | None:
    """The run that a model's folder, its model/ or a checkpoint of it, belongs to; None if it is no run's."""
    folder = None if model is None else Path(model).resolve().parent
    return folder if folder is not None and (folder / "config.yaml").is_file() else None


def base_of(run: Path, cache: str) -> ModelSource:
    """The model before training.

    Args:
        run: its folder.
        cache: in which models of packages are converted.

    Raises:
        ConfigurationError: it started from random weights, the record cannot be read, or the model is not there any more.
    """
    try:
        values = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))["model"]
        values = {name: value for name, value in values.items() if name not in ("lora", "freeze")}
    except Exception as error:  # YAML's and OmegaConf's own
        raise ConfigurationError(f"{run / 'config.yaml'}: cannot be read ({type(error).__name__})") from error
    source = build(ModelSource, {**values, "cache": cache})
    if source.init == "random":
        raise ConfigurationError("it had random weights")
    return source


def weight_of(run: Path) -> float | None:
    """The hybrid's weight that the run chose; None where it measured no hybrid."""
    file = run / "summary.json"
    hybrid = (read_json(file) if file.is_file() else {}).get("hybrid") or {}
    weight = (hybrid.get("weight") or {}).get("value")
    return float(weight) if isinstance(weight, int | float) and 0 <= weight <= 1 else None
