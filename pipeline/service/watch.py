"""The watched folder: what is dropped there goes through import, flow, manifest and pack by itself.

A video file, or a folder of frames, is taken when nothing of it changed for a while. It becomes a
data set of its own, called like it; every step is an ordinary job, and the next one is asked for
when the one before is done. How far each has come is kept in a file: a restarted server goes on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from vsodpipe import listing, media, own_data
from vsodpipe.errors import DataError, VsodpipeError
from vsodpipe.service.settings import Settings

LOG = logging.getLogger("vsodpipe.service")
SETTLED = 10.0
"""Seconds without a change after which a drop is whole."""
EVERY = 2.0
"""Seconds between two looks: network folders send no events."""
RECORD = "watch.json"

Drops = dict[str, dict[str, Any]]
"""By the name in the folder: its mark, data set, step, and job or fault."""


async def watch(
    settings: Settings, jobs: Any, settled: float = SETTLED, every: float = EVERY
) -> None:
    """Take what is dropped into the watched folder until this is cancelled.

    `jobs` has `submit(kind, arguments)` and `get(id)`.
    """
    assert settings.watch is not None
    file = settings.state / RECORD
    try:
        drops: Drops = media.read_json(file) if file.is_file() else {}
    except DataError as error:  # to start anew would take everything a second time
        LOG.error("watch", extra={"problem": str(error)})
        return
    seen: dict[str, tuple[str, float]] = {}
    while True:
        before = json.dumps(drops)
        try:
            marks = await run_in_threadpool(_marks, settings.watch)
            for name, mark in marks.items():
                since = seen[name][1] if seen.get(name, ("",))[0] == mark else time.monotonic()
                seen[name] = mark, since
                known = drops.get(name, {}).get("mark") == mark
                if not known and not _busy(drops.get(name)) and time.monotonic() >= since + settled:
                    drops[name] = _taken(name, mark, drops, settings.data)
            for name, drop in drops.items():
                _advance(name, drop, settings, jobs)
            if json.dumps(drops) != before:  # at once: what was asked for is not asked for again
                media.write_bytes(file, json.dumps(drops, indent=1).encode())
        except DataError as error:  # the folder is away, or the disk full: it may pass
            LOG.warning("watch", extra={"problem": str(error)})
        await asyncio.sleep(every)


def steps(drop: dict[str, Any], path: Path, engine: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the jobs of a drop in their order, as kind and arguments."""
    dataset = drop["dataset"]
    return [
        ("import", {"name": dataset, "source": [str(path)], "own": True}),
        ("flow", {"names": [dataset], "engine": engine}),
        ("manifest", {"names": [dataset]}),
        ("pack", {"name": dataset}),
    ]


def _busy(drop: dict[str, Any] | None) -> bool:
    return drop is not None and drop["state"] == "running"


def _advance(name: str, drop: dict[str, Any], settings: Settings, jobs: Any) -> None:
    """Ask for the next step of a drop if its last one is done."""
    if not _busy(drop):
        return
    assert settings.watch is not None
    todo = steps(drop, settings.watch / name, settings.engine)
    try:
        if drop["job"] is not None:
            state = jobs.get(drop["job"])["state"]
            if state in ("failed", "cancelled"):
                drop["state"] = state
            if state != "done":
                return
            drop["step"] += 1
            drop["job"] = None
        if drop["step"] == len(todo):
            drop["state"] = "done"
        else:
            drop["job"] = jobs.submit(*todo[drop["step"]])["id"]
    except (VsodpipeError, KeyError) as error:
        drop["state"] = "failed"
        LOG.warning("watch", extra={"drop": name, "problem": str(error)})


def _taken(name: str, mark: str, drops: Drops, root: Path) -> dict[str, Any]:
    """Return the record of a new drop; one that was there before keeps its data set."""
    dataset = drops[name]["dataset"] if name in drops else None
    if dataset is None:
        used = {drop["dataset"] for drop in drops.values()}
        dataset = _free_name(name, lambda n: n in used or (root / n).exists())
    return {"mark": mark, "dataset": dataset, "step": 0, "job": None, "state": "running"}


def _free_name(name: str, taken: Callable[[str], bool]) -> str:
    """Return a name for the data set of a drop, as the name of a folder and of a job."""
    stem = Path(name).stem if Path(name).suffix.lower() in media.VIDEO_SUFFIXES else name
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-")[:100] or "drop"
    numbered = (plain if n == 1 else f"{plain}-{n}" for n in range(1, 10_000))
    return next(each for each in numbered if not taken(each))


def _marks(folder: Path) -> dict[str, str]:
    """Return what tells a change of every video file and folder of frames that lies in `folder`.

    Raises DataError for a folder that cannot be listed.
    """
    if not listing.is_folder(folder):
        raise DataError(f"{folder}: there is no such folder. Make it, or mount it.")
    found = {}
    for path in listing.entries(folder):
        if path.is_dir():
            if own_data.is_video(path):
                found[path.name] = _mark(path)
        elif path.suffix.lower() in media.VIDEO_SUFFIXES and path.is_file():
            found[path.name] = _mark(path)
    return found


def _mark(path: Path) -> str:
    """Return number, bytes and newest change of the files of a drop."""
    files = [path]
    if path.is_dir():
        files = [Path(top, name) for top, _, names in os.walk(path) for name in names]
    try:
        about = [file.stat() for file in files]
    except OSError:  # it went away meanwhile: certainly a change
        return f"{time.monotonic_ns()}"
    newest = max((each.st_mtime_ns for each in about), default=0)
    return f"{len(about)}-{sum(each.st_size for each in about)}-{newest}"
