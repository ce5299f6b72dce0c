"""Labelled pairs: 1 is an answer, 0 a hard negative of the query's answers, and nothing else is a label."""

import json

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest

from e5ft.data.lines import BadLine
from e5ft.data.rows import Row, read_rows
from e5ft.data.settings import Columns, Reading
from e5ft.errors import DataError


@pytest.fixture
def read(write_bytes):
    def read(rows: list[dict], columns: Columns = Columns(), **reading) -> tuple[list, dict]:  # noqa: B008 (frozen)
        path, notes = write_bytes("\n".join(map(json.dumps, rows)).encode()), []
        return [value for _, value in read_rows(path, columns, Reading(**reading), notes)], dict(notes)

    return read


def pairs(*values, names=("query", "document", "label")) -> list[dict]:
    return [dict(zip(names, value, strict=True)) for value in values]


@pytest.mark.parametrize(
    "names", [("sentence1", "sentence2", "label"), ("anchor", "positive", "label"), ("질문", "답변", "라벨")]
)
@pytest.mark.parametrize("yes, no", [(1, 0), (True, False), ("1", "0"), ("True", "False"), (1.0, 0.0)])
def test_what_is_labelled_0_is_a_hard_negative_of_every_answer_of_its_query(names, yes, no, read):
    """Wherever it stands, once, and never where another row calls it an answer."""
    raw = pairs(
        *(("q", "n", no), ("q", "a", yes), ("r", "b", yes), ("q", "m", no), ("q", "n", no), ("q", "c", yes), ("q", "c", no)),
        *(("s", "x", no), ("t", "y", no)),
        names=names,
    )
    rows, notes = read(raw)
    assert rows == [Row("q", ("a",), ("n", "m")), Row("r", ("b",)), Row("q", ("c",), ("n", "m"))]
    assert notes["left out"] == "2 queries without any answer (label 1)"
    assert notes["negatives"] == "1 row with a pair labelled both 1 and 0; the 0 is left out" and rows[2].left_out == ("c",)


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_missing_label_is_one_bad_row(missing, write_bytes, tmp_path):
    frame = pd.DataFrame(pairs(("q", "a", 1.0), ("q", "b", 0.0), ("r", "c", missing), ("s", "d", 1.0)))
    frame.to_parquet(tmp_path / "rows.parquet")  # null of None
    table = pyarrow.table({name: pyarrow.array(frame[name], from_pandas=False) for name in frame})
    pyarrow.parquet.write_table(table, tmp_path / "nan.parquet")
    for name in ("rows", "nan"):
        bad, *_ = [value for _, value in read_rows(str(tmp_path / f"{name}.parquet")) if isinstance(value, BadLine)]
        assert str(bad).endswith(f"{name}.parquet:3: label is missing (null)")
    path = write_bytes("\n".join(map(json.dumps, [{"query": "q", "answer": ["a", "n"], "label": [1, 0]}] * 2)).encode())
    with open(path, "a") as file:
        file.write('\n{"query": "q", "answer": ["a", "n"], "label": [1, null]}')
    assert [isinstance(value, BadLine) for _, value in read_rows(path)] == [False, False, True]


def test_lists_of_documents_with_lists_of_labels(read):
    rows, _ = read([{"query": "q", "answer": ["a", "n", "b"], "labels": [1, 0, 1]}])
    assert rows == [Row("q", ("a", "b"), ("n",))]


@pytest.mark.parametrize("value", [0.73, 4, -1, "yes", "2"])
def test_scores_and_classes_are_refused(value, read):
    with pytest.raises(DataError, match=r"rows.jsonl:3: score holds .*: ?only 0/1|rows.jsonl:3: score holds .*; only 0/1"):
        read(pairs(("q", "a", 1), ("q", "b", 0), ("q", "c", value), names=("query", "document", "score")))


@pytest.mark.parametrize("value, words", [(1, "if all are answers: 'data.columns.ignore=[label]'"), (0, "no document answers")])
def test_one_label_alone_says_nothing(value, words, read):
    with pytest.raises(DataError) as caught:
        read(pairs(("q", "a", value), ("r", "b", value)))
    assert f"label is {value} in every row; {words}" in str(caught.value)


def test_a_label_with_both_values_cannot_be_ignored_unless_the_format_is_named(read):
    raw, ignored = pairs(("q", "a", 1), ("q", "b", 0)), Columns(ignore=("label",))
    with pytest.raises(
        DataError, match=r"'data.columns.ignore=\[label\]': label holds 0 and 1, .*data=labelled.*data.format=standard"
    ):
        read(raw, ignored)
    with pytest.raises(DataError, match="label holds 0 and 1"):
        read(raw, Columns("query", "document", ignore=("label",)))
    assert len(read(raw, ignored, format="standard")[0]) == 2
    assert len(read(pairs(("q", "a", 1), ("q", "b", 1)), ignored)[0]) == 2


def test_a_missing_label_is_a_fault_of_its_row(read):
    rows, _ = read(pairs(("q", "a", 1), ("q", "b", None), ("q", "c", 0)))
    assert rows[0] == Row("q", ("a",), ("c",)) and str(rows[1]).endswith(":2: label is missing (null)")
