"""Keep sets: loaded and named, measured before and after, and shown beside the target."""

import json
import shutil

import pytest

from e5ft.app.configuration import PROJECT
from e5ft.app.datasets import load_training_data
from e5ft.errors import ConfigurationError, DataError
from e5ft.files import read_json
from tests.app.conftest import TINY

SAMPLE = PROJECT / "data/sample/eval"


@pytest.fixture
def keep(tmp_path):
    """A folder with another question about a part of the sample's corpus: the first 40 test queries."""

    def make(name: str):
        folder = tmp_path / name
        shutil.copytree(SAMPLE, folder)
        for split in ("dev", "test"):
            lines = (SAMPLE / f"qrels/{split}.tsv").read_text().splitlines(keepends=True)
            (folder / f"qrels/{split}.tsv").write_text("".join(lines[:41]))
        return folder

    return make


def test_the_run_measures_what_it_cost(trained, keep, capsys):
    first, second = keep("wiki/eval"), keep("law")
    _, folder = trained(f"data.keep_dir=[{first},{second}]", "training.max_steps=3")
    summary, printed = read_json(folder / "summary.json"), capsys.readouterr().out
    assert [(entry["set"], entry["passages"]) for entry in summary["keep"]] == [("wiki-test", 256), ("law-test", 256)]
    for entry in summary["keep"]:
        for name, saved in (("before", "base"), ("bm25", "bm25"), ("after", "final")):
            written = read_json(folder / "eval" / entry["set"] / saved / "metrics.json")
            assert entry["scores"][name]["metrics"] == written["metrics"] and entry["queries"] == written["queries"]
            assert entry["scores"][name]["intervals"] == written["intervals"]
        metrics = [entry["scores"][when]["metrics"]["ndcg@10"] for when in ("before", "after")]
        assert entry["differences"]["ndcg@10"]["mean"] == pytest.approx(metrics[1] - metrics[0])
    for text in (printed, (folder / "model/README.md").read_text()):
        shown = [line for line in text.splitlines() if any(name in line for name in ("wiki-test", "law-test"))]
        assert len(shown) == 2 and all(f"{summary['keep'][0]['differences']['ndcg@10']['mean']:+.3f}" in line for line in shown)
    assert "What it cost elsewhere" in (folder / "model/README.md").read_text()


def test_the_figures_go_to_the_mirror(trained, keep, monkeypatch):
    from e5ft.app.mirror import WandbMirror

    sent = {}
    monkeypatch.setattr(WandbMirror, "send", lambda self, values, step=None: sent.update(values))
    _, folder = trained(f"data.keep_dir={keep('law')}", "training.max_steps=1", "evaluation.bm25=null")
    entry = read_json(folder / "summary.json")["keep"][0]
    assert "bm25" not in entry["scores"]
    assert sent["keep/law-test/ndcg@10"] == entry["scores"]["after"]["metrics"]["ndcg@10"]


def test_without_keep_sets_nothing_is_said(trained, capsys):
    _, folder = trained("training.max_steps=1")
    assert read_json(folder / "summary.json")["keep"] == []
    assert "elsewhere" not in (folder / "model/README.md").read_text() and "kept" not in capsys.readouterr().out


def test_one_folder_or_a_list_or_nothing(composed, keep):
    folder = keep("law")
    for value, names in ((folder, ["law-test"]), (f"[{folder}]", ["law-test"]), ("[]", []), ("null", [])):
        data = load_training_data(composed("train", *TINY, f"data.keep_dir={value}"))
        assert [kept.name for kept in data.keep] == names


def test_the_split_is_the_target_s(composed, keep):
    data = load_training_data(composed("train", *TINY, f"data.keep_dir={keep('law')}", "data.eval_split=dev"))
    assert [kept.name for kept in data.keep] == ["law-dev"]


def test_sets_of_one_name_are_refused_and_a_link_tells_them_apart(composed, keep, tmp_path):
    first, second = keep("a/law/eval"), keep("b/law/eval")
    for folders in (f"[{first},{second}]", f"[{first},{first}]", f"[{SAMPLE}]"):
        with pytest.raises(ConfigurationError, match=r"it would be named (law|sample)-test, as .* is"):
            load_training_data(composed("train", *TINY, f"data.keep_dir={folders}"))
    (tmp_path / "other").symlink_to(second)
    data = load_training_data(composed("train", *TINY, f"data.keep_dir=[{first},{tmp_path / 'other'}]"))
    assert [kept.name for kept in data.keep] == ["law-test", "other-test"]


def test_what_is_not_there_is_told_before_anything_is_read(composed, keep, tmp_path):
    folder = keep("law")
    (folder / "qrels/test.tsv").unlink()
    rows = tmp_path / "absent.jsonl"  # would be an error of its own
    cases = (("nowhere", DataError, "nowhere: no such folder"), (f"[{folder}]", DataError, "the splits there are: dev"))
    for value, kind, message in (
        *cases,
        ("[3]", ConfigurationError, "names of folders are needed"),
        ("3", ConfigurationError, "keep_dir=3"),
    ):
        with pytest.raises(kind, match=message):
            load_training_data(composed("train", *TINY, f"data.keep_dir={value}", f"data.train_file={rows}"))


def test_a_faulty_keep_set_ends_the_run_before_training(trained, keep, monkeypatch):
    from e5ft.app.training import _Job

    monkeypatch.setattr(_Job, "_train", lambda *_: pytest.fail("trained"))
    folder = keep("law")
    with open(folder / "corpus.jsonl", "a") as file:
        file.write(json.dumps({"_id": "x"}) + "\n")
    with pytest.raises(DataError, match="corpus.jsonl:257"):
        trained(f"data.keep_dir={folder}", "training.max_steps=1")
