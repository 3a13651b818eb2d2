"""Who may come in: tokens, hosts, origins, sizes, and how many at once. Plain ASGI, around all.

A browser page of another site cannot reach the service: without a token only loopback names are
answered (no DNS rebinding), changes need the same origin, and no CORS header is ever sent.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
from http.cookies import CookieError, SimpleCookie
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vsodpipe.service.settings import Settings
from vsodpipe.service.telemetry import FOLLOWER, GUEST, REQUEST, Meters

LOG = logging.getLogger("vsodpipe.service")
COOKIE = "vsodpipe"
PUBLIC = ("/", "/login", "/healthz", "/api/me")
"""What needs no token, beside the page's own files in /static/."""
BODY_SECONDS = 60.0
"""Within which a request must have come; of an upload, the next bytes."""
_LOOPBACK = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?")
_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


def session(token: str) -> str:
    """Return the value of the cookie of someone who gave the token; it does not tell the token."""
    return hmac.new(token.encode(), b"vsodpipe session", "sha256").hexdigest()


def same(given: str, expected: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(given.encode(), expected.encode())


def known(headers: Headers, settings: Settings) -> bool:
    """Return whether a request carries the token, or the cookie that stands for it."""
    if settings.token is None:
        return True
    kind, _, given = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return same(given.strip(), settings.token)
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return False
    return cookie is not None and same(cookie.value, session(settings.token))


class Guard:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, settings: Settings, meters: Meters) -> None:
        self._app, self._settings, self._meters = app, settings, meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, receive, send, self._limit(scope), self._meters)
        headers = Headers(scope=scope)
        who = self._who(scope, headers)
        refused = self._refused(scope, headers, who, answer.limit)
        try:
            with self._meters.request(who):
                if refused is not None:
                    await error(*refused)(scope, receive, answer.send)
                else:
                    await self._app(scope, answer.receive, answer.send)
        finally:
            answer.log()

    def _limit(self, scope: Scope) -> int:
        return self._settings.upload_bytes if _uploads(scope) else self._settings.body_bytes

    def _who(self, scope: Scope, headers: Headers) -> str:
        """Return as what a request counts: those without the token keep nobody else out."""
        if not known(headers, self._settings):
            return GUEST
        return FOLLOWER if scope["path"] == "/api/events" else REQUEST

    def _refused(
        self, scope: Scope, headers: Headers, who: str, limit: int
    ) -> tuple[int, str] | None:
        settings, path = self._settings, scope["path"]
        host = headers.get("host", "")
        if settings.token is None and not _LOOPBACK.fullmatch(host):
            return 403, "the Host of the request is not this server's."
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and not _same_origin(headers, host):
            return 403, "a page of another site may change nothing here."
        if path not in PUBLIC and not path.startswith("/static/") and who == GUEST:
            return 401, "expected the token: Authorization: Bearer TOKEN (VSODPIPE_TOKEN)."
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > limit:
            return 413, f"expected at most {limit} bytes."
        if self._meters.there[who] >= (
            settings.followers if who == FOLLOWER else settings.in_flight
        ):
            return 429, "too many requests at once. Try again in a moment."
        return None


def _uploads(scope: Scope) -> bool:
    return bool(scope["method"] == "PATCH" and scope["path"].startswith("/api/uploads/"))


def _same_origin(headers: Headers, host: str) -> bool:
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "none") in ("same-origin", "none")
    return origin.partition("://")[2] == host


class _Answer:
    """One request on its way: its body counted, headers added, a line in the log."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, limit: int, meters: Meters
    ) -> None:
        self.limit, self.status = limit, 0
        self._scope, self._receive, self._send, self._meters = scope, receive, send, meters
        self._taken = self._sent = 0
        self._whole = False
        self._started = time.monotonic()

    async def receive(self) -> Message:
        try:
            async with asyncio.timeout(self._patience()):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, "the request did not come to its end.") from None
        self._whole = not message.get("more_body", False)
        self._taken += len(message.get("body", b""))
        if self._taken > self.limit:
            raise HTTPException(413, f"expected at most {self.limit} bytes.")
        return message

    def _patience(self) -> float | None:
        """Return for how many seconds the next bytes are waited for: None after the last ones."""
        if self._whole:
            return None
        return BODY_SECONDS - (0 if _uploads(self._scope) else time.monotonic() - self._started)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            there = {name.lower() for name, _ in message["headers"]}
            more = [
                (k.encode(), v.encode()) for k, v in _HEADERS.items() if k.encode() not in there
            ]
            message = {**message, "headers": [*message["headers"], *more]}
        self._sent += len(message.get("body", b""))
        await self._send(message)

    def log(self) -> None:
        scope = self._scope
        self._meters.answered(self.status, self._sent, self._taken)
        client = scope.get("client")
        facts: dict[str, Any] = {
            "method": scope["method"],
            "path": scope["path"],  # without the query: whatever stands there is not kept
            "status": self.status,
            "bytes": self._sent,
            "seconds": round(time.monotonic() - self._started, 4),
            "client": client[0] if client else None,
        }
        LOG.info("request", extra=facts)


def error(status: int, reason: str) -> JSONResponse:
    """Return the answer to a request that failed."""
    more = {401: {"www-authenticate": "Bearer"}, 429: {"retry-after": "1"}}
    return JSONResponse({"error": reason}, status, headers=more.get(status))
