"""Mask rules: from the annotation files of a data set to one foreground, bool (H, W).

    objects   palette: all but 0 and 255 (void); grey: above 128, or 0 and 1   (`media.read_mask`)
    soft      the same, and grey edges stay in the file
    half      grey, cut at half of 255 (PASCAL-S has many levels)
    maximum   first channel, above half of its largest value (ViSal)
    union     first channel above 128, over the files of all objects (SegTrack-V2)
    lossy     JPEG: 128 and above, nearest neighbour to the frame's size (YouTube-Objects)
    fbms      the regions of a `*Def.dat`

Source: the data sets' own documentation and the public readers of them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vsodpipe import media
from vsodpipe.errors import DataError

Mask = NDArray[np.bool_]

FBMS_BACKGROUND = {"marple2": (0, 2, 4), "marple7": (0, 2), "marple10": (0, 2), "marple13": (0, 2)}
"""Regions that do not move although they are marked; region 0 alone in every other video."""


def linked(rule: str, files: tuple[Path, ...]) -> bool:
    """Return whether the one file of a mask can stay as it is: a PNG without a palette.

    Raises DataError for a file that is no picture.
    """
    if rule not in ("objects", "soft") or len(files) > 1:
        return False
    return files[0].suffix.lower() == ".png" and mode(files[0]) != "P"


def mode(path: Path) -> str:
    """Return the Pillow mode of a picture. Raises DataError for a file that is none."""
    with media.opened(path, path) as picture:
        return picture.mode


def read(rule: str, files: tuple[Path, ...], size: tuple[int, int]) -> Mask:
    """Return the foreground of the mask in `files` (several: one an object) by `rule`.

    `size` is (height, width) of the frame. Raises DataError for files that do not fit.
    """
    if rule == "union":
        found = np.zeros(size, bool)
        for path in files:
            found |= _fitting(path, _channel(path) > 128, size)
        return found
    if len(files) > 1:
        raise DataError(f"{files[0]}: the frame has {len(files)} masks (also {files[1].name}).")
    (path,) = files
    if rule == "lossy":
        mask = (_channel(path) >= 128).astype(np.uint8)
        h, w = size
        return cv2.resize(mask, (w, h), interpolation=cv2.INTER_NEAREST_EXACT).astype(bool)
    if rule == "half":
        return _fitting(path, _channel(path) >= 128, size)
    if rule == "maximum":
        values = _channel(path)
        return _fitting(path, values * 2.0 > max(1, int(values.max(initial=0))), size)
    return _fitting(path, media.read_mask(path), size)


def _channel(path: Path) -> NDArray[np.uint8]:
    """Return the first channel of a picture, of a palette's colours too."""
    if mode(path) in ("1", "P"):
        return media.read_image(path)[..., 0]
    return media.read_map(path)


def _fitting(path: Path, mask: Mask, size: tuple[int, int]) -> Mask:
    if mask.shape != size:
        (mh, mw), (h, w) = mask.shape, size
        raise DataError(f"{path}: mask of {mw}x{mh} on a frame of {w}x{h}. Restore the files.")
    return mask


def fbms_files(dat: Path, frames: int) -> dict[int, Path]:
    """Return the annotated frames of a `*Def.dat`: place in the video, from 0 -> mask file.

    Raises DataError for a place outside the video's `frames` and for a mask that is not there.
    """
    text = _dat(dat)
    blocks = re.findall(r"Frame number:\s*(\d{1,9})\s*File name:[ \t]*\r?\n?[ \t]*([^\r\n]+)", text)
    stated = re.search(r"Total number of labell?ed frames[^:]*:\s*(\d{1,9})", text)
    if not stated or int(stated[1]) != len(blocks):
        raise DataError(
            f"{dat}: expected {stated[1] if stated else 'a number of'} labelled frames, "
            f"got {len(blocks)}. Restore the file."
        )
    found: dict[int, Path] = {}
    for place, written in blocks:
        name = re.split(r"[/\\]", written.strip())[-1]
        file = dat.parent / name
        if int(place) >= frames or int(place) in found:
            raise DataError(
                f"{dat}: frame {place} is there twice or not one of the video's {frames}. "
                "Restore the frames."
            )
        if name in ("", ".", "..") or not os.path.isfile(file):  # False for names without end, too
            raise DataError(f"{dat}: names the mask {name}, which is not beside it. Restore it.")
        found[int(place)] = file
    return found


def read_fbms(dat: Path, file: Path, video: str, size: tuple[int, int]) -> Mask:
    """Return the foreground of one FBMS mask by the regions of its `*Def.dat`.

    Every region that is not background is foreground; colours without a region are region 0.
    """
    scales = [int(n) for n in re.findall(r"Scale of region \d+:\s*(\d{1,9})", _dat(dat))]
    if not scales:
        raise DataError(f"{dat}: expected the scales of its regions, found none. Restore the file.")
    values = _regions(file)
    background = FBMS_BACKGROUND.get(video, (0,))
    moving = [scale for region, scale in enumerate(scales) if region not in background]
    return _fitting(file, np.isin(values, moving), size)


def _regions(file: Path) -> NDArray[np.int32]:
    """Return a region picture as numbers: R*65536 + G*256 + B of colours, else the grey value."""
    with media.opened(file, file) as picture:
        if picture.mode not in ("1", "L", "I;16", "I", "P", "RGB"):
            raise DataError(f"{file}: expected regions, got picture mode {picture.mode}.")
        colours = picture.mode in ("RGB", "P")
        values = np.asarray(picture.convert("RGB") if colours else picture)
    if values.ndim == 2:
        return values.astype(np.int32)
    red, green, blue = (values[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


def _dat(dat: Path) -> str:
    return media.read_bytes(dat).decode("latin-1")
