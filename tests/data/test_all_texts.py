"""Texts of every kind of file, whatever their role."""

import json

import pytest

from e5ft.data.all_texts import all_texts
from e5ft.data.settings import Columns
from e5ft.errors import ConfigurationError, DataError

ROW = {"query": "q", "document": ["d1", "d2"], "hard_negative": ["n"]}
SQUAD = {"question": "q", "passage": "a"}
CONTENTS = {
    "rows.jsonl": (json.dumps(ROW), ["q", "d1", "d2", "n"]),
    "corpus.jsonl": ('{"_id": "p1", "title": "t", "text": "x"}\n{"_id": "p2", "title": "", "text": "y"}\n', ["t x", "y"]),
    "queries.jsonl": ('{"_id": "q1", "text": "x"}', ["x"]),
    "questions.jsonl": (json.dumps(SQUAD), ["q", "a"]),
    "lines.txt": ("서울의 수도\n\n  \nabc", ["서울의 수도\n", "abc"]),
    "rows.tsv": ("query\tdocument\nq q\td d\n", ["q q", "d d"]),
    "collection.tsv": ("0\ta b\n1\tc d\n", ["a b", "c d"]),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_files_of_every_kind(tmp_path, name):
    content, texts = CONTENTS[name]
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert list(all_texts([tmp_path / name])) == texts


def test_several_files_and_named_columns(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "q", "body": "d"}', encoding="utf-8")
    (tmp_path / "b.txt").write_text("x")
    columns = Columns(query="text", document="body")
    assert list(all_texts([tmp_path / "a.jsonl", tmp_path / "b.txt"], columns)) == ["q", "d", "x"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", '{"query": "q", "document": "d"}\n{"query": "q"}', r"rows.jsonl:2"),
        ("lines.txt", b"\xea\xb0\x80\n\xff\n", r"lines.txt:2: not UTF-8 \(byte 0\)"),
        ("lines.txt", " \n", r"lines.txt: the file holds no text"),
        ("rows.jsonl", "", r"rows.jsonl: the file holds no rows"),
        ("lines.txt", b"a\0", r"lines.txt:1: text holds a NUL"),
    ],
)
def test_a_faulty_line_is_named(tmp_path, name, content, message):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        list(all_texts([file]))


def test_what_is_no_file_is_refused_at_once(tmp_path):
    with pytest.raises(ConfigurationError, match=r"trim.texts=.*: no such file; must be rows"):
        all_texts([tmp_path], field="trim.texts")
