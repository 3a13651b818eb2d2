"""What the server was started with. Every path is absolute."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STATE = ".service"
"""The folder of the data root that holds the queue, logs and uploads; hidden from data sets."""


@dataclass(frozen=True)
class Settings:
    """Places, limits and the token of one server."""

    data: Path
    runs: Path
    manifests: Path
    host: str = "127.0.0.1"
    port: int = 8765
    token: str | None = None
    """None: whoever reaches the loopback address may do everything."""
    cluster: str | None = None
    """Where jobs that take --cluster run their tasks."""
    watch: Path | None = None
    engine: str = "raft_large"
    """Flow engine for what is dropped into `watch`."""
    jobs: int = 2
    """Jobs that run at once."""
    upload_bytes: int = 64 * 2**30
    """The most bytes of one upload."""
    body_bytes: int = 2**20
    """The most bytes of any other request."""
    in_flight: int = 128
    """Requests at once; followers of progress, and whoever has no token, count apart."""
    followers: int = 1000
    """Open streams of progress at once."""

    @property
    def state(self) -> Path:
        """The folder of the SQLite file, logs and uploads in progress."""
        return self.data / STATE
