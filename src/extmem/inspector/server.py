"""The inspector's server: on loopback alone, for whoever has the address, to be read alone.

The first part of each path is a secret, which is in the address that is printed. Who has it not, or
came by another host's name (DNS rebinding), is told nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import secrets
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import resources
from typing import Any

from extmem.errors import ExtmemError
from extmem.inspector.survey import PERIOD, Survey

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    from extmem.inspector.strangers import Strangers
except ImportError as error:
    raise ExtmemError(
        f"the inspector's page needs {error.name}, which is not installed: "
        "pip install 'extmem[view]'. `extmem view NAME --png FILE` and --json do without"
    ) from None

__all__ = ["Server"]

LOOPBACK = "127.0.0.1"
_MOST_LISTENERS = 16  # pages that are kept up to date at the same time
_MOST_PICTURES = 2  # pictures that are taken at the same time
_BACKLOG = 128  # connections that wait until they are taken

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_FILES = {
    "": ("page.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
    "plots.js": ("plots.js", "text/javascript"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Server:
    """Serves a survey until `stop`, or a signal."""

    def __init__(self, survey: Survey, port: int = 0) -> None:
        """port: 0 for any that is free."""
        self._survey = survey
        self._token = secrets.token_urlsafe(24)
        self._listeners = 0
        self._pictures = asyncio.Semaphore(_MOST_PICTURES)
        self._strangers = Strangers()
        self._socket = _listener(port)
        self.port: int = self._socket.getsockname()[1]
        routes = [Route(f"/{name}", self._file) for name in _FILES]
        routes += [
            Route("/live", self._live),
            Route("/survey", self._once),
            Route("/passport", self._passport),
            Route("/picture", self._picture),
        ]
        self._app = Starlette(routes=routes)
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._guard,
                log_level="warning",
                access_log=False,
                server_header=False,
                lifespan="off",
                loop="asyncio",
                interface="asgi3",
                http=self._strangers.protocol(),
                ws="none",
                proxy_headers=False,
                backlog=_BACKLOG,
                timeout_graceful_shutdown=1,
            )
        )

    @property
    def address(self) -> str:
        """What a browser is given."""
        return f"http://{LOOPBACK}:{self.port}/{self._token}/"

    def run(self, seconds: float | None = None) -> None:
        """Serve for so many seconds, None for ever, or until Ctrl-C."""
        timer = None
        if seconds is not None:
            timer = threading.Timer(seconds, self.stop)
            timer.start()
        try:
            with contextlib.suppress(KeyboardInterrupt):
                self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()
            if timer is not None:
                timer.cancel()
                timer.join()

    def stop(self) -> None:
        """End `run`. From any thread."""
        self._server.should_exit = True

    # -- who may ask ------------------------------------------------------------------------------

    async def _guard(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application: what may pass is asked for without its secret."""
        if scope["type"] != "http":
            return
        refused = self._refusal(scope)
        if refused is not None:
            await refused(scope, receive, send)
            return
        self._strangers.known(tuple(scope["client"] or ()))

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = [(key.lower().encode(), value.encode()) for key, value in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        path = "/" + scope["path"].split("/", 2)[2]
        inner = {**scope, "path": path, "raw_path": path.encode(), "root_path": ""}
        await self._app(inner, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        hosts = [value for key, value in scope["headers"] if key == b"host"]
        ours = [f"{name}:{self.port}".encode() for name in (LOOPBACK, "localhost")]
        parts = scope["path"].split("/", 2)
        given = parts[1].encode() if len(parts) == 3 else b""
        right = secrets.compare_digest(given, self._token.encode())
        if len(hosts) != 1 or hosts[0] not in ours or not right:
            said = "The address needs its secret part, as `extmem view` printed it.\n"
            headers = {**_HEADERS, "Connection": "close"}  # a stranger has one try for each
            return Response(said, 403, headers, "text/plain")
        if scope["method"] != "GET":
            headers = {**_HEADERS, "Allow": "GET"}
            return Response("This page can be read, and nothing else.\n", 405, headers)
        return None

    # -- answers ----------------------------------------------------------------------------------

    async def _file(self, request: Request) -> Response:
        name, kind = _FILES[request.url.path.rpartition("/")[2]]
        data = resources.files("extmem.inspector").joinpath("page", name).read_bytes()
        return Response(data, media_type=kind)

    async def _once(self, _: Request) -> Response:
        return JSONResponse({**self._survey.latest, **self._survey.objects()})

    async def _live(self, _: Request) -> Response:
        if self._listeners >= _MOST_LISTENERS:
            return Response(f"{_MOST_LISTENERS} pages are open already.\n", 503)
        self._listeners += 1  # here, where it was looked at: none comes in between
        return _Live(self._events(), self._left)

    def _left(self) -> None:
        self._listeners -= 1

    async def _events(self) -> AsyncIterator[str]:
        """What a page is told: first what was, then twice a second what is."""
        version = -1
        yield _event("history", self._survey.history())
        while not self._server.should_exit:
            if version != self._survey.objects_version:
                version = self._survey.objects_version
                yield _event("objects", self._survey.objects())
            yield _event("streams", self._survey.latest)
            for _ in range(5):
                if not self._server.should_exit:
                    await asyncio.sleep(PERIOD / 5)

    async def _passport(self, request: Request) -> Response:
        kind, which = _asked(request)
        try:
            return JSONResponse(self._survey.passport(kind, which))
        except (KeyError, ValueError):
            return Response("There is no such thing any more.\n", 404)

    async def _picture(self, request: Request) -> Response:
        """The pixels, four bytes each, with what is said of them in a header."""
        kind, which = _asked(request)
        async with self._pictures:
            try:
                picture, said = await run_in_threadpool(self._survey.picture, kind, which)
            except (KeyError, ValueError):
                return Response("There is no such thing any more.\n", 404)
            except (ExtmemError, OSError) as error:
                why = getattr(error, "strerror", None) or str(error)
                return JSONResponse({"why": why})
            height, width, _ = picture.pixels.shape
            about = {
                "width": width,
                "height": height,
                "from": [picture.width, picture.height],
                "note": picture.note,
                **said,
            }
            return Response(
                picture.pixels.tobytes(),
                media_type="application/octet-stream",
                headers={"X-Picture": json.dumps(about)},
            )


class _Live(StreamingResponse):
    """Events for a page, and a call when it is gone, also if it was gone before the first."""

    def __init__(self, events: AsyncIterator[str], left: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._left = left

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._left()


def _listener(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # where it would let two programs have the same port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((LOOPBACK, port))
        made.listen(_BACKLOG)  # now: the address may be used as soon as it is printed
    except OSError as error:
        made.close()
        why = "another program has it" if error.errno == errno.EADDRINUSE else error.strerror
        raise type(error)(
            error.errno,
            f"the page cannot have port {port} of {LOOPBACK}: {why}; give another one, or "
            "--port 0 for one that is free",
        ) from None
    return made


def _asked(request: Request) -> tuple[str, str]:
    for kind in ("stream", "object"):
        if kind in request.query_params:
            return kind, request.query_params[kind]
    return "stream", ""


def _event(kind: str, data: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"
