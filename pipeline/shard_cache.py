"""A bounded folder of whole files from far away: fetched once, in parts, the oldest-used evicted.

Several threads and several processes may share one folder: a file appears by atomic rename, one
that vanishes is fetched again, and one that is open stays readable after its eviction.
"""

from __future__ import annotations

import hashlib
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from vsodpipe import locks, media, remote
from vsodpipe.errors import DataError

T = TypeVar("T")

ATTEMPTS = 5
"""Tries of one request; the waits between them are 0.2, 0.4, 0.8 and 1.6 s, give or take a half."""
FIRST_WAIT = 0.2
PART_BYTES = 2 * 2**20
"""A file is fetched in parts of this size, many at once: one connection is slow, and larger parts
cost fresh memory."""
IN_FLIGHT = 32


def missing(place: str) -> DataError:
    """Return the error for a remote file that is not there."""
    return DataError(f"{place}: is not there. Pack it anew, or check the URL.")


def retry(fetch: Callable[[], T], place: str) -> T:
    """Return `fetch()`, tried ATTEMPTS times with growing waits.

    A file that is not there is not waited for. Raises DataError with the last failure.
    """
    for attempt in range(ATTEMPTS):
        try:
            return fetch()
        except DataError:  # in words already
            raise
        except FileNotFoundError as error:
            raise missing(place) from error
        except Exception as error:  # every remote file system has errors of its own
            if no_entry := remote.refused(place, error):
                raise no_entry from error
            if attempt + 1 == ATTEMPTS:
                words = " ".join(str(error).split()) or type(error).__name__
                raise DataError(
                    f"{place}: cannot be read after {ATTEMPTS} attempts: {words}. "
                    "Check the connection and run again."
                ) from error
            # spread, so that many readers do not come back at the same moment
            time.sleep(FIRST_WAIT * 2**attempt * random.uniform(0.5, 1.5))
    raise AssertionError("unreachable")


class ShardCache:
    """Local copies of remote files in `folder`, `limit` bytes at most (one file may exceed it)."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[Path, Future[Path]] = {}
        self._parts: ThreadPoolExecutor | None = None
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "limit": self.limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def local(self, url: str, tag: str = "") -> Path:
        """Return the local copy of `url`, fetched if it is not there. Open it at once.

        Copies of one `tag` are not taken for those of another: name the store's fingerprint. An
        opened copy may be evicted by others: on FileNotFoundError ask again. Raises DataError when
        it cannot be fetched.
        """
        parts = self._pool()
        path = self._path(url, tag)
        with self._lock:
            future = self._under_way.get(path)
            first = future is None
            if future is None:
                future = self._under_way[path] = Future()
        if not first:
            return future.result()
        try:
            try:
                os.utime(path)  # the time of last use decides what is evicted
            except FileNotFoundError:
                self._fetch(url, path, parts)
            future.set_result(path)
        except BaseException as error:
            future.set_exception(error)
            raise
        finally:
            with self._lock:
                self._under_way.pop(path, None)
        return path

    def _path(self, url: str, tag: str) -> Path:
        name = hashlib.sha256(f"{url}\n{tag}".encode()).hexdigest()
        return self.folder / f"{name[:32]}.shard"

    def _pool(self) -> ThreadPoolExecutor:
        if self._process != os.getpid():  # threads do not survive a fork
            self._start()
        with self._lock:
            if self._parts is None:
                self._parts = ThreadPoolExecutor(IN_FLIGHT, "shard-part")
            return self._parts

    def _fetch(self, url: str, path: Path, parts: ThreadPoolExecutor) -> None:
        # a file system of its own for every process: the asynchronous ones are not fork-safe
        options = {"skip_instance_cache": self._process != _IMPORTER, **remote.options(url)}
        system, where = fsspec.core.url_to_fs(url, **options)
        size = int(retry(lambda: system.size(where), url))
        with ExitStack() as stack:
            with self._lock:  # the partial file counts from here on
                self._make_room(size)
                handle, partial = tempfile.mkstemp(".partial", path.name, self.folder)
                stack.callback(media.remove, Path(partial))
                stack.callback(os.close, handle)
                stack.enter_context(locks.alone(Path(partial)))  # others leave it
                os.truncate(handle, size)

            def part(start: int) -> None:
                end = min(start + PART_BYTES, size)
                data = retry(lambda: system.cat_file(where, start=start, end=end), url)
                if len(data) != end - start:
                    raise DataError(f"{url}: got {len(data)} bytes, expected {end - start}.")
                os.pwrite(handle, data, start)

            for done in [parts.submit(part, start) for start in range(0, size, PART_BYTES)]:
                done.result()
            os.replace(partial, path)

    def _make_room(self, size: int) -> None:
        """Remove the files that were used longest ago until `size` bytes more fit."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be written: {error.strerror}.") from error
        held = []
        for file in self.folder.glob("*.shard*"):
            with suppress(FileNotFoundError):
                status = file.stat()
                age = abs(time.time() - status.st_mtime)  # clocks are set back, too
                if file.suffix == ".partial" and age > 3600 and _is_free(file):
                    file.unlink()  # of a process that was killed
                else:
                    held.append((status.st_mtime, status.st_size, file))
        total = sum(bytes_ for _, bytes_, _ in held)
        for _, bytes_, file in sorted(held):
            if total + size <= self.limit:
                return
            if file.suffix == ".shard":
                with suppress(FileNotFoundError):
                    file.unlink()
                total -= bytes_


def _is_free(file: Path) -> bool:
    """Return whether no process is at work in `file`."""
    try:
        with locks.alone_or(file, BlockingIOError):
            return True
    except BlockingIOError:
        return False


_IMPORTER = os.getpid()
