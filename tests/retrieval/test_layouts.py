"""One set written in every layout in which such sets are published: each is read as the plain one, or refused."""

import bz2
import gzip
import json
import lzma
import os

import pyarrow
import pyarrow.parquet
import pytest

from e5ft.data.remote import Fetched
from e5ft.errors import DataError
from e5ft.retrieval.beir import set_folder
from e5ft.retrieval.layouts import splits_of
from e5ft.retrieval.sets import load_beir

CORPUS = [{"_id": f"d{i}", "title": f"제목 {i}" * (i % 2), "text": f"글 {i}"} for i in range(6)]
QUERIES = [{"_id": f"q{i}", "text": f"질문 {i}"} for i in range(3)]
QRELS = [{"query-id": f"q{i}", "corpus-id": f"d{i}", "score": i + 1} for i in range(3)]
COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def tsv(rows, header=True, columns=3):
    fixed = [["query-id", "corpus-id", "score"]] * header + [list(map(str, row.values())) for row in rows]
    return "".join("\t".join(row[:1] + ["0"] * (columns - 3) + row[1:]) + "\n" for row in fixed)


def write(root, name, rows):
    """Rows in the format that the name's suffixes say."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return
    packed = COMPRESS.get(path.suffix, bytes)
    kind = path.with_suffix("").suffix if path.suffix in COMPRESS else path.suffix
    if kind in (".jsonl", ".json", ".ndjson"):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        text = {".tsv": tsv(rows), ".csv": tsv(rows).replace("\t", ","), ".txt": tsv(rows, False, 4).replace("\t", " ")}[kind]
    path.write_bytes(packed(text.encode()))


# Names of the corpus's files, among which its rows are divided, of the queries' and the judgements'.
LAYOUTS = {
    "BEIR's archive": (["corpus.jsonl"], "queries.jsonl", "qrels/test.tsv"),
    "compressed": (["corpus.jsonl.gz"], "queries.jsonl.gz", "qrels/test.tsv.gz"),
    "compressed otherwise": (["corpus.jsonl.xz"], "queries.jsonl.bz2", "qrels/test.tsv"),
    "MTEB's of old": (["corpus.jsonl"], "queries.jsonl", "qrels/test.jsonl"),
    "MTEB's": (["corpus/test-00000-of-00001.parquet"], "queries/test-00000-of-00001.parquet", "qrels/test-00000-of-00001.parquet"),
    "MTEB's, judgements in data": (
        [f"corpus/corpus-0000{i}-of-00003.parquet" for i in range(3)],
        "queries/queries-00000-of-00001.parquet", "data/test-00000-of-00001.parquet",
    ),
    "default": (["corpus/corpus.jsonl"], "queries/queries.jsonl", "default/test.jsonl"),
    "all in data": (["data/corpus-00000-of-00001.parquet"], "data/queries-00000-of-00001.parquet", "qrels/test.tsv"),
    "folders in data": (["data/corpus/test.parquet"], "data/queries/test.parquet", "data/qrels/test.parquet"),
    "BEIR's on the hub": (["corpus/corpus-00000-of-00001.parquet"], "queries/queries-00000-of-00001.parquet", "qrels/test.tsv"),
    "one language": (["ko-corpus/test-00000-of-00001.parquet"], "ko-queries/test-00000-of-00001.parquet", "ko-qrels/test.jsonl"),
    "one language's qrels": (["ko-corpus/corpus.jsonl.gz"], "ko-queries/queries.jsonl", "ko/test-00000-of-00001.parquet"),
    "numbered": (["corpus/docs00.jsonl", "corpus/docs01.jsonl"], "queries.json", "qrels/test.txt"),
    "TREC's": (["corpus.jsonl"], "queries.jsonl", "qrels/test.txt"),
    "beside": (["corpus.jsonl"], "queries.jsonl", "qrels.test.tsv"),
    "beside, a lone one": (["corpus.parquet"], "queries.parquet", "qrels.tsv"),
    "commas": (["corpus.ndjson"], "queries.ndjson", "qrels/test.csv"),
}  # fmt: skip


def lay(root, layout):
    corpus, queries, qrels = LAYOUTS[layout]
    for number, name in enumerate(corpus):
        write(root, name, CORPUS[number :: len(corpus)])
    write(root, queries, QUERIES)
    write(root, qrels, QRELS)
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_plain_one(layout, tmp_path):
    plain = load_beir(lay(tmp_path / "plain", "BEIR's archive"), "test", name="x")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/README.md").write_text("---\nconfigs: []\n---\n")
    root = lay(tmp_path / "set", layout)
    assert load_beir(root, "test", name="x") == plain and splits_of(root) == ["test"]


def test_of_several_languages_one_is_named(tmp_path):
    for language in ("ko", "de"):
        for part, rows in (("corpus", CORPUS), ("queries", QUERIES), ("qrels", QRELS)):
            write(tmp_path, f"{language}-{part}/test-00000-of-00001.parquet", rows[: 2 if language == "de" else 6])
    with pytest.raises(DataError, match=f"{tmp_path}: holds the sets de, ko; name one of them: {tmp_path}/de"):
        load_beir(tmp_path, "test")
    assert [len(load_beir(tmp_path / name, "test").queries) for name in ("ko", "de")] == [3, 2]
    fetched = Fetched("hf://datasets/owner/name", tmp_path)
    assert len(load_beir(fetched / "ko", "test").queries) == 3


@pytest.mark.parametrize("layout", ["BEIR's archive", "MTEB's"])
def test_a_folder_of_a_like_name_beside_it_is_none_of_a_whole_set(layout, tmp_path):
    write(tmp_path, "ko-corpus/test.jsonl", CORPUS[:1])
    assert len(load_beir(lay(tmp_path / "ko", layout), "test").passages) == 6


def test_the_corpus_of_the_split_is_taken(tmp_path):
    for split, part in (("dev", slice(0, 2)), ("test", slice(1, 4))):
        write(tmp_path, f"corpus/{split}.jsonl", CORPUS[part])
        write(tmp_path, f"queries/{split}.jsonl", QUERIES[part])
        write(tmp_path, f"qrels/{split}.jsonl", QRELS[part])
    assert splits_of(tmp_path) == ["dev", "test"]
    assert [list(load_beir(tmp_path, split).passage_ids) for split in ("dev", "test")] == [["d0", "d1"], ["d1", "d2", "d3"]]
    write(tmp_path, "qrels/train.jsonl", QRELS)
    with pytest.raises(DataError, match=r"corpus: there is dev\.jsonl, test\.jsonl; must be train\.jsonl or \.parquet, corpus"):
        load_beir(tmp_path, "train")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["documents.jsonl", "queries.jsonl"], r"corpus\.jsonl: no such file; there is documents\.jsonl, qrels/, queries\.jsonl"),
        (["corpus.jsonl"], r"queries\.jsonl: no such file; there is corpus\.jsonl, qrels/; an evaluation set is a folder with"),
        (["corpus.jsonl", "queries.docx"], r"queries\.jsonl: no such file; there is corpus\.jsonl, qrels/, queries\.docx"),
        (["corpus/readme.md", "queries.jsonl"], r"corpus: there is readme\.md; must be test\.jsonl"),
        (["corpus/a-00000-of-00002.jsonl", "queries.jsonl"], r"corpus: 1 of the 2 shards of a are there; fetch all of them"),
    ],
)
def test_another_layout_is_refused_with_what_is_there(names, message, tmp_path):
    write(tmp_path, "qrels/test.tsv", QRELS)
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x\n")
    with pytest.raises(DataError, match=message):
        load_beir(tmp_path, "test")


@pytest.mark.parametrize("name", ["qrels/test.jsonl", "qrels/test.parquet"])
def test_judgements_by_other_keys_are_refused_with_those_that_are_there(name, tmp_path):
    lay(tmp_path, "BEIR's archive")
    (tmp_path / "qrels/test.tsv").unlink()
    write(tmp_path, name, [{"query-id": "q0", "document": "d0", "score": 1}])
    with pytest.raises(
        DataError, match=r"test\.\w+:1: there are 'query-id', 'document', 'score'; must be query-id, corpus-id and"
    ):
        load_beir(tmp_path, "test")


@pytest.mark.parametrize("score", [1, 1.0, "1", "1.0"])
def test_numbers_as_judgements_hold_them(score, tmp_path):
    for name in ("qrels/test.jsonl", "qrels/test.parquet"):
        root = lay(tmp_path / name.rpartition(".")[2], "BEIR's archive")
        (root / "qrels/test.tsv").unlink()
        write(root, name, [{"query-id": "q0", "corpus-id": "d0", "score": score}])
        assert load_beir(root, "test").qrels == {"q0": {"d0": 1}}
    write(root, name, [{"query-id": "q0", "corpus-id": "d0", "score": 0.5}])
    with pytest.raises(DataError, match=r"test\.parquet:1: the relevance 0\.5 is no whole number"):
        load_beir(root, "test")


def test_an_id_that_stands_in_two_shards_names_both(tmp_path):
    lay(tmp_path, "numbered")
    write(tmp_path, "corpus/docs01.jsonl", [*CORPUS[1::2], CORPUS[2]])
    with pytest.raises(DataError, match=r"docs01\.jsonl:4: duplicate id 'd2', first on .*docs00\.jsonl:2"):
        load_beir(tmp_path, "test")


def test_of_several_files_of_one_name_the_plain_one_is_read(tmp_path):
    lay(tmp_path, "BEIR's archive")
    write(tmp_path, "corpus.jsonl.gz", CORPUS[:1])
    write(tmp_path, "corpus/corpus.jsonl", CORPUS[:1])
    assert len(load_beir(tmp_path, "test").passages) == 6


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub's cache with the repository owner/set in it, as huggingface_hub lays it out; the network is off."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    repository, revision = tmp_path / "hub/datasets--owner--set", "a" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(revision)
    return lay(repository / "snapshots" / revision, "MTEB's")


def test_a_hub_data_set_by_name(hub, tmp_path):
    folder = set_folder("owner/set", "test", tmp_path)
    assert str(folder) == "hf://datasets/owner/set" and len(load_beir(folder, "test").passages) == 6
    with pytest.raises(
        DataError, match=r"other/set: no such folder, and no hub data set .*hf download other/set --repo-type dataset"
    ):
        set_folder("other/set", "test", tmp_path)
    os.makedirs("owner/set")  # what is there is never looked for elsewhere
    assert set_folder("owner/set", "test", tmp_path) == type(tmp_path)("owner/set")
    for local in (tmp_path, tmp_path / "a", "./other/set", "set", "~/other/set", "other/set/"):
        assert not isinstance(set_folder(local, "test", tmp_path), Fetched)
