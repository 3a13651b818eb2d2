"""Memory and threads of a loader: batches made ahead, in order, into memory that is used again."""

from __future__ import annotations

import math
import mmap
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from vsodpipe.threads import lone_threads

T = TypeVar("T")
R = TypeVar("R")


class Buffers:
    """Arrays for batches. One that nobody else refers to any more is handed out again.

    A fresh array of a batch's size costs page faults at every first touch: up to half the time of
    filling it. With `pinned` torch's own cache of page-locked memory does this, as it also knows
    which copies to the device are under way.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[tuple[tuple[int, ...], np.dtype[Any]], list[NDArray[Any]]] = {}

    def __reduce__(self) -> tuple[type[Buffers], tuple[()]]:
        return Buffers, ()

    def take(self, shape: tuple[int, ...], kind: Any, pinned: bool = False) -> NDArray[Any]:
        """Return an array of `shape` and dtype `kind` with any content."""
        dtype = np.dtype(kind)
        if pinned:
            return _memory(shape, dtype, pinned)
        with self._lock:
            held = self._held.setdefault((shape, dtype), [])
            for number in range(len(held)):
                if _references(held, number) == _UNUSED:
                    return held[number]
            held.append(_memory(shape, dtype, pinned))
            return held[-1]


def _memory(shape: tuple[int, ...], dtype: np.dtype[Any], pinned: bool) -> NDArray[Any]:
    if pinned:
        like = torch.from_numpy(np.empty(0, dtype))
        memory: NDArray[Any] = torch.empty(shape, dtype=like.dtype, pin_memory=True).numpy()
        return memory
    # Of pages of its own, where numpy's begins 16 bytes after a page: frames lie on pages of their
    # files, and some processors (AMD Zen 4) copy from there to 16 bytes further at half the speed.
    size = max(1, math.prod(shape) * dtype.itemsize)
    if size > _HUGE:
        size = -(-size // _HUGE) * _HUGE
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    return np.ndarray(shape, dtype, pages)


_HUGE = 2 * 2**20
"""Bytes of a huge page: one entry of the processor's page table for 512 pages."""


def _references(held: list[NDArray[Any]], number: int) -> int:
    return sys.getrefcount(held[number])


_UNUSED = _references([np.empty(0)], 0)
"""What sys.getrefcount says of an array that only the list holds; Python versions differ in it."""


def in_order(make: Callable[[T], R], items: Iterable[T], threads: int, depth: int) -> Iterator[R]:
    """Yield `make(item)` in the order of `items`, made by `threads`, at most `depth` ahead.

    The threads end with the iterator: when it is closed or collected, and after an error or
    Ctrl-C. `threads` 0 makes each when it is asked for.
    """
    if threads == 0:
        yield from map(make, items)
        return
    waiting: deque[Future[R]] = deque()
    with lone_threads(threads, "batches") as pool:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
