"""The zarr form of a store: its metadata, made and checked by the same functions.

Reading takes one request for zarr.json, and one for each small array, all at once. Metadata that
differ from what a pack writes are refused, so that the reader's view of a file is never a guess.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vsodpipe import shards, store
from vsodpipe.errors import DataError
from vsodpipe.fetch import Files

JPEG = "imagecodecs_jpeg"


def _blosc(name: str, level: int, *, shuffled: bool) -> list[dict[str, Any]]:
    how = (
        {"shuffle": "shuffle", "typesize": 2}
        if shuffled
        else {"shuffle": "noshuffle", "typesize": 1}
    )
    return [
        {"name": "blosc", "configuration": {"cname": name, "clevel": level, "blocksize": 0, **how}}
    ]


_COMPRESSORS: dict[str, list[dict[str, Any]]] = {
    "raw": [],
    "lz4hc": _blosc("lz4hc", 3, shuffled=False),
    "lz4hc-shuffle": _blosc("lz4hc", 3, shuffled=True),
    "zstd": [{"name": "zstd", "configuration": {"level": 1, "checksum": False}}],
    "lz4": _blosc("lz4", 5, shuffled=False),
    "lz4-shuffle": _blosc("lz4", 5, shuffled=True),
}
_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC = {"name": "crc32c"}


def pixel_metadata(array: str, group: store.Group, codec: shards.Codec) -> dict[str, Any]:
    """Return the metadata of a pixel array, as they are in its zarr.json."""
    kind = store.KINDS[array]
    shape = kind.shape(group.size)
    if codec in shards.JPEGS:
        inner = [{"name": JPEG, "configuration": {"level": shards.JPEGS[codec][0]}}]
    else:
        inner = [_LITTLE if kind.dtype == "int16" else {"name": "bytes"}, *_COMPRESSORS[codec]]
    sharding = {
        "chunk_shape": [1, *shape],
        "codecs": inner,
        "index_codecs": [_LITTLE, _CRC],
        "index_location": "end",
    }
    return _array(
        (group.frames, *shape),
        (group.shard, *shape),
        kind.dtype,
        [{"name": "sharding_indexed", "configuration": sharding}],
        ("frame", *kind.dimensions),
    )


def small_metadata(name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the metadata of an array that is one chunk, with a checksum."""
    dtype, dimensions = store.small_kind(name)
    one_byte = np.dtype(dtype).itemsize == 1
    codecs = [{"name": "bytes"} if one_byte else _LITTLE, _CRC]
    return _array(shape, shape, dtype, codecs, dimensions)


def _array(
    shape: tuple[int, ...],
    chunk: tuple[int, ...],
    dtype: str,
    codecs: list[dict[str, Any]],
    dimensions: tuple[str, ...],
) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": False if dtype == "bool" else 0,
        "codecs": codecs,
        "dimension_names": list(dimensions),
        "storage_transformers": [],
    }


def shard_file(array: str, number: int) -> str:
    """Return the name of the file of a shard, `array` with the path of its group."""
    inner = len(store.KINDS[array.rsplit("/", 1)[-1]].dimensions)
    return f"{array}/c/{number}{'/0' * inner}"


def metadata_files(
    attributes: dict[str, Any], small: dict[str, NDArray[Any]]
) -> list[tuple[str, bytes]]:
    """Return all files of a store but its shards, in the order in which to write them.

    The last one is the root's zarr.json, which makes a store of the rest.
    """
    about = store.check_attributes(attributes, "pack")
    nodes: dict[str, dict[str, Any]] = {}
    for group in about.groups:
        if group.path:
            nodes[group.path] = _group({})
        for array in about.arrays:
            own = store.array_attributes(array, attributes["flow_vectors"])
            made = pixel_metadata(array, group, store.codec(array, about.tier, "zarr"))
            nodes[group.named(array)] = {**made, "attributes": own}
    files = []
    for name in store.small_names(about):
        values = small[name]
        nodes[name] = {**small_metadata(name, values.shape), "attributes": {}}
        data = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
        crc = shards.crc32c(data).to_bytes(shards.CRC_BYTES, "little")
        files.append((f"{name}/c{'/0' * values.ndim}", data + crc))
    files += [(f"{path}/zarr.json", _dump(node)) for path, node in nodes.items()]
    consolidated = {"kind": "inline", "must_understand": False, "metadata": nodes}
    root = {**_group(attributes), "consolidated_metadata": consolidated}
    return [*files, ("zarr.json", _dump(root))]


def _group(attributes: dict[str, Any]) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"


def load(files: Files, checks: bool = False) -> store.Parts:
    """Open the zarr form of a store, with what only `checks` need.

    Raises DataError for anything that a pack does not write.
    """
    where = files.path("zarr.json")
    try:
        (data,) = files.whole(["zarr.json"])
    except DataError as error:
        raise DataError(f"{files.url}: no store ({error}) Make it with vsodpipe pack.") from error
    try:
        root = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise store.damaged(where, f"not JSON, {' '.join(str(error).split())}") from error
    attributes = root.get("attributes") if isinstance(root, dict) else None
    about = store.check_attributes(attributes, files.url)
    inner = root.get("consolidated_metadata")
    nodes = inner.get("metadata") if isinstance(inner, dict) else None
    if not isinstance(nodes, dict):
        raise store.damaged(where, "no consolidated metadata")
    pixels = {}
    for group in about.groups:
        for array in about.arrays:
            name = group.named(array)
            node, codec = nodes.get(name), store.codec(array, about.tier, "zarr")
            if codec.startswith("lz4hc") and _earlier(node, array, group):
                codec = store.EARLIER[array]
            _same(node, pixel_metadata(array, group, codec), where, name)
            pixels[group.path, array] = _pixels(array, codec, group, files)
    small = _small(files, store.small_names(about, checks), nodes, where)
    return store.Parts(about, attributes or {}, small, pixels)


def _earlier(node: Any, array: str, group: store.Group) -> bool:
    made = pixel_metadata(array, group, store.EARLIER[array])
    return isinstance(node, dict) and node.get("codecs") == made["codecs"]


def _pixels(array: str, codec: shards.Codec, group: store.Group, files: Files) -> store.Pixels:
    kind, sizes = store.KINDS[array], group.bytes[array]
    names = [shard_file(group.named(array), number) for number in range(group.shards)]
    for name, size in zip(names, sizes, strict=True):
        if files.local and (found := files.size(name)) != size:
            reason = "missing" if found is None else f"expected {size} bytes, got {found}"
            raise shards.damaged(files.path(name), reason)
    return store.Pixels(codec, kind.dtype, kind.shape(group.size), group.shard, names, sizes, {})


def _small(
    files: Files, names: list[str], nodes: dict[str, Any], where: str
) -> dict[str, NDArray[Any]]:
    shapes = []
    for name in names:
        node = nodes.get(name)
        shape = node.get("shape") if isinstance(node, dict) else None
        dimensions = store.small_kind(name)[1]
        if (
            not isinstance(shape, list)
            or len(shape) != len(dimensions)
            or not all(type(n) is int and 0 < n < 2**40 for n in shape)
        ):
            raise store.damaged(where, f"shape of {name}")
        shapes.append(tuple(shape))
        _same(node, small_metadata(name, tuple(shape)), where, name)
    chunks = [f"{name}/c{'/0' * len(shape)}" for name, shape in zip(names, shapes, strict=True)]
    found = {}
    for name, chunk, shape, data in zip(names, chunks, shapes, files.whole(chunks), strict=True):
        dtype = np.dtype(store.small_kind(name)[0]).newbyteorder("<")
        body, crc = data[: -shards.CRC_BYTES], data[-shards.CRC_BYTES :]
        if len(body) != math.prod(shape) * dtype.itemsize:
            raise shards.damaged(files.path(chunk), f"got {len(data)} bytes")
        if shards.crc32c(body) != int.from_bytes(crc, "little"):
            raise shards.damaged(files.path(chunk), "another checksum")
        found[name] = np.frombuffer(body, dtype).reshape(shape)
    return found


def _same(found: Any, expected: dict[str, Any], where: str, name: str) -> None:
    if not isinstance(found, dict):
        raise store.damaged(where, f"no metadata of {name}")
    for key, value in expected.items():
        if found.get(key) != value:
            raise store.damaged(where, f"{key} of {name} is not what a pack writes")
