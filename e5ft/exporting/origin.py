"""Where a model comes from, as its card says it: the base's name on the hub, its licence and its languages."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from e5ft.formatting import portable
from e5ft.modeling.recorded import model_file
from e5ft.modeling.settings import ModelSource
from e5ft.settings import HUB_NAME

# The bases whose own cards name no base; all are under one licence.
_E5 = re.compile(r"(?:intfloat/)?m(?:ultilingual-)?(e5-(?:small|base|large|large-instruct))(?:, 4-bit weights)?", re.IGNORECASE)
_E5_LICENCE = "mit"
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z]{2,4})?|multilingual")
_FRONT_MATTER = re.compile(r"\s*---\r?\n(.*?)\r?\n---(\r?\n|$)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Base:
    """What a card says of the model that another was made from.

    Attributes:
        name: how a person calls it.
        hub: its name on the hub; None: not known.
        revision: of the hub's, where it is pinned.
        licence: the hub's word for it; None: not known.
        language: the hub's codes; empty: not known.
    """

    name: str
    hub: str | None = None
    revision: str | None = None
    licence: str | None = None
    language: tuple[str, ...] = ()


def base_of(source: ModelSource) -> Base:
    """What is known of a model's origin: by its name on the hub, or from the card in its folder (of a checkpoint: in its run).

    Args:
        source: where the model comes from.
    """
    path = None if source.path is None else Path(source.path).resolve()
    if source.init == "random" or (path is None and source.hub is None and source.package is None):
        return Base(source.label)
    own = [source.hub, source.label] if path is None else [*_in_cache(path), path.name]
    front = {} if _e5_of(own) else _front_matter(source, path)
    names = [*_listed(front.get("base_model")), *own, *_index_names(front)]
    e5 = _e5_of(names)
    return Base(
        portable(source.label),
        e5 or next((name for name in _matching(names, HUB_NAME) if "/" in name), None),
        source.revision if path is None and source.hub is not None else None,
        _E5_LICENCE if e5 else next(iter(_matching(_listed(front.get("license")), _LICENCE)), None),
        tuple(_matching(_listed(front.get("language")), _LANGUAGE)),
    )


def _front_matter(source: ModelSource, path: Path | None) -> dict:
    """The front matter of a model's card, or of its run's where it is a checkpoint; empty where there is none that can be read."""
    files = [model_file(source, "README.md")] if path is None else [path / "README.md"]
    if path is not None and path.name.startswith("checkpoint-"):
        files.append(path.parent / "model/README.md")
    file = next((file for file in files if file is not None and file.is_file()), None)
    match = file and _FRONT_MATTER.match(file.read_text(encoding="utf-8", errors="replace")[:1_000_000])
    try:
        front = yaml.safe_load(match[1]) if match else None
    except (yaml.YAMLError, RecursionError, ValueError):  # a card that cannot be read says nothing
        front = None
    return front if isinstance(front, dict) else {}


def _in_cache(path: Path) -> list[str]:
    """The hub name of a snapshot in the hub's cache."""
    return [part[8:].replace("--", "/", 1) for part in path.parts if part.startswith("models--")]


def _index_names(front: Mapping) -> list[object]:
    """The names that a card's results are of: E5's cards say nowhere else what they are."""
    index = front.get("model-index")
    return [entry.get("name") for entry in index if isinstance(entry, dict)] if isinstance(index, list) else []


def _e5_of(names: Iterable[object]) -> str | None:
    """The hub's name of the multilingual E5 that one of these is."""
    matches = (_E5.fullmatch(name) for name in names if isinstance(name, str))
    return next((f"intfloat/multilingual-{match[1].lower()}" for match in matches if match), None)


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _matching(values: Iterable[object], pattern: re.Pattern) -> list[str]:
    return [value for value in values if isinstance(value, str) and pattern.fullmatch(value)]
