"""The size of a step and the number of epochs where the user leaves them to the number of rows (`auto`).

They follow from the rows and from nothing else, so that another machine, cut or number of processes is the same training.

A step: the power of two next to the square root of the rows, from 16 to 256 queries. More queries a step are more negatives
for each and a steadier gradient, but fewer updates; by the square root both grow alike, and 128 rows or more make at least 30
steps in all. Published: 128 of 59,000 rows (DPR, Karpukhin et al. 2020, and Tevatron's example for the same data); 32 by default
in opensearch-py-ml's and 10 in LlamaIndex's training of sentence-transformers, which are made for small data.

Epochs: as many as show 1,000 rows, at most 4. Of 1,024 rows a second epoch gained nothing on mE5-small (docs/recipes.md; neither
did steps of more than 32 there). Shown often, a few hundred rows are learnt by heart, and what the model knew before is lost.
Published in the same form: the default of OpenAI's fine-tuning, by its cookbook, is 3 epochs, more where these show below 100
examples and fewer where they show above 25,000; LlamaIndex has 2.
"""

import math
from collections.abc import Mapping

AUTO = "auto"
# Of TrainingArguments. The first is a number, the most where the second is `auto`.
FIELDS = MICRO_BATCH, ACCUMULATION, EPOCHS = "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs"
FEWEST_QUERIES, MOST_QUERIES = 16, 256  # of a step
ROWS_SHOWN = 1_000  # in all epochs together, at least, where MOST_EPOCHS allow
MOST_EPOCHS = 4


def numbers(asked: Mapping, rows: int, processes: int, smallest_source: int | None = None) -> dict[str, float]:
    """Give `FIELDS` with numbers in the place of `auto`.

    Args:
        asked: at least `FIELDS`.
        rows, smallest_source: as for `queries_per_step`.
        processes: that train together.
    """
    cut, epochs = (asked[MICRO_BATCH], asked[ACCUMULATION]), asked[EPOCHS]
    if cut[1] == AUTO:
        cut = cut_step(queries_per_step(rows, smallest_source), cut[0], processes)
    return dict(zip(FIELDS, (*cut, number_of_epochs(rows) if epochs == AUTO else epochs), strict=True))


def reasons(asked: Mapping, rows: int, smallest_source: int | None = None) -> tuple[str, str]:
    """Say of a step and of the epochs, in the words that follow their numbers, whether they are `auto`; empty where not.

    Args:
        asked: at least `FIELDS` and `max_steps`.
        rows, smallest_source: as for `queries_per_step`.
    """
    why = f"auto for {rows:,} rows" + ("" if smallest_source is None else f", {smallest_source:,} in the smallest source")
    step = f", {why}" if asked[ACCUMULATION] == AUTO else ""
    epochs = asked[EPOCHS] == AUTO and asked["max_steps"] < 0
    return step, f" ({'auto' if step else why})" if epochs else ""


def queries_per_step(rows: int, smallest_source: int | None = None) -> int:
    """Choose how many queries a step has, over all processes.

    Args:
        rows: of training, at least 1.
        smallest_source: rows of the smallest source of a mix whose steps are of one source each; None: steps are of all rows.

    Returns:
        A power of two, at most the rows that a step can be made of.
    """
    fitting = rows if smallest_source is None else smallest_source
    return _power_of_two(min(max(math.isqrt(2 * rows), FEWEST_QUERIES), MOST_QUERIES, max(fitting, 1)))


def number_of_epochs(rows: int) -> int:
    """Choose how often the rows are shown, from 1 to `MOST_EPOCHS`."""
    return max(1, min(MOST_EPOCHS, math.ceil(ROWS_SHOWN / rows)))


def cut_step(queries: int, micro_batch: int, processes: int) -> tuple[int, int]:
    """Divide a step among processes and into forward passes.

    Args:
        queries: of a step, a power of two.
        micro_batch: the most queries of one forward pass.
        processes: a number of them that is no power of two shares fewer queries, the most that divide evenly.

    Returns:
        (micro-batch, accumulation) of each process; with a power of two of processes exactly `queries` in all, or one each.
    """
    own = max(1, queries // processes)
    passes = -(-own // _power_of_two(micro_batch))
    return own // passes, passes


def _power_of_two(number: int) -> int:
    """The largest one that is at most the number."""
    return 1 << (number.bit_length() - 1)
