"""MTEB's tasks, measured by the package mteb: our encoder behind its protocol, its results in its own layout.

Source: https://github.com/embeddings-benchmark/mteb, version 2: EncoderProtocol, ModelMeta, evaluate and ResultCache.
"""

import dataclasses
import importlib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from e5ft.errors import ConfigurationError, DataError, E5ftError
from e5ft.files import digest_of
from e5ft.retrieval.tables import aligned, short_number

if TYPE_CHECKING:
    import torch

    from e5ft.modeling.encoder import Encoder

_BATCH = 512  # texts that mteb hands over at once; `encode` makes batches of its own, by tokens


@dataclasses.dataclass(frozen=True)
class TaskScore:
    """What became of one task.

    Attributes:
        task: its name.
        kind: its type: Retrieval, STS, ...
        metric: the name of its main score; 0 to 1, but for correlations, -1 to 1.
        value: the mean of the main score over splits and subsets; None where the task failed.
        parts: how many splits and subsets that is the mean of.
        fault: why the task failed; None where it did not.
    """

    task: str
    kind: str
    metric: str
    value: float | None
    parts: int = 0
    fault: str | None = None

    def __str__(self) -> str:
        """The task and its score, or what went wrong."""
        return f"{self.task}: {f'failed: {self.fault}' if self.value is None else short_number(self.value)}"


class MtebEncoder:
    """An encoder as mteb's EncoderProtocol asks for it.

    Args:
        encoder: the model; its prefixes, NFC, white space and lengths hold here as everywhere.
        name: ORGANISATION/MODEL, the folder of the results.
        batch_tokens: tokens of one forward pass.
        cache: the folder in which vectors of large corpora are kept, so that an interrupted task goes on.
    """

    def __init__(self, encoder: "Encoder", name: str, *, batch_tokens: int, cache: Path):
        from e5ft.retrieval.vectors import digest_of_model

        model_meta = importlib.import_module("mteb.models.model_meta")
        self._encoder, self._batch_tokens, self._cache = encoder, batch_tokens, cache
        own = {
            "name": name,
            # A model trained on, or another text format, is another revision: it never meets the other's results.
            "revision": digest_of(digest_of_model(encoder), encoder.spec.to_dict()),
            "embed_dim": encoder.dimension,
            "max_tokens": encoder.spec.text.passage_max_length,
            "n_parameters": sum(weight.numel() for weight in encoder.backbone.parameters()),
            "similarity_fn_name": model_meta.ScoringFunction.COSINE,
            "framework": ["PyTorch"],
            "use_instructions": True,
        }
        self.mteb_model_meta = model_meta.ModelMeta.create_empty(overwrites=own)

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any = None,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **_: Any,
    ) -> np.ndarray:
        """Vectors of the texts that mteb loads.

        Args:
            inputs: batches, mappings with the texts under "text".
            task_metadata, hf_split, hf_subset: of the task; no vector depends on them.
            prompt_type: mteb's: document for passages, query for queries, None where a task's two sides are alike
                (STS, classification, clustering), which E5 reads as queries.

        Returns:
            (n, D) float32, of length 1.

        Source: Wang et al. 2024, Multilingual E5; "query: " for symmetric tasks and features, as its model card says.
        """
        from e5ft.retrieval.vectors import WINDOW, encode_collection

        texts = [text for batch in inputs for text in batch["text"]]
        role = "passage" if getattr(prompt_type, "value", prompt_type) == "document" else "query"
        cache = self._cache if len(texts) > WINDOW else None
        return np.array(encode_collection(self._encoder, texts, role, batch_tokens=self._batch_tokens, cache=cache))

    def similarity(self, embeddings1: Any, embeddings2: Any) -> "torch.Tensor":
        """Cosines of (n, D) with (m, D): (n, m)."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> "torch.Tensor":
        """Cosines of (n, D) with (n, D), row by row: (n,)."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(dim=-1)


def find_tasks(names: Sequence[str], types: Sequence[str] = (), languages: Sequence[str] = ()) -> list[Any]:
    """The tasks that settings name, each once; torch is not imported.

    Args:
        names: of tasks and benchmarks of mteb, or MODULE:CLASS of tasks of one's own (modules of the current folder are found).
        types: Retrieval, STS, ...; all if empty.
        languages: ISO 639-3, as kor: tasks in these, and of their subsets only these; all if empty.

    Raises:
        ConfigurationError: mteb is not installed, knows no such task, or nothing is left.
    """
    try:
        mteb = importlib.import_module("mteb")
    except ImportError as error:
        raise ConfigurationError("suite=mteb: needs the package mteb; pip install mteb") from error
    found = {task.metadata.name: task for name in names for task in _named(mteb, name)}
    try:
        kept = mteb.filter_tasks(found.values(), task_types=list(types) or None, languages=list(languages) or None)
        kept = [task.filter_languages(list(languages)) for task in kept] if languages else list(kept)
    except ValueError as error:  # an unknown language
        raise ConfigurationError(f"languages={list(languages)}: {_said(error)}") from error
    if not kept:
        raise ConfigurationError(
            f"task_types={list(types)} languages={list(languages)}: none of the {len(found)} tasks is of these; "
            f"their types: {', '.join(sorted({task.metadata.type for task in found.values()}))}"
        )
    return kept


def run_tasks(model: MtebEncoder, tasks: Sequence[Any], folder: Path) -> Iterator[TaskScore]:
    """Measure a model on tasks, one after another. A task that fails, as for want of network, lets the others go on.

    Args:
        model: as `MtebEncoder` makes it.
        tasks: of `find_tasks`.
        folder: mteb's results: results/MODEL/REVISION/TASK.json; what stands there already is not measured again.

    Yields:
        A task's score as soon as it is there.
    """
    import torch
    from datasets import disable_progress_bars

    mteb = importlib.import_module("mteb")
    shown = sys.stderr.isatty()
    if not shown:
        disable_progress_bars()  # of a task's loading code
    options = {"encode_kwargs": {"batch_size": _BATCH, "show_progress_bar": shown}, "show_progress_bar": shown}
    cache = mteb.ResultCache(folder)
    for task in tasks:
        of = task.metadata
        try:
            found = mteb.evaluate(model, task, cache=cache, co2_tracker=False, **options)
        except (E5ftError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # of mteb, of a task's loading code, of the network: anything
            yield TaskScore(of.name, of.type, of.main_score, None, fault=f"{type(error).__name__}: {_said(error)}")
            continue
        for result in found.task_results:
            parts = sum(len(scores) for scores in result.scores.values())
            yield TaskScore(of.name, of.type, of.main_score, float(result.get_score()), parts)
        for failed in found.exceptions or ():
            yield TaskScore(of.name, of.type, of.main_score, None, fault=_said(failed.exception))


def score_table(scores: Sequence[TaskScore]) -> str:
    """The tasks that have a score, a row each, and their mean as the last."""
    done = [score for score in scores if score.value is not None]
    rows = [[score.task, score.kind, score.metric, str(score.parts), short_number(score.value)] for score in done]
    if len(rows) > 1:
        rows.append(["mean of tasks", "", "", "", short_number(sum(score.value for score in done) / len(done))])
    return aligned([["task", "type", "main score", "subsets", "value"], *rows], text_columns=3)


def mean_of(scores: Sequence[TaskScore]) -> float:
    """The mean of the tasks' scores.

    Raises:
        DataError: a task has none.
    """
    failed = [score.task for score in scores if score.value is None]
    if failed:
        raise DataError(
            f"suite=mteb: {len(failed)} of {len(scores)} tasks failed ({', '.join(failed)}); "
            "see above what went wrong; the same command measures these alone"
        )
    return sum(score.value for score in scores) / len(scores)


def public_name(path: str | None, label: str) -> str:
    """A model's name as mteb asks for it, ORGANISATION/MODEL: a hub's own, else local/NAME, of a run the run's.

    Args:
        path: the model's folder; None where it has none.
        label: how tables name it.
    """
    if path is None:
        name = re.sub(r"[^\w./-]+", "_", label)
        return name if name.count("/") == 1 else f"local/{name.replace('/', '_')}"
    folder = Path(path).resolve()
    return f"local/{folder.parent.name if folder.name == 'model' else folder.name}"


def _named(mteb: Any, name: str) -> list[Any]:
    """The task, or the benchmark's tasks, of one name."""
    module, _, kind = name.partition(":")
    if kind:
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        try:
            return [getattr(importlib.import_module(module), kind)()]
        except (ImportError, AttributeError) as error:
            raise ConfigurationError(f"tasks=[{name}]: {_said(error)}; must be MODULE:CLASS") from error
    messages = []
    for find in (mteb.get_benchmark, mteb.get_task):
        try:
            found = find(name)
        except KeyError as error:
            messages.append(str(error))
        else:
            return list(found.tasks) if hasattr(found, "tasks") else [found]
    meant = re.search(r"Did you mean: '?([^'?]+)", " ".join(messages))
    meant = f"; did you mean {meant[1]}?" if meant else "; all: https://docs.mteb.org"
    raise ConfigurationError(f"tasks=[{name}]: mteb {mteb.__version__} has no task or benchmark of this name{meant}")


def _unit(vectors: Any) -> "torch.Tensor":
    import torch

    return torch.nn.functional.normalize(torch.as_tensor(vectors).float(), dim=-1)


def _said(error: Exception | str) -> str:
    """The first line of what somebody else's code says."""
    return (str(error).strip().splitlines() or [""])[0][:300]
