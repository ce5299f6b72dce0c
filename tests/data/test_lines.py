"""One bad line of each kind, with the exact message; a good one beside it is still read."""

import json
import math
import os

import pytest

from e5ft.data import lines
from e5ft.data.lines import MAX_LINE_BYTES, BadLine, Location, Told, check_text, is_file, printable, read_json_lines
from e5ft.errors import DataError

GOOD = '{"query": "한국어"}'

BAD_LINES = {
    "cp949": (GOOD.encode("cp949"), "not UTF-8 (byte 11); mend it, or name the encoding of the whole file: data.encoding=NAME"),
    "utf16": (GOOD.encode("utf-16-le"), "not UTF-8 (byte 23); mend it, or name the encoding of the whole file: data.encoding=NAME"),
    "cut": (b'{"query": "a", "docum', "not JSON (Unterminated string starting at): '{\"query\": \"a\", \"docum'"),
    "cut within a letter": (GOOD.encode()[:-3], "not UTF-8 (byte 17); mend it, or name the encoding of the whole file: data.encoding=NAME"),
    "nan": (b'{"query": NaN}', "not JSON (NaN is not a JSON value; write null): '{\"query\": NaN}'"),
    "infinity": (b'{"query": -Infinity}', "not JSON (-Infinity is not a JSON value; write null): '{\"query\": -Infinity}'"),
    "two objects": (b'{"a": 1} {"b": 2}', "not JSON (Extra data): '{\"a\": 1} {\"b\": 2}'"),
    "raw nul": (b'{"a": "\x00"}', "not JSON (Invalid control character at): '{\"a\": \"\\x00\"}'"),
    "python": (b"{'a': 1}", "not JSON (Expecting property name enclosed in double quotes): \"{'a': 1}\""),
    "list": (b'["a", "b"]', "must be an object {...}, this is list: '[\"a\", \"b\"]'"),
    "string": (b'"a"', "must be an object {...}, this is str: '\"a\"'"),
    "null": (b"null", "must be an object {...}, this is NoneType: 'null'"),
    "duplicate key": (b'{"a": 1, "b": 2, "a": 3}', "not JSON (duplicate key 'a'): '{\"a\": 1, \"b\": 2, \"a\": 3}'"),
    "duplicate key inside": (b'{"a": {"b": 2, "b": 3}}', "not JSON (duplicate key 'b'): '{\"a\": {\"b\": 2, \"b\": 3}}'"),
    "deep lists": (b'{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "not usable: nested too deeply"),
    "deep objects": (b'{"a": ' * 50_000 + b"1" + b"}" * 50_000, "not usable: nested too deeply"),
    "too long": (
        b'{"a": "' + b"x" * MAX_LINE_BYTES + b'"}',
        "the line is longer than 1,000,000 bytes; must be one row a line",
    ),
}  # fmt: skip


def outcome(path: str) -> list:
    """What is read: values, and for faults their message without the folder."""
    found = []
    for place, value in read_json_lines(path):
        assert place.source == path
        found.append(str(value).removeprefix(f"{path}:") if isinstance(value, BadLine) else value)
    return found


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_is_a_fault_with_its_place_and_the_next_line_is_read(kind, write_bytes):
    line, reason = BAD_LINES[kind]
    path = write_bytes(GOOD.encode() + b"\n\n" + line + b"\n" + GOOD.encode() + b"\n")
    assert outcome(path) == [json.loads(GOOD), f"3: {reason}", json.loads(GOOD)]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_the_encoding(encoding, write_bytes):
    path = write_bytes(f"{GOOD}\n{GOOD}".encode(encoding))
    assert outcome(path) == [json.loads(GOOD)] * 2


def test_a_place_says_the_row_where_it_is_not_the_line():
    assert str(Location("a.csv", 7, 6)) == "a.csv:7 (row 6)" and str(Location("a.csv", 7, 7)) == "a.csv:7"
    assert str(Location("a.jsonl", 7)) == "a.jsonl:7" and str(Location("a.xlsx", 0, 6)) == "a.xlsx (row 6)"


def test_what_is_told_of_many_files_is_said_once():
    notes = []
    told = Told("shards", notes)
    for _ in range(3):
        told.say("UTF-16", "", "separator ';'")
        told.count("blank row")
    told.say("")
    told.count("empty file")
    told.close()
    assert notes == [("read", "shards: UTF-16, separator ';'"), ("read", "shards: 3 blank rows left out, 1 empty file left out")]


def test_a_cut_last_line_is_a_fault(write_bytes):
    reason = '2: not JSON (Unterminated string starting at): \'{"query": "한국\''
    assert outcome(write_bytes(GOOD.encode() + b"\n" + GOOD.encode()[:-5])) == [json.loads(GOOD), reason]


def test_a_long_number_is_a_fault(write_bytes):
    """Python refuses to convert more than 4,300 digits."""
    assert outcome(write_bytes(b'{"a": ' + b"1" * 5000 + b"}"))[0].startswith("1: not JSON (Exceeds the limit (4300")


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_line_ends_blank_lines_and_a_last_line_without_end(end, write_bytes):
    path = write_bytes(b"\n" + b'{"a": 1}' + b"\n  \t\r\n" + b'{"a": 2}' + end)
    assert list(read_json_lines(path)) == [((path, 2, 0), {"a": 1}), ((path, 4, 0), {"a": 2})]


@pytest.mark.parametrize("end", [b"\n", b""])
def test_the_longest_line_is_allowed_and_one_byte_more_is_not(end, write_bytes, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 20)
    fits, too_long = b'{"a": "12345678901"}', b'{"a": "123456789012"}'
    assert len(fits) == 20
    path = write_bytes(fits + b"\n" + too_long * 3 + b"\n" + too_long + b"\n" + fits + end)
    reason = "the line is longer than 20 bytes; must be one row a line"
    value = {"a": "12345678901"}
    assert outcome(path) == [value, f"2: {reason}", f"3: {reason}", value]
    assert outcome(write_bytes(too_long + end)) == [f"1: {reason}"]


@pytest.mark.parametrize("content", [b"", b"\n", b" \r\n\t\n"])
def test_an_empty_file_is_refused(content, write_bytes):
    path = write_bytes(content)
    with pytest.raises(DataError) as caught:
        outcome(path)
    assert str(caught.value) == f"{path}: the file holds no rows"


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(DataError) as caught:
        outcome(str(tmp_path))
    assert str(caught.value) == f"{tmp_path}: this is a folder; must be a file"


def test_a_missing_file_is_refused(tmp_path):
    path = str(tmp_path / "none.jsonl")
    with pytest.raises(DataError) as caught:
        outcome(path)
    assert str(caught.value) == f"{path}: cannot be read (No such file or directory)"


@pytest.mark.parametrize(
    "value, reason",
    [
        (None, "query is missing (null)"),
        (math.nan, "query is missing (null)"),
        ("", "query is blank"),
        (" \n\t\u3000", "query is blank"),
        (5, "query must be a string, this is int: '5'"),
        (True, "query must be a string, this is bool: 'True'"),
        (b"a", "query must be a string, this is bytes: \"b'a'\""),
        (["a"], "query must be a string, this is list: \"['a']\""),
        ("a\x00b", "query holds a NUL character: 'a\\x00b'"),
        ("a\ud800b", "query holds a lone surrogate, which is no text: 'a\\ud800b'"),
        ("가\udcff", "query holds a lone surrogate, which is no text: '\\uac00\\udcff'"),
    ],
)
def test_what_is_no_text_is_a_fault(value, reason):
    with pytest.raises(BadLine) as caught:
        check_text("rows:7", "query", value)
    assert str(caught.value) == f"rows:7: {reason}"
    str(caught.value).encode()  # can be printed and logged


@pytest.mark.parametrize("text", ["a", " 한국어\n", "\U0001f600"])
def test_a_text_is_returned_as_it_is(text):
    assert check_text("rows:7", "query", text) == text


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "rows.jsonl")
    for path in (tmp_path / "rows.jsonl", "/dev/zero"):
        with pytest.raises(DataError, match="a pipe or device; must be a file"):
            outcome(str(path))


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "a\udcff\0"])
def test_a_name_that_can_be_no_files_is_refused(tmp_path, name):
    with pytest.raises(DataError, match="cannot be read") as caught:
        is_file(str(tmp_path / name))
    str(caught.value).encode()


def test_a_loop_of_links_is_refused(tmp_path):
    (tmp_path / "rows.jsonl").symlink_to("rows.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        outcome(str(tmp_path / "rows.jsonl"))


def test_a_run_of_combining_marks_is_refused_before_normalising_sorts_it_for_minutes():
    """U+0315 and U+0300 in turns: each pair is out of order."""
    with pytest.raises(BadLine, match="combining marks in a row"):
        check_text("rows:7", "query", "a" + "\u0315\u0300" * 100_000)
    assert check_text("rows:7", "query", "e\u0301" * 100_000)  # NFD of any length


def test_what_a_message_quotes_is_printable():
    assert str(BadLine("rows:7", "'\t' expected\x1b")) == "rows:7: '\\t' expected\\x1b"
    assert printable("한국어 a\ud800") == "한국어 a\\ud800"
