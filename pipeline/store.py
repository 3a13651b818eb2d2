"""The schema of a store, version 2: flat arrays over all videos, at training size.

    img           uint8 (frame, y, x, channel)      RGB
    gt            uint8 (frame, y, x)               0 or 1
    flow          int16 (frame, component, y, x)    u then v, 64 steps a stored pixel (scale_factor)
    flow_picture  uint8 (frame, y, x, channel)      colour picture of the flow
    depth         uint8 (frame, y, x)
    thermal       uint8 (frame, y, x, channel)      RGB

    video_offset  int64  (video_edge,)              frames of video v: [offset[v], offset[v + 1])
    video_size    int32  (video, axis)              native height and width
    frame_name    uint8  (frame, character)         file stem in UTF-8, padded with zeros
    source_frame  int32  (frame,)                   number of the frame in its video
    has_gt, ...   bool   (frame,)                   what a frame has, for every array but img
    stored_crc32c uint32 (frame, array)             of the bytes of a frame's chunk
    source_crc32c uint32 (frame, array)             of the file that it was made from

One frame is a chunk. Frames that differ in size lie in one group a size, such as `size_480x854`,
each with the pixel arrays and `order`, int64 (frame,): the place in the data set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vsodpipe import shards
from vsodpipe.errors import DataError
from vsodpipe.flows.files import STEPS
from vsodpipe.manifest_text import one_part, plain
from vsodpipe.media import MAX_PIXELS

SCHEMA = "vsodpipe-store"
VERSION = 2
SHARD_BYTES = 64 * 2**20
TIERS = ("raw", "lossless", "jpeg", "small")
REPACK = "Pack it anew with vsodpipe pack --force."


@dataclass(frozen=True)
class Kind:
    """One pixel array of the schema."""

    dtype: str
    dimensions: tuple[str, ...]
    """Of one frame."""
    codecs: tuple[shards.Codec, shards.Codec, shards.Codec, shards.Codec]
    """In each of the TIERS; photographs do not compress losslessly for what it costs."""

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Return the shape of a frame stored at `size`, (height, width)."""
        lengths = {"y": size[0], "x": size[1], "channel": 3, "component": 2}
        return tuple(lengths[dimension] for dimension in self.dimensions)

    def frame_bytes(self, size: tuple[int, int]) -> int:
        """Return the bytes of a decoded frame."""
        return math.prod(self.shape(size)) * (2 if self.dtype == "int16" else 1)


_RGB, _GREY = ("y", "x", "channel"), ("y", "x")
KINDS = {
    "img": Kind("uint8", _RGB, ("raw", "raw", "jpeg", "jpeg-small")),
    "gt": Kind("uint8", _GREY, ("lz4hc",) * 4),
    "flow": Kind("int16", ("component", "y", "x"), ("raw", *("lz4hc-shuffle",) * 3)),
    "flow_picture": Kind("uint8", _RGB, ("raw", "lz4hc", "jpeg", "jpeg-small")),
    "depth": Kind("uint8", _GREY, ("raw", *("lz4hc",) * 3)),
    "thermal": Kind("uint8", _RGB, ("raw", "raw", "jpeg", "jpeg-small")),
}
"""The pixel arrays, in the order in which a store lists them."""


EARLIER: dict[str, shards.Codec] = {
    "gt": "zstd",
    "flow": "lz4-shuffle",
    "flow_picture": "lz4",
    "depth": "lz4",
}
"""What stood in the place of lz4hc, which is smaller and quicker to decode, in stores until 0.1."""


def codec(array: str, tier: str, container: str) -> shards.Codec:
    """Return how a pack encodes frames of `array`; HDF5 knows zlib alone everywhere."""
    chosen = KINDS[array].codecs[TIERS.index(tier)]
    return "zlib" if container == "hdf5" and chosen != "raw" else chosen


def shard_frames(arrays: tuple[str, ...], size: tuple[int, int]) -> int:
    """Return the frames of a shard: the power of two that is nearest 64 MB of the largest array."""
    largest = max(KINDS[array].frame_bytes(size) for array in arrays)
    return 2 ** max(0, round(math.log2(SHARD_BYTES / largest)))


Side = Annotated[int, Field(gt=0, le=2**16)]


class _Loose(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class Group(_Loose):
    """Frames of one size."""

    path: str = Field(pattern=r"^[a-z0-9_]*$")
    """Empty where all frames have this size."""
    size: tuple[Side, Side]
    """Stored (height, width) in pixels."""
    frames: int = Field(gt=0)
    shard: int = Field(gt=0, le=2**24)
    """Frames in a shard."""
    bytes: dict[str, tuple[int, ...]]
    """Of every shard of every array: one that was cut short is noticed on opening."""

    @property
    def shards(self) -> int:
        """Number of shards of every array."""
        return -(-self.frames // self.shard)

    def named(self, array: str) -> str:
        """Return the path of an array in the store."""
        return f"{self.path}/{array}" if self.path else array


class Vectors(_Loose):
    """What the flow (u, v) is, where a store has it."""

    record: dict[str, Any] | None


class Attributes(_Loose):
    """What the attributes of the root group hold at least."""

    dataset: str
    tier: str
    arrays: tuple[str, ...]
    videos: tuple[str, ...]
    groups: tuple[Group, ...] = Field(min_length=1)
    fingerprint: str
    flow: dict[str, Any] | None = None
    flow_vectors: Vectors


def check_attributes(values: Any, where: str) -> Attributes:
    """Return the attributes of a store. Raises DataError, in words, for those of anything else."""
    schema = values.get("schema") if isinstance(values, dict) else None
    if not isinstance(schema, dict) or schema.get("name") != SCHEMA:
        raise DataError(f"{where}: no store. Make one with vsodpipe pack.")
    if schema.get("version") != VERSION:
        raise DataError(
            f"{where}: a store of version {schema.get('version')}, expected {VERSION}. {REPACK}"
        )
    try:
        found = Attributes.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{where}: damaged store: {place}: {first['msg']}. {REPACK}") from error
    unknown = set(found.arrays) - KINDS.keys()
    if unknown or found.tier not in TIERS or "img" not in found.arrays:
        raise damaged(where, f"arrays {', '.join(found.arrays)}, tier {found.tier}")
    try:
        for name in (found.dataset, *found.videos):
            one_part(plain(name))
    except ValueError as error:  # `unpack` makes folders of them
        raise damaged(where, str(error)) from error
    for group in found.groups:
        if math.prod(group.size) > MAX_PIXELS:
            raise damaged(where, f"frames of {group.size[1]}x{group.size[0]} pixels")
        if any(len(group.bytes.get(array, ())) != group.shards for array in found.arrays):
            raise damaged(where, f"its shards are not {group.shards} an array")
    return found


def damaged(where: str, reason: str) -> DataError:
    """Return the error for a store whose metadata contradict themselves."""
    return DataError(f"{where}: damaged store: {reason}. {REPACK}")


@dataclass
class Pixels:
    """One pixel array of one group: where its frames lie, and how they are encoded."""

    codec: shards.Codec
    dtype: str
    shape: tuple[int, ...]
    """Of one frame."""
    shard: int
    """Frames in a file."""
    files: Sequence[str]
    """Of the shards, relative to the store."""
    sizes: Sequence[int]
    """Bytes of those files."""
    index: dict[int, NDArray[np.uint64]]
    """Offset and length of the frames of every shard that was touched."""


@dataclass(frozen=True)
class Parts:
    """What opening a store of either container gives."""

    about: Attributes
    attributes: dict[str, Any]
    small: dict[str, NDArray[Any]]
    """The arrays that are not pixels, `order` by its path."""
    pixels: dict[tuple[str, str], Pixels]
    """By path of the group and name of the array."""


SMALL: dict[str, tuple[str, tuple[str, ...]]] = {
    "video_offset": ("int64", ("video_edge",)),
    "video_size": ("int32", ("video", "axis")),
    "frame_name": ("uint8", ("frame", "character")),
    "source_frame": ("int32", ("frame",)),
    "stored_crc32c": ("uint32", ("frame", "array")),
    "source_crc32c": ("uint32", ("frame", "array")),
}
"""Type and dimensions of the arrays that are in every store."""


def small_kind(name: str) -> tuple[str, tuple[str, ...]]:
    """Return type and dimensions of an array that is not of pixels."""
    if name.endswith("order"):
        return "int64", ("frame",)
    return ("bool", ("frame",)) if name.startswith("has_") else SMALL[name]


def small_names(about: Attributes, checks: bool = True) -> list[str]:
    """Return the names of the arrays that are not of pixels; without `checks` those to read."""
    small = [name for name in SMALL if checks or name != "source_crc32c"]
    has = [f"has_{array}" for array in about.arrays if array != "img"]
    return [*small, *has, *(group.named("order") for group in about.groups if group.path)]


def array_attributes(array: str, attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of a pixel array itself, with the CF names by which xarray decodes."""
    if array != "flow":
        return {}
    return {
        "scale_factor": 1 / STEPS,
        "add_offset": 0.0,
        "units": "px",
        "relative_to": "stored size",
        "direction": attributes["direction"],
        "last_frame": attributes["last_frame"],
    }
