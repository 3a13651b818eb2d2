"""Where a pack writes: a local folder, or any place that fsspec can write to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from vsodpipe import locks, media
from vsodpipe.errors import DataError, VsodpipeError, unwritable


@dataclass(frozen=True)
class Place:
    """A folder or URL; files in it appear whole or not at all."""

    url: str

    @property
    def local(self) -> bool:
        """Whether it is on the local disk."""
        return "://" not in self.url

    def write(self, name: str, data: bytes) -> None:
        """Write a file. Raises VsodpipeError where that is not possible."""
        if self.local:
            media.write_bytes(Path(self.url, name), data)
            return
        with self._remote() as (system, base):
            system.pipe_file(f"{base}/{name}", data)

    @contextmanager
    def held(self, say: Callable[[str], None]) -> Iterator[None]:
        """Keep other processes of this machine out of a local folder, which is made, meanwhile.

        An empty one is removed at the end; it may also be moved. A URL is nobody's alone.
        """
        if not self.local:
            yield
            return
        folder = Path(self.url)
        with ExitStack() as stack:
            while True:
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                    stack.enter_context(locks.alone(folder, say))
                    break
                except FileNotFoundError:  # another process had it, and has moved it
                    continue
                except OSError as error:
                    raise unwritable(folder, error) from error
            try:
                yield
            finally:
                with suppress(OSError):
                    folder.rmdir()

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file, None where there is none."""
        if self.local:
            file = Path(self.url, name)
            return file.read_bytes() if file.is_file() else None
        with self._remote() as (system, base):
            try:
                return bytes(system.cat_file(f"{base}/{name}"))
            except FileNotFoundError:
                return None

    def names(self) -> list[str]:
        """Return the names of all files in it, sorted."""
        if self.local:
            below = (path for path in Path(self.url).rglob("*") if path.is_file())
            return sorted(path.relative_to(self.url).as_posix() for path in below)
        with self._remote() as (system, base):
            system.invalidate_cache()
            try:
                found = system.find(base)
            except FileNotFoundError:
                return []
            start = len(base.strip("/")) + 1
            return sorted(path.strip("/")[start:] for path in found)

    def remove(self, names: list[str]) -> None:
        """Delete files, those that are not there too."""
        if self.local:
            for name in names:
                media.remove(Path(self.url, name))
            return
        with self._remote() as (system, base):
            if there := sorted(set(names) & set(self.names())):
                system.rm([f"{base}/{name}" for name in there])

    def _remote(self) -> _Remote:
        return _Remote(self.url)


class _Remote:
    """The file system of a URL; what it raises becomes an error of one line."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> tuple[Any, str]:
        try:
            system, base = fsspec.core.url_to_fs(self._url)
        except (ImportError, ValueError) as error:
            raise DataError(f"{self._url}: cannot be reached: {error}.") from error
        return system, base.rstrip("/")

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, DataError) or not isinstance(error, Exception):
            return
        reason = " ".join(f"{type(error).__name__} {error}".split())
        raise VsodpipeError(
            f"{self._url}: cannot be written: {reason}. Check the connection and run again."
        ) from error
