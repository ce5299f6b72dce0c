"""Data named by URLs in whole jobs: the same result as from local files, the URL in the record, and no credentials anywhere."""

import sys
from pathlib import Path

import fsspec
import pytest

from e5ft.app.commands.data import load_evaluation_set, load_mining_data, load_training_data
from e5ft.app.runs import script
from e5ft.app.settings.build import shipped
from e5ft.app.settings.plan import plan
from e5ft.errors import DataError

SAMPLE = shipped("data/sample")


def training(settings):
    return load_training_data(plan(settings), settings)


def mining(settings):
    return load_mining_data(plan(settings), settings)


@pytest.fixture
def bucket(tmp_path):
    """The shipped sample in fsspec's memory."""
    storage = fsspec.filesystem("memory")
    storage.store.clear()
    storage.put(str(SAMPLE / "train.jsonl"), "/bucket/train.jsonl")
    for file in (SAMPLE / "eval").rglob("*.*"):
        storage.pipe_file(f"/bucket/ko/eval/{file.relative_to(SAMPLE / 'eval')}", file.read_bytes())
    yield "memory://bucket"
    storage.store.clear()


def test_training_data_from_urls(composed, bucket):
    for file in (SAMPLE / "eval").rglob("*.*"):
        fsspec.filesystem("memory").pipe_file(f"/bucket/other/{file.relative_to(SAMPLE / 'eval')}", file.read_bytes())
    given = [f"data.eval_dir={bucket}/ko/eval", f"data.keep_dir=[{bucket}/other]", f"data.train_file={bucket}/train.jsonl"]
    data = training(composed("train", *given))
    local = training(composed("train"))
    assert data.train.digest == local.train.digest and data.label == f"{bucket}/train.jsonl"
    assert (data.test.name, data.keep[0].name) == ("ko-test", "other-test")
    assert data.test.qrels == local.test.qrels and data.dev.qrels == local.dev.qrels
    assert data.train.place(0) == f"{bucket}/train.jsonl:1"


def test_a_mix_and_dev_rows_from_urls(composed, bucket):
    given = ["data=mix", f"data.sources={{a: '{bucket}/train.jsonl', b: {SAMPLE / 'train.jsonl'}}}"]
    data = training(composed("train", *given, f"data.dev_file={bucket}/train.jsonl"))
    assert data.train.files == ((f"{bucket}/train.jsonl",), (str(SAMPLE / "train.jsonl"),)) and data.dev.name == "train"


def test_evaluation_and_mining_read_urls(composed, bucket, tmp_path):
    assert load_evaluation_set(composed("eval", "model.path=.", f"data.eval_dir={bucket}/ko/eval")).name == "ko-test"
    corpus = f"data.corpus_file={bucket}/ko/eval/corpus.jsonl"
    url = mining(composed("mine", f"rows_dir={bucket}/ko/eval", "rows_split=test", corpus, "data.dev_file=null"))
    folder = SAMPLE / "eval"
    local = mining(composed("mine", f"rows_dir={folder}", "rows_split=test", f"data.corpus_file={folder}/corpus.jsonl"))
    assert list(url.index.passages) == list(local.index.passages) and url.label == f"{bucket}/ko/eval (test)"
    held_out = [f"rows_dir={bucket}/ko/eval", f"data.eval_dir={bucket}/ko/eval", "rows_split=test", "held_out=judged"]
    assert mining(composed("mine", *held_out)).index.candidates > 0  # the split that is mined for is not held out


def test_a_missing_split_names_the_url(composed, bucket):
    with pytest.raises(DataError, match=f"{bucket}/ko/eval/qrels/other.tsv: no such file; the splits there are: "):
        load_evaluation_set(composed("eval", "model.path=.", f"data.eval_dir={bucket}/ko/eval", "data.eval_split=other"))


def test_credentials_are_refused_before_anything_is_written(composed, tmp_path, monkeypatch, capsys):
    secret = "data.keep_dir=['https://me:hunter2@host/ko']"
    monkeypatch.setattr(sys, "argv", ["train.py", secret])
    monkeypatch.setattr(script.hydra, "main", lambda **_: lambda job: lambda: Path("outputs").mkdir())
    with pytest.raises(SystemExit) as ended:
        script.run("train")
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and "data.keep_dir: the URL carries credentials" in printed and "hunter2" not in printed
    assert not Path("outputs").exists()
