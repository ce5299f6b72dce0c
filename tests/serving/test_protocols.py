"""What is sent over HTTP, and one line for all that can go wrong there; the token is in none."""

import socket

import pytest

from e5ft.errors import ConfigurationError
from e5ft.json_http import AnswerError
from e5ft.serving.protocols import Client, protocol_of

KEY = "sk-very-secret-0123456789"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "m", "input": ["a", "b"], "encoding_format": "float"}),
        ("/embed", {"inputs": ["a", "b"], "truncate": True}),
        ("/api/embed", {"model": "m", "input": ["a", "b"], "truncate": True}),
    ],
)
def test_what_is_sent(server, path, body):
    import numpy as np

    server.embed = lambda texts, role: np.array([[len(role or ""), ord(text)] for text in texts])
    client = Client(server.url + path, "m", KEY)
    assert client(["a", "b"], None) == [[0, 97], [0, 98]]
    sent, headers, given = server.seen[-1]
    assert (sent, given, headers["Authorization"]) == (path, body, f"Bearer {KEY}")
    if path != "/api/embed":
        assert client(["a"], "query") == [[5, 97]]
    Client(server.url + path + "/", "m")(["a"], None)  # without a token
    assert "Authorization" not in server.seen[-1][1]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed"])
def test_the_model_is_the_only_one_that_the_server_lists(server, path):
    server.answer = (200, {"data": [], "embeddings": []})
    server.lists = ("mine",)
    Client(server.url + path)([], None)
    server.lists = ()  # it has no list: whatever is there answers
    Client(server.url + path)([], None)
    assert [body["model"] for *_, body in server.seen] == ["mine", "default"]
    server.lists = ("a", "b")
    with pytest.raises(AnswerError, match="^model_name=null: the server has a, b; name one: model_name=a$"):
        Client(server.url + path)([], None)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, {"error": f"wrong key {KEY}"}), r"HTTP 401 .*wrong key \[secret\].*; a bearer token goes into E5FT_API_KEY"),
        ((404, b""), r"HTTP 404 \(Not Found\)$"),
        ((422, {"error": "batch\nsize"}), "HTTP 422 .*batch"),
        ((500, b"<html>\n" + b"x" * 5000), "HTTP 500 .*xxx\\.\\.\\."),
        ((503, b"\x00\xff"), "HTTP 503"),
        ((307, b""), "HTTP 307"),
        ((200, b"<html>no"), "the answer is no JSON: <html>no$"),
        ((200, b""), "the answer is no JSON: empty$"),
        ((200, {"object": "list", "key": KEY}), r"not the answer of OpenAI's /v1/embeddings: .*\[secret\]"),
        ((200, [1]), "not the answer of OpenAI's"),
        ((200, {"data": [{"embedding": [1]}]}), "not the answer of OpenAI's"),
        ((200, None), "not the answer of OpenAI's"),
        ((200, {"data": [{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [2]}]}), "not the answer of OpenAI's"),
    ],
)
def test_another_answer_is_one_line(server, answer, message):
    server.answer = answer
    with pytest.raises(AnswerError, match=message) as raised:
        Client(f"{server.url}/v1/embeddings", "m", KEY)(["a"], None)
    text = str(raised.value)
    assert text.startswith(server.url) and "\n" not in text and KEY not in text and len(text) < 300
    assert len(server.seen) == 1  # a redirect is not followed


def test_no_server_and_no_answer_in_time():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/embed"
        with pytest.raises(AnswerError, match=f"^{url}: cannot be reached .Connection refused.; is the server running there"):
            Client(url)(["a"], None)
        silent.listen()  # accepts, and says nothing
        with pytest.raises(AnswerError, match=f"^{url}: no answer within 0.05 seconds; timeout=SECONDS waits longer$"):
            Client(url, timeout=0.05)(["a"], None)


@pytest.mark.parametrize("url", ["http://host:8000", "http://host/v1", "ftp://host/embed", "http:///embed", "http://[1/embed"])
def test_addresses_of_no_known_protocol(url):
    with pytest.raises(ConfigurationError, match="^target=.*: must be a web address .http://.... that ends in /v1/embeddings"):
        protocol_of(url)


def test_addresses_that_cannot_be_asked(server):
    for url in (
        "http://127.0.0.1:99999/embed",
        "http://127.0.0.1:x/embed",
    ):
        with pytest.raises(AnswerError, match="cannot be reached"):
            Client(url, timeout=5)(["a"], None)


@pytest.mark.parametrize("key", ["two words", "line\nend", "비밀번호암호"])
def test_a_token_that_cannot_be_sent_is_not_shown(key):
    with pytest.raises(ConfigurationError, match="^api_key must be printable ASCII") as raised:
        Client("http://127.0.0.1/embed", key=key)
    assert key not in str(raised.value)
