"""The forms that flow is written in: one writer for one form of one video.

Writers take their entries in any order and from several threads.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vsodpipe import media
from vsodpipe.flows import Flow
from vsodpipe.flows.colour import flow_to_picture
from vsodpipe.flows.files import write_flo, write_kitti

JPEG_QUALITY = 95


@dataclass(frozen=True)
class Form:
    """How one form is called and where it lies."""

    folder: str
    """What its folder's name has after FLOW; nothing for the colour picture."""
    suffix: str
    """Of a frame's file; empty where all frames are in one store."""
    words: str
    """In the record."""

    @property
    def is_picture(self) -> bool:
        """Whether it is the colour picture, to which a colour rule applies."""
        return not self.folder


FORMS = {
    "jpg": Form("", ".jpg", f"jpeg {JPEG_QUALITY} 4:4:4"),
    "png": Form("", ".png", "png"),
    "flo": Form("_FLO", ".flo", "flo float32"),
    "kitti": Form("_KITTI", ".png", "kitti png 16 bit, 1/64 px"),
    "raw": Form("_RAW", "", "zarr int16, 1/64 px"),
}


@dataclass(frozen=True)
class Entry:
    """Flow of one frame, (H, W, 2) in pixels, as it is to be written."""

    number: int
    name: str
    flow: Flow
    longest: float
    """Its largest motion in pixels."""
    where: str
    """Video and frame, for errors."""


class Writer(Protocol):
    """What writes one form into one folder."""

    def put(self, entry: Entry) -> None:
        """Write an entry, or keep it for `finish`."""
        ...

    def finish(self, run: Callable[[Callable[[], None]], None]) -> None:
        """Write what is left, in pieces that `run` may execute later, in other threads."""
        ...

    def count(self) -> int:
        """Return the number of entries that were written."""
        ...

    def close(self) -> None:
        """Let go of what is open, also after an error."""
        ...


def writer(
    form: str, folder: Path, colour: str, radius: float | None, relation: str, tail: str
) -> Writer:
    """Return the writer of `form` into `folder`, which is there and empty.

    `colour` is the colour rule and `radius` its pixels; `relation` and `tail` describe raw flow.
    """
    if form == "raw":
        return _Raw(folder, relation, tail)
    if FORMS[form].is_picture and colour == "video":
        return _Spooled(form, folder)
    return _Files(form, folder, radius)


class _Files:
    """A file for every frame."""

    def __init__(self, form: str, folder: Path, radius: float | None) -> None:
        self._form, self._folder, self._radius = form, folder, radius

    def put(self, entry: Entry) -> None:
        target = self._folder / f"{entry.name}{FORMS[self._form].suffix}"
        if self._form == "flo":
            write_flo(target, entry.flow)
        elif self._form == "kitti":
            write_kitti(target, entry.flow, entry.where)
        else:
            picture = flow_to_picture(entry.flow, self._radius, entry.longest)
            encode = media.encode_png if self._form == "png" else _jpeg
            target.write_bytes(encode(picture))

    def finish(self, run: Callable[[Callable[[], None]], None]) -> None:
        pass

    def count(self) -> int:
        return sum(file.suffix == FORMS[self._form].suffix for file in self._folder.iterdir())

    def close(self) -> None:
        pass


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    return media.encode_jpeg(picture, JPEG_QUALITY)


class _Spooled:
    """Pictures under the rule `video`: its largest motion is known only after its last frame.

    Until then the flow lies in a file in the same folder, 8 bytes a pixel, and not in memory.
    """

    def __init__(self, form: str, folder: Path) -> None:
        self._form, self._folder = form, folder
        # without a name: gone with the writer, whatever happens
        self._spool = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        self._lock = threading.Lock()
        self._kept: list[Entry] = []

    def put(self, entry: Entry) -> None:
        data = np.ascontiguousarray(entry.flow, np.float32).data.cast("B")
        start = entry.number * len(data)
        while data:  # a write may be short
            written = os.pwrite(self._spool.fileno(), data, start)
            data, start = data[written:], start + written
        shape_alone = np.broadcast_to(np.float32(0), entry.flow.shape)
        with self._lock:
            self._kept.append(replace(entry, flow=shape_alone))

    def finish(self, run: Callable[[Callable[[], None]], None]) -> None:
        longest = max((entry.longest for entry in self._kept), default=0.0)
        # where nothing moves any radius makes it white
        files = _Files(self._form, self._folder, longest or 1.0)
        for kept in self._kept:
            run(partial(self._colour, kept, files))

    def _colour(self, kept: Entry, files: _Files) -> None:
        size = kept.flow.size * 4
        data = bytearray()
        while len(data) < size:  # a read may be short
            start = kept.number * size + len(data)
            data += os.pread(self._spool.fileno(), size - len(data), start)
        flow = np.frombuffer(data, np.float32).reshape(kept.flow.shape)
        files.put(replace(kept, flow=flow))

    def count(self) -> int:
        return _Files(self._form, self._folder, None).count()

    def close(self) -> None:
        self._spool.close()


class _Raw:
    """All frames in one store."""

    def __init__(self, folder: Path, relation: str, tail: str) -> None:
        # zarr takes half a second to import, which flow pictures do without
        from vsodpipe.flow_raw import RawFlow

        self._raw = RawFlow(folder, relation, tail)

    def put(self, entry: Entry) -> None:
        self._raw.put(entry.number, entry.name, entry.flow, entry.where)

    def finish(self, run: Callable[[Callable[[], None]], None]) -> None:
        run(self._raw.finish)

    def count(self) -> int:
        return self._raw.count()

    def close(self) -> None:
        pass
