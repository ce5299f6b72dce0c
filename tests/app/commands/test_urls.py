"""Data named by URLs in whole jobs: the same result as from local files, the URL in the record, and no credentials anywhere."""

import sys
from pathlib import Path

import fsspec
import pytest
from e5ft.app.configuration import PROJECT, check_words
from e5ft.app.datasets import load_evaluation_set, load_training_data
from e5ft.app.mining_data import load_mining_data

from e5ft.app import job
from e5ft.errors import ConfigurationError, DataError

SAMPLE = PROJECT / "data" / "sample"


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
    data = load_training_data(composed("train", *given))
    local = load_training_data(composed("train"))
    assert data.train.digest == local.train.digest and data.label == f"{bucket}/train.jsonl"
    assert (data.test.name, data.keep[0].name) == ("ko-test", "other-test")
    assert data.test.qrels == local.test.qrels and data.dev.qrels == local.dev.qrels
    assert data.train.place(0) == f"{bucket}/train.jsonl:1"


def test_a_mix_and_dev_rows_from_urls(composed, bucket):
    given = ["data=mix", f"data.sources={{a: '{bucket}/train.jsonl', b: {SAMPLE / 'train.jsonl'}}}"]
    data = load_training_data(composed("train", *given, f"data.dev_file={bucket}/train.jsonl"))
    assert data.train.files == (f"{bucket}/train.jsonl", str(SAMPLE / "train.jsonl")) and data.dev.name == "train"


def test_evaluation_and_mining_read_urls(composed, bucket, tmp_path):
    assert load_evaluation_set(composed("eval", f"data.eval_dir={bucket}/ko/eval")).name == "ko-test"
    corpus = f"corpus_file={bucket}/ko/eval/corpus.jsonl"
    url = load_mining_data(composed("mine", f"rows_dir={bucket}/ko/eval", "rows_split=test", corpus, "data.dev_file=null"))
    folder = SAMPLE / "eval"
    local = load_mining_data(composed("mine", f"rows_dir={folder}", "rows_split=test", f"corpus_file={folder}/corpus.jsonl"))
    assert list(url.problem.passages) == list(local.problem.passages) and url.label == f"{bucket}/ko/eval (test)"
    held_out = [f"rows_dir={bucket}/ko/eval", f"data.eval_dir={bucket}/ko/eval", "rows_split=test", "held_out=judged"]
    assert load_mining_data(composed("mine", *held_out)).problem.candidates > 0  # the split that is mined for is not held out


def test_a_missing_split_names_the_url(composed, bucket):
    with pytest.raises(DataError, match=f"{bucket}/ko/eval/qrels/other.tsv: no such file; the splits there are: "):
        load_evaluation_set(composed("eval", f"data.eval_dir={bucket}/ko/eval", "data.eval_split=other"))


def test_credentials_are_refused_before_anything_is_written(composed, tmp_path, monkeypatch, capsys):
    secret = "data.keep_dir=['https://me:hunter2@host/ko']"
    with pytest.raises(ConfigurationError, match=r"data.keep_dir\[0\]: the URL carries credentials"):
        check_words(composed("train", secret))
    monkeypatch.setattr(sys, "argv", ["train.py", secret])
    with pytest.raises(SystemExit) as ended:
        job.run_script(lambda: Path("outputs").mkdir())
    told = capsys.readouterr().err
    assert ended.value.code == 2 and "data.keep_dir: the URL carries credentials" in told and "hunter2" not in told
    assert not Path("outputs").exists()
