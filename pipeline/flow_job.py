"""Flow for every frame of a data set: one folder of colour pictures a video, with its record.

N frames have N-1 flows; the last frame's entry follows the tail rule. A video's folder appears
whole by one rename, so that an interrupted run continues with the next video.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vsodpipe import flow_record, media
from vsodpipe.catalogue import Dataset, Video
from vsodpipe.errors import DataError, UsageError
from vsodpipe.flows import Engine
from vsodpipe.flows.colour import flow_to_picture
from vsodpipe.progress import Counter, Reporter

Tail = Literal["backward", "repeat", "zero", "none"]
JPEG_QUALITY = 95
Image = NDArray[np.uint8]
Flow = NDArray[np.float32]


@dataclass(frozen=True)
class Options:
    """How flow is written down."""

    tail: Tail = "backward"
    """Entry of the last frame: flow to the frame before it, the last flow again, zero, or none."""
    colour: str = "frame"
    """Normalisation of the colour wheel: `frame` (its largest magnitude) or `radius:N` (N px)."""

    def __post_init__(self) -> None:
        if self.tail not in get_args(Tail):
            rules = ", ".join(get_args(Tail))
            raise UsageError(f"unknown tail rule {self.tail!r}. Known: {rules}.")
        self.radius()

    def radius(self) -> float | None:
        """Return the radius in pixels of rule `radius:N`, None for rule `frame`."""
        if self.colour == "frame":
            return None
        rule, _, number = self.colour.partition(":")
        try:
            radius = float(number)
        except ValueError:
            radius = 0.0
        if rule != "radius" or not 0 < radius < float("inf"):
            raise UsageError(f"unknown colour rule {self.colour!r}. Known: frame, radius:N (px).")
        return radius


@dataclass(frozen=True)
class Summary:
    """What a run did."""

    videos: int
    frames: int
    kept: int
    """Videos that were done before."""
    folders: tuple[Path, ...]
    record: dict[str, object]


def compute(
    dataset: Dataset, engine: Engine, options: Options, reporter: Reporter, *, force: bool = False
) -> Summary:
    """Write flow pictures and `flow.json` for every video of `dataset`.

    A video whose flow is there, of the same kind and from the same frames, is kept. Raises
    DataError for a frame that does not decode, for a video too short for the tail rule, for a
    folder of files that are no flow of ours and, unless `force`, for one with flow of another kind.
    """
    settings = {
        "version": 1,
        "engine": engine.fingerprint,
        "direction": "forward",
        "gap": 1,
        "tail": options.tail,
        "colour": options.colour,
        "format": f"jpeg {JPEG_QUALITY} 4:4:4",
    }
    record = flow_record.make(settings)
    todo = [video for video in dataset.videos if not _done(dataset, video, record, force)]
    for video in todo:
        _check_length(video, len(video.frames), options.tail)
    frames = sum(_length(video, options.tail) for video in dataset.videos)
    kept = frames - sum(_length(video, options.tail) for video in todo)
    with reporter.task(f"flow {dataset.name}", frames, "frame", kept) as counter:
        for video in todo:
            _video(video, engine, options, record, counter)
    folders = tuple(video.flow_folder for video in dataset.videos)
    count = len(dataset.videos)
    return Summary(count, counter.done, count - len(todo), folders, record)


def elsewhere(dataset: Dataset, out: Path) -> Dataset:
    """Return `dataset` with its flow in `out`: `out`/VIDEO, or `out` itself for one video alone."""
    alone = len(dataset.videos) == 1
    videos = (
        replace(video, flow_folder=out if alone else out / video.name) for video in dataset.videos
    )
    return replace(dataset, videos=tuple(videos))


def _length(video: Video, tail: Tail) -> int:
    frames = media.video_length(video.file) if video.file else len(video.frames)
    return max(0, frames - (tail == "none"))


def _done(dataset: Dataset, video: Video, record: dict[str, object], force: bool) -> bool:
    found = flow_record.read(video.flow_folder)
    if found is None:
        if video.flow_folder.exists() and any(video.flow_folder.iterdir()):
            raise DataError(
                f"{video.flow_folder}: holds files that vsodpipe flow did not write. "
                "Move them away, or name another folder with --out."
            )
        return False
    if found["fingerprint"] != record["fingerprint"]:
        if force:
            return False
        raise DataError(
            f"{dataset.name}/{video.name} has flow of another kind: "
            f"{flow_record.describe(found)}, asked for {flow_record.describe(record)}. "
            "Use --force to replace it."
        )
    if found.get("source") != _source(video):
        return False
    if video.file:
        return True
    names = {frame.name for frame in video.frames[: -1 if record["tail"] == "none" else None]}
    return names <= {file.stem for file in video.flow_folder.glob("*.jpg")}


def _source(video: Video) -> str:
    """Return a hash over names and sizes of the files that the flow of `video` is made from."""
    files = [video.file] if video.file else [frame.img for frame in video.frames]
    text = "\n".join(f"{file.name} {file.stat().st_size}" for file in files)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def _check_length(video: Video, frames: int, tail: Tail) -> None:
    if frames == 1 and tail in ("backward", "repeat"):
        raise DataError(
            f"video {video.name}: expected at least 2 frames for flow, got 1. "
            "Remove the video, or use --tail zero (zero flow) or --tail none."
        )


def _video(
    video: Video, engine: Engine, options: Options, record: dict[str, object], counter: Counter
) -> None:
    radius = options.radius()

    def write(flow: Flow, target: Path) -> None:
        target.write_bytes(media.encode_jpeg(flow_to_picture(flow, radius), JPEG_QUALITY))

    names = (frame.name for frame in video.frames) if video.frames else _count_names()
    with media.replacing(video.flow_folder) as partial, ThreadPoolExecutor(2) as pool:
        partial.mkdir()
        pending: deque[Future[None]] = deque()
        for flow, name in zip(_flows(video, engine, options.tail), names, strict=False):
            pending.append(pool.submit(write, flow, partial / f"{name}.jpg"))
            if len(pending) > 8:  # colouring and writing overlap the flow, in bounded memory
                pending.popleft().result()
            counter.advance()
        for future in pending:
            future.result()
        (partial / flow_record.FILE).write_bytes(
            flow_record.dump({**record, "source": _source(video)})
        )
        media.remove(video.flow_folder)


def _flows(video: Video, engine: Engine, tail: Tail) -> Iterator[Flow]:
    """Yield one flow a frame: those of the pairs, then the last frame's by the tail rule."""
    last: deque[Image] = deque(maxlen=2)

    def seen() -> Iterator[Image]:
        for image in video.images():
            last.append(image)
            yield image

    flow: Flow | None = None
    for flow in engine.clip(seen()):
        yield flow
    _check_length(video, len(last), tail)
    if tail == "backward" and len(last) == 2:
        yield from engine.clip([last[1], last[0]])
    elif tail == "repeat" and flow is not None:
        yield flow
    elif tail == "zero":
        yield np.zeros((*last[-1].shape[:2], 2), np.float32)


def _count_names() -> Iterator[str]:
    number = 0
    while True:
        yield f"{number:05d}"
        number += 1
