"""How much is measured while training: by default as much as costs a twentieth of training's work."""

import dataclasses
from collections.abc import Sequence

from omegaconf import DictConfig
from transformers import TrainingArguments

from e5ft.modeling.encoder import Encoder
from e5ft.retrieval.sets import RetrievalSet, shrink_corpus, subsample

AUTO = "auto"
LARGEST = 10_000  # passages that are ranked while training, or while alphas are chosen
SHARE = 0.05
FEWEST_QUERIES = 100  # of fewer, neighbouring checkpoints cannot be told apart
_PASSAGES_A_QUERY = 4  # of as many as its judged ones: where queries must be left out, the others keep so many
_FORWARD_PASSES = 3  # that a training step is worth; exact accumulation is worth up to one more
_SAMPLE = 256  # texts by which the tokens of all are estimated


@dataclasses.dataclass(frozen=True)
class EvaluationPlan:
    """What the evaluations of a training will cost.

    Attributes:
        times: evaluations after the first step.
        queries, passages: of each.
        share: their tokens, over training's tokens times the forward passes that a step is worth: about their share of its time.
    """

    times: int
    queries: int
    passages: int
    share: float


def planned_dev(
    dev: RetrievalSet, config: DictConfig, arguments: TrainingArguments, encoder: Encoder, rows: int, row_tokens: float
) -> tuple[RetrievalSet, EvaluationPlan | None]:
    """The set that is ranked while training, bounded by `data.eval_corpus_size`, and what that costs.

    A number keeps all queries and so many passages. auto keeps so many of both that all evaluations together cost `SHARE` of
    training's work, at least `FEWEST_QUERIES` and twice their judged passages, at most `LARGEST` passages. Nothing here depends
    on how a step is cut into micro-batches and processes, so a run that goes on with another cut finds the same set.

    Args:
        dev: the whole dev set.
        config: of train.py.
        arguments: training's.
        encoder: for its tokenizer.
        rows: training rows.
        row_tokens: tokens that a row shows in an epoch, on average.

    Returns:
        The set, and the plan; None where nothing is measured while training.
    """
    size, seed = config.data.eval_corpus_size, config.seed
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
    cost = times * (query * len(dev.queries) + passage * len(dev.passages))
    return dev, EvaluationPlan(times, len(dev.queries), len(dev.passages), cost / work)


def chosen_size(tokens: float, query: float, passage: float, queries: int, judged: float) -> tuple[int, int]:
    """Queries and passages that are worth about so many tokens.

    Args:
        tokens: of one evaluation.
        query, passage: tokens of one, on average.
        queries: there are.
        judged: passages that are judged for a query, on average.

    Returns:
        Queries (from `FEWEST_QUERIES`, or all) and passages (from twice the judged ones, up to `LARGEST`).
    """
    kept = int(tokens / (query + _PASSAGES_A_QUERY * judged * passage))
    kept = min(queries, max(FEWEST_QUERIES, kept))
    room = int((tokens - kept * query) / passage)
    return kept, min(LARGEST, max(room, int(2 * judged * kept), 1))


def _evaluations(arguments: TrainingArguments, steps: int, epoch_steps: int) -> int:
    """How many evaluations follow in so many steps; none where there is no strategy."""
    strategy = arguments.eval_strategy.value
    if strategy == "no":
        return 0
    if strategy == "epoch":
        return -(-steps // epoch_steps)
    every = arguments.eval_steps or arguments.logging_steps
    every = max(1, -(-steps * every // 1)) if every < 1 else every
    return int(-(-steps // every))  # the last step is measured, too


def _mean_tokens(encoder: Encoder, texts: Sequence[str], role: str) -> float:
    some = [texts[i] for i in range(0, len(texts), -(-len(texts) // _SAMPLE))]
    return sum(map(len, encoder.tokenize(some, role))) / len(some)
