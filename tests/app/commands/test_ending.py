"""Runs with keep sets from a trained base: what may choose and what is reported, what is taken, and the exit code."""

import shutil

import numpy as np
import pytest
import torch
from scipy import stats

from e5ft.app.commands import ending
from e5ft.app.settings.build import shipped
from e5ft.errors import DataError, VerdictError
from e5ft.files import read_json
from e5ft.modeling.loading import load_encoder
from e5ft.modeling.settings import ModelSource
from e5ft.retrieval.sets import halves, load_beir
from e5ft.retrieval.verdict import KeepResult
from tests.app.commands.test_train import lines
from tests.app.conftest import TINY

SAMPLE = shipped("data/sample/eval")
SMALL = [setting for setting in TINY if not setting.startswith("model.shape")]
# One step that destroys the model, and whose weights the dev set does not choose: what only a keep set can refute.
RUINED = ["training.max_steps=2", "optimizer.lr=0.1", "training.warmup_steps=0", "evaluation.bm25=null",
          "training.eval_strategy=no", "training.load_best_model_at_end=false"]  # fmt: skip


@pytest.fixture
def base(trained, write_rows):
    """A model that knows the first 160 test questions of the sample by heart, and so has something to lose."""
    whole = load_beir(SAMPLE, "test")
    texts = dict(zip(whole.query_ids, whole.queries, strict=True)) | dict(zip(whole.passage_ids, whole.passages, strict=True))
    pairs = [line.split("\t") for line in (SAMPLE / "qrels/test.tsv").read_text().splitlines()[1:161]]
    rows = [{"query": texts[query], "document": texts[passage]} for query, passage, _ in pairs]
    _, folder = trained(f"data.train_file={write_rows(rows)}", f"data.eval_dir={SAMPLE}", *RUINED, "training.max_steps=60",
                        "optimizer.lr=0.01", "model.dropout=0", run_dir="outputs/base")  # fmt: skip
    return f"model.path={folder}/model"


@pytest.fixture
def keep(tmp_path):
    """A keep set with a dev split or without: queries of the sample's test."""

    def make(name: str, dev: bool, queries: int = 80):
        folder = tmp_path / name
        shutil.copytree(SAMPLE, folder)
        judged = (SAMPLE / "qrels/test.tsv").read_text().splitlines(keepends=True)
        (folder / "qrels/test.tsv").write_text("".join(judged[: queries + 1]))
        (folder / "qrels/dev.tsv").unlink()
        if dev:
            (folder / "qrels/dev.tsv").write_text("".join([judged[0], *judged[queries + 1 : 2 * queries + 1]]))
        return folder

    return make


def values(folder, name: str) -> dict[str, float]:
    return {line["query"]: line["ndcg@10"] for line in lines(folder / "eval" / name / "final/per_query.jsonl")}


def test_a_keep_set_refutes_a_ruined_model_and_nothing_reported_was_seen(trained, base, keep, capsys):
    law, wiki = keep("law", dev=False), keep("wiki", dev=True)
    given = ["model=folder", base, *SMALL, *RUINED, f"data.keep_dir=[{law},{wiki}]"]
    capsys.readouterr()
    _, folder = trained(*given, tiny=False)
    summary, printed = read_json(folder / "summary.json"), capsys.readouterr().out
    chosen, rest = (set(load_beir(law, "test").query_ids.take(part.tolist())) for part in halves(load_beir(law, "test")))
    assert "keep        law-test: its queries in halves (40 and 40): the first may refute the result, the second is" in printed
    assert "keep        wiki-test: wiki-dev (80 queries, 256 passages) may refute the result" in printed
    assert set(values(folder, "law-test")) == rest and [entry["queries"] for entry in summary["keep"]] == [40, 80]
    tried = {entry["alpha"]: entry for entry in summary["guard"]["tried"]}
    taken = summary["best"]["alpha"]
    assert tried[1.0]["keep"]["law-test"]["lost"] and taken < 1.0 and sorted(tried) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert tried[1.0]["keep"]["wiki-test"]["queries"] == 80 and tried[1.0]["keep"]["law-test"]["queries"] == 40
    # By the rule: nothing that holds on the keep sets is better on dev than what was taken.
    holds = [
        alpha
        for alpha, entry in tried.items()
        if not alpha or (entry["keep"] and not any(r["lost"] for r in entry["keep"].values()))
    ]
    assert taken in holds and all(
        entry["dev"] <= tried[taken]["dev"] for alpha, entry in tried.items() if alpha in holds and alpha < 1
    )
    assert "refuted by law-test, wiki-test" in printed and summary["verdict"]["base_kept"] == (taken == 0)
    assert printed.rstrip().splitlines()[-1].startswith("VERDICT: ")
    assert "\nVERDICT: " in (folder / "model/README.md").read_text()
    # Without the guard the ruined model is written, all queries are reported, and the cost is said.
    _, folder = trained(*given, "keep.guard=false", tiny=False, run_dir="outputs/free")
    free = read_json(folder / "summary.json")
    assert free["guard"] is None and free["best"]["alpha"] == 1.0 and free["keep"][0]["queries"] == 80
    assert free["verdict"]["word"] == "WORSE" and free["verdict"]["costs_elsewhere"]
    line = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert line.startswith("VERDICT: WORSE, COSTS ELSEWHERE (ndcg@10 -") and line in (folder / "model/README.md").read_text()
    # What the keep set's half found of alpha 1 above is a t test on the same queries of this run.
    before = {line["query"]: line["ndcg@10"] for line in lines(folder / "eval/law-test/base/per_query.jsonl")}
    after = values(folder, "law-test")
    differences = [after[query] - before[query] for query in sorted(chosen)]
    low, high = stats.t.interval(tried[1.0]["keep"]["law-test"]["level"], 39, np.mean(differences), stats.sem(differences))
    assert (tried[1.0]["keep"]["law-test"]["low"], tried[1.0]["keep"]["law-test"]["high"]) == pytest.approx(
        (max(low, -1), high), abs=1e-4
    )


@pytest.mark.parametrize("way", ["model.freeze=[]", "model.lora.rank=4"])
def test_a_merger_is_written_and_a_resumed_run_ends_the_same(trained, base, keep, monkeypatch, capsys, way):
    """Alphas 1 and .75 are refuted, and .5 is the next on the dev set."""
    calls = []

    def refuting(values, *, seed=0):
        calls.append(1)
        return {name: KeepResult(9, -0.1, -0.2, -0.05, 0.95, 0.01, len(calls) <= 2) for name in values}

    def evaluator(*_):
        scores = iter([0.1, 0.4, 0.3, 0.2])  # of 0, .75, .5 and .25
        return lambda encoder: {"ndcg@10": next(scores)}

    monkeypatch.setattr(ending, "keep_results", refuting)
    monkeypatch.setattr(ending, "evaluator", evaluator)
    given = ["model=folder", base, *SMALL, *RUINED, "optimizer.lr=0.01", way, f"data.keep_dir={keep('law', dev=False)}"]
    _, folder = trained(*given, "training.save_steps=2", tiny=False)
    summary, printed = read_json(folder / "summary.json"), capsys.readouterr().out
    assert summary["best"] == {"score": None, "step": 2, "alpha": 0.5} and len(calls) == 3
    assert [entry["dev"] for entry in summary["guard"]["tried"]] == [None, 0.4, 0.3, 0.2, 0.1]
    assert (
        "model/ is 0.5 x the checkpoint of step 2 and 0.5 x the model before training: alpha 1 is refuted by law-test -0.1"
        in printed
    )
    ours, theirs, merged = (
        load_encoder(ModelSource(path=str(path))).backbone.state_dict()
        for path in (base.partition("=")[2], folder / "checkpoint-2", folder / "model")
    )
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, 0.5 * ours[name] + 0.5 * theirs[name], rtol=1e-6, atol=1e-6)
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours) and not (folder / "adapter").exists()
    assert "the weights are of step 2, 0.5 x, and of the model before training, 0.5 x" in (folder / "model/README.md").read_text()
    calls.clear()
    trained(*given, "training.save_steps=2", "resume=true", tiny=False)
    again = read_json(folder / "summary.json")
    for name in ("best", "guard", "verdict", "scores", "keep"):
        assert again[name] == summary[name]


def test_a_base_that_is_kept_scores_what_it_did_also_together_with_bm25(trained, base, keep, monkeypatch):
    """Its weight in the hybrid is its own, .7, and not the trained model's."""
    weights = iter([0.7, 0.2, 0.7])
    monkeypatch.setattr("e5ft.retrieval.evaluation.best_weight", lambda _: next(weights))
    lost = KeepResult(9, -0.1, -0.2, -0.05, 0.95, 0.01, True)
    monkeypatch.setattr(ending, "keep_results", lambda values, *, seed=0: dict.fromkeys(values, lost))
    given = ["model=folder", base, *SMALL, *RUINED, "evaluation.bm25=auto", f"data.keep_dir={keep('law', dev=False)}"]
    _, folder = trained(*given, tiny=False)
    summary = read_json(folder / "summary.json")
    scores = summary["keep"][0]["scores"]
    assert summary["verdict"]["base_kept"] and scores["after"]["metrics"] == scores["before"]["metrics"]
    assert scores["hybrid"]["metrics"] == scores["hybrid_before"]["metrics"]


def test_what_no_keep_set_refutes_is_taken_at_once(trained, base, keep, monkeypatch, capsys):
    monkeypatch.setattr(ending, "merge", lambda *_: pytest.fail("merged"))
    given = ["model=folder", base, *SMALL, *RUINED, "optimizer.lr=1e-7", f"data.keep_dir={keep('law', dev=False)}"]
    _, folder = trained(*given, tiny=False)
    summary = read_json(folder / "summary.json")
    assert [entry["alpha"] for entry in summary["guard"]["tried"]] == [1.0] and summary["best"]["alpha"] == 1.0
    assert (
        "model/ is the checkpoint of step 2; no keep set refutes it (ndcg@10 on what chooses: law-test" in capsys.readouterr().out
    )
    assert summary["verdict"]["word"] == "NO DIFFERENCE" and not summary["verdict"]["base_kept"]


def test_a_keep_set_that_cannot_be_divided_is_refused_before_training(trained, base, keep):
    given = ["model=folder", base, *SMALL, *RUINED, f"data.keep_dir={keep('law', dev=False, queries=1)}"]
    with pytest.raises(DataError, match="law-test: 1 scored queries"):
        trained(*given, tiny=False)


def test_a_demanded_verdict_that_is_not_reached_is_an_exit_code_and_no_failure(trained, capsys):
    """At this learning rate nothing beats the base."""
    with pytest.raises(
        VerdictError, match="require=better: the verdict is NO DIFFERENCE; .* .outputs/test/summary.json."
    ) as raised:
        trained("require=better", "training.max_steps=2", "optimizer.lr=1.0", "training.warmup_steps=0")
    assert raised.value.exit_code == 7
    assert (
        read_json("outputs/test/status.json")["state"] == "finished"
        and read_json("outputs/test/summary.json")["verdict"]["base_kept"]
    )
    trained("require=better", "training.max_steps=30", "optimizer.lr=0.003", run_dir="outputs/good")
    assert read_json("outputs/good/summary.json")["verdict"]["word"] == "BETTER"
