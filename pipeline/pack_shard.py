"""One shard of a pack: decode its files, resize, encode, write. The task of one worker."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vsodpipe import flow_raw, media, shards, store, zarr_files
from vsodpipe.errors import DataError
from vsodpipe.flows import Flow
from vsodpipe.flows.files import STEPS, read_flo, read_kitti, to_steps
from vsodpipe.place import Place

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True)
class Entry:
    """One frame to pack: the path or URL of its file for each array, where it has one."""

    where: str
    """Data set, video and frame, for errors."""
    name: str
    native: Size
    files: dict[str, str]


@dataclass(frozen=True)
class Task:
    """One shard of every array: all that a worker needs to know."""

    place: Place
    """Where to write."""
    number: int
    group: str
    size: Size
    shard: int
    arrays: tuple[str, ...]
    tier: str
    container: str
    flow_form: str | None
    """Form of the flow files: raw, flo or kitti."""
    entries: tuple[Entry, ...]

    @property
    def note(self) -> str:
        """Name of the file that says that this shard is done."""
        return f".done/{self.group or 'all'}-{self.number}.json"


def write(task: Task) -> tuple[int, str, dict[str, Any]]:
    """Write a shard of every array; return the frames, the name of its note, and the note.

    The note holds for each array the bytes of the shard, and the CRC-32C of every frame as it is
    stored and of the file it comes from.
    """
    note: dict[str, Any] = {"bytes": {}, "stored": {}, "source": {}}
    for array in task.arrays:
        encoded = [encode(task, entry, array) for entry in task.entries]
        data = shards.build([chunk for chunk, _ in encoded], task.shard)
        path = f"{task.group}/{array}" if task.group else array
        task.place.write(zarr_files.shard_file(path, task.number), data)
        note["bytes"][array] = len(data)
        note["stored"][array] = [shards.crc32c(c) if c is not None else 0 for c, _ in encoded]
        note["source"][array] = [crc for _, crc in encoded]
    task.place.write(task.note, json.dumps(note).encode())
    return len(task.entries), task.note, note


def encode(task: Task, entry: Entry, array: str) -> tuple[bytes | None, int]:
    """Return the chunk of one frame, None where it has none, and the CRC-32C of its source."""
    file = entry.files.get(array)
    if file is None:
        return None, 0
    codec = store.codec(array, task.tier, task.container)
    if array == "flow":
        steps, crc = _flow(task, entry, file)
        return shards.encode(steps, codec), crc
    data = media.read_bytes(file)
    crc = shards.crc32c(data)
    if codec == "jpeg" and _fits(data, task.size, entry.native):
        media.decode_image(file, data)  # a damaged file is refused, not copied
        return data, crc
    picture = decode(array, data, file)
    if picture.shape[:2] != entry.native:
        height, width = entry.native
        raise DataError(
            f"{file}: expected {width}x{height} as in the manifest, got "
            f"{picture.shape[1]}x{picture.shape[0]}. Write the manifest anew."
        )
    return shards.encode(_resized(picture, task.size, array == "gt"), codec), crc


def source_crc(entry: Entry, array: str, flow_form: str | None) -> int:
    """Return the CRC-32C of what a frame is made from, 0 where it has none."""
    file = entry.files.get(array)
    if file is None:
        return 0
    if array == "flow" and flow_form == "raw":
        return shards.crc32c(np.ascontiguousarray(_raw_entry(file, entry)))
    return shards.crc32c(media.read_bytes(file))


def decode(array: str, data: bytes, file: str) -> NDArray[np.uint8]:
    """Return the picture in the bytes of a file as the schema has it, at its native size."""
    if array == "gt":
        return media.decode_mask(file, data).view(np.uint8)
    return media.decode_map(file, data) if array == "depth" else media.decode_image(file, data)


def _fits(data: bytes, size: Size, native: Size) -> bool:
    """Return whether these are JPEG bytes that need no change."""
    return size == native and data[:3] == b"\xff\xd8\xff" and media.jpeg_size(data) == size


def _resized(picture: NDArray[Any], size: Size, is_mask: bool = False) -> NDArray[Any]:
    if picture.shape[:2] == size:
        return picture
    smaller = size[0] <= picture.shape[0] and size[1] <= picture.shape[1]
    way = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    if is_mask:
        way = cv2.INTER_NEAREST_EXACT
    return cv2.resize(picture, size[::-1], interpolation=way)


def _flow(task: Task, entry: Entry, file: str) -> tuple[NDArray[np.int16], int]:
    """Return the flow in steps, (2, H, W), in pixels of the stored size, and the source's CRC."""
    flow: Flow
    if task.flow_form == "raw":
        steps = _raw_entry(file, entry)
        crc = shards.crc32c(np.ascontiguousarray(steps))
        if steps.shape[1:] == task.size:
            return steps, crc
        flow = (steps.transpose(1, 2, 0) / np.float32(STEPS)).astype(np.float32)
    else:
        crc = shards.crc32c(media.read_bytes(file))
        flow = read_flo(file) if task.flow_form == "flo" else read_kitti(file)[0]
    if flow.shape[:2] != entry.native:
        raise DataError(
            f"{entry.where}: flow of {flow.shape[1]}x{flow.shape[0]} on a frame of "
            f"{entry.native[1]}x{entry.native[0]}. Run vsodpipe flow with --force."
        )
    scale = np.divide(task.size, entry.native, dtype=np.float64)[::-1].astype(np.float32)
    resized = _resized(flow, task.size) * scale
    return to_steps(resized, entry.where).transpose(2, 0, 1), crc


def _raw_entry(folder: str, entry: Entry) -> NDArray[np.int16]:
    names, array = _raw_folder(folder)
    if entry.name not in names:
        raise DataError(f"{folder}: no flow of frame {entry.name}. Run vsodpipe flow again.")
    return flow_raw.entry(Path(folder), array, names[entry.name])


@lru_cache(maxsize=4)
def _raw_folder(folder: str) -> tuple[dict[str, int], Any]:
    names, array = flow_raw.read(Path(folder))
    return {name: number for number, name in enumerate(names)}, array
