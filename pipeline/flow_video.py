"""The flow of one video: an entry for every frame, in folders that appear whole.

N frames have N-1 flows; the last frame's entry follows the tail rule.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vsodpipe import flow_record, media
from vsodpipe.catalogue import Video
from vsodpipe.errors import DataError, UsageError
from vsodpipe.flows import Engine
from vsodpipe.flows.colour import flow_to_picture

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


def check_length(video: Video, frames: int, tail: Tail) -> None:
    if frames == 1 and tail in ("backward", "repeat"):
        raise DataError(
            f"video {video.name}: expected at least 2 frames for flow, got 1. "
            "Remove the video, or use --tail zero (zero flow) or --tail none."
        )


def source(video: Video) -> str:
    """Return a hash over names and sizes of the files that the flow of `video` is made from."""
    files = [video.file] if video.file else [frame.img for frame in video.frames]
    text = "\n".join(f"{file.name} {file.stat().st_size}" for file in files)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def write(
    video: Video,
    engine: Engine,
    options: Options,
    record: dict[str, object],
    advance: Callable[[], None],
) -> None:
    """Write the flow of `video` into its folder, with its record; `advance` is called per entry."""
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
            advance()
        for future in pending:
            future.result()
        (partial / flow_record.FILE).write_bytes(
            flow_record.dump({**record, "source": source(video)})
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
    check_length(video, len(last), tail)
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
