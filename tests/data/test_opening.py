"""Compressed files are read by their suffix, text of any encoding is read as UTF-8, and what is neither is refused with its place."""

import bz2
import gzip
import lzma

import pyarrow as pa
import pytest

from e5ft.data.opening import COMPRESSED, kind_of, likely_encoding, open_binary, open_utf8
from e5ft.errors import ConfigurationError, DataError

TEXT = "질문,답변\n배송지는 어떻게 바꾸나요?,마이페이지에서 바꿉니다.\n".encode()
COMPRESS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.Codec("zstd").compress(content, asbytes=True),
}


def text_of(path: str, encoding: str | None = None) -> str:
    file, _ = open_utf8(path, encoding)
    with file:
        return file.read().decode()


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_a_compressed_file_is_read_line_by_line(suffix, write_bytes):
    """Also one of several parts, as `cat a.gz b.gz` makes it."""
    part = COMPRESS[suffix](TEXT * 5000)
    with open_binary(write_bytes(part + part, f"rows.csv{suffix}")) as file:
        lines = list(iter(lambda: file.readline(100), b""))
    assert b"".join(lines) == TEXT * 10_000 and len(lines) == 20_000


@pytest.mark.parametrize("suffix", COMPRESSED)
@pytest.mark.parametrize("kind", ["cut", "not compressed", "damaged"])
def test_a_damaged_archive_is_refused_with_its_name(suffix, kind, write_bytes):
    good = COMPRESS[suffix](bytes(range(256)) * 200)
    at = 1 if suffix == ".zst" else 20  # pyarrow writes no checksum
    content = {"cut": good[:-5], "not compressed": TEXT, "damaged": good[:at] + bytes([good[at] ^ 255]) + good[at + 1 :]}[kind]
    path = write_bytes(content, f"rows.csv{suffix}")
    with pytest.raises(DataError, match="cannot be decompressed") as caught, open_binary(path) as file:
        file.read()
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_a_bomb_is_never_held(write_bytes):
    """50 MB of zeros are some kilobytes; a reader of bounded lines gets no more at a time than it asks for."""
    with open_binary(write_bytes(gzip.compress(bytes(50_000_000)), "rows.csv.gz")) as file:
        assert len(file.readline(1000)) == 1000
        assert len(file.raw._left) <= 1 << 16


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jsonl", ".jsonl"),
        ("A.CSV.GZ", ".csv"),
        ("b.tar.gz", ".tar"),
        ("rows", ""),
        ("x.gz", ""),
        ("v1.2/rows.tsv.zst", ".tsv"),
    ],
)
def test_the_kind_of_a_file_is_the_suffix_below_the_compression(name, kind):
    assert kind_of(name) == kind


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_byte_order_mark_says_the_encoding(encoding, suffix, write_bytes):
    mark = "" if encoding in ("utf-8-sig", "utf-16", "utf-32") else "\ufeff"
    content = (mark + TEXT.decode()).encode(encoding)
    path = write_bytes(gzip.compress(content) if suffix else content, f"rows.csv{suffix}")
    assert text_of(path) == text_of(path, "cp949") == TEXT.decode()


@pytest.mark.parametrize("encoding", ["cp949", "euc-kr", "utf-16", "utf-16-le", "gb18030", "CP949", "utf-8", "utf-8-sig"])
def test_the_encoding_that_is_named_is_read(encoding, write_bytes):
    path = write_bytes(TEXT.decode().encode(encoding), "rows.csv")
    assert text_of(path, encoding) == TEXT.decode()


def test_characters_are_whole_where_chunks_meet(write_bytes):
    text = "가나다라\n" * 60_000
    assert text_of(write_bytes(b"a" + text.encode("cp949")), "cp949") == "a" + text


def test_a_file_of_utf8_is_read_as_such_whatever_encoding_is_named(write_bytes):
    """One setting serves a file in cp949 and another in UTF-8; UTF-8's bytes would be other words in cp949."""
    assert text_of(write_bytes(TEXT), "cp949") == TEXT.decode()


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp949", "질문,답변\n배송지는 어떻게 바꾸나요?,설정에서\n"),
        ("cp949", "query,document\nq,뷁 똠방각하\n"),
        ("cp932", "質問,回答\n配送先を変更する方法を教えてください。,設定で\n"),
        ("euc_jp", "質問,回答\n配送先を変更する方法を教えてください。,設定で\n"),
        ("gb18030", "问题,答案\n如何更改送货地址？,请联系总务部门。\n"),
        ("big5", "問題,答案\n如何更改送貨地址？,請聯繫總務部門。\n"),
        ("cp1251", "вопрос,ответ\nКак изменить адрес доставки?,В настройках\n"),
        ("cp1252", "query,document\nOù est la salle de réunion à l'étage ?,Änderung der Größe\n"),
    ],
)
def test_an_encoding_that_is_likely_is_named_ready_to_paste(encoding, text, write_bytes):
    path = write_bytes(text.encode(encoding), "rows.csv")
    assert likely_encoding(text.encode(encoding)) == encoding
    with pytest.raises(DataError, match=f"not UTF-8 but {encoding.upper()}, as it seems; data.encoding={encoding} ") as caught:
        open_utf8(path)
    assert "\n" not in str(caught.value)
    assert text_of(path, encoding) == text


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_is_named(encoding, write_bytes):
    with pytest.raises(DataError, match=f"UTF-16 without a byte order mark, as it seems; data.encoding={encoding}$"):
        open_utf8(write_bytes('{"query": "질문", "document": "답변"}\n'.encode(encoding)))


@pytest.mark.parametrize("content", [TEXT + "질문".encode("cp949"), bytes(range(128, 256)), b"\x81\xff\x81"])
def test_no_encoding_is_guessed_for_a_damaged_file(content, write_bytes):
    file, found = open_utf8(write_bytes(content))
    with file:
        assert (file.read(), found) == (content, "")


def test_a_byte_that_does_not_fit_is_refused_with_its_line(write_bytes):
    path = write_bytes("가\n나\n".encode("cp949") + b"a\xff\xff\n")
    with pytest.raises(DataError) as caught:
        text_of(path, "cp949")
    assert str(caught.value) == (
        f"{path}:3: bytes that are not CP949; data.encoding must be the encoding of the whole file; "
        "if it is, leave out what is broken: iconv -c -f cp949 -t utf-8 FILE > NEW"
    )


def test_a_few_broken_bytes_hide_no_encoding(write_bytes):
    path = write_bytes("\n".join(["질문과 답변"] * 90).encode("cp949") + b"\n\xff\xff\n")
    with pytest.raises(DataError, match="data.encoding=cp949"):
        text_of(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(b"{}", mtime=0), "gzip: add .gz"),
        (b"PK\x03\x04\x14\x00", "a zip archive, as Excel writes: name a workbook .xlsx"),
        (b"PAR1\x15\x04", "Parquet: name it .parquet"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS: git lfs pull"),
        (b"<!DOCTYPE html>\n<html>", "a web page"),
    ],
)
def test_a_file_under_a_wrong_name_is_refused_by_what_it_is(content, words, write_bytes):
    path = write_bytes(content)
    with pytest.raises(DataError) as caught:
        text_of(path)
    assert str(caught.value).startswith(f"{path}: no text but {words}")


@pytest.mark.parametrize("encoding", ["cp94", "rot13", "base64", "한글", "zip"])
def test_what_is_no_text_encoding_is_refused(encoding, write_bytes):
    with pytest.raises(ConfigurationError, match=f"data.encoding={encoding}: Python knows no such text encoding"):
        open_utf8(write_bytes(TEXT), encoding)
