"""The nine faults planted in an exported folder, where its libraries look; and a Python function as a target."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModel

from e5ft.errors import ConfigurationError
from e5ft.exporting.golden import read_golden
from e5ft.files import read_json
from e5ft.json_http import AnswerError
from e5ft.serving.asking import answers_to
from e5ft.serving.diagnosis import diagnose
from e5ft.serving.folders import function_of, ways_of
from tests.serving.conftest import FAULTS, OTHER, OWN, plant

JOIN = [
    {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
    {"type": "Strip", "strip_left": True, "strip_right": True},
]


def edit(file, **changes):
    file.write_text(json.dumps(read_json(file) | changes, ensure_ascii=False))


@pytest.fixture
def folder(exported, tmp_path):
    """A copy whose tokenizer recomposes and joins white space, so that all of it is right; `fault` breaks it."""
    copy = tmp_path / "model"
    shutil.copytree(exported, copy)

    def make(fault: str = ""):
        normaliser = {"type": "Sequence", "normalizers": JOIN if fault == "nfd" else [{"type": "NFC"}, *JOIN]}
        edit(copy / "tokenizer.json", normalizer=normaliser)
        prompts = {
            "no prefix": dict.fromkeys(OWN, ""), "prefix twice": {role: 2 * text for role, text in OWN.items()}, "confused": OTHER,
        }  # fmt: skip
        if fault in prompts:
            edit(copy / "config_sentence_transformers.json", prompts=prompts[fault])
        if fault == "no prompts":
            edit(copy / "config_sentence_transformers.json", prompts={}, default_prompt_name=None)
        if fault == "other names":
            prompts = {"query": OWN["query"], "document": OWN["passage"], "own": "x: "}
            edit(copy / "config_sentence_transformers.json", prompts=prompts, default_prompt_name="own")
        if fault == "cls":
            edit(copy / "1_Pooling/config.json", pooling_mode_mean_tokens=False, pooling_mode_cls_token=True)
        if fault == "not normalised":
            (copy / "modules.json").write_text(json.dumps(read_json(copy / "modules.json")[:2]))
        if fault == "cut":
            edit(copy / "sentence_bert_config.json", max_seq_length=256)
            edit(copy / "tokenizer_config.json", model_max_length=256)
        if fault in ("revision", "quantised"):
            model = AutoModel.from_pretrained(copy, local_files_only=True)
            plant(model, fault)
            model.save_pretrained(copy)
        return copy

    return make


def found(folder) -> dict[str, tuple[str, ...]]:
    """Way -> the faults it shows."""
    golden = read_golden(folder)
    ways = ways_of(folder, golden.pooling)
    return {w.name: diagnose(golden, answers_to(golden, w), 0.9999).faults for w in ways}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_folder_is_named_in_the_libraries_that_meet_it(folder, fault):
    faults = found(folder(fault))
    assert len(faults["sentence-transformers"]) == 1 and faults["sentence-transformers"][0].startswith(FAULTS[fault]), faults
    if fault in ("nfd", "cut", "revision", "quantised"):
        assert len(faults["transformers"]) == 1 and faults["transformers"][0].startswith(FAULTS[fault]), faults
    else:  # prefix, pooling and normalisation are its user's own affair
        assert faults["transformers"] == ()


def test_a_right_folder_has_no_fault(folder):
    assert found(folder()) == {"sentence-transformers": (), "transformers": ()}
    assert found(folder("other names")) == {"sentence-transformers": (), "transformers": ()}


def test_a_folder_of_another_origin_without_prompts_is_one_that_lacks_the_prefix(folder):
    copy = folder("no prompts")
    assert found(copy)["sentence-transformers"][0].startswith(FAULTS["no prefix"])
    way = next(ways_of(copy, "mean"))
    assert diagnose(read_golden(copy), answers_to(read_golden(copy), way, "client"), 0.9999).faults == ()


def test_onnx_runtime_where_there_is_a_file_for_it(folder, monkeypatch):
    right = folder()
    (right / "onnx").mkdir()
    (right / "onnx/model.onnx").write_bytes(b"no model")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    *_, way = ways_of(right, "mean")
    assert (way.name, way.encode, way.why_not) == ("ONNX Runtime", None, "not checked; pip install onnxruntime")


def test_onnx_runtime_gives_what_it_must(folder):
    """Through torch's own exporter; needs onnx and onnxruntime."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    right = folder()
    (right / "onnx").mkdir()
    model = AutoModel.from_pretrained(right, local_files_only=True, attn_implementation="eager").eval()

    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids, mask):
            return self.model(input_ids=ids, attention_mask=mask).last_hidden_state

    names = ["input_ids", "attention_mask", "last_hidden_state"]
    ids = torch.ones(2, 7, dtype=torch.long)
    torch.onnx.export(
        Hidden(), (ids, ids), str(right / "onnx/model.onnx"), dynamo=False, input_names=names[:2], output_names=names[2:],
        dynamic_axes={name: {0: "texts", 1: "tokens"} for name in names},
    )  # fmt: skip
    assert found(right)["ONNX Runtime"] == ()
    edit(right / "tokenizer_config.json", model_max_length=256)
    assert found(right)["ONNX Runtime"][0].startswith(FAULTS["cut"])


def test_a_folder_that_does_not_load_is_one_line(folder):
    broken = folder()
    (broken / "model.safetensors").write_bytes(b"")
    with pytest.raises(AnswerError, match="^sentence-transformers: does not load the folder") as raised:
        list(ways_of(broken, "mean"))
    assert "\n" not in str(raised.value)


def test_a_function_of_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "own_embedder.py").write_text(
        "class Model:\n    embed = staticmethod(lambda texts, role='none': (texts, role))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    way = function_of("own_embedder:Model.embed")
    assert way.encode(["a"], None) == (["a"], "none") and way.encode(("a",), "query") == (["a"], "query")
    sys.modules.pop("own_embedder")


@pytest.mark.parametrize("code", ["def f(:", "raise RuntimeError('no model')", "import no_such_part"])
def test_a_module_that_cannot_be_imported_is_one_line(code, tmp_path, monkeypatch):
    (tmp_path / "broken_embedder.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match="^target=broken_embedder:f: .*must be MODULE:FUNCTION") as raised:
        function_of("broken_embedder:f")
    assert "\n" not in str(raised.value)


def test_a_library_that_is_there_and_broken_is_no_missing_package(folder, tmp_path, monkeypatch):
    """A part that it lacks is told; only where the package itself is absent its way is left out."""
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    assert next(ways_of(folder(), "mean")).why_not == "not checked; pip install sentence-transformers"
    (tmp_path / "sentence_transformers.py").write_text("import no_such_part")
    monkeypatch.delitem(sys.modules, "sentence_transformers")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AnswerError, match="^sentence-transformers: cannot be imported .*no_such_part"):
        next(ways_of(folder(), "mean"))


@pytest.mark.parametrize("name", ["no_such_module_here:f", "json:no_such", "json:", ":f"])
def test_no_such_function(name):
    with pytest.raises(ConfigurationError, match=rf"^target={name}: .*must be MODULE:FUNCTION"):
        function_of(name)


def test_a_function_that_raises_is_one_line():
    with pytest.raises(AnswerError, match="^the function failed [(]TypeError: ") as raised:
        function_of("numpy:reshape").encode(["a"], None)
    assert "\n" not in str(raised.value) and np is sys.modules["numpy"]
