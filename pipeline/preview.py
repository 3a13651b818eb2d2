"""Frames beside their flow, for looking: a sheet of a few, or a video of all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vsodpipe import catalogue, media, sheet, video_file
from vsodpipe.catalogue import Video
from vsodpipe.errors import DataError, UsageError, VsodpipeError

Image = NDArray[np.uint8]

FORMS = (".png", ".jpg", ".mp4")
ACROSS, DOWN = 4, 2
"""Frames on a sheet."""
HEIGHT = 180
"""Pixels of a picture on a sheet."""
FILM = 480
"""Most pixels of height in a video."""


Shown = tuple[Video, Path]
"""A video and the folder of its flow pictures."""


def check(path: Path, formats: Sequence[str]) -> None:
    """Raise UsageError for a `path` of no known form, and for flow without a picture form."""
    if path.suffix.lower() not in FORMS:
        raise UsageError(f"--preview {path}: expected a file that ends in {', '.join(FORMS)}.")
    if not {"jpg", "png"} & set(formats):
        raise UsageError("--preview needs flow pictures. Add --format jpg.")


def write(path: Path, shown: Sequence[Shown]) -> None:
    """Write frames and flow pictures to `path`, by its suffix (`FORMS`); it appears whole.

    A sheet has frames evenly spaced over all the videos, a video all of them one after another.
    Raises DataError where there is no picture.
    """
    if path.suffix.lower() == ".mp4":
        _film(path, shown)
        return
    pictures = _sheet(shown)
    png = path.suffix.lower() == ".png"
    media.write_bytes(path, media.encode_png(pictures) if png else media.encode_jpeg(pictures))


def _sheet(shown: Sequence[Shown]) -> Image:
    entries = [(one, number) for one in shown for number in sorted(_pictures(one))]
    if not entries:
        raise DataError("preview: there is no flow picture to show.")
    count = min(ACROSS * DOWN, len(entries))
    # the middles of equal parts: the last entry follows the tail rule, the first may be blank
    chosen = [entries[int((i + 0.5) * len(entries) / count)] for i in range(count)]
    titles, frames, flows = [], [], []
    for one in dict.fromkeys(video for video, _ in chosen):
        numbers = [number for video, number in chosen if video is one]
        for number, frame, flow in _images(one, numbers):
            titles.append(f"{_short(one[0].name)} {number:05d}")
            frames.append(frame)
            flows.append(flow)
    blocks = []
    for start in range(0, count, ACROSS):
        end = start + ACROSS
        rows: list[tuple[str, list[sheet.Cell]]] = [
            ("frame", [*frames[start:end]]),
            ("flow", [*flows[start:end]]),
        ]
        blocks.append(sheet.contact_sheet(rows, titles[start:end], height=HEIGHT))
    width = max(block.shape[1] for block in blocks)
    wide = [
        np.pad(b, ((0, 0), (0, width - b.shape[1]), (0, 0)), constant_values=255) for b in blocks
    ]
    return np.concatenate(wide)


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:19]}…"


def _film(path: Path, shown: Sequence[Shown]) -> None:
    with media.replacing(path) as partial:
        working = partial.with_suffix(".mp4")  # OpenCV goes by the suffix
        try:
            _write_film(working, shown)
            os.replace(working, partial)
        finally:
            working.unlink(missing_ok=True)


def _write_film(file: Path, shown: Sequence[Shown]) -> None:
    writer: cv2.VideoWriter | None = None
    width = height = 0
    try:
        for one in shown:
            for _, frame, flow in _images(one, sorted(_pictures(one))):
                if writer is None:
                    height = min(FILM, frame.shape[0]) // 2 * 2
                    width = round(frame.shape[1] * height / frame.shape[0] / 2) * 2
                    # MPEG-4: every build of OpenCV has it, H.264 hardly any
                    code = cv2.VideoWriter.fourcc(*"mp4v")
                    writer = cv2.VideoWriter(str(file), code, _rate(one[0]), (2 * width, height))
                    if not writer.isOpened():
                        raise VsodpipeError(f"{file}: OpenCV cannot write mp4 here. Use .png.")
                pair = np.concatenate([_fitted(p, height, width) for p in (frame, flow)], axis=1)
                writer.write(np.ascontiguousarray(pair[..., ::-1]))
    finally:
        if writer is not None:
            writer.release()
    if writer is None:
        raise DataError("preview: there is no flow picture to show.")


def _fitted(image: Image, height: int, width: int) -> Image:
    """Return `image` as large as fits, on black."""
    scale = min(height / image.shape[0], width / image.shape[1])
    size = (
        min(width, max(1, round(image.shape[1] * scale))),
        min(height, max(1, round(image.shape[0] * scale))),
    )
    fitted = np.zeros((height, width, 3), np.uint8)
    y, x = (height - size[1]) // 2, (width - size[0]) // 2
    rule = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    fitted[y : y + size[1], x : x + size[0]] = cv2.resize(image, size, interpolation=rule)
    return fitted


def _rate(video: Video) -> float:
    """Return frames per second: the file's own, 24 for a folder of frames."""
    rate = video_file.rate(video.file) if video.file is not None else 0.0
    return rate if 1 <= rate <= 240 else 24.0


def _pictures(one: Shown) -> dict[int, Path]:
    """Return the flow pictures by frame number."""
    return catalogue.numbered(one[1])


def _images(one: Shown, numbers: Sequence[int]) -> Iterator[tuple[int, Image, Image]]:
    """Yield number, frame and flow picture of the entries with these `numbers`, in order."""
    flows = _pictures(one)
    if one[0].file is None:
        files = {media.frame_number(frame.name): frame.img for frame in one[0].frames}
        for number in numbers:
            yield number, media.read_image(files[number]), media.read_image(flows[number])
        return
    wanted = set(numbers)
    for number, frame in enumerate(one[0].images()):
        if number in wanted:
            yield number, frame, media.read_image(flows[number])
