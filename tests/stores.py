"""Tiny stores, and a file server with ranges, for the tests of packing and reading."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vsodpipe import catalogue, flow_job, flows, pack, reader, store
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter

SIZE = (32, 40)
# Frames in no order, one of them twice.
ORDER = [7, 2, 3, 4, 8, 0, 3]


def batch(opened: reader.Store, key: str = "img") -> np.ndarray:
    """Read the frames ORDER. It is here, not in a test, so that a spawned child can import it."""
    shape, dtype = opened.frame_shape(key)
    out = np.empty((len(ORDER), *shape), dtype)
    opened.read_into(ORDER, key, out)
    return out


def small_shards(monkeypatch: pytest.MonkeyPatch, frames: int = 4) -> None:
    """Make shards of so many frames of SIZE (of RGB, the largest array without flow)."""
    monkeypatch.setattr(store, "SHARD_BYTES", frames * 3 * SIZE[0] * SIZE[1])


def pack_train(source: Source, target: Path | str, **options: Any) -> pack.Packed:
    """Pack TINY_train."""
    size = options.pop("size", SIZE)
    split = options.pop("split", source.split("TINY_train"))
    return pack.pack(split, source.root, target, size, Reporter(quiet=True), **options)


def add_vectors(root: Path, form: str = "raw") -> None:
    """Write flow (u, v) of TINY_train beside its pictures."""
    engine = flows.create("dis", preset="ultrafast")
    dataset = catalogue.find("TINY_train", root)
    options = flow_job.Options(formats=(form,))
    flow_job.compute(dataset, engine, options, Reporter(quiet=True))


def same_bytes(one: Path, two: Path) -> bool:
    """Return whether two folders hold the same files."""
    return _files(one) == _files(two)


def _files(folder: Path) -> dict[str, bytes]:
    below = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in below}


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """Serve a folder over HTTP with ranges; yield its URL and the (path, range) asked for."""
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(False)

        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("Range")))
            self._answer(True)

        def _answer(self, with_body: bool) -> None:
            file, wanted = folder / self.path.strip("/"), self.headers.get("Range")
            if not file.is_file():
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            total, first, last = file.stat().st_size, 0, file.stat().st_size - 1
            if wanted:
                first, last = map(int, wanted.removeprefix("bytes=").split("-"))
            with open(file, "rb") as opened:
                opened.seek(first)
                body = opened.read(last + 1 - first)
            self.send_response(206 if wanted else 200)
            if wanted:
                end = first + len(body) - 1
                self.send_header("Content-Range", f"bytes {first}-{end}/{total}")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    thread = threading.Thread(target=running.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_address[1]}", asked
    finally:
        running.shutdown()
        thread.join()
        running.server_close()
