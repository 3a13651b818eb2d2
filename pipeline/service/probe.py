"""Is this file what its name says? For uploads, in a process that may fail.

python -m vsodpipe.service.probe FILE       one line on stderr where it is not
"""

from __future__ import annotations

import sys
from pathlib import Path

from vsodpipe import media, unpack, video_file
from vsodpipe.errors import DataError, VsodpipeError

_STARTS = (
    (4, (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")),  # mp4, mov, m4v, 3gp
    (8, (b"AVI ",)),
    (0, (b"\x1aE\xdf\xa3", b"FLV", b"OggS")),  # mkv and webm, flv, ogv
    (0, (b"\0\0\1\xba", b"\0\0\1\xb3", b"0&\xb2u\x8ef\xcf\x11")),  # mpeg, wmv
    (188, (b"G",)),  # a second packet of ts
    (196, (b"G",)),  # and of m2ts
)
"""Where containers of video say what they are. FFmpeg would also take lists of other files."""


def check(file: Path) -> None:
    """Raise DataError unless `file` is an archive without traps, or a video whose frames decode."""
    if file.suffix.lower() not in media.VIDEO_SUFFIXES:
        if not unpack.is_archive(file):
            raise DataError(f"{file}: not an archive (zip, tar).")
        unpack.members(file)
        return
    with open(file, "rb") as opened:
        head = opened.read(200)
    if not any(head.startswith(starts, place) for place, starts in _STARTS):
        raise DataError(f"{file}: not a video of a known container (mp4, mkv, avi, ...).")
    next(video_file.frames(file))


if __name__ == "__main__":
    try:
        check(Path(sys.argv[1]))
    except (VsodpipeError, OSError) as error:
        sys.exit(str(error))
