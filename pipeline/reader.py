"""Reading a store: the index of a shard once, then frames straight into the slots of a batch.

    store = open_store("datasets/DAVIS_train.zarr")         # or .h5, or s3://bucket/DAVIS_train.zarr
    store.read_into([5, 17, 18], "img", batch)              # batch: uint8 (3, H, W, 3)

Keys are the names of the arrays: img, gt, flow (int16 u, v), flow_picture (RGB), depth, thermal.
What is missing, cut short or changed is an error: every frame's checksum is compared when it is
read for the first time. A store pickles and forks as it is: its open files have no position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vsodpipe import chunks, hdf5, shards, store, zarr_files
from vsodpipe.chunks import Run
from vsodpipe.errors import DataError, unknown
from vsodpipe.fetch import Files
from vsodpipe.manifest_text import one_part, plain
from vsodpipe.store import Pixels

CACHE_BYTES = 16 * 2**30


def open_store(url: str, *, cache: Path | None = None, cache_bytes: int = CACHE_BYTES) -> Store:
    """Open the store at a path or fsspec URL.

    A remote one is read range by range, many in flight; with a folder as `cache`, its shards are
    fetched whole when they are touched and kept there, up to `cache_bytes`. Raises DataError for
    what is no store, is damaged, or lacks a shard.
    """
    return Store(url, cache, cache_bytes)


class Store:
    """An open store. Frames are counted over all videos, from 0."""

    def __init__(self, url: str, cache: Path | None = None, cache_bytes: int = CACHE_BYTES) -> None:
        self.url = url.rstrip("/")
        self._files = Files(self.url, cache, cache_bytes)
        parts = self._load()
        self._about, self.attributes, self._pixels = parts.about, parts.attributes, parts.pixels
        self._files.stamp = self._about.fingerprint
        small = parts.small
        self._offset, self._sizes = small["video_offset"], small["video_size"]
        self._numbers, self._crc = small["source_frame"], small["stored_crc32c"]
        letters = small["frame_name"]
        self._names = [self._name(bytes(row)) for row in letters]
        self._has = {a: small[f"has_{a}"] for a in self._about.arrays if a != "img"}
        self._has["img"] = np.ones(len(self._names), bool)
        self._group, self._row = self._places(small)
        self._checked = {a: np.zeros(len(self._names), bool) for a in self._about.arrays}
        self._check()

    def _name(self, letters: bytes) -> str:
        name = letters.rstrip(b"\0").decode(errors="replace")
        try:
            return one_part(plain(name))
        except ValueError as error:  # `unpack` makes files of them
            raise store.damaged(self.url, str(error)) from error

    def _load(self, checks: bool = False) -> store.Parts:
        load = hdf5.load if self.url.endswith(hdf5.SUFFIXES) else zarr_files.load
        return load(self._files, checks)

    def source_crc32c(self) -> NDArray[np.uint32]:
        """Return the CRC-32C of the files that the frames were made from, (frames, arrays).

        It is read anew: nobody needs it but a check. Raises DataError for a damaged store.
        """
        found: NDArray[np.uint32] = self._load(checks=True).small["source_crc32c"]
        if found.shape != self._crc.shape:
            raise store.damaged(self.url, "its arrays disagree")
        return found

    def _places(self, small: dict[str, Any]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return for every frame the number of its group and its row there."""
        total = len(self._names)
        group, row = np.full(total, -1, np.int32), np.zeros(total, np.int64)
        for number, about in enumerate(self._about.groups):
            if about.frames > total:
                raise store.damaged(self.url, f"{about.frames} frames of {total}")
            order = small[about.named("order")] if about.path else np.arange(about.frames)
            if len(order) != about.frames or order.min() < 0 or order.max() >= total:
                raise store.damaged(self.url, "order of its groups")
            group[order], row[order] = number, np.arange(len(order))
        return group, row

    def _check(self) -> None:
        total, offset = len(self._names), self._offset
        whole = (
            len(self.videos) == len(self._sizes) == len(offset) - 1
            and offset[0] == 0
            and offset[-1] == total
            and (np.diff(offset) > 0).all()
            and (self._group >= 0).all()
            and self._crc.shape == (total, len(self._about.arrays))
            and all(len(has) == total for has in (*self._has.values(), self._numbers))
        )
        if not whole:
            raise store.damaged(self.url, "its arrays disagree")

    def __len__(self) -> int:
        return len(self._names)

    @property
    def path(self) -> str:
        """Path or URL of the store."""
        return self.url

    @property
    def dataset(self) -> str:
        """Name of the data set, such as DAVIS_train."""
        return self._about.dataset

    @property
    def fingerprint(self) -> str:
        """Hash over what the store holds; another one means other frames."""
        return self._about.fingerprint

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the pixel arrays that the store has."""
        return self._about.arrays

    @property
    def nbytes(self) -> int:
        """Bytes of all shards."""
        return sum(sum(sizes) for group in self._about.groups for sizes in group.bytes.values())

    @property
    def cache_bytes(self) -> int | None:
        """The most that the cache of a remote store may hold, None without one."""
        return self._files.cache_bytes

    @property
    def videos(self) -> list[str]:
        """Names of the videos, in order."""
        return list(self._about.videos)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Frames of video v are `[offsets[v], offsets[v + 1])`."""
        return self._offset

    @property
    def stored(self) -> tuple[int, int]:
        """Stored (height, width) in pixels; the least of each where frames differ in size."""
        heights, widths = zip(*(group.size for group in self._about.groups), strict=True)
        return min(heights), min(widths)

    def stored_size(self, index: int) -> tuple[int, int]:
        """Return the stored (height, width) of a frame."""
        return self._about.groups[self._group[index]].size

    def frames(self, video: int) -> list[str]:
        """Return the names of the frames of a video."""
        return self._names[self._offset[video] : self._offset[video + 1]]

    def numbers(self, video: int) -> list[int]:
        """Return the numbers of the frames in their video, which may have gaps."""
        return [int(n) for n in self._numbers[self._offset[video] : self._offset[video + 1]]]

    @property
    def has_flow(self) -> bool:
        """Whether the frames have flow, of either form; those of still images have none."""
        return "flow" in self.arrays or "flow_picture" in self.arrays

    def holds(self, key: str) -> bool:
        """Return whether frames of the data set have `flow`, `depth` or `thermal`."""
        return self.has_flow if key == "flow" else key in self.arrays

    def has(self, key: str) -> NDArray[np.bool_]:
        """Return for every frame whether it has `key`; an array the store lacks is nowhere."""
        return self._has.get(key, np.zeros(len(self), bool))

    def annotated(self, video: int) -> list[bool]:
        """Return for every frame of a video whether it has ground truth."""
        part = self.has("gt")[self._offset[video] : self._offset[video + 1]]
        return [bool(x) for x in part]

    def size(self, video: int) -> tuple[int, int]:
        """Return the native (height, width) of a video."""
        height, width = self._sizes[video].tolist()
        return height, width

    def shard_of(self, index: int) -> tuple[int, int]:
        """Return (group, shard) of a frame; what they hold is fetched and kept as one."""
        group = int(self._group[index])
        return group, int(self._row[index]) // self._about.groups[group].shard

    @property
    def groups(self) -> tuple[store.Group, ...]:
        """Sizes, frames and shards of the store's groups."""
        return self._about.groups

    def frame_shape(self, key: str, index: int = 0) -> tuple[tuple[int, ...], str]:
        """Return the shape and the dtype of `key` of a frame."""
        pixels = self._array(key, int(self._group[index]))
        return pixels.shape, pixels.dtype

    def read(self, video: int, frame: int, key: str) -> NDArray[Any]:
        """Return one frame of a video, as the schema has it.

        Raises DataError where the frame has no `key`, and for a damaged store.
        """
        return self.read_clip(video, [frame], key)[0]

    def read_clip(self, video: int, frames: Sequence[int], key: str) -> NDArray[Any]:
        """Return frames of a video, (T, ...). Raises what `read` raises."""
        indices, start = self.rows(video, frames), int(self._offset[video])
        self.require(indices, key)
        shape, dtype = self.frame_shape(key, start)
        out = np.empty((len(indices), *shape), dtype)
        self.read_into(indices, key, out)
        return out

    def rows(self, video: int, frames: Sequence[int]) -> NDArray[np.int64]:
        """Return the numbers, over all videos, of frames of one; IndexError for one it has not."""
        start, end = int(self._offset[video]), int(self._offset[video + 1])
        found = start + np.asarray(frames, np.int64)
        if len(found) and not start <= found.min() <= found.max() < end:
            raise IndexError(f"{self.url}: {self.videos[video]} has {end - start} frames.")
        return found

    def require(self, indices: Sequence[int] | NDArray[np.int64], key: str) -> None:
        """Raise DataError where one of these frames has no `key`."""
        self._array(key, 0)
        has = self._has[key][indices]
        if not has.all():
            index = int(indices[int(np.argmin(has))])
            video = self.videos[int(np.searchsorted(self._offset, index, "right")) - 1]
            place = f"{self.dataset}/{video}/{self._names[index]}"
            raise DataError(f"{self.url}: {place} has no {key}. Pack it anew from data that have.")

    def read_into(
        self, indices: Sequence[int] | NDArray[np.int64], key: str, out: NDArray[Any]
    ) -> None:
        """Read frames into `out`, (n, ...): frame indices[i] into the C-contiguous out[i].

        Frames without `key` become zeros. Raises DataError for a damaged store, and for frames of
        several sizes.
        """
        self.read_arrays(indices, {key: out})

    def read_arrays(
        self, indices: Sequence[int] | NDArray[np.int64], outs: Mapping[str, NDArray[Any]]
    ) -> None:
        """Read several arrays of frames as `read_into` does; from far away all at once, after the
        indices of shards that were not touched before.
        """
        if len(indices) == 0 or not outs:
            return
        places = np.asarray(indices, np.int64)
        if places.min() < 0 or places.max() >= len(self):
            raise IndexError(f"{self.url}: has frames 0 to {len(self) - 1}.")
        groups = set(self._group[places].tolist())
        if len(groups) > 1:
            raise DataError(f"{self.url}: frames of {len(groups)} sizes are no batch.")
        group = groups.pop()
        wanted = [self._wanted(key, group, places, out) for key, out in outs.items()]
        touched = ((p.pixels, {row // p.pixels.shard for row in p.rows}) for p in wanted)
        chunks.load_indices(self._files, touched)
        coded = []
        for part in wanted:
            runs = chunks.runs(self._files, part.pixels, part.rows, part.slots)
            if part.pixels.codec == "raw" and self._files.direct:
                self._read_raw(part, runs, places)
            else:
                coded.append((part, runs))
        self._read_coded(coded, places)

    def _wanted(
        self, key: str, group: int, places: NDArray[np.int64], out: NDArray[Any]
    ) -> _Wanted:
        """Return what to read of an array, after zeros are written where a frame lacks it."""
        pixels = self._array(key, group)
        if out.shape != (len(places), *pixels.shape) or out.dtype != np.dtype(pixels.dtype):
            raise ValueError(
                f"{key}: expected {pixels.dtype} {(len(places), *pixels.shape)}, "
                f"got {out.dtype} {out.shape}"
            )
        has = self._has[key][places]
        if has.all():
            return _Wanted(key, pixels, out, self._row[places].tolist(), range(len(places)))
        out[~has] = 0
        return _Wanted(
            key, pixels, out, self._row[places[has]].tolist(), np.flatnonzero(has).tolist()
        )

    def _read_raw(self, part: _Wanted, runs: list[Run], places: NDArray[np.int64]) -> None:
        """Read frames that are stored as they are straight into their slots."""
        key, out = part.key, part.out
        for name, group in groupby(runs, lambda run: run.file):
            into = [(run.start, [out[slot] for slot in run.slots]) for run in group]
            self._files.read_runs(name, into)
        if not self._checked[key][places].all():
            for run in runs:
                for slot in run.slots:
                    self._confirm(key, int(places[slot]), out[slot], run.file)

    def _read_coded(
        self, wanted: list[tuple[_Wanted, list[Run]]], places: NDArray[np.int64]
    ) -> None:
        """Read frames as they are encoded, and decode them into their slots."""
        flat = [(part, run) for part, runs in wanted for run in runs]
        ranges = [(run.file, run.start, run.start + sum(run.lengths)) for _, run in flat]
        fresh = {part.key: not self._checked[part.key][places].all() for part, _ in wanted}
        for (part, run), data in zip(flat, self._files.ranges(ranges), strict=True):
            start = 0
            for slot, length in zip(run.slots, run.lengths, strict=True):
                chunk = data[start : start + length]  # of bytes as a whole, no copy
                start += length
                if fresh[part.key]:
                    self._confirm(part.key, int(places[slot]), chunk, run.file)
                self._decode(part.pixels.codec, chunk, part.out[slot], run.file)

    def chunk(self, index: int, key: str) -> bytes | None:
        """Return the bytes of a frame as they are stored, None where it has no `key`.

        Raises DataError for bytes that are not the ones that were packed.
        """
        pixels = self._array(key, int(self._group[index]))
        if not self._has[key][index]:
            return None
        row = int(self._row[index])
        chunks.load_indices(self._files, [(pixels, [row // pixels.shard])])
        (run,) = chunks.runs(self._files, pixels, [row], [0])
        (data,) = self._files.ranges([(run.file, run.start, run.start + run.lengths[0])])
        self._checked[key][index] = False
        self._confirm(key, index, data, run.file)
        return data

    def codec(self, key: str) -> shards.Codec:
        """Return how frames of `key` are encoded."""
        return self._array(key, 0).codec

    def prefetch(self, indices: Sequence[int], keys: Sequence[str]) -> None:
        """Bring the shards that hold these frames into the cache; nothing without a cache."""
        for key in keys:
            for group, shard in sorted({self.shard_of(index) for index in indices}):
                files = self._array(key, group).files
                self._files.keep([files[shard if len(files) > 1 else 0]])

    def _array(self, key: str, group: int) -> Pixels:
        if key not in self._about.arrays:
            if key not in store.KINDS:
                raise unknown(f"array of {self.url}:", key, self._about.arrays)
            raise DataError(
                f"{self.url}: the store has no {key}, only {', '.join(self._about.arrays)}. "
                f"Pack it anew{' with flow' if 'flow' in key else ''}."
            )
        return self._pixels[self._about.groups[group].path, key]

    def _confirm(self, key: str, place: int, chunk: bytes | NDArray[Any], name: str) -> None:
        """Compare a frame's bytes with their checksum, the first time they are read."""
        if not self._checked[key][place]:
            if shards.crc32c(chunk) != self._crc[place, self._about.arrays.index(key)]:
                frame = self._names[place]
                raise shards.damaged(self._files.path(name), f"frame {frame} has another checksum")
            self._checked[key][place] = True

    def _decode(self, codec: shards.Codec, chunk: bytes, out: NDArray[Any], name: str) -> None:
        try:
            shards.decode_into(chunk, codec, out)
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise shards.damaged(self._files.path(name), reason) from error


class _Wanted(NamedTuple):
    """What to read of one array."""

    key: str
    pixels: Pixels
    out: NDArray[Any]
    rows: Sequence[int]
    """Of the frames in their group."""
    slots: Sequence[int]
    """Where they go in `out`."""
