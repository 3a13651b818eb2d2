"""Threads around a computation: what it reads is fetched ahead, what it makes is put away behind.

Both are bounded, both end with the block that started them, whatever ended it, and an error in a
thread is raised once, in the thread that runs the block.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
_END = object()


@contextmanager
def ahead(items: Iterable[T], depth: int) -> Iterator[Iterator[T]]:
    """Yield an iterator over `items`, which a thread reads up to `depth` of them ahead."""
    ready: queue.Queue[object] = queue.Queue(depth)
    stop = threading.Event()
    failed: list[BaseException] = []

    def put(item: object) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.05)
            except queue.Full:
                continue

    def read() -> None:
        try:
            for item in items:
                put(item)
                if stop.is_set():
                    return
        except BaseException as error:
            failed.append(error)
        put(_END)

    def taken() -> Iterator[T]:
        while (item := ready.get()) is not _END:
            yield item  # type: ignore[misc]
        if failed:
            raise failed.pop()

    thread = threading.Thread(target=read, name="ahead", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stop.set()
        thread.join()


@contextmanager
def behind(threads: int, depth: int) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Yield a function that runs what it is given in one of `threads`, `depth` of them at most.

    It waits where that many are under way. The block ends when all are done.
    """
    pending: deque[Future[None]] = deque()

    def run(task: Callable[[], None]) -> None:
        pending.append(pool.submit(task))
        while len(pending) > depth or (pending and pending[0].done()):
            pending.popleft().result()

    pool = ThreadPoolExecutor(threads, "behind")
    try:
        yield run
        while pending:
            pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
