"""Server-sent events: jobs as they change, progress as the terminal shows it, a job's lines.

A stream begins with the state of things, so that a client that was cut off just comes again; lines
carry their place in the log as id, and go on after the Last-Event-ID.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from vsodpipe.service.hub import Follower
from vsodpipe.service.queue import ENDED
from vsodpipe.service.runner import Runner

ALIVE_SECONDS = 15.0
"""A stream says something at least so often."""
_TOGETHER = 0.1
"""Seconds over which changes are gathered before they are sent."""
_CHUNK = 64 * 2**10
_AT_ONCE = 500
"""Jobs that are told one by one; of more, a client of all jobs reads the list again."""


async def stream(runner: Runner, job: int | None, offset: int) -> AsyncIterator[bytes]:
    """Yield the events of `job`, with its lines from the byte `offset` of its log on, to its end.

    Without a job: of all jobs, for as long as the server runs.
    """
    label = None
    with runner.hub.following(job) as follower:
        if job is not None:
            follower.changed.add(job)
        else:
            follower.changed |= set(runner.progress)
            yield b": jobs\n\n"
        while not runner.hub.closing.is_set():
            changed, moved = follower.changed, follower.moved
            follower.changed, follower.moved = set(), set()
            if job is not None:
                now = runner.get(job)  # before its lines: nothing is said after its end
                ended = now["state"] in ENDED
                if changed and not ended:
                    yield event("job", now)
                if (there := now["progress"]) is not None:
                    before = runner.finished.get(job)
                    if before is not None and before["label"] == label != there["label"]:
                        yield event("progress", before)
                    label = there["label"]
                    yield event("progress", there)
                more = True
                while more:
                    said, offset, more = _lines(runner.log(job), job, offset)
                    if said:
                        yield said
                if ended:
                    yield event("job", now)
                    return
            else:
                if len(changed) > _AT_ONCE:
                    yield event("reload", {"jobs": len(changed)})
                else:
                    for each in sorted(changed):
                        yield event("job", runner.get(each))
                for each in sorted(moved & runner.progress.keys()):
                    yield event("progress", runner.progress[each])
            await _woken(follower)
            if not follower.changed and not follower.moved:
                yield b": alive\n\n"


async def _woken(follower: Follower) -> None:
    try:
        await asyncio.wait_for(follower.woken.wait(), ALIVE_SECONDS)
        await asyncio.sleep(_TOGETHER)
    except TimeoutError:
        pass
    follower.woken.clear()


def event(kind: str, data: dict[str, Any], place: int | None = None) -> bytes:
    """Return one event as it goes over the wire."""
    number = "" if place is None else f"id: {place}\n"
    return f"{number}event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


def _lines(log: Path, job: int, offset: int) -> tuple[bytes, int, bool]:
    """Return the next lines of a log as events, the offset after them, and whether more follow."""
    try:
        with open(log, "rb") as file:
            file.seek(offset)
            chunk = file.read(_CHUNK)
    except FileNotFoundError:
        return b"", offset, False
    whole = chunk[: chunk.rfind(b"\n") + 1] or (chunk if len(chunk) == _CHUNK else b"")
    said = []
    for line in whole.splitlines(keepends=True):
        offset += len(line)
        text = line.decode(errors="replace").rstrip("\n")
        said.append(event("line", {"job": job, "text": text}, offset))
    return b"".join(said), offset, len(chunk) == _CHUNK
