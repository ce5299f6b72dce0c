"""What of an evaluation folder must not become a negative, and the folder as rows."""

import json

import pytest

from e5ft.data.rows import Row
from e5ft.data.text import text_id
from e5ft.retrieval.held_out import document_ids, held_out_passages, rows_of_set

PASSAGES = {f"d{i}": f"passage number {i}" for i in range(6)}
IDS = {name: text_id(text) for name, text in PASSAGES.items()}


@pytest.fixture
def folder(tmp_path):
    """d0 and d1 are judged in test, d2 in train; the query d3 is the passage d3, and its only answer is d1."""
    queries = {"q0": "asks for zero", "d3": PASSAGES["d3"]}
    for name, texts in (("corpus", PASSAGES), ("queries", queries)):
        lines = (json.dumps({"_id": identity, "text": text}) for identity, text in texts.items())
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "qrels").mkdir()
    for split, judged in (("test", "q0\td0\t1\nd3\td1\t1\n"), ("train", "q0\td2\t1\n")):
        (tmp_path / f"qrels/{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    return tmp_path


def test_rows_of_a_folder(folder):
    rows, corpus, themselves = rows_of_set(folder, "test")
    assert rows == [Row(PASSAGES["d3"], (PASSAGES["d1"],)), Row("asks for zero", (PASSAGES["d0"],))]
    assert themselves == [Row(PASSAGES["d3"], (PASSAGES["d3"],))]
    assert list(corpus) == list(PASSAGES.values())
    assert document_ids(rows) == {IDS["d0"], IDS["d1"]}


def test_all_or_those_judged_in_any_split_but_the_mined_one(folder):
    held = folder, "test"
    assert held_out_passages(held, "corpus", [], None) == ("corpus", set(IDS.values()))
    assert held_out_passages(held, "judged", [], None) == ("judged", {IDS["d0"], IDS["d1"], IDS["d2"]})
    mined = folder / "." / "", "train"
    assert held_out_passages(held, "judged", [], None, mined) == ("judged", {IDS["d0"], IDS["d1"]})
    elsewhere = folder / "qrels", "train"
    assert held_out_passages(held, "judged", [], None, elsewhere)[1] == {IDS["d0"], IDS["d1"], IDS["d2"]}


@pytest.mark.parametrize(("shared", "which"), [(2, "corpus"), (3, "judged")])
def test_judged_by_itself_where_most_candidates_are_in_the_folder(folder, shared, which):
    texts = [*list(PASSAGES.values())[:shared], "another", "a further one"]
    assert held_out_passages((folder, "test"), "auto", [Row("q", tuple(texts))], None)[0] == which
    assert held_out_passages((folder, "test"), "auto", [Row("q", ("none",))], texts)[0] == which
