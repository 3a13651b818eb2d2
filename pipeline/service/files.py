"""Data as URLs: manifests, stores, frames, maps and reports, read-only, with ranges and ETags.

    /data/DAVIS_train.zarr/img/c/0/0/0/0    a file of the data root
    /manifests/davis.json                   a manifest, byte for byte as it lies on the disk
    /runs/dbsnet-1/report.html              a file of a run

A manifest names its root relative to itself, such as `../datasets`. The data root is served once
more under the path that this makes of the manifest's URL, so that manifests need no rewriting.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from urllib.parse import urlsplit

import google_crc32c
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from vsodpipe import importer, manifest, media
from vsodpipe.service import ranges
from vsodpipe.service.settings import Settings

CHUNK = 2**20
"""Bytes read at once: what one reader takes of memory, with as much in the socket's buffer."""
CHECKSUM_BYTES = 2**30
"""Of a larger file no checksum is made: it would have to be read whole before the first byte."""
TYPES = {
    **{".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"},
    **{".bmp": "image/bmp", ".mp4": "video/mp4", ".webm": "video/webm"},
    **{".json": "application/json", ".zip": "application/zip", ".html": "text/html; charset=utf-8"},
    **dict.fromkeys((".txt", ".csv", ".toml", ".jsonl", ".log"), "text/plain; charset=utf-8"),
}
"""What a browser may show; all else is bytes to it."""
_SEALED = "default-src 'none'; sandbox; frame-ancestors 'none'"
_PAGE = (
    "sandbox allow-scripts allow-popups; default-src 'none'; img-src data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'none'"
)
"""A report is whole in itself; without an origin it cannot use the session of who looks at it."""

_sums: dict[str, str] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Part:
    """Bytes of the file from `start` to before `end`, after `head`."""

    head: bytes
    start: int
    end: int


def routes(settings: Settings) -> list[BaseRoute]:
    """Return the routes of the three folders, and last of the data root as manifests name it."""
    places = {"data": settings.data, "manifests": settings.manifests, "runs": settings.runs}
    folders = {name: os.path.realpath(folder) for name, folder in places.items()}
    beside = named_root(settings)

    async def answer(request: Request) -> Response:
        place, path = request.url.path.split("/", 2)[1], request.path_params["path"]
        return await run_in_threadpool(_answer, folders[place], path, request)

    async def other(request: Request) -> Response:
        path = f"/{request.path_params['path']}"
        if not path.startswith(beside):
            raise HTTPException(404, f"{path}: there is no such page. See /docs.")
        return await run_in_threadpool(_answer, folders["data"], path[len(beside) :], request)

    return [
        *(Route(f"/{name}/{{path:path}}", answer, methods=["GET"]) for name in folders),
        Route("/{path:path}", other, methods=["GET"]),
    ]


def named_root(settings: Settings) -> str:
    """Return the path, `/` at its end, that a manifest's relative root leads to from its URL."""
    root = manifest.relative_root(settings.data, settings.manifests)
    url = manifest.resolve_root(root, "http://host/manifests/x.json")
    return f"{urlsplit(url).path.rstrip('/')}/"


def open_below(root: str, path: str) -> int:
    """Return the descriptor of a file below the folder `root`, a real path.

    Nothing hidden is there for others, which covers files that are half written. A link may lead
    out of the root to a picture alone: that is what an import leaves. Raises OSError or ValueError.
    """
    if any(part.startswith(".") or not part for part in path.split("/")):
        raise FileNotFoundError(path)
    whole = f"{root}/{path}"
    # what is no file must not hold the thread: opening a pipe waits for its writer
    file = os.open(whole, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not _may_leave(_place(file, whole), root):
            raise FileNotFoundError(path)
    except BaseException:
        os.close(file)
        raise
    return file


def _place(file: int, path: str) -> str:
    """Return where an open file really lies, whatever became of the links that led to it."""
    try:
        return os.readlink(f"/proc/self/fd/{file}")
    except OSError:  # not Linux
        return os.path.realpath(path, strict=True)


def _may_leave(real: str, root: str) -> bool:
    if not real.startswith(f"{root.rstrip('/')}/"):
        return os.path.splitext(real)[1].lower() in media.IMAGE_SUFFIXES
    below = real[len(root) :].split("/")
    return not any(part.startswith(".") and part != importer.UNPACKED for part in below)


def _answer(root: str, path: str, request: Request) -> Response:
    """Return the answer to a request for a file; it runs beside the event loop."""
    try:
        file = open_below(root, path)
    except (OSError, ValueError):
        raise HTTPException(404, f"{path}: there is no such file.") from None
    try:
        answer = _of_open_file(file, path, request)
    except BaseException:
        os.close(file)
        raise
    if not isinstance(answer, Streamed):
        os.close(file)
    return answer


def _of_open_file(file: int, path: str, request: Request) -> Response:
    about = os.fstat(file)
    if not stat.S_ISREG(about.st_mode):
        raise HTTPException(404, f"{path}: there is no such file.")
    size, wanted = about.st_size, request.headers
    etag = f'"{about.st_ino:x}-{about.st_mtime_ns:x}-{size:x}"'
    kind = TYPES.get(os.path.splitext(path)[1].lower(), "application/octet-stream")
    headers = {
        "etag": etag,
        "last-modified": formatdate(about.st_mtime, usegmt=True),
        "accept-ranges": "bytes",
        "cache-control": "private, no-cache",
        "x-content-type-options": "nosniff",
        "content-security-policy": _PAGE if kind.startswith("text/html") else _SEALED,
    }
    if status := ranges.precondition(wanted, etag):
        return Response(status_code=status, headers=headers)
    asked = ranges.asked(wanted, etag, size)
    if asked == []:
        headers["content-range"] = f"bytes */{size}"
        return Response(status_code=416, headers=headers)
    if checksum := _checksum(file, etag, size, make=asked is None):
        headers["x-checksum"] = f"crc32c={checksum}"
    parts = [Part(b"", *(asked or [(0, size)])[0])]
    if asked and len(asked) == 1:
        headers["content-range"] = ranges.content_range(asked[0], size)
    elif asked:
        parts, kind = _multipart(asked, size, kind, etag)
    length = sum(len(part.head) + part.end - part.start for part in parts)
    headers |= {"content-type": kind, "content-length": str(length)}
    status = 206 if asked else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    if length <= CHUNK:
        body = b"".join(part.head + _read(file, part.start, part.end) for part in parts)
        return Response(body, status, headers)
    return Streamed(file, parts, status, headers)


class Streamed(Response):
    """Parts of an open file, chunk by chunk; the file is closed at the end, whatever it was."""

    def __init__(
        self, file: int, parts: list[Part], status: int, headers: Mapping[str, str]
    ) -> None:
        super().__init__(None, status, headers)
        self._file, self._parts = file, parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        start = {"type": "http.response.start", "status": self.status_code}
        try:
            await send({**start, "headers": self.raw_headers})
            for head, first, last in _chunks(self._parts):
                body = head + await run_in_threadpool(_read, self._file, first, last)
                await send({"type": "http.response.body", "body": body, "more_body": True})
                if await request.is_disconnected():
                    return
            await send({"type": "http.response.body", "body": b""})
        finally:
            os.close(self._file)


def _chunks(parts: list[Part]) -> Iterator[tuple[bytes, int, int]]:
    for part in parts:
        head = part.head
        for start in range(part.start, max(part.end, part.start + 1), CHUNK):
            yield head, start, min(start + CHUNK, part.end)
            head = b""


def _read(file: int, start: int, end: int) -> bytes:
    """Return the bytes of an open file. Raises OSError for one that is cut meanwhile."""
    data = os.pread(file, end - start, start) if end > start else b""
    while len(data) < end - start:
        if not (more := os.pread(file, end - start - len(data), start + len(data))):
            raise OSError("the file was cut short while it was sent")
        data += more
    return data


def _multipart(
    asked: list[ranges.Range], size: int, kind: str, etag: str
) -> tuple[list[Part], str]:
    """Return the parts of an answer with several ranges, and its type."""
    mark = os.urandom(12).hex()
    parts = []
    for number, each in enumerate(asked):
        line = "\r\n" if number else ""
        head = (
            f"{line}--{mark}\r\nContent-Type: {kind}\r\n"
            f"Content-Range: {ranges.content_range(each, size)}\r\n\r\n"
        )
        parts.append(Part(head.encode(), *each))
    return [
        *parts,
        Part(f"\r\n--{mark}--\r\n".encode(), 0, 0),
    ], f"multipart/byteranges; boundary={mark}"


def _checksum(file: int, etag: str, size: int, make: bool) -> str | None:
    """Return the CRC-32C of the whole file in hexadecimal; without `make` only if it is known."""
    with _lock:
        found = _sums.get(etag)
    if found is not None or not make or size > CHECKSUM_BYTES:
        return found
    sum_ = google_crc32c.Checksum()
    for start in range(0, size, CHUNK):
        sum_.update(_read(file, start, min(start + CHUNK, size)))
    found = sum_.digest().hex()
    with _lock:
        while len(_sums) >= 4096:
            del _sums[next(iter(_sums))]
        _sums[etag] = found
    return found
