"""Tables stay aligned, whatever the width of the names."""

import unicodedata
from types import SimpleNamespace

import pytest

from e5ft.errors import DataError
from e5ft.retrieval.table import aligned, display_width, format_table, short_number


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


def row(label, set_name="s", **metrics):
    return SimpleNamespace(
        label=label, set_name=set_name, metrics=metrics, intervals={k: (v - 0.03, v + 0.03) for k, v in metrics.items()}
    )


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


def test_no_row():
    with pytest.raises(DataError):
        format_table([])


def test_numbers_are_aligned_right():
    assert aligned([["m", "x"], ["ab", "10.5"], ["c", "1"]]).splitlines()[-1] == "c      1"
