"""What a source's cells hold: lists as text, ids, and queries that are their own documents."""

import json

import pytest

from e5ft.data.rows import Row, read_rows
from e5ft.data.settings import Columns, Reading
from e5ft.errors import DataError

IDS = {
    "digits": [str(7349000 + i) for i in range(5)],
    "one digit": list("01234"),
    "whole numbers": list(range(5)),
    "uuids": [f"3f2504e0-4f89-11d3-9a0c-0305e82c330{i}" for i in range(5)],
    "hashes": [f"d41d8cd98f00b204e980{i}" for i in range(5)],
    "BEIR's": [f"MED-{i}0" for i in range(5)],
    "ArguAna's": [f"test-economy-epiasghbf-con0{i}a" for i in range(5)],
    "MIRACL's": [f"12{i}#4" for i in range(5)],
    "objects": [{"docid": str(i)} for i in range(5)],
}
TEXTS = {
    "korean words": ["서울", "부산", "대구", "인천", "광주"],
    "chinese words": ["北京", "上海", "重庆", "天津", "广州"],
    "english words": ["moth", "apple", "well-known", "Paris", "state-of-the-art"],
    "korean with digits": ["제3조", "14일", "2시간", "10층", "3월"],
    "few ids": ["7349000", "a moth", "a lamp", "a book", "a house"],
}


@pytest.fixture
def read(write_bytes):
    def read(documents: list, name="document", query="q {}", **reading) -> list:
        rows = [{"query": query.format(i), name: document} for i, document in enumerate(documents)]
        path = write_bytes("\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode())
        return [value for _, value in read_rows(path, Columns(), Reading(**reading))]

    return read


@pytest.mark.parametrize("kind", IDS)
@pytest.mark.parametrize("listed", [False, True])
def test_ids_are_never_trained_on_as_texts(kind, listed, read):
    with pytest.raises(DataError, match=r"document holds what looks like passage ids .*data\.corpus_file=FILE"):
        read([[identity] for identity in IDS[kind]] if listed else IDS[kind])


@pytest.mark.parametrize("kind", TEXTS)
def test_short_answers_are_texts(kind, read):
    assert read(TEXTS[kind]) == [Row(f"q {i}", (text,)) for i, text in enumerate(TEXTS[kind])]


@pytest.mark.parametrize("kind", IDS)
@pytest.mark.parametrize("name", ["document", "positive_document_ids"])
def test_a_corpus_gives_ids_their_texts(kind, name, read, tmp_path):
    ids = [identity["docid"] if isinstance(identity, dict) else identity for identity in IDS[kind]]
    corpus = tmp_path / "corpus.jsonl"
    lines = [{"_id": str(identity), "title": "T", "text": f"text {i}"} for i, identity in enumerate(ids[:-1])]
    corpus.write_text("\n".join(map(json.dumps, reversed(lines))))
    rows = read(IDS[kind], name, corpus_file=str(corpus))
    assert rows[:-1] == [Row(f"q {i}", (f"T text {i}",)) for i in range(4)]
    assert f"no passage of {corpus} has this id: {str(ids[-1])!r}" in str(rows[-1])


def test_simlm_s_ids_with_a_corpus(write_bytes, tmp_path):
    corpus = tmp_path / "corpus.tsv"
    corpus.write_text("1\tone\n2\ttwo\n3\tthree\n")
    row = {"query": "q", "positives": {"doc_id": ["2"], "score": [1.0]}, "negatives": {"doc_id": ["3", "1"], "score": [0.5, 0]}}
    found = list(read_rows(write_bytes(json.dumps(row).encode()), reading=Reading(corpus_file=str(corpus))))
    assert [value for _, value in found] == [Row("q", ("two",), ("three", "one"))]


def test_texts_stay_texts_beside_a_corpus(read, tmp_path):
    """mine.py's candidates are in the same setting; without ids they can be nothing else."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"_id": "1", "text": "one"}\n')
    assert len(read(TEXTS["korean words"], corpus_file=str(corpus))) == 5
    corpus.write_text('{"text": "one"}\n')
    rows = read([f"w{n}" for n in range(5)], corpus_file=str(corpus))
    assert [row.positives for row in rows] == [(f"w{n}",) for n in range(5)]


def test_queries_that_are_ids_or_their_own_documents_are_refused(read):
    with pytest.raises(DataError, match=r"query holds what looks like ids \('1180'\); must be the queries' texts"):
        read(TEXTS["english words"], query="118{}")
    with pytest.raises(DataError, match="query and document are one text in 5 of 5 rows"):
        read([f"q {i}" for i in range(5)])


LISTS = {
    "python": "['가, 나', \"it's\"]",
    "numpy": "['가'\n 'b']",
    "with nan": "['가', nan]",
    "json": '["가", "b"]',
    "tuple": "('가', 'b')",
}


@pytest.mark.parametrize("column", ["document", "hard_negative"])
def test_a_column_of_lists_as_text_is_read_as_lists(column, write_bytes):
    rows = [{"query": f"q{i}", "document": f"d {i}", "hard_negative": "n", column: LISTS["python"]} for i in range(4)]
    path, notes = write_bytes("\n".join(map(json.dumps, rows)).encode()), []
    found = [value for _, value in read_rows(path, notes=notes)]
    lists = ("가, 나", "it's")
    assert [(row.positives if column == "document" else row.negatives) for row in found] == [lists] * 4
    assert f"{column}: lists written as text are read as lists" in dict(notes)["columns"]


@pytest.mark.parametrize("kind", ["numpy", "with nan", "python", "tuple"])
def test_a_list_as_text_among_texts_is_refused_and_a_text_in_brackets_is_none(kind, write_bytes):
    texts = ["[공지] 안내 [끝]", "[1] a note [2]", "['인용'] 글 ['끝']", "(참고) 안내 (끝)", "plain", LISTS[kind]]
    rows = [{"query": f"q{i}", "document": text} for i, text in enumerate(texts)]
    *good, bad = (value for _, value in read_rows(write_bytes("\n".join(map(json.dumps, rows)).encode())))
    assert [row.positives for row in good] == [(text,) for text in texts[:-1]]
    assert "document looks like a list that was written as text; write lists as JSON" in str(bad)


@pytest.mark.parametrize("word", ["None", "nan", "NaN", "NULL", "<NA>", "null"])
@pytest.mark.parametrize("column", ["query", "document", "hard_negative"])
def test_a_word_for_nothing_is_no_text(word, column, write_bytes):
    good = {"query": "q", "document": "d", "hard_negative": "n"}
    path = write_bytes(
        "\n".join(map(json.dumps, [good, {**good, column: word}, {**good, "document": f"{word} of them"}])).encode()
    )
    first, bad, last = (value for _, value in read_rows(path))
    assert str(bad) == f"{path}:2: {column} is the word {word!r}, which an export wrote for a missing value; leave the cell empty"
    assert first == Row("q", ("d",), ("n",)) and last.positives == (f"{word} of them",)


def test_short_ids_are_looked_up_where_there_is_a_corpus(read, tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"_id": f"d{i}", "text": f"text {i}"}) + "\n" for i in range(5)))
    rows = read([[f"d{i}"] for i in range(5)], corpus_file=str(corpus))
    assert [row.positives for row in rows] == [(f"text {i}",) for i in range(5)]


def test_words_for_nothing_do_not_hide_lists(write_bytes):
    rows = [{"query": f"q {i}", "document": "d", "hard_negative": ["['n', 'm']", "nan"][i % 2]} for i in range(8)]
    path = write_bytes("\n".join(map(json.dumps, rows)).encode())
    values = [value for _, value in read_rows(path)]
    assert values[::2] == [Row(f"q {i}", ("d",), ("n", "m")) for i in range(0, 8, 2)]
    assert all("is the word 'nan'" in str(value) for value in values[1::2])


@pytest.mark.parametrize("no", [0, False, "0"])
def test_an_object_that_says_it_is_no_answer_is_none(no, read):
    shown = [{"text": "n", "clicked": no}, {"text": "d", "clicked": 1}]
    (fault,) = read([shown])
    assert "document[0].clicked is 0, but a document must answer its query" in str(fault)
    assert read([[{"text": "d", "label": 1, "score": 0}]]) == [Row("q 0", ("d",))]
