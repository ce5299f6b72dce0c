"""Data named by URLs, over fsspec's file system in memory and a web server on this machine."""

import errno
import functools
import gzip
import http.server
import sys
import threading

import fsspec
import pytest

from e5ft.data.remote import check_url, is_url, local_file
from e5ft.data.settings import Columns, Reading
from e5ft.data.store import load_rows
from e5ft.errors import ConfigurationError, DataError, StorageError
from e5ft.retrieval.beir import set_folder
from e5ft.retrieval.layouts import find_files, splits_of
from e5ft.retrieval.sets import load_beir
from tests.conftest import damage

ROW = b'{"query": "q", "document": "d"}\n'
SET = {
    "corpus.jsonl": b'{"_id": "d1", "text": "a b"}\n{"_id": "d2", "text": "c"}\n',
    "queries.jsonl": b'{"_id": "q1", "text": "a"}\n',
    "qrels/test.tsv": b"q1\td1\t1\n",
    "qrels/dev.tsv": b"q1\td2\t1\n",
    "notes.txt": b"not fetched",
}


@pytest.fixture
def put():
    """Write an object to memory://bucket; nothing of it is left for the next test."""
    storage = fsspec.filesystem("memory")
    storage.store.clear()
    yield lambda name, content: storage.pipe_file(f"/bucket/{name}", content)
    storage.store.clear()


@pytest.fixture
def serve(tmp_path):
    """A web server of the folder tmp_path/web; the requests that it saw."""
    root, seen = tmp_path / "web", []
    root.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, form, *arguments):
            seen.append((self.command, self.path))

        def list_directory(self, path):
            self.send_error(403)  # as most do

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield root, f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    server.server_close()


def test_rows_are_read_and_places_name_the_url(put, tmp_path):
    put("rows.jsonl", ROW + b'{"query": "", "document": "d"}\n')
    url = "memory://bucket/rows.jsonl"
    with pytest.raises(DataError, match="memory://bucket/rows.jsonl:2: query is blank"):
        load_rows(url, Columns(), tmp_path)
    store = load_rows(url, Columns(), tmp_path, on_bad_row="skip")
    assert [row.query for row in store] == ["q"] and store.place(0) == f"{url}:1" and store.source == url


def test_rows_name_passages_of_a_corpus_by_url(put, tmp_path):
    put("corpus.jsonl", b'{"_id": "doc-1", "text": "one"}\n')
    put("rows.jsonl", b'{"query": "q", "doc_id": "doc-1"}\n')
    reading = Reading(corpus_file="memory://bucket/corpus.jsonl")
    store = load_rows("memory://bucket/rows.jsonl", Columns(), tmp_path, reading=reading)
    assert [row.positives for row in store] == [("one",)]
    assert ("corpus", "1 passages of memory://bucket/corpus.jsonl, which the rows name by id") in store.notes


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.parquet", "rows.json", "rows.txt"])
def test_faults_of_every_kind_of_file_name_the_url(name, put, tmp_path):
    put(name, b"query,query\n")
    with pytest.raises(DataError) as caught:
        load_rows(f"memory://bucket/{name}", Columns(), tmp_path)
    assert f"memory://bucket/{name}" in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_an_object_is_fetched_once_until_it_changes(put, tmp_path, monkeypatch):
    fetched, storage = [], fsspec.filesystem("memory")
    plain = type(storage).get_file
    monkeypatch.setattr(type(storage), "get_file", lambda self, *given, **more: fetched.append(1) or plain(self, *given, **more))
    put("rows.jsonl", ROW)
    first = local_file("memory://bucket/rows.jsonl", tmp_path)
    again = local_file("memory://bucket/rows.jsonl", tmp_path)
    assert first == again and len(fetched) == 1 and first.path.read_bytes() == ROW
    put("rows.jsonl", ROW.replace(b"q", b"p"))  # as many bytes
    changed = local_file("memory://bucket/rows.jsonl", tmp_path)
    assert len(fetched) == 2 and changed.path.read_bytes() != ROW == first.path.read_bytes()


@pytest.mark.parametrize("harm", ["flipped", "half", "empty", "missing"])
def test_a_damaged_copy_is_fetched_again_and_named(harm, put, tmp_path, caplog):
    put("rows.jsonl", ROW)
    copy = local_file("memory://bucket/rows.jsonl", tmp_path).path
    damage(copy, harm)
    assert local_file("memory://bucket/rows.jsonl", tmp_path).path.read_bytes() == ROW
    (line,) = (line for line in caplog.messages if "damaged" in line)
    assert line.startswith(f"{copy.parents[1]}: damaged (files/rows.jsonl ") and line.endswith("); building it again")


def test_a_file_may_have_the_name_of_the_manifest(put, tmp_path):
    put("manifest.json", ROW)
    for _ in range(2):
        assert local_file("memory://bucket/manifest.json", tmp_path).path.read_bytes() == ROW


def test_a_full_disk_is_not_taken_for_the_network(put, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    put("rows.jsonl", ROW)
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "get_file", full)
    with pytest.raises(StorageError, match=rf"^{tmp_path}: cannot be written \(the disk is full\); .*cache_dir=DIR$"):
        local_file("memory://bucket/rows.jsonl", tmp_path)


def test_half_an_object_is_no_object(put, tmp_path, monkeypatch):
    put("rows.jsonl", ROW)
    with monkeypatch.context() as patch:
        cut = lambda self, source, target: open(target, "wb").write(ROW[:5])  # noqa: E731, SIM115
        patch.setattr(type(fsspec.filesystem("memory")), "get_file", cut)
        with pytest.raises(DataError, match="memory://bucket/rows.jsonl: 5 of 32 bytes"):
            local_file("memory://bucket/rows.jsonl", tmp_path)
    assert not list(tmp_path.glob("remote-*/*"))
    assert local_file("memory://bucket/rows.jsonl", tmp_path).path.read_bytes() == ROW


def test_a_web_server(serve, tmp_path):
    root, address, seen = serve
    (root / "rows.jsonl").write_bytes(ROW)
    for _ in range(2):
        store = load_rows(f"{address}/rows.jsonl?download=true", Columns(), tmp_path / "cache")
        assert [row.query for row in store] == ["q"]
    with pytest.raises(DataError, match=f"{address}/none.jsonl: there is no such file"):
        load_rows(f"{address}/none.jsonl", Columns(), tmp_path / "cache")


def test_an_evaluation_set_of_a_server_that_lists_nothing(serve, tmp_path):
    root, address, _ = serve
    for name, content in SET.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
    folder = set_folder(address, "test", tmp_path / "cache")
    assert splits_of(folder) == ["dev", "test"] and len(load_beir(folder, "test").passages) == 2


def test_an_evaluation_set(put, tmp_path):
    for name, content in {**SET, "qrels/train.tsv": b"q1\td1\t1\n"}.items():
        put(f"ko/{name}", content)
    folder = set_folder("memory://bucket/ko/", "test", tmp_path)
    find_files(folder, "test")
    loaded = load_beir(folder, "test")
    assert list(loaded.passages) == ["a b", "c"] and splits_of(folder) == ["dev", "test", "train"]
    assert not (folder.path / "notes.txt").exists()
    with pytest.raises(
        DataError, match="memory://bucket/ko/qrels/other.tsv: no such file; the splits there are: dev, test, train"
    ):
        find_files(folder, "other")
    put("ko/qrels/test.tsv", b"q1\td9\t1\n")
    with pytest.raises(DataError, match="memory://bucket/ko/qrels/test.tsv:1: passage 'd9'"):
        load_beir(set_folder("memory://bucket/ko/", "test", tmp_path), "test")


@pytest.mark.parametrize("name", ["qrels.tsv", "qrels.test.txt", "qrels/test.txt", "qrels/test.tsv.gz"])
def test_judgements_of_other_names_beside_an_archive_s_corpus(name, put, tmp_path):
    for part in ("corpus.jsonl", "queries.jsonl"):
        put(f"ko/{part}", SET[part])
    judged = b"q1 0 d1 1\n"
    put(f"ko/{name}", gzip.compress(judged) if name.endswith(".gz") else judged)
    assert load_beir(set_folder("memory://bucket/ko", "test", tmp_path), "test").qrels == {"q1": {"d1": 1}}


def test_an_evaluation_set_in_folders_of_a_storage_that_lists(put, tmp_path):
    for name, given in {
        "queries/queries": "queries.jsonl",
        "corpus/corpus": "corpus.jsonl",
        "qrels/test": "qrels/test.tsv",
    }.items():
        put(f"ko/{name}.{given.rpartition('.')[2]}", SET[given])
    put("ko/notes.txt", b"not fetched")
    folder = set_folder("memory://bucket/ko", "test", tmp_path)
    assert list(load_beir(folder, "test").passages) == ["a b", "c"] and not (folder.path / "notes.txt").exists()


@pytest.mark.parametrize(
    ("url", "kind", "message"),
    [
        ("memory://bucket/none.jsonl", DataError, "there is no such file"),
        ("memory://bucket/", DataError, "must be a file"),
        ("nonesuch://bucket/rows.jsonl", ConfigurationError, "Protocol not known"),
        ("http://127.0.0.1:1/rows.jsonl", DataError, "there is no such file .*onnect"),
    ],
)
def test_what_cannot_be_fetched_says_why(url, kind, message, tmp_path):
    with pytest.raises(kind, match=f"^{url}.*{message}"):
        local_file(url, tmp_path)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    away = {"class": "no_such_package.X", "err": "Install awayfs"}
    monkeypatch.setitem(sys.modules["fsspec.registry"].known_implementations, "away", away)
    with pytest.raises(ConfigurationError, match="away://b/rows.jsonl: .*Install awayfs.*pip install s3fs"):
        local_file("away://b/rows.jsonl", tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "https://me:hunter2@host/rows.jsonl",
        "https://hunter2@host/rows.jsonl",
        "s3://key:hunter2/with@bucket/rows.jsonl",
        "https://host/rows.jsonl?X-Amz-Expires=9&X-Amz-Signature=hunter2",
        "https://host/rows.jsonl?sig=hunter2",
        "data.sources={a: rows.jsonl, b: 'https://me:hunter2@host/rows.jsonl'}",
    ],
)
def test_credentials_are_refused_and_not_shown(url, tmp_path):
    with pytest.raises(ConfigurationError, match="data.x: the URL carries credentials") as caught:
        check_url(url, "data.x")
    assert "hunter2" not in str(caught.value)
    if is_url(url):
        with pytest.raises(ConfigurationError, match="carries credentials"):
            local_file(url, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name",
    [
        "s3://bucket/a@b/rows.jsonl",
        "http://host:8000/a@b.jsonl",
        "abfs://container@account.dfs.core.windows.net/rows.jsonl",
        "https://host/rows.jsonl?download=true&versionId=7",
        "zip://rows.jsonl::s3://bucket/a@b.zip",
        "rows.jsonl", 'query: "a:b@c"', 7, None,
    ],
)  # fmt: skip
def test_other_names_pass(name):
    check_url(name)
