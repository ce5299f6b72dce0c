"""Retrieval sets: the BEIR folder with every fault it can have, sets made of rows, and the bounded corpus."""

import json
import os
import unicodedata

import pytest

from e5ft.data.rows import Row
from e5ft.errors import ConfigurationError, DataError
from e5ft.retrieval.columns import StringColumn
from e5ft.retrieval.sets import RetrievalSet, from_rows, load_beir, shrink_corpus, subsample

CORPUS = [
    {"_id": "d3", "title": "셋", "text": "세 번째"},
    {"_id": "d1", "title": "", "text": "첫 번째"},
    {"_id": "d2", "text": "두 번째"},
]
QUERIES = [{"_id": "q2", "text": "둘?"}, {"_id": "q1", "text": "하나?"}, {"_id": "q3", "text": "셋?"}]
QRELS = ["query-id\tcorpus-id\tscore", "q2\td2\t1", "q1\td1\t2", "q1\td3\t0"]


def lines(values):
    return "".join((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)) + "\n" for value in values)


@pytest.fixture
def folder(tmp_path):
    def write(corpus=CORPUS, queries=QUERIES, qrels=QRELS):
        root = tmp_path / "my-set"
        (root / "qrels").mkdir(parents=True, exist_ok=True)
        (root / "corpus.jsonl").write_text(lines(corpus), encoding="utf-8")
        (root / "queries.jsonl").write_text(lines(queries), encoding="utf-8")
        (root / "qrels" / "test.tsv").write_text(lines(qrels), encoding="utf-8")
        return root

    return write


@pytest.mark.parametrize("qrels", [QRELS, QRELS[1:], [line + "\r" for line in QRELS], [*QRELS, "", ""]])
def test_load(folder, qrels):
    """Passages in id order, title before text, only judged queries; header or not, and Windows line ends."""
    loaded = load_beir(folder(qrels=qrels), "test")
    assert loaded.name == "my-set"
    assert list(loaded.passage_ids) == ["d1", "d2", "d3"]
    assert list(loaded.passages) == ["첫 번째", "두 번째", "셋 세 번째"]
    assert list(loaded.query_ids) == ["q1", "q2"] == list(loaded.qrels)
    assert list(loaded.queries) == ["하나?", "둘?"]
    assert loaded.qrels == {"q1": {"d1": 2, "d3": 0}, "q2": {"d2": 1}}


@pytest.mark.parametrize(
    ("part", "content", "message"),
    [
        ("corpus", [*CORPUS, {"_id": "d1", "text": "x"}], r"corpus\.jsonl:4: the _id 'd1' stands on line 2 already"),
        ("corpus", [*CORPUS, {"_id": "d4", "title": " ", "text": ""}], r"corpus\.jsonl:4: text is blank"),
        ("corpus", [*CORPUS, {"_id": "d4", "title": "t"}], r"corpus\.jsonl:4: the key 'text' is missing"),
        ("corpus", [*CORPUS, {"_id": "d4", "text": 5}], r"corpus\.jsonl:4: text must be a string"),
        ("corpus", [*CORPUS, {"_id": "d4", "title": ["t"], "text": "x"}], r"corpus\.jsonl:4: title must be a string"),
        ("corpus", [{"text": "x"}], r"corpus\.jsonl:1: _id is missing"),
        ("corpus", [{"_id": 7, "text": "x"}], r"corpus\.jsonl:1: _id must be a string"),
        ("corpus", [{"_id": "d 1", "text": "x"}], r"corpus\.jsonl:1: _id 'd 1' holds white space"),
        ("corpus", ["", "{"], r"corpus\.jsonl:2: not JSON"),
        ("corpus", [], r"corpus\.jsonl: the file holds no rows"),
        ("corpus", CORPUS[:1], r"test\.tsv:2: passage 'd2' is not in corpus\.jsonl \(2 such passage ids in all\)"),
        ("queries", [*QUERIES, {"_id": "q2", "text": "x"}], r"queries\.jsonl:4: the _id 'q2' stands on line 1 already"),
        ("queries", [{"_id": "q2", "text": " "}], r"queries\.jsonl:1: text is blank"),
        ("queries", QUERIES[:1], r"test\.tsv:3: query 'q1' is not in queries\.jsonl \(1 such query ids in all\)"),
        ("qrels", [*QRELS, "q1\td2\t1.0"], r"test\.tsv:5: the relevance '1\.0' is no whole number"),
        ("qrels", ["q1\td2\tmuch"], r"test\.tsv:1: the relevance 'much' is no whole number"),
        ("qrels", [*QRELS, "q1\td2\t１"], r"test\.tsv:5: the relevance"),
        ("qrels", [*QRELS, "q1 d2 1"], r"test\.tsv:5: must be query id, passage id and relevance, separated by tabs"),
        ("qrels", [*QRELS, "q1\t\t1"], r"test\.tsv:5: the passage id '' is blank"),
        ("qrels", [*QRELS, "q2\td2\t1"], r"test\.tsv:5: query 'q2' and passage 'd2' are judged twice"),
        ("qrels", ["\ufeffq1\td1\t1"], r"test\.tsv:1: the file begins with a byte order mark"),
        ("qrels", QRELS[:1], r"test\.tsv: no query has a relevant passage"),
        ("qrels", [*QRELS[:1], "q1\td1\t0"], r"test\.tsv: no query has a relevant passage"),
    ],
)
def test_every_fault_names_its_place(folder, part, content, message):
    with pytest.raises(DataError, match=message):
        load_beir(folder(**{part: content}), "test")


def test_text_or_title_may_be_blank_not_both(folder):
    loaded = load_beir(folder(corpus=[*CORPUS, {"_id": "d4", "title": "제목", "text": " "}]), "test")
    assert loaded.passages[3] == "제목"


def test_missing_files_name_what_is_expected(folder, tmp_path):
    root = folder()
    with pytest.raises(DataError, match=r"dev\.tsv: no such file; the splits there are: test$"):
        load_beir(root, "dev")
    (root / "qrels" / "test.tsv").unlink()
    with pytest.raises(DataError, match=r"there is no qrels/\*\.tsv"):
        load_beir(root, "test")
    (root / "queries.jsonl").unlink()
    with pytest.raises(DataError, match=r"queries\.jsonl: no such file; .*corpus\.jsonl, queries\.jsonl and qrels"):
        load_beir(root, "test")
    with pytest.raises(DataError, match="no such folder"):
        load_beir(tmp_path / "nowhere", "test")


ROWS = [
    Row("수도는?", ("서울", "한양"), ("부산",)),
    Row("항구는?", ("부산",), ("서울", "대구")),
    Row("수도는? ", ("대구",), ("서울", "광주")),
]


def by_text(made: RetrievalSet):
    text_of = dict(zip(made.passage_ids, made.passages, strict=True)) | dict(zip(made.query_ids, made.queries, strict=True))
    return {text_of[q]: {text_of[d]: value for d, value in judged.items()} for q, judged in made.qrels.items()}


def test_rows_become_a_set():
    made = from_rows("dev", ROWS)
    assert by_text(made) == {"수도는?": {"서울": 1, "한양": 1, "대구": 1}, "항구는?": {"부산": 1}}
    assert sorted(made.passages) == sorted(["서울", "한양", "부산", "대구", "광주"])
    for ids, letter in ((made.query_ids, "q"), (made.passage_ids, "d")):
        assert list(ids) == sorted(ids)
        assert all(len(name) == 17 and name[0] == letter and int(name[1:], 16) >= 0 for name in ids)


def test_a_set_depends_on_the_normalised_texts_alone():
    def otherwise(text):
        return f" {unicodedata.normalize('NFD', text)}\n"

    again = [
        Row(otherwise(row.query), tuple(map(otherwise, row.positives)), tuple(map(otherwise, row.negatives)))
        for row in reversed(ROWS)
    ]
    assert from_rows("dev", again) == from_rows("dev", ROWS)
    assert from_rows("dev", ROWS[:2]) != from_rows("dev", ROWS)


def test_no_rows():
    with pytest.raises(DataError, match="dev: there are no rows"):
        from_rows("dev", [])


@pytest.fixture(scope="module")
def whole():
    """40 passages; BM25's order for q1 is d05, d10, d15, ... (ever longer), for q2 d07, d14, ..., and d39 is judged."""
    passages = [
        " ".join((["사과"] if i % 5 == 0 else []) + (["바다"] if i % 7 == 0 else []) + ["무"] * (i + 1)) for i in range(40)
    ]
    return RetrievalSet(
        name="whole",
        query_ids=StringColumn(["q1", "q2"]),
        queries=StringColumn(["사과", "바다"]),
        passage_ids=StringColumn(f"d{i:02}" for i in range(40)),
        passages=StringColumn(passages),
        qrels={"q1": {"d39": 1, "d38": 0}, "q2": {"d39": 1}},
    )


def test_the_cut_keeps_judged_then_bm25s_top_in_turn(whole):
    """d00 holds both words and is first for both; then d05 (q1), d07 (q2), d10, d14, ..."""
    assert set(shrink_corpus(whole, 3).passage_ids) == {"d38", "d39", "d00"}
    assert set(shrink_corpus(whole, 6).passage_ids) == {"d38", "d39", "d00", "d05", "d07", "d10"}


def test_the_cut_fills_up_with_random_ones(whole):
    smaller = shrink_corpus(whole, 20, seed=3, depth=2)
    assert len(smaller.passages) == 20
    assert {"d38", "d39", "d00", "d05", "d07"} <= set(smaller.passage_ids)
    assert smaller == shrink_corpus(whole, 20, seed=3, depth=2)
    assert smaller != shrink_corpus(whole, 20, seed=4, depth=2)


def test_the_cut_keeps_order_texts_and_judgements(whole):
    smaller = shrink_corpus(whole, 25)
    text_of = dict(zip(whole.passage_ids, whole.passages, strict=True))
    assert list(smaller.passage_ids) == sorted(smaller.passage_ids)
    assert [text_of[name] for name in smaller.passage_ids] == list(smaller.passages)
    assert smaller.qrels == whole.qrels and smaller.queries == whole.queries


def test_never_fewer_than_the_judged_and_never_more_than_there_are(whole):
    assert list(shrink_corpus(whole, 1).passage_ids) == ["d38", "d39"]
    assert shrink_corpus(whole, 40) is whole and shrink_corpus(whole, 10**9) is whole


@pytest.mark.parametrize("arguments", [{"size": 0}, {"size": 5, "depth": 0}, {"size": 2.5}])
def test_a_cut_out_of_range(whole, arguments):
    with pytest.raises(ConfigurationError, match="corpus cut"):
        shrink_corpus(whole, **arguments)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(folder, name):
    root = folder()
    (root / name).unlink()
    os.mkfifo(root / name)
    with pytest.raises(DataError, match=f"{name}: a pipe or device"):
        load_beir(root, "test")


def test_judgements_without_line_ends_are_never_held_whole(folder):
    root = folder()
    (root / "qrels" / "test.tsv").write_text("q1\td1\t1 " * 200_000)
    with pytest.raises(DataError, match=r"test\.tsv:1: the line is longer than 1,000,000 bytes"):
        load_beir(root, "test")


@pytest.mark.parametrize("split", ["x" * 300, "a\0b"])
def test_a_split_that_can_be_no_files_name_is_refused(folder, split):
    with pytest.raises(DataError, match="cannot be read"):
        load_beir(folder(), split)


def test_a_sample_has_fewer_queries_and_the_passages_judged_for_them(whole):
    one = subsample(whole, 1, 5, seed=1)
    (query,) = one.query_ids
    assert one.qrels == {query: whole.qrels[query]} and len(one.passages) == 5
    assert set(whole.qrels[query]) <= set(one.passage_ids)
    assert list(one.queries) == [dict(zip(whole.query_ids, whole.queries, strict=True))[query]]
    assert one == subsample(whole, 1, 5, seed=1)
    assert {tuple(subsample(whole, 1, 5, seed=seed).query_ids) for seed in range(8)} == {("q1",), ("q2",)}
    assert subsample(whole, 2, 40) is whole
