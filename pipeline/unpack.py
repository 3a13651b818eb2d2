"""Archives (zip, tar) into a folder: nothing outside it, no links, nothing larger than stated."""

from __future__ import annotations

import json
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vsodpipe import media
from vsodpipe.errors import DataError, VsodpipeError
from vsodpipe.progress import Reporter

MAX_BYTES = 2**39
"""More than any data set of the field unpacks to (512 GiB)."""
MAX_FILES = 5_000_000
MAX_RATIO = 100
"""Pictures do not shrink further: what states more than this is no data set."""
MAX_PARTS = 32
RECORD = ".archive.json"
"""Says, in an unpacked folder, which archive it was made from."""

_Archive = zipfile.ZipFile | tarfile.TarFile
_MAX_META = 2**20
"""Bytes of a long name or of the properties of a member, which tarfile reads as one."""
_META = {*b"LKNxgXS"}
"""Kinds of tar headers that say something of the next one."""


class _Header(tarfile.TarInfo):
    """A header whose own text is bounded: that of a small compressed file could fill the memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        """Return the header in a block. Raises ReadError for one with too much text."""
        made = super().frombuf(buf, encoding, errors)
        if made.type[0] in _META and made.size > _MAX_META:
            raise tarfile.ReadError(f"a header of {made.size} bytes")
        return made


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an archive: its path with forward slashes, and its stated size in bytes."""

    name: str
    size: int
    entry: zipfile.ZipInfo | tarfile.TarInfo


def is_archive(path: Path) -> bool:
    """Return whether `path` is a zip or tar file (also a compressed tar)."""
    try:
        return path.is_file() and (zipfile.is_zipfile(path) or _is_tar(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}. Check the path.") from error


def _is_tar(path: Path) -> bool:
    try:
        tarfile.open(path, "r:*", tarinfo=_Header).close()
    except OSError as error:
        if error.errno is not None:
            raise
        return False
    except Exception:  # a damaged file fails anywhere inside the decompressors
        return False
    return True


def stem(path: Path) -> str:
    """Return the name of an archive without its endings: `Easy-35` of `Easy-35.tar.gz`."""
    name = path.name
    for ending in (".zip", ".tgz", ".tbz2", ".txz", ".gz", ".bz2", ".xz", ".tar"):
        if name.lower().endswith(ending) and len(name) > len(ending):
            name = name[: -len(ending)]
    return name


def members(path: Path) -> list[Member]:
    """Return the files of an archive after judging all of them by what they state.

    Raises DataError for a path that leads outside, a link, a device, a file that is there twice or
    locked, and sizes that no data set has.
    """
    with _opened(path) as archive:
        return _judged(path, archive)


def extract(path: Path, target: Path, reporter: Reporter, *, force: bool = False) -> None:
    """Unpack an archive into the folder `target`, which appears whole or not at all.

    What was unpacked there from the same archive before is kept unless `force`.
    """
    state = path.stat()
    record = {"size": state.st_size, "modified": state.st_mtime_ns}
    if not force and (target / RECORD).is_file() and media.read_json(target / RECORD) == record:
        return
    with _opened(path) as archive, media.replacing(target) as partial:
        files = _judged(path, archive)
        total = sum(file.size for file in files)
        if total > (free := shutil.disk_usage(partial.parent).free):
            raise VsodpipeError(
                f"{path}: unpacks to {total / 2**30:.1f} GiB, and {partial.parent} has "
                f"{free / 2**30:.1f} GiB left. Make room, or name another data root."
            )
        partial.mkdir()
        with reporter.task(f"unpack {path.name}", len(files), "file") as counter:
            for file in files:
                _copy(path, archive, file, partial / file.name)
                counter.advance()
        (partial / RECORD).write_text(json.dumps(record), encoding="utf-8")


@contextmanager
def _opened(path: Path) -> Iterator[_Archive]:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield archive
        else:
            with tarfile.open(path, "r:*", tarinfo=_Header) as archive:
                yield archive
    except (VsodpipeError, MemoryError):
        raise
    except Exception as error:  # a damaged file fails anywhere inside the decompressors
        if getattr(error, "errno", None):  # of the disk, not of the archive
            raise
        words = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: damaged archive ({words}). Get it anew.") from error


def _judged(path: Path, archive: _Archive) -> list[Member]:
    found: dict[str, Member] = {}
    total, limit = 0, min(MAX_BYTES, MAX_RATIO * path.stat().st_size + 2**20)
    # one by one: a bomb is noticed before the rest of it is read
    for number, member in enumerate(_members(path, archive)):
        if member is None:
            continue
        if member.name in found or not member.name:
            raise _refused(path, member.name, "is there twice")
        total += member.size
        if total > limit or number >= MAX_FILES:
            raise _refused(path, member.name, "takes it beyond the size of any data set")
        found[member.name] = member
    return list(found.values())


def _members(path: Path, archive: _Archive) -> Iterator[Member | None]:
    """Yield the files, None for a folder."""
    if isinstance(archive, zipfile.ZipFile):
        for info in archive.infolist():
            name = _safe(path, info.filename)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(path, name, "is a link or a device")
            if info.flag_bits & 1:
                raise _refused(path, name, "is locked by a password")
            yield None if info.is_dir() else Member(name, info.file_size, info)
        return
    for entry in archive:
        name = _safe(path, entry.name)
        if not (entry.isreg() or entry.isdir()) or entry.issparse():
            raise _refused(path, name, "is a link or a device")
        yield None if entry.isdir() else Member(name, entry.size, entry)


def _safe(path: Path, name: str) -> str:
    """Return the path of a member inside its archive. Raises DataError for one leading outside."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    drive = bool(parts) and ":" in parts[0]
    bad = name.startswith("/") or ".." in parts or drive or any(c in name for c in "\\\0")
    if (
        bad
        or len(parts) > MAX_PARTS
        or any(len(part.encode(errors="replace")) > 255 for part in parts)
    ):
        raise _refused(path, name, "leads outside the archive, or is no path")
    return "/".join(parts)


def _refused(path: Path, name: str, why: str) -> DataError:
    return DataError(
        f"{path}: not unpacked, as {name[:100]!r} {why}. If you trust the archive, unpack it "
        "yourself and name its folder."
    )


def _copy(path: Path, archive: _Archive, member: Member, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source: IO[bytes] | None
    if isinstance(archive, zipfile.ZipFile):
        source = archive.open(member.entry)  # type: ignore[arg-type]
    else:
        source = archive.extractfile(member.entry)  # type: ignore[arg-type]
    assert source is not None  # a regular file
    left = member.size
    with source, target.open("xb") as file:
        while data := source.read(2**20):
            left -= len(data)
            if left < 0:
                raise _refused(path, member.name, "is larger than it says")
            file.write(data)
    if left:
        raise DataError(f"{path}: {member.name} ends too early. Get the archive anew.")
