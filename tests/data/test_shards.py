"""Which files a name stands for: lists, globs, folders of shards, a hub's repository on disk and what save_to_disk wrote."""

import json
from pathlib import Path

import datasets
import pytest

from e5ft.data.formats import raw_rows
from e5ft.data.rows import read_rows
from e5ft.data.settings import Columns, Reading
from e5ft.data.shards import display, find_shards, stem, unread
from e5ft.errors import DataError

AS_IS = Reading()
ROW = '{"query": "q", "document": "d"}\n'


@pytest.fixture
def make_files(tmp_path, monkeypatch):
    """Small files below the current folder."""
    monkeypatch.chdir(tmp_path)

    def make(*names: str) -> Path:
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(ROW, encoding="utf-8")
        return tmp_path

    return make


def refusal(source, reading: Reading = AS_IS) -> str:
    with pytest.raises(DataError) as caught:
        find_shards(source, reading)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_of_a_folder_are_read_in_order_and_what_describes_them_is_not(make_files):
    make_files("s/part-10.jsonl", "s/part-02.jsonl", "s/README.md", "s/.gitattributes", "s/dataset_info.json", "s/_SUCCESS")
    make_files("s/.cache/x.jsonl", "s/LICENSE.txt")
    assert find_shards("s", AS_IS) == ("s/part-02.jsonl", "s/part-10.jsonl")
    assert find_shards(Path("s/"), AS_IS) == ("s/part-02.jsonl", "s/part-10.jsonl")


def test_a_list_keeps_its_order_and_may_mix_kinds(make_files):
    make_files("b.jsonl", "a.csv", "s/1.jsonl.gz", "s/2.jsonl.gz")
    assert find_shards(("b.jsonl", "a.csv", "s/*.gz"), AS_IS) == ("b.jsonl", "a.csv", "s/1.jsonl.gz", "s/2.jsonl.gz")
    assert refusal(["b.jsonl", "*.jsonl"]) == "b.jsonl: named twice; each row would be there twice"
    assert refusal([]) == "an empty list of files; must name at least one"


def test_globs(make_files):
    make_files("s/b.jsonl", "s/a.json", "s/deep/c.jsonl", "s/x[1].jsonl")
    assert find_shards("s/?.json*", AS_IS) == ("s/a.json", "s/b.jsonl")
    assert find_shards("s/**/[bc].jsonl", AS_IS) == ("s/b.jsonl", "s/deep/c.jsonl")
    assert find_shards("s/x[1].jsonl", AS_IS) == ("s/x[1].jsonl",)  # a file of that name is meant, not a glob
    assert refusal("s/*.csv") == "s/*.csv: no file matches"


def test_files_of_several_kinds_are_refused(make_files):
    make_files("s/a.jsonl", "s/b.csv", "s/c.jsonl")
    wanted = "files of several kinds (2 .jsonl, 1 .csv); name one kind, for instance 's/*.jsonl'"
    assert refusal("s") == f"s: {wanted}" and refusal("s/*") == f"s/*: {wanted}"


@pytest.mark.parametrize(("asked", "found"), [("train", "train"), ("validation", "validation"), ("dev", "validation")])
def test_a_hub_s_repository_is_read_by_split(asked, found, make_files):
    names = [f"r/data/{split}-0000{i}-of-00002.parquet" for split in ("train", "validation") for i in range(2)]
    make_files(*names, "r/README.md")
    chosen = find_shards("r", Reading(split=asked))
    assert list(chosen) == [name for name in names if found in name]


def test_splits_by_folder_and_configurations(make_files):
    make_files("r/ko/train/a.jsonl", "r/ko/test/a.jsonl", "r/en/train.jsonl")
    assert refusal("r") == "r: 2 folders (en, ko); data.config=en, or all: 'r/**/*'"
    assert find_shards("r", Reading(config="ko", split="test")) == ("r/ko/test/a.jsonl",)
    assert refusal("r", Reading(config="en", split="test")) == "r/en: no split data.split=test; there are train: data.split=train"


def test_what_a_folder_s_split_leaves_unread_is_said(make_files):
    make_files("s/train_ticket_faq.jsonl", "s/test_drive_faq.jsonl", "s/val-1.jsonl", "s/val-2.jsonl", "s/README.md")
    for asked, rest in (
        ("train", "test_drive_faq.jsonl (data.split=test) and val-1.jsonl (data.split=validation)"),
        ("test", "train_ticket_faq.jsonl (data.split=train) and val-1.jsonl (data.split=validation)"),
    ):
        notes = []
        assert len(list(raw_rows("s", Reading(split=asked), notes))) == 1
        assert [text.partition(", ")[2] for _, text in notes] == [
            f"not read, since the name says another split: {rest}; all of them: 's/**/*'"
        ]
    notes = []
    assert len(list(raw_rows("s/**/*", AS_IS, notes))) == 4 and "not read" not in notes[0][1]
    make_files("t/a-1.jsonl", "t/a-2.jsonl", "u/train-1.jsonl", "u/train-2.jsonl")
    assert list(unread(["t", "u"], find_shards(["t", "u"], AS_IS))) == []


def test_an_evaluation_set_is_no_folder_of_shards(make_files):
    make_files("e/corpus.jsonl", "e/queries.jsonl", "e/qrels/test.tsv")
    assert refusal("e") == "e: an evaluation set in BEIR's layout; data.eval_dir=e, or rows_dir=e of mine.py"


def test_a_file_of_no_split_beside_others_is_refused(make_files):
    make_files("r/train.jsonl", "r/more.jsonl")
    assert refusal("r").startswith("r: more.jsonl is of no split, train.jsonl is; name the files: ")


def test_save_to_disk_is_read(tmp_path):
    rows = [{"query": f"q{i}", "document": ["d", f"e{i}"], "hard_negative": [f"n{j}" for j in range(i % 3)]} for i in range(10)]
    made = datasets.Dataset.from_list(rows)
    made.save_to_disk(tmp_path / "one", num_shards=3)
    datasets.DatasetDict({"train": made, "test": made.select(range(2))}).save_to_disk(tmp_path / "both")

    def read(name: str, **reading) -> list:
        return [value for _, value in read_rows(str(tmp_path / name), Columns(), Reading(**reading))]

    found = read("one")
    assert [(row.query, list(row.positives), list(row.negatives)) for row in found] == [tuple(row.values()) for row in rows]
    assert read("both") == found and read("both", split="test") == found[:2]
    assert read("both/train/data-00000-of-00001.arrow") == found
    assert refusal(tmp_path / "both", Reading(split="dev")).endswith(
        "no split data.split=dev; there are train, test: data.split=train"
    )
    (tmp_path / "one" / "data-00001-of-00003.arrow").unlink()
    assert "state.json names data-00001-of-00003.arrow, which is not there" in refusal(tmp_path / "one")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.pkl", "a pickle can run code"),
        ("a.txt", "rows need a query and a document column"),
        ("a.xls", "save the sheet as .xlsx or CSV UTF-8"),
        ("a.ods", "save the sheet as .xlsx or CSV UTF-8"),
        ("a.docx", "rows need a query and a document column"),
        ("a.pdf", "rows need a query and a document column"),
        ("a.tar.gz", "an archive; unpack it, and name the folder"),
        ("a.zip", "an archive; unpack it, and name the folder"),
        ("a.parquet.gz", "is compressed in itself; unpack it: gunzip a.parquet.gz"),
        ("a.dat", "unknown kind of file; .jsonl, "),
        ("rows", "unknown kind of file; .jsonl, "),
    ],
)
def test_a_kind_that_is_not_read_says_what_to_do(name, words, make_files):
    make_files(name)
    assert words in refusal(name)


@pytest.mark.parametrize("name", ["no.jsonl", "no.jsonl.gz", "no/such/file", "./no", "no.pkl", "no.xlsx"])
def test_what_is_not_there_is_refused(name, make_files):
    make_files()
    assert refusal(name) == f"{name}: there is no such file"


@pytest.mark.parametrize("name", ["someone/rows", "https://host/rows.jsonl?x=1", "s3://bucket/*.jsonl", "squad"])
def test_hub_names_and_urls_stand_for_themselves(name):
    assert find_shards(name, AS_IS) == (name,)


def test_names_for_a_person():
    assert (display("a.csv"), display(("a", "b", "c")), display(["a"])) == ("a.csv", "a and 2 more", "a")
    assert [stem(name) for name in ("d/dev.csv.gz", "dev.jsonl", ["x/a.b.parquet", "y"], "d/shards/", "s/*.jsonl")] == [
        *("dev", "dev", "a.b", "shards"), "*",
    ]  # fmt: skip


def test_a_fault_names_its_shard_and_line(make_files):
    make_files("s/part-0.jsonl", "s/part-1.jsonl", "s/part-2.jsonl")
    Path("s/part-1.jsonl").write_text(ROW * 2 + json.dumps({"query": "q"}) + "\n")
    places = [str(place) for place, _ in read_rows("s", Columns())]
    assert places == ["s/part-0.jsonl:1", *(f"s/part-1.jsonl:{i}" for i in (1, 2, 3)), "s/part-2.jsonl:1"]


CARD = """---
configs:
- config_name: ko
  data_files:
  - {split: train, path: [korean/a.jsonl]}
  - {split: test, path: korean/b.jsonl}
- config_name: en
  data_files: english/*.jsonl
- config_name: out
  data_files: ../x.jsonl
---
"""


def test_a_card_says_which_files_are_meant(make_files):
    make_files("h/korean/a.jsonl", "h/korean/b.jsonl", "h/english/c.jsonl", "x.jsonl")
    Path("h/README.md").write_text(CARD, encoding="utf-8")
    assert refusal("h") == "h: its README.md lists the configurations ko, en, out; data.config=ko"
    assert find_shards("h", Reading(config="ko")) == ("h/korean/a.jsonl",)
    assert find_shards("h", Reading(config="ko", split="test")) == ("h/korean/b.jsonl",)
    assert find_shards("h", Reading(config="en")) == ("h/english/c.jsonl",)
    assert find_shards("h", Reading(config="korean", split="train")) == ("h/korean/a.jsonl", "h/korean/b.jsonl")
    assert "outside of the folder" in refusal("h", Reading(config="out"))
    Path("h/README.md").write_text("---\nconfigs: [1, {config_name: a, data_files: [{}]}]\n---\n", encoding="utf-8")
    assert refusal("h").startswith("h: 2 folders (english, korean)")


def test_one_file_by_two_names_is_refused(make_files):
    make_files("a.jsonl")
    assert refusal(["a.jsonl", "./a.jsonl"]) == "./a.jsonl: named twice; each row would be there twice"


def test_files_without_a_common_column_are_refused_before_their_columns_are_guessed(make_files):
    make_files("s/b.jsonl")
    Path("s/a.jsonl").write_text('{"_id": "1", "text": "t"}\n', encoding="utf-8")
    with pytest.raises(
        DataError, match=r"s: files of different columns: s/a.jsonl has '_id', 'text', s/b.jsonl 'query', 'document'"
    ):
        list(read_rows("s"))
