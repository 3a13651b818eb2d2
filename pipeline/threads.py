"""Threads in which torch computes alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def lone_threads(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of `count` threads, each of which torch keeps to itself; all others keep theirs.

    They end with the block; what was not begun is left.
    """
    # `torch.set_num_threads` holds for the thread that calls it and for those that come after, so
    # the number for all others is put back once each thread here has set its own
    before = torch.get_num_threads()
    ready = threading.Barrier(count + 1)

    def alone() -> None:
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(count, name)
    try:
        for _ in range(count):
            pool.submit(alone)
        ready.wait()
        torch.set_num_threads(before)
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
