"""The data root: which data sets are there, and which frames they hold.

A data set is a folder in the data root in one of the layouts below. Frame, mask and flow are paired
by video and frame number, never by their place in a sorted list.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vsodpipe import flow_record, media, video_file
from vsodpipe.card import PRIVATE, card_of, cards
from vsodpipe.errors import DataError, UsageError, unknown
from vsodpipe.listing import entries, is_folder, numbered, pictures


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a video, or a still picture; an input that it has not is None."""

    name: str
    img: Path
    gt: Path | None = None
    flow: Path | None = None
    depth: Path | None = None
    thermal: Path | None = None


@dataclass(frozen=True, slots=True)
class Video:
    """A video: its frames in order, and the place that holds or will hold its flow.

    A video file has no `frames`; `images` decodes it as it is read.
    """

    name: str
    flow_base: Path
    """The folder that gives flow its name; other forms lie beside it, as FLOW_FLO beside FLOW."""
    flow_inner: str = ""
    """Where in there this video's flow lies: `480p/bear` of JPEGFlows/480p/bear."""
    frames: tuple[Frame, ...] = ()
    file: Path | None = None
    flow_is_here: bool = False
    """Flow of whatever form lies in `flow_base` itself: the user named the folder."""

    @property
    def flow_folder(self) -> Path:
        """The folder of the flow pictures."""
        return self.flow_base / self.flow_inner

    def flow_beside(self, suffix: str) -> Path:
        """Return the folder of another form of flow, such as `_FLO`."""
        if self.flow_is_here:
            return self.flow_folder
        return self.flow_base.with_name(self.flow_base.name + suffix) / self.flow_inner

    def images(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames as uint8 RGB (H, W, 3), one at a time."""
        if self.file is not None:
            yield from video_file.frames(self.file)
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

    def flow_place(self, video: str) -> tuple[str, str]:
        """Return the folder named after flow and the place inside it, for one video."""
        first, _, rest = self.flow.partition("/")
        if first == "{video}":
            return self.flow.format(video=video), ""
        return first, rest.format(video=video)


LAYOUTS = (
    Layout("{video}/RGB", "{video}/GT", "{video}/FLOW"),
    Layout("{video}/Imgs", "{video}/ground-truth", "{video}/FLOW"),
    Layout("{video}/Frame", "{video}/GT", "{video}/FLOW"),
    Layout("JPEGImages/480p/{video}", "Annotations/480p/{video}", "JPEGFlows/480p/{video}"),
    Layout("JPEGImages/{video}", "Annotations/{video}", "JPEGFlows/{video}"),
)
"""The first is ours (and DPA's), then DAVSOD's benchmark, SMCF, DAVIS and TMO."""

RESOLUTION = "480p"
"""The folder of JPEGImages that holds the videos of DAVIS and is none itself."""


def data_root(data: Path | None) -> Path:
    """Return the data root: the option, else VSODPIPE_DATA, else ./datasets."""
    return data if data is not None else Path(os.environ.get("VSODPIPE_DATA") or "datasets")


def cards_root(root: str) -> Path:
    """Return whose private cards describe the data below `root`, a folder or URL.

    Its own, where it has some, else those of the data root of this session.
    """
    own = "://" not in root and (Path(root) / PRIVATE).is_dir()
    return Path(root) if own else data_root(None)


def present(root: Path) -> list[str]:
    """Return the names of the data sets in the data root, in natural order."""
    names = (path.name for path in entries(root) if _may_be_dataset(path))
    return sorted(names, key=media.natural_key)


def _may_be_dataset(folder: Path) -> bool:
    try:
        return is_of_pictures(folder, folder.name) or layout_of(folder) is not None
    except DataError:  # it cannot be read: whoever needs it is told so
        return True


def find(name: str, root: Path) -> Dataset:
    """Return the data set `name` of the data root, or the folder or video file it names.

    Raises UsageError when there is none, saying what is known and what is there, and DataError when
    its files do not fit together.
    """
    if not name:
        raise UsageError("'': expected the name of a data set, or a path.")
    path = Path(name)
    if str(path) == path.name != ".." and is_folder(root / path):
        return _scan(root / path, path.name)
    if path.name in ("", ".."):  # the last part of `.` and `..` is no name
        path = path.resolve()
    if is_folder(path):
        return _scan(path, path.name)
    if os.path.isfile(path):
        return _video_file(path)
    raise _missing(name, root)


def _missing(name: str, root: Path) -> UsageError:
    here = present(root)
    there = f"In {root}: {', '.join(here) or 'nothing'}."
    if owner := card_of(name, root):
        card, _ = owner
        what = f" ({card.download})" if card.download else ""
        return UsageError(
            f"data set {name} is not in {root}. Get it from {card.home}{what}, then: "
            f"vsodpipe import {card.key} FOLDER. {there}"
        )
    if "/" in name:
        return UsageError(f"{name}: no such file or folder. Check the path. {there}")
    known = {card.dataset(split) for card in cards(root).values() for split in card.splits}
    error = unknown("data set", name, known | set(here))
    return UsageError(f"{error} {there}")


def layout_of(folder: Path) -> Layout | None:
    """Return the first layout of which `folder` holds at least one video."""
    return next((layout for layout in LAYOUTS if video_names(folder, layout)), None)


def video_names(folder: Path, layout: Layout) -> list[str]:
    """Return the names of the videos that `folder` has in `layout`, in natural order."""
    names = _names(folder, layout)
    return [n for n in names if layout.img.format(video=n) != f"JPEGImages/{RESOLUTION}"]


def _names(folder: Path, layout: Layout) -> list[str]:
    """Return every name for which `folder` has the image folder of `layout`, in natural order."""
    before, _, after = layout.img.partition("{video}")
    inner = after.strip("/")
    names = (p.name for p in entries(folder / before) if is_folder(p / inner))
    return sorted(names, key=media.natural_key)


def _scan(folder: Path, name: str) -> Dataset:
    if is_of_pictures(folder, name):
        return Dataset(name, folder, pictures_of(folder))
    if layout := layout_of(folder):
        names = video_names(folder, layout)
        _check_left_out(folder, layout, names)
        return Dataset(name, folder, tuple(read_video(folder, layout, v) for v in names))
    if frames := numbered(folder):
        flow = folder.parent / f"{folder.name}_FLOW"
        video = Video(name, flow, frames=_paired(folder, frames, {}, _flow_files(flow)))
        return Dataset(name, folder, (video,))
    patterns = ", ".join(layout.img for layout in LAYOUTS)
    raise DataError(
        f"{folder}: no frames found. Expected pictures in the folder itself or in {patterns}."
    )


def is_of_pictures(folder: Path, name: str) -> bool:
    """Return whether `folder` is a set of still pictures: only its card can tell."""
    owner = card_of(name, folder.parent)
    return owner is not None and owner[0].kind == "image" and bool(pictures(folder / "RGB"))


def pictures_of(folder: Path) -> tuple[Video, ...]:
    """Return each still picture as a video of one frame, as it has a size and flow of its own."""
    inputs = {}
    for kind in ("RGB", "GT", "DEPTH", "THERMAL"):
        files = pictures(folder / kind)
        inputs[kind] = {path.stem: path for path in files}
        if len(inputs[kind]) < len(files):
            raise DataError(f"{folder / kind}: two pictures differ in their endings. Remove one.")
    gt, depth, thermal = inputs["GT"], inputs["DEPTH"], inputs["THERMAL"]
    with_flow = {path.name for path in entries(folder / "FLOW")}
    videos = []
    for n in sorted(inputs["RGB"], key=media.natural_key):
        place = folder / "FLOW" / n
        flow = _flow_of_picture(place) if n in with_flow else None
        frame = Frame(n, inputs["RGB"][n], gt.get(n), flow, depth.get(n), thermal.get(n))
        videos.append(Video(n, folder / "FLOW", n, (frame,)))
    return tuple(videos)


def _flow_of_picture(folder: Path) -> Path | None:
    """Return the flow picture in a committed flow folder of one still picture."""
    has_record = any(path.name == flow_record.FILE for path in entries(folder))
    return next(iter(pictures(folder)), None) if has_record else None


def _check_left_out(folder: Path, layout: Layout, names: list[str]) -> None:
    """Raise DataError when pictures lie where another layout has its videos: none may vanish."""
    taken = {layout.img.format(video=name) for name in names}
    places = (other.img.format(video=n) for other in LAYOUTS for n in _names(folder, other))
    if left := [place for place in places if place not in taken and pictures(folder / place)]:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise DataError(
            f"{folder}: its videos lie in {layout.img}, but there are pictures in "
            f"{', '.join(left[:3])}{more} too. Bring all into one layout, or move them away."
        )


def _video_file(path: Path) -> Dataset:
    # with its suffix: clip.avi, clip.mp4 and a folder `clip` may lie side by side
    flow = path.with_name(f"{path.name}_FLOW")
    return Dataset(path.stem, path.parent, (Video(path.stem, flow, file=path),))


def read_video(folder: Path, layout: Layout, name: str) -> Video:
    """Return one video of the data set in `folder`. Raises DataError for what does not pair."""
    img = folder / layout.img.format(video=name)
    frames = numbered(img)
    if not frames:
        raise DataError(f"{img}: expected the frames of a video, found no picture.")
    masks = numbered(folder / layout.gt.format(video=name)) if layout.gt else {}
    base, inner = layout.flow_place(name)
    flows = _flow_files(folder / base / inner)
    return Video(name, folder / base, inner, _paired(img, frames, masks, flows))


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
    has_record = any(path.name == flow_record.FILE for path in entries(folder))
    return numbered(folder) if has_record else {}
