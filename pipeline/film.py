"""The frames of one video with their flow pictures, made on the way and held only while needed.

Networks read a film as they read the files of a manifest. Each asks for its frames in order, and
what all of them are done with is let go. Reference frames, which are spread over the video, are
made before, and kept.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import (
    Callable,
    Collection,
    Container,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from vsodpipe import flow_entries, flow_record, flow_video, media
from vsodpipe.catalogue import Video
from vsodpipe.errors import DataError
from vsodpipe.flow_ahead import ahead
from vsodpipe.flow_forms import JPEG_QUALITY
from vsodpipe.flow_video import Options, Output
from vsodpipe.flows import Engine, Flow
from vsodpipe.flows.colour import flow_to_picture, longest_motion
from vsodpipe.footage import Footage, Image

DECODED = 4
"""Frames that are decoded ahead of the flow."""


@dataclass(frozen=True)
class Shot:
    """One frame, uint8 RGB (H, W, 3), and its flow pictures of the same shape by their rules."""

    img: Image
    flow: Mapping[Options, Image]


class Film:
    """A window that moves over the shots of a video; several threads may ask for them."""

    def __init__(
        self, footage: Footage, shots: Iterator[Shot], references: Mapping[int, Shot]
    ) -> None:
        self.footage = footage
        self._shots, self._references = shots, references
        self._window: dict[int, Shot] = {}
        self._next = self._gone = 0
        self._lock = threading.Lock()
        self._failed: BaseException | None = None

    def shot(self, frame: int) -> Shot:
        """Return a frame that was not let go; those up to it are made where they are not there."""
        with self._lock:
            if frame in self._references and frame not in self._window:
                return self._references[frame]
            if self._failed is not None:
                raise self._failed
            try:
                while self._next <= frame:
                    made = next(self._shots)
                    if self._next >= self._gone:
                        self._window[self._next] = made
                    self._next += 1
            except BaseException as error:  # every thread that waits for it is told
                self._failed = error
                raise
            return self._window[frame]

    def forget(self, frame: int) -> None:
        """Let go of a frame, the one after the last, that nobody will ask for again."""
        with self._lock:
            self._window.pop(frame, None)
            self._gone = frame + 1

    def held(self) -> int:
        """Return the number of frames in the window."""
        return len(self._window)


@dataclass(frozen=True)
class View:
    """A film as a reader of one video: what a network of one colour rule sees of it."""

    film: Film
    look: Options | None
    """How its flow is coloured; None for no flow."""

    @property
    def dataset(self) -> str:
        return self.videos[0]

    @property
    def videos(self) -> list[str]:
        return [self.film.footage.video.name]

    @property
    def has_flow(self) -> bool:
        return self.look is not None

    def holds(self, key: str) -> bool:
        """Return whether frames have `flow`; they have no other input."""
        return key == "flow" and self.has_flow

    def frames(self, video: int) -> list[str]:
        """Return the names of the frames."""
        return [self.film.footage.name(frame) for frame in range(len(self.film.footage))]

    def annotated(self, video: int) -> list[bool]:
        """Return False for every frame."""
        return [False] * len(self.film.footage)

    def size(self, video: int) -> tuple[int, int]:
        """Return the native (height, width)."""
        return self.film.footage.size

    def read(self, video: int, frame: int, key: str) -> Image:
        """Return `img` or `flow` of a frame as uint8 RGB (H, W, 3)."""
        shot = self.film.shot(frame)
        if key == "img":
            return shot.img
        if key != "flow" or self.look is None:
            raise DataError(f"video {self.videos[0]}: its frames have no {key}.")
        return shot.flow[self.look]


Paint = Callable[[Flow], dict[Options, Image]]
"""Flow of a frame as the pictures of every rule."""


def plain(footage: Footage, wanted: Container[int] | None = None) -> Generator[Shot]:
    """Yield the frames, or those `wanted`, without flow."""
    yield from (Shot(image, {}) for _, image in _numbered(footage, wanted))


def is_stored(video: Video, flow: Output) -> bool:
    """Return whether `vsodpipe flow` has written that flow of the video as it is now."""
    found = flow_record.read(flow.folder)
    same = found is not None and found["fingerprint"] == flow.record["fingerprint"]
    return same and flow_video.is_done(video, flow, force=True)


def stored(
    footage: Footage, folder: Path, look: Options, wanted: Container[int] | None = None
) -> Generator[Shot]:
    """Yield the frames, or those `wanted`, with the flow pictures that lie in `folder`."""
    suffix = f".{look.formats[0]}"
    for number, image in _numbered(footage, wanted):
        path = folder / f"{footage.name(number)}{suffix}"
        picture = media.read_image(path)
        if picture.shape != image.shape:
            raise DataError(f"{path}: is not of the size of its frame. Delete {folder}.")
        yield Shot(image, {look: picture})


def _numbered(footage: Footage, wanted: Container[int] | None) -> Iterator[tuple[int, Image]]:
    numbers = (n for n in range(len(footage)) if wanted is None or n in wanted)
    return zip(numbers, footage.images(wanted), strict=True)


def computed(footage: Footage, engine: Engine, options: Options, paint: Paint) -> Generator[Shot]:
    """Yield the frames with their flow, which `engine` computes as they are asked for."""
    waiting: deque[Image] = deque()

    def kept(images: Iterable[Image]) -> Iterator[Image]:
        for image in images:
            waiting.append(image)
            yield image

    with ahead(footage.images(), DECODED) as images:
        for flow in _flows(footage, engine, kept(images), options):
            yield Shot(waiting.popleft(), paint(flow))


def references(
    footage: Footage, frames: Collection[int], engine: Engine, options: Options, paint: Paint
) -> dict[int, Shot]:
    """Return the shots of single `frames`, each from the few frames that its flow takes."""
    parts = {frame: _part(frame, len(footage), options.gap) for frame in frames}
    wanted = {number for part in parts.values() for number in part}
    images = dict(zip(sorted(wanted), footage.images(wanted), strict=True))
    found = {}
    for frame, part in parts.items():
        flows = _flows(footage, engine, (images[number] for number in part), options)
        (flow,) = islice(flows, frame - part.start, frame - part.start + 1)
        found[frame] = Shot(images[frame], paint(flow))
    return found


def _part(frame: int, count: int, gap: int) -> range:
    """Return the frames that the flow of one of `count` frames takes; it is among the entries."""
    if frame + gap < count:
        return range(frame, frame + gap + 1)
    # one of the last frames gets its flow by the tail rule, as at the end of the whole video
    return range(max(0, count - 2 * gap), count)


def _flows(
    footage: Footage, engine: Engine, images: Iterable[Image], options: Options
) -> Iterator[Flow]:
    check = partial(flow_video.check_length, footage.video, options=options)
    found = flow_entries.flows(engine, images, ("forward",), options.gap, options.tail, check)
    return (flow for _, _, flow in found)


def painter(looks: Collection[Options], longest: float) -> Paint:
    """Return what colours the flow of a video whose `longest` motion in pixels is known.

    That is asked for by the rule `video` alone. A JPEG is encoded and decoded: networks were
    trained on such pictures, and `vsodpipe test` shows them such pictures.
    """

    def paint(flow: Flow) -> dict[Options, Image]:
        own = longest_motion(flow)
        # where nothing moves any radius makes it white
        radii = {o: (longest or 1.0) if o.colour == "video" else o.radius() for o in looks}
        raw = {radius: flow_to_picture(flow, radius, own) for radius in set(radii.values())}
        return {o: _stored_form(raw[radii[o]], o.formats[0]) for o in looks}

    return paint


def _stored_form(picture: Image, form: str) -> Image:
    if form == "png":
        return picture
    return media.decode_image("flow", media.encode_jpeg(picture, JPEG_QUALITY))


def longest(
    footage: Footage, engine: Engine, options: Options, advance: Callable[[], Any]
) -> float:
    """Return the largest motion of a video in pixels; `advance` is called for every frame."""
    most = 0.0
    with ahead(footage.images(), DECODED) as images:
        for flow in _flows(footage, engine, images, options):
            most = max(most, longest_motion(flow))
            advance()
    return most
