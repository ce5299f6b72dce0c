"""What export.py tells of formats: sizes, closeness, the loss on a set; what it refuses; whose files it replaces."""

import importlib.util
from pathlib import Path

import pytest

from e5ft.app.commands.export import export
from e5ft.app.settings.build import shipped
from e5ft.errors import ConfigurationError
from e5ft.exporting.folder import export_model
from e5ft.files import read_json
from tests.conftest import make_encoder

SAMPLE = shipped("data/sample/eval")
FAST = ("evaluation.intervals=50", "device=cpu")


@pytest.fixture
def model(tmp_path):
    export_model(make_encoder(), tmp_path / "model", "card")
    return f"model.path={tmp_path / 'model'}"


def test_int8_is_measured_where_a_set_is_given(model, composed, tmp_path, capsys):
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    out = tmp_path / "out"
    settings = (model, "formats=[onnx,onnx_int8]", f"data.eval_dir={SAMPLE}", f"output_dir={out}", *FAST)
    export(composed("export", *settings))
    printed, record = capsys.readouterr().out, read_json(out / "onnx/quantised.json")
    assert "onnx/model.onnx: " in printed and "onnx/model_quantized.onnx: " in printed
    assert f"cosine at least {record['cosine']['lowest']:.4f}" in printed
    found = record["sets"]["sample-dev"]
    assert f"sample-dev: ndcg@10 of the weights {found['theirs']:.3f}, of int8 {found['ours']:.3f} (" in printed
    # It is an earlier export, and replaced whole; with somebody's graph beside ours it is not.
    export(composed("export", model, f"output_dir={out}"))
    assert not (out / "onnx").exists()


@pytest.mark.parametrize("name", ["onnx/model_O3.onnx", "openvino/notes.txt", "onnx.zip"])
def test_somebody_s_graph_beside_ours_is_not_replaced(model, composed, tmp_path, name):
    out = tmp_path / "out"
    export(composed("export", model, f"output_dir={out}"))
    for ours in ("onnx/model.onnx", "onnx/model.onnx_data", "onnx/quantised.json", "openvino/openvino_model.bin"):
        (out / ours).parent.mkdir(exist_ok=True)
        (out / ours).write_text("")
    (out / name).write_text("keep me")
    with pytest.raises(ConfigurationError, match=rf"holds other files \({name}\)"):
        export(composed("export", model, f"output_dir={out}"))
    (out / name).unlink()
    export(composed("export", model, f"output_dir={out}"))
    assert not (out / "onnx").exists()


def test_what_is_refused_before_anything_is_written(model, composed, tmp_path, monkeypatch):
    out = f"output_dir={tmp_path / 'out'}"
    with pytest.raises(ConfigurationError, match=r"^formats=\['onx'\]: must be"):
        composed("export", model, "formats=[onx]", out)
    with pytest.raises(ConfigurationError, match=r"formats=\[onnx_int8\] use them"):
        export(composed("export", model, f"data.eval_dir={SAMPLE}", out))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigurationError, match=r"^formats=\[openvino\]: needs onnxscript, openvino; pip install onnxscript openvino$"
    ):
        export(composed("export", model, "formats=[openvino]", out))
    assert not Path(tmp_path / "out").exists()
