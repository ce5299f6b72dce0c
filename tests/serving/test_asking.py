"""Nine faults, one at a time in every protocol, are named; a right server has none in any precision."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from e5ft.exporting.golden import LONG, read_golden
from e5ft.json_http import AnswerError
from e5ft.serving.asking import Way, answers_to
from e5ft.serving.diagnosis import diagnose
from e5ft.serving.folders import function_of
from e5ft.serving.protocols import Client
from tests.serving.conftest import FAULTS, Served

PATHS = {"openai": "/v1/embeddings", "tei": "/embed", "ollama": "/api/embed"}


@pytest.fixture
def ask(exported, server, monkeypatch):
    """Check a served model through a protocol."""
    golden = read_golden(exported)

    def check(protocol: str, served, prefix: str = "auto"):
        server.embed = served
        if protocol == "function":
            monkeypatch.setitem(sys.modules, "served_here", SimpleNamespace(embed=served))
            way = function_of("served_here:embed")
        else:
            client = Client(server.url + PATHS[protocol])
            way = Way(client.url, client.protocol.has_prompts, client)
        return diagnose(golden, answers_to(golden, way, prefix), 0.9999)

    return check


@pytest.fixture(scope="module")
def served(exported):
    """Models by fault, each loaded once."""
    made = {}
    return lambda *faults: made.setdefault(faults, Served(exported, *faults))


@pytest.mark.parametrize("protocol", ["openai", "tei", "ollama", "function"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_and_no_other(ask, served, protocol, fault):
    found = ask(protocol, served(fault))
    assert len(found.faults) == 1 and found.faults[0].startswith(FAULTS[fault]), found


@pytest.mark.parametrize("protocol", ["openai", "tei", "ollama", "function"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_right_server_has_no_fault(ask, exported, protocol, dtype):
    found = ask(protocol, Served(exported, dtype=dtype))
    assert found.faults == () and found.compared == 32 and found.lowest >= 0.9999


@pytest.mark.parametrize(
    "faults",
    [("no prefix", "not normalised"), ("no prefix", "cls"), ("no prefix", "nfd"), ("confused", "nfd", "cut", "not normalised"),
     ("prefix twice", "quantised"), ("nfd", "quantised")],
    ids="+".join,
)  # fmt: skip
def test_faults_that_come_together_are_named_together(ask, exported, faults):
    found = ask("openai", Served(exported, *faults))
    assert len(found.faults) == len(faults), found
    assert all(any(text.startswith(FAULTS[fault]) for text in found.faults) for fault in faults), found


def test_a_role_may_have_a_fault_of_its_own(ask, exported):
    right, confused = Served(exported), Served(exported, "confused")
    found = ask("tei", lambda texts, role: (confused if role == "passage" else right)(texts, role))
    assert found.faults == ("query and passage confused in passages: must be 'passage: ' before each text",)


def test_who_adds_the_prefix(ask, exported):
    """Where a request can name a prompt the server does, and the texts go without; otherwise, or if told so, the client."""
    for protocol, prefix, by_server in (
        ("tei", "auto", True), ("tei", "client", False), ("openai", "auto", False), ("openai", "server", True),
        ("ollama", "auto", False), ("function", "auto", False), ("function", "server", True),
    ):  # fmt: skip
        model = Served(exported)
        assert ask(protocol, model, prefix).faults == ()
        assert all((role is not None) == by_server for _, role in model.asked)
        assert all(text.startswith(("query: ", "passage: ")) != by_server for texts, _ in model.asked for text in texts)


def test_texts_go_as_they_are(ask, exported):
    """What a server must recompose, join and cut reaches it untouched."""
    model = Served(exported)
    ask("openai", model)
    sent = {text for texts, _ in model.asked for text in texts}
    probes = read_golden(exported).probes
    assert sent == {f"{probe.role}: {probe.text}" for probe in probes} and len(sent) == 32


@pytest.mark.parametrize(
    "refusal",
    [
        (413, b"<html>Request Entity Too Large"),
        (400, {"message": "This model's maximum context length is 512 tokens. However, you requested 620"}),
        (422, {"error": "`inputs` must have less than 512 tokens. Given: 620"}),
    ],
)
def test_a_server_that_refuses_over_long_texts_is_held_against_the_others(ask, exported, server, refusal):
    server.longest, server.refusal = 400, refusal
    found = ask("tei", Served(exported))
    assert found.faults == () and found.compared == sum(probe.kind != LONG for probe in read_golden(exported).probes) == 30
    assert found.refused == 2
    server.longest = 10  # short ones are no excuse
    with pytest.raises(AnswerError, match=f"HTTP {refusal[0]}"):
        ask("tei", Served(exported))


def test_a_server_that_breaks_down_over_long_texts_refuses_nothing(ask, exported, server):
    server.longest, server.refusal = 400, (500, {"error": "input is too large to process. increase the physical batch size"})
    (fault,) = ask("tei", Served(exported)).faults
    assert fault.startswith(f"over-long texts break it: {server.url}/embed: HTTP 500 (") and "increase the physical" in fault
    assert fault.endswith("; it must cut them at 320 tokens (a truncate option), or refuse them with HTTP 413")
    found = ask("openai", Served(exported, "cls"))  # what is wrong besides is told, too
    assert [fault[:11] for fault in found.faults] == ["over-long t", "CLS pooling"] and found.refused == 0
    server.refusal = (400, {"error": "no such field"})
    with pytest.raises(AnswerError, match="HTTP 400 .*no such field"):
        ask("tei", Served(exported))


@pytest.mark.parametrize(
    ("value", "beginning"),
    [
        (0, "zero vectors for 32 of 32 texts, the first '서울의 수도': it computes nothing"),
        (
            float("nan"),
            "NaN or infinite numbers for 32 of 32 texts, the first '서울의 수도': serve the model in float32 or bfloat16",
        ),
        (float("inf"), "NaN or infinite numbers for 32"),
    ],
)
@pytest.mark.parametrize("protocol", ["openai", "function"])
def test_zero_vectors_and_nan_are_said_by_name(ask, protocol, value, beginning):
    found = ask(protocol, lambda texts, role=None: np.full((len(texts), 64), value))
    assert len(found.faults) == 1 and found.faults[0].startswith(beginning), found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:, :32], "vectors of 32 dimensions: must be 64"),
        (lambda rows: rows[1:], "vectors for 8 texts"),
        (lambda rows: rows[0], r"shape \(64,\)"),
    ],
)
def test_answers_that_are_no_vectors_of_the_model(ask, exported, change, message):
    model = Served(exported)
    with pytest.raises(AnswerError, match=message):
        ask("function", lambda texts: change(model(texts)))
