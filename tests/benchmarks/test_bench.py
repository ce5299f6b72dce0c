"""The benchmark's own arithmetic and its ground: no time is asserted anywhere."""

import numpy as np
import pytest
import torch

from benchmarks.bench.cases import CASES, DEFAULT
from benchmarks.bench.flops import matmul_rate, training_flops
from benchmarks.bench.lines import Line, Void, check_same, markdown
from benchmarks.bench.processes import in_turns, measure
from benchmarks.bench.texts import LENGTHS, LEVELS, TOKENIZER, Writer, draw_length
from benchmarks.bench.training import OURS


def test_a_speedup_and_a_cost_are_turned_the_right_way():
    fast = Line("s", "step", "s", (1.0, 2.0, 3.0), "other", (8.0, 6.0, 9.0), goal=2.9)
    assert fast.ratio == 3.0 and fast.ratio_spread == (3.0, 8.0) and fast.met
    dear = Line("s", "step", "s", (1.0, 2.0, 3.0), "other", (8.0, 6.0, 9.0), kind="cost", goal=0.3)
    assert dear.ratio == 1 / 3 and not dear.met
    alone = Line("s", "rate", "rows/s", (7.0,), kind="at_least", goal=8)
    assert alone.ratio is None and alone.met is False and Line("s", "rate", "s", (7.0,), kind="at_most", goal=8).met
    assert Line("s", "rate", "s", (7.0,), kind="at_most").met is None
    unpaired = Line("s", "step", "s", (1.0, 2.0, 3.0), "other", (8.0, 6.0))
    assert unpaired.ratio == 3.5 and unpaired.ratio_spread is None


def test_a_line_with_too_many_or_too_few_values_is_refused():
    for arguments in (
        {"ours": ()},
        {"ours": (1.0,)},
        {"ours": (1.0,), "theirs": (1.0,), "kind": "at_most"},
        {"ours": (1.0,), "kind": "x"},
    ):
        with pytest.raises(ValueError, match="kind="):
            Line("s", "case", "s", **arguments)


def test_the_table_shows_medians_spread_goal_and_failures():
    lines = [
        Line("Steps", "small", "s", (5.0, 5.2, 6.0), "MNRL", (13.0, 13.1, 12.9), goal=3.3, ours_cpu=(10.0,), theirs_cpu=(25.0,)),
        Line("Data", "rows", "rows/s", (61234.0,), kind="at_least", goal=50_000),
    ]
    text = markdown(lines, {"machine": "two cores"}, ["search: gone"])
    assert "- machine: two cores" in text and "- FAILED: search: gone" in text
    assert (
        "| small | 5.2 s (5..6) | MNRL | 13 s (12.9..13.1) | 10.00 / 25.00 | 2.52x (2.15..2.60) | ≥ 3.3x | **not met** |" in text
    )
    assert "| rows | 61,234 rows/s |  |  |  |  | ≥ 50000 | met |" in text
    assert "goal 3.3 not met" in lines[0].summary() and "against MNRL 13: 2.52x" in lines[0].summary()


@pytest.mark.parametrize("theirs", [1.002, float("nan")])
def test_what_disagrees_is_void(theirs):
    check_same("loss", 1.0, 1.0009, 1e-3)
    with pytest.raises(Void, match="loss: 1 against"):
        check_same("loss", 1.0, theirs, 1e-3)


def test_operations_are_those_of_one_layer_counted_by_hand():
    """H = 4, two texts of 2 and 3 tokens: products of each text by hand, forward once and backward twice."""
    weights, hidden = 12 * 4 * 4, 4
    forward = sum(2 * weights * n + 2 * (2 * n * n * hidden) for n in (2, 3))
    assert training_flops(weights, 1, hidden, [2, 3]) == 3 * forward
    assert matmul_rate(512, 128, torch.float32, repetitions=1) > 0


def test_texts_are_distinct_and_as_long_as_asked():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    rows = list(Writer(tokenizer).rows(60, "ko-wiki"))
    texts = [text for row in rows for text in row.values()]
    assert len(set(texts)) == len(texts) == 180
    found = [len(ids) for ids in tokenizer([f"passage: {row['document']}" for row in rows])["input_ids"]]
    median = LENGTHS["ko-wiki"].passage[LEVELS.index(0.5)]
    assert abs(np.median(found) - median) < 0.2 * median and min(found) < 100 < 200 < max(found)
    again = list(Writer(tokenizer).rows(60, "ko-wiki"))
    assert again == rows


def test_lengths_lie_on_the_quantiles():
    quantiles = LENGTHS["ko-prec"].query
    assert [draw_length(quantiles, level) for level in LEVELS] == list(quantiles)
    assert draw_length(quantiles, 0.36) == 33  # between 30 at .3 and 35 at .4


def test_a_failing_measurement_says_what_it_printed(tmp_path):
    with pytest.raises(RuntimeError, match=r"rows:start .*exit status 1[\s\S]*rows.jsonl"):
        measure("rows:start", target=str(tmp_path / "nothing"))


def test_two_trainers_take_turns_over_the_same_steps(tmp_path):
    """Exact and plain accumulation with one micro-batch are the same training: the losses agree, step by step."""
    made = measure("training:prepare", target=str(tmp_path), shape="mini", data="short", steps=4, rows=4)
    assert len(made["flops"]) == 4 and made["hidden"] > 0
    options = {"target": str(tmp_path), "name": OURS, "steps": 4, "rows": 4, "dropout": 0.0, "attention_dropout": 0.0}
    found = in_turns({name: ("training:contender", {**options, "negatives": name}) for name in ("step", "micro_batch")})
    exact, plain = found["step"], found["micro_batch"]
    assert len(exact["losses"]) == 4 and len(exact["wall"]) == 2 and exact["peak_mb"] > 100
    np.testing.assert_allclose(exact["losses"], plain["losses"], atol=1e-5)


def test_every_case_but_the_two_longest_is_run():
    assert set(CASES) - set(DEFAULT) == {"base", "large_step"}
