"""Flow files: Middlebury `.flo`, float32 as it is.

Layout, all little-endian: the float 202021.25 (its bytes spell PIEH), width and height as int32,
then (u, v) pixel by pixel, row by row.
"""

import os
import secrets
from pathlib import Path

import numpy as np

from vsodpipe.errors import DataError
from vsodpipe.flows import Flow

_MAGIC = b"PIEH"
_HEADER = len(_MAGIC) + 2 * 4
_LONGEST_SIDE = 99_999  # the limit of Middlebury's own reader


def read_flo(path: str | Path) -> Flow:
    """Return the flow in a `.flo` file: float32 (H, W, 2), (u, v) in pixels."""
    try:
        with open(path, "rb") as file:
            header = file.read(_HEADER)
            size = os.fstat(file.fileno()).st_size
            height, width = _size(header, size, path)
            values = np.fromfile(file, "<f4", height * width * 2)
    except OSError as error:
        raise DataError(f"flow file could not be read: {error.strerror} ({path}).") from error
    return values.reshape(height, width, 2).astype(np.float32, copy=False)


def _size(header: bytes, size: int, path: str | Path) -> tuple[int, int]:
    """Return height and width, once the header and the file's `size` in bytes agree."""
    if len(header) < _HEADER or not header.startswith(_MAGIC):
        raise DataError(
            f"flow file: expected Middlebury's header (PIEH, width, height), got {header!r} "
            f"({path})."
        )
    width, height = (int(side) for side in np.frombuffer(header, "<i4", 2, len(_MAGIC)))
    if not (1 <= width <= _LONGEST_SIDE and 1 <= height <= _LONGEST_SIDE):
        raise DataError(
            f"flow file: expected sides of 1 to {_LONGEST_SIDE} px, got {width}x{height} ({path})."
        )
    expected = _HEADER + height * width * 8
    if size != expected:
        raise DataError(
            f"flow file: expected {expected} bytes for {width}x{height}, got {size} ({path})."
        )
    return height, width


def write_flo(path: str | Path, flow: Flow) -> None:
    """Write `flow`, (H, W, 2); the file appears complete, or not at all."""
    path = Path(path)
    if flow.ndim != 3 or flow.shape[2] != 2 or not flow.size or max(flow.shape) > _LONGEST_SIDE:
        raise DataError(
            f"flow file: expected a flow (H, W, 2) with sides of 1 to {_LONGEST_SIDE} px, got "
            f"{flow.shape} ({path})."
        )
    height, width = flow.shape[:2]
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "xb") as file:
            file.write(_MAGIC)
            file.write(np.array([width, height], "<i4").tobytes())
            file.write(np.ascontiguousarray(flow, "<f4").data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
