"""Rounds of training and mining: every round's files stay, a rerun goes on where the last one stopped, dev rows are held out."""

import json
import shutil
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig

from e5ft.app.commands import rounds
from e5ft.app.commands.data import load_training_data
from e5ft.app.commands.rounds import train_rounds
from e5ft.app.settings.plan import SAMPLE_SET, plan
from e5ft.data.text import text_id
from e5ft.errors import ConfigurationError, VerdictError
from e5ft.files import read_json, write_json
from e5ft.modeling.loading import save_encoder
from e5ft.retrieval.verdict import overall_verdict, verdict_line
from tests.app.conftest import TINY
from tests.conftest import make_encoder

SHORT = (
    "training.max_steps=2",
    "training.eval_steps=1",
    "training.save_steps=1",
    "rounds.count=2",
    "rounds.mining.window=[1,20]",
    "rounds.mining.filters.near_duplicate=null",  # texts of fifty words are all alike
    "rounds.mining.filters.percent=null",
)


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for i in range(80):
            words = [f"낱말{(i * 7 + j * 13) % 50}" for j in range(6)]
            row = {"query": " ".join(words[:3]) + f" {i}", "document": " ".join(words) + f" 문서 {i}"}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return str(path)


@pytest.fixture
def run(composed, rows):
    def run_rounds(*overrides):
        config = composed("train", "tracking=off", *TINY, f"data.train_file={rows}", *SHORT, *overrides)
        return train_rounds(config), HydraConfig.get().runtime.output_dir

    return run_rounds


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_two_rounds_then_a_rerun_that_skips_them(run, tmp_path, monkeypatch, capsys):
    score, _ = run("training.gradient_accumulation_steps=auto")  # which each round finds from its own rows
    printed = capsys.readouterr().out
    assert "\nround  dev ndcg@10  dev ndcg@10, whole corpus  against the round's start\n" in printed
    folder = tmp_path / "outputs" / "test"
    record = read_json(folder / "rounds.json")
    summaries = [read_json(folder / f"round-{number}" / "summary.json") for number in (1, 2)]
    assert score == max(summary["best"]["score"] for summary in summaries)
    against = {"against": f"the start of round {record['best']}"}  # of which rounds.start=previous makes another model
    assert record["verdict"] == {**summaries[record["best"] - 1]["verdict"], **against}
    assert printed.rstrip().splitlines()[-1] == verdict_line(record["verdict"])
    assert (folder / "model").resolve() == (folder / f"round-{record['best']}" / "model").resolve()
    assert (tmp_path / "outputs" / "latest").resolve() == folder.resolve()

    mined = lines(folder / "round-2" / "mined" / "rows.jsonl")
    trained, held_out = (lines(folder / f"{name}.jsonl") for name in ("train", "dev"))
    assert [row["query"] for row in mined] == [row["query"] for row in trained] and len(trained) + len(held_out) == 80
    negatives = {text for row in mined for text in row["hard_negative"]}
    assert negatives and not negatives & {text for row in held_out for text in row["document"]}
    assert summaries[1]["data"]["source"].endswith("mined/rows.jsonl")

    monkeypatch.setattr(rounds, "train", None)  # a call would fail
    monkeypatch.setattr(rounds, "mine", None)
    assert run("resume=true")[0] == score


def test_require_names_the_rounds_own_record(run):
    with pytest.raises(VerdictError, match="the run is complete .outputs/test/rounds.json.$"):
        run("require=better", "training.eval_strategy=no", "training.load_best_model_at_end=false", "optimizer.lr=1e-9")


def test_without_dev_scores_the_last_round_is_taken_and_called_so(run, tmp_path, capsys):
    score, _ = run("training.eval_strategy=no", "training.load_best_model_at_end=false")
    folder = tmp_path / "outputs" / "test"
    assert score is None and read_json(folder / "rounds.json")["best"] is None
    assert (folder / "model").resolve() == (folder / "round-2" / "model").resolve()
    said = capsys.readouterr().out
    assert "that of round 2, the last: nothing was measured on the dev set" in said and "the best on" not in said


def test_an_interrupted_round_is_trained_again_and_its_mining_is_kept(run, tmp_path, monkeypatch):
    train, calls = rounds.train, []

    def interrupted(config, job):
        folder = job.path
        calls.append((folder.name, config.data.train_file, config.data.negatives_per_query))
        if folder.name == "round-2" and len(calls) == 2:
            raise KeyboardInterrupt
        return train(config, job)

    monkeypatch.setattr(rounds, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run()
    folder = tmp_path / "outputs" / "test"
    assert read_json(folder / "status.json")["state"] == "stopped"
    before = (folder / "round-2" / "mined" / "rows.jsonl").stat().st_mtime_ns
    monkeypatch.setattr(rounds, "mine", None)
    run("resume=true")
    assert [name for name, *_ in calls] == ["round-1", "round-2", "round-2"]
    assert (folder / "round-2" / "mined" / "rows.jsonl").stat().st_mtime_ns == before


def test_going_on_with_other_settings_or_rows_is_refused(run, rows, tmp_path):
    run()
    with pytest.raises(ConfigurationError, match="configuration differs.*rounds.json.*\n.*loss"):
        run("resume=true", "loss.temperature=0.9")
    lines = Path(rows).read_text(encoding="utf-8").splitlines(keepends=True)
    Path(rows).write_text("".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="(?s)configuration differs.*dev set: .*rows: "):
        run("resume=true")
    folder = tmp_path / "outputs/test"
    (folder / "rounds.json").unlink()
    (folder / "status.json").unlink()
    with pytest.raises(ConfigurationError, match="holds a run already"):
        run()
    with pytest.raises(ConfigurationError, match="rounds.json: does not say which training the rounds beside it are of"):
        run("resume=true")


def test_a_first_attempt_that_failed_leaves_no_rows_to_the_next(run, rows, tmp_path, monkeypatch):
    """The dev rows are cut off again, of the rows as they are now."""
    with monkeypatch.context() as patch:
        patch.setattr(rounds, "_round", lambda *_: (_ for _ in ()).throw(ZeroDivisionError))
        with pytest.raises(Exception, match="ZeroDivisionError"):
            run()
    text = Path(rows).read_text(encoding="utf-8").replace("문서", "글")
    Path(rows).write_text(text, encoding="utf-8")
    run()
    folder = tmp_path / "outputs/test"
    assert all("문서" not in (folder / f"{name}.jsonl").read_text(encoding="utf-8") for name in ("train", "dev"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data.train_file=some/name",), "must be a local file or a URL"),
        (("data=mix", "data.train_file=null", "data.sources={a: rows.jsonl}"), "mine each source"),
    ],
)
def test_what_rounds_cannot_do(run, overrides, message):
    with pytest.raises(ConfigurationError, match=message):
        run(*overrides)


def test_previous_starts_from_the_round_before_and_says_so(run, tmp_path, monkeypatch):
    train, starts = rounds.train, []

    def noted(config, job):
        starts.append((config.model.path, config.model.init))
        return train(config, job)

    monkeypatch.setattr(rounds, "train", noted)
    run("rounds.start=previous")
    pages = [(tmp_path / f"outputs/test/round-{number}/report.html").read_text() for number in (1, 2)]
    summaries = [read_json(tmp_path / f"outputs/test/round-{number}/summary.json") for number in (1, 2)]
    assert [summary["start_round"] for summary in summaries] == [None, 1]
    assert summaries[1]["scores"]["before"]["label"] == summaries[1]["verdict"]["against"] == "round 1"
    assert "학습 전" in pages[0] and "학습 전" not in pages[1] and "라운드 1 모델" in pages[1]
    assert starts[0] == (None, "random")
    assert starts[1][0].endswith("round-1/model") and starts[1][1] == "pretrained"


@pytest.mark.parametrize("limit", ["null", "30"])
@pytest.mark.parametrize(
    "given",
    [
        "data.dev_share=0.2",
        "data.dev_file=dev.jsonl",
        "data.eval_dir={}",
        "data.train_file=null",
        "data.dev_file=dev.jsonl data.columns.query=question",
    ],
)
def test_no_round_trains_against_its_dev_or_evaluation_passages(run, rows, tmp_path, monkeypatch, given, limit):
    """Real mining with random candidates; training is left out."""
    if "question" in given:
        Path(rows).write_text(Path(rows).read_text(encoding="utf-8").replace('"query"', '"question"'), encoding="utf-8")
    (tmp_path / "dev.jsonl").write_text("".join(Path(rows).read_text(encoding="utf-8").splitlines(keepends=True)[:9]))
    folder = shutil.copytree(SAMPLE_SET, tmp_path / "set")
    with open(folder / "corpus.jsonl", "a", encoding="utf-8") as file:
        file.writelines(
            json.dumps({"_id": f"x{i}", "text": row["document"]}) + "\n" for i, row in enumerate(lines(Path(rows))[:9])
        )

    def checked(settings, job):
        folder = job.path
        save_encoder(make_encoder(), folder / "model")
        data = load_training_data(plan(settings), settings)
        negatives = {text_id(text) for row in data.train for text in row.negatives}
        judged = {passage for judgements in data.dev.qrels.values() for passage in judgements}
        protected = {text_id(data.dev.passages[i]) for i in data.dev.passage_ids.positions_of(judged).values()}
        if settings.data.eval_dir is not None:
            protected |= set(map(text_id, data.test.passages))
        if folder.name == "round-2":
            assert negatives and protected and not negatives & protected
        metrics = {"metrics": {"ndcg@10": 0.5}}
        difference = {"ndcg@10": {"mean": 0.0, "low": 0.0, "high": 0.0}}
        verdict = overall_verdict({**difference["ndcg@10"], "p_value": 1.0}, 9, {}, chosen_on_test=True)
        verdict |= {"metric": "ndcg@10", "set": "dev", "against": "before"}
        write_json(folder / "summary.json", {
            "best": {"score": 0.5}, "objective": "ndcg@10", "test_set": "dev", "chosen_on_test": True,
            "scores": {"after": metrics}, "differences": difference, "keep": [], "data": {}, "verdict": verdict,
        })  # fmt: skip

    monkeypatch.setattr(rounds, "train", checked)
    run(
        *given.format(folder).split(),
        f"data.max_train_rows={limit}",
        "rounds.mining.sources=[random]",
        "rounds.mining.per_query=40",
    )
