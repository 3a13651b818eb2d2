"""The codec `imagecodecs_jpeg`: one JPEG stream a chunk, for zarr itself.

zarr finds it through the entry point `zarr.codecs` of this package; our reader does without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer

from vsodpipe import shards
from vsodpipe.zarr_files import JPEG


@dataclass(frozen=True)
class JpegCodec(ArrayBytesCodec):
    """Frames of uint8 RGB, (1, H, W, 3)."""

    level: int = shards.JPEGS["jpeg"][0]
    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Return the codec of the metadata of an array."""
        return cls(**data.get("configuration", {}))

    def to_dict(self) -> dict[str, Any]:
        """Return the metadata of this codec."""
        return {"name": JPEG, "configuration": {"level": self.level}}

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Raise NotImplementedError: it depends on the picture."""
        raise NotImplementedError

    async def _decode_single(self, chunk: Buffer, spec: ArraySpec) -> NDBuffer:
        out = np.empty(spec.shape, np.uint8)
        shards.decode_into(chunk.to_bytes(), "jpeg", out[0])
        return spec.prototype.nd_buffer.from_numpy_array(out)

    async def _encode_single(self, chunk: NDBuffer, spec: ArraySpec) -> Buffer:
        codec = next((c for c, (level, _) in shards.JPEGS.items() if level == self.level), None)
        if codec is None:
            raise ValueError(f"imagecodecs_jpeg: level {self.level} can be read, not written")
        data = shards.encode(np.asarray(chunk.as_numpy_array())[0], codec)
        return spec.prototype.buffer.from_bytes(data)
