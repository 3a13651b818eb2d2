"""A contact sheet of what a manifest holds: frames with their masks and flow, to judge by eye."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vsodpipe import media, sheet
from vsodpipe.errors import DataError
from vsodpipe.manifest import Frame, Manifest, Split
from vsodpipe.progress import printable

HEIGHT = 120
"""Pixels of a picture on the sheet."""
LABEL = 24
"""Letters of a name on the sheet."""
TINT = (255, 40, 40)

Row = tuple[str, list[sheet.Cell]]


def write(file: Path, manifest: Manifest, root: Path | str, count: int) -> None:
    """Write a JPEG sheet with up to `count` frames of every data set, evenly spaced.

    `root` is where the manifest's paths start: a folder or a URL. Frames with a mask go first where
    there are any. Raises DataError for a picture that cannot be read, or whose mask has another
    size.
    """
    rows: list[Row] = []
    for split in manifest.datasets:
        chosen = _chosen(split, count)
        rows += [_row(split.dataset, video, frame, root) for video, frame in chosen]
    save(file, rows, ["frame", "mask", "mask on the frame", "flow"])


def save(file: Path, rows: Sequence[Row], titles: Sequence[str]) -> None:
    """Write the sheet as JPEG, or PNG by the suffix of `file`, without columns that are empty."""
    kept = [i for i in range(len(titles)) if any(cells[i] is not None for _, cells in rows)]
    shown = [(label, [cells[i] for i in kept]) for label, cells in rows]
    made = sheet.contact_sheet(shown, [titles[i] for i in kept], height=HEIGHT)
    png = file.suffix.lower() == ".png"
    media.write_bytes(file, media.encode_png(made) if png else media.encode_jpeg(made, quality=90))


def label(*names: str) -> str:
    """Return the label of a row, a name a line, none of them too long for the sheet."""
    return "\n".join(map(_short, names))


def _chosen(split: Split, count: int) -> list[tuple[str, Frame]]:
    """Return (video, frame) in the middles of equal parts of the data set."""
    frames = [(video.name, frame) for video in split.videos for frame in video.frames]
    frames = [(video, frame) for video, frame in frames if frame.gt is not None] or frames
    count = min(count, len(frames))
    return [frames[int((i + 0.5) * len(frames) / count)] for i in range(count)]


def _row(dataset: str, video: str, frame: Frame, root: Path | str) -> Row:
    def full(path: str) -> str:
        return f"{root}/{path}"

    image = media.read_image(full(frame.img))
    mask = media.read_mask(full(frame.gt)) if frame.gt else None
    if mask is not None and mask.shape != image.shape[:2]:
        (mh, mw), (h, w) = mask.shape, image.shape[:2]
        raise DataError(
            f"{full(str(frame.gt))}: mask of {mw}x{mh} on a frame of {w}x{h}. Restore the files."
        )
    flow = media.read_image(full(frame.flow)) if frame.flow else None
    outlined = painted(image, mask) if mask is not None else None
    return label(dataset, video, frame.name), [image, mask, outlined, flow]


def painted(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the frame with the mask tinted and outlined, so that its edge can be judged."""
    canvas = image.copy()
    canvas[mask] = (0.6 * canvas[mask] + 0.4 * np.array(TINT)).astype(np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    width = max(1, round(image.shape[0] / HEIGHT))
    cv2.drawContours(canvas, outlines, -1, (255, 255, 255), width)
    return canvas


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= LABEL else f"{name[: LABEL - 1]}…"
