"""The serving benchmark measures what a folder holds; a set's score is eval.py's."""

import json

import pytest

from benchmarks.serving.__main__ import main
from e5ft.app.settings.build import shipped
from e5ft.exporting.folder import export_model
from e5ft.modeling.loading import ModelSource, load_encoder
from e5ft.retrieval.evaluation import evaluate_run
from e5ft.retrieval.runs import dense_run
from e5ft.retrieval.sets import load_beir
from tests.conftest import make_encoder

SAMPLE = shipped("data/sample/eval")


def test_a_folder_of_weights_alone_is_one_row(tmp_path, capsys):
    export_model(make_encoder(), tmp_path / "model", "card")
    main([str(tmp_path / "model"), "--sets", str(SAMPLE), "--output", str(tmp_path / "out.json")])
    (row,) = json.loads((tmp_path / "out.json").read_text())
    sample, encoder = load_beir(SAMPLE, "test"), load_encoder(ModelSource(path=str(tmp_path / "model")))
    run = dense_run(encoder.encode(sample.queries, "query"), encoder.encode(sample.passages, "passage"), sample, 10)
    expected = evaluate_run(sample, run, [10], "", samples=50).metrics["ndcg@10"]
    assert row["found"] == {str(SAMPLE): pytest.approx(expected)} and row["file"] == "weights"
    files = sum((tmp_path / "model" / name).stat().st_size for name in ("model.safetensors", "tokenizer.json"))
    assert row["disk"] == pytest.approx(files / 1e6) and min(row["load"], row["thousand"]) > 0
    assert f"{expected:.3f}" in capsys.readouterr().out


def test_every_graph_is_a_row(tmp_path):
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    export_model(make_encoder(), tmp_path / "model", "card", formats=("onnx", "onnx_int8"))
    main([str(tmp_path / "model"), "--sets", str(SAMPLE), "--output", str(tmp_path / "out.json")])
    rows = json.loads((tmp_path / "out.json").read_text())
    assert [row["file"] for row in rows] == ["weights", "onnx", "onnx_int8"]
    scores = [row["found"][str(SAMPLE)] for row in rows]
    assert scores[1] == pytest.approx(scores[0], abs=1e-6) and rows[2]["disk"] < rows[1]["disk"]
