"""The gate before the application: everything that can be refused is refused on the headers, before the body is read.

A plain ASGI middleware, because the body must not be touched by anything before its size, its key and the queue are
known. The body is then read here, counted and under a deadline, and handed on as one piece.
"""

import asyncio
import hmac
import logging
import re
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from cliplet.serve.logs import log
from cliplet.serve.metrics import Metrics
from cliplet.serve.refusal import Refusal, busy
from cliplet.serve.settings import Settings

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

WORK = {"/v1/score", "/v1/embed", "/v1/search", "/v1/explain"}
"""Paths whose POST is admitted to the queue."""
OPEN = {"/", "/healthz"}
"""Paths that need no key, with what lies under ``/page/``."""
KNOWN = WORK | OPEN | {"/metrics", "/openapi.json"}
"""Paths that metrics and logs name."""
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class ClientGone(Exception):
    """The client closed the connection before its request was whole."""


class Gate:
    """Request ids, security headers, keys, sizes, deadlines, admission, logs and metrics of every request."""

    def __init__(self, app: App, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self._keys = [key.encode() for key in settings.keys]
        self._clients: Counter[str] = Counter()
        self._admitted = self._bytes = 0
        extra = {"cross-origin-resource-policy": "cross-origin" if settings.cors_origins else "same-origin"}
        self._headers = [(k.encode(), v.encode()) for k, v in (SECURITY | extra).items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; everything but HTTP goes straight to the application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self.settings.root_path:
            scope["root_path"] = self.settings.root_path
        await _Exchange(self, scope, receive, send).serve()

    def check_headers(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Refuse what headers alone can tell is too large or has no key."""
        settings = self.settings
        if len(scope.get("raw_path") or b"") + len(scope.get("query_string", b"")) > settings.max_url:
            raise Refusal(414, "url_too_long", f"path and query may have {settings.max_url} bytes")
        if sum(len(k) + len(v) + 4 for k, v in scope["headers"]) > settings.max_header:
            raise Refusal(431, "headers_too_large", f"headers may have {settings.max_header} bytes together")
        path = route_path(scope)
        if self._keys and path not in OPEN and not path.startswith("/page/"):
            scope["cliplet.client"] = self._key_of(headers)

    def _key_of(self, headers: dict[bytes, bytes]) -> str:
        """Which key came; raises Refusal where none fits."""
        given = headers.get(b"x-api-key", b"")
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if not given and scheme.lower() == b"bearer":
            given = token.strip()
        fits = [hmac.compare_digest(given, key) for key in self._keys]  # all, so that the time tells nothing
        if not any(fits):
            raise Refusal(
                401, "no_key", "a key is needed: Authorization: Bearer KEY, or X-API-Key: KEY",
                {"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        return str(fits.index(True))

    def admit(self, client: str, size: int) -> None:
        """Take a place in the queue for a body of at most ``size`` bytes; raises Refusal where there is none."""
        settings = self.settings
        if settings.per_client and self._clients[client] >= settings.per_client:
            self.metrics.refused.labels("client").inc()
            raise Refusal(
                429, "too_many_requests", f"one client may have {settings.per_client} requests at a time",
                {"Retry-After": "1"},
            )  # fmt: skip
        if self._admitted >= settings.queue or (self._admitted and self._bytes + size > settings.queue_bytes):
            self.metrics.refused.labels("queue").inc()
            raise busy("the service is busy: come again")
        self._count(client, 1, size)

    def leave(self, client: str, size: int) -> None:
        """Give the place back."""
        self._count(client, -1, -size)

    def _count(self, client: str, one: int, size: int) -> None:
        self._admitted += one
        self._bytes += size
        self._clients[client] += one
        if not self._clients[client]:
            del self._clients[client]
        self.metrics.admitted.set(self._admitted)
        self.metrics.admitted_bytes.set(self._bytes)

    def body_size(self, headers: dict[bytes, bytes]) -> int:
        """The largest size that the body can have by its headers; raises Refusal where that is too much."""
        text = headers.get(b"content-length")
        most = self.settings.max_body
        if text is None or b"transfer-encoding" in headers:
            return most
        if not text.isdigit():
            raise Refusal(400, "content_length", "Content-Length must be a whole number")
        if len(text) > 18 or int(text) > most:
            raise too_large(most)
        return int(text)

    @property
    def security_headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of every answer."""
        return self._headers


class _Exchange:
    """One request and its answer."""

    def __init__(self, gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        self.gate, self.scope, self.receive, self._send = gate, scope, receive, send
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        asked = self.headers.get(b"x-request-id", b"").decode("latin-1")
        self.id = asked if REQUEST_ID.fullmatch(asked) else uuid.uuid4().hex
        self.path = route_path(scope)
        self.started = time.perf_counter()
        self.status = self.bytes_in = 0
        self.code = ""
        self.whole = not self._has_body()

    async def serve(self) -> None:
        self.scope.setdefault("state", {})["request_id"] = self.id
        self.scope["cliplet.exchange"] = self
        try:
            self.gate.check_headers(self.scope, self.headers)
            if self.scope["method"] == "POST" and self.path in WORK:
                await self._admitted()
            else:
                await self.gate.app(self.scope, self.receive, self.send)
        except Refusal as refusal:
            await self.refuse(refusal)
        except ClientGone:
            self.status, self.code = 499, "client_gone"
        except Exception:
            log("error", logging.ERROR, exc_info=True, request_id=self.id, path=self._shown_path())
            await self.refuse(Refusal(500, "internal", "the service failed; its log says why"))
        finally:
            self._account()

    async def _admitted(self) -> None:
        client = self.scope.get("cliplet.client") or (self.scope.get("client") or ("?",))[0]
        size = self.gate.body_size(self.headers)
        if self.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Refusal(415, "content_encoding", "bodies must come uncompressed")
        self.gate.admit(client, size)
        try:
            body = await self._body()
            await self._until_gone(self.gate.app(self.scope, _whole(body), self.send))
        finally:
            self.gate.leave(client, size)

    async def _until_gone(self, answering: Awaitable[None]) -> None:
        """Run the application's answer; it is cancelled where the client goes away meanwhile."""
        answer, gone = asyncio.ensure_future(answering), asyncio.ensure_future(self._gone())
        try:
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and not self.status:
                raise ClientGone
            await answer
        finally:
            for task in (answer, gone):
                task.cancel()

    async def _gone(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def _body(self) -> bytes:
        settings, parts = self.gate.settings, []
        try:
            async with asyncio.timeout(settings.body_seconds):
                while True:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    part = message.get("body", b"")
                    self.bytes_in += len(part)
                    if self.bytes_in > settings.max_body:
                        raise too_large(settings.max_body)
                    parts.append(part)
                    if not message.get("more_body", False):
                        self.whole = True
                        return b"".join(parts)
        except TimeoutError:
            raise Refusal(
                408, "too_slow", f"the body did not arrive within {settings.body_seconds:g} seconds"
            ) from None

    async def send(self, message: Message) -> None:
        """Pass the answer on with the headers that all answers have."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", []))
            headers += [(b"x-request-id", self.id.encode()), *self.gate.security_headers]
            if not self.whole:
                headers.append((b"connection", b"close"))  # the rest of the body is not waited for
            message["headers"] = headers
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with a refusal, unless an answer has begun."""
        if self.status:
            return
        self.code = refusal.code
        body = refusal.body(self.id)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(k.lower().encode(), v.encode()) for k, v in refusal.headers.items()]
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def _has_body(self) -> bool:
        length = self.headers.get(b"content-length", b"0")
        return b"transfer-encoding" in self.headers or length.strip(b"0") != b""

    def _shown_path(self) -> str:
        """The path for logs and metrics: never what a client made up."""
        if self.path in KNOWN or self.path.startswith("/page/"):
            return "/page" if self.path.startswith("/page/") else self.path
        return "/v1/photos" if self.path.startswith("/v1/photos/") else "other"

    def _account(self) -> None:
        seconds, path = time.perf_counter() - self.started, self._shown_path()
        self.gate.metrics.requests.labels(path, str(self.status)).inc()
        self.gate.metrics.seconds.labels(path).observe(seconds)
        fields: dict[str, Any] = {"code": self.code} if self.code else {}
        log(
            "request", request_id=self.id, method=self.scope["method"][:10], path=path, status=self.status,
            ms=round(1000 * seconds, 1), bytes_in=self.bytes_in, **fields,
        )  # fmt: skip


def route_path(scope: Scope) -> str:
    """The path without the root path that a proxy may leave before it."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] or "/" if root and (path == root or path.startswith(root + "/")) else path


def too_large(most: int) -> Refusal:
    """413 for a body of more than ``most`` bytes."""
    return Refusal(413, "body_too_large", f"a request may have {most:,} bytes")


def _whole(body: bytes) -> Receive:
    """A ``receive`` that gives the whole body."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
