"""How much is evaluated while training, and what evaluations cost."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from e5ft.retrieval.sets import RetrievalSet, shrink_corpus, subsample
from e5ft.training.schedule import AUTO

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from e5ft.modeling.encoder import Encoder

LARGEST = 10_000  # passages that are ranked while training, or while alphas are chosen
SHARE = 0.05
FEWEST_QUERIES = 100  # of fewer, neighbouring checkpoints cannot be told apart
ENOUGH_QUERIES = 200  # each evaluation has as many before there is a further one
MOST_EVALUATIONS = 10
_PASSAGES_A_QUERY = 4  # passages kept per query, as a multiple of its judged ones, where queries must be left out
_FORWARD_PASSES = 3  # that a training step is worth; exact accumulation is worth up to one more
_SAMPLE = 256  # texts by which the tokens of all are estimated


@dataclasses.dataclass(frozen=True)
class EvaluationPlan:
    """What the evaluations of a training will cost.

    Attributes:
        times: evaluations after the first step.
        every: steps from one to the next; the last step is measured, too.
        queries, passages: of each.
        tokens: of each.
        base_tokens: of the evaluation before the first step.
        share: tokens of all / (training tokens x 3), approximately the share of training time.
        reason: why the share is above `SHARE`, and what to set; empty where it is not.
    """

    times: int
    every: int
    queries: int
    passages: int
    tokens: float
    base_tokens: float
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
    *,
    choose_times: bool = False,
    base_is_known: bool = False,
) -> tuple[RetrievalSet, EvaluationPlan | None]:
    """Choose on how much and how often is evaluated while training, and estimate what that costs.

    A number as size keeps all queries and that many passages. `auto` keeps as many of both as let all evaluations together cost
    `SHARE` of training's work: at least `FEWEST_QUERIES` queries and twice their judged passages, at most `LARGEST` passages.
    The result does not depend on how a step is cut into micro-batches and processes, nor on the machine's speed, so that a
    resumed run has the same set and the same schedule.

    Args:
        dev: the whole dev set.
        size: passages to rank, or `auto`.
        arguments: training's.
        encoder: its tokenizer counts the tokens.
        rows: number of training rows.
        row_tokens: tokens that a row shows in an epoch, on average.
        seed: of the choice.
        choose_times: whether to evaluate, whatever `arguments.eval_steps`, as often as `SHARE` allows with `ENOUGH_QUERIES`
            queries each, the base's evaluation included: 1 to `MOST_EVALUATIONS` times.
        base_is_known: whether the vectors of the base's evaluation are there already but for the queries'.

    Returns:
        The bounded set, and the plan; None where nothing is measured while training.
    """
    step_rows = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    epoch_steps = max(1, rows // step_rows)
    if arguments.eval_strategy.value == "no":
        return shrink_corpus(dev, LARGEST if size == AUTO else size, seed=seed), None
    dev = dev if size == AUTO else shrink_corpus(dev, size, seed=seed)
    steps = steps_of(arguments, epoch_steps)
    work = _FORWARD_PASSES * steps * step_rows * row_tokens
    query, passage = _mean_tokens(encoder, dev.queries, "query"), _mean_tokens(encoder, dev.passages, "passage")
    judged = len({passage_id for judgements in dev.qrels.values() for passage_id in judgements}) / len(dev.queries)
    every, embedded, fewest = _steps_between(arguments, steps, epoch_steps), (0, 0), FEWEST_QUERIES
    if choose_times:
        embedded = 1, 0 if base_is_known else 1
        queries, passages = len(dev.queries), len(dev.passages)
        if size == AUTO:
            queries = min(queries, ENOUGH_QUERIES)
            passages = min(passages, LARGEST, math.ceil(_PASSAGES_A_QUERY * judged * queries))
        tokens = queries * query, passages * passage
        affordable = int((SHARE * work - np.dot(embedded, tokens)) // sum(tokens))
        fewest = queries if affordable >= 1 else FEWEST_QUERIES
        every = -(-steps // min(MOST_EVALUATIONS, max(1, affordable)))
    times = -(-steps // every)  # the last step is measured, too
    if size == AUTO:
        cost = (times + embedded[0]) * query, (times + embedded[1]) * passage
        dev = subsample(dev, *chosen_size(SHARE * work, *cost, len(dev.queries), judged, fewest), seed=seed)
    tokens = query * len(dev.queries), passage * len(dev.passages)
    base_tokens = tokens[0] if base_is_known else sum(tokens)
    share = (times * sum(tokens) + base_tokens) / work
    reason = _reason(size, choose_times) if share > 1.2 * SHARE else ""
    return dev, EvaluationPlan(times, every, len(dev.queries), len(dev.passages), sum(tokens), base_tokens, share, reason)


def _reason(size: int | str, choose_times: bool) -> str:
    """Say why evaluation costs more than `SHARE`, and what to set."""
    if size != AUTO:
        return f"above {SHARE:.0%}; data.eval_corpus_size=auto ranks fewer"
    floor = f"above {SHARE:.0%}, because fewer than {FEWEST_QUERIES} queries do not tell checkpoints apart"
    if not choose_times:
        return f"{floor}; training.eval_strategy=steps training.eval_steps=auto measures less often"
    return f"{floor}; training.eval_strategy=no training.load_best_model_at_end=false measures nothing"


def steps_of(arguments: "TrainingArguments", epoch_steps: int) -> int:
    """Return the steps of a training of so many an epoch, as Trainer counts them."""
    return arguments.max_steps if arguments.max_steps > 0 else math.ceil(arguments.num_train_epochs * epoch_steps)


def tokens_of(sets: Iterable[RetrievalSet], encoder: "Encoder") -> float:
    """Estimate the tokens of all queries and passages of some sets."""
    texts = [(column, role) for each in sets for column, role in ((each.queries, "query"), (each.passages, "passage"))]
    return sum(len(column) * _mean_tokens(encoder, column, role) for column, role in texts)


def chosen_size(
    tokens: float, query: float, passage: float, queries: int, judged: float, fewest: int = FEWEST_QUERIES
) -> tuple[int, int]:
    """Choose how many queries and passages cost about `tokens` tokens.

    Args:
        tokens: of all evaluations.
        query, passage: tokens of one in all evaluations, on average.
        queries: number of queries there are.
        judged: passages that are judged for a query, on average.
        fewest: queries to choose at least.

    Returns:
        Queries (from `fewest`, or all) and passages (from twice the judged ones, up to `LARGEST`).
    """
    affordable = int(tokens / (query + _PASSAGES_A_QUERY * judged * passage))
    chosen = min(queries, max(fewest, affordable))
    passages = int((tokens - chosen * query) / passage)
    return chosen, min(LARGEST, max(passages, int(2 * judged * chosen), 1))


def _steps_between(arguments: "TrainingArguments", steps: int, epoch_steps: int) -> int:
    """Steps from one evaluation to the next, under a strategy."""
    if arguments.eval_strategy.value == "epoch":
        return epoch_steps
    every = arguments.eval_steps or arguments.logging_steps
    return max(1, math.ceil(steps * every) if every < 1 else int(every))


def _mean_tokens(encoder: "Encoder", texts: Sequence[str], role: str) -> float:
    sampled = [texts[i] for i in range(0, len(texts), -(-len(texts) // _SAMPLE))]
    return sum(map(len, encoder.tokenize(sampled, role))) / len(sampled)
