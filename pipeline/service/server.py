"""The server process: one a data root, JSON lines as its log, a graceful end."""

from __future__ import annotations

import fcntl
import ipaddress
import logging
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from vsodpipe.errors import UsageError
from vsodpipe.service import app, connections, telemetry
from vsodpipe.service.hub import Hub
from vsodpipe.service.settings import Settings

LOG = logging.getLogger("vsodpipe.service")
TOKEN_LENGTH = 16
"""The fewest characters of a token."""

_FILES = 65536
"""Open files that are enough for every limit of Settings."""


def check(settings: Settings) -> None:
    """Raise UsageError for settings with which a server would be open to others, or of no use."""
    if not settings.data.is_dir():
        raise UsageError(f"{settings.data}: no such data root. Name one with --data.")
    if settings.token is None and not _loopback(settings.host):
        raise UsageError(
            f"--host {settings.host}: others could come in. Set a token: "
            "export VSODPIPE_TOKEN=$(openssl rand -hex 16)"
        )
    if settings.token is not None and len(settings.token) < TOKEN_LENGTH:
        raise UsageError(f"VSODPIPE_TOKEN: expected at least {TOKEN_LENGTH} characters.")
    if settings.watch is not None and not settings.watch.is_dir():
        raise UsageError(f"--watch {settings.watch}: no such folder.")


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def run(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C; jobs that run then continue at the next start."""
    check(settings)
    _allow_connections()
    with _held(settings), _listening(settings) as listener:
        _log_to_stderr()
        hub = Hub()
        config = uvicorn.Config(
            app.create(settings, hub),
            http=connections.Patient,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="on",
            timeout_graceful_shutdown=5,
        )
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        LOG.info("serving", extra={"url": f"http://{shown}:{port}", "data": str(settings.data)})
        server = _Server(config, hub)
        # uvicorn takes signals once it runs, and sends itself the one that ended it again
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, server.handle_exit)
        server.run(sockets=[listener])
        LOG.info("ended")
    if not server.started:
        sys.exit(1)


def _allow_connections() -> None:
    """Allow more open files than the usual 1024, of which each connection is one."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if most == resource.RLIM_INFINITY else min(_FILES, most)
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


class _Server(uvicorn.Server):
    """A server that ends its streams when it is asked to stop, instead of waiting for them."""

    def __init__(self, config: uvicorn.Config, hub: Hub) -> None:
        super().__init__(config)
        self._hub = hub

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal."""
        self._hub.close()
        super().handle_exit(sig, frame)


@contextmanager
def _held(settings: Settings) -> Iterator[None]:
    """Keep other servers from the data root: the lock ends with the process, however it ends."""
    settings.state.mkdir(mode=0o700, exist_ok=True)
    with open(settings.state / "lock", "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{settings.data}: another vsodpipe serve works there. Use that one, or end it."
            ) from None
        yield


@contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    except OSError as error:
        place = f"{settings.host}:{settings.port}"
        raise UsageError(f"{place}: {error.strerror or error}. Name another --port.") from None
    with listener:
        yield listener


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(telemetry.JsonLines())
    for name in ("vsodpipe.service", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
    LOG.setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
