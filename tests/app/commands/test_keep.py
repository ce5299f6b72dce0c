"""Keep sets: loaded and named, measured before and after, and shown beside the target."""

import json
import shutil

import pytest

from e5ft.app.settings.build import shipped
from e5ft.errors import DataError
from e5ft.files import read_json

SAMPLE = shipped("data/sample/eval")


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
        for name, saved in (("before", "base"), ("bm25", "bm25"), ("after", "final"), ("hybrid", "hybrid")):
            written = read_json(folder / "eval" / entry["set"] / saved / "metrics.json")
            assert entry["scores"][name]["metrics"] == written["metrics"] and entry["queries"] == written["queries"]
            assert entry["scores"][name]["intervals"] == written["intervals"]
        assert entry["scores"]["hybrid"]["label"] == summary["scores"]["hybrid"]["label"]  # the weight is the target's
        metrics = [entry["scores"][when]["metrics"]["ndcg@10"] for when in ("before", "after")]
        assert entry["differences"]["ndcg@10"]["mean"] == pytest.approx(metrics[1] - metrics[0])
    for text in (printed, (folder / "model/README.md").read_text()):
        table = (line for line in text.splitlines() if "cannot be seen" not in line)
        shown = [line for line in table if any(name in line for name in ("wiki-test", "law-test"))]
        assert len(shown) == 2 and all(f"{summary['keep'][0]['differences']['ndcg@10']['mean']:+.3f}" in line for line in shown)
    assert "What it cost elsewhere" in (folder / "model/README.md").read_text()


def test_the_figures_go_to_the_mirror(trained, keep, monkeypatch):
    from e5ft.training.trackers import Trackers

    sent = {}
    monkeypatch.setattr(Trackers, "end", lambda self, closing: sent.update(closing.figures))
    _, folder = trained(f"data.keep_dir={keep('law')}", "training.max_steps=1", "evaluation.bm25=null")
    entry = read_json(folder / "summary.json")["keep"][0]
    assert "bm25" not in entry["scores"]
    assert sent["keep/law-test/ndcg@10"] == entry["scores"]["after"]["metrics"]["ndcg@10"]


def test_without_keep_sets_nothing_is_said(trained, capsys):
    _, folder = trained("training.max_steps=1")
    assert read_json(folder / "summary.json")["keep"] == []
    assert "elsewhere" not in (folder / "model/README.md").read_text() and "kept" not in capsys.readouterr().out


def test_a_faulty_keep_set_ends_the_run_before_training(trained, keep, monkeypatch):
    from e5ft.app.commands.train import _Run

    monkeypatch.setattr(_Run, "_train", lambda *_: pytest.fail("trained"))
    folder = keep("law")
    with open(folder / "corpus.jsonl", "a") as file:
        file.write(json.dumps({"_id": "x"}) + "\n")
    with pytest.raises(DataError, match="corpus.jsonl:257"):
        trained(f"data.keep_dir={folder}", "training.max_steps=1")
