"""What `vsodpipe flow` would do, without doing it: files, bytes, device memory, time."""

from __future__ import annotations

import itertools
import math
import time
from collections import defaultdict
from dataclasses import dataclass

from vsodpipe import flow_job, media
from vsodpipe.catalogue import Dataset, Video
from vsodpipe.flow_video import Options
from vsodpipe.flows import Engine
from vsodpipe.progress import duration

PIXEL_BYTES = {
    "jpg": 32e3 / (480 * 854),
    "png": 160e3 / (480 * 854),
    "kitti": 420e3 / (480 * 854),
    "flo": 8.0,
    "raw": 4.0,
}
"""Bytes a pixel: measured at 480p, exact for flo, the upper limit for raw (it is compressed)."""
FLO_HEADER = 12


@dataclass(frozen=True)
class Form:
    """What one form and way would write."""

    files: int
    bytes: int
    """About."""


@dataclass(frozen=True)
class Estimate:
    """What a run would do; nothing is written to find out."""

    videos: int
    frames: int
    """Entries of each form."""
    computed: int
    """Those of them that would be computed, the others are done."""
    kept: int
    """Videos that are done."""
    written: dict[str, Form]
    """By form and way, such as `jpg forward`."""
    memory: int | None
    """Most bytes of the engine's working memory, None where nothing is computed."""
    batch: int | None
    volume: str | None
    """How much of the correlation is kept, see `vsodpipe.flows.Plan`."""
    seconds: float | None
    """Time of all the flow in one process, from that of a few pairs; None where there are none."""
    measured: int
    """Pairs that were timed."""


def estimate(dataset: Dataset, engine: Engine, options: Options, *, force: bool) -> Estimate:
    """Return what `flow_job.compute` would do. Raises what it raises before it computes.

    The time is measured: the engine computes the first pairs of the first video to be done.
    """
    works = flow_job.survey(dataset, engine, options, force=force)
    todo = [work for work in works if work.todo]
    files: dict[str, int] = defaultdict(int)
    sizes: dict[str, float] = defaultdict(float)
    pixels = {work.video.name: _size(work.video) for work in todo}
    for work in todo:
        height, width = pixels[work.video.name]
        for output in work.todo:
            kind = f"{output.form} {output.way}"
            header = FLO_HEADER if output.form == "flo" else 0
            files[kind] += work.entries if output.form != "raw" else 1
            sizes[kind] += work.entries * (height * width * PIXEL_BYTES[output.form] + header)
    direction, gap = options.direction, options.gap
    plans = [engine.plan(*size, direction, gap) for size in set(pixels.values())]
    largest = max(plans, key=lambda plan: plan.bytes, default=None)
    seconds, measured = None, 0
    if todo:
        first = todo[0].video
        height, width = pixels[first.name]
        batch = engine.plan(height, width, direction, gap).batch
        pair, measured = _time(first, engine, options, batch)
        if measured:
            scale = sum(w.entries * math.prod(pixels[w.video.name]) for w in todo)
            seconds = pair * scale / (height * width)
    return Estimate(
        videos=len(works),
        frames=sum(work.entries for work in works),
        computed=sum(work.entries for work in todo),
        kept=len(works) - len(todo),
        written={kind: Form(files[kind], round(sizes[kind])) for kind in files},
        memory=largest.bytes if largest else None,
        batch=largest.batch if largest else None,
        volume=largest.volume if largest else None,
        seconds=seconds,
        measured=measured,
    )


def _size(video: Video) -> tuple[int, int]:
    if video.file is None:
        return media.image_size(video.frames[0].img)
    height, width = next(video.images()).shape[:2]
    return height, width


def _time(video: Video, engine: Engine, options: Options, batch: int) -> tuple[float, int]:
    """Return seconds a pair and the pairs timed: a batch after one to warm up, if there are."""
    frames = list(itertools.islice(video.images(), 2 * batch + options.gap))
    started, warm, count = time.perf_counter(), 0, 0
    for count, _ in enumerate(engine.clip(frames, options.direction, options.gap), 1):
        if count == batch and len(frames) > batch + options.gap:
            started, warm = time.perf_counter(), batch
    timed = count - warm
    return (time.perf_counter() - started) / max(timed, 1), timed


def lines(plan: Estimate) -> list[str]:
    """Return an estimate in words, one line each."""
    said = [f"{plan.videos} videos, {plan.frames} frames: {plan.computed} to compute"]
    if plan.kept:
        said[0] += f", {plan.kept} videos are done"
    for kind, form in plan.written.items():
        said.append(f"{kind}: {form.files} files, about {in_words(form.bytes)}")
    if plan.memory is not None:
        volume = "" if plan.volume == "none" else f", correlation {plan.volume}"
        said.append(f"working memory: about {in_words(plan.memory)} (batch {plan.batch}{volume})")
    if plan.seconds is not None:
        took = f"the first {plan.measured} pairs" if plan.measured > 1 else "one pair"
        said.append(f"flow: about {duration(plan.seconds)} in one process (measured on {took})")
    return said


def in_words(count: float) -> str:
    """Return bytes as people say them: `2 kB`, `3.1 MB`, `120 GB`."""
    if count < 1000:
        return f"{count:.0f} bytes"
    units = ("kB", "MB", "GB", "TB")
    for unit in units:
        count /= 1000
        if count < 1000 or unit == units[-1]:
            break
    return f"{count:.1f} {unit}" if count < 10 else f"{count:.0f} {unit}"
