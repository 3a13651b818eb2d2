"""Ctrl-C and SIGTERM (a scheduler that takes the machine back) as a request, not as an accident."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Stop:
    """Whether the user, or a scheduler, asked to stop."""

    requested: bool = False


@contextmanager
def stopping(say: Callable[[str], None]) -> Iterator[Stop]:
    """Yield a Stop that the first signal sets; the second one interrupts at once, as usual."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def request(number: int, frame: FrameType | None) -> None:
        stop.requested = True
        restore()
        say("stopping after this step, with everything saved (Ctrl-C again: at once)")

    for number in SIGNALS:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        restore()


def end_with_parent() -> None:
    """Have this process, a worker of another one, end with it, however that one ends.

    A worker whose parent was killed would wait for its next task for ever.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def ignore_interrupt(_: int) -> None:
    """Let a loader's worker (its number is the argument) leave Ctrl-C to the main process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
