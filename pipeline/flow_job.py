"""Flow for every frame of a data set: one folder a video and form, each with its record.

A video's folders appear whole, so that an interrupted run continues with the next video.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from vsodpipe import cluster, flow_video, flows, locks
from vsodpipe.catalogue import Dataset, Frame, Video
from vsodpipe.errors import VsodpipeError
from vsodpipe.flow_forms import FORMS
from vsodpipe.flow_video import Options, Output, Written
from vsodpipe.flows import Engine
from vsodpipe.progress import Reporter, duration


@dataclass(frozen=True)
class Spec:
    """An engine as its name and options, of which every worker makes its own."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = None
    """Threads of each worker's engine, None for as many as its libraries like."""
    sharing: int = 1
    """Workers that share a machine's memory."""


@dataclass(frozen=True)
class Work:
    """One video: its folders, those of them that are not done, the entries of each."""

    video: Video
    outputs: tuple[Output, ...]
    todo: tuple[Output, ...]
    entries: int


@dataclass(frozen=True)
class Summary:
    """What a run did."""

    videos: int
    frames: int
    """Entries of each form, kept ones included."""
    computed: int
    """Entries computed in this run."""
    kept: int
    """Videos that were done before."""
    folders: tuple[Path, ...]
    """Every folder of flow, video by video, the colour pictures first."""
    record: dict[str, Any]
    """The record of the first form."""
    largest: float
    """The largest motion of what was computed, in pixels."""
    still: int
    """Computed frames that move less than 1 px."""
    seconds: float


def compute(
    dataset: Dataset,
    engine: Engine,
    options: Options,
    reporter: Reporter,
    *,
    force: bool = False,
    where: str | None = None,
    spec: Spec | None = None,
) -> Summary:
    """Write the flow of every video of `dataset`, in the forms of `options`.

    A folder whose flow is there, of the same kind and from the same frames, is kept. `where` is
    None or a cluster (see `cluster.each`) whose workers make their engines from `spec`; `engine`
    then only says what is computed. Raises DataError for a frame that does not decode, for a video
    too short for the tail rule, for a folder of files that are no flow of ours and, unless `force`,
    for one with flow of another kind; all but the first before anything is computed.
    """
    started = time.monotonic()
    if where is not None:
        dataset = _absolute(dataset)  # workers may be in another folder
    works = survey(dataset, engine, options, force=force)
    todo = [work for work in works if work.todo]
    frames, left = (sum(work.entries for work in some) for some in (works, todo))
    task: Callable[..., Written] = partial(_write, engine, options, reporter.say)
    if where is None:
        engine.say = reporter.say
    else:
        if spec is None:
            raise TypeError("flow on a cluster needs the spec of its engine")
        task = partial(_remote, spec, dict(engine.fingerprint), options)
        todo.sort(key=lambda work: -work.entries)  # no worker begins the longest one last
    written = []
    with reporter.task(f"flow {dataset.name}", frames, "frame", frames - left) as counter:
        if todo:
            done = cluster.each(task, todo, where, advance=counter.advance, say=reporter.say)
            written = list(done)
    still = sum(one.still for one in written)
    computed = sum(one.entries for one in written)
    # a video file's header only estimates its length, so what was written counts
    frames += computed - left
    if still and options.colour == "frame" and any(FORMS[f].is_picture for f in options.formats):
        reporter.warn(
            f"{still} of {computed} frames move less than 1 px: their pictures are amplified "
            "noise. Use --colour video, or radius:N."
        )
    return Summary(
        videos=len(works),
        frames=frames,
        computed=computed,
        kept=len(works) - len(written),
        folders=tuple(output.folder for work in works for output in work.outputs),
        record=works[0].outputs[0].record,
        largest=max((one.largest for one in written), default=0.0),
        still=still,
        seconds=time.monotonic() - started,
    )


def survey(dataset: Dataset, engine: Engine, options: Options, *, force: bool) -> list[Work]:
    """Return what there is to do for every video; see `compute` for the errors."""
    works = []
    for video in dataset.videos:
        outputs = flow_video.outputs(video, engine.fingerprint, options)
        done = [flow_video.is_done(video, output, force) for output in outputs]
        todo = tuple(o for o, is_done in zip(outputs, done, strict=True) if not is_done)
        works.append(Work(video, outputs, todo, flow_video.entries(video, options)))
    for work in works:
        if work.todo and work.video.file is None:  # what a file holds shows when it is read
            flow_video.check_length(work.video, len(work.video.frames), options)
    return works


def elsewhere(dataset: Dataset, out: Path, several: bool = False) -> Dataset:
    """Return `dataset` with its flow in `out`, of `several` forms or ways (`flow_video.moved`)."""
    alone = len(dataset.videos) == 1
    moved = (flow_video.moved(video, out, alone, several) for video in dataset.videos)
    return replace(dataset, videos=tuple(moved))


def pictures(dataset: Dataset, engine: Engine, options: Options) -> list[tuple[Video, Path]]:
    """Return every video with the folder of its flow pictures."""
    found = []
    for video in dataset.videos:
        outputs = flow_video.outputs(video, engine.fingerprint, options)
        found += [(video, o.folder) for o in outputs if FORMS[o.form].is_picture][:1]
    return found


def lines(summary: Summary) -> list[str]:
    """Return a summary in words, one line each."""
    kept = f", {summary.kept} videos were done before" if summary.kept else ""
    said = [f"{summary.frames} frames of {summary.videos} videos{kept}"]
    if summary.computed:
        said.append(
            f"Computed {summary.computed} in {duration(summary.seconds)}; the largest motion is "
            f"{summary.largest:.1f} px"
        )
    more = len(summary.folders) - 1
    said.append(f"Flow is in {summary.folders[0]}" + (f" and {more} more folders" if more else ""))
    return said


def _absolute(dataset: Dataset) -> Dataset:
    videos = (
        replace(
            video,
            flow_base=video.flow_base.absolute(),
            file=video.file.absolute() if video.file else None,
            frames=tuple(Frame(frame.name, frame.img.absolute()) for frame in video.frames),
        )
        for video in dataset.videos
    )
    return replace(dataset, videos=tuple(videos))


def _write(
    engine: Engine,
    options: Options,
    say: Callable[[str], None],
    work: Work,
    advance: Callable[[], None],
) -> Written:
    # on what is read, for a cluster's worker taken for dead too: the partial folder is the same
    with locks.alone(flow_video.locked(work.video), say):
        # another process that had this video may have finished it while this one waited
        todo = [o for o in work.todo if not flow_video.is_done(work.video, o, force=True)]
        if not todo:
            return Written(work.entries, 0.0, 0)
        return flow_video.write(work.video, engine, options, todo, advance)


def _remote(
    spec: Spec,
    fingerprint: dict[str, object],
    options: Options,
    work: Work,
    advance: Callable[[], None],
) -> Written:
    """Do one video on a worker of a cluster."""
    engine = _engine(spec)
    if engine.fingerprint != fingerprint:
        raise VsodpipeError(
            f"cluster: a worker's engine is {engine.fingerprint}, expected {fingerprint}. "
            "Install the same packages there, and name --weights and --precision."
        )
    return _write(engine, options, lambda _: None, work, advance)


# One engine a thread: no engine promises that two threads may use it at once.
_mine = threading.local()
# Python 3.11 cannot parse in two threads at once, as the list of the engines does.
_making = threading.Lock()


def _engine(spec: Spec) -> Engine:
    """Return this worker's engine of that kind, made when it is first asked for."""
    kept: dict[str, Engine] = _mine.__dict__.setdefault("engines", {})
    key = repr((spec.name, sorted(spec.options.items()), spec.threads))
    if key in kept:
        return kept[key]
    with _making:
        settings = dict(spec.options)
        if spec.threads is not None:
            import cv2

            cv2.setNumThreads(spec.threads)
        if "device" in settings:
            settings["device"] = _device(str(settings["device"]), spec.threads)
        if spec.sharing > 1 and settings.get("device") == "cpu":
            if "memory" in flows.options(spec.name):
                # each would plan with all that is free now
                settings.setdefault("memory", _free() / spec.sharing)
        kept.clear()  # an engine of an earlier job would keep its memory
        kept[key] = flows.create(spec.name, **settings)
    return kept[key]


def _device(name: str, threads: int | None) -> str:
    """Return the device of this worker: of several GPUs the one of the worker's number."""
    import torch

    from vsodpipe.devices import resolve

    if threads is not None:
        torch.set_num_threads(threads)
    device, number = resolve(name), cluster.worker_number()
    if device != "cuda" or number is None:
        return device
    return f"cuda:{number % torch.cuda.device_count()}"


def _free() -> float:
    """Return the memory in GiB that an engine alone on this machine would plan with."""
    from vsodpipe.flows.raft_memory import budget  # imports torch

    return budget("cpu", None) / 2**30
