"""The table of many models and sets: the same figures in each of its forms, and names that anybody may have chosen."""

import csv
import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5ft.formatting import markdown_table
from e5ft.retrieval.comparison import paired_differences
from e5ft.retrieval.evaluation import evaluate_run
from e5ft.retrieval.score_table import Row, ScoreTable
from tests.retrieval.conftest import make_run, make_set

QRELS = {"q1": {"d1": 1}, "q2": {"d2": 1}, "q3": {"d3": 1}}
METRICS = ["hit@1", "ndcg@10"]


def evaluation(label, set_name="small", right=3):
    retrieval_set = make_set(QRELS, name=set_name)
    scores = {query: {f"d{i + 1 if i < right else 4}": 1.0} for i, query in enumerate(QRELS)}
    return evaluate_run(retrieval_set, make_run(retrieval_set, scores), [1, 10], label, samples=20)


def table(*labels, sets=("small",)):
    rows = []
    for name in sets:
        first, *others = [evaluation(label, name, right) for label, right in zip(labels, (1, 3, 2), strict=False)]
        rows += [Row(first), *(Row(each, paired_differences(each, first, METRICS)["ndcg@10"]) for each in others)]
    return ScoreTable(rows, METRICS, "ndcg@10")


def test_every_form_has_a_row_a_system_and_the_difference_to_the_first(tmp_path):
    made = table("기본", "a_b & 50 %", "=1+1", sets=("law", "wiki"))
    made.write(tmp_path)
    head, *cells = made.cells()
    assert head == ["set", "model", *METRICS, "ndcg@10 to the first", "p"] and [line[4:] for line in cells[::3]] == [["", ""]] * 2
    assert cells[1][4].startswith("+0.667 [") and cells[2][4].startswith("+0.333 [")
    assert (tmp_path / "table.md").read_text() == markdown_table(made.cells(), 2) + "\n"
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text(), newline="")))
    assert [(row["set"], row["model"], row["queries"]) for row in rows[:3]] == [
        ("law", "기본", "3"), ("law", "a_b & 50 %", "3"), ("law", "'=1+1", "3"),
    ]  # fmt: skip
    for row, each in zip(rows, made.rows, strict=True):
        assert [float(row[f"ndcg@10{end}"]) for end in ("", " low", " high")] == [
            each.evaluation.metrics["ndcg@10"], *each.evaluation.intervals["ndcg@10"],
        ]  # fmt: skip
        change = [row[f"ndcg@10 to the first{end}"] for end in ("", " low", " high", " p")]
        found = each.difference
        assert change == ([""] * 4 if found is None else [repr(x) for x in (found.mean, found.low, found.high, found.p_value)])
    latex = (tmp_path / "table.tex").read_text().splitlines()
    assert latex[1] == r"\begin{tabular}{llrrrr}" and latex[3].startswith("set & model & hit@1 & ndcg@10 & ")
    assert latex[6].startswith(r"law & a\_b \& 50 \% & 1.000 [1.000, 1.000] & ") and latex[-1] == r"\end{tabular}"


def test_columns_that_tell_nothing_are_left_out():
    assert table("alone").cells()[0] == ["model", *METRICS]
    assert table("a", "b").cells()[0] == ["model", *METRICS, "ndcg@10 to the first", "p"]


@given(st.text(max_size=20) | st.sampled_from([r"\input{/etc/passwd}", "[x] $y^2$", "a\\\\[1em]", '%\n# _{}~|<>`"']))
def test_no_name_is_markup_in_latex(label):
    r"""Without the escapes that the writer makes, no character with a meaning is left, and the columns are as many."""
    (line,) = [line for line in table(label).latex().splitlines() if line.endswith(r"\\") and "hit@1" not in line]
    cells = re.split(r"(?<!\\) & ", line.removesuffix(r" \\"))
    assert len(cells) == 3
    plain = re.sub(r"\\text[a-z]+\{\}|\\[&%$#_{}]|^\{\}", "", cells[0])
    assert not set(plain) & set("&%$#_{}\\~^") and not cells[0].startswith("[") and plain.isprintable()


def test_a_difference_the_other_way_round():
    first, second = evaluation("a", right=1), evaluation("b")
    there, back = (paired_differences(*pair, METRICS)["ndcg@10"] for pair in ((first, second), (second, first)))
    assert (-there).mean == pytest.approx(back.mean) and (-there).p_value == back.p_value
    np.testing.assert_allclose([(-there).low, (-there).high], [back.low, back.high])
    assert str((-paired_differences(first, first, METRICS)["hit@1"]).mean) == "0.0"
