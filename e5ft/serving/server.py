"""The server: the page, `/v1/embeddings` and `/health` in one process. Imported once `listening.listen` has found its packages."""

import socket
import threading
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from e5ft.data.text import normalise
from e5ft.serving import listening
from e5ft.serving.embeddings import RefusedRequestError, embed, error_values
from e5ft.serving.page import LANGUAGES, LONGEST_QUERY, MOST_LISTED, About, content_security_policy, page
from e5ft.serving.searching import MODEL, SideBySide

LARGEST_BODY = 8 * 2**20  # bytes: 2,048 texts of 4 kB each
_SECONDS_TO_END = 3  # for requests that are being answered when the server is told to end


class Application:
    """What is served; one request computes at a time, since all share the model.

    Args:
        searched: what the page searches.
        labels: names of its models; MODEL's is also the name in `/v1/embeddings`.
    """

    def __init__(self, searched: SideBySide, labels: dict[str, str]):
        self.searched, self.name = searched, labels[MODEL]
        whole, examples = searched.retrieval_set, searched.examples(MOST_LISTED)
        self._about = About(whole.name, len(whole.passages), len(whole.queries), labels, searched.weight, examples)
        self._computing = threading.Lock()
        self._headers = {
            "Content-Security-Policy": content_security_policy(),
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }

    def app(self, host: str) -> ASGIApp:
        """The application in ASGI's form.

        Args:
            host: at which it listens; requests for other names are refused.
        """
        routes = [
            Route("/", self._page),
            Route("/v1/embeddings", self._embeddings, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/health", self._health),
        ]
        handlers = {HTTPException: _refused, RefusedRequestError: _refused, Exception: _failed}
        return TrustedHosts(Starlette(routes=routes, exception_handlers=handlers), host)

    async def _page(self, request: Request) -> Response:
        query, language = request.query_params.get("q", ""), request.query_params.get("lang", LANGUAGES[0])
        if len(query) > LONGEST_QUERY:
            raise HTTPException(414, f"q: {len(query):,} characters; must be at most {LONGEST_QUERY:,}")
        found = await self._compute(self.searched.search, query) if normalise(query) else None
        return HTMLResponse(page(language, self._about, normalise(query), found), headers=self._headers)

    async def _embeddings(self, request: Request) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # which a page of another site cannot send without being asked first
            raise HTTPException(415, "Content-Type: must be application/json")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST_BODY:
                raise HTTPException(413, f"the request is too large; must be at most {LARGEST_BODY:,} bytes")
        model = self.searched.models[MODEL]
        return JSONResponse(await self._compute(embed, model, self.name, bytes(body)))

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": self.name, "object": "model", "created": 0, "owned_by": "e5ft"}]})

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _compute(self, function: Callable, *arguments):
        def alone():
            with self._computing:
                return function(*arguments)

        return await run_in_threadpool(alone)


class TrustedHosts:
    """Lets requests through that name this server as its own user would (`listening.is_trusted`)."""

    def __init__(self, app: ASGIApp, host: str):
        self.app, self.host = app, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's interface."""
        name = Headers(scope=scope).get("host", "") if scope["type"] == "http" else ""
        if scope["type"] == "http" and not listening.is_trusted(name, self.host):
            message = f"Host: {name!r}: must be localhost, an address, or the name that serve was told (host=NAME)"
            return await JSONResponse(error_values(message), 421)(scope, receive, send)
        await self.app(scope, receive, send)


def answer(app: ASGIApp, listening_socket: socket.socket) -> None:
    """Answer requests until SIGINT or SIGTERM, which then does what it did before."""
    options = {"loop": "asyncio", "http": "h11", "ws": "none", "lifespan": "off", "proxy_headers": False, "server_header": False}
    quiet = {"log_config": None, "log_level": "warning", "access_log": False}
    config = uvicorn.Config(app, timeout_graceful_shutdown=_SECONDS_TO_END, **options, **quiet)
    uvicorn.Server(config).run(sockets=[listening_socket])


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, RefusedRequestError):
        return JSONResponse(error_values(error.message, error.parameter, error.code), error.status)
    return JSONResponse(error_values(error.detail), error.status_code, headers=error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    message = "could not be computed; the terminal in which serve runs says why"
    return JSONResponse(error_values(message, kind="server_error"), 500)
