"""Video files: their frames, read one at a time, and what their headers say."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vsodpipe import media
from vsodpipe.errors import DataError

# FFmpeg reads this once: what it finds in a broken file is said in our own words, on one line
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def frames(path: str | Path, wanted: Container[int] | None = None) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a video file as uint8 RGB (H, W, 3), one at a time.

    `wanted` are the numbers of those that are yielded, None for all. Raises DataError when the file
    is missing, holds no picture that OpenCV's FFmpeg reads, or ends well before the length in its
    header.
    """
    for number, capture in enumerate(_decoded(path)):
        if wanted is None or number in wanted:
            found, frame = capture.retrieve()
            if not found:
                raise DataError(f"{path}: frame {number} does not decode. Get the file anew.")
            yield np.ascontiguousarray(frame[..., ::-1])


def times(path: str | Path) -> Iterator[float]:
    """Yield the time of every frame of a video file in seconds, as its container says it.

    All frames are decoded: headers may be wrong about their number. Raises DataError as
    `frames` does.
    """
    for capture in _decoded(path):
        yield capture.get(cv2.CAP_PROP_POS_MSEC) / 1000


def _decoded(path: str | Path) -> Iterator[cv2.VideoCapture]:
    """Yield the opened file at each of its frames, decoded and not yet converted to RGB."""
    if not Path(path).is_file():
        raise DataError(f"{path}: no such video file.")
    with _opened(path) as capture:
        expected, count = _stated(capture), 0
        seconds, last = expected / (capture.get(cv2.CAP_PROP_FPS) or 1), 0.0
        while capture.grab():
            count += 1
            last = max(last, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
            yield capture
    if not count:
        raise DataError(f"{path}: not a video that OpenCV can read. Convert it to H.264 mp4.")
    # some containers only estimate; at a variable rate the time of the last frame tells
    ended = last + last / max(1, count - 1) < 0.98 * seconds
    if count < expected - 1 and count / expected < 0.98 and ended:
        raise DataError(
            f"{path}: expected {expected} frames, only {count} could be read. Get the file anew, "
            f"or re-encode what there is: ffmpeg -i {path} -c:v libx264 out.mp4"
        )


def length(path: Path) -> int:
    """Return the number of frames in the header of a video file (0 where it does not say)."""
    with _opened(path) as capture:
        return _stated(capture)


def _stated(capture: cv2.VideoCapture) -> int:
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(count) if 0 < count < 2**31 else 0  # a header may say anything


def size(path: Path) -> tuple[int, int]:
    """Return the (height, width) of a video file's first frame, upright. Errors: `frames`."""
    height, width = next(frames(path)).shape[:2]
    return height, width


def rate(path: Path) -> float:
    """Return the frames per second in the header of a video file (0 where it does not say)."""
    with _opened(path) as capture:
        stated = float(capture.get(cv2.CAP_PROP_FPS))
    return stated if np.isfinite(stated) and stated > 0 else 0.0


@contextmanager
def _opened(path: str | Path) -> Iterator[cv2.VideoCapture]:
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        # absolute, as FFmpeg takes what stands before a colon for a protocol
        capture = cv2.VideoCapture(str(Path(path).absolute()), cv2.CAP_FFMPEG)
    finally:
        cv2.utils.logging.setLogLevel(level)
    try:
        sides = cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH
        media.check_pixels(path, *(int(capture.get(side)) for side in sides))
        yield capture
    finally:
        capture.release()
