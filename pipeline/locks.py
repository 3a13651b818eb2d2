"""One process at a time: locks on folders that are there anyway.

They leave nothing behind, and end with the process that has them, however it ends: there is no
stale lock. Where a system or file system knows no such locks, nobody waits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(place: Path, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Keep other processes from `place`, a folder or file that is there, meanwhile.

    Waits for one that has it, after telling `say` which one. Where `place` is replaced while this
    process waits, the new one is locked. Raises FileNotFoundError for a place that is not there.
    """
    handle = _taken(place)
    while handle is None:
        say(f"waiting for {holder(place)}, which is at work in {place}")
        handle = _taken(place, wait=True)
    try:
        yield
    finally:
        os.close(handle)


@contextmanager
def alone_or(place: Path, error: Callable[[str], Exception]) -> Iterator[None]:
    """Do as `alone`, but raise `error(holder)` at once where another process has `place`."""
    handle = _taken(place)
    if handle is None:
        raise error(holder(place))
    try:
        yield
    finally:
        os.close(handle)


def _taken(place: Path, wait: bool = False) -> int | None:
    """Return the handle of the locked `place`, None where another process has or had it."""
    try:
        import fcntl
    except ImportError:  # not on this system
        return os.open(os.devnull, os.O_RDONLY)
    handle = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if _same(handle, place):
            return handle
    except BlockingIOError:
        pass
    except OSError:  # not on this file system
        return handle
    except BaseException:  # Ctrl-C while it waits
        os.close(handle)
        raise
    os.close(handle)
    return None


def _same(handle: int, place: Path) -> bool:
    """Return whether `place` still is what was opened: it may have been replaced meanwhile."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(place))
    except FileNotFoundError:
        return False


def holder(place: Path) -> str:
    """Return in words which process has `place`, as far as this system tells."""
    try:
        number = os.stat(place).st_ino
        with open("/proc/locks", encoding="ascii") as listed:
            for words in map(str.split, listed):
                if words[1] == "FLOCK" and words[5].endswith(f":{number}"):
                    return f"process {words[4]}"
    except (OSError, ValueError, IndexError):
        pass
    return "another process"
