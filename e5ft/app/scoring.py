"""A model, a retrieval set and the `evaluation` group -> an `Evaluation`."""

from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig

from e5ft.modeling.encoder import Encoder
from e5ft.retrieval.evaluation import Evaluation, bm25_run, dense_run, evaluate_run
from e5ft.retrieval.metrics import check_cutoffs, run_metrics
from e5ft.retrieval.sets import RetrievalSet
from e5ft.retrieval.vectors import encode_collection

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
    run = _dense(encoder, retrieval_set, evaluation, cache)
    return evaluate_run(retrieval_set, run, list(evaluation.cutoffs), label, samples=evaluation.intervals, seed=seed)


def score_bm25(retrieval_set: RetrievalSet, evaluation: DictConfig, *, seed: int = 0) -> Evaluation | None:
    """The lexical reference, or None when it is switched off."""
    if evaluation.bm25 is None:
        return None
    run = bm25_run(retrieval_set, max(evaluation.cutoffs), evaluation.bm25)
    label = f"BM25 ({evaluation.bm25})"
    return evaluate_run(retrieval_set, run, list(evaluation.cutoffs), label, samples=evaluation.intervals, seed=seed)


def evaluator(retrieval_set: RetrievalSet, evaluation: DictConfig) -> Callable[[Encoder], dict[str, float]]:
    """What `ContrastiveTrainer` calls at each evaluation: means only, no files."""
    cutoffs = check_cutoffs(list(evaluation.cutoffs))

    def evaluate(encoder: Encoder) -> dict[str, float]:
        return run_metrics(_dense(encoder, retrieval_set, evaluation, None), retrieval_set.qrels, cutoffs)[0]

    return evaluate


def headline(cutoffs: list[int]) -> list[str]:
    """The metrics a short table shows: the usual four, or what the cutoffs allow."""
    shown = [name for name in HEADLINE if int(name.rpartition("@")[2]) in cutoffs]
    return shown if len(shown) > 1 else [f"{name}@{cutoffs[-1]}" for name in ("hit", "recall", "ndcg", "mrr")]


def main_metric(metrics: list[str]) -> str:
    """The one of a short table's metrics that a single sentence reports."""
    return next(name for name in metrics if name.startswith("ndcg"))


def _dense(encoder: Encoder, retrieval_set: RetrievalSet, evaluation: DictConfig, cache: Path | None) -> dict:
    tokens = evaluation.batch_tokens
    passages = encode_collection(encoder, retrieval_set.passages, "passage", batch_tokens=tokens, cache=cache)
    queries = encode_collection(encoder, retrieval_set.queries, "query", batch_tokens=tokens)
    return dense_run(queries, passages, retrieval_set, max(evaluation.cutoffs), device=encoder.device)
