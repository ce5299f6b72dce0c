"""What each script can be told: one frozen dataclass a script, made of the groups that the floors and this room own."""

import dataclasses
import os
from netrc import netrc
from typing import Any, ClassVar, Literal
from urllib.parse import urlparse

from e5ft.app.settings.training import TrainingSettings
from e5ft.data.settings import DataSettings, Noise
from e5ft.exporting.settings import TrimSettings
from e5ft.modeling.settings import LoraSettings, ModelSource
from e5ft.retrieval.settings import EvaluationSettings, MiningSettings
from e5ft.settings import FilePath, HubName, Settings, SplitName, Word, number, whole
from e5ft.training.settings import KeepSettings, MatryoshkaSettings, StepSettings

Seed = whole(0, 2**32 - 1)
Device = Literal["auto", "cpu", "cuda"]


@dataclasses.dataclass(frozen=True)
class TrackingSettings(Settings):
    """Where a run is mirrored.

    Attributes:
        wandb: "auto": online with an API key, files otherwise. (YAML reads a bare off as false.)
        project, entity, tags: of the run in W&B; the project also elsewhere.
        also: further trackers, by transformers' own callbacks.
    """

    PATH: ClassVar[str] = "tracking"
    wandb: Literal["auto", "offline", "online", "off", False]
    project: Word
    entity: Word | None
    tags: tuple[Word, ...]
    also: tuple[Literal["tensorboard", "mlflow", "trackio"], ...] = ()

    @property
    def mode(self) -> str:
        """online, offline or off, as this and the environment say."""
        mode = self.wandb or "off"
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE") or ("online" if has_wandb_key() else "offline")
        return "off" if mode == "disabled" else mode


def wandb_server() -> str:
    """The address of W&B's server."""
    return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"


def has_wandb_key() -> bool:
    """Whether there is something to log in with: WANDB_API_KEY, an identity token, or `wandb login`'s entry in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        return netrc(os.environ.get("NETRC")).authenticators(urlparse(wandb_server()).hostname or "") is not None
    except (OSError, ValueError, SyntaxError):
        return False


@dataclasses.dataclass(frozen=True)
class RoundsSettings(Settings):
    """Training in rounds, with mining between them.

    Attributes:
        count: trainings in all.
        start: "base": every round trains the model before training; "previous": the last round's.
        mining: what each round after the first mines.
    """

    PATH: ClassVar[str] = "rounds"
    count: whole(1, 1000)
    start: Literal["base", "previous"]
    mining: MiningSettings


@dataclasses.dataclass(frozen=True)
class SweepSettings(Settings):
    """What a multirun does.

    Attributes:
        resume: resume the multirun of this name; finished jobs are skipped.
    """

    PATH: ClassVar[str] = "sweep"
    resume: bool


@dataclasses.dataclass(frozen=True)
class MergeSettings(Settings):
    """Several models into one: a soup of fine-tuned ones, and weights between that and their base.

    Attributes:
        models: folders, runs or patterns of them, which are averaged with the `model` group's; empty: that one alone.
        how: "uniform" takes all, "greedy" those that do not lower the target's score, "slerp" all along arcs.
        base: the model before fine-tuning, a folder or a run; None: it is not mixed in.
        alpha: the fine-tuned model's share, or several of which the best is taken; None: half.
    """

    PATH: ClassVar[str] = "merge"
    models: tuple[FilePath, ...] | FilePath | None
    how: Literal["uniform", "greedy", "slerp"]
    base: FilePath | None
    alpha: number(least=0, most=1) | tuple[number(least=0, most=1), ...] | None

    @property
    def asked(self) -> bool:
        """Whether there is anything to merge."""
        return bool(self.models) or self.base is not None

    def check(self) -> None:
        """Make `models` a tuple; refuse shares without a base, an empty list of them, and duplicates."""
        object.__setattr__(self, "models", (self.models,) if isinstance(self.models, str) else tuple(self.models or ()))
        if self.how != "uniform" and not self.models:
            self.refuse("how", "needs the models that are to be one with model.path, merge.models=[DIR,DIR]")
        if isinstance(self.alpha, tuple) and (not self.alpha or len(set(self.alpha)) != len(self.alpha)):
            self.refuse("alpha", "must be a number, or a list of different numbers, for instance [0.25,0.5,0.75]")
        if self.alpha is not None and self.base is None:
            self.refuse("alpha", "needs the model before fine-tuning, merge.base=DIR")
        if self.alpha is None:
            object.__setattr__(self, "alpha", 0.5)


@dataclasses.dataclass(frozen=True)
class TrainSettings(Settings):
    """Everything that train.py can be told; the fields are described in conf/train.yaml.

    Attributes:
        model: before training.
        lora: adapters; None: all weights are trained.
        loss: `_target_`, the class, and its parameters.
        optimizer: `_target_`, the class, and its parameters.
        require: the verdict without which the command's exit code is above 0.
    """

    name: Any
    resume: bool
    sweep: SweepSettings
    doctor: bool
    require: Literal["better"] | None
    seed: Seed
    rounds: RoundsSettings
    cache_dir: FilePath
    data: DataSettings
    model: ModelSource
    lora: LoraSettings | None
    loss: dict
    step: StepSettings
    matryoshka: MatryoshkaSettings
    keep: KeepSettings
    optimizer: dict
    training: TrainingSettings
    evaluation: EvaluationSettings
    tracking: TrackingSettings

    def for_data(self, data: Any) -> "TrainSettings":
        """These settings with numbers in the place of `auto`, for the TrainingData."""
        return dataclasses.replace(self, training=self.training.for_rows(len(data.train.rows), data.smallest_source))

    @property
    def guarded(self) -> bool:
        """Whether keep sets may refute the result. Random weights are no base to go back to."""
        return self.keep.guard and self.model.init == "pretrained"

    def check(self) -> None:
        """Refuse frozen parts beside adapters, which freeze every weight."""
        if self.lora is not None and self.model.freeze:
            self.model.refuse(
                "freeze", "must be [] with model.lora.rank: adapters leave all weights as they are; see target_modules"
            )


@dataclasses.dataclass(frozen=True)
class EvalSettings(Settings):
    """Everything that eval.py can be told; the fields are described in conf/eval.yaml."""

    suite: Literal["mteb"] | None
    tasks: tuple[Word, ...]
    task_types: tuple[Word, ...]
    languages: tuple[Word, ...]
    compare: tuple[FilePath, ...] | FilePath | None
    robustness: tuple[Noise, ...]
    output_dir: FilePath | None
    seed: Seed
    cache_dir: FilePath
    device: Device
    data: DataSettings
    model: ModelSource
    evaluation: EvaluationSettings

    def check(self) -> None:
        """Refuse a kind of noise that is named twice, a suite without tasks, and what does not go with one; make `compare` a tuple."""
        if len(set(self.robustness)) != len(self.robustness):
            self.refuse("robustness", "must be each once, as [no_spaces,typos]")
        if self.suite is not None:
            self._check_suite()
        elif any((self.tasks, self.task_types, self.languages)):
            field = next(name for name in ("tasks", "task_types", "languages") if getattr(self, name))
            self.refuse(field, "goes with suite=mteb alone; add it, or leave this out")
        object.__setattr__(self, "compare", (self.compare,) if isinstance(self.compare, str) else tuple(self.compare or ()))

    def _check_suite(self) -> None:
        if not self.tasks:
            self.refuse("tasks", "must name tasks or benchmarks of MTEB: tasks=[Ko-StrategyQA], 'tasks=[\"MTEB(kor, v2)\"]'")
        if self.compare:
            self.refuse("compare", "must be empty with suite=mteb; measure each model by itself, into one output_dir=DIR")
        if self.robustness:
            self.refuse("robustness", "must be empty with suite=mteb, whose queries stay as they are")
        for field in ("eval_dir", "dev_file", "keep_dir"):
            if getattr(self.data, field):
                self.data.refuse(field, "must be left out with suite=mteb, whose tasks have texts of their own")


@dataclasses.dataclass(frozen=True)
class MineSettings(Settings):
    """Everything that mine.py can be told; the fields are described in conf/mine.yaml.

    Attributes:
        model: None: no model is named, and BM25 or chance finds the candidates.
        mining: the fields of conf/mining/default.yaml, which stand at the top.
    """

    FLAT: ClassVar[tuple[str, ...]] = ("mining",)
    name: Any
    output_dir: FilePath | None
    rows_dir: FilePath | None
    rows_split: SplitName
    held_out: Literal["auto", "corpus", "judged"]
    batch_tokens: whole(1)
    seed: Seed
    cache_dir: FilePath
    device: Device
    data: DataSettings
    model: ModelSource | None
    mining: MiningSettings


@dataclasses.dataclass(frozen=True)
class ExportSettings(Settings):
    """Everything that export.py can be told; the fields are described in conf/export.yaml."""

    output_dir: FilePath | None
    formats: tuple[Literal["onnx", "onnx_int8", "openvino", "gguf"], ...]
    push: HubName | None
    private: bool
    architecture: Literal["xlm_roberta"] | None
    merge: MergeSettings
    trim: TrimSettings
    seed: Seed
    cache_dir: FilePath
    device: Device
    data: DataSettings
    model: ModelSource
    evaluation: EvaluationSettings

    @property
    def measures(self) -> bool:
        """Whether evaluation sets are of use: to choose a merger, or to see what trimming or int8 loses."""
        return self.merge.asked or self.trim.asked or "onnx_int8" in self.formats

    def check(self) -> None:
        """Refuse random weights among models to merge: model=mini makes them, whatever model.path names."""
        if self.merge.asked and self.model.init == "random":
            self.model.refuse("init", "must be pretrained to be merged; leave model=mini out, or say model.init=pretrained")
