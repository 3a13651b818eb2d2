"""Raw flow of one video: a zarr store in steps of 1/64 px.

    flow        int16 (frame, component, y, x)   u then v, 64 steps a pixel, as scale_factor says
    frame_name  uint8 (entry, character)         file stem in UTF-8, padded with zeros

One frame is an inner chunk. The names are along `frame` too; both arrays end with the last entry.
"""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from vsodpipe.errors import DataError
from vsodpipe.flows import Flow
from vsodpipe.flows.files import STEPS, to_steps
from vsodpipe.media import MAX_PIXELS
from vsodpipe.store import SHARD_BYTES

STORE = "flow.zarr"


class RawFlow:
    """Writes entries, in any order and from several threads, holding the unfinished shards alone.

    `relation` says which frames the flow leads between, such as `t -> t+1`.
    """

    def __init__(self, folder: Path, relation: str, tail: str) -> None:
        self._path = folder / STORE
        self._attributes: dict[str, Any] = {
            "scale_factor": 1 / STEPS,
            "add_offset": 0.0,
            "units": "px",
            "direction": relation,
            "last_frame": tail,
        }
        self._lock = threading.Lock()
        self._array: zarr.Array[Any] | None = None
        self._shard = 1
        self._blocks: dict[int, tuple[NDArray[np.int16], list[int]]] = {}
        self._names: dict[int, str] = {}

    def put(self, entry: int, name: str, flow: Flow, where: str) -> None:
        """Take `flow`, (H, W, 2) in pixels, as entry number `entry`, of the frame `name`.

        Raises DataError, naming `where`, for flow beyond ±512 px.
        """
        steps = to_steps(flow, where).transpose(2, 0, 1)
        with self._lock:
            if self._array is None:
                self._create(flow.shape[0], flow.shape[1])
            number, row = divmod(entry, self._shard)
            block, rows = self._blocks.setdefault(
                number, (np.zeros((self._shard, *steps.shape), np.int16), [])
            )
            rows.append(row)
            self._names[entry] = name
        block[row] = steps
        with self._lock:
            rows.append(-1)  # done: the last one to get here writes the shard
            full = len(rows) == 2 * self._shard
            if full:
                del self._blocks[number]
                self._grow((number + 1) * self._shard)
        if full:
            self._write(number, block)

    def finish(self) -> None:
        """Write the shards that are not full, and the names."""
        if self._array is None:
            return
        self._grow(len(self._names))
        for number, (block, _) in sorted(self._blocks.items()):
            self._write(number, block[: len(self._names) - number * self._shard])
        self._blocks.clear()
        self._array.resize((len(self._names), *self._array.shape[1:]))
        letters = names_as_letters([self._names[n] for n in sorted(self._names)])
        zarr.open_group(self._path, mode="r+").create_array(
            "frame_name",
            data=letters,
            chunks=letters.shape,
            dimension_names=("frame", "character"),
            config={"write_empty_chunks": True},
        )

    def count(self) -> int:
        """Return the number of entries, 0 unless they are numbered from 0 without a gap."""
        return len(self._names) if set(self._names) == set(range(len(self._names))) else 0

    def _create(self, height: int, width: int) -> None:
        # a power of two of frames, near 64 MB, as the shards of a packed store
        self._shard = 2 ** max(0, round(math.log2(SHARD_BYTES / (4 * height * width))))
        group = zarr.create_group(self._path, zarr_format=3, overwrite=True)
        self._array = group.create_array(
            "flow",
            shape=(self._shard, 2, height, width),
            chunks=(1, 2, height, width),
            shards=(self._shard, 2, height, width),
            dtype="int16",
            compressors=BloscCodec(cname="lz4", shuffle="shuffle", typesize=2),
            dimension_names=("frame", "component", "y", "x"),
            attributes=self._attributes,
            config={"write_empty_chunks": True},
        )

    def _grow(self, frames: int) -> None:
        assert self._array is not None
        if frames > self._array.shape[0]:
            self._array.resize((frames, *self._array.shape[1:]))

    def _write(self, number: int, block: NDArray[np.int16]) -> None:
        assert self._array is not None
        start = number * self._shard
        self._array[start : start + len(block)] = block


def read(folder: Path) -> tuple[list[str], zarr.Array[Any]]:
    """Return the names of the entries and the array of a folder of raw flow, opened.

    Raises DataError where there is none, or one that lacks shards: those would read as zeros.
    """
    try:
        # of format 3 alone: arrays of format 2 may hold pickles, which zarr would load
        group = zarr.open_group(folder / STORE, mode="r", zarr_format=3)
        array, letters = group["flow"], group["frame_name"]
    except Exception as error:  # damaged metadata fail anywhere inside zarr
        raise DataError(f"{folder}: no raw flow. Delete it and run vsodpipe flow again.") from error
    kinds = (array, "int16", 4), (letters, "uint8", 2)
    if not all(isinstance(a, zarr.Array) and (a.dtype, a.ndim) == (t, n) for a, t, n in kinds):
        raise DataError(f"{folder}: no raw flow of ours. Delete it and run vsodpipe flow again.")
    assert isinstance(array, zarr.Array) and isinstance(letters, zarr.Array)
    shard = (array.shards or array.chunks)[0]
    large = letters.nbytes > 256 * 2**24 or math.prod(array.shape[1:]) > 2 * MAX_PIXELS
    if large or not shard:
        raise DataError(
            f"{folder}: raw flow of {array.shape}. Delete it and run vsodpipe flow again."
        )
    expected = -(-array.shape[0] // shard)
    found = sum(file.is_file() for file in (folder / STORE / "flow" / "c").rglob("*"))
    if found != expected:
        raise DataError(
            f"{folder}: {found} of {expected} shards of flow are there. "
            "Delete it and run vsodpipe flow again."
        )
    try:
        names = [bytes(row).rstrip(b"\0").decode() for row in np.asarray(letters[:], np.uint8)]
    except Exception as error:
        raise DataError(
            f"{folder}: damaged names. Delete it and run vsodpipe flow again."
        ) from error
    return names, array


def entry(folder: Path, array: zarr.Array[Any], number: int) -> NDArray[np.int16]:
    """Return one entry of the array of `read`, (2, H, W). Raises DataError for a damaged shard."""
    try:
        return np.asarray(array[number], np.int16)
    except MemoryError:
        raise
    except Exception as error:  # anywhere inside zarr and its codecs
        raise DataError(
            f"{folder}: damaged flow. Delete it and run vsodpipe flow again."
        ) from error


def is_whole(folder: Path) -> bool:
    """Return whether `folder` holds a store of raw flow with all its shards."""
    try:
        read(folder)
    except DataError:
        return False
    return True


def names_as_letters(names: list[str]) -> NDArray[np.uint8]:
    """Return names as uint8 (names, characters) in UTF-8, padded with zeros."""
    encoded = [name.encode(errors="surrogateescape") for name in names]
    letters = np.zeros((len(encoded), max(map(len, encoded))), np.uint8)
    for row, name in zip(letters, encoded, strict=True):
        row[: len(name)] = np.frombuffer(name, np.uint8)
    return letters
