"""eval.py and export.py as jobs; the exported folder in sentence-transformers."""

import csv
import json
import re
import shutil
import sys
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest

from e5ft.app.commands.evaluate import evaluate
from e5ft.app.commands.export import export
from e5ft.app.settings.build import shipped
from e5ft.errors import ConfigurationError, DataError
from e5ft.exporting.folder import ExportError, export_model
from e5ft.files import read_json
from e5ft.modeling.loading import load_encoder
from e5ft.modeling.settings import ModelSource
from tests.conftest import PLACES, make_encoder
from tests.retrieval import mteb_recorded
from tests.weights_file import overrides


@pytest.fixture
def run(trained):
    return trained("training.max_steps=2")[1]


def test_eval_repeats_the_run_s_own_figures(run, composed, capsys):
    value = evaluate(composed("eval", f"model.path={run}/model", "evaluation.intervals=50"))
    summary = read_json(run / "summary.json")
    assert value == pytest.approx(summary["scores"]["after"]["metrics"]["ndcg@10"], abs=1e-9)
    written = read_json(run / "eval/sample-test/model/metrics.json")["metrics"]
    assert written == pytest.approx(summary["scores"]["after"]["metrics"])
    printed, saved = capsys.readouterr().out, run / "eval/sample-test/hybrid/metrics.json"
    assert f"\n{read_json(saved)['label']}  " in printed and "ndcg@10 to the first" in printed
    assert "\nhybrid: its weight is chosen on sample-dev\n" in printed
    found = [(run / "eval/sample-test" / system / "per_query.jsonl").read_text() for system in ("model", "bm25", "hybrid")]
    model, bm25, both = (sum(int(json.loads(line)["hit@1"]) for line in text.splitlines()) for text in found)
    assert f"\nIn words: a right answer is first for {model} of 434 questions (BM25 {bm25}, hybrid {both}),\n" in printed
    assert read_json(saved)["label"] == summary["scores"]["hybrid"]["label"]  # on the same dev queries and passages
    weight = summary["hybrid"]["weight"]["value"]
    evaluate(composed("eval", f"model.path={run}/model", "evaluation.intervals=50", f"evaluation.hybrid_weight={weight}"))
    assert read_json(saved)["label"] == summary["scores"]["hybrid"]["label"]
    assert read_json(saved)["metrics"] == pytest.approx(summary["scores"]["hybrid"]["metrics"])
    assert "as set by evaluation.hybrid_weight" in capsys.readouterr().out


def test_small_vectors_are_rows_and_bits_are_about_the_centre_that_export_kept(run, composed, write_rows, tmp_path, capsys):
    """The centre of the corpus that is ranked, kept with the model or not, is the same: so are the figures."""
    rows = write_rows([{"query": f"질문 {i}", "document": f"문서 {i} 내용"} for i in range(8)], "mine.jsonl")
    corpus = write_rows([{"text": f"문서 {i} 내용"} for i in range(8)], "corpus.jsonl")
    export(composed("export", f"model.path={run}/model", f"data.corpus_file={corpus}", f"output_dir={tmp_path / 'kept'}"))
    record = read_json(tmp_path / "kept/centre.json")
    assert (record["texts"], record["count"]) == ("corpus.jsonl", 8)
    assert "`centre.json` has the mean" in (tmp_path / "kept/README.md").read_text()
    vectors = load_encoder(ModelSource(path=str(tmp_path / "kept"))).encode([f"문서 {i} 내용" for i in range(8)], "passage")
    np.testing.assert_allclose(record["vector"], vectors.mean(axis=0), atol=1e-6)
    capsys.readouterr()
    said, figures = {}, {}
    for name, model in (("own", f"{run}/model"), ("kept", tmp_path / "kept")):
        out = tmp_path / name / "eval"
        small = ("evaluation.precisions=[int8,binary]", "evaluation.dimensions=[8]", "evaluation.bm25=null")
        evaluate(composed("eval", f"model.path={model}", f"data.dev_file={rows}", f"output_dir={out}", *small,
                          "evaluation.intervals=50"))  # fmt: skip
        said[name], figures[name] = capsys.readouterr().out, read_json(out / "mine/model_binary_rescored/metrics.json")["metrics"]
        assert len([*(out / "mine").glob("difference_model_*.json")]) == 9
    assert "  centre      of this set's passages; one kept with the model: export.py data.corpus_file=FILE\n" in said["own"]
    assert "  centre      of 8 passages of corpus.jsonl, kept with the model\n" in said["kept"]
    assert figures["own"] == figures["kept"]
    dimension, table = len(record["vector"]), said["own"].split("\n\n")[1]
    assert table.splitlines()[0].split() == [
        "model",
        "bytes",
        "hit@1",
        "recall@10",
        "ndcg@10",
        "mrr@10",
        *["ndcg@10", "to", "the", "first", "p"],
    ]
    for line in (f"int8 {dimension}", f"binary (centred), rescored {dimension // 8}", "first 8 dimensions, binary (centred) 1"):
        assert f", {line} " in re.sub(" +", " ", table), table


def test_noise_in_the_queries_is_rows_with_what_it_costs(run, composed, write_rows, tmp_path, capsys):
    """Of the model, of BM25 and of the model compared; the model reads NFC, so that NFD costs nothing, to the last digit."""
    rows = [{"query": f"{place} 도서관 Wifi 위치", "document": f"{place} 도서관 안내"} for place in PLACES]
    out, kinds = tmp_path / "out", ("no_spaces", "nfd", "typos", "lower_case")
    given = f"model.path={run}/model", f"data.dev_file={write_rows(rows, 'mine.jsonl')}", f"output_dir={out}"
    evaluate(
        composed(
            "eval",
            *given,
            f"compare={shutil.copytree(run, 'copy')}",
            f"robustness=[{','.join(kinds)}]",
            "evaluation.intervals=50",
        )
    )
    printed = capsys.readouterr().out
    table, noise = printed.split("\nnoise in the queries, paired over them:\n")
    labels = [line.split("  ")[0] for line in table.splitlines()]
    assert sum(label.endswith(tuple(f", {kind}" for kind in kinds)) for label in labels) == 12
    clean = {name: read_json(out / f"mine/{name}/metrics.json") for name in ("model", "bm25", "compare")}
    for name, whole in clean.items():
        for kind in kinds:
            found = read_json(out / f"mine/{name}_{kind}/metrics.json")
            assert (found["noise"], found["changed"], found["label"]) == (kind, len(PLACES), f"{whole['label']}, {kind}")
            difference = found["differences"]["ndcg@10"]
            assert difference["mean"] == pytest.approx(found["metrics"]["ndcg@10"] - whole["metrics"]["ndcg@10"])
            assert f"{difference['mean']:+.3f} [" in noise
            if kind == "nfd" or (kind, name) == ("lower_case", "bm25"):
                assert found["metrics"] == whole["metrics"]
    assert read_json(out / "mine/model_typos/metrics.json")["metrics"] != clean["model"]["metrics"]
    assert any(f"no_spaces: '{place} 도서관 Wifi 위치' became '{place}도서관Wifi위치'\n" in noise for place in PLACES)
    with pytest.raises(ConfigurationError, match=r"robustness=.*must be each once, as \[no_spaces,typos\]"):
        composed("eval", *given, "robustness=[typos,typos]")


def test_eval_on_rows_and_against_another_model(run, composed, write_rows, tmp_path, capsys):
    rows = [{"query": f"질문 {i}", "document": f"문서 {i} 내용", "hard_negative": [f"다른 {i}"]} for i in range(8)]
    path, out = write_rows(rows, "mine.jsonl"), tmp_path / "out"
    copytree(run / "model", "copy")
    evaluate(
        composed(
            "eval",
            f"model.path={run}/model",
            f"data.dev_file={path}",
            "compare=copy",
            f"output_dir={out}",
            "evaluation.intervals=50",
        )
    )
    difference = read_json(out / "mine/difference_compare.json")
    assert difference["ndcg@10"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}  # a model against itself
    assert (out / "mine/model/run.trec").is_file()
    printed = capsys.readouterr().out
    assert re.search(r"^copy  .* \+0.000 \[\+0.000, \+0.000\] +1$", printed, re.MULTILINE)
    assert "hybrid (.7 dense + .3 BM25)" in printed and "the default, as there is no dev set beside the one reported" in printed
    told = "  set         mine: 8 queries, 16 passages (the rows' own alone; name all there are with data.corpus_file=FILE, or "
    assert told in printed and "threshold" not in printed
    assert re.search(r"^mine, 8 queries: differences to .+ below \.42 \(ndcg@10\) cannot be seen$", printed, re.MULTILINE)


def test_many_models_on_many_sets_are_one_table(run, composed, tmp_path, capsys, monkeypatch):
    """Each row is what eval.py says of this model and set alone, and its difference is that of the per-query files."""
    monkeypatch.setattr("e5ft.retrieval.threshold.TARGETS", (0.01,))
    sample, small = shipped("data") / "sample/eval", Path("law")
    copytree(sample, small)
    corpus = (small / "corpus.jsonl").read_text().splitlines()
    (small / "corpus.jsonl").write_text("".join(f"{line}\n" for line in corpus[:200]))
    for folder in ("seed-1", "seed-2"):
        copytree(run / "model", folder)
    options = ("evaluation.intervals=50", "evaluation.hybrid_weight=null")
    given = (f"model.path={run}/model", f"data.eval_dir={sample}", *options)
    evaluate(composed("eval", *given, "compare=[seed-*]", "data.keep_dir=[law]", "output_dir=out"))
    printed = capsys.readouterr().out
    assert f"e5ft: {run}/model and 1 more, measured on {sample} and 1 more\n" in printed
    names = ["model", "bm25", "compare", "compare_2"]
    for each in ("sample-test", "law-test"):
        assert [(Path("out") / each / name / "per_query.jsonl").is_file() for name in names] == [True] * 4
    rows = list(csv.DictReader(Path("out/table.csv").read_text().splitlines()))
    assert [(row["set"], row["model"]) for row in rows] == [
        (each, label) for each in ("sample-test", "law-test") for label in (f"{run}/model", "BM25 (auto)", "seed-1", "seed-2")
    ]
    for row, name in zip(rows, 2 * names, strict=True):
        figures, folder = read_json(Path("out") / row["set"] / name / "metrics.json"), Path("out") / row["set"]
        assert float(row["ndcg@10"]) == figures["metrics"]["ndcg@10"] and int(row["passages"]) == figures["passages"]
        if name == "model":
            assert row["ndcg@10 to the first"] == ""
            continue
        values = [json.loads(line)["ndcg@10"] for line in (folder / name / "per_query.jsonl").read_text().splitlines()]
        first = [json.loads(line)["ndcg@10"] for line in (folder / "model/per_query.jsonl").read_text().splitlines()]
        assert float(row["ndcg@10 to the first"]) == pytest.approx(np.mean(values) - np.mean(first), abs=1e-12)
    assert Path("out/table.md").read_text().count("\n| ") == 8 and Path("out/table.tex").read_text().count(r" \\") == 9
    table = printed.split("\n\n")[1]
    assert table.splitlines()[0].split()[:2] == ["set", "model"]
    assert [line.split()[0] for line in table.splitlines()[2:10]] == ["sample-test"] * 4 + ["law-test"] * 4
    threshold = read_json("out/sample-test/model/metrics.json")["threshold"]
    assert f"\nthreshold: score {threshold['value']:.4f} (chosen on dev for 1 % right): " in printed
    alone = evaluate(composed("eval", "model.path=seed-2", "data.eval_dir=law", "output_dir=alone", *options))
    assert alone == float(rows[-1]["ndcg@10"])
    Path("mine").mkdir()
    Path("mine/table.md").write_text("my thesis")
    with pytest.raises(ConfigurationError, match=r"output_dir: mine/table\.md holds other files"):
        evaluate(composed("eval", *given, "output_dir=mine"))


def test_rows_are_ranked_among_the_corpus_file_without_copies_of_answers(run, composed, write_rows, tmp_path, capsys):
    rows = [
        {"query": f"{place} 도서관은 어디인가요", "document": f"{place} 도서관은 시청 뒤 공원 {i}번 문 옆에 있다"}
        for i, place in enumerate(["강릉", "춘천", "원주", "속초"])
    ]
    others = ["주차장은 지하에 있다", "열람실은 아홉 시에 연다", rows[0]["document"], f"{rows[1]['document']}."]
    corpus = write_rows([{"text": text} for text in others], "corpus.jsonl")
    options = ("evaluation.intervals=50", "evaluation.bm25=null", f"output_dir={tmp_path / 'out'}")
    evaluate(
        composed("eval", f"model.path={run}/model", f"data.dev_file={write_rows(rows)}", f"data.corpus_file={corpus}", *options)
    )
    printed = capsys.readouterr().out
    assert printed.startswith(f"e5ft: {run}/model, measured on {tmp_path}/rows.jsonl\n")
    assert "  set         rows: 4 queries, 6 passages (the rows' own and data.corpus_file's)\n" in printed
    assert "  note        rows: near-copies of answers: 1, left out" in printed
    assert read_json(tmp_path / "out/rows/model/metrics.json")["passages"] == 6


def test_rows_are_ranked_among_the_documents_that_training_ranks_them_among(trained, composed, write_rows, capsys):
    """A model has one figure of one set: train.py's and eval.py's."""
    rows = [{"query": f"{place} 도서관은", "document": f"{place} {i}번지"} for i, place in enumerate("강춘원속삼태동화")]
    own = write_rows(rows[:3], "own.jsonl")
    files = f"data.train_file={write_rows(rows[3:], 'train.jsonl')}", f"data.dev_file={own}"
    _, folder = trained(*files, "training.max_steps=1", "training.per_device_train_batch_size=2")
    assert f"  columns     {own}: query, document\n" in capsys.readouterr().out
    value = evaluate(composed("eval", f"model.path={folder}/model", *files, "evaluation.intervals=50"))
    summary = read_json(folder / "summary.json")
    assert "3 queries, 8 passages (the rows' own and data.train_file's)" in capsys.readouterr().out
    assert (summary["queries"], summary["passages"]) == (3, 8)
    assert value == pytest.approx(summary["scores"]["after"]["metrics"]["ndcg@10"], abs=1e-9)


def test_a_packages_model_is_named_as_what_it_is(composed, write_rows, tmp_path, capsys):
    rows = write_rows([{"query": f"한국어 {i}", "document": f"Hello world {i}"} for i in range(4)], "mine.jsonl")
    evaluate(composed("eval", *overrides(tmp_path), f"data.dev_file={rows}", "evaluation.intervals=50", "evaluation.bm25=null"))
    printed = capsys.readouterr().out
    assert printed.startswith(f"e5ft: mE5-small, 4-bit weights, measured on {tmp_path}/mine.jsonl\n")
    assert (
        "mean pooling, 'query: ' / 'passage: ', 64 tokens: pooling and prefixes as set, length recorded by the model" in printed
    )
    assert re.search("^mE5-small, 4-bit weights  ", printed, re.MULTILINE) and str(tmp_path / "cache") not in printed
    metrics = read_json("outputs/eval/mE5-small_4-bit_weights/mine/model/metrics.json")
    assert metrics["label"] == "mE5-small, 4-bit weights"


def test_rows_to_train_on_are_no_test_set_and_the_sample_does_not_stand_in_for_one(run, composed, write_rows):
    rows = write_rows([{"query": "a", "document": "b"}])
    with pytest.raises(ConfigurationError, match=r"data\.dev_file: must name your test questions"):
        evaluate(composed("eval", f"model.path={run}/model", f"data.train_file={rows}"))


@pytest.fixture
def arguana(tmp_path):
    """Eight arguments, each to be answered by another; one answer is not in the corpus, and one argument appears twice."""
    folder = tmp_path / "arguments"
    (folder / "qrels").mkdir(parents=True)
    passages = [{"id": f"a{i}", "contents": f"주장 {i} 근거 {i + 1}"} for i in range(8)]
    copy = {"id": "z", "contents": passages[3]["contents"]}
    for name, rows in (("corpus", [*passages, copy]), ("queries", [{"_id": p["id"], "text": p["contents"]} for p in passages])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels/test.txt").write_text("".join(f"a{i} 0 a{i + 1} 1\n" for i in range(8)))  # a8 is not there
    return folder


NOTES = [
    "  note        arguments-test: 8 of 8 queries are passages themselves: left out of their own ranking, as BEIR does",
    "  note        arguments-test: judged passages that the corpus lacks: 1, counted as never found, as pytrec_eval does",
    "  note        arguments-test: passages with another passage's text: 1, each text is one passage",
]
COUNTS = {
    "queries": 8,
    "left_out": 8,
    "left_out_other": 0,
    "left_out_relevant": 0,
    "kept": 0,
    "absent_passages": 1,
    "absent_queries": 0,
    "copies": 1,
    "near_copies": 0,
}


def test_what_a_set_holds_beyond_queries_and_answers_is_said_and_written(arguana, trained, composed, capsys):
    _, folder = trained("training.max_steps=1", f"data.eval_dir={arguana}")
    summary = read_json(folder / "summary.json")
    assert summary["counts"] == COUNTS
    assert [line for line in capsys.readouterr().out.splitlines() if "arguments-test:" in line and "note " in line] == NOTES
    evaluate(composed("eval", f"model.path={folder}/model", f"data.eval_dir={arguana}", "output_dir=out"))
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("  note ")] == NOTES
    for system in ("model", "bm25"):
        assert read_json(Path("out/arguments-test") / system / "metrics.json")["counts"] == COUNTS
        ranked = [line.split() for line in Path(f"out/arguments-test/{system}/run.trec").read_text().splitlines()]
        assert ranked and not [line for line in ranked if line[0] == line[2]] and "z" not in {line[2] for line in ranked}


def test_eval_errors(run, composed):
    with pytest.raises(ConfigurationError, match="compare=nowhere"):
        evaluate(composed("eval", f"model.path={run}/model", "compare=nowhere"))
    with pytest.raises(DataError, match="test"):
        evaluate(composed("eval", f"model.path={run}/model", "data.eval_split=nix"))


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_export_agrees_with_sentence_transformers(family, pooling, tmp_path):
    from sentence_transformers import SentenceTransformer

    encoder = make_encoder(family, pooling=pooling)
    assert export_model(encoder, tmp_path / "m", "---\n---\n# card\n") <= 1e-5
    other = SentenceTransformer(str(tmp_path / "m"), device="cpu")
    for role, prompt in (("query", "query"), ("passage", "document")):
        texts = ["w1 w2 w3", "w5 " * 60]
        np.testing.assert_allclose(other.encode(texts, prompt_name=prompt), encoder.encode(texts, role), atol=1e-5)
    again = load_encoder(ModelSource(path=str(tmp_path / "m")))
    assert again.spec == encoder.spec
    assert "# card" in (tmp_path / "m/README.md").read_text()


def test_an_export_that_disagrees_is_not_there(tmp_path, monkeypatch):
    """Negative control: with the wrong pooling written, the check refuses and leaves no folder."""
    from e5ft.exporting import folder as module

    plain = module._write_layout

    def wrong(encoder, folder):
        plain(encoder, folder)
        text = (folder / "1_Pooling/config.json").read_text()
        (folder / "1_Pooling/config.json").write_text(
            text.replace('mean_tokens": true', 'mean_tokens": false').replace('cls_token": false', 'cls_token": true')
        )

    monkeypatch.setattr(module, "_write_layout", wrong)
    with pytest.raises(ExportError, match="sentence-transformers"):
        export_model(make_encoder(), tmp_path / "m", "card")
    assert not (tmp_path / "m").exists()


def test_export_of_a_checkpoint(run, composed, tmp_path, capsys):
    checkpoint = sorted(run.glob("checkpoint-*"))[-1]
    export(composed("export", f"model.path={checkpoint}", f"output_dir={tmp_path / 'x'}"))
    assert (tmp_path / "x/modules.json").is_file() and "largest difference" in capsys.readouterr().out
    assert not (tmp_path / "x/optimizer.pt").exists()
    with pytest.raises(ConfigurationError, match="output_dir"):
        export(composed("export", f"model.path={checkpoint}"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("keep me")
    with pytest.raises(ConfigurationError, match="holds other files"):
        export(composed("export", f"model.path={checkpoint}", f"output_dir={tmp_path / 'mine'}"))


def test_tasks_of_mteb_are_measured_into_its_own_layout_and_told_in_one_table(run, composed, monkeypatch, capsys):
    for name, module in mteb_recorded.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    given = (f"model.path={run}", "suite=mteb", "tasks=['MTEB(kor, v2)']")
    value = evaluate(composed("eval", *given))
    printed = capsys.readouterr().out
    assert f"e5ft: {run}/model, on 2 of MTEB's tasks\n" in printed and "mean pooling, 'query: ' / 'passage: '" in printed
    assert "  1 of 2      KorSTS: " in printed and printed.count("ndcg_at_10") == 1 and "mean of tasks" in printed
    (folder,) = (run / f"eval/mteb/results/local__{run.name}").iterdir()
    scores = [read_json(folder / f"{name}.json")["main_score"] for name in ("KorSTS", "Ko-StrategyQA")]
    assert value == pytest.approx(sum(scores) / 2)
    evaluate(composed("eval", *given, "task_types=[STS]", "output_dir=both"))
    assert [file.name for file in Path(f"both/results/local__{run.name}/{folder.name}").iterdir()] == ["KorSTS.json"]


def test_a_task_of_one_s_own_runs_in_the_package(run, composed, capsys):
    pytest.importorskip("mteb")
    own = ",".join(f"tests.retrieval.mteb_local:{name}" for name in ("WordRetrieval", "Unreachable"))
    with pytest.raises(DataError, match=r"suite=mteb: 1 of 2 tasks failed \(Unreachable\)"):
        evaluate(composed("eval", f"model.path={run}", "suite=mteb", f"tasks=['{own.replace(',', chr(39) + ',' + chr(39))}']"))
    printed = capsys.readouterr().out
    assert "  2 of 2      Unreachable: failed: ConnectionError: no route to the hub\n" in printed
    assert "WordRetrieval  Retrieval  ndcg_at_10" in printed
    assert len([*run.glob(f"eval/mteb/results/local__{run.name}/*/WordRetrieval.json")]) == 1
