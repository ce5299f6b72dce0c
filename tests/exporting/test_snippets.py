"""The card's code gives the model's vectors: what runs here is run, the rest is at least code; `make consumers` runs the others."""

import ast
import json
import shlex
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5ft.data.text import TextSpec
from e5ft.exporting.folder import export_model
from e5ft.exporting.snippets import python_literal, shell_literal, snippets
from e5ft.modeling.encoder import EncoderSpec
from tests.conftest import make_encoder

TEXTS = ["w1 w2 w3", "w4", "w5 " * 60]
NASTY = 'it\'s\n$HOME `x` "q" \\ \u2028\U000e0001!'


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_the_code_for_what_is_installed_gives_the_models_vectors(pooling, tmp_path):
    encoder = make_encoder(pooling=pooling)
    encoder.spec = EncoderSpec(pooling, TextSpec("query: ", "passage: ", 48, 48))
    export_model(encoder, tmp_path / "model", "card")
    found = snippets(encoder.spec, encoder.dimension)
    for name in ("sentence_transformers", "transformers"):
        names = {"queries": TEXTS, "passages": TEXTS}
        exec(found[name].code.replace("PATH", str(tmp_path / "model")), names)
        for role, vectors in (("query", names["query_vectors"]), ("passage", names["passage_vectors"])):
            np.testing.assert_allclose(np.asarray(vectors), encoder.encode(TEXTS, role), atol=1e-5)
    assert ("fastembed" in found) == (pooling != "last")


def test_every_snippet_is_code_with_the_models_prefixes_length_and_dimension():
    text = TextSpec("ask: ", NASTY, 48, 64)
    for name, snippet in snippets(EncoderSpec("mean", text), 32).items():
        if snippet.language == "python":
            tree = ast.parse(snippet.code)
            values = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
            if "prompt_name" not in snippet.code and name not in ("pgvector", "qdrant"):
                assert {text.query_prefix, text.passage_prefix} <= values, name
            if name == "transformers":
                assert 64 in values
        else:
            assert snippet.language == "bash"
            subprocess.run(["bash", "-n", "-c", snippet.code], check=True)
        assert snippet.code == snippet.code.strip() and (name not in ("pgvector", "qdrant", "fastembed") or "32" in snippet.code)
    (body,) = [word for word in shlex.split(snippets(EncoderSpec(text=text), 32)["vllm"].code) if word.startswith("{")]
    assert json.loads(body)["input"] == ["ask: ..."]


@given(st.text())
def test_a_literal_of_python_is_its_string_on_one_line(text):
    literal = python_literal(text)
    assert ast.literal_eval(literal) == text and literal.isprintable()


def test_a_literal_of_bash_is_its_string_on_one_line():
    for text in ("query: ", "it's", NASTY, ""):
        literal = shell_literal(text)
        done = subprocess.run(["bash", "-c", f"printf %s {literal}"], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
        assert done.stdout.decode() == text and literal.isprintable()
