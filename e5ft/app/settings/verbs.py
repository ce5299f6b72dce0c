"""Settings of the commands that have no script of their own: `python -m e5ft VERB`."""

import dataclasses
from typing import Any, Literal

from e5ft.app.settings.groups import Device, Seed
from e5ft.data.settings import DataSettings
from e5ft.modeling.settings import ModelSource
from e5ft.retrieval.settings import EvaluationSettings
from e5ft.settings import FilePath, Settings, Word, number, whole
from e5ft.synthesis.settings import DividingSettings, MakingSettings


@dataclasses.dataclass(frozen=True)
class AuditSettings(Settings):
    """Everything that `python -m e5ft audit` can be told; the fields are described in conf/audit.yaml."""

    name: Any
    output_dir: FilePath | None
    write: FilePath | None
    strict: bool
    queries: whole(1) | None
    language: Literal["auto", "ko", "en"]
    seed: Seed
    cache_dir: FilePath
    device: Device
    data: DataSettings
    model: ModelSource | None

    def check(self) -> None:
        """Refuse a copy under a name that is read in another way, and one that would lack sound rows or a mix's sources."""
        if self.write is not None and not self.write.endswith(".jsonl"):
            self.refuse("write", "must end in .jsonl: JSON lines are written")
        if self.write is not None and self.data.max_train_rows is not None:
            self.refuse("write", "must be null with data.max_train_rows: the copy would lack the rows that are not looked at")
        if self.write is not None and self.data.mix is not None:
            self.refuse("write", "must be null with data=mix, whose sources are cleaned one by one: data.train_file=FILE")


@dataclasses.dataclass(frozen=True)
class CheckSettings(Settings):
    """Everything that `python -m e5ft check` can be told; the fields are described in conf/check.yaml."""

    target: Word | None
    golden: FilePath | None
    prefix: Literal["auto", "client", "server"]
    model_name: Word | None
    api_key: Word | None
    least: number(above=0, most=1)
    timeout: number(above=0, most=86_400)

    def check(self) -> None:
        """Refuse a check of nothing."""
        if self.target is None:
            self.refuse("target", "must be a folder, a server's address or MODULE:FUNCTION: target=DIR")


@dataclasses.dataclass(frozen=True)
class ServeSettings(Settings):
    """Everything that `e5ft serve` can be told; the fields are described in conf/serve.yaml."""

    base: Literal["auto"] | FilePath | None
    host: Word
    port: whole(0, 65_535)
    seed: Seed
    cache_dir: FilePath
    device: Device
    data: DataSettings
    model: ModelSource
    evaluation: EvaluationSettings

    def check(self) -> None:
        """Refuse passages beside a set that has its own."""
        if self.data.corpus_file is not None and self.data.eval_dir is not None:
            self.data.refuse("corpus_file", "must be null with data.eval_dir, whose corpus is searched")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowsSettings(MakingSettings):
    """Everything that `e5ft rows` can be told; the fields are described in conf/rows.yaml."""

    name: Any
    output_dir: FilePath | None
    seed: Seed
    cache_dir: FilePath
    device: Device


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitSettings(DividingSettings):
    """Everything that `e5ft split` can be told; the fields are described in conf/split.yaml."""

    name: Any
    output_dir: FilePath | None
    seed: Seed
    cache_dir: FilePath


@dataclasses.dataclass(frozen=True)
class RunsSettings(Settings):
    """Everything that `python -m e5ft runs` can be told; the fields are described in conf/runs.yaml."""

    folders: tuple[FilePath, ...]
    format: Literal["table", "jsonl"]


@dataclasses.dataclass(frozen=True)
class ReportSettings(Settings):
    """Everything that `python -m e5ft report` can be told; the fields are described in conf/report.yaml."""

    runs: tuple[FilePath, ...] | FilePath | None
    language: Literal["auto", "ko", "en"]
    output_file: FilePath | None
    require: Literal["better"] | None

    def check(self) -> None:
        """Make `runs` a tuple; refuse a report of nothing, and a page that is no HTML file."""
        object.__setattr__(self, "runs", (self.runs,) if isinstance(self.runs, str) else tuple(self.runs or ()))
        if not self.runs:
            self.refuse("runs", "must name a run, or several different ones: runs=NAME, 'runs=[A,B]'")
        if self.output_file is not None and not self.output_file.endswith(".html"):
            self.refuse("output_file", "must end in .html")
