"""The application object: the page and `/v1/embeddings` over HTTP's own terms, and whom it does not answer."""

import threading
import unicodedata

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
from starlette.testclient import TestClient

from e5ft.serving.server import LARGEST_BODY, LONGEST_QUERY, Application
from tests.serving.conftest import PLANTED


@pytest.fixture(scope="module")
def client(searched):
    app = Application(searched, {"base": "before", "model": "small"}).app("127.0.0.1")
    return TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)


def test_the_page_searches_and_escapes(client, searched):
    start, answer = client.get("/"), client.get("/", params={"q": "w1 서울", "lang": "en"})
    assert start.status_code == answer.status_code == 200 and "예시 질의" in start.text
    assert "<script" not in answer.text and "&lt;script&gt;alert(&#39;<mark>w1</mark>&#39;)" in answer.text
    answers = sum(hit.relevance > 0 for ranking in searched.search("w1 서울").rankings for hit in ranking.hits)
    assert answer.text.count('<li class="answer">') == answers >= 2
    assert all(label in answer.text for label in ("before", "small", "Hybrid", "q1"))
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert PLANTED not in answer.text


def test_hangul_in_nfd_is_the_same_page(client):
    nfd = client.get("/", params={"q": unicodedata.normalize("NFD", "w1  서울")})
    assert nfd.text == client.get("/", params={"q": "w1 서울"}).text


@pytest.mark.parametrize("query", ["", "   ", "\t\n"])
def test_an_empty_query_is_the_first_page(client, query):
    assert client.get("/", params={"q": query}).text == client.get("/").text


def test_a_query_may_hold_anything_and_is_bounded(client):
    for query in (b"%00", b"%FF%FE", b"%ED%A0%80", "😀 ‮ \u0301".encode()):
        assert client.get(b"/?q=".decode() + query.decode()).status_code == 200
    assert client.get("/", params={"q": "a" * (LONGEST_QUERY + 1)}).status_code == 414


def test_embeddings_over_http(client, searched):
    answer = client.post("/v1/embeddings", json={"input": ["query: w1 w2"], "model": "small"})
    expected = searched.models["model"].encode(["w1 w2"], "query")[0]
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    assert np.array(answer.json()["data"][0]["embedding"]) == pytest.approx(expected, abs=1e-6)
    assert client.get("/v1/models").json()["data"][0]["id"] == "small"
    assert client.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ({"json": {"input": []}}, 400, "input: must be"),
        ({"json": {"input": "a", "model": "b"}}, 404, "model='b'"),
        ({"content": b'{"input": "a"}'}, 415, "application/json"),
        ({"content": b'{"input": "a"}', "headers": {"content-type": "text/plain"}}, 415, "application/json"),
        ({"content": b" " * (LARGEST_BODY + 1), "headers": {"content-type": "application/json"}}, 413, "too large"),
    ],
)
def test_errors_are_in_openai_s_form(client, options, status, message):
    answer = client.post("/v1/embeddings", **options)
    error = answer.json()["error"]
    assert answer.status_code == status and message in error["message"]
    assert error.keys() == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"


def test_other_places_and_methods_are_refused_in_the_same_form(client):
    for answer, status in ((client.get("/nowhere"), 404), (client.get("/v1/embeddings"), 405), (client.post("/"), 405)):
        assert answer.status_code == status and answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", ""])
@pytest.mark.parametrize("path", ["/?q=w1", "/v1/embeddings", "/health"])
def test_a_name_of_another_site_is_refused(client, host, path):
    answer = client.get(path, headers={"host": host})
    assert answer.status_code == 421 and "Host: " in answer.json()["error"]["message"] and "w1" not in answer.text


def test_what_nobody_foresaw_is_one_error_and_the_server_goes_on(client, searched, monkeypatch):
    def broken(query):
        raise RuntimeError("a secret of the machine")

    monkeypatch.setattr(searched, "search", broken)
    answer = client.get("/", params={"q": "w1"})
    assert answer.status_code == 500 and answer.json()["error"]["type"] == "server_error" and "secret" not in answer.text
    monkeypatch.undo()
    assert client.get("/", params={"q": "w1"}).status_code == 200


def test_one_request_computes_at_a_time(client, searched, monkeypatch):
    inside, most, search = [], [], searched.search

    def watched(query):
        inside.append(query)
        most.append(len(inside))
        found = search(query)
        inside.remove(query)
        return found

    monkeypatch.setattr(searched, "search", watched)
    threads = [threading.Thread(target=client.get, args=("/",), kwargs={"params": {"q": f"w{n}"}}) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 6
