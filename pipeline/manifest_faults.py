"""What can be wrong with a manifest's videos and files: each fault found, none repaired.

`of_video` looks at names alone; `of_files` at the files of some frames, headers or all.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import cv2
import numpy as np
from numpy.typing import NDArray

from vsodpipe import media
from vsodpipe.card import Card
from vsodpipe.errors import DataError
from vsodpipe.manifest import Frame, Source, Split, Video

KEYS = ("img", "gt", "flow", "depth", "thermal")

_ANEW = "write the manifest anew: vsodpipe manifest"
PROBLEMS = {
    "missing": f"Restore the file, or {_ANEW}.",
    "damaged": "Restore the file.",
    "size": f"Restore the file, or {_ANEW}.",
    "mask": "Cut the mask to 0 and 255 at half of its range, and write it as PNG.",
    "alignment": f"Name img, gt and flow of a frame alike, and {_ANEW}.",
    "order": f"Number the frames in the order of time, and {_ANEW}.",
    "gap": f"Restore the frames in between, or {_ANEW}.",
    "duplicate": f"Name every file once: {_ANEW}.",
    "flow": "Run vsodpipe flow for the data set, then vsodpipe manifest.",
    "leak": "Take the picture out of one of the two, or the scores mean nothing.",
}
"""What makes a manifest unfit, and the remedy."""

WARNINGS = {
    "step": "Fine where the data set was thinned on purpose.",
    "repeat": "Fine where a video stands still; else look at the files.",
    "grey": "The card of the data set allows grey masks; above 128 counts as foreground.",
    "record": "Nothing says how this flow was made: flow.json is not beside it.",
}
"""What a person should know of, and why it may be right."""

NEAR = 16
"""Grey levels within so many of 0 or of a mask's largest value count as these."""
MAX_FILE = 2**28
"""Bytes of a picture; larger files are not read."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault or oddity; `place` is DATASET/VIDEO/FRAME, `file` a full path, where it has one."""

    kind: str
    place: str
    text: str
    file: str = ""

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return {**PROBLEMS, **WARNINGS}[self.kind]

    def line(self) -> str:
        """Return it in words, on one line."""
        file = f"{self.file}: " if self.file else ""
        return f"{self.kind}: {self.place}: {file}{self.text}. {self.remedy}"


def of_video(split: Split, video: Video, card: Card | None, part: bool) -> Iterator[Fault]:
    """Yield what is wrong with the names of a video: alignment, order, gaps, missing flow.

    A `part` of a manifest, made on purpose, may lack frames.
    """
    place = f"{split.dataset}/{video.name}"
    still = card.kind == "image" if card else len(video.frames) == 1
    for frame in video.frames:
        if words := _misaligned(video, frame, still):
            yield Fault("alignment", f"{place}/{frame.name}", words)
    if not still:
        yield from _numbering(place, video, card.step if card else 1, part)
    record = split.flow
    tail_free = record is not None and record.get("tail") == "none"
    for frame in video.frames[: -1 if tail_free else None]:
        if (frame.flow is None) != (record is None):
            words = "has no flow, others have" if record else "has flow, the manifest no record"
            yield Fault("flow", f"{place}/{frame.name}", words)


def _misaligned(video: Video, frame: Frame, still: bool) -> str:
    """Return which of a frame's files belongs to another frame or video, empty for none."""
    within = f"/{video.name}/" in f"/{frame.img}"
    for key in KEYS:
        path = getattr(frame, key)
        if path is None:
            continue
        stem = PurePosixPath(path).stem
        if stem != frame.name:
            number = None if still else media.frame_number(stem)
            if number is None or number != media.frame_number(frame.name):
                return f"its {key} is {path}"
        if within and f"/{video.name}/" not in f"/{path}":
            return f"its {key} is of another video: {path}"
    return ""


def _numbering(place: str, video: Video, step: int, part: bool) -> Iterator[Fault]:
    numbers = [media.frame_number(frame.name) for frame in video.frames]
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers):
        return
    jumps = [b - a for a, b in zip(known, known[1:], strict=False)]
    backward = next((i for i, jump in enumerate(jumps) if jump < 1), None)
    if backward is not None:
        first, second = (video.frames[backward + i].name for i in (0, 1))
        yield Fault("order", place, f"frame {second} comes after {first}")
        return
    often = Counter(jumps).most_common()
    usual = min((jump for jump, count in often if count == often[0][1]), default=step)
    holes = [i for i, jump in enumerate(jumps) if jump != usual]
    if holes:
        first, second = (video.frames[holes[0] + i].name for i in (0, 1))
        words = f"frame {second} comes after {first}, {len(holes)} gaps in all"
        yield Fault("step" if part else "gap", place, words)
    elif usual != step:
        yield Fault("step", place, f"its frames are {usual} apart, expected {step}")


def of_files(
    source: Source, split: Split, video: Video, frames: Sequence[Frame], soft: bool, quick: bool
) -> tuple[list[Fault], list[int]]:
    """Return what is wrong with the files of `frames`, and a hash of the file of each img.

    `quick` reads headers alone, and hashes nothing. `soft` allows grey masks.
    """
    faults, digests = [], []
    for frame in frames:
        for key in KEYS:
            path = getattr(frame, key)
            if path is None:
                continue
            file = source.path(path)
            data, fault = _of_file(file, key, video.size, soft, quick)
            if fault:
                place = f"{split.dataset}/{video.name}/{frame.name}"
                faults.append(Fault(fault[0], place, fault[1], file))
            if key == "img" and not quick:
                # nothing is the hash of no file: every fault has another
                digests.append(_digest(data) if data else -1)
    return faults, digests


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def _of_file(
    file: str, key: str, size: tuple[int, int], soft: bool, quick: bool
) -> tuple[bytes, tuple[str, str] | None]:
    """Return the bytes of a file (none if `quick`), and the kind of its fault with words for it."""
    if "://" not in file:
        try:
            found = os.stat(file)
        except (OSError, ValueError) as error:
            return b"", ("missing", str(getattr(error, "strerror", None) or error))
        # a pipe or a device would be read for ever
        if not stat.S_ISREG(found.st_mode):
            return b"", ("missing", "not a file")
        if found.st_size > MAX_FILE:
            return b"", ("damaged", f"{found.st_size} bytes, the limit is {MAX_FILE}")
    data = b""
    if not quick:
        try:
            data = media.read_bytes(file, limit=MAX_FILE)
        except DataError as error:
            return b"", ("missing", _reason(file, error))
    levels: NDArray[np.uint8] | None = None
    try:
        if quick:
            shape = media.image_size(file)
        elif key == "gt":
            numbers, values = media.mask_values(file, data)
            levels, shape = None if numbers else values, (values.shape[0], values.shape[1])
        else:
            height, width, _ = media.decode_image(file, data, luma=True).shape
            shape = height, width
    except DataError as error:
        return data, ("damaged", _reason(file, error))
    if shape != size:
        return data, ("size", f"expected {size[1]}x{size[0]}, got {shape[1]}x{shape[0]}")
    return data, None if levels is None else _not_binary(levels, soft)


def _not_binary(values: NDArray[np.uint8], soft: bool) -> tuple[str, str] | None:
    """Return what keeps grey levels from being one foreground by the rule of `media.read_mask`."""
    counts = cv2.calcHist([values], [0], None, [256], [0, 256]).reshape(-1)
    top = int(np.flatnonzero(counts).max(initial=0))
    if 1 < top <= 128:
        return "mask", f"its largest grey level is {top}, which counts as background"
    if between := int(counts[NEAR + 1 : max(0, top - NEAR)].sum()):
        return "grey" if soft else "mask", f"{between} of {values.size} pixels are grey"
    return None


def _reason(file: str, error: DataError) -> str:
    """Return an error without the file it begins with, and without its remedy."""
    return str(error).removeprefix(f"{file}: ").partition(". ")[0].rstrip(".")
