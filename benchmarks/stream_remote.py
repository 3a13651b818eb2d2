"""The first epoch of a store over HTTP and S3, for benchmarks/stream.py."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from vsodpipe import manifest, stream
from vsodpipe.reader import Store

LATENCY, RATE = 0.03, 60e6
"""Seconds to the first byte, and bytes a second of one connection."""
TURNS = 3
"""Epochs of which the middle one counts, each with an empty cache."""


def measure(
    source: manifest.Source, clips: Callable[..., stream.Clips], scratch: Path
) -> Iterator[str]:
    """Yield lines about the cold first epoch of `clips(source, cache=...)`, in every way."""
    with server(source.root) as url:
        yield f"over HTTP, {1e3 * LATENCY:.0f} ms, {RATE / 1e6:.0f} MB/s a connection:"
        yield f"  fsspec alone, 32 ranges of a frame at once: {fetch_alone(source, url):.0f} MB/s"
        # s3fs asks this server for an object as it asks S3
        os.environ |= {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1"}
        os.environ |= {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
        for where in (url, "s3://data"):
            far = manifest.Source(source.manifest, source.file, where)
            for name in ("ranges", "cache"):
                found = []
                for turn in range(TURNS):
                    cache = scratch / f"cache{turn}" if name == "cache" else None
                    try:
                        found.append(epoch(far, clips, url, cache))
                    except ImportError as error:
                        found.append({"frames_per_s": 0, "left out": str(error)})
                    shutil.rmtree(scratch / f"cache{turn}", ignore_errors=True)
                middle = sorted(found, key=lambda one: one["frames_per_s"])[TURNS // 2]
                yield f"  {where.partition(':')[0]}, {name}: {json.dumps(middle)}"


def epoch(
    far: manifest.Source, clips: Callable[..., stream.Clips], url: str, cache: Path | None
) -> dict[str, Any]:
    """Return what a first epoch took, and what the server was asked for."""
    before = served(url)
    start = time.perf_counter()
    opened = clips(far, cache=cache)
    opening = served(url)[0] - before[0]
    first_batch, frames = 0.0, 0
    for batch in stream.loader(opened, 0, 0, 4):
        first_batch = first_batch or time.perf_counter() - start
        frames += len(batch["key"])
    took = time.perf_counter() - start
    requests, sent = (b - a for a, b in zip(before, served(url), strict=True))
    near = stream.open_reader(far, "BENCH_train", "store")
    assert isinstance(near, Store)
    return {
        "frames_per_s": round(frames / took),
        "first_batch_s": round(first_batch, 2),
        "requests_to_open": opening,
        "requests_per_frame": round(requests / frames, 2),
        "bytes_over_store": round(sent / near.nbytes, 4),
    }


def fetch_alone(source: manifest.Source, url: str) -> float:
    """Return the MB/s that fsspec itself gets, 32 ranges of a raw frame in flight."""
    store = stream.open_reader(source, "BENCH_train", "store")
    assert isinstance(store, Store)
    frame, total = 3 * store.stored[0] * store.stored[1], min(128, len(store))
    system, start = fsspec.filesystem("http"), time.perf_counter()
    for first in range(0, total, 32):
        starts = [n * frame for n in range(first, min(total, first + 32))]
        paths = [f"{url}/BENCH_train.zarr/img/c/0/0/0/0"] * len(starts)
        system.cat_ranges(paths, starts, [s + frame for s in starts])
    return total * frame / 1e6 / (time.perf_counter() - start)


@contextmanager
def server(folder: str) -> Iterator[str]:
    """Serve a folder from a process of its own; yield its URL."""
    script = Path(__file__).with_name("range_server.py")
    command = [sys.executable, str(script), folder, str(LATENCY), str(RATE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def served(url: str) -> tuple[int, int]:
    """Return the requests that the server has answered, and the bytes that it has sent."""
    with urllib.request.urlopen(f"{url}/served") as answer:
        requests, sent = json.load(answer)
    return requests, sent
