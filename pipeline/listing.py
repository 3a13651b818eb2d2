"""What lies in the folders of a data set: pictures, with their frame numbers."""

from __future__ import annotations

import stat
from pathlib import Path

from vsodpipe import media
from vsodpipe.errors import DataError

MAPS_RECORD = "maps.json"
"""In a folder of saliency maps: what they were made with."""
OVERLAY = ".vsod.mp4"
"""How the name of a video of maps ends, which `vsodpipe predict` writes beside a video."""


def numbered(folder: Path) -> dict[int, Path]:
    """Return the pictures of `folder` by frame number; an empty dictionary where there are none.

    Raises DataError for a picture without a number and for a number that is there twice.
    """
    found: dict[int, Path] = {}
    for path in pictures(folder):
        number = media.frame_number(path.stem)
        if number is None:
            raise DataError(f"{path}: expected a frame number in the file name. Rename the frames.")
        if number in found:
            other = found[number].name
            raise DataError(f"{path}: frame {number} is there twice (also {other}). Remove one.")
        found[number] = path
    return found


def pictures(folder: Path) -> list[Path]:
    """Return the pictures in `folder`, in no order; nothing where there is no folder."""
    return [path for path in entries(folder) if path.suffix.lower() in media.IMAGE_SUFFIXES]


def entries(folder: Path) -> list[Path]:
    """Return what lies in `folder` and is not hidden; nothing where there is no folder."""
    if not is_folder(folder):
        return []
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be read: {error.strerror}. Change its permissions."
        ) from error


def is_folder(path: Path) -> bool:
    """Return whether `path` is a folder. Raises DataError where that may not be known."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except PermissionError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror}. Change its permissions."
        ) from error
    except (OSError, ValueError):
        return False
