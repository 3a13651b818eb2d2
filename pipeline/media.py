"""Pictures, masks and video files as arrays, and files that appear whole or not at all.

Decoding is strict: a damaged picture is an error that names the file, never a half-grey frame.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import fsspec
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from vsodpipe import locks, remote
from vsodpipe.errors import DataError, unwritable

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
)
VIDEO_SUFFIXES = frozenset(
    ".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv".split()
)
"""The files of a folder that are taken for videos; one that is named itself may be any."""
MAX_PIXELS = 2**27
"""Larger pictures are refused before they are decoded; 16k x 8k, below Pillow's own limit."""
MAX_JSON = 2**26
"""Bytes of a record; larger ones are not read (a manifest has a limit of its own)."""
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Pillow knows more: EPS, for which it would start Ghostscript


def natural_key(text: str) -> list[tuple[int, str]]:
    """Return a sort key by which frame2 comes before frame10."""
    parts = re.findall(r"\d+|\D+", text)
    return [(int(p), "") if p.isascii() and p.isdigit() else (-1, p) for p in parts]


def frame_number(stem: str) -> int | None:
    """Return the last run of digits of a file's stem as a number, None where it has none."""
    runs = re.findall(r"\d+", stem)
    return int(runs[-1]) if runs else None


def read_bytes(path: str | Path, limit: int | None = None) -> bytes:
    """Return the bytes behind a local path or an fsspec URL.

    Raises DataError for none, and for more than `limit` of them.
    """
    most = -1 if limit is None else limit + 1
    if isinstance(path, str) and "://" in path:
        data = _read_url(path, most)
    else:
        try:
            with open(path, "rb") as file:
                # read() takes memory for all that it is asked for; a device says it has nothing
                there = os.fstat(file.fileno()).st_size
                data = file.read(min(most, there + 1) if there and limit else most)
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from error
    if limit is not None and len(data) > limit:
        raise DataError(f"{path}: more than the limit of {limit} bytes. Split it into several.")
    return data


def _read_url(url: str, most: int) -> bytes:
    try:
        with fsspec.open(url, "rb", **remote.options(url)) as file:
            data: bytes = file.read(most)
            return data
    except ImportError as error:  # fsspec says which package this protocol needs
        raise DataError(f"{url}: cannot be read: {_words(error)}.") from error
    except Exception as error:  # every remote file system has errors of its own
        raise remote.refused(url, error) or _unreadable(url, error) from error


def read_json(path: str | Path, remedy: str = "Restore the file and run again.") -> Any:
    """Return the value of a JSON file or URL. Raises DataError, ending in `remedy`, for no JSON."""
    try:
        return json.loads(read_bytes(path, limit=MAX_JSON))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file ({_words(error)}). {remedy}") from error


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Return the picture as uint8 RGB (H, W, 3).

    Raises DataError for one that does not decode, and for grey levels of more than 8 bits.
    """
    return decode_image(path, read_bytes(path))


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return (height, width) of a JPEG in RGB or YCbCr, None for another one."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (height, width) if colorspace in ("RGB", "YCbCr") else None


def decode_image(path: str | Path, data: bytes, luma: bool = False) -> NDArray[np.uint8]:
    """Return the picture in the bytes of `path` as `read_image` does.

    With `luma`, a JPEG is (H, W, 1): all of it is decoded, and no time spent on its colours.
    """
    if data[:3] == b"\xff\xd8\xff":
        try:
            height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
            check_pixels(path, height, width)
            if colorspace not in ("CMYK", "YCCK"):
                return simplejpeg.decode_jpeg(data, "GRAY" if luma else "RGB")
        except ValueError as error:
            raise _damaged(path, error) from error
    with opened(path, io.BytesIO(data)) as picture:
        if picture.mode.startswith(("I", "F")):  # Pillow would clip them to white
            raise DataError(
                f"{path}: expected an 8-bit picture, got picture mode {picture.mode}. "
                "Convert the frames to 8 bits."
            )
        return np.array(picture.convert("RGB"))


def read_mask(path: str | Path) -> NDArray[np.bool_]:
    """Return the foreground of a mask file as bool (H, W), True on the object.

    A palette picture holds object numbers: everything but 0 and 255 (void) is foreground. A grey or
    colour picture is foreground above 128, except that one whose largest value is 1 holds 0 and 1.
    The mode tells the two apart: 255 is void in the one and foreground in the other.
    """
    return decode_mask(path, read_bytes(path))


def decode_mask(path: str | Path, data: bytes) -> NDArray[np.bool_]:
    """Return the mask in `data`, the bytes of `path`; see `read_mask`."""
    return _foreground(*mask_values(path, data))


def _foreground(numbers: bool, values: NDArray[np.uint8]) -> NDArray[np.bool_]:
    if numbers:
        return (values != 0) & (values != 255)
    return values > (0 if values.max(initial=0) == 1 else 128)


def read_soft_mask(path: str | Path) -> NDArray[np.uint8]:
    """Return the grey levels of a mask file as uint8 (H, W), 255 on the object.

    The files that `read_mask` knows to hold numbers have no grey levels: 0 and 255.
    """
    numbers, values = mask_values(path, read_bytes(path))
    if numbers or values.max(initial=0) == 1:
        return np.where(_foreground(numbers, values), np.uint8(255), np.uint8(0))
    return values


def mask_values(path: str | Path, data: bytes) -> tuple[bool, NDArray[np.uint8]]:
    """Return whether a mask holds object numbers, and its numbers or grey levels as uint8 (H, W).

    Raises DataError for bytes of `path` that are no such picture.
    """
    with opened(path, io.BytesIO(data)) as picture:
        if picture.mode not in ("P", "1", "L", "LA", "RGB", "RGBA"):
            raise DataError(
                f"{path}: expected a palette, grey or RGB mask, got picture mode {picture.mode}."
            )
        numbers = picture.mode == "P"
        return numbers, np.array(picture if numbers else picture.convert("L"))


def read_map(path: str | Path) -> NDArray[np.uint8]:
    """Return a saliency map as uint8 (H, W): grey levels, or the first channel of a colour file."""
    return decode_map(path, read_bytes(path))


def decode_map(path: str | Path, data: bytes) -> NDArray[np.uint8]:
    """Return the grey levels in `data`, the bytes of `path`; see `read_map`."""
    with opened(path, io.BytesIO(data)) as picture:
        if picture.mode in ("P", "1"):
            return np.array(picture.convert("L"))
        array = np.array(picture)
    if array.dtype != np.uint8:
        raise DataError(f"{path}: expected 8-bit grey levels, got {array.dtype}.")
    return np.ascontiguousarray(array[..., 0] if array.ndim == 3 else array)


def read_prediction(path: str | Path) -> NDArray[np.uint8]:
    """Return a published map as uint8 (H, W): grey levels; 255 for every object of a palette.

    Raises DataError for a picture in colours, such as an overlay: its first channel means nothing.
    """
    data = read_bytes(path)
    with opened(path, io.BytesIO(data)) as picture:
        if picture.mode not in ("P", "RGB", "RGBA"):
            return decode_map(path, data)
        colours = np.array(picture.convert("RGB"))
        if not _coloured(colours):
            return np.ascontiguousarray(colours[..., 0])
        if picture.mode == "P":  # the ids of objects, as DAVIS-2017 stores masks
            return np.where(np.array(picture) > 0, np.uint8(255), np.uint8(0))
    raise DataError(f"{path}: a picture in colours, expected a map of grey levels.")


def _coloured(image: NDArray[np.uint8]) -> bool:
    """Return whether the channels of (H, W, 3) differ by more than a codec makes of grey."""
    first = np.ascontiguousarray(image[..., 0])
    others = (np.ascontiguousarray(image[..., channel]) for channel in (1, 2))
    return any(int(cv2.absdiff(first, other).max()) > 16 for other in others)


def image_size(path: str | Path) -> tuple[int, int]:
    """Return (height, width) from the header alone, without decoding the picture."""
    is_url = isinstance(path, str) and "://" in path
    with opened(path, io.BytesIO(read_bytes(path)) if is_url else Path(path)) as picture:
        return picture.height, picture.width


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
    """Write `data` so that `path` either appears whole or not at all.

    Several processes may write the same file at once: the last one's stays. Raises what
    `replacing` raises.
    """
    with _beside(path) as partial:
        while True:
            partial.touch()
            with suppress(FileNotFoundError), locks.alone(partial):  # another one's, renamed by it
                partial.write_bytes(data)
                os.replace(partial, path)
                return


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; what was written there replaces `path` on success.

    A file replaces a file, a folder replaces a folder. Raises DataError where the place cannot be
    written, and VsodpipeError for a full disk.
    """
    with _beside(path) as partial:
        remove(partial)
        remove(_aside(path))
        yield partial
        if partial.is_dir():  # which no rename puts in the place of another one
            withdraw(path)
        os.replace(partial, path)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Yield the temporary name beside `path`, at which nothing is left after an error."""
    # one fixed name, so that the next run removes what a killed one left
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
    except OSError as error:
        with suppress(OSError):
            remove(partial)
        raise unwritable(path, error) from error
    except BaseException:
        remove(partial)
        raise


def is_free(folder: Path) -> bool:
    """Return whether `folder` holds nothing but what a killed run left, or is not there."""
    if not folder.is_dir():
        return not os.path.lexists(folder)
    return all(map(is_leftover, os.listdir(folder)))


def is_leftover(name: str) -> bool:
    """Return whether this is the name of what a killed run left."""
    return name.startswith(".") and name.endswith((".partial", ".old"))


def withdraw(path: Path) -> None:
    """Delete a file, a link or a whole folder so that nobody ever sees half of the folder.

    What a killed process left of one is deleted here, and when `path` is written anew.
    """
    remove(_aside(path))
    if path.is_dir() and not path.is_symlink():
        os.replace(path, _aside(path))
        remove(_aside(path))
    else:
        path.unlink(missing_ok=True)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def remove(path: Path) -> None:
    """Delete a file, a link or a whole folder; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def opened(path: str | Path, source: io.BytesIO | Path) -> Iterator[Image.Image]:
    """Yield the Pillow picture in `source`, the bytes or the file of `path`.

    Raises DataError for what it cannot open or decode, and for a picture of too many pixels.
    """
    try:
        with warnings.catch_warnings():
            # our own limit decides; Pillow warns at a third of it
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(source, formats=_FORMATS) as picture:
                check_pixels(path, picture.height, picture.width)
                yield picture
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. Restore it, or check the path.") from error
    except (DataError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: more pixels than the limit of {MAX_PIXELS}.") from error
    except Exception as error:  # a damaged file fails anywhere inside Pillow
        if getattr(error, "strerror", None):
            raise _unreadable(path, error) from error
        raise _damaged(path, error) from error


def check_pixels(path: str | Path, height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise DataError(f"{path}: {width}x{height} pixels are more than the limit of {MAX_PIXELS}.")


def _unreadable(path: str | Path, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or _words(error)
    return DataError(f"{path}: cannot be read: {reason}. Check the path.")


def _damaged(path: str | Path, error: Exception) -> DataError:
    reason = _words(error)
    if "cannot identify image file" in reason:
        reason = "not a picture"
    return DataError(f"{path}: damaged picture ({reason}). Restore the file and run again.")


def _words(error: Exception) -> str:
    """Return what an error says, on one line."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
