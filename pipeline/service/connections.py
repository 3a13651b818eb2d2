"""Connections before and between requests: those that keep the server waiting are closed.

uvicorn itself waits for ever for the head of a request, and reads one of any size.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

HEAD_BYTES = 64 * 2**10
"""The most bytes of a connection that are no body: the head of a request, frames of chunks."""
WASTE_BYTES = 16 * 2**20
"""The most bytes that are read and dropped of a body that was answered before its end."""
HEAD_SECONDS = 20.0
"""A connection without a request is closed at the second look in such intervals."""


class Patient(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """The HTTP protocol of uvicorn, whichever there is, with an end to its patience."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to look at the connection."""
        super().connection_made(transport)
        self._head = self._body = 0
        self._seen: Any = self  # no request, nor the absence of one
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop looking."""
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes, and close the connection where they are no body for too long."""
        request = self.cycle
        held = len(request.body) if request else 0
        super().data_received(data)
        if self.cycle is not request:  # the head was whole
            self._head = self._body = 0
            return
        grown = len(request.body) - held if request else 0
        self._head += len(data) - grown
        self._body += grown
        # small chunks have their frames; of an answered request only the head of the next counts
        answered = request is not None and request.response_complete
        waste = answered and self.scope is request.scope
        if self._head > (WASTE_BYTES if waste else HEAD_BYTES + self._body):
            self.transport.close()

    def _look(self) -> None:
        waits = self.cycle is None or self.cycle.response_complete
        if waits and self.cycle is self._seen:
            self.transport.close()
        self._seen = self.cycle if waits else self
        self._timer = self.loop.call_later(HEAD_SECONDS, self._look)
