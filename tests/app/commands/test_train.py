"""The whole job in one process: what it writes, what it says, resuming, and what happens when it goes wrong."""

import contextlib
import html
import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModel

from e5ft.app.settings.build import shipped
from e5ft.errors import ConfigurationError, DataError, NonFiniteError, ResumeRefusedError, TerminatedError
from e5ft.files import read_json
from e5ft.modeling.encoder import Encoder
from e5ft.modeling.loading import load_encoder
from e5ft.modeling.settings import ModelSource
from e5ft.retrieval.hybrid import Weight
from e5ft.training.checkpoint import definition_of
from tests.conftest import make_rows

EXPERIMENTS = sorted(path.stem for path in (shipped("conf") / "experiment").glob("*.yaml"))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_leaves_its_record(trained, capsys):
    objective, folder = trained("training.max_steps=4")
    summary = read_json(folder / "summary.json")
    assert objective == summary["best"]["score"]
    assert read_json(folder / "status.json")["state"] == "finished"
    assert (folder.parent / "latest").resolve() == folder.resolve()
    metrics = lines(folder / "metrics.jsonl")
    assert [entry["step"] for entry in metrics if "loss" in entry] == [1, 2, 3, 4]
    assert metrics[0]["step"] == 0 and "eval_ndcg@10" in metrics[0]  # the base is measured first
    assert set(os.listdir(folder / "eval" / "sample-test")) == {"base", "bm25", "final", "hybrid", "hybrid_base"}
    # The table's figures are those of the files, and what is in model/ scores what the table says.
    final = read_json(folder / "eval/sample-test/final/metrics.json")["metrics"]
    assert final == summary["scores"]["after"]["metrics"]
    hybrid = summary["hybrid"]["weight"]
    assert hybrid["source"] == "chosen on sample-dev" and max(hybrid["curve"].values()) == hybrid["curve"][str(hybrid["value"])]
    printed, card = capsys.readouterr().out, (folder / "model/README.md").read_text()
    label = summary["scores"]["hybrid"]["label"]
    assert label == Weight(hybrid["value"], "").label and label in printed and label in card
    assert read_json(folder / "eval/sample-test/hybrid/metrics.json")["metrics"] == summary["scores"]["hybrid"]["metrics"]
    before = summary["scores"]["hybrid_before"]["label"]
    assert before.startswith("before, hybrid (") and before in card and before not in printed
    change = summary["hybrid"]["differences"]["ndcg@10"]["mean"]
    assert f"ndcg@10: {change:+.3f} [" in printed and "hybrid against after" in printed
    first = [sum(line["hit@1"] for line in lines(folder / "eval/sample-test" / system / "per_query.jsonl"))
             for system in ("final", "base", "bm25", "hybrid")]  # fmt: skip
    after, base, bm25, both = map(int, first)
    assert f"a right answer is first for {after} of 434 questions (before {base}, BM25 {bm25}, hybrid {both}),\n" in printed
    for words in (
        "before (random weights)",
        "BM25 (auto)",
        "after",
        "95 %",
        "make eval RUN=outputs/test",
        f"{summary['differences']['ndcg@10']['mean']:+.3f}",
    ):
        assert words in printed
    AutoModel.from_pretrained(folder / "model")
    assert not list(folder.rglob("training_args.bin"))
    assert "sample-test, 434 queries" in printed and f"sample-test has {summary['passages']:,} passages only" in card


def test_the_dev_set_that_chose_is_kept_and_gives_a_threshold(trained, capsys, monkeypatch):
    """On the sample no threshold makes enough first passages of such a model right; one that asks for less is found."""
    monkeypatch.setattr("e5ft.retrieval.threshold.TARGETS", (0.01,))
    _, folder = trained("training.max_steps=4")
    dev, test = (lines(folder / "eval" / name / "per_query.jsonl") for name in ("dev/after", "sample-test/final"))
    found = read_json(folder / "summary.json")["threshold"]
    assert found["target"] == 0.01 and read_json(folder / "eval/dev/after/metrics.json")["set"] == "sample-dev"
    for name, each in (("dev", dev), ("test", test)):
        answered = [line for line in each if line["top"][0]["score"] >= found["value"]]
        right = sum(any(answer["rank"] == 1 for answer in line["answers"]) for line in answered)
        assert (found[name]["queries"], found[name]["answered"]) == (len(each), len(answered) / len(each))
        assert (found[name]["precision"], found[name]["recall"]) == (right / len(answered), right / len(each))
    told = f"score {found['value']:.4f} (chosen on dev for 1 % right)"
    assert f"threshold: {told}" in capsys.readouterr().out and told in (folder / "model/README.md").read_text()
    assert read_json(folder / "eval/sample-test/final/metrics.json")["threshold"] == found


def test_the_best_checkpoint_is_the_model(trained):
    _, folder = trained("training.max_steps=6", "training.eval_steps=2", "training.save_steps=2")
    best = read_json(folder / "summary.json")["best"]
    scores = {entry["step"]: entry["eval_ndcg@10"] for entry in lines(folder / "metrics.jsonl") if "eval_ndcg@10" in entry}
    assert best == {"score": max(scores.values()), "step": max(scores, key=scores.get), "alpha": 1.0}
    model = load_encoder(ModelSource(path=str(folder / "model")))
    source = folder / f"checkpoint-{best['step']}" if best["step"] else None
    if source is not None:
        other = load_encoder(ModelSource(path=str(source)))
        np.testing.assert_array_equal(model.encode(["가"], "query"), other.encode(["가"], "query"))


def test_when_nothing_beats_the_base_it_is_the_model(trained, composed, capsys):
    """At a learning rate that destroys the model, model/ is the model before training."""
    _, folder = trained("training.max_steps=4", "optimizer.lr=1.0", "training.warmup_steps=0")
    assert read_json(folder / "summary.json")["best"]["step"] == 0
    assert "Nothing beat the model before training" in capsys.readouterr().out
    scores = read_json(folder / "summary.json")["scores"]
    assert scores["after"]["metrics"] == scores["before"]["metrics"]


def test_vectors_that_the_base_s_scores_have_made_are_made_once(trained, monkeypatch):
    """The dev set's passages are the test set's: the base's dev score takes their vectors, and so do the scores of a base kept."""
    _, base = trained("training.max_steps=1", "evaluation.bm25=null", run_dir="outputs/base")
    encoded, plain, given = [], Encoder.encode_tokens, []
    monkeypatch.setattr(
        Encoder, "encode_tokens", lambda self, tokens, **k: encoded.append(len(tokens)) or plain(self, tokens, **k)
    )
    start = ("model=folder", f"model.path={base}", "optimizer.lr=1.0", "training.warmup_steps=0", "training.max_steps=2")
    small = (*start, "data.max_train_rows=200", "training.per_device_train_batch_size=16", "evaluation.bm25=null", "tracking=off")
    for name in ("fresh", "cached"):
        encoded.clear()
        _, folder = trained(*small, "data.eval_corpus_size=256", run_dir=f"outputs/{name}", tiny=False)
        summary = read_json(folder / "summary.json")
        assert summary["best"]["step"] == 0 and summary["scores"]["after"]["metrics"] == summary["scores"]["before"]["metrics"]
        # 256 passages: of the base's scores, unless kept by an earlier run, and of the one evaluation after a step.
        assert encoded.count(256) == (2 if name == "fresh" else 1)
        given.append([entry["eval_ndcg@10"] for entry in lines(folder / "metrics.jsonl") if "eval_ndcg@10" in entry])
    assert given[0] == given[1] and len(given[0]) == 2


def test_early_stopping(trained):
    """After the base, no evaluation is better at this learning rate: with a patience of 2 the run ends at the second."""
    settings = (
        "training.max_steps=8",
        "training.eval_steps=1",
        "training.save_steps=1",
        "optimizer.lr=1.0",
        "training.warmup_steps=0",
    )
    _, folder = trained(*settings, "training.early_stopping_patience=2")
    assert read_json(folder / "summary.json")["training"]["steps"] == 2


def test_rows_alone_are_enough(trained, capsys):
    _, folder = trained(f"data.train_file={shipped('data')}/sample/train.jsonl", "training.max_steps=2", "evaluation.bm25=null")
    summary = read_json(folder / "summary.json")
    assert summary["chosen_on_test"] and summary["test_set"] == "dev" and "bm25" not in summary["scores"]
    assert "hybrid" not in summary["scores"] and summary["hybrid"] is None
    assert summary["data"]["train_rows"] < 200 and summary["threshold"] is None and os.listdir(folder / "eval") == ["dev"]
    assert "after" not in os.listdir(folder / "eval/dev")  # the set that chooses is the one that is reported
    assert summary["corpus"] == "dev and training documents" and summary["counts"]["near_copies"] == 0
    printed = capsys.readouterr().out
    documents = {text for row in lines(shipped("data") / "sample/train.jsonl") for text in [row["document"]]}
    passages = int(
        re.search(r"  corpus      dev and training documents: ([\d,]+) passages, all ranked", printed)[1].replace(",", "")
    )
    assert 150 < passages <= len(documents) + 200 and f" {passages} passages, 95 %" in printed
    assert [(entry["role"], entry["shared_queries"], entry["shared_judged"]) for entry in summary["overlap"]] == [("dev", 0, 0)]


def test_a_test_set_made_of_training_rows_is_told_wherever_its_figures_stand(trained, write_rows, tmp_path, capsys):
    rows = make_rows(60)
    (tmp_path / "leak/qrels").mkdir(parents=True)
    for name, field in (("queries", "query"), ("corpus", "document")):
        texts = list(dict.fromkeys(row[field] for row in rows))
        write_rows([{"_id": name[0] + text.replace(" ", ""), "text": text} for text in texts], f"leak/{name}.jsonl")
    judged = {f"q{row['query']}\tc{row['document']}\t1\n".replace(" ", "") for row in rows[:40]}
    (tmp_path / "leak/qrels/test.tsv").write_text("".join(sorted(judged)))
    _, folder = trained(f"data.train_file={write_rows(rows)}", "data.eval_dir=leak", "training.max_steps=2")
    queries, passages = ({row[field] for row in rows[:40]} for field in ("query", "document"))
    told = f"{len(queries)} of {len(queries)} test queries and {len(passages)} of {len(passages)} judged passages are in the training rows: "
    printed = capsys.readouterr().out
    assert f"  overlap     {told}the test figures say how well they were learnt by heart" in printed
    assert f"\noverlap: {told}" in printed  # under the table, too
    entry, dev = read_json(folder / "summary.json")["overlap"]
    assert (entry["set"], entry["role"], entry["shared_queries"], dev["shared_queries"]) == ("leak-test", "test", len(queries), 0)
    assert told in (folder / "model/README.md").read_text()
    low = read_json(folder / "summary.json")["verdict"]["low"]
    assert low <= 0 or "VERDICT: UNDECIDED (these queries were trained on" in printed


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_runs_two_steps(trained, experiment):
    if experiment == "optuna":
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    given = ["data.max_train_rows=null"] if experiment == "large_step" else []
    if experiment in ("guided", "mini_domain"):  # these need a trained model
        _, before = trained("training.max_steps=1", "evaluation.bm25=null", run_dir="outputs/before")
        given = [f"step.guide={before}" if experiment == "guided" else f"model.path={before}/model"]
    _, folder = trained(f"experiment={experiment}", "training.max_steps=2", "evaluation.bm25=null", *given)
    if experiment == "iterative":
        assert len(read_json(folder / "rounds.json")["rounds"]) == 3
        folder = folder / "round-3"
    assert read_json(folder / "summary.json")["training"]["steps"] == 2


def test_a_resumed_run_ends_as_the_uninterrupted_one(trained, monkeypatch):
    """SIGTERM after step 3 of 6, then resume=true: the same losses and scores as a run that was left alone."""
    settings = (
        "training.max_steps=6",
        "training.gradient_accumulation_steps=2",
        "training.save_steps=2",
        "training.eval_steps=2",
    )
    _, whole = trained(*settings, run_dir="outputs/whole")

    from e5ft.training.trainer import ContrastiveTrainer

    plain_log = ContrastiveTrainer.log

    def log_and_terminate(self, logs, start_time=None):
        if self.state.global_step == 3 and "loss" in logs:
            os.kill(os.getpid(), signal.SIGTERM)
        plain_log(self, logs, start_time)

    with monkeypatch.context() as patch:
        patch.setattr(ContrastiveTrainer, "log", log_and_terminate)
        with pytest.raises(TerminatedError, match="name=.* resume=true"):
            trained(*settings, run_dir="outputs/cut")
    assert read_json(whole.parent / "cut/status.json")["state"] == "stopped"
    _, cut = trained(*settings, "resume=true", run_dir="outputs/cut")
    for key in ("loss", "eval_ndcg@10"):
        values = [
            {entry["step"]: entry[key] for entry in lines(folder / "metrics.jsonl") if key in entry} for folder in (whole, cut)
        ]
        assert values[0].items() <= values[1].items()  # the cut run also evaluates where it stopped, if at all
    assert read_json(whole / "summary.json")["scores"] == read_json(cut / "summary.json")["scores"]


def test_noise_in_queries_trains_another_model_with_either_kind_of_table_and_resumes(trained, capsys, monkeypatch):
    """Noised queries hold tokens that no clean text has: they are in the compact table too. Stopped in the second epoch."""
    from e5ft.training.trainer import ContrastiveTrainer

    given = (
        "data.max_train_rows=40",
        "training.max_steps=4",
        "training.save_steps=1",
        "training.eval_strategy=no",
        "training.load_best_model_at_end=false",
        "evaluation.bm25=null",
    )
    noise = ("data.augment.share=0.5", "data.augment.kinds=[no_spaces,typos,lower_case]")
    found = {}
    for name, more in {"clean": (), "noised": noise, "whole table": (*noise, "training.compact_embedding=false")}.items():
        _, folder = trained(*given, *more, run_dir=f"outputs/{name}")
        assert ("  noise       in 50% of the queries of an epoch, no_spaces: '" in capsys.readouterr().out) == (name != "clean")
        found[name] = [entry["loss"] for entry in lines(folder / "metrics.jsonl") if "loss" in entry]
    assert found["clean"] != found["noised"]
    np.testing.assert_allclose(found["noised"], found["whole table"], rtol=0, atol=1e-5)
    plain_log = ContrastiveTrainer.log

    def log_and_terminate(self, logs, start_time=None):
        if self.state.global_step == 3 and "loss" in logs:
            os.kill(os.getpid(), signal.SIGTERM)
        plain_log(self, logs, start_time)

    with monkeypatch.context() as patch:
        patch.setattr(ContrastiveTrainer, "log", log_and_terminate)
        with pytest.raises(TerminatedError):
            trained(*given, *noise, run_dir="outputs/cut")
    _, cut = trained(*given, *noise, "resume=true", run_dir="outputs/cut")
    losses = {entry["step"]: entry["loss"] for entry in lines(cut / "metrics.jsonl") if "loss" in entry}
    assert [losses[step] for step in (1, 2, 3, 4)] == found["noised"]


def test_resuming_another_training_is_refused_field_by_field(trained):
    _, folder = trained("training.max_steps=2")
    before = (folder / "config.yaml").read_text()
    with pytest.raises(ConfigurationError, match=r"\n  loss.temperature: 0.05 then, 0.5 now\nto train on"):
        trained("training.max_steps=2", "resume=true", "loss.temperature=0.5")
    assert (folder / "config.yaml").read_text() == before


def test_resuming_with_another_cut_of_the_step_is_allowed(trained):
    trained("training.max_steps=2", "training.save_steps=1", "training.eval_steps=1")
    _, folder = trained(
        "training.max_steps=2",
        "training.save_steps=1",
        "training.eval_steps=1",
        "resume=true",
        "training.per_device_train_batch_size=8",
        "training.gradient_accumulation_steps=2",
    )
    assert read_json(folder / "status.json")["state"] == "finished"


AUTO = ("training.gradient_accumulation_steps=auto", "training.num_train_epochs=auto", "evaluation.bm25=null")


def test_auto_is_the_same_training_whatever_the_cut_and_its_record_says_both(trained, capsys, monkeypatch):
    """60 rows: 3 steps of 16 an epoch, 4 epochs. Cut short in the second, resumed with the step in pieces and as numbers."""
    from e5ft.training.trainer import ContrastiveTrainer

    rows = ("data.max_train_rows=60", "training.save_steps=4", "training.eval_steps=4", *AUTO)
    plain_loss = ContrastiveTrainer.compute_loss

    def interrupted(self, *args, **kwargs):
        if self.state.global_step == stop:
            raise KeyboardInterrupt
        return plain_loss(self, *args, **kwargs)

    monkeypatch.setattr(ContrastiveTrainer, "compute_loss", interrupted)
    pieces = ("training.per_device_train_batch_size=4",)
    as_numbers = (*pieces, "training.gradient_accumulation_steps=4", "training.num_train_epochs=4")
    for stop, cut in ((6, ()), (10, (*pieces, "resume=true")), (None, (*as_numbers, "resume=true"))):
        with pytest.raises(KeyboardInterrupt) if stop else contextlib.nullcontext():
            _, folder = trained(*rows, *cut)
        printed = capsys.readouterr().out
        run = Path("outputs/test/config.yaml").read_text()
        if stop:
            size = "4 x 4" if cut else "16 x 1"
            assert f"  steps       12 of 16 queries ({size}, auto for 60 rows); 4 epochs (auto)\n" in printed
            assert "gradient_accumulation_steps: auto\n" in run and "num_train_epochs: auto\n" in run
    assert "  steps       12 of 16 queries (4 x 4); 4 epochs\n" in printed and "num_train_epochs: 4\n" in run
    summary = read_json(folder / "summary.json")["training"]
    assert (summary["steps"], summary["queries_per_step"], summary["epochs"], summary["auto"]) == (12, 16, 4.0, [])


def test_auto_gives_way_to_a_number_of_steps_and_names_what_a_larger_micro_batch_takes(trained, capsys):
    _, folder = trained("data.max_train_rows=60", *AUTO, "training.max_steps=1", "training.per_device_train_batch_size=50")
    said = "  steps       1 of 16 queries (16 x 1, auto for 60 rows); 0.333 epochs; 50 a step: training.gradient_accumulation_steps=1\n"
    assert said in capsys.readouterr().out
    summary = read_json(folder / "summary.json")["training"]
    assert summary["steps"] == 1 and summary["auto"] == ["gradient_accumulation_steps", "num_train_epochs"]
    with pytest.raises(ResumeRefusedError, match="queries per step: 16 then, 32 now"):
        trained("data.max_train_rows=1100", *AUTO, "training.max_steps=1", "resume=true")


def test_a_name_is_used_once(trained):
    trained("training.max_steps=1")
    with pytest.raises(ConfigurationError, match="holds a run already"):
        trained("training.max_steps=1")


def test_nothing_to_resume(trained):
    with pytest.raises(ConfigurationError, match="there is no run"):
        trained("resume=true")


def test_a_run_that_ended_before_its_first_checkpoint_goes_on_from_the_beginning(trained, monkeypatch):
    """Also the base is measured then, as the first candidate."""
    from e5ft.app.commands.train import _Run

    with monkeypatch.context() as patch:
        patch.setattr(_Run, "_score_base", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            trained("training.max_steps=1")
    _, folder = trained("training.max_steps=1", "resume=true")
    assert lines(folder / "metrics.jsonl")[0]["step"] == 0
    assert definition_of(folder / "checkpoint-1")["seed"] == 42


def test_without_evaluation_the_last_weights_count(trained):
    settings = (
        "training.max_steps=2",
        "training.eval_strategy=no",
        "training.load_best_model_at_end=false",
        "evaluation.bm25=null",
    )
    objective, folder = trained(*settings)
    assert objective is None and read_json(folder / "summary.json")["best"] == {"score": None, "step": 2, "alpha": 1.0}
    from e5ft.reporting.sweeps import collect, read_sweep

    folder.rename(folder.parent / "0")
    assert collect(read_sweep(folder.parent))[0]["state"] == "finished"


def test_without_choosing_the_score_is_of_the_last_weights(trained):
    settings = (
        "training.max_steps=2",
        "training.eval_steps=1",
        "training.save_steps=1",
        "optimizer.lr=1.0",
        "training.warmup_steps=0",
    )
    objective, folder = trained(*settings, "training.load_best_model_at_end=false")
    scores = [entry["eval_ndcg@10"] for entry in lines(folder / "metrics.jsonl") if "eval_ndcg@10" in entry]
    assert objective == scores[-1] < scores[0]


def test_a_run_in_use_is_refused(tmp_path):
    from e5ft.app.runs.folder import Job, RunFolder

    held = RunFolder(Job(tmp_path / "run"))
    with pytest.raises(ConfigurationError, match="another process"):
        RunFolder(Job(tmp_path / "run"))
    held.__exit__(None, None, None)


def test_bad_rows(trained, write_rows):
    path = write_rows([{"query": "q", "document": ""}, *({"query": f"q{i}", "document": f"d{i}"} for i in range(60))])
    with pytest.raises(DataError, match=r"rows.jsonl:1: document is blank"):
        trained(f"data.train_file={path}")
    _, folder = trained(f"data.train_file={path}", "data.on_bad_row=skip", "training.max_steps=1")
    assert read_json(folder / "summary.json")["data"] | {"source": ""} == {
        "source": "",
        "read": 61,
        "rejected": 1,
        "train_rows": 54,
        "language": None,
    }


def test_too_few_rows_for_a_step(trained, write_rows):
    path = write_rows([{"query": f"q{i}", "document": f"d{i}"} for i in range(12)])
    with pytest.raises(DataError, match=r"11 training rows do not fill one step of 16 .*gradient_accumulation_steps=auto$"):
        trained(f"data.train_file={path}")
    _, folder = trained(f"data.train_file={path}", *AUTO)
    assert read_json(folder / "summary.json")["training"]["queries_per_step"] == 8


def test_non_finite_training_is_told_and_recorded(trained, monkeypatch):
    from e5ft.training.losses import InfoNCE

    monkeypatch.setattr(InfoNCE, "forward", lambda self, embeddings, step: embeddings.sum() * float("nan"))
    with pytest.raises(NonFiniteError, match=r"train.jsonl:\d+"):
        trained("training.max_steps=2", run_dir="outputs/nan")


@pytest.mark.parametrize("precision", ["bf16", "no"])
def test_e5_small_shape_trains_a_step(trained, precision):
    """mE5-small's own preset with fewer pieces and layers in the table; the full shape is in docs/log.md."""
    _, folder = trained(
        "model=e5_small", "model.init=random", "keep.weight=0", f"model.tokenizer={shipped('data')}/tokenizer", "model.shape.num_hidden_layers=1",
        "model.shape.vocab_size=8000", f"training.bf16={'true' if precision == 'bf16' else 'false'}", "training.max_steps=1",
        "training.per_device_train_batch_size=4", "training.gradient_accumulation_steps=2", "training.save_strategy=no",
        "training.load_best_model_at_end=false", "evaluation.bm25=null", "data.max_train_rows=40", "evaluation.intervals=10", "model.text.query_max_length=16",
        "model.text.passage_max_length=16", tiny=False,
    )  # fmt: skip
    losses = [entry["loss"] for entry in lines(folder / "metrics.jsonl") if "loss" in entry]
    assert losses == [] or all(np.isfinite(losses))
    assert read_json(folder / "summary.json")["training"]["steps"] == 1


def test_adapters_train_and_the_model_has_them_merged(trained):
    """Through the whole job; going on with other adapters is refused."""
    pytest.importorskip("peft")
    lora = ("model.lora.rank=4", "model.lora.alpha=8", "optimizer.lr=1e-2", "training.max_steps=4")
    _, folder = trained(*lora, "training.save_steps=2", "training.eval_steps=2")
    assert definition_of(folder / "checkpoint-4")["lora"]["rank"] == 4
    assert (folder / "checkpoint-4" / "adapter.safetensors").is_file() and not (folder / "model/adapter.safetensors").exists()
    assert read_json(folder / "summary.json")["best"]["step"] > 0
    _, report = AutoModel.from_pretrained(folder / "model", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with pytest.raises(ConfigurationError, match=r"\n  lora.rank: 4 then, 2 now\n"):
        trained("model.lora.rank=2", *lora[1:], "resume=true")


def test_adapters_leave_in_peft_s_layout_too(trained, capsys):
    """Loaded over the base, as its users do, they give the vectors of model/."""
    peft = pytest.importorskip("peft")
    last = ("training.eval_strategy=no", "training.load_best_model_at_end=false", "evaluation.bm25=null")
    base = trained("training.max_steps=1", *last, run_dir="outputs/base")[1]
    assert not (base / "adapter").exists()
    start = ("model=folder", f"model.path={base}", "data.max_train_rows=200", "training.per_device_train_batch_size=16")
    _, folder = trained(*start, *last, "model.lora.rank=4", "training.max_steps=2", "optimizer.lr=1e-2", tiny=False)
    out = capsys.readouterr().out
    assert "  text        mean pooling, 'query: ' / 'passage: ', 24 / 48 tokens: recorded by the model\n" in out
    assert "adapter     outputs/test/adapter" in out and re.search(r"  trained     [\d,]+ of [\d,]+ parameters", out)
    merged = load_encoder(ModelSource(path=str(folder)))
    over_base = load_encoder(ModelSource(path=str(base)))
    adapted = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(base / "model"), str(folder / "adapter"))
    assert adapted.peft_config["default"].base_model_name_or_path == str(base / "model")
    texts, before = ["서울의 수도", "a query"], over_base.encode(["서울의 수도", "a query"], "query")
    tensors = {name: tensor for name, tensor in adapted.merge_and_unload().state_dict().items() if not name.startswith("pooler.")}
    over_base.backbone.load_state_dict(tensors)
    np.testing.assert_allclose(over_base.encode(texts, "query"), merged.encode(texts, "query"), rtol=0, atol=1e-5)
    assert np.abs(merged.encode(texts, "query") - before).max() > 1e-3


def test_adapters_are_for_training_alone(composed):
    with pytest.raises(ConfigurationError, match="model.lora.rank=4: must be null: only train.py"):
        composed("eval", "model.lora.rank=4", "model.hub=some/model")


def test_a_compact_embedding_table_changes_nothing_but_what_is_kept(trained, capsys):
    """40 rows meet less than half of the vocabulary: the same losses and scores with the others aside."""
    found = {}
    for small in ("true", "false"):
        given = ("data.max_train_rows=40", "training.max_steps=4", "training.save_steps=4", "training.eval_steps=4")
        _, folder = trained(*given, f"training.compact_embedding={small}", run_dir=f"outputs/{small}")
        assert ("token embeddings are trained" in capsys.readouterr().out) == (small == "true")
        assert (folder / "checkpoint-4" / "embedding.json").is_file() == (small == "true")
        losses = [entry["loss"] for entry in lines(folder / "metrics.jsonl") if "loss" in entry]
        model = load_encoder(ModelSource(path=str(folder / "model")))
        found[small] = losses, model.encode(["가나다", "법원의 판결"], "query")
    for ours, theirs in zip(found["true"], found["false"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    assert len(found["true"][0]) == 4


def test_going_on_with_another_kind_of_table_is_refused(trained):
    given = ("data.max_train_rows=40", "training.max_steps=2", "training.save_steps=1", "training.eval_steps=1")
    trained(*given)
    with pytest.raises(ConfigurationError, match="trained token embeddings"):
        trained(*given, "training.compact_embedding=false", "resume=true")


def test_a_run_leaves_its_page(trained, capsys):
    _, folder = trained("training.max_steps=2")
    page, summary = html.unescape((folder / "report.html").read_text()), read_json(folder / "summary.json")
    assert "report      outputs/test/report.html" in capsys.readouterr().out
    assert summary["made"]["command"] in page and summary["made"]["digests"]["rows"] in page
    assert f"{summary['scores']['after']['metrics']['ndcg@10']:.3f}".lstrip("0") in page


@pytest.mark.parametrize("fault", [RuntimeError("a font\nis missing"), OSError(28, "No space left on device"), MemoryError()])
def test_a_report_that_fails_is_one_line_and_the_run_is_as_good(fault, trained, monkeypatch, capsys):
    def fail(folder):
        raise fault

    monkeypatch.setattr("e5ft.app.telling.report.run_page", fail)
    _, folder = trained("training.max_steps=1")
    said = [line for line in capsys.readouterr().out.splitlines() if "report" in line]
    assert (
        len(said) == 1
        and said[0].startswith("outputs/test/report.html could not be written (")
        and not (folder / "report.html").exists()
    )
    assert read_json(folder / "status.json")["state"] == "finished" and (folder / "model/config.json").is_file()
