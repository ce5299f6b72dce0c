"""The comparison with other libraries sees what is served right and what is not; here each is the tests' own environment."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

from benchmarks.consumers import __main__ as command
from benchmarks.consumers import environments
from benchmarks.consumers.environments import ENVIRONMENTS, consumers, environment
from e5ft.exporting.folder import export_model
from e5ft.modeling.loading import load_encoder
from e5ft.modeling.settings import ModelSource
from tests.conftest import make_encoder

ST = "sentence-transformers"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("consumers") / "model"
    export_model(make_encoder(), folder, "card")
    return folder


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(command, "environment", lambda name, root: sys.executable)


def compared(model, consumer, tmp_path, sets=()):
    return command.compare(load_encoder(ModelSource(path=str(model))), consumer, model, tmp_path, list(sets))


def test_what_is_served_right_is_told_from_what_is_not(model, here, tmp_path):
    right = next(each for each in consumers(make_encoder()) if each.name == ST)
    result = compared(model, right, tmp_path)
    assert command.served_right(result) and result["cosine"].keys() == {"NFC", "over-long", "NFD"} and ST in result["versions"]


def test_a_prefix_left_out_and_vectors_of_another_length_are_no_right_serving(model):
    encoder = load_encoder(ModelSource(path=str(model)))
    texts = [text for texts in command.PROBES.values() for text in texts]
    queries, passages = (encoder.encode(texts, role) for role in ("query", "passage"))
    for harmed in ((passages, passages), (queries, queries), (2 * queries, passages), (queries, 0.9 * passages)):
        assert min(command._cosines(encoder, *harmed).values()) < command.COSINE
    assert min(command._cosines(encoder, queries, passages).values()) > command.COSINE


def test_why_a_library_could_not_be_run_stands_in_the_table(model, here, tmp_path, monkeypatch, capsys):
    one = next(each for each in consumers(make_encoder()) if each.name == ST)
    broken = dataclasses.replace(one, name="broken", code="raise OSError('no <such> model')")
    rows = [broken, dataclasses.replace(one, name="onnx", needs="onnx/model.onnx")]
    monkeypatch.setattr(command, "consumers", lambda encoder: rows[1:])
    assert command.main([str(model), "--output", str(tmp_path)]) == 0  # nothing that ran was wrong
    monkeypatch.setattr(command, "consumers", lambda encoder: rows)
    assert command.main([str(model), "--output", str(tmp_path)]) == 1
    head, _, *lines = (tmp_path / "consumers.md").read_text().splitlines()
    assert head == "| library | versions | NFC | over-long | NFD | served right |"
    assert lines[0].endswith("| failed: OSError: no &#60;such&#62; model |")
    assert lines[1].endswith("| not run: the folder has no onnx/model.onnx |")
    assert lines[0] in capsys.readouterr().out


def test_queries_in_both_forms_are_scored_by_the_librarys_vectors(model, here, tmp_path, write_rows):
    folder = tmp_path / "law" / "eval"
    (folder / "qrels").mkdir(parents=True)
    texts = {f"d{i}": f"w{i} w{i + 50} w{i + 100}" for i in range(20)}
    for name in ("corpus", "queries"):
        lines = [json.dumps({"_id": key if name == "corpus" else f"q{key}", "text": text}) for key, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    judged = [f"q{key}\t{key}\t1" for key in texts]
    (folder / "qrels/test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")
    encoder = load_encoder(ModelSource(path=str(model)))
    whole = command.load_beir(folder, "test", name="law")
    swapped = next(each for each in consumers(encoder) if each.name == ST)
    swapped = dataclasses.replace(swapped, code=swapped.code + "\nquery_vectors[-20:] *= -1")  # the NFD ones turned round
    result = compared(model, swapped, tmp_path, [(whole, encoder.encode(list(whole.passages), "passage"))])
    nfc, nfd = result["scores"]["law"]
    assert nfc > 0.9 > 0.5 > nfd and command.served_right(result)
    assert f"| {nfc:.3f} / {nfd:.3f} |" in command.table([(swapped, result)], ["law"])


def test_every_library_has_an_environment_of_pinned_versions():
    rows = consumers(make_encoder())
    assert {each.environment for each in rows} == ENVIRONMENTS.keys()
    assert all("==" in package for packages in ENVIRONMENTS.values() for package in packages)
    assert "fastembed" not in {each.name for each in consumers(make_encoder(pooling="last"))}


def test_an_environment_sees_the_projects_torch_and_none_of_its_other_packages_and_is_made_once(tmp_path, monkeypatch):
    made, run = [], subprocess.run
    monkeypatch.setattr(environments, "ENVIRONMENTS", {"bare": ()})
    # Nothing is installed: the tests have no network.
    monkeypatch.setattr(subprocess, "run", lambda command, **o: made.append(command) or ("pip" in command or run(command, **o)))
    python = environment("bare", tmp_path)
    code = "import torch, importlib.util as u; print(torch.__version__, [n for n in ('transformers', 'e5ft') if u.find_spec(n)])"
    done = run([str(python), "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [torch.__version__, "[]"]
    assert environment("bare", tmp_path) == python and ["pip" in command for command in made] == [False, True]
