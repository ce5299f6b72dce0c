"""Parts share no document, no query and no near-duplicate of one; they are as large as asked, and the same again for one seed."""

import numpy as np
import pytest

from e5ft.data.settings import Columns
from e5ft.data.store import load_rows
from e5ft.data.text import text_id
from e5ft.errors import DataError
from e5ft.retrieval.copies import NearCopies
from e5ft.retrieval.sets import load_beir
from e5ft.synthesis.splitting import DEV, TEST, TRAIN, divide, groups_of_rows, set_apart, units, write_parts
from tests.synthesis.conftest import NOUNS, PLACES


@pytest.fixture
def store(write_rows, tmp_path):
    """200 rows: documents shared by two, queries asked twice, and near-duplicates of queries."""
    rows = []
    for noun in NOUNS[:10]:
        for place in PLACES:
            row = {
                "query": f"{place} 지점에서 {noun} 서류는 어디에 내나요?",
                "document": f"{place}의 {noun} 창구는 {len(rows)}번이다",
            }
            row["hard_negative"] = [f"{place}에는 {noun} 창구가 없다"]
            rows.append(row)
    for n in range(0, 40, 4):
        rows[n + 1]["document"] = rows[n]["document"]
        rows[n + 3]["query"] = rows[n + 2]["query"].replace("내나요", "내야 하나요")
    return load_rows(write_rows(rows), Columns(), tmp_path / "cache")


def test_what_belongs_together_stays_together(store):
    parts = divide(store, 0.1, 0.2, seed=3)
    assert (len(parts.train.rows), len(parts.dev.rows), len(parts.test.rows)) == (140, 20, 40)
    assert parts.groups <= 180 and parts.near["near_duplicate_queries"] >= 10
    three = [parts.train, parts.dev, parts.test]
    for n, part in enumerate(three):
        for other in three[n + 1 :]:
            assert not set(part.positive_ids()[0]) & set(other.positive_ids()[0])
            assert not set(part.query_ids()) & set(other.query_ids())
            for texts in (lambda each: [row.query for row in each], lambda each: [t for row in each for t in row.positives]):
                assert len(NearCopies(texts(part)).pairs(texts(other))) == 0
    again, others = divide(store, 0.1, 0.2, seed=3), divide(store, 0.1, 0.2, seed=4)
    assert set(again.test.query_ids()) == set(parts.test.query_ids()) != set(others.test.query_ids())


def test_rows_whose_documents_are_near_copies_stay_together_and_a_template_ties_none(write_rows, tmp_path):
    rows = []
    for n, noun in enumerate(NOUNS[:10]):
        for m, place in enumerate(PLACES):
            text = f"{place}에서는 {noun} 창구 {n * 31 + m * 7}번이 서류를 받으며 평일 아홉 시에 연다"
            rows += [
                {"query": f"{noun}{m}{each}{place}?", "document": [f"{place} {noun} 안내", text + end]}
                for each, end in ((n, ""), (n + 50, "."))
            ]
            rows[-1]["document"].pop(0)
    store = load_rows(write_rows(rows), Columns(), tmp_path / "cache")
    groups, near = groups_of_rows(store)
    assert near["near_duplicate_documents"] >= 200 and (groups[::2] == groups[1::2]).all()
    assert np.bincount(groups).max() <= 8


def test_the_folder_is_read_back(store, tmp_path):
    parts = divide(store, 0.1, 0.1, seed=1)
    write_parts(parts, tmp_path / "out", {"more": 1})
    for name in ("train", "dev", "test"):
        part = load_rows(str(tmp_path / f"out/{name}.jsonl"), Columns(), tmp_path / "cache")
        assert list(part) == list(getattr(parts, name))
    for split, part in (("dev", parts.dev), ("test", parts.test)):
        made = load_beir(tmp_path / "out/eval", split)
        answers = {
            text_id(row.query): {text_id(text) for r in part if r.query == row.query for text in r.positives} for row in part
        }
        text_of = dict(zip(made.passage_ids, made.passages, strict=True))
        judged = {text_id(made.queries[n]): {text_id(text_of[p]) for p in made.qrels[q]} for n, q in enumerate(made.query_ids)}
        assert judged == answers and len(made.passages) > 150  # training documents are searched, too
    assert '"more": 1' in (tmp_path / "out/split.json").read_text()


def test_a_corpus_is_searched_with_the_documents(store, tmp_path):
    parts = divide(store, 0.1, 0.1, seed=1)
    copy = f"{parts.test.rows[0]['positives'][0]}."  # of an answer, which nobody judged
    write_parts(parts, tmp_path / "out", {}, iter(["아무도 묻지 않은 글", parts.train.rows[0]["positives"][0], copy]))
    passages = list(load_beir(tmp_path / "out/eval", "test").passages)
    assert passages.count("아무도 묻지 않은 글") == passages.count(parts.train.rows[0]["positives"][0]) == 1
    assert copy not in passages


def test_shares_are_kept_and_nothing_is_cut_where_nothing_can_be():
    part = set_apart(np.arange(1000) // 3, 0.1, 0.2, 0)
    assert [(part == number).sum() for number in (TRAIN, DEV, TEST)] == [702, 99, 199]
    with pytest.raises(
        DataError, match="^test_share=0.1: no group of rows is so small: 100 rows form 2 groups, the smallest of 50"
    ):
        set_apart(np.arange(100) // 50, 0.1, 0.1, 0)
    with pytest.raises(DataError, match="nothing is left to train on"):
        set_apart(np.array([0, 1]), 0.5, 0.5, 0)


def test_the_coarsest_division_that_has_enough_parts():
    divisions = [("documents", [0, 0, 0, 5]), ("sections", [7, 7, 8, 9]), ("chunks", [1, 2, 3, 4])]
    for fewest, name, groups in (
        (2, "documents", [0, 0, 0, 1]),
        (3, "sections", [0, 0, 1, 2]),
        (4, "chunks", [0, 1, 2, 3]),
        (9, "chunks", [0, 1, 2, 3]),
    ):
        found = units(divisions, fewest)
        assert (found[0], found[1].tolist()) == (name, groups)
