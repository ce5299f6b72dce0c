"""A model, a retrieval set and the `evaluation` group -> an `Evaluation`."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from e5ft.errors import ConfigurationError
from e5ft.modeling.encoder import Encoder
from e5ft.retrieval.evaluation import Evaluation, bm25_run, dense_run, evaluate_run
from e5ft.retrieval.metrics import check_cutoffs, run_metrics
from e5ft.retrieval.sets import RetrievalSet
from e5ft.retrieval.vectors import RepeatedTexts, encode_collection

_CUT_ROWS = 65_536  # rows of which the components that are cut off stand in memory
HEADLINE = ("hit@1", "recall@10", "ndcg@10", "mrr@10")


def score_model(
    encoder: Encoder, retrieval_set: RetrievalSet, evaluation: DictConfig, label: str, *, seed: int = 0, cache: Path | None = None
) -> Evaluation:
    """Rank the set's whole corpus for each query and score it.

    Args:
        encoder: the model.
        retrieval_set: the set.
        evaluation: the `evaluation` group.
        label: the model's name in tables.
        seed: of the bootstrap.
        cache: where the passages' vectors are kept; None keeps them in memory, once.
    """
    return next(_scored(encoder, retrieval_set, evaluation, label, [None], seed, cache))


def score_sizes(
    encoder: Encoder, retrieval_set: RetrievalSet, evaluation: DictConfig, label: str, *, seed: int = 0, cache: Path | None = None
) -> tuple[Evaluation, dict[int, Evaluation]]:
    """As `score_model`, and the same with vectors cut to each of `evaluation.dimensions`; the texts are encoded once.

    Returns:
        The evaluation of whole vectors, and those of the cuts by dimension.
    """
    sizes = dimensions(evaluation, encoder.dimension)
    whole, *cuts = _scored(encoder, retrieval_set, evaluation, label, [None, *sizes], seed, cache)
    return whole, dict(zip(sizes, cuts, strict=True))


def dimensions(evaluation: DictConfig, largest: int) -> list[int]:
    """The cuts of the vectors that are measured beside the whole, in descending order.

    Raises:
        ConfigurationError: one is no whole number from 1 to the model's dimension.
    """
    wanted = list(evaluation.dimensions or ())
    for dimension in wanted:
        if isinstance(dimension, bool) or not isinstance(dimension, int) or not 1 <= dimension <= largest:
            raise ConfigurationError(
                f"evaluation.dimensions={wanted}: whole numbers from 1 to {largest}, the model's, are needed"
            )
    return sorted({dimension for dimension in wanted if dimension < largest}, reverse=True)


def score_bm25(retrieval_set: RetrievalSet, evaluation: DictConfig, *, seed: int = 0) -> Evaluation | None:
    """The lexical reference, or None when it is switched off."""
    if evaluation.bm25 is None:
        return None
    run = bm25_run(retrieval_set, max(evaluation.cutoffs), evaluation.bm25)
    label = f"BM25 ({evaluation.bm25})"
    return evaluate_run(retrieval_set, run, list(evaluation.cutoffs), label, samples=evaluation.intervals, seed=seed)


def evaluator(retrieval_set: RetrievalSet, evaluation: DictConfig) -> Callable[[Encoder], dict[str, float]]:
    """What `ContrastiveTrainer` calls at each evaluation: means only, no files."""
    cutoffs, tokens = check_cutoffs(list(evaluation.cutoffs)), evaluation.batch_tokens
    queries, passages = (
        RepeatedTexts(*texts, tokens) for texts in ((retrieval_set.queries, "query"), (retrieval_set.passages, "passage"))
    )

    def evaluate(encoder: Encoder) -> dict[str, float]:
        vectors = queries.vectors(encoder), passages.vectors(encoder)
        found = run_metrics(_run(*vectors, None, retrieval_set, evaluation, encoder), retrieval_set.qrels, cutoffs)[0]
        for dimension in dimensions(evaluation, encoder.dimension):
            run = _run(*vectors, dimension, retrieval_set, evaluation, encoder)
            measured = run_metrics(run, retrieval_set.qrels, cutoffs)[0]
            found.update({f"{dimension}d_{name}": value for name, value in measured.items()})
        return found

    return evaluate


def headline(cutoffs: list[int]) -> list[str]:
    """The metrics a short table shows: the usual four, or what the cutoffs allow."""
    shown = [name for name in HEADLINE if int(name.rpartition("@")[2]) in cutoffs]
    return shown if len(shown) > 1 else [f"{name}@{cutoffs[-1]}" for name in ("hit", "recall", "ndcg", "mrr")]


def main_metric(metrics: list[str]) -> str:
    """The one of a short table's metrics that a single sentence reports."""
    return next(name for name in metrics if name.startswith("ndcg"))


def _scored(encoder, retrieval_set, evaluation, label, sizes, seed, cache) -> Iterator[Evaluation]:
    """An evaluation for each size of the vectors; None is the whole."""
    vectors = _vectors(encoder, retrieval_set, evaluation, cache)
    for size in sizes:
        run = _run(*vectors, size, retrieval_set, evaluation, encoder)
        name = label if size is None else f"{label}, first {size} dimensions"
        yield evaluate_run(retrieval_set, run, list(evaluation.cutoffs), name, samples=evaluation.intervals, seed=seed)


def _vectors(encoder: Encoder, retrieval_set: RetrievalSet, evaluation: DictConfig, cache: Path | None) -> tuple:
    """(queries (Q, D), passages (P, D))."""
    tokens = evaluation.batch_tokens
    passages = encode_collection(encoder, retrieval_set.passages, "passage", batch_tokens=tokens, cache=cache)
    return encode_collection(encoder, retrieval_set.queries, "query", batch_tokens=tokens), passages


def _run(queries, passages, size: int | None, retrieval_set: RetrievalSet, evaluation: DictConfig, encoder: Encoder) -> dict:
    if size is not None:
        queries, passages = (_cut(vectors, size) for vectors in (queries, passages))
    return dense_run(queries, passages, retrieval_set, max(evaluation.cutoffs), device=encoder.device)


def _cut(vectors: np.ndarray, size: int) -> np.ndarray:
    """The first components, at length 1 again."""
    chunks = (np.asarray(vectors[start : start + _CUT_ROWS])[:, :size] for start in range(0, len(vectors), _CUT_ROWS))
    cut = np.concatenate([np.array(chunk) for chunk in chunks])
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)
