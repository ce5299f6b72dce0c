"""Passages by id: each kind of corpus file, and what is wrong with one."""

import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from e5ft.data.lines import BadLine
from e5ft.data.passages import Corpus, passage_text, passage_texts
from e5ft.errors import DataError


@pytest.mark.parametrize("names", [("_id", "text"), ("docid", "contents"), ("id", "text"), ("pid", "passage")])
def test_ids_and_texts_go_by_the_names_of_the_field(names, write_bytes):
    lines = [{names[0]: identity, "title": "제목", names[1]: f"글 {identity}"} for identity in ("b", 7, "a")]
    corpus = Corpus(write_bytes("\n".join(map(json.dumps, lines)).encode(), "corpus.jsonl"))
    assert [corpus.text(identity) for identity in ("a", "7", "b", "c")] == ["제목 글 a", "제목 글 7", "제목 글 b", None]
    assert len(corpus) == 3


def test_tables_with_and_without_a_header(write_bytes, tmp_path):
    assert Corpus(write_bytes("7\t한 글\n8\t두 글\n".encode(), "collection.tsv")).text("8") == "두 글"
    assert Corpus(write_bytes("id\ttext\ttitle\n7\t글\tT\n".encode(), "psgs.tsv")).text("7") == "T 글"
    pa.parquet.write_table(pa.table({"_id": ["x"], "title": [""], "text": ["글"]}), tmp_path / "corpus.parquet")
    assert Corpus(tmp_path / "corpus.parquet").text("x") == "글"


def test_a_word_for_a_missing_title_is_none_but_in_a_published_set(write_bytes):
    line = {"_id": "a", "title": "nan", "text": "글"}
    assert Corpus(write_bytes(json.dumps(line).encode(), "corpus.jsonl")).text("a") == "글"
    assert passage_text("f:1", line, published=True) == "nan 글"
    assert passage_text("f:1", {"title": "", "text": "None"}, published=True) == "None"


@pytest.mark.parametrize("header", ["id\tdocument", "번호\t본문", "ID\tanything"])
def test_a_header_without_a_text_s_name_is_no_passage(header, write_bytes):
    path = write_bytes(f"{header}\n7\t한 글\n".encode(), "corpus.tsv")
    with pytest.raises(DataError, match="corpus.tsv:2: the key 'text' is missing; there are "):
        list(passage_texts(path))


def test_a_text_that_is_a_column_s_name_is_no_header_beside_an_id(write_bytes):
    assert list(passage_texts(write_bytes(b"1\tanswer\n2\tanother\n", "corpus.tsv"))) == ["answer", "another"]


def test_a_cell_of_several_lines_in_the_only_column_stays_one(write_bytes):
    assert list(passage_texts(write_bytes(b'text\n"first line\nsecond line"\nplain\n', "corpus.tsv"))) == [
        "first line\nsecond line", "plain",
    ]  # fmt: skip


def test_blank_lines_of_a_table_without_a_header_are_nothing(write_bytes):
    path = write_bytes("\n7\t한 글\n\n8\t두 글\n \n".encode(), "collection.tsv")
    assert list(passage_texts(path)) == ["한 글", "두 글"] and Corpus(path).text("8") == "두 글"


def test_texts_alone_are_read_in_the_encoding_of_the_rows(write_bytes):
    corpus = write_bytes("id,text\n1,연차는 열다섯 날입니다\n".encode("cp949"), "corpus.csv")
    assert list(passage_texts(corpus, "cp949")) == ["연차는 열다섯 날입니다"]


@pytest.mark.parametrize(
    "lines, reason",
    [
        (
            [{"_id": "a", "text": "x"}, {"_id": "b", "text": "y"}, {"_id": "a", "text": "z"}],
            "3: duplicate id 'a', first on line 1",
        ),
        ([{"text": "x"}], "1: _id is missing; there are 'text'; must be _id or docid"),
        ([{"_id": "a"}], "1: the key 'text' is missing; there are '_id'"),
        ([{"_id": "a", "text": " "}], "1: text is blank, and so is the title"),
        ([{"_id": "a", "title": "휴가", "text": "nan"}], "1: text is the word 'nan', which an export wrote for a missing value"),
        ([{"_id": "a", "title": "NULL", "text": ""}], "1: text is blank, and so is the title"),
    ],
)
def test_a_faulty_corpus_is_refused_with_the_place(lines, reason, write_bytes):
    with pytest.raises(DataError, match=f"corpus.jsonl:{reason}"):
        Corpus(write_bytes("\n".join(map(json.dumps, lines)).encode(), "corpus.jsonl"))


def test_an_object_s_fault_names_its_place_in_the_row():
    with pytest.raises(BadLine, match=r"f:3: document\[0\].text must be a string, this is int"):
        passage_text("f:3", {"text": 5}, "document[0]")
