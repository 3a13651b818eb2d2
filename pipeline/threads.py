"""Threads in which torch computes alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_before: list[int] = []
"""Torch's number of threads before each open block, of which the first is put back."""


@contextmanager
def lone_threads(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of `count` threads, each of which torch keeps to itself.

    Threads that are there keep theirs; those that others begin meanwhile get one, too. The pool's
    end with the block; what was not begun is left.
    """
    # `torch.set_num_threads` holds for the thread that calls it, for those that come after, and for
    # the one pool of NNPACK, in which convolutions of several threads would wait for each other. So
    # the number for those is put back when the last block ends, which may be another's.
    ready = threading.Barrier(count + 1)

    def alone() -> None:
        torch.set_num_threads(1)
        ready.wait()

    with _lock:
        _before.append(torch.get_num_threads())
    pool = ThreadPoolExecutor(count, name)
    try:
        for _ in range(count):
            pool.submit(alone)
        ready.wait()
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        with _lock:
            number = _before.pop()  # of all but the last block nobody needs it
            if not _before:
                torch.set_num_threads(number)
