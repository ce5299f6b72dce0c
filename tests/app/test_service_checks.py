"""W&B and the hub: what mode, key, cache and a server that does or does not answer mean; and how long is asked."""

import http.server
import socket
import threading

import pytest

from e5ft.app import service_checks as checks


@pytest.fixture
def facts(monkeypatch):
    """Whether there is a key, whether servers answer, what is in the cache."""
    asked = []

    def give(*, key=False, answer=None, cached=(), offline=False):
        monkeypatch.delenv("WANDB_MODE", raising=False)
        monkeypatch.setattr(checks, "has_wandb_key", lambda: key)
        monkeypatch.setattr("e5ft.app.mirror.has_wandb_key", lambda: key)
        monkeypatch.setattr(checks, "unreachable", lambda url: asked.append(url) or answer)
        monkeypatch.setattr(checks, "in_cache", lambda name, revision, *files: any(file in cached for file in files))
        monkeypatch.setattr(checks.constants, "HF_HUB_OFFLINE", offline)
        return asked

    return give


@pytest.mark.parametrize(
    ("mode", "key", "answer", "state", "words", "asked"),
    [
        ("'off'", True, None, "ok", "off", 0),
        ("auto", False, None, "ok", "offline, no API key", 0),
        ("offline", True, None, "ok", "wandb sync", 0),
        ("auto", True, None, "ok", "answers", 1),
        ("online", False, None, "note", "no API key", 0),
        ("online", True, "refused", "note", "does not answer (refused)", 1),
    ],
)
def test_wandb(composed, facts, mode, key, answer, state, words, asked):
    calls = facts(key=key, answer=answer)
    found = checks.check_wandb(composed("train", f"tracking.wandb={mode}"))
    assert found.state == state and words in found.text and len(calls) == asked


WHOLE = ("config.json", "model.safetensors")


@pytest.mark.parametrize(
    ("cached", "offline", "answer", "state", "words"),
    [
        (WHOLE, True, None, "ok", "in the local cache"),
        (WHOLE, False, "refused", "ok", "in the local cache"),
        (WHOLE[:1], True, None, "fault", "HF_HUB_OFFLINE"),  # the weights are missing
        ((), False, None, "ok", "will be fetched"),
        ((), False, "refused", "fault", "does not answer (refused)"),
    ],
)
def test_hub(composed, facts, cached, offline, answer, state, words):
    facts(cached=cached, offline=offline, answer=answer)
    found = checks.check_hub(composed("train", "model=e5_small"))
    assert found.state == state and words in found.text
    assert ("model.path=DIR" in found.remedy) == (state == "fault")


def test_what_is_local_asks_nobody(composed, facts, tmp_path):
    calls = facts(answer="refused")
    for overrides in ((), ("model=folder", f"model.path={tmp_path}")):
        assert checks.check_hub(composed("train", *overrides)).state == "ok"
    assert calls == []
    # Random weights in a hub model's shape: the tokenizer is the hub's unless a folder is named.
    assert checks.check_hub(composed("train", "model=e5_small", "model.init=random")).state == "fault"
    assert checks.check_hub(composed("train", "model=e5_small", "model.init=random", f"model.tokenizer={tmp_path}")).state == "ok"


@pytest.fixture
def no_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_any_answer_is_an_answer(no_proxy):
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(403)

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert checks.unreachable(f"http://127.0.0.1:{server.server_port}") is None
    finally:
        server.shutdown()
        server.server_close()


def test_no_server_and_a_silent_one(no_proxy):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert "refused" in checks.unreachable(address)
        silent.listen()
        assert checks.unreachable(address, seconds=0.2) is not None
