"""Arrow files, several files as one source, and what the hub's library says."""

import datasets
import pyarrow as pa
import pytest

from e5ft.data.formats import raw_rows
from e5ft.data.settings import Reading
from e5ft.errors import DataError

TABLE = pa.table({"query": [f"q{i}" for i in range(2500)], "document": [["d"]] * 2500})


def read(source, **reading) -> list:
    return list(raw_rows(source, Reading(**reading), []))


@pytest.mark.parametrize("writer", [pa.ipc.new_stream, pa.ipc.new_file])
def test_arrow_is_read_as_a_stream_and_with_a_footer(writer, tmp_path):
    path = str(tmp_path / "rows.arrow")
    with writer(path, TABLE.schema) as file:
        file.write_table(TABLE)
    found = read(path)
    assert [row for _, row in found] == TABLE.to_pylist() and str(found[-1][0]) == f"{path}:2500"


@pytest.mark.parametrize("content", [b"", b"ARROW1", b"not arrow at all", b"\xff\xff\xff\xff\x10\x00\x00\x00"])
def test_a_damaged_arrow_file_is_refused(content, write_bytes):
    with pytest.raises(DataError, match=r"rows.arrow(:1: not readable as Arrow \(|: the file holds no rows)"):
        read(write_bytes(content, "rows.arrow"))


def test_pandas_index_in_parquet_is_left_out(tmp_path):
    frame = TABLE.to_pandas()
    frame.iloc[[5, 7, 8]].to_parquet(tmp_path / "rows.parquet")
    notes = []
    rows = [row for _, row in raw_rows(str(tmp_path / "rows.parquet"), Reading(), notes)]
    assert rows == [TABLE.to_pylist()[number] for number in (5, 7, 8)]
    assert [text.rpartition(": ")[2] for _, text in notes] == ["index column left out"]


def test_an_empty_file_among_others_is_nothing_and_all_empty_is_refused(tmp_path):
    for name, content in {"a.jsonl": "", "b.jsonl": '{"query": "q"}', "c.jsonl": "\n"}.items():
        (tmp_path / name).write_text(content)
    notes = []
    assert len(list(raw_rows(str(tmp_path), Reading(), notes))) == 1
    assert notes == [("read", f"{tmp_path}: 3 files, a.jsonl to c.jsonl"), ("read", f"{tmp_path}: 2 empty files left out")]
    (tmp_path / "b.jsonl").write_text("")
    with pytest.raises(DataError, match=r"c\.jsonl: the file holds no rows"):
        read(str(tmp_path))


@pytest.mark.parametrize(
    ("error", "asked", "wanted"),
    [
        (
            "Config name is missing.\nPlease pick one among the available configs: ['ko', 'en']\nExample of usage: ...",
            {},
            "someone/rows: several configurations; there are ko, en: data.config=ko",
        ),
        (
            "BuilderConfig 'fr' not found. Available: ['ko', 'en']",
            {"config": "fr"},
            "someone/rows: no such data.config=fr; there are ko, en: data.config=ko",
        ),
        (
            "Unknown split \"dev\". Should be one of ['train', 'test'].",
            {"split": "dev"},
            "someone/rows: no such data.split=dev; there are train, test: data.split=train",
        ),
    ],
)
def test_what_there_is_on_the_hub_is_named_ready_to_paste(error, asked, wanted, monkeypatch):
    def load_dataset(name, config, split, revision):
        raise ValueError(error)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError) as caught:
        read("someone/rows", **asked)
    assert str(caught.value) == wanted
