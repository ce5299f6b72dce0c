"""What a model scores: nDCG@10 of every query of every set, and Spearman's correlation on sentence pairs."""

import contextlib
import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from e5ft.files import write_json
from e5ft.modeling.encoder import BATCH_TOKENS, Encoder
from e5ft.modeling.loading import load_encoder
from e5ft.modeling.settings import ModelSource
from e5ft.retrieval import hybrid
from e5ft.retrieval.evaluation import Evaluation, score_bm25, score_model
from e5ft.retrieval.sets import RetrievalSet, load_beir, shrink_corpus, subsample, with_queries
from e5ft.retrieval.settings import EvaluationSettings
from e5ft.retrieval.vectors import encode_collection

METRIC = "ndcg@10"
SAMPLES = 4000
SETTINGS = EvaluationSettings(
    cutoffs=(10,), bm25="auto", hybrid_weight="auto", batch_tokens=BATCH_TOKENS, intervals=1, dimensions=None
)


def choosing_sets(target: Path, keep: list[Path]) -> list[RetrievalSet]:
    """The sets by which is chosen, the target first: dev queries, or the first half of a set without any; cut corpora."""
    sets = [shrink_corpus(load_beir(target, "dev", name="target"), 2000)]
    for folder in keep:
        name = _name(folder)
        if (folder / "qrels" / "dev.tsv").is_file():
            sets.append(subsample(load_beir(folder, "dev", name=name), 300, 800))
        else:
            sets.append(_half(load_beir(folder, "test", name=name), first=True))
    return sets


def reporting_sets(target: Path, keep: list[Path]) -> list[RetrievalSet]:
    """The sets that are reported, whole: what no choice has seen."""
    sets = [load_beir(target, "test", name="target")]
    for folder in keep:
        whole = load_beir(folder, "test", name=_name(folder))
        sets.append(whole if (folder / "qrels" / "dev.tsv").is_file() else _half(whole, first=False))
    return sets


def _name(folder: Path) -> str:
    folder = folder.resolve()
    return folder.parent.name if folder.name == "eval" else folder.name


def _half(whole: RetrievalSet, first: bool) -> RetrievalSet:
    order = np.random.default_rng(0).permutation(len(whole.queries))
    middle = len(order) // 2
    return with_queries(whole, np.sort(order[:middle] if first else order[middle:]))


def measure(
    model: Path, sets: list[RetrievalSet], pairs: list[Path], record: Path, bf16: bool, dev: RetrievalSet | None = None
) -> dict:
    """Score one model, or read what was scored before.

    Args:
        model: a folder.
        sets: the target first.
        pairs: files of sentence pairs, {sentence1, sentence2, score}.
        record: the JSON of the result, which is read where it is there.
        bf16: whether texts are encoded under bfloat16, all models alike.
        dev: the target's dev set, which chooses the weight of hybrids with BM25; None: there are none.

    Returns:
        {"sets": set -> METRIC of every query in the order of their ids, "hybrid": the same with BM25, "weight": of the dense
        scores in it, "pairs": file -> correlation}
    """
    if record.is_file():
        return json.loads(record.read_text(encoding="utf-8"))
    encoder = load_encoder(ModelSource(path=str(model)))
    weight = None if dev is None else hybrid.weighting(SETTINGS, dev)
    found = {"sets": {}, "hybrid": {}, "weight": None, "pairs": {}}
    with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
        for each in sets:
            lexical = None if weight is None else score_bm25(each, SETTINGS)
            scored = score_model(encoder, each, SETTINGS, "dense", bm25=lexical, weight=weight)
            found["sets"][each.name] = _values(scored)
            if weight is not None:
                found["hybrid"][each.name] = _values(scored.hybrid)
                weight = hybrid.weight_of(scored)  # the target's, for the others too
                found["weight"] = weight.value
        found["pairs"] = {file.stem: _spearman(encoder, file) for file in pairs}
    write_json(record, found)
    return found


def lexical(sets: list[RetrievalSet]) -> dict:
    """BM25's scores, in the form of `measure`."""
    return {"sets": {each.name: _values(score_bm25(each, SETTINGS)) for each in sets}, "pairs": {}}


def _values(evaluation: Evaluation) -> list[float]:
    return evaluation.values[:, list(evaluation.metrics).index(METRIC)].tolist()


def _spearman(encoder: Encoder, file: Path) -> float:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    first, second = (encode_collection(encoder, [row[name] for row in rows], "query") for name in ("sentence1", "sentence2"))
    return float(stats.spearmanr((first * second).sum(axis=1), [row["score"] for row in rows]).statistic)


@dataclasses.dataclass(frozen=True)
class Difference:
    """A mean paired difference and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def difference(a: list[list[float]], b: list[list[float]]) -> Difference:
    """The mean over sets of the mean paired difference of their queries, a less b.

    Args:
        a, b: values of every query, a list a set; queries are resampled within their set.
    """
    random, total = np.random.default_rng(0), np.zeros(SAMPLES + 1)
    for ours, theirs in zip(a, b, strict=True):
        paired = np.subtract(ours, theirs)
        total[0] += paired.mean()
        for sample in range(1, SAMPLES + 1):
            total[sample] += paired[random.integers(0, len(paired), len(paired))].mean()
    total /= len(a)
    return Difference(float(total[0]), *map(float, np.percentile(total[1:], [2.5, 97.5])))
