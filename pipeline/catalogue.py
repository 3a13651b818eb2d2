"""Cards and the data root: which data sets are known, which are there, which frames they hold.

A data set is a folder in the data root in one of the layouts below. Frame, mask and flow are paired
by video and frame number, never by their place in a sorted list.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vsodpipe import flow_record, media
from vsodpipe.errors import DataError, UsageError, unknown


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a video; `gt` and `flow` are None where there is none."""

    name: str
    img: Path
    gt: Path | None = None
    flow: Path | None = None


@dataclass(frozen=True, slots=True)
class Video:
    """A video: its frames in order, and the folder that holds or will hold its flow.

    A video file has no `frames`; `images` decodes it as it is read.
    """

    name: str
    flow_folder: Path
    frames: tuple[Frame, ...] = ()
    file: Path | None = None

    def images(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames as uint8 RGB (H, W, 3), one at a time."""
        if self.file is not None:
            yield from media.video_frames(self.file)
        else:
            yield from (media.read_image(frame.img) for frame in self.frames)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set of the data root (`DAVIS_train`), or an ad-hoc folder or video file."""

    name: str
    root: Path
    videos: tuple[Video, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the files of a video lie inside the data set's folder."""

    img: str
    gt: str | None
    flow: str


LAYOUTS = (
    Layout("{video}/RGB", "{video}/GT", "{video}/FLOW"),
    Layout("{video}/Imgs", "{video}/ground-truth", "{video}/FLOW"),
    Layout("{video}/Frame", "{video}/GT", "{video}/FLOW"),
    Layout("JPEGImages/480p/{video}", "Annotations/480p/{video}", "JPEGFlows/480p/{video}"),
    Layout("JPEGImages/{video}", "Annotations/{video}", "JPEGFlows/{video}"),
)
"""The first is ours (and DPA's), then DAVSOD's benchmark, SMCF, DAVIS and TMO."""


@dataclass(frozen=True, slots=True)
class Split:
    """A split of a card: where its list of videos lies, and the frames expected of each."""

    lists: tuple[str, ...]
    videos: dict[str, int]


@dataclass(frozen=True, slots=True)
class Card:
    """What is known of a data set that has a name: one TOML file in `vsodpipe.cards`."""

    key: str
    name: str
    title: str
    home: str
    terms: str
    citation: str
    download: str
    layout: dict[str, str]
    splits: dict[str, Split]

    def dataset(self, split: str) -> str:
        """Return the name of the folder in the data root, such as DAVIS_train."""
        return f"{self.name}_{split}"


@cache
def cards() -> dict[str, Card]:
    """Return every known card by its key (the name of its file)."""
    found = {}
    for entry in resources.files("vsodpipe.cards").iterdir():
        key, dot, suffix = entry.name.rpartition(".")
        if suffix == "toml" and dot:
            values: dict[str, Any] = tomllib.loads(entry.read_text(encoding="utf-8"))
            splits = values.pop("splits")
            found[key] = Card(
                key=key,
                splits={n: Split(tuple(s["lists"]), s["videos"]) for n, s in splits.items()},
                **values,
            )
    return dict(sorted(found.items()))


def card_of(dataset: str) -> tuple[Card, str] | None:
    """Return the card and the split behind a data set's name, None for one without a card."""
    named = ((card, split) for card in cards().values() for split in card.splits)
    return next(((c, s) for c, s in named if c.dataset(s) == dataset), None)


def data_root(data: Path | None) -> Path:
    """Return the data root: the option, else VSODPIPE_DATA, else ./datasets."""
    return data if data is not None else Path(os.environ.get("VSODPIPE_DATA") or "datasets")


def present(root: Path) -> list[str]:
    """Return the names of the data sets in the data root, in natural order."""
    if not root.is_dir():
        return []
    names = (p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    return [n for n in sorted(names, key=media.natural_key) if _layout_of(root / n)]


def find(name: str, root: Path) -> Dataset:
    """Return the data set `name` of the data root, or the folder or video file it names.

    Raises UsageError when there is none, saying what is known and what is there, and DataError when
    its files do not fit together.
    """
    path = Path(name)
    if path.name == name and (root / name).is_dir():
        return _scan(root / name, name)
    if path.is_file():
        return _video_file(path)
    if path.is_dir():
        return _scan(path, path.resolve().name)
    raise _missing(name, root)


def _missing(name: str, root: Path) -> UsageError:
    here = present(root)
    there = f"In {root}: {', '.join(here) or 'nothing'}."
    if owner := card_of(name):
        card, _ = owner
        return UsageError(
            f"data set {name} is not in {root}. Get it from {card.home} ({card.download}), then: "
            f"vsodpipe import {card.key} FOLDER. {there}"
        )
    known = {card.dataset(split) for card in cards().values() for split in card.splits}
    error = unknown("data set", name, known | set(here))
    return UsageError(f"{error} {there}")


def _layout_of(folder: Path) -> Layout | None:
    """Return the first layout of which `folder` holds at least one video."""
    return next((layout for layout in LAYOUTS if _video_names(folder, layout)), None)


def _video_names(folder: Path, layout: Layout) -> list[str]:
    before, _, after = layout.img.partition("{video}")
    parent = folder / before
    if not parent.is_dir():
        return []
    inner = after.strip("/")
    names = (p.name for p in parent.iterdir() if not p.name.startswith("."))
    kept = (n for n in names if (parent / n / inner).is_dir())
    # JPEGImages/480p holds videos itself, so that 480p is a resolution and no video
    return sorted((n for n in kept if not n.endswith("480p")), key=media.natural_key)


def _scan(folder: Path, name: str) -> Dataset:
    if layout := _layout_of(folder):
        videos = tuple(_video(folder, layout, v) for v in _video_names(folder, layout))
        return Dataset(name, folder, videos)
    if frames := _numbered(folder):
        flow = folder.with_name(f"{folder.name}_FLOW")
        video = Video(name, flow, _paired(folder, frames, {}, _flow_files(flow)))
        return Dataset(name, folder, (video,))
    patterns = ", ".join(layout.img for layout in LAYOUTS)
    raise DataError(
        f"{folder}: no frames found. Expected pictures in the folder itself or in {patterns}."
    )


def _video_file(path: Path) -> Dataset:
    if path.suffix.lower() not in media.VIDEO_SUFFIXES:
        kinds = " ".join(sorted(media.VIDEO_SUFFIXES))
        raise DataError(f"{path}: expected a folder of frames or a video file ({kinds}).")
    flow = path.with_name(f"{path.stem}_FLOW")
    return Dataset(path.stem, path.parent, (Video(path.stem, flow, file=path),))


def _video(folder: Path, layout: Layout, name: str) -> Video:
    img = folder / layout.img.format(video=name)
    frames = _numbered(img)
    if not frames:
        raise DataError(f"{img}: expected the frames of a video, found no picture.")
    masks = _numbered(folder / layout.gt.format(video=name)) if layout.gt else {}
    flow = folder / layout.flow.format(video=name)
    return Video(name, flow, _paired(img, frames, masks, _flow_files(flow)))


def _paired(
    folder: Path, frames: dict[int, Path], masks: dict[int, Path], flows: dict[int, Path]
) -> tuple[Frame, ...]:
    for kind, files in (("mask", masks), ("flow picture", flows)):
        if extra := sorted(files.keys() - frames.keys()):
            raise DataError(
                f"{folder}: {len(extra)} {kind}s have no frame of their number "
                f"(first: {files[extra[0]]}). Remove them or restore the frames."
            )
    numbers = sorted(frames)
    return tuple(Frame(frames[n].stem, frames[n], masks.get(n), flows.get(n)) for n in numbers)


def _flow_files(folder: Path) -> dict[int, Path]:
    """Return the flow pictures of a committed flow folder; one without a record holds none."""
    return _numbered(folder) if (folder / flow_record.FILE).is_file() else {}


def _numbered(folder: Path) -> dict[int, Path]:
    """Return the pictures of `folder` by frame number; an empty dictionary where there are none."""
    if not folder.is_dir():
        return {}
    found: dict[int, Path] = {}
    for path in folder.iterdir():
        if path.suffix.lower() not in media.IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        number = media.frame_number(path.stem)
        if number is None:
            raise DataError(f"{path}: expected a frame number in the file name. Rename the frames.")
        if number in found:
            other = found[number].name
            raise DataError(f"{path}: frame {number} is there twice (also {other}). Remove one.")
        found[number] = path
    return found
