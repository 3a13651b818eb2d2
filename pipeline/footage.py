"""A video file or a folder of frames: how long and how large it is, when each frame is shown."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vsodpipe import media, video_file
from vsodpipe.catalogue import Video
from vsodpipe.errors import DataError
from vsodpipe.progress import Reporter

FPS = 24.0
"""Frames per second of what does not say it: folders of frames, and some files."""

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Footage:
    """A video that was looked through."""

    video: Video
    times: NDArray[np.float64]
    """When each frame is shown, in seconds from the first, rising."""
    size: tuple[int, int]
    """Native (height, width)."""

    def __len__(self) -> int:
        return len(self.times)

    def name(self, frame: int) -> str:
        """Return the name of a frame: that of its file, or its number."""
        return self.video.frames[frame].name if self.video.frames else f"{frame:05d}"

    def images(self, wanted: Container[int] | None = None) -> Iterator[Image]:
        """Yield the frames, or those with the numbers `wanted`, as uint8 RGB (H, W, 3), in order.

        Raises DataError for a frame that does not decode or is of another size than the first, and
        for a file that has become longer or shorter.
        """
        numbers = [n for n in range(len(self)) if wanted is None or n in wanted]
        if self.video.file is not None:
            found = video_file.frames(self.video.file, wanted)
        else:
            found = (media.read_image(self.video.frames[n].img) for n in numbers)
        place = self.video.file or self.video.frames[0].img.parent
        count = 0
        for count, image in enumerate(found, 1):
            if image.shape[:2] != self.size:
                (height, width), (h, w) = self.size, image.shape[:2]
                at = self.name(numbers[min(count, len(numbers)) - 1])
                raise DataError(
                    f"{place}: expected frames of {width}x{height} as the first, got {w}x{h} "
                    f"(frame {at}). Bring all frames to one size."
                )
            yield image
            if wanted is not None and count == len(numbers):
                return  # what follows need not be decoded
        if count != len(numbers):
            raise DataError(f"{place}: has changed while it was read. Run the command again.")


def look_through(video: Video, fps: float | None, reporter: Reporter) -> Footage:
    """Return the length, times and size of `video`; a folder of frames has `fps` (default FPS).

    A file is decoded once for it: headers may be wrong about the number of frames, which decides
    the groups and the references of a network. Raises DataError for what is no whole video.
    """
    if video.file is None:
        times = np.arange(len(video.frames)) / (fps or FPS)
        return Footage(video, times, media.image_size(video.frames[0].img))
    said: list[float] = []
    length = video_file.length(video.file)
    with reporter.task(f"read {video.name}", length, "frame") as counter:
        for time in video_file.times(video.file):
            said.append(time)
            counter.advance()
    return Footage(video, _rising(said, video_file.rate(video.file)), video_file.size(video.file))


def _rising(said: list[float], rate: float) -> NDArray[np.float64]:
    """Return the times that a file says, from 0; even ones where they do not rise."""
    times = np.array(said)
    if np.isfinite(times).all() and (np.diff(times) > 0).all():
        return np.asarray(times - times[0])
    return np.arange(len(times)) / (rate if 1 <= rate <= 240 else FPS)
