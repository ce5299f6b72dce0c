"""Servers of embeddings over HTTP: what is sent to each and where its vectors are in the answer. A row of `PROTOCOLS` is all one needs."""

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from e5ft.errors import ConfigurationError
from e5ft.json_http import AnswerError, JsonClient

_UNKNOWN = "default"  # where the server has no list of models: those that serve one take any name


class Protocol(NamedTuple):
    """How a kind of server is asked.

    Attributes:
        name: in words.
        ending: of the address, by which it is told.
        has_prompts: whether a request can name the model's own prompt, so that the server adds the prefix.
        body: texts, role ("query" or "passage"; None: the texts are final) and the model's name -> the request.
        vectors: the answer -> a vector for each text.
        models: the path in the place of `ending` that lists the models; None: a request names none.
        names: its answer -> their names.
    """

    name: str
    ending: str
    has_prompts: bool
    body: Callable[[Sequence[str], str | None, str], dict]
    vectors: Callable[[object], list]
    models: str | None
    names: Callable[[object], list[str]]


PROTOCOLS = (
    Protocol(
        "OpenAI's /v1/embeddings",
        "/embeddings",
        False,
        # Where a server of this kind knows roles at all, their field is input_type (NVIDIA NIM and others).
        lambda texts, role, model: (
            {"model": model, "input": list(texts), "encoding_format": "float"} | ({"input_type": role} if role else {})
        ),
        lambda answer: _by_index(answer["data"]),
        "/models",
        lambda answer: [str(item["id"]) for item in answer["data"]],
    ),
    Protocol(
        "Ollama's /api/embed",
        "/api/embed",
        False,
        lambda texts, role, model: {"model": model, "input": list(texts), "truncate": True},
        lambda answer: answer["embeddings"],
        "/api/tags",
        lambda answer: [str(item["name"]) for item in answer["models"]],
    ),
    Protocol(
        "text-embeddings-inference's /embed",
        "/embed",
        True,
        lambda texts, role, model: {"inputs": list(texts), "truncate": True} | ({"prompt_name": role} if role else {}),
        lambda answer: list(answer),
        None,
        lambda answer: [],
    ),
)


def _by_index(items: list[dict]) -> list:
    """The vectors of OpenAI's answer in the order of the texts."""
    places = {item["index"]: item["embedding"] for item in items}
    if len(places) < len(items):
        raise ValueError("duplicate index")
    return [places[index] for index in range(len(items))]


def protocol_of(url: str) -> Protocol:
    """The protocol that an address ends with.

    Raises:
        ConfigurationError: it ends with none, or is no web address.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets of no IPv6 address
        parts = urlsplit("")
    found = next((each for each in PROTOCOLS if parts.path.rstrip("/").endswith(each.ending)), None)
    if parts.scheme not in ("http", "https") or not parts.netloc or found is None:
        raise ConfigurationError(
            f"target={url}: must be a web address (http://...) that ends in /v1/embeddings (OpenAI's), /embed (text-embeddings-inference) "
            "or /api/embed (Ollama)"
        )
    return found


class Client:
    """Asks one server.

    Args:
        url: its address, with the protocol's path.
        model: the name that the server knows the model by; None asks it.
        key: a bearer token; None sends none. It is in no message.
        timeout: seconds within which a request must be answered whole.

    Raises:
        ConfigurationError: the address is of no known protocol, or the token cannot be sent.
    """

    def __init__(self, url: str, model: str | None = None, key: str | None = None, timeout: float = 60):
        self.url, self.protocol = url.rstrip("/"), protocol_of(url)
        self._http = JsonClient(url, key, timeout)
        self._model = model

    def __call__(self, texts: Sequence[str], role: str | None) -> list:
        """What the server gives for texts, a vector each; of what kind is checked by who asks.

        Args:
            texts: to send.
            role: "query" or "passage", for the server to add the prefix; None: the texts have it.

        Raises:
            AnswerError: no answer, or another one than the protocol's.
        """
        if self._model is None:
            self._model = self._only_model()
        answer = self._http.send(self.url, self.protocol.body(texts, role, self._model))
        return self._read(self.url, self.protocol.vectors, answer)

    def _only_model(self) -> str:
        if self.protocol.models is None:
            return _UNKNOWN
        url = self.url.removesuffix(self.protocol.ending) + self.protocol.models
        try:
            names = self._read(url, self.protocol.names, self._http.send(url))
        except AnswerError as error:
            if error.status in (404, 405, 501):  # it has no such list
                return _UNKNOWN
            raise
        if len(names) > 1:
            raise AnswerError(f"model_name=null: the server has {', '.join(names[:5])}; name one: model_name={names[0]}")
        return names[0] if names else _UNKNOWN

    def _read(self, url: str, read: Callable, answer: object) -> list:
        try:
            return read(answer)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise AnswerError(f"{url}: not the answer of {self.protocol.name}: {self._http.shown(json.dumps(answer))}") from error
