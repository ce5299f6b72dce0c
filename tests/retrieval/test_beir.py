"""The BEIR folder, with every fault that it can have."""

import json
import os

import pytest

from e5ft.errors import DataError
from e5ft.retrieval.sets import load_beir

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


TREC = ["q2 0 d2 1", "q1 0 d1 2", "q1 0 d3 0"]


@pytest.mark.parametrize(
    "qrels",
    [
        *(QRELS, QRELS[1:], [line + "\r" for line in QRELS], [*QRELS, "", ""], ["\ufeff" + QRELS[0], *QRELS[1:]]),
        *(["\ufeff" + QRELS[1], *QRELS[2:]], [line.replace("\t", "  ") for line in QRELS], [line + ".0" for line in QRELS[1:]]),
        *(TREC, [line.replace(" ", "\t") for line in TREC], [line.replace(" 0 d", " Q0 d") + "  " for line in TREC]),
        *(["qid iteration docid rel", *TREC], [line.replace(" 0 d", " 1.5 d") for line in TREC]),
        ["corpus-id\tquery-id\tscore", "d2\tq2\t1", "d1\tq1\t2", "d3\tq1\t0"],
    ],
)
def test_load(folder, qrels):
    """Passages in id order, title before text, only judged queries; header or not, and Windows line ends."""
    loaded = load_beir(folder(qrels=qrels), "test")
    assert loaded.name == "my-set"
    assert list(loaded.passage_ids) == ["d1", "d2", "d3"]
    assert list(loaded.passages) == ["첫 번째", "두 번째", "셋 세 번째"]
    assert list(loaded.query_ids) == ["q1", "q2"] == list(loaded.qrels)
    assert list(loaded.queries) == ["하나?", "둘?"]
    assert loaded.qrels == {"q1": {"d1": 2, "d3": 0}, "q2": {"d2": 1}}


def test_a_corpus_that_is_one_json_array(folder):
    root = folder()
    plain = load_beir(root, "test")
    (root / "corpus.jsonl").unlink()
    (root / "corpus.json").write_text(json.dumps(CORPUS), encoding="utf-8")
    assert load_beir(root, "test") == plain
    (root / "corpus.json").write_text(json.dumps([*CORPUS, CORPUS[1]]), encoding="utf-8")
    with pytest.raises(DataError, match=r"corpus\.json:1 \(row 4\): duplicate id 'd1', first on row 2"):
        load_beir(root, "test")


@pytest.mark.parametrize(
    ("part", "content", "message"),
    [
        ("corpus", [*CORPUS, {"_id": "d1", "text": "x"}], r"corpus\.jsonl:4: duplicate id 'd1', first on line 2"),
        ("corpus", [*CORPUS, {"_id": "d4", "title": " ", "text": ""}], r"corpus\.jsonl:4: text is blank"),
        ("corpus", [*CORPUS, {"_id": "d4", "title": "t"}], r"corpus\.jsonl:4: the key 'text' is missing"),
        ("corpus", [*CORPUS, {"_id": "d4", "text": 5}], r"corpus\.jsonl:4: text must be a string"),
        ("corpus", [*CORPUS, {"_id": "d4", "title": ["t"], "text": "x"}], r"corpus\.jsonl:4: title must be a string"),
        ("corpus", [{"text": "x"}], r"corpus\.jsonl:1: _id is missing; there are 'text'; must be _id or docid"),
        ("corpus", [{"_id": None, "text": "x"}], r"corpus\.jsonl:1: _id is missing \(null\)"),
        ("corpus", [{"_id": 7.0, "text": "x"}], r"corpus\.jsonl:1: _id must be a string"),
        ("corpus", [{"_id": True, "text": "x"}], r"corpus\.jsonl:1: _id must be a string"),
        ("corpus", [{"_id": "d 1", "text": "x"}], r"corpus\.jsonl:1: the id 'd 1' holds white space"),
        ("corpus", [*CORPUS, "{"], r"corpus\.jsonl:4: not JSON"),
        ("corpus", [], r"corpus\.jsonl: the file holds no rows"),
        ("corpus", CORPUS[:1], r"test\.tsv:2: passage 'd2' is not in the corpus, as in 2 of 2 relevant judgements"),
        ("queries", [*QUERIES, {"_id": "q2", "text": "x"}], r"queries\.jsonl:4: duplicate id 'q2', first on line 1"),
        ("queries", [{"_id": "q2", "text": " "}], r"queries\.jsonl:1: text is blank"),
        ("queries", QUERIES[2:], r"test\.tsv:2: query 'q2' is not among the queries, as in 2 of 2 relevant judgements"),
        ("queries", [{"_id": "q1", "body": "x"}], r"queries\.jsonl:1: the key 'text' is missing; there are '_id', 'body'"),
        ("qrels", [*QRELS, "q1\td2\t0.5"], r"test\.tsv:5: the relevance '0\.5' is no whole number"),
        ("qrels", [*QRELS, "q1\td2\tnan"], r"test\.tsv:5: the relevance 'nan' is no whole number"),
        ("qrels", ["q1\td2\tmuch"], r"test\.tsv:1: the relevance 'much' is no whole number"),
        ("qrels", [*QRELS, "q1\td2\t１"], r"test\.tsv:5: the relevance"),
        ("qrels", [*QRELS, "q1 d2"], r"test\.tsv:5: must be query id, passage id and relevance, .*; here are 2 fields"),
        ("qrels", [*QRELS, "q1 0 d2 1"], r"test\.tsv:5: must be query id, .*; here are 4 fields, 3 above"),
        ("qrels", ["q1 Q0 d2 1 0.5 run"], r"test\.tsv:1: must be query id, .*; here are 6 fields"),
        ("qrels", ["q1 d1 2 note"], r"test\.tsv:1: the second of four columns must be TREC's 0"),
        ("qrels", [*QRELS, "q1\t\t1"], r"test\.tsv:5: the passage id '' is blank"),
        ("qrels", [*QRELS, "q2\td2\t1"], r"test\.tsv:5: query 'q2' and passage 'd2' are judged twice"),
        ("qrels", QRELS[:1], r"test\.tsv: no query has a relevant passage"),
        ("qrels", [*QRELS[:1], "q1\td1\t0"], r"test\.tsv: no query has a relevant passage"),
    ],
)
def test_every_fault_names_its_place(folder, part, content, message):
    with pytest.raises(DataError, match=message):
        load_beir(folder(**{part: content}), "test")


@pytest.mark.parametrize(
    ("corpus", "queries"),
    [
        ([{"id": "7", "contents": "글"}, {"id": "8", "contents": "말"}], [{"id": "1", "text": "질문"}]),
        ([{"_id": 7, "text": "글"}, {"_id": 8, "text": "말"}], [{"_id": 1, "text": "질문"}]),
        ([{"docid": "7", "title": "", "text": "글"}, {"docid": "8", "text": "말"}], [{"query_id": "1", "query": "질문"}]),
        ([{"_id": "7", "id": "x", "text": "글", "contents": "x"}, {"_id": "8", "text": "말"}], [{"_id": "1", "id": "x", "text": "질문"}]),
    ],
    ids=["pyserini", "whole numbers", "tevatron", "the first name counts"],
)  # fmt: skip
def test_other_names_of_keys_and_ids_that_are_numbers(folder, corpus, queries):
    loaded = load_beir(folder(corpus=corpus, queries=queries, qrels=["1 8 1"]), "test")
    assert (list(loaded.passage_ids), list(loaded.passages), list(loaded.query_ids)) == (["7", "8"], ["글", "말"], ["1"])
    assert list(loaded.queries) == ["질문"] and loaded.qrels == {"1": {"8": 1}}


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


LONG = "x" * 900_000


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("corpus", [*CORPUS, {"_id": f"{LONG} 1", "text": "x"}]),
        ("corpus", [*CORPUS, *({"_id": LONG, "text": "x"} for _ in range(2))]),
        ("corpus", [{"_id": "d1", LONG: "x"}]),
        ("corpus", [{f"xxx{i}": {"text": "x"} for i in range(2000)}]),  # a JSON object of id -> text
        ("queries", [*QUERIES, {"_id": "q4", "text": {"text": LONG}}]),
        ("qrels", [*QRELS, f"q1\t{LONG} \t1"]),
        ("qrels", [*QRELS, f"q1\td2\t{LONG}"]),
        ("qrels", [*QRELS, f"{LONG[:10_000]}\td2\t1", f"{LONG[:10_000]}\td2\t1"]),
        ("qrels", [f"{LONG}\td2\t1"]),
    ],
)
def test_a_fault_is_short_whatever_it_quotes(folder, part, content):
    root = folder(**{part: content})
    with pytest.raises(DataError, match="xxx|the key 'text' is missing|mappings of mappings") as caught:
        load_beir(root, "test")
    assert len(str(caught.value)) < len(str(root)) + 700


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
