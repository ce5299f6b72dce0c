"""What e5ft calls of mteb, recorded from version 2.26.24: the same names and parameters, and of each what is needed to answer.

`test_the_record_is_the_installed_package_s` holds it against the package, where that is installed.
"""

import json
from enum import Enum, StrEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
from scipy.stats import spearmanr

TEXTS = {"sentence1": ["w1 w2", "w3 w4", "w5  w6"], "sentence2": ["w1 w9", "w8 w4", "w7"], "score": [3, 1, 2]}


class PromptType(StrEnum):
    query = "query"
    document = "document"


class ScoringFunction(Enum):
    COSINE = "cosine"


class ModelMeta:
    @classmethod
    def create_empty(cls, overwrites=None):
        unknown = {*overwrites} - FIELDS
        assert not unknown, f"ModelMeta has no {unknown}"
        meta = cls()
        meta.__dict__.update(overwrites)
        return meta


FIELDS = {
    "name", "revision", "embed_dim", "max_tokens", "n_parameters", "similarity_fn_name", "framework", "use_instructions",
}  # fmt: skip


class ResultCache:
    def __init__(self, cache_path=None):
        self.cache_path = Path(cache_path)


class Task:
    def __init__(self, name, kind="STS", main_score="cosine_spearman"):
        self.metadata = SimpleNamespace(name=name, type=kind, main_score=main_score, languages=["kor"])

    def filter_languages(self, languages, script=None, hf_subsets=None, exclusive_language_filter=False):
        return self


TASKS = {"KorSTS": Task("KorSTS"), "Ko-StrategyQA": Task("Ko-StrategyQA", "Retrieval", "ndcg_at_10")}


def get_task(
    task_name, languages=None, script=None, eval_splits=None, hf_subsets=None, exclusive_language_filter=False
):  # fmt: skip
    if task_name not in TASKS:
        meant = " Did you mean: 'KorSTS'?" if task_name.startswith("Kor") else " and no similar keys were found."
        raise KeyError(f"KeyError: '{task_name}' not found.{meant}")
    return TASKS[task_name]


def get_benchmark(benchmark_name):
    if benchmark_name != "MTEB(kor, v2)":
        raise KeyError(f"'{benchmark_name}' not found and no similar keys were found.")
    return SimpleNamespace(tasks=tuple(TASKS.values()))


def filter_tasks(
    tasks, *, languages=None, script=None, domains=None, task_types=None, categories=None, modalities=None,
    exclusive_modality_filter=False, exclude_superseded=False, exclude_aggregate=False, exclude_private=False,
    exclude_beta=False,
):  # fmt: skip
    return [
        task
        for task in tasks
        if (not task_types or task.metadata.type in task_types) and (not languages or {*languages} & {*task.metadata.languages})
    ]


def evaluate(
    model, tasks, *, co2_tracker=None, raise_error=True, encode_kwargs=None, cache=None, overwrite_strategy="only-missing",
    prediction_folder=None, show_progress_bar=True, public_only=None, num_proc=None, timer=None,
):  # fmt: skip
    """One task: its sides encoded as mteb hands them over, the score in mteb's layout."""
    meta, name = model.mteb_model_meta, tasks.metadata.name
    file = cache.cache_path / "results" / meta.name.replace("/", "__") / meta.revision / f"{name}.json"
    if not file.is_file():
        kinds = (PromptType.query, PromptType.document) if tasks.metadata.type == "Retrieval" else (None, None)
        sides = [
            model.encode(
                [{"text": TEXTS[side][:2]}, {"text": TEXTS[side][2:]}],
                task_metadata=tasks.metadata, hf_split="test", hf_subset="default", prompt_type=kind, **encode_kwargs,
            )
            for side, kind in zip(("sentence1", "sentence2"), kinds, strict=True)
        ]  # fmt: skip
        pairs = np.asarray(model.similarity_pairwise(*sides))
        assert np.allclose(pairs, np.diag(np.asarray(model.similarity(*sides))), atol=1e-6)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"main_score": float(spearmanr(pairs, TEXTS["score"])[0])}))
    score = json.loads(file.read_text())["main_score"]
    result = SimpleNamespace(scores={"test": [{"main_score": score}]}, get_score=lambda: score)
    return SimpleNamespace(task_results=[result], exceptions=None)


FUNCTIONS = {"get_task": get_task, "get_benchmark": get_benchmark, "filter_tasks": filter_tasks, "evaluate": evaluate}


def modules() -> dict[str, ModuleType]:
    """The package, and its module that we import, by name."""
    mteb, model_meta = ModuleType("mteb"), ModuleType("mteb.models.model_meta")
    mteb.__dict__.update(FUNCTIONS, ResultCache=ResultCache, __version__="2.26.24")
    model_meta.__dict__.update(ModelMeta=ModelMeta, ScoringFunction=ScoringFunction)
    return {"mteb": mteb, "mteb.models": ModuleType("mteb.models"), "mteb.models.model_meta": model_meta}
