"""How much is evaluated while training, and what evaluations cost."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from e5ft.retrieval.sets import RetrievalSet, shrink_corpus, subsample

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from e5ft.modeling.encoder import Encoder

AUTO = "auto"
LARGEST = 10_000  # passages that are ranked while training, or while alphas are chosen
SHARE = 0.05
FEWEST_QUERIES = 100  # of fewer, neighbouring checkpoints cannot be told apart
_PASSAGES_A_QUERY = 4  # passages kept per query, as a multiple of its judged ones, where queries must be left out
_FORWARD_PASSES = 3  # that a training step is worth; exact accumulation is worth up to one more
_SAMPLE = 256  # texts by which the tokens of all are estimated


@dataclasses.dataclass(frozen=True)
class EvaluationPlan:
    """What the evaluations of a training will cost.

    Attributes:
        times: evaluations after the first step.
        queries, passages: of each.
        share: evaluation tokens / (training tokens x 3), approximately the share of training time.
        reason: why the share is above the usual one; empty where it is not.
    """

    times: int
    queries: int
    passages: int
    share: float
    reason: str = ""


def planned_dev(
    dev: RetrievalSet,
    size: int | str,
    arguments: "TrainingArguments",
    encoder: "Encoder",
    rows: int,
    row_tokens: float,
    seed: int,
) -> tuple[RetrievalSet, EvaluationPlan | None]:
    """Bound the set that is ranked while training, and estimate what ranking it costs.

    A number as size keeps all queries and that many passages. `auto` keeps as many of both as let all evaluations together cost
    `SHARE` of training's work: at least `FEWEST_QUERIES` queries and twice their judged passages, at most `LARGEST` passages.
    The result does not depend on how a step is cut into micro-batches and processes, so that a resumed run with another
    cut has the same set.

    Args:
        dev: the whole dev set.
        size: passages to rank, or `auto`.
        arguments: training's.
        encoder: its tokenizer counts the tokens.
        rows: number of training rows.
        row_tokens: tokens that a row shows in an epoch, on average.
        seed: of the choice.

    Returns:
        The bounded set, and the plan; None where nothing is measured while training.
    """
    step_rows = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    steps = arguments.max_steps if arguments.max_steps > 0 else max(1, int(arguments.num_train_epochs * (rows // step_rows)))
    times = _evaluations(arguments, steps, max(1, rows // step_rows))
    if not times:
        return shrink_corpus(dev, LARGEST if size == AUTO else size, seed=seed), None
    work = _FORWARD_PASSES * steps * step_rows * row_tokens
    query, passage = _mean_tokens(encoder, dev.queries, "query"), _mean_tokens(encoder, dev.passages, "passage")
    if size == AUTO:
        judged = len({passage_id for judgements in dev.qrels.values() for passage_id in judgements}) / len(dev.queries)
        dev = subsample(dev, *chosen_size(SHARE * work / times, query, passage, len(dev.queries), judged), seed=seed)
    else:
        dev = shrink_corpus(dev, size, seed=seed)
    share = times * (query * len(dev.queries) + passage * len(dev.passages)) / work
    floor = f"above {SHARE:.0%}, because fewer than {FEWEST_QUERIES} queries do not tell checkpoints apart"
    reason = floor if size == AUTO and share > 1.2 * SHARE else ""
    return dev, EvaluationPlan(times, len(dev.queries), len(dev.passages), share, reason)


def tokens_of(sets: Iterable[RetrievalSet], encoder: "Encoder") -> float:
    """Estimate the tokens of all queries and passages of some sets."""
    texts = [(column, role) for each in sets for column, role in ((each.queries, "query"), (each.passages, "passage"))]
    return sum(len(column) * _mean_tokens(encoder, column, role) for column, role in texts)


def chosen_size(tokens: float, query: float, passage: float, queries: int, judged: float) -> tuple[int, int]:
    """Choose how many queries and passages cost about `tokens` tokens.

    Args:
        tokens: of one evaluation.
        query, passage: tokens of one, on average.
        queries: number of queries there are.
        judged: passages that are judged for a query, on average.

    Returns:
        Queries (from `FEWEST_QUERIES`, or all) and passages (from twice the judged ones, up to `LARGEST`).
    """
    affordable = int(tokens / (query + _PASSAGES_A_QUERY * judged * passage))
    chosen = min(queries, max(FEWEST_QUERIES, affordable))
    passages = int((tokens - chosen * query) / passage)
    return chosen, min(LARGEST, max(passages, int(2 * judged * chosen), 1))


def _evaluations(arguments: "TrainingArguments", steps: int, epoch_steps: int) -> int:
    """Number of evaluations in `steps` steps; 0 where there is no strategy."""
    strategy = arguments.eval_strategy.value
    if strategy == "no":
        return 0
    if strategy == "epoch":
        return -(-steps // epoch_steps)
    every = arguments.eval_steps or arguments.logging_steps
    every = max(1, -(-steps * every // 1)) if every < 1 else every
    return int(-(-steps // every))  # the last step is measured, too


def _mean_tokens(encoder: "Encoder", texts: Sequence[str], role: str) -> float:
    sampled = [texts[i] for i in range(0, len(texts), -(-len(texts) // _SAMPLE))]
    return sum(map(len, encoder.tokenize(sampled, role))) / len(sampled)
