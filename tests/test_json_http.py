"""What is particular to the transport; what it says of every fault is in tests/serving/test_protocols.py."""

import contextlib
import socket
import threading
import time

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


@contextlib.contextmanager
def answering(*parts: bytes, pause: float = 0):
    """The URL of a server that reads one request, sends these bytes, and closes."""

    def serve():
        with contextlib.suppress(OSError):
            connection, _ = listening.accept()
            with connection:
                request = b""
                while not request.endswith(b"\r\n\r\n{}"):  # what is left unread would reset the connection
                    request += connection.recv(65536)
                for part in parts:
                    connection.sendall(part)
                    time.sleep(pause)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    thread.join()


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "answer",
    [HEAD + b"\r\n[" + b" " * 100 + b"1]", HEAD + b"X: " + b"y" * 60 + b"\r\n\r\n[1]"],
    ids=["body", "headers"],
)
def test_an_answer_that_trickles_does_not_outlast_the_timeout(answer):
    late = "no answer within 0.2 seconds; timeout=SECONDS waits longer$"
    drops = (answer[at : at + 1] for at in range(len(answer)))
    with answering(*drops, pause=0.01) as url, pytest.raises(AnswerError, match=f"^{url}: {late}"):
        JsonClient(url, None, 0.2).send(url, {})
    with answering(HEAD, b"\r\n[", b"1", b"]") as url:
        assert JsonClient(url, None, 20).send(url, {}) == [1]


@pytest.mark.parametrize(
    ("answer", "when"),
    [
        (b"", "before there was an answer"),
        (HEAD + b"Content-Length: 100\r\n\r\n[0.1, 0.2]", "after 10 bytes of the answer"),
        (HEAD + b"Content-Length: 100\r\n\r\n", "before there was an answer"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n[0.1,\r\n", "after 5 bytes of the answer"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\n[0.1,", "after 5 bytes of the answer"),
        (HEAD + b"\r\n[0.1, 0.", "after 8 bytes of the answer"),
    ],
)
def test_a_cut_connection_is_said(answer, when):
    with answering(answer) as url, pytest.raises(AnswerError, match=f"^{url}: the connection was cut {when}; ") as raised:
        JsonClient(url, None, 20).send(url, {})
    assert raised.value.status is None and "\n" not in str(raised.value)
