"""Tables stay aligned, whatever the width of the names."""

import unicodedata
from types import SimpleNamespace

import pytest

from e5ft.errors import DataError
from e5ft.retrieval.tables import (
    aligned,
    cutoffs_of,
    difference_text,
    display_width,
    few_queries,
    format_table,
    headline,
    in_words,
    main_metric,
    short_number,
)


@pytest.mark.parametrize(
    ("text", "width"), [("", 0), ("abc", 3), ("한국어", 6), ("mE5-한국", 8), ("e\u0301", 1), ("Ａ", 2), ("हिन्दी में", 7)]
)
def test_display_width(text, width):
    assert display_width(text) == width


def test_a_hangul_syllable_written_in_jamo_is_as_wide():
    assert display_width(unicodedata.normalize("NFD", "한국어")) == 6


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.8124, ".812"), (1.0, "1.000"), (0.9996, "1.000"), (0.0, ".000"), (-0.0341, "-.034"), (-0.0001, ".000"), (12.5, "12.500")],
)
def test_short_number(value, text):
    assert short_number(value) == text


def row(label, set_name="s", size=None, **metrics):
    intervals = {k: (v - 0.03, v + 0.03) for k, v in metrics.items()}
    return SimpleNamespace(label=label, set_name=set_name, metrics=metrics, intervals=intervals, bytes_per_passage=size)


def test_columns_are_aligned_with_korean_names():
    table = format_table([row("기본 모델", ndcg=0.8), row("bm25", ndcg=0.75, extra=0.1), row("조정한 모델 한국어", ndcg=0.97)])
    header, rule, *lines = table.splitlines()
    ends = {display_width(line) for line in (header, rule, *lines)}
    assert len(ends) == 1, table
    assert lines[0].endswith(".800 [.770, .830]") and lines[2].endswith(".970 [.940, 1.000]")
    assert lines[0].startswith("기본 모델  ")


def test_a_missing_metric_is_a_dash_and_several_sets_are_a_column():
    table = format_table([row("a", "wiki", x=0.5), row("a", "prec", y=0.5)], ["x"])
    lines = table.splitlines()
    assert lines[0].split() == ["set", "model", "x"]
    assert lines[2].split()[:3] == ["wiki", "a", ".500"] and lines[3].split() == ["prec", "a", "-"]


def test_bytes_are_a_column_where_vectors_differ_in_size():
    rows = [row("m", size=1536, x=0.5), row("m, binary (centred)", size=48, x=0.5), row("bm25", x=0.5)]
    lines = format_table(rows).splitlines()
    assert lines[0].split() == ["model", "bytes", "x"] and "bytes" not in format_table([rows[0], rows[0], rows[2]])
    assert [line.split(".500")[0].split()[-1] for line in lines[2:]] == ["1,536", "48", "-"]


def hits(first, ten, queries):
    """Metrics as evaluation gives them: a mean is the exact sum over the queries, divided once."""
    return {"hit@1": first / queries, "ndcg@10": 0.5, "hit@10": ten / queries}


def test_a_table_in_words_counts_questions():
    systems = {"after": hits(40, 83, 100), "before": hits(32, 68, 100), "BM25": hits(22, 60, 100)}
    assert in_words(100, systems) == (
        "In words: a right answer is first for 40 of 100 questions (before 32, BM25 22),\n"
        "and among the first 10 for 83 (before 68, BM25 60)."
    )
    assert in_words(1200, {"after": hits(1100, 1150, 1200)}) == (
        "In words: a right answer is first for 1,100 of 1,200 questions,\nand among the first 10 for 1,150."
    )


def test_a_table_in_words_takes_the_ranks_that_were_measured():
    assert in_words(8, {"model": {"hit@3": 0.5, "hit@5": 0.75}, "BM25": {"hit@3": 0.25, "hit@5": 0.5}}) == (
        "In words: a right answer is among the first 5 for 6 of 8 questions (BM25 4)."
    )


@pytest.mark.parametrize("queries", [1, 3, 7, 49, 434, 1187, 9999, 123_457])
def test_the_counts_are_those_of_the_questions(queries):
    for count in {0, 1, queries // 3, queries // 2, queries - 1, queries}:
        text = in_words(queries, {"model": {"hit@1": count / queries}})
        assert text == f"In words: a right answer is first for {count:,} of {queries:,} questions."


def test_no_row():
    with pytest.raises(DataError):
        format_table([])


def test_numbers_are_aligned_right():
    assert aligned([["m", "x"], ["ab", "10.5"], ["c", "1"]]).splitlines()[-1] == "c      1"


def test_which_metrics_a_short_table_shows():
    cases = {(1, 10, 100): "ndcg@10", (10,): "ndcg@10", (5,): "ndcg@5", (1,): "ndcg@1"}
    assert {cutoffs: main_metric(cutoffs) for cutoffs in cases} == cases
    assert headline([1, 10]) == ["hit@1", "recall@10", "ndcg@10", "mrr@10"]
    assert cutoffs_of(["hit@100", "hit@5", "map@5"]) == [5, 100]


def test_a_difference_and_its_interval():
    assert difference_text(0.1456, 0.111, -0.18) == "+0.146 [+0.111, -0.180]"


def test_what_few_queries_cannot_show_is_told_rounded_up():
    difference = {"low": 0.02, "high": 0.21}
    assert few_queries("law-dev", 28, "ndcg@10", difference) == [
        "law-dev, 28 queries: differences below .10 (ndcg@10) cannot be seen"
    ]
    assert few_queries("law-dev", 299, "hit@1", {"low": -0.07, "high": 0.07})[0].endswith("below .07 (hit@1) cannot be seen")
    assert few_queries("law-dev", 300, "ndcg@10", difference) == []
