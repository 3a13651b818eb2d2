"""The chunked store: flat zarr arrays over all videos of a data set, at training size.

    img           uint8 (frame, y, x, channel)   RGB
    gt            uint8 (frame, y, x)            0 or 1
    flow_picture  uint8 (frame, y, x, channel)   colour picture of the flow; absent without flow
    video_offset  int64 (video_edge,)            frames of video v: [offset[v], offset[v + 1])
    video_size    int32 (video, axis)            native height and width
    frame_name    uint8 (frame, character)       file stem in UTF-8, padded with zeros
    has_gt        bool  (frame,)

One frame is an inner chunk; a shard holds the same frames of every array. The attributes and the
consolidated metadata are written last, so that an interrupted pack is no store.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, ZstdCodec

from vsodpipe import __version__, manifest
from vsodpipe.errors import DataError

SCHEMA = "vsodpipe-store"
VERSION = 1
SHARD_BYTES = 64 * 2**20
PICTURES = ("img", "flow_picture")


@dataclass(frozen=True)
class Plan:
    """What a store will hold."""

    split: manifest.Split
    size: tuple[int, int]
    """Stored (height, width) in pixels."""
    shard: int
    """Frames in a shard."""

    @property
    def frames(self) -> int:
        """Number of frames of all videos."""
        return self.split.frames

    @property
    def shards(self) -> int:
        """Number of shards of every array."""
        return -(-self.frames // self.shard)

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the picture arrays that the data set has files for."""
        return ("img", "gt") if self.split.flow is None else ("img", "gt", "flow_picture")


def plan(split: manifest.Split, size: tuple[int, int]) -> Plan:
    """Return the plan of a store with shards of the power of two of frames nearest 64 MB."""
    frame_bytes = 3 * size[0] * size[1]
    return Plan(split, size, 2 ** max(0, round(math.log2(SHARD_BYTES / frame_bytes))))


def create(path: Path, plan: Plan) -> None:
    """Create the empty arrays and the small index arrays of a store at `path`."""
    group = zarr.create_group(path, zarr_format=3, overwrite=True)
    height, width = plan.size
    for name in plan.arrays:
        shape = (height, width, 3) if name in PICTURES else (height, width)
        dimensions = ("frame", "y", "x", "channel")[: len(shape) + 1]
        group.create_array(
            name,
            shape=(plan.frames, *shape),
            chunks=(1, *shape),
            shards=(plan.shard, *shape),
            dtype="uint8",
            compressors=_codecs(name),
            dimension_names=dimensions,
            config={"write_empty_chunks": True},
        )
    videos = plan.split.videos
    frames = [frame for video in videos for frame in video.frames]
    names = [frame.name.encode() for frame in frames]
    letters = np.zeros((len(frames), max(map(len, names))), np.uint8)
    for row, name_bytes in zip(letters, names, strict=True):
        row[: len(name_bytes)] = np.frombuffer(name_bytes, np.uint8)
    offsets = np.cumsum([0, *(len(video.frames) for video in videos)], dtype=np.int64)
    sizes = np.array([video.size for video in videos], np.int32)
    has_gt = np.array([frame.gt is not None for frame in frames])
    _small(group, "video_offset", offsets, ("video_edge",))
    _small(group, "video_size", sizes, ("video", "axis"))
    _small(group, "frame_name", letters, ("frame", "character"))
    _small(group, "has_gt", has_gt, ("frame",))


def write_shard(path: Path, number: int, blocks: dict[str, NDArray[np.uint8]], shard: int) -> None:
    """Write shard `number` of every array in `blocks`, each (frames of the shard, ...)."""
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    for name, block in blocks.items():
        start = number * shard
        _array(group, name)[start : start + len(block)] = block


def commit(path: Path, plan: Plan, attributes: dict[str, Any]) -> None:
    """Write the attributes and the consolidated metadata that make the folder a store."""
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    group.attrs.update(
        {
            "schema": {"name": SCHEMA, "version": VERSION},
            "dataset": plan.split.dataset,
            "split": plan.split.split,
            "size": list(plan.size),
            "color": "RGB",
            "videos": [video.name for video in plan.split.videos],
            "flow": plan.split.flow,
            "created_with": f"vsodpipe {__version__}, zarr {zarr.__version__}",
            **attributes,
        }
    )
    with warnings.catch_warnings():
        # it lies outside the zarr 3 specification: written for speed, never required
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(path)


def fingerprint_of(path: Path) -> str | None:
    """Return the fingerprint of the store at `path`, None for what is no store of ours."""
    try:
        attributes = dict(zarr.open_group(path, mode="r").attrs)
    except (OSError, KeyError, ValueError):
        return None
    schema = attributes.get("schema")
    ours = isinstance(schema, dict) and schema.get("name") == SCHEMA
    return str(attributes.get("fingerprint")) if ours else None


class Store:
    """An open store; `read` gives one frame of one video. Pickles as its path."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            group = zarr.open_group(path, mode="r")
        except (FileNotFoundError, KeyError, ValueError) as error:
            raise DataError(f"{path}: no store. Make it with vsodpipe pack.") from error
        schema = dict(group.attrs).get("schema")
        if schema != {"name": SCHEMA, "version": VERSION}:
            raise DataError(f"{path}: expected {SCHEMA} version {VERSION}, got {schema}.")
        self.attributes: dict[str, Any] = dict(group.attrs)
        self._arrays = {name: _array(group, name) for name in group.array_keys()}
        self._check_complete()
        self._offset = np.asarray(self._arrays["video_offset"][:])
        letters, sizes = self._arrays["frame_name"][:], self._arrays["video_size"][:]
        self._names = [bytes(row).rstrip(b"\0").decode() for row in np.asarray(letters)]
        self._has_gt = np.asarray(self._arrays["has_gt"][:])
        self._sizes = [(int(h), int(w)) for h, w in np.asarray(sizes)]

    def _check_complete(self) -> None:
        """A shard that is not there reads as zeros: black frames without a word."""
        if "://" in self.path:
            return
        for name, array in self._arrays.items():
            steps = array.shards or array.chunks
            expected = math.prod(-(-n // k) for n, k in zip(array.shape, steps, strict=True))
            found = sum(f.is_file() for f in Path(self.path, name, "c").rglob("*"))
            if found != expected:
                raise DataError(
                    f"{self.path}: {found} of {expected} shards of {name} are there. "
                    "Pack it anew with --force."
                )
        if lacking := {"img", "gt", "video_offset", "frame_name", "has_gt"} - self._arrays.keys():
            names = ", ".join(sorted(lacking))
            raise DataError(f"{self.path}: {names} is missing. Pack it anew with --force.")

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.path,)

    @property
    def dataset(self) -> str:
        """Name of the data set, such as DAVIS_train."""
        return str(self.attributes["dataset"])

    @property
    def stored(self) -> tuple[int, int]:
        """Stored (height, width) in pixels."""
        height, width = self.attributes["size"]
        return int(height), int(width)

    @property
    def videos(self) -> list[str]:
        """Names of the videos, in order."""
        return list(self.attributes["videos"])

    @property
    def has_flow(self) -> bool:
        """Whether the frames have flow; those of still images have none."""
        return self.attributes["flow"] is not None

    def frames(self, video: int) -> list[str]:
        """Return the names of the frames of a video."""
        return self._names[self._offset[video] : self._offset[video + 1]]

    def annotated(self, video: int) -> list[bool]:
        """Return for every frame of a video whether it has ground truth."""
        return [bool(x) for x in self._has_gt[self._offset[video] : self._offset[video + 1]]]

    def size(self, video: int) -> tuple[int, int]:
        """Return the native (height, width) of a video."""
        return self._sizes[video]

    def read(self, video: int, frame: int, key: str) -> NDArray[np.uint8]:
        """Return `img` or `flow` as uint8 RGB (H, W, 3), `gt` as uint8 (H, W) of 0 and 1."""
        name = "flow_picture" if key == "flow" else key
        if name not in self._arrays:
            raise DataError(f"{self.path}: the store has no {name}. Pack it anew with flow.")
        return np.asarray(self._arrays[name][int(self._offset[video]) + frame], np.uint8)


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def _small(group: zarr.Group, name: str, values: NDArray[Any], dimensions: tuple[str, ...]) -> None:
    group.create_array(
        name,
        data=values,
        chunks=values.shape,
        dimension_names=dimensions,
        config={"write_empty_chunks": True},
    )


def _codecs(name: str) -> Any:
    # photographs do not compress losslessly for what it costs; masks and flow pictures do
    if name == "gt":
        return ZstdCodec(level=1)
    return BloscCodec(cname="lz4", shuffle="noshuffle") if name == "flow_picture" else None
