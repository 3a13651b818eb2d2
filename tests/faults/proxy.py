"""A proxy in front of a server, between which and us the network fails."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

Plan = Callable[[int], str]
"""Number of a connection -> what happens to it: `pass`, `drop` (closed when the request has come),
`truncate` (closed in the middle of the answer), `delay`, `refuse` (a 503 without asking)."""
DELAY = 0.3
_BUSY = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass
class Proxy:
    """Where it listens, what it does, and what it has done so far."""

    port: int
    plan: Plan = lambda _: "pass"
    done: list[str] = field(default_factory=list)


@contextmanager
def proxy(host: str, port: int) -> Iterator[Proxy]:
    """Yield a proxy to `host`:`port`; every connection carries one request."""
    listening = socket.create_server(("127.0.0.1", 0))
    found = Proxy(listening.getsockname()[1])

    def accept() -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = listening.accept()
                what = found.plan(len(found.done))
                found.done.append(what)
                serve = threading.Thread(target=_carry, args=(client, host, port, what))
                serve.daemon = True
                serve.start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield found
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def _carry(client: socket.socket, host: str, port: int, what: str) -> None:
    with suppress(OSError), client, socket.create_connection((host, port)) as server:
        request = _message(client)
        if what == "drop" or not request:
            return
        if what == "refuse":
            client.sendall(_BUSY)
            return
        server.sendall(_closing(request))
        answer = b""
        while part := server.recv(2**16):
            answer += part
        if what == "delay":
            time.sleep(DELAY)
        client.sendall(answer[: len(answer) // 2] if what == "truncate" else answer)


def _message(client: socket.socket) -> bytes:
    """Return one request with its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = client.recv(2**16)
        if not part:
            return b""
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    names = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    if names.get(b"expect") == b"100-continue":
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    left = int(names.get(b"content-length", 0)) - len(body)
    while left > 0:
        part = client.recv(2**16)
        if not part:
            return b""
        data, left = data + part, left - len(part)
    return data


def _closing(request: bytes) -> bytes:
    """Return a request that asks for the connection to be closed after the answer."""
    head, _, body = request.partition(b"\r\n\r\n")
    kept = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*kept, b"Connection: close"]) + b"\r\n\r\n" + body
