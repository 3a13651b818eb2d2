"""Which bytes of which files hold the frames of a batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from vsodpipe import shards
from vsodpipe.fetch import Files
from vsodpipe.store import Pixels


class Run(NamedTuple):
    """Frames that adjoin in a file, read at once."""

    file: str
    start: int
    lengths: list[int]
    slots: list[int]
    """Places of these frames in the batch."""


def load_indices(files: Files, wanted: Iterable[tuple[Pixels, Iterable[int]]]) -> None:
    """Read the indices of shards that were not touched before, those of several arrays at once."""
    todo = [(pixels, n) for pixels, numbers in wanted for n in numbers if n not in pixels.index]
    if not todo:
        return
    ends = [(p.files[n], p.sizes[n] - shards.index_bytes(p.shard), p.sizes[n]) for p, n in todo]
    for (pixels, n), (name, _, size), data in zip(todo, ends, files.ranges(ends), strict=True):
        pixels.index[n] = shards.parse_index(data, files.path(name), size)


def runs(files: Files, pixels: Pixels, rows: Sequence[int], slots: Sequence[int]) -> list[Run]:
    """Return what to read for frames in `rows` of a group, whose indices are loaded.

    The runs of a file follow one another. Raises DataError for a frame that its shard has not.
    """
    size = math.prod(pixels.shape) * np.dtype(pixels.dtype).itemsize
    # no codec needs more for what it cannot pack
    least, most = (size, size) if pixels.codec == "raw" else (0, 2 * size + 2**16)
    found: dict[int, list[Run]] = {}
    ends: dict[int, int] = {}
    for slot, place in zip(slots, rows, strict=True):
        number, row = divmod(place, pixels.shard)
        entry = pixels.index[number]
        start, length = entry.item(row, 0), entry.item(row, 1)
        if start == shards.ABSENT or not least <= length <= most:
            raise shards.damaged(files.path(pixels.files[number]), "a frame is not there")
        if start == ends.get(number):
            run = found[number][-1]
            run.lengths.append(length)
            run.slots.append(slot)
        else:
            run = Run(pixels.files[number], start, [length], [slot])
            found.setdefault(number, []).append(run)
        ends[number] = start + length
    return [run for runs in found.values() for run in runs]
