"""Merging as a stage of export.py: soups and sweeps against single measurements, and what is refused."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from e5ft.app.commands import export as commands
from e5ft.app.commands.evaluate import evaluate
from e5ft.app.commands.export import export, sweep_table
from e5ft.app.commands.reading import read_first
from e5ft.app.settings.build import shipped
from e5ft.errors import ConfigurationError, DataError
from e5ft.exporting.folder import export_model
from e5ft.exporting.settings import check_packages
from e5ft.files import read_json
from e5ft.modeling.loading import load_encoder
from e5ft.modeling.settings import ModelSource
from e5ft.retrieval.soups import soup_table
from e5ft.retrieval.verdict import choose_alpha
from tests.app.conftest import TINY
from tests.conftest import make_encoder
from tests.exporting.test_xlm_roberta import make_xlmr_encoder

SAMPLE = shipped("data/sample/eval")
FAST = ("evaluation.intervals=50", "device=cpu")


@pytest.fixture
def models(trained, composed, tmp_path):
    """The untrained model, and what some steps made of it."""
    shape = [setting for setting in TINY if setting.startswith("model.")]
    export(composed("export", "model=mini", *shape, f"output_dir={tmp_path / 'base'}"))
    _, run = trained("training.max_steps=6", "optimizer.lr=0.002", "training.eval_strategy=no",
                     "training.load_best_model_at_end=false", "evaluation.bm25=null")  # fmt: skip
    return tmp_path / "base", run


@pytest.fixture
def keep(tmp_path):
    """A keep set: the sample's corpus with a part of its judgements."""
    folder = tmp_path / "law"
    shutil.copytree(SAMPLE, folder)
    lines = (SAMPLE / "qrels/dev.tsv").read_text().splitlines(keepends=True)
    (folder / "qrels/dev.tsv").write_text("".join(lines[:61]))
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    encoder = load_encoder(ModelSource(path=str(folder)))
    return {**encoder.backbone.state_dict(), **encoder.pooler[0].state_dict()}


def test_one_alpha_is_written_as_a_model_like_any_other(models, composed, tmp_path, capsys):
    from sentence_transformers import SentenceTransformer

    base, run = models
    out = tmp_path / "merged"
    export(composed("export", f"model.path={run}/model", f"merge.base={base}", "merge.alpha=0.25", f"output_dir={out}"))
    ours, theirs, merged = weights(base), weights(run / "model"), weights(out)
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, 0.75 * ours[name] + 0.25 * theirs[name], rtol=1e-6, atol=1e-7)
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)
    encoder = load_encoder(ModelSource(path=str(out)))
    assert encoder.spec == load_encoder(ModelSource(path=str(run / "model"))).spec
    vectors = SentenceTransformer(str(out), device="cpu").encode(["질문"], prompt_name="query")
    np.testing.assert_allclose(vectors, encoder.encode(["질문"], "query"), atol=1e-5)
    assert read_json(out / "merge.json") == {"base": "base", "fine_tuned": "test/model", "alpha": 0.25, "rule": None}
    card = (out / "README.md").read_text()
    assert (
        "alpha: 0.25, given" in card
        and "- base: base\n" in card
        and "- fine-tuned: test/model\n" in card
        and "qualifies" not in card
    )
    assert "merged, alpha 0.25" in capsys.readouterr().out


@pytest.mark.parametrize("alpha", [0, 1])
def test_the_ends_are_the_two_models_bit_for_bit(models, composed, tmp_path, alpha):
    base, run = models
    out = tmp_path / "merged"
    export(composed("export", f"model.path={run}/model", f"merge.base={base}", f"merge.alpha={alpha}", f"output_dir={out}"))
    end, merged = weights(run / "model" if alpha else base), weights(out)
    assert merged.keys() == end.keys() and all(torch.equal(merged[name], end[name]) for name in end)


def test_a_sweep_measures_every_alpha_and_writes_the_best(models, composed, keep, tmp_path, capsys):
    base, run = models
    out = tmp_path / "merged"
    settings = (f"model.path={run}/model", f"merge.base={base}", "merge.alpha=[0.5,0.75]")
    export(composed("export", *settings, f"data.eval_dir={SAMPLE}", f"data.keep_dir=[{keep}]", f"output_dir={out}", *FAST))
    record, printed = read_json(out / "merge.json"), capsys.readouterr().out
    assert [entry["alpha"] for entry in record["alphas"]] == [0.0, 0.5, 0.75, 1.0]
    assert (record["target"], record["keep"], record["split"], record["metric"]) == ("sample-dev", ["law-dev"], "dev", "ndcg@10")
    # An end of the sweep is what eval.py finds for that model, and the bound is the base's interval.
    for entry, folder in ((record["alphas"][0], base), (record["alphas"][-1], run / "model")):
        for name, place in (("sample-dev", SAMPLE), ("law-dev", keep)):
            evaluate(composed("eval", f"model.path={folder}", f"data.eval_dir={place}", "data.eval_split=dev",
                              f"output_dir={tmp_path / 'eval'}", "evaluation.bm25=null", *FAST))  # fmt: skip
            found = read_json(tmp_path / "eval" / name / "model/metrics.json")
            assert entry["sets"][name]["metrics"] == pytest.approx(found["metrics"])
            assert entry["sets"][name]["intervals"]["ndcg@10"] == pytest.approx(found["intervals"]["ndcg@10"])
    # One keep set: what refutes an alpha is its paired interval of the table.
    for entry in record["alphas"]:
        difference = entry["sets"]["law-dev"]["difference_to_base"]
        assert entry["qualifies"] == (not difference["high"] < 0)
        assert entry["keep"]["law-dev"]["high"] == pytest.approx(difference["high"])
    scores = {entry["alpha"]: entry["sets"]["sample-dev"]["metrics"]["ndcg@10"] for entry in record["alphas"]}
    assert len(set(scores.values())) > 1
    refuted = {entry["alpha"] for entry in record["alphas"] if not entry["qualifies"]}
    chosen = choose_alpha(scores, refuted.__contains__)
    assert record["alpha"] == chosen
    # The model written is that alpha's.
    ours, theirs, merged = weights(base), weights(run / "model"), weights(out)
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, (1 - chosen) * ours[name] + chosen * theirs[name], rtol=1e-6, atol=1e-7)
    card = (out / "README.md").read_text()
    assert sweep_table(record) in printed and "\nlaw-dev, " in printed
    record["alphas"][-1]["sets"]["law-dev"]["queries"] = 300
    assert "\nlaw-dev, " not in sweep_table(record)
    assert record["rule"] in card and "| 0.75 |" in card and "law-dev ndcg@10" in card


def test_when_every_mixture_loses_too_much_the_base_is_written(models, composed, keep, tmp_path, capsys, monkeypatch):
    measured, base_values = commands.score_model, []

    def forgetful(encoder, retrieval_set, evaluation, label, **kwargs):
        found = measured(encoder, retrieval_set, evaluation, label, **kwargs)
        better = retrieval_set.name == "sample-dev" and label != "alpha 0"
        found.metrics["ndcg@10"] = 0.99 if better else found.metrics["ndcg@10"]
        if retrieval_set.name == "law-dev" and label != "alpha 0":  # far inside the base's own interval, and for certain
            column = list(found.metrics).index("ndcg@10")
            found.values[:, column] = base_values[0][:, column] - 0.001
        elif retrieval_set.name == "law-dev":
            base_values.append(found.values.copy())
        return found

    monkeypatch.setattr(commands, "score_model", forgetful)
    base, run = models
    settings = (f"model.path={run}/model", f"merge.base={base}", "merge.alpha=[0.5]", f"data.eval_dir={SAMPLE}", *FAST)
    export(composed("export", *settings, f"data.keep_dir={keep}", f"output_dir={tmp_path / 'kept'}"))
    assert read_json(tmp_path / "kept/merge.json")["alpha"] == 0.0
    printed = capsys.readouterr().out
    assert "the model written is the base, unchanged" in printed
    assert printed.count("does not qualify: a loss on law-dev -0.001 [-0.001, -0.001]") == 2
    ours, merged = weights(base), weights(tmp_path / "kept")
    assert all(torch.equal(merged[name], ours[name]) for name in ours)
    # Negative control: without the keep set nothing holds it back, and the smallest of the equal ones is taken.
    export(composed("export", *settings, f"output_dir={tmp_path / 'free'}"))
    assert read_json(tmp_path / "free/merge.json")["alpha"] == 0.5
    assert "No keep set is named" in capsys.readouterr().out


def test_a_number_with_a_set_is_measured_and_not_chosen(models, composed, tmp_path, capsys):
    base, run = models
    settings = (f"model.path={run}/model", f"merge.base={base}", "merge.alpha=0.5", f"data.eval_dir={SAMPLE}", *FAST)
    export(composed("export", *settings, f"output_dir={tmp_path / 'm'}", "data.eval_corpus_size=150"))
    record = read_json(tmp_path / "m/merge.json")
    assert record["alpha"] == 0.5 and record["rule"] is None and [e["alpha"] for e in record["alphas"]] == [0.0, 0.5, 1.0]
    assert {e["sets"]["sample-dev"]["passages"] for e in record["alphas"]} == {len_judged_or(150)}
    assert "is chosen" not in capsys.readouterr().out


def len_judged_or(size: int) -> int:
    """The cut never drops a judged passage."""
    judged = {line.split("\t")[1] for line in (SAMPLE / "qrels/dev.tsv").read_text().splitlines()[1:]}
    return max(size, len(judged))


def test_the_base_may_be_a_run(models, composed, tmp_path):
    base, run = models
    shutil.copytree(base, tmp_path / "outputs/first/model")
    settings = (f"model.path={run}/model", "merge.base=outputs/first", "merge.alpha=0")
    export(composed("export", *settings, f"output_dir={tmp_path / 'm'}"))
    assert read_json(tmp_path / "m/merge.json")["base"] == "outputs/first/model"


def test_a_base_that_records_no_lengths_is_measured_under_the_fine_tuned_model_s(models, composed, tmp_path):
    """Published folders record none; negative control: another prefix is another contract."""
    import json

    base, run = models
    for file, change in (("config.json", lambda values: values.pop("e5ft")), ("config_sentence_transformers.json", None)):
        values = read_json(base / file)
        if change:
            change(values)
        (base / file).write_text(json.dumps(values))
    settings = ("export", f"model.path={run}/model", f"merge.base={base}", f"output_dir={tmp_path / 'm'}")
    export(composed(*settings))
    values["prompts"] = {"query": "question: ", "document": "passage: "}
    (base / "config_sentence_transformers.json").write_text(json.dumps(values))
    with pytest.raises(ConfigurationError, match=r"text.query_prefix is 'question: ' in the base, 'query: '"):
        export(composed(*settings))
    export(composed(*settings, "model.text.query_prefix='query: '"))  # said to hold for both


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two small models of one kind and one of another, for what is refused before anything is measured."""
    folder = tmp_path_factory.mktemp("models")
    for name, encoder in (
        ("base", make_encoder(seed=0)),
        ("tuned", make_encoder(seed=1)),
        ("xlm-r", make_encoder("xlm-roberta")),
    ):
        export_model(encoder, folder / name, "card")
    return folder


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        (["merge.alpha=half"], ConfigurationError, "merge.alpha='half'"),
        (["merge.base=null", "merge.alpha=0.3"], ConfigurationError, "merge.alpha=0.3: needs the model before"),
        (["merge.alpha=true"], ConfigurationError, "merge.alpha=True"),
        (["merge.alpha=1.01"], ConfigurationError, "merge.alpha=1.01: must be at least 0"),
        (["merge.alpha=.nan"], ConfigurationError, "merge.alpha="),
        (["merge.alpha=[0.5,2]"], ConfigurationError, r"merge.alpha=\[0.5, 2\]: must be"),
        (["merge.alpha=[0.5]"], ConfigurationError, "needs data.eval_dir"),
        (["merge.alpha=0.5", f"data.keep_dir={SAMPLE}"], ConfigurationError, "needs the target"),
        (["merge.alpha=[0.5]", f"data.eval_dir={SAMPLE}", "data.eval_split=train"], DataError, "the splits there are: dev, test .data.eval_split=train"),
        (["merge.alpha=[0.5]", f"data.eval_dir={SAMPLE}", "data.eval_split=null"], ConfigurationError, "data.eval_split=None"),
        (["merge.alpha=[0.5]", "data.eval_dir=nowhere"], DataError, "nowhere: no such folder"),
        (["merge.alpha=[0.5]", f"data.eval_dir={SAMPLE}", "data.keep_dir=[nowhere]"], DataError, "nowhere: no such folder"),
        (["merge.alpha=[0.5]", f"data.eval_dir={SAMPLE}", f"data.keep_dir=[{SAMPLE}]"], ConfigurationError, "the target"),
        (["merge.base=nowhere"], ConfigurationError, "merge.base=nowhere: no such folder"),
    ],
)  # fmt: skip
def test_what_is_refused(pair, composed, tmp_path, settings, kind, message):
    with pytest.raises(kind, match=message):
        export(
            composed("export", f"model.path={pair}/tuned", f"merge.base={pair}/base", f"output_dir={tmp_path / 'm'}", *settings)
        )
    assert not (tmp_path / "m").exists()


def test_models_that_do_not_belong_together(pair, composed, tmp_path):
    out = f"output_dir={tmp_path / 'm'}"
    with pytest.raises(ConfigurationError, match="cannot be merged: the setting model_type is 'xlm-roberta' in the base, 'bert'"):
        export(composed("export", f"model.path={pair}/tuned", f"merge.base={pair}/xlm-r", out))
    with pytest.raises(ConfigurationError, match="is model.path itself"):
        export(composed("export", f"model.path={pair}/tuned", f"merge.base={pair}/tuned", out))
    with pytest.raises(ConfigurationError, match="only merging, trimming .* use them"):
        export(composed("export", f"model.path={pair}/tuned", f"data.eval_dir={SAMPLE}", out))


def test_a_merger_is_trimmed_and_the_trimmed_model_trains_on(models, composed, trained, tmp_path, capsys):
    """Weights between the two are those of the whole merger; what a set lacks is counted; a training starts from the folder."""
    base, run = models
    merged = (f"model.path={run}/model", f"merge.base={base}", "merge.alpha=0.5")
    cut = (f"trim.texts={SAMPLE}/queries.jsonl", f"data.eval_dir={SAMPLE}", *FAST)
    export(composed("export", *merged, f"output_dir={tmp_path / 'whole'}"))
    export(composed("export", *merged, *cut, f"output_dir={tmp_path / 'cut'}"))
    whole, trimmed = (load_encoder(ModelSource(path=str(tmp_path / name))) for name in ("whole", "cut"))
    queries = [read["text"] for read in map(json.loads, (SAMPLE / "queries.jsonl").read_text().splitlines())][:20]
    np.testing.assert_allclose(trimmed.encode(queries, "query"), whole.encode(queries, "query"), atol=1e-6)
    export(composed("export", f"model.path={tmp_path / 'cut'}", f"output_dir={tmp_path / 'again'}"))
    for name in ("merge.json", "trim.json"):  # what the weights are made of goes on with them
        assert read_json(tmp_path / "again" / name) == read_json(tmp_path / "cut" / name)
    record = read_json(tmp_path / "cut/trim.json")
    assert record["pieces"] == trimmed.config.vocab_size < record["before"] == 8000
    assert 0 < record["uncovered"]["sample-dev"]["tokens"] < 0.5 and record["files"] == ["queries.jsonl"]
    assert "merged, alpha 0.5" in record["model"] and read_json(tmp_path / "cut/merge.json")["alpha"] == 0.5
    assert "## Trimmed vocabulary" in (tmp_path / "cut/README.md").read_text()
    assert f"trimmed: {record['pieces']:,} of 8,000 pieces are kept" in capsys.readouterr().out
    export(composed("export", f"model.path={tmp_path / 'cut'}", "trim.languages=[ko]", f"output_dir={tmp_path / 'twice'}"))
    card = (tmp_path / "twice/README.md").read_text()  # of the second time alone
    assert card.count("## Trimmed vocabulary") == 1 and f"of the {record['pieces']:,} pieces" in card
    with pytest.raises(ConfigurationError, match="is trimmed to"):
        export(composed("export", f"model.path={tmp_path / 'cut'}", f"merge.base={base}", f"output_dir={tmp_path / 'no'}"))
    _, further = trained("model=folder", f"model.path={tmp_path / 'cut'}", "training.max_steps=2", "evaluation.bm25=null",
                         "data.max_train_rows=64", "training.per_device_train_batch_size=8", tiny=False, run_dir="outputs/further")  # fmt: skip
    assert load_encoder(ModelSource(path=str(further / "model"))).config.vocab_size == record["pieces"]


@pytest.fixture
def seeds(models, trained):
    """The base, and what two seeds made of it; of the first there is a checkpoint on the way, too."""
    base, run = models
    steps = ("training.max_steps=6", "training.save_steps=3", "optimizer.lr=0.002", "training.load_best_model_at_end=false")
    for seed in (1, 2):
        trained("model=folder", f"model.path={base}", f"seed={seed}", *steps, "training.eval_strategy=no", "evaluation.bm25=null",
                "training.per_device_train_batch_size=16", "data.max_train_rows=200", "evaluation.intervals=50",
                "tracking=off", tiny=False, run_dir=f"outputs/seed-{seed}")  # fmt: skip
    return base, [Path(f"outputs/seed-{seed}") for seed in (1, 2)]


def mean_of(folders) -> dict[str, torch.Tensor]:
    parts = [weights(folder) for folder in folders]
    return {name: torch.stack([part[name].double() for part in parts]).mean(0) for name in parts[0]}


def assert_weights(folder: Path, expected: dict[str, torch.Tensor]):
    for name, tensor in weights(folder).items():
        torch.testing.assert_close(tensor.double(), expected[name].double(), rtol=1e-6, atol=1e-7)


def test_a_soup_of_runs_and_checkpoints_loads_like_any_other_model(seeds, composed, tmp_path, capsys):
    """By folder, run and pattern, which may match model.path, too; nothing is measured."""
    from sentence_transformers import SentenceTransformer

    base, (first, second) = seeds
    named = (f"model.path={first}", f"merge.models=[{second},{first}/checkpoint-3]")
    export(composed("export", *named, f"output_dir={tmp_path / 'soup'}"))
    members = [first / "model", second / "model", first / "checkpoint-3"]
    assert not torch.equal(*(weights(member)["encoder.layer.0.output.dense.weight"] for member in members[:2]))
    assert_weights(tmp_path / "soup", mean_of(members))
    names = list(map(str, members))
    record = {"how": "uniform", "rule": None, "members": names, "taken": names}
    assert read_json(tmp_path / "soup/merge.json") == {"soup": record}
    assert f"uniform, of 3 models: {', '.join(names)}\n" in capsys.readouterr().out
    card = (tmp_path / "soup/README.md").read_text()
    assert "# soup of 3 models" in card and all(f"- {name}\n" in card for name in names) and "ndcg" not in card
    vectors = SentenceTransformer(str(tmp_path / "soup"), device="cpu").encode(["질문"], prompt_name="query")
    np.testing.assert_allclose(
        vectors, load_encoder(ModelSource(path=str(tmp_path / "soup"))).encode(["질문"], "query"), atol=1e-5
    )
    export(composed("export", f"model.path={first}", "merge.models=outputs/seed-*", f"output_dir={tmp_path / 'two'}"))
    assert read_json(tmp_path / "two/merge.json")["soup"]["members"] == names[:2]
    assert_weights(tmp_path / "two", mean_of(members[:2]))


def test_a_soup_of_adapted_models_is_of_their_merged_weights(seeds, trained, composed, tmp_path):
    pytest.importorskip("peft")
    base, (first, _) = seeds
    trained("model=folder", f"model.path={base}", "model.lora.rank=4", "training.max_steps=2", "optimizer.lr=1e-2", "tracking=off",
            "training.save_steps=2", "training.eval_strategy=no", "training.load_best_model_at_end=false", "evaluation.bm25=null",
            "training.per_device_train_batch_size=16", "data.max_train_rows=200", tiny=False, run_dir="outputs/lora")  # fmt: skip
    out = f"output_dir={tmp_path / 'soup'}"
    export(composed("export", f"model.path={first}", "merge.models=outputs/lora/checkpoint-2", out))
    assert_weights(tmp_path / "soup", mean_of([first / "model", "outputs/lora/model"]))
    with pytest.raises(ConfigurationError, match="outputs/lora/adapter: a run's adapter"):
        export(composed("export", f"model.path={first}", "merge.models=outputs/lora/adapter", out))


def test_greedy_chooses_on_the_target_s_dev_and_the_base_comes_after_it(seeds, composed, keep, tmp_path, capsys, monkeypatch):
    """Scores as said below, by the model's label; the rest is as measured. Alpha 1 of the sweep is the soup, not measured again."""
    base, (first, second) = seeds
    third, asked = first / "checkpoint-3", []
    said = {f"{first}/model": 0.5, f"{second}/model": 0.6, str(third): 0.4, "soup of 2 models": 0.61, "soup of 3 models": 0.6}
    measured = commands.score_model

    def as_said(encoder, retrieval_set, evaluation, name, **kwargs):
        asked.append((name, retrieval_set.name))
        found = measured(encoder, retrieval_set, evaluation, name, **kwargs)
        if retrieval_set.name == "sample-dev":
            found.metrics["ndcg@10"] = said.get(name, 0.3)
        return found

    monkeypatch.setattr(commands, "score_model", as_said)
    settings = (f"model.path={first}", f"merge.models=[{second},{third}]", "merge.how=greedy", f"data.eval_dir={SAMPLE}",
                f"data.keep_dir={keep}", *FAST)  # fmt: skip
    export(composed("export", *settings, f"output_dir={tmp_path / 'soup'}"))
    record, printed = read_json(tmp_path / "soup/merge.json")["soup"], capsys.readouterr().out
    assert record["taken"] == [f"{second}/model", f"{first}/model"] and record["split"] == "dev"
    assert record["with_it"] == {f"{first}/model": 0.61, str(third): 0.6} and record["best"] == f"{second}/model"
    assert_weights(tmp_path / "soup", mean_of([first / "model", second / "model"]))
    assert soup_table(record) in printed and "no, .600 with it" in printed
    card = (tmp_path / "soup/README.md").read_text()
    assert f"- {third} (not taken)\n" in card and record["rule"] in card and "law-dev ndcg@10" in card
    assert f"| {first}/model |" in card and "Merged weights" not in card
    asked.clear()
    export(composed("export", *settings, f"merge.base={base}", "merge.alpha=[0.5]", f"output_dir={tmp_path / 'both'}"))
    both = read_json(tmp_path / "both/merge.json")
    assert both["soup"]["taken"] == record["taken"] and [entry["alpha"] for entry in both["alphas"]] == [0.0, 0.5, 1.0]
    assert both["fine_tuned"] == "soup of 2 models" and both["base"] == "base" and both["alpha"] == 1.0
    assert both["alphas"][-1]["sets"]["sample-dev"]["metrics"]["ndcg@10"] == 0.61
    assert [name for name, where in asked if where == "sample-dev"][-2:] == ["alpha 0", "alpha 0.5"]
    card = (tmp_path / "both/README.md").read_text()
    assert card.index("## Soup") < card.index("## Merged weights") and "- fine-tuned: soup of 2 models" in card


def test_the_base_is_mixed_into_the_soup(seeds, composed, tmp_path):
    base, (first, second) = seeds
    settings = (f"model.path={first}", f"merge.models=[{second}]", f"merge.base={base}", "merge.alpha=0.25")
    export(composed("export", *settings, f"output_dir={tmp_path / 'm'}"))
    soup, before = mean_of([first / "model", second / "model"]), weights(base)
    assert_weights(tmp_path / "m", {name: 0.75 * before[name].double() + 0.25 * soup[name] for name in soup})
    assert read_json(tmp_path / "m/merge.json")["soup"]["how"] == "uniform"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["merge.models=[nowhere]"], "merge.models=nowhere: no such folder; must be a model or a run"),
        (["merge.models=['no*where']"], r"merge.models=no\*where: no such folder"),
        (["merge.models=[{0}/tuned]"], "merge.models=.*/tuned: is a model that is named already"),
        (["merge.models=[{0}/base,{0}/base]"], "merge.models=.*/base: is a model that is named already"),
        (["merge.models=['{0}/tun*']"], r"merge.models=.*/tun\*: matches no model but model.path"),
        (["merge.models=[{0}/xlm-r]"], "model_type is 'xlm-roberta' in xlm-r, 'bert' in tuned; all must be made from one model"),
        (["merge.models=[{0}/base]", "merge.how=greedy"], "merge.how='greedy': needs data.eval_dir=DIR"),
        (["merge.models=[{0}/base]", "merge.how=greedy", "data.keep_dir=x"], "merge.how='greedy': needs data.eval_dir=DIR"),
        (["merge.models=[{0}/base]", "data.keep_dir=x"], "data.keep_dir: needs the target"),
        (["merge.models=[{0}/base]", "merge.alpha=[0.5]"], r"merge.alpha=\(0.5,\): needs the model before"),
        (["merge.models=[{0}/base]", "output_dir={0}/base"], "output_dir=.*: this is one of merge.models, which would be replaced"),
        (["merge.models=[{0}/base]", "model=mini"], "model.init='random': must be pretrained to be merged"),
        (["merge.base={0}/base", "output_dir={0}/base"], "output_dir=.*: this is merge.base, which would be replaced"),
    ],
)  # fmt: skip
def test_what_a_soup_refuses(pair, composed, tmp_path, settings, message):
    with pytest.raises(ConfigurationError, match=message):
        given = [setting.format(pair) for setting in settings]
        export(composed("export", f"model.path={pair}/tuned", f"output_dir={tmp_path / 'm'}", *given))
    assert not (tmp_path / "m").exists() and (pair / "base/README.md").read_text() == "card"


def missing(name: str) -> bool:
    try:
        check_packages([name])
    except ConfigurationError:
        return True
    return False


def files_that_hold(folder: Path, words: set[str]) -> set[tuple[str, str]]:
    """(name, word) of every file whose bytes hold one, as text or as UTF-16."""
    texts = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    return {
        (name, word)
        for name, text in texts.items()
        for word in words
        for form in ("utf-8", "utf-16-le")
        if word.encode(form) in text
    }


def test_no_path_of_this_machine_leaves_with_an_export(pair, composed, tmp_path, capsys):
    """All that an export can write, from models and data that lie in private folders; two of the models have one name."""
    kim = tmp_path / "kim-private"
    shutil.copytree(pair / "tuned", kim / "a/tuned")
    shutil.copytree(pair / "base", kim / "b/tuned")
    shutil.copytree(pair / "tuned", kim / "outputs/first/model")
    (kim / "outputs/first/config.yaml").write_text("model: {}")
    shutil.copytree(SAMPLE, kim / "sample/eval")
    shutil.copytree(SAMPLE, kim / "law")
    formats = [name for name in ("onnx", "onnx_int8", "openvino", "gguf") if not missing(name) and name != "gguf"]
    export(composed("export", f"model.path={kim}/a/tuned", f"merge.models=[{kim}/b/tuned,{kim}/outputs/first]", f"merge.base={pair}/base",
                    "merge.alpha=[0.5]", "merge.how=greedy", f"data.eval_dir={kim}/sample/eval", f"data.keep_dir=[{kim}/law]",
                    f"data.corpus_file={kim}/law/corpus.jsonl", f"trim.texts=[{kim}/law/corpus.jsonl,../{tmp_path.name}/kim-private/law/queries.jsonl]",
                    f"formats={formats}", f"output_dir={kim}/out", *FAST))  # fmt: skip
    words = {part for folder in (kim, pair) for part in folder.parts if len(part) > 3}
    assert {"kim-private", tmp_path.name} <= words and files_that_hold(kim / "out", words) == set()
    record = read_json(kim / "out/merge.json")
    assert record["soup"]["members"] == ["tuned", "tuned (2)", "first/model"] and record["base"] == "base"
    assert {"merge.json", "trim.json", "centre.json", "README.md", "golden.json"} <= {
        file.name for file in (kim / "out").iterdir()
    }
    card = (kim / "out/README.md").read_text()
    assert all(f"- {name}" in card for name in record["soup"]["members"])
    export(composed("export", f"model.path={kim}/out", f"output_dir={kim}/again"))
    assert files_that_hold(kim / "again", words) == set() and (kim / "again/README.md").read_text() == card


@pytest.fixture
def published(pair, composed, tmp_path):
    """An export with a centre, and scores in its card as a run's has them."""
    export(
        composed(
            "export", f"model.path={pair}/tuned", f"data.corpus_file={SAMPLE}/corpus.jsonl", f"output_dir={tmp_path / 'one'}"
        )
    )
    card = tmp_path / "one/README.md"
    card.write_text(card.read_text() + "\n## Scores\n\n.812\n")
    return tmp_path / "one"


def test_an_export_of_an_export_keeps_what_belongs_to_the_model(published, composed, tmp_path, capsys):
    capsys.readouterr()
    export(composed("export", f"model.path={published}", f"output_dir={tmp_path / 'two'}"))
    for name in ("README.md", "centre.json"):
        assert (tmp_path / "two" / name).read_bytes() == (published / name).read_bytes()
    assert "left out" not in capsys.readouterr().out
    corpus = f"data.corpus_file={SAMPLE}/queries.jsonl"  # of which it takes a new centre, whatever the old one is
    (published / "centre.json").write_text("{}")
    export(composed("export", f"model.path={published}", corpus, f"output_dir={tmp_path / 'three'}"))
    assert (tmp_path / "three/README.md").read_text() == (published / "README.md").read_text()
    assert read_json(tmp_path / "three/centre.json")["texts"] == "queries.jsonl" and "left out" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "told", "scores"),
    [
        (["trim.texts={SAMPLE}/queries.jsonl"], "centre.json: of the vectors before trimming", True),
        (["model.text.query_prefix='ask: '"], "the card's scores, centre.json: of the vectors before model.text, model.pooling or model", False),
        (["model.pooling=cls"], "the card's scores, centre.json: of the vectors before model.text, model.pooling or model.tokenizer", False),
        (["merge.base={pair}/base"], "the card's scores, centre.json: of the vectors before merging", False),
    ],
)  # fmt: skip
def test_what_an_export_of_an_export_cannot_keep_is_said_in_one_line(
    published, pair, composed, tmp_path, capsys, settings, told, scores
):
    settings = [setting.format(SAMPLE=SAMPLE, pair=pair) for setting in settings]
    export(composed("export", f"model.path={published}", *settings, f"output_dir={tmp_path / 'two'}"))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  left out ")]
    assert told in line and line.endswith("; data.corpus_file=FILE makes a new centre.json")
    card = (tmp_path / "two/README.md").read_text()
    assert not (tmp_path / "two/centre.json").exists() and "## Binary vectors" not in card and ("## Scores" in card) == scores
    if "prefix" in settings[0]:  # a card that says the old one would be copied from
        assert '"query": "ask: "' in card and '"query": "query: "' not in card


def test_random_weights_have_nobody_s_scores(published, composed, tmp_path):
    export(composed("export", f"model.path={published}", "model.init=random", f"output_dir={tmp_path / 'two'}"))
    assert "## Scores" not in (tmp_path / "two/README.md").read_text() and not (tmp_path / "two/centre.json").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["output_dir=null"], "output_dir=null: must name the folder"),
        (["merge.base={pair}/tuned"], "merge.base=.*: this is model.path itself"),
        (["merge.base=nowhere"], "merge.base=nowhere: no such folder"),
        (["merge.models=[nowhere]"], "merge.models=nowhere: no such folder"),
        (["trim.texts=nowhere.txt"], "trim.texts=nowhere.txt: no such file"),
        (["output_dir={pair}"], "output_dir=.*: holds other files"),
        (["output_dir={pair}/base", "merge.base={pair}/base"], "output_dir=.*: this is merge.base, which would be replaced"),
        (["formats=[openvino]"], r"formats=\[openvino\]: needs "),
    ],
)
def test_settings_are_refused_before_a_set_is_read(pair, composed, tmp_path, monkeypatch, settings, message):
    """The set, which is faulty, is read second: without the setting it is what is told."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / "faulty").mkdir()
    given = [f"model.path={pair}/tuned", "trim.languages=[ko]", f"data.eval_dir={tmp_path / 'faulty'}", "output_dir=out"]
    with pytest.raises(ConfigurationError, match=message):
        read_first("export", composed("export", *given, *(setting.format(pair=pair) for setting in settings)))
    with pytest.raises(DataError, match="faulty"):
        read_first("export", composed("export", *given))


def test_an_architecture_is_refused_before_anything_is_measured(pair, composed, monkeypatch):
    monkeypatch.setattr(commands, "score_model", lambda *_, **__: pytest.fail("a model was measured"))
    given = (
        f"model.path={pair}/tuned",
        f"merge.base={pair}/base",
        "merge.alpha=[0.5]",
        f"data.eval_dir={SAMPLE}",
        "output_dir=out",
    )
    with pytest.raises(ConfigurationError, match="^architecture=xlm_roberta: the tokenizer "):
        export(composed("export", *given, "architecture=xlm_roberta"))


def test_without_a_base_nothing_is_merged(pair, composed, tmp_path):
    export(composed("export", f"model.path={pair}/tuned", f"output_dir={tmp_path / 'm'}"))
    assert not (tmp_path / "m/merge.json").exists()


def test_an_architecture_that_does_not_fit_is_refused_and_leaves_nothing(composed, tmp_path):
    shape = [setting for setting in TINY if setting.startswith("model.")]
    for setting in ("architecture=xlm_roberta", "formats=[gguf]"):
        if setting.startswith("formats"):
            pytest.importorskip("gguf")
        with pytest.raises(ConfigurationError, match=rf"^{re.escape(setting)}: the tokenizer [^\n]*; leave it out$"):
            export(composed("export", "model=mini", *shape, setting, f"output_dir={tmp_path / 'out'}"))
    assert not (tmp_path / "out").exists()


def test_architecture_and_formats_reach_the_folder_which_may_be_replaced(composed, tmp_path):
    pytest.importorskip("gguf")
    export_model(make_xlmr_encoder(), tmp_path / "base", "card")
    for _ in range(2):
        export(composed("export", f"model.path={tmp_path / 'base'}", "architecture=xlm_roberta", "formats=[gguf]",
                        f"output_dir={tmp_path / 'out'}"))  # fmt: skip
    assert {"sentencepiece.bpe.model", "model-f16.gguf"} <= {file.name for file in (tmp_path / "out").iterdir()}
    assert read_json(tmp_path / "out/config.json")["architectures"] == ["XLMRobertaModel"]
    (tmp_path / "out/model-q8_0.gguf").write_bytes(b"made by hand from model-f16.gguf")
    with pytest.raises(ConfigurationError, match=r"holds other files \(model-q8_0\.gguf\)"):
        export(composed("export", f"model.path={tmp_path / 'base'}", f"output_dir={tmp_path / 'out'}"))
