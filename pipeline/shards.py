"""Shards of the zarr 3 format, as bytes: encoded frames one after another, their index at the end.

The index is, for every frame the shard has room for, offset and length as little-endian uint64
(2^64-1 twice where the frame is absent), then the CRC-32C of all that.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Literal

import google_crc32c
import numcodecs.blosc
import numcodecs.zstd
import numpy as np
import simplejpeg
from numcodecs import Blosc, Zlib, Zstd
from numpy.typing import NDArray

from vsodpipe.errors import DataError

Codec = Literal[
    "raw", "lz4hc", "lz4hc-shuffle", "jpeg", "jpeg-small", "zlib", "zstd", "lz4", "lz4-shuffle"
]
"""How one frame is encoded; `zlib` is HDF5's, and the last three are of stores made before."""
JPEGS: dict[Codec, tuple[int, str]] = {"jpeg": (95, "444"), "jpeg-small": (90, "420")}
"""Quality and chroma subsampling of the codecs that hold a whole JPEG stream."""
ABSENT = 2**64 - 1
CRC_BYTES = 4

numcodecs.blosc.use_threads = False  # its threads do not survive a fork, and frames are small

_COMPRESSORS: dict[str, Any] = {
    "lz4hc": Blosc(cname="lz4hc", clevel=3, shuffle=Blosc.NOSHUFFLE),
    "lz4hc-shuffle": Blosc(cname="lz4hc", clevel=3, shuffle=Blosc.SHUFFLE),
    "zlib": Zlib(level=1),
    "zstd": Zstd(level=1),
    "lz4": Blosc(cname="lz4", clevel=5, shuffle=Blosc.NOSHUFFLE),
    "lz4-shuffle": Blosc(cname="lz4", clevel=5, shuffle=Blosc.SHUFFLE),
}


def encode(frame: NDArray[Any], codec: Codec) -> bytes:
    """Return one frame, uint8 or int16, as the bytes of its chunk."""
    frame = np.ascontiguousarray(frame)
    if codec == "raw":
        return frame.tobytes()
    if codec in JPEGS:
        quality, sampling = JPEGS[codec]
        return simplejpeg.encode_jpeg(frame, quality=quality, colorsubsampling=sampling)
    return bytes(_COMPRESSORS[codec].encode(frame))


def decode_into(chunk: bytes, codec: Codec, out: NDArray[Any]) -> None:
    """Decode the bytes of a chunk into `out`. Raises ValueError for what does not decode."""
    if codec == "raw":
        if len(chunk) != out.nbytes:
            raise ValueError(f"expected {out.nbytes} bytes, got {len(chunk)}")
        out[...] = np.frombuffer(chunk, out.dtype).reshape(out.shape)
    elif codec in JPEGS:
        height, width, *_ = simplejpeg.decode_jpeg_header(chunk)
        if (height, width) != out.shape[:2]:
            raise ValueError(f"expected {out.shape[1]}x{out.shape[0]}, got {width}x{height}")
        simplejpeg.decode_jpeg(chunk, buffer=out)
    elif codec == "zlib":
        _inflate_into(chunk, out)
    else:
        decompress = numcodecs.zstd.decompress if codec == "zstd" else numcodecs.blosc.decompress
        try:
            decompress(chunk, out)
        except RuntimeError as error:
            raise ValueError(str(error)) from error


def _inflate_into(chunk: bytes, out: NDArray[Any]) -> None:
    """Unpack zlib into `out`; numcodecs would unpack all that a chunk holds, however much it is."""
    try:
        data = zlib.decompressobj().decompress(chunk, out.nbytes + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(data) != out.nbytes:
        raise ValueError(f"expected {out.nbytes} bytes, got {len(data)} or more")
    out[...] = np.frombuffer(data, out.dtype).reshape(out.shape)


def crc32c(data: Any) -> int:
    """Return the CRC-32C of bytes or of a contiguous array."""
    return int(google_crc32c.value(data))


def build(chunks: Sequence[bytes | None], room: int) -> bytes:
    """Return the shard of `chunks` (None where a frame is absent) with room for `room` frames."""
    index = np.full((room, 2), ABSENT, "<u8")
    start = 0
    for row, chunk in zip(index, chunks, strict=False):
        if chunk is not None:
            row[:] = start, len(chunk)
            start += len(chunk)
    table = index.tobytes()
    present = [chunk for chunk in chunks if chunk is not None]
    return b"".join([*present, table, crc32c(table).to_bytes(CRC_BYTES, "little")])


def index_bytes(room: int) -> int:
    """Return the length of the index of a shard with room for `room` frames."""
    return 16 * room + CRC_BYTES


def parse_index(data: bytes, where: str, size: int | None = None) -> NDArray[np.uint64]:
    """Return offset and length of every frame, (room, 2), from the bytes at the end of a shard.

    Raises DataError, naming `where`, for a checksum that does not fit, and for a frame that lies
    outside the shard's `size` in bytes (where that is known).
    """
    table = data[:-CRC_BYTES]
    index = np.frombuffer(table, "<u8").reshape(-1, 2) if len(table) % 16 == 0 else None
    if index is None or crc32c(table) != int.from_bytes(data[-CRC_BYTES:], "little"):
        raise damaged(where, "its index has another checksum")
    there = index[index[:, 0] != ABSENT]
    limit = 2**62 if size is None else size - len(data)
    if (there > limit).any() or (there.sum(axis=1) > limit).any():
        raise damaged(where, "its index points outside")
    return index


def damaged(where: str, reason: str) -> DataError:
    """Return the error for a shard that is not what was written."""
    return DataError(f"{where}: damaged ({reason}). Copy the store again or pack it anew.")
