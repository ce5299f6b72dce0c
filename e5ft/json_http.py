"""JSON over HTTP, for whoever asks a server: one request, one answer, and one line for all that can go wrong there.

urllib suffices: no redirects (a token must not follow one to another host), no proxy to this machine.
"""

import http.client
import ipaddress
import json
import re
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import Future
from urllib.parse import urlsplit

from e5ft.errors import ConfigurationError, E5ftError

KEY = "E5FT_API_KEY"  # of the environment: the bearer token
_MOST, _PART = 2**28, 2**16  # bytes of an answer, and read at once
# How servers say that a text is too long, or that they will not have it, whatever its key and time.
_TOO_LONG = re.compile(r"long|length|large|size|tokens|token (?:limit|count)|context|character|maxim|exceed", re.IGNORECASE)
_FILTERED = re.compile(r"content.?(?:filter|management|policy)|moderation|safety", re.IGNORECASE)
_CUT = "the server, or a proxy before it, ended it: its log says why"


class AnswerError(E5ftError):
    """A server cannot be asked, or does not answer with what was asked for.

    Attributes:
        status: HTTP's, where that is what is wrong; None: there was no answer.
        wait: seconds after which the server wants to be asked again (Retry-After); None: it does not say.
    """

    def __init__(self, message: str, status: int | None = None, wait: float | None = None):
        super().__init__(message)
        self.status, self.wait = status, wait

    @property
    def is_too_long(self) -> bool:
        """Whether the server says that a text is too long for it; one that breaks down over it does not."""
        return self.status == 413 or self._says(_TOO_LONG)

    @property
    def is_of_the_text(self) -> bool:
        """Whether the same text would be rejected again: it is too long, or filtered. A wrong key is 400 for some servers, too."""
        return self.is_too_long or self._says(_FILTERED)

    def _says(self, pattern: re.Pattern) -> bool:
        said = str(self).partition(f"HTTP {self.status}")[2]  # behind the address
        return self.status in (400, 422) and pattern.search(said) is not None


class JsonClient:
    """Sends JSON to one server, and reads JSON.

    Args:
        url: an address of the server.
        key: a bearer token; None sends none. It is in no message.
        timeout: seconds within which a request must be answered whole.
        timeout_field: the setting that says so.

    Raises:
        ConfigurationError: the token cannot be sent.
    """

    def __init__(self, url: str, key: str | None = None, timeout: float = 60, timeout_field: str = "timeout"):
        self._timeout, self._key, self._timeout_field = timeout, key, timeout_field
        if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
            raise ConfigurationError("api_key must be printable ASCII without spaces")
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if _is_local(urlsplit(url).hostname):
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def send(self, url: str, body: dict | None = None) -> object:
        """The JSON that comes back; POST where there is a body.

        Raises:
            AnswerError: none does.
        """
        # In a thread of its own: a socket's timeout begins anew with every byte, and headers may trickle, too.
        found: Future = Future()
        threading.Thread(target=self._into, args=(found, url, body), daemon=True).start()
        try:
            return found.result(self._timeout)
        except TimeoutError:
            longer = f"{self._timeout_field}=SECONDS waits longer"
            raise AnswerError(f"{url}: no answer within {self._timeout:g} seconds; {longer}") from None

    def _into(self, found: Future, url: str, body: dict | None) -> None:
        try:
            found.set_result(self._answer(url, body))
        except BaseException as error:  # raised again where the answer is waited for
            found.set_exception(error)

    def _answer(self, url: str, body: dict | None) -> object:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        headers |= {"Authorization": f"Bearer {self._key}"} if self._key else {}
        content, end = bytearray(), time.monotonic() + self._timeout
        try:
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(url, data=data, headers=headers)
            with self._opener.open(request, timeout=self._timeout) as answer:
                while len(content) <= _MOST and (part := answer.read1(_PART)):
                    content += part
                    if time.monotonic() > end:
                        raise TimeoutError
                missing = answer.length  # None where the server does not say how long the answer is
        except urllib.error.HTTPError as error:
            with error:
                detail = self.shown(_text_of(error))
            hint = f"; a bearer token goes into {KEY}, in the environment" if error.code in (401, 403) else ""
            message = f"{url}: HTTP {error.code}{f' ({detail})' if detail else ''}{hint}"
            raise AnswerError(message, error.code, _seconds(error.headers.get("Retry-After"))) from None
        except (http.client.IncompleteRead, ConnectionError):  # what happens before the request is sent is a URLError
            raise AnswerError(f"{url}: the connection was cut {_after(content)}; {_CUT}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise reason from None
            what = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason) or type(reason).__name__
            raise AnswerError(f"{url}: cannot be reached ({self.shown(what)}); is the server running there?") from None
        if len(content) > _MOST:
            raise AnswerError(f"{url}: the answer is longer than {_MOST:,} bytes")
        text = content.strip()
        if missing or (text[:1] in (b"{", b"[") and text[-1:] not in (b"}", b"]")):
            raise AnswerError(f"{url}: the connection was cut {_after(content)}; {_CUT}")
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            shown = self.shown(content[:400].decode(errors="replace"))
            raise AnswerError(f"{url}: the answer is no JSON: {shown or 'empty'}") from None

    def shown(self, text: str) -> str:
        """The beginning of what a server says, in one line and without the token: some repeat it."""
        if self._key:
            text = text.replace(self._key, "[secret]")
        text = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
        return text if len(text) <= 120 else f"{text[:117]}..."


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args, **kwargs) -> None:
        """Follow none: urllib then raises the HTTPError."""


def _text_of(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(2000).decode(errors="replace") or str(error.reason)
    except (OSError, http.client.HTTPException):
        return str(error.reason)


def _after(content: bytes) -> str:
    return f"after {len(content):,} bytes of the answer" if content else "before there was an answer"


def _seconds(text: str | None) -> float | None:
    """Retry-After in seconds; None of a date, which few servers send."""
    return float(text) if text is not None and text.strip().isdigit() and len(text) < 6 else None


def _is_local(host: str | None) -> bool:
    """Whether a host is this machine, which no proxy reaches."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
