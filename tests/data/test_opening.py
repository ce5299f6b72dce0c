"""Compressed files read as the plain ones are, and never a part for the whole."""

import bz2
import gzip
import lzma

import pyarrow
import pytest

from e5ft.data.lines import raw_lines, read_json_lines
from e5ft.data.opening import COMPRESSED, open_binary
from e5ft.errors import DataError

CONTENT = "".join(f'{{"text": "글 {i}"}}\n' for i in range(3000)).encode()
COMPRESS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pyarrow.compress(content, codec="zstd", asbytes=True),
}


@pytest.fixture(params=COMPRESSED)
def compressed(request, tmp_path):
    """Write bytes compressed; (path, what they became)."""

    def write(content, change=lambda made: made):
        path = tmp_path / f"rows.jsonl{request.param}"
        path.write_bytes(change(COMPRESS[request.param](content)))
        return path

    return write


def test_the_bytes_are_the_plain_ones(compressed, tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(CONTENT)
    for path in (compressed(CONTENT), tmp_path / "rows.jsonl"):
        with open_binary(path) as file:
            assert file.read() == CONTENT
    rows = list(read_json_lines(compressed(CONTENT)))
    assert len(rows) == 3000 and rows[7][1] == {"text": "글 7"} and rows[7][0].line == 8


def test_parts_behind_one_another_are_one_file(compressed):
    assert b"".join(raw_lines(compressed(CONTENT, lambda made: made + made))) == CONTENT * 2


@pytest.mark.parametrize("change", [lambda made: made[: len(made) // 2], lambda made: made[:-5], lambda made: b"x" + made])
def test_a_cut_or_damaged_file_is_refused(compressed, change):
    with pytest.raises(DataError, match=r"rows\.jsonl\.\w+:\d+: cannot be read on \(.*is the file whole\?"):
        list(raw_lines(compressed(CONTENT, change)))


def test_a_byte_order_mark_is_left_out(compressed):
    assert list(raw_lines(compressed(b"\xef\xbb\xbfa\nb\n"))) == [b"a\n", b"b\n"]
