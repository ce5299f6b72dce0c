"""`/v1/embeddings`: the vectors are the encoder's, texts stay as they were sent, and each fault is named."""

import base64
import json
import unicodedata

import numpy as np
import pytest

from e5ft.serving.embeddings import MOST_TEXTS, RefusedRequestError, embed
from tests.conftest import make_encoder


@pytest.fixture(scope="module")
def encoder():
    return make_encoder()


def ask(encoder, **values):
    return embed(encoder, "small", json.dumps(values).encode())


def vectors(response):
    return np.array([entry["embedding"] for entry in response["data"]], np.float32)


@pytest.mark.parametrize("role", ["query", "passage"])
def test_texts_with_their_prefix_give_the_encoder_s_vectors(encoder, role):
    texts = ["w1 w2", " w3\nw4 ", "w5 " * 100, unicodedata.normalize("NFD", "w6 서울")]
    response = ask(encoder, input=[f"{role}: {text}" for text in texts], model="small", user="me")
    assert np.abs(vectors(response) - encoder.encode(texts, role)).max() < 1e-6
    assert [entry["index"] for entry in response["data"]] == [0, 1, 2, 3]
    assert {entry["object"] for entry in response["data"]} == {"embedding"} and response["object"] == "list"
    read = sum(map(len, encoder.tokenize(texts, role)))
    assert response["usage"] == {"prompt_tokens": read, "total_tokens": read} and response["model"] == "small"


def test_no_prefix_is_added_or_taken_away(encoder):
    bare, once, twice = vectors(ask(encoder, input=["w1 w2", "query: w1 w2", "query: query: w1 w2"]))
    assert once @ encoder.encode(["w1 w2"], "query")[0] == pytest.approx(1, abs=1e-6)
    assert bare @ once < 0.999 and twice @ once < 0.999


def test_one_string_and_base64(encoder):
    plain = vectors(ask(encoder, input="query: w1"))
    coded = ask(encoder, input="query: w1", encoding_format="base64", model="")["data"][0]["embedding"]
    assert np.array_equal(np.frombuffer(base64.b64decode(coded), "<f4"), plain[0])


def test_fewer_dimensions_are_the_first_ones_at_length_1(encoder):
    whole, cut = vectors(ask(encoder, input="query: w1"))[0], vectors(ask(encoder, input="query: w1", dimensions=8))[0]
    assert cut == pytest.approx(whole[:8] / np.linalg.norm(whole[:8]), abs=1e-6)


@pytest.mark.parametrize(
    ("values", "message", "parameter", "status"),
    [
        ({}, "input: must be given", "input", 400),
        ({"input": []}, "input: must be a string or a list of 1 to", "input", 400),
        ({"input": ["a"] * (MOST_TEXTS + 1)}, "list of 1 to 2,048 strings", "input", 400),
        ({"input": ["a", ""]}, "input[1]: must be a string that is not empty", "input", 400),
        ({"input": [[1, 2]]}, "input[0]: are another tokenizer's tokens", "input", 400),
        ({"input": [1, 2]}, "check_embedding_ctx_length=False", "input", 400),
        ({"input": [None]}, "input[0]: must be a string", "input", 400),
        ({"input": "\ud800"}, "input[0]: holds half of a surrogate pair", "input", 400),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format='int8': must be float or base64", "encoding_format", 400),
        ({"input": "a", "dimensions": 33}, "dimensions=33: must be a whole number from 1 to 32", "dimensions", 400),
        ({"input": "a", "dimensions": True}, "dimensions=True: must be", "dimensions", 400),
        ({"input": "a", "prompt_name": "query"}, "prompt_name: no such field", "prompt_name", 400),
        ({"input": "a", "model": "other"}, "model='other': must be 'small'", "model", 404),
    ],
)
def test_faults_are_named(encoder, values, message, parameter, status):
    with pytest.raises(RefusedRequestError) as refused:
        ask(encoder, **values)
    assert message in refused.value.message and (refused.value.parameter, refused.value.status) == (parameter, status)
    assert refused.value.code == ("model_not_found" if status == 404 else None)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b"[1]", b'"input"'])
def test_what_is_no_object_is_refused(encoder, body):
    with pytest.raises(RefusedRequestError, match="the body"):
        embed(encoder, "small", body)
