"""A contact sheet of what a store holds, as it is stored: what a training will see of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vsodpipe import manifest_preview, sheet
from vsodpipe.errors import UsageError
from vsodpipe.flows.colour import flow_to_picture
from vsodpipe.flows.files import STEPS
from vsodpipe.reader import Store

SUFFIXES = (".jpg", ".jpeg", ".png")
A_VIDEO = 3
"""Frames of a video; one of few videos shows more, up to `LEAST` rows."""
LEAST, MOST = 8, 36
"""Rows of a sheet. Of more videos, some are shown, evenly spaced."""
COLUMNS = ("img", "gt", "gt on the img", "flow picture", "flow u, v", "depth", "thermal")


def check(file: Path) -> None:
    """Raise UsageError for a file that is no picture: before anything is read."""
    if file.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--preview {file}: expected a file that ends in {', '.join(SUFFIXES)}.")


def write(file: Path, store: Store) -> int:
    """Write the sheet of a store, local or remote, and return its rows.

    Frames are evenly spaced, those with a mask before others. A remote store is read frame by
    frame. Raises DataError for a damaged store.
    """
    rows = [_row(store, video, index) for video, index in _chosen(store)]
    manifest_preview.save(file, rows, COLUMNS)
    return len(rows)


def _chosen(store: Store) -> list[tuple[int, int]]:
    """Return (video, frame of the video) in the middles of equal parts."""
    videos = len(store.videos)
    shown = min(videos, MOST // A_VIDEO)
    each = max(A_VIDEO, LEAST // shown)
    chosen = []
    for video in _middles(videos, shown):
        annotated = [i for i, has in enumerate(store.annotated(video)) if has]
        frames = annotated or list(range(len(store.frames(video))))
        picked = _middles(len(frames), min(each, len(frames)))
        chosen += [(video, frames[i]) for i in picked]
    return chosen


def _middles(total: int, count: int) -> list[int]:
    return [int((i + 0.5) * total / count) for i in range(count)]


def _row(store: Store, video: int, frame: int) -> manifest_preview.Row:
    place = int(store.offsets[video]) + frame
    found = {
        key: store.read(video, frame, key) for key in store.arrays if bool(store.has(key)[place])
    }
    image, mask = found["img"], found["gt"] == 1 if "gt" in found else None
    vectors = None
    if "flow" in found:  # int16 (2, H, W) -> pixels (H, W, 2)
        flow = np.moveaxis(found["flow"], 0, -1).astype(np.float32) / np.float32(STEPS)
        vectors = flow_to_picture(flow)
    cells: list[sheet.Cell] = [
        image,
        mask,
        None if mask is None else manifest_preview.painted(image, mask),
        found.get("flow_picture"),
        vectors,
        found.get("depth"),
        found.get("thermal"),
    ]
    name = store.frames(video)[frame]
    return manifest_preview.label(store.dataset, store.videos[video], name), cells
