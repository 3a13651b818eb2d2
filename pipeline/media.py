"""Pictures, masks and video files as arrays, and files that appear whole or not at all.

Decoding is strict: a damaged picture is an error that names the file, never a half-grey frame.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import fsspec
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from vsodpipe.errors import DataError

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
)
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"}
)
MAX_PIXELS = 2**28
"""Larger pictures are refused before they are decoded (a 16k x 16k frame)."""

logger = logging.getLogger(__name__)


def natural_key(text: str) -> list[tuple[int, str]]:
    """Return a sort key by which frame2 comes before frame10."""
    parts = re.findall(r"\d+|\D+", text)
    return [(int(p), "") if p.isascii() and p.isdigit() else (-1, p) for p in parts]


def frame_number(stem: str) -> int | None:
    """Return the last run of digits of a file's stem as a number, None where it has none."""
    runs = re.findall(r"\d+", stem)
    return int(runs[-1]) if runs else None


def read_bytes(path: str | Path) -> bytes:
    """Return the bytes behind a local path or an fsspec URL. Raises DataError for none."""
    try:
        if isinstance(path, Path) or "://" not in path:
            return Path(path).read_bytes()
        with fsspec.open(path, "rb") as file:
            data: bytes = file.read()
            return data
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"{path}: cannot be read: {reason}.") from error


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Return the picture as uint8 RGB (H, W, 3). Raises DataError for one that does not decode."""
    data = read_bytes(path)
    if data[:3] == b"\xff\xd8\xff":
        try:
            height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
            _check_pixels(path, height, width)
            if colorspace not in ("CMYK", "YCCK"):
                return simplejpeg.decode_jpeg(data)
        except ValueError as error:
            raise _damaged(path, error) from error
    with _opened(path, data) as picture:
        return np.array(picture.convert("RGB"))


def read_mask(path: str | Path) -> NDArray[np.bool_]:
    """Return the foreground of a mask file as bool (H, W), True on the object.

    A palette picture holds object numbers: everything but 0 and 255 (void) is foreground. A grey or
    colour picture is foreground above 128, except that one with no value above 1 holds 0 and 1.
    Decided by the file's mode: 255 is void in the one and foreground in the other.
    """
    with _opened(path, read_bytes(path)) as picture:
        if picture.mode == "P":
            index = np.array(picture)
            return (index != 0) & (index != 255)
        if picture.mode not in ("1", "L", "LA", "RGB", "RGBA"):
            raise DataError(
                f"{path}: expected a palette, grey or RGB mask, got picture mode {picture.mode}."
            )
        grey = np.array(picture.convert("L"))
    return grey > (128 if grey.max(initial=0) > 1 else 0)


def read_map(path: str | Path) -> NDArray[np.uint8]:
    """Return a saliency map as uint8 (H, W): grey levels, or the first channel of a colour file."""
    with _opened(path, read_bytes(path)) as picture:
        if picture.mode in ("P", "1"):
            return np.array(picture.convert("L"))
        array = np.array(picture)
    if array.dtype != np.uint8:
        raise DataError(f"{path}: expected an 8-bit saliency map, got {array.dtype}.")
    return np.ascontiguousarray(array[..., 0] if array.ndim == 3 else array)


def image_size(path: str | Path) -> tuple[int, int]:
    """Return (height, width) from the header alone, without decoding the picture."""
    source: io.BytesIO | Path = (
        Path(path) if isinstance(path, Path) or "://" not in path else io.BytesIO(read_bytes(path))
    )
    try:
        with Image.open(source) as picture:
            return picture.height, picture.width
    except (OSError, SyntaxError, ValueError) as error:
        raise _damaged(path, error) from error


def video_frames(path: str | Path) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a video file as uint8 RGB (H, W, 3), one at a time.

    Raises DataError when the file is missing or holds no picture that OpenCV's FFmpeg reads. A file
    that ends more than one frame before the length in its header is reported as a warning.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: no such video file.")
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        expected, count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0
        while True:
            found, frame = capture.read()
            if not found:
                break
            count += 1
            yield np.ascontiguousarray(frame[..., ::-1])
        if not count:
            raise DataError(f"{path}: not a video that OpenCV can read. Convert it to H.264 mp4.")
        if expected > count + 1:
            logger.warning("%s: %d of %d frames could be read", path, count, expected)
    finally:
        capture.release()


def video_length(path: Path) -> int:
    """Return the number of frames in the header of a video file (0 where it does not say)."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        return max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    finally:
        capture.release()


def encode_jpeg(image: NDArray[np.uint8], quality: int = 95) -> bytes:
    """Return uint8 RGB (H, W, 3) as JPEG bytes, full-resolution chroma."""
    contiguous = np.ascontiguousarray(image)
    return simplejpeg.encode_jpeg(contiguous, quality=quality, colorsubsampling="444")


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Return uint8 grey (H, W) or RGB (H, W, 3) as PNG bytes."""
    bgr = image[..., ::-1] if image.ndim == 3 else image
    done, buffer = cv2.imencode(".png", np.ascontiguousarray(bgr), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise DataError(f"a picture of shape {image.shape} cannot be written as PNG.")
    return buffer.tobytes()


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` so that `path` either appears whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; what was written there replaces `path` on success.

    Works for a file and for a new folder. Raises DataError where the place cannot be written.
    """
    # one fixed name, so that the next run removes what a killed one left
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(partial)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            remove(partial)
        raise DataError(f"{path}: cannot be written: {error.strerror or error}.") from error
    except BaseException:
        remove(partial)
        raise


def remove(path: Path) -> None:
    """Delete a file, a link or a whole folder; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _opened(path: str | Path, data: bytes) -> Iterator[Image.Image]:
    """Yield the decoded Pillow picture behind `data`; what it cannot decode is a DataError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as picture:
                _check_pixels(path, picture.height, picture.width)
                picture.load()
                yield picture
    except (OSError, SyntaxError, ValueError, Warning) as error:
        raise _damaged(path, error) from error


def _check_pixels(path: str | Path, height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise DataError(f"{path}: {width}x{height} pixels are more than the limit of {MAX_PIXELS}.")


def _damaged(path: str | Path, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: no such file.")
    reason = str(error).strip().rstrip(".") or type(error).__name__
    if "cannot identify image file" in reason:
        reason = "not a picture"
    return DataError(f"{path}: damaged picture ({reason}). Restore the file and run again.")
