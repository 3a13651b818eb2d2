"""Bytes of the files of a store: local ones by preadv, remote ones many at once through fsspec.

With a cache, a remote file is fetched whole when it is first touched and kept on the local disk,
the least recently used ones going when there are too many bytes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import fsspec
from numpy.typing import NDArray

from vsodpipe import media, remote
from vsodpipe.errors import DataError
from vsodpipe.shard_cache import ShardCache, retry

_IOV_MAX = 1024
MOST_OPEN = 64
"""Files of a local store that stay open."""

Range = tuple[str, int, int]
"""Name of a file, first byte, byte after the last one."""


class _Open:
    """An open file, closed when no thread refers to it any more."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


class Files:
    """Files below a folder or URL, or one file (the name is empty then)."""

    def __init__(self, url: str, cache: Path | None, cache_bytes: int) -> None:
        self.url, self.local = url, "://" not in url
        self._cache = ShardCache(cache, cache_bytes) if cache and not self.local else None
        self.stamp = ""
        """Of what is in the store: kept files of another one are not used."""
        self._remote: Any = None
        self._pid = -1
        self._opened: dict[str, _Open] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_remote": None, "_pid": -1, "_opened": {}}

    def path(self, name: str) -> str:
        """Return the full path or URL of a file."""
        return f"{self.url}/{name}" if name else self.url

    def whole(self, names: Sequence[str]) -> list[bytes]:
        """Return the bytes of files, fetched at once. Raises DataError where one is missing."""
        if self.local:
            return [media.read_bytes(self.path(name)) for name in names]
        return self._many([(name, None, None) for name in names])

    def size(self, name: str) -> int | None:
        """Return the bytes of a local file, None for one that is not there or not local."""
        try:
            return os.stat(self.path(name)).st_size if self.local else None
        except OSError:
            return None

    def ranges(self, wanted: Sequence[Range]) -> list[bytes]:
        """Return ranges of bytes, in order. Raises DataError where a file is missing or short."""
        if self.local or self._cache is not None:
            found = self._local_ranges(wanted)
        else:
            found = self._many(wanted)
        for (name, start, end), part in zip(wanted, found, strict=True):
            if len(part) != end - start:
                raise DataError(
                    f"{self.path(name)}: cut short, or changed while it was read. "
                    "Copy the store again or pack it anew."
                )
        return found

    def read_runs(self, name: str, runs: Sequence[tuple[int, list[NDArray[Any]]]]) -> None:
        """Fill the C-contiguous arrays of each run with the bytes of a file from its start on."""
        file = self._open(name)
        for start, slots in runs:
            views = [slot.data for slot in slots]
            done = os.preadv(file.number, views[:_IOV_MAX], start)
            if done < sum(view.nbytes for view in views):  # a read may be short
                self._read_rest(file, name, start, done, views)

    def _read_rest(
        self, file: _Open, name: str, start: int, done: int, slots: list[memoryview]
    ) -> None:
        views = [slot.cast("B") for slot in slots]
        while True:
            while views and done >= len(views[0]):
                done -= len(views[0])
                start += len(views.pop(0))
            if not views:
                return
            views[0] = views[0][done:]
            start += done
            if not (done := os.preadv(file.number, views[:_IOV_MAX], start)):
                raise DataError(
                    f"{self.path(name)}: cut short. Copy the store again or pack it anew."
                )

    @property
    def cache_bytes(self) -> int | None:
        """The most that the cache may hold, None without one."""
        return None if self._cache is None else self._cache.limit

    @property
    def direct(self) -> bool:
        """Whether files are on the local disk, or will be when they are read."""
        return self.local or self._cache is not None

    def keep(self, names: Sequence[str]) -> None:
        """Bring remote files into the cache and wait for them; nothing without a cache."""
        if self._cache is not None:
            for name in names:
                self._cache.local(self.path(name), self.stamp)

    def _local_ranges(self, wanted: Sequence[Range]) -> list[bytes]:
        found = []
        for name, part in groupby(wanted, lambda one: one[0]):
            file = self._open(name)
            size = os.fstat(file.number).st_size
            for _, start, end in part:
                # nothing of what is cut short: so much memory is not taken in vain
                whole = 0 <= start <= end <= size
                found.append(_pread(file.number, start, end) if whole else b"")
        return found

    def _open(self, name: str) -> _Open:
        """Return an open file: of a local store one that stays open, as two threads that open and
        close files all the time wait for each other.
        """
        file = self._opened.get(name)
        if file is not None:
            return file
        try:
            if not self.local:  # as it may be evicted, and its use has to be seen
                return _Open(self._kept(name))
            file = _Open(os.open(self.path(name), os.O_RDONLY))
        except OSError as error:
            raise DataError(
                f"{self.path(name)}: cannot be read: {error.strerror}. "
                "Copy the store again or pack it anew."
            ) from error
        while len(self._opened) >= MOST_OPEN:
            self._opened.pop(next(iter(self._opened.copy()), ""), None)  # the oldest
        self._opened[name] = file
        return file

    def _kept(self, name: str) -> int:
        """Return the open copy of a remote file in the cache."""
        assert self._cache is not None
        while True:
            with suppress(FileNotFoundError):  # evicted by another reader
                return os.open(self._cache.local(self.path(name), self.stamp), os.O_RDONLY)

    def _filesystem(self) -> tuple[Any, str]:
        if self._pid != os.getpid():  # an async file system refuses to work after a fork
            try:
                self._remote = fsspec.core.url_to_fs(self.url, **remote.options(self.url))
            except (ImportError, ValueError) as error:
                raise DataError(f"{self.url}: cannot be read: {error}.") from error
            self._pid = os.getpid()
        system, base = self._remote
        return system, base

    def _many(self, wanted: Sequence[tuple[str, int | None, int | None]]) -> list[bytes]:
        """Return ranges of remote files, all asked for at once; those that fail again."""
        found: dict[int, bytes] = {}
        absent: list[str] = []

        def fetch() -> None:
            system, base = self._filesystem()
            todo = [n for n in range(len(wanted)) if n not in found]
            paths = [f"{base}/{wanted[n][0]}" if wanted[n][0] else base for n in todo]
            starts, ends = [wanted[n][1] for n in todo], [wanted[n][2] for n in todo]
            # not cat, which takes some characters for patterns and returns in any order
            parts = system.cat_ranges(paths, starts, ends, on_error="return")
            failed = None
            for number, part in zip(todo, parts, strict=True):
                if isinstance(part, FileNotFoundError):
                    absent.append(wanted[number][0])
                elif isinstance(part, Exception):
                    failed = part
                else:
                    found[number] = bytes(part)
            if failed is not None and not absent:
                raise failed

        retry(fetch, self.url)
        if absent:
            raise DataError(f"{self.path(absent[0])}: is not there. Check the address.")
        return [found[n] for n in range(len(wanted))]


def _pread(file: int, start: int, end: int) -> bytes:
    data = os.pread(file, end - start, start)
    while len(data) < end - start and (
        part := os.pread(file, end - start - len(data), start + len(data))
    ):
        data += part
    return data
