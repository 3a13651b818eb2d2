"""Flow files: Middlebury `.flo`, float32 as it is, and KITTI's 16-bit PNG, steps of 1/64 px.

`.flo`, all little-endian: the float 202021.25 (its bytes spell PIEH), width and height as int32,
then (u, v) pixel by pixel, row by row.

KITTI's PNG has three channels of 16 bits, R, G, B: 64 u + 2^15, 64 v + 2^15, and 1 where the flow
is valid.
"""

import os
import secrets
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vsodpipe.errors import DataError
from vsodpipe.flows import Flow

_MAGIC = b"PIEH"
_HEADER = len(_MAGIC) + 2 * 4
_LONGEST_SIDE = 99_999  # the limit of Middlebury's own reader
_MOST_PIXELS = 2**27  # the limit of media.MAX_PIXELS

STEPS = 64
"""Steps in a pixel of flow that is stored in 16 bits, which reach from -512 px to under 512 px."""
_ZERO = 2**15  # of KITTI's unsigned numbers


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
    header = _MAGIC + np.array([width, height], "<i4").tobytes()
    _replace(path, header, np.ascontiguousarray(flow, "<f4").data)


def read_kitti(path: str | Path) -> tuple[Flow, NDArray[np.bool_]]:
    """Return the flow in a KITTI PNG, float32 (H, W, 2) in pixels, and where it is valid, (H, W).

    Flow is 0 where it is not valid.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"flow file could not be read: {error.strerror} ({path}).") from error
    image = _decoded(data)
    if image is None or image.dtype != np.uint16 or image.ndim != 3 or image.shape[2] != 3:
        found = "no picture" if image is None else f"{image.dtype} {image.shape}"
        raise DataError(
            f"flow file: expected KITTI's PNG of 3 channels of 16 bits, got {found} ({path})."
        )
    valid = image[..., 0] != 0  # OpenCV's order is B, G, R
    flow = np.asarray((image[..., :0:-1].astype(np.float32) - _ZERO) / STEPS, np.float32)
    flow[~valid] = 0
    return flow, valid


def _decoded(data: NDArray[np.uint8]) -> NDArray[Any] | None:
    """Return the picture in the bytes of a PNG, None for what is none or too large to be flow."""
    sides = data[16:24].tobytes()  # width and height stand in the first chunk
    if data[:8].tobytes() != b"\x89PNG\r\n\x1a\n" or len(sides) < 8:
        return None
    if int.from_bytes(sides[:4], "big") * int.from_bytes(sides[4:], "big") > _MOST_PIXELS:
        return None
    try:
        return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None


def write_kitti(path: str | Path, flow: Flow, where: str = "") -> None:
    """Write `flow`, (H, W, 2), as KITTI's PNG, all of it valid; the file appears complete or not.

    Raises DataError for flow that 16 bits do not hold, naming `where` (the path where not given).
    """
    steps = to_steps(flow, where or str(path))
    bgr = np.empty((*flow.shape[:2], 3), np.uint16)
    bgr[..., 0] = 1
    # int16 to uint16 with zero in the middle: the highest bit changes
    bgr[..., :0:-1] = steps.view(np.uint16) ^ np.uint16(_ZERO)
    done, encoded = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise DataError(f"flow file: a flow of {flow.shape} cannot be written as PNG ({path}).")
    _replace(Path(path), encoded.data)


def to_steps(flow: Flow, where: str) -> NDArray[np.int16]:
    """Return `flow`, (H, W, 2) in pixels, in steps of 1/64 px, rounded to the nearest.

    Raises DataError, naming `where`, for flow that is not from -512 px to under 512 px.
    """
    if flow.ndim != 3 or flow.shape[2] != 2 or not flow.size:
        raise DataError(f"flow file: expected a flow (H, W, 2), got {flow.shape} ({where}).")
    steps = np.rint(np.multiply(flow, STEPS, dtype=np.float32))
    low, high = float(steps.min()), float(steps.max())
    if not (low >= -_ZERO and high < _ZERO):  # so that NaN is refused too
        raise DataError(
            f"flow file: expected motion within ±512 px, which 1/64 px in 16 bits reach, got "
            f"{low / STEPS:.0f} to {high / STEPS:.0f} px ({where}). Write it as .flo."
        )
    return steps.astype(np.int16)


def _replace(path: Path, *parts: Any) -> None:
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "xb") as file:
            for part in parts:
                file.write(part)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
