"""Who follows what: each follower has marks of what changed, never a queue that could grow."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Follower:
    """A listener of one job, or of all of them."""

    def __init__(self, job: int | None) -> None:
        self.job = job
        self.changed: set[int] = set()
        """Jobs whose state changed since they were last sent."""
        self.moved: set[int] = set()
        """Jobs whose progress moved since then."""
        self.woken = asyncio.Event()


class Hub:
    """Wakes followers. However slow one is, it costs no more than the numbers of the jobs."""

    def __init__(self) -> None:
        self.followers: set[Follower] = set()
        self.closing = asyncio.Event()

    @contextmanager
    def following(self, job: int | None) -> Iterator[Follower]:
        """Yield a follower of `job`, or of all jobs."""
        follower = Follower(job)
        self.followers.add(follower)
        try:
            yield follower
        finally:
            self.followers.discard(follower)

    def changed(self, job: int) -> None:
        """Tell that the state of a job changed."""
        self._mark(job, "changed")

    def moved(self, job: int) -> None:
        """Tell that a job's progress moved, or that it said a line."""
        self._mark(job, "moved")

    def close(self) -> None:
        """End every stream: the server stops."""
        self.closing.set()
        for follower in self.followers:
            follower.woken.set()

    def _mark(self, job: int, what: str) -> None:
        for follower in self.followers:
            if follower.job in (None, job):
                getattr(follower, what).add(job)
                follower.woken.set()
