"""What is particular to the transport; what it says of every fault is in tests/serving/test_protocols.py."""

import socket

import pytest

from e5ft.json_http import AnswerError, JsonClient
from tests.serving.conftest import server  # noqa: F401

KEY = "sk-very-secret-0123456789"


def test_json_goes_and_comes_with_the_token(server):  # noqa: F811
    server.answer = (200, {"a": "가"})
    assert JsonClient(server.url, KEY).send(f"{server.url}/x", {"b": "나"}) == {"a": "가"}
    path, headers, body = server.seen[-1]
    assert (path, headers["Authorization"], body) == ("/x", f"Bearer {KEY}", {"b": "나"})


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), (None, None), ("Wed, 21 Oct 2026 07:28:00 GMT", None)])
def test_how_long_a_server_wants_to_be_left_alone(server, header, seconds):  # noqa: F811
    server.answer, server.headers = (429, {"error": f"slow down, {KEY}"}), {"Retry-After": header} if header else {}
    with pytest.raises(AnswerError, match=r"HTTP 429 .*slow down, \[secret\]") as raised:
        JsonClient(server.url, KEY).send(server.url, {})
    assert (raised.value.status, raised.value.wait) == (429, seconds)


def test_the_setting_that_waits_longer_is_named():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(AnswerError, match="no answer within 0.05 seconds; generator.timeout=SECONDS waits longer"):
            JsonClient(url, None, 0.05, "generator.timeout").send(url, {})
