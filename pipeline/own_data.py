"""Videos of your own into the data root, without a card: frames as links, video files decoded.

vsodpipe import --own holiday my_clips/ --masks my_masks/
datasets/holiday/surf/RGB/00000.jpg
datasets/holiday/surf/GT/00000.png
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vsodpipe import card as known
from vsodpipe import catalogue, flow_record, importer, media, plan, unpack, video_file
from vsodpipe.errors import DataError, UsageError, few
from vsodpipe.importer import Imported
from vsodpipe.listing import entries, is_folder, numbered, pictures
from vsodpipe.plan import Item
from vsodpipe.progress import Counter, Reporter

FRAMES = ("rgb", "imgs", "img", "images", "frame", "frames", "jpegimages")
MASKS = ("gt", "mask", "masks", "annotations", "ground-truth", "ground_truth", "groundtruth")
"""What folders of frames and of masks are called, in small letters."""
RECORD = ".source.json"
"""Says, in a folder of decoded frames, which video file they were made of."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A video to bring in: its frames by number, or its file; masks by number; where they lie."""

    name: str
    place: Path
    """The video file or the folder of the frames."""
    frames: dict[int, Path]
    """Empty for a video file."""
    masks: dict[int, Path]


def import_own(
    name: str,
    sources: Sequence[str],
    root: Path,
    reporter: Reporter,
    *,
    masks: Path | None = None,
    force: bool = False,
    stride: int | None = None,
) -> Imported:
    """Bring videos into the data root as data set `name`, in our layout, with their masks.

    A source is a video file, a folder of frames, a folder of such folders or files, a folder in a
    known layout, a glob, or an archive of these, which is unpacked below the data root. Frames
    become links; video files are decoded to JPEG (quality 95, full chroma), numbered from 0. Masks
    are those of the layout, of a folder called `masks`, `GT` or alike beside the videos, or of the
    folder `masks`: one folder a video, or the pictures of the only one. Frames and masks are paired
    by number; what is foreground follows `media.read_mask`. Every `stride`-th number is taken. A
    video that stands already is kept; one of other frames is an error unless `force`. Raises
    UsageError for names, and DataError for what does not fit.
    """
    _check_name(name, root)
    place = root / importer.UNPACKED / name
    sources = [_unpacked(source, place, reporter, force) for source in sources]
    clips = find(sources, masks, root / name)
    kept = [_thinned(clip, stride or 1) for clip in clips]
    total = sum(len(clip.frames) or video_file.length(clip.place) for clip in kept)
    frames, masked = 0, 0
    bare: list[str] = []
    with (
        importer.held(root, reporter),
        reporter.task(f"import {name}", total, "frame") as counter,
    ):
        for clip in kept:
            target = root / name / clip.name
            with importer.tidied(target, target.parent):
                count = _import_clip(clip, target, stride or 1, force, counter)
            held = len(pictures(target / "GT"))
            frames, masked = frames + count, masked + held
            bare += [] if held else [clip.name]
    notes = [f"{masked} of {frames} frames have a mask"]
    if masked and bare:
        notes.append(f"without any mask: {few(bare)}")
    return Imported(name, root / name, len(kept), frames, tuple(notes))


def _check_name(name: str, root: Path) -> None:
    if not re.fullmatch(r"\w[\w.-]*", name) or name == known.PRIVATE:
        raise UsageError(f"{name!r}: expected a name of letters, digits, _, - and dots.")
    for card in known.cards(root).values():
        names = {card.key, card.name, *(card.dataset(split) for split in card.splits)}
        if name.lower() in {n.lower() for n in names}:
            raise UsageError(
                f"{name} is a known data set. Choose another name for your own, or bring in the "
                f"official one: vsodpipe import {card.key} FOLDER"
            )
    layout = catalogue.layout_of(root / name) or catalogue.LAYOUTS[0]
    if layout != catalogue.LAYOUTS[0]:
        raise UsageError(
            f"{root / name}: is there already, with its videos in {layout.img}. "
            "Choose another name."
        )


def _unpacked(source: str, place: Path, reporter: Reporter, force: bool) -> str:
    """Return `source`, or the folder in `place` that its archive was unpacked to."""
    archive = Path(source)
    if not unpack.is_archive(archive):
        return source
    folder = place / unpack.stem(archive)
    unpack.extract(archive, folder, reporter, force=force)
    # most archives hold one folder, of the same name
    while len(inside := entries(folder)) == 1 and is_folder(inside[0]) and not is_video(inside[0]):
        folder = inside[0]
    return str(folder)


def is_video(folder: Path) -> bool:
    """Return whether `folder` is that of one video: frames lie in it, or in its RGB."""
    return bool(pictures(folder) or _frames_in(folder))


def find(sources: Sequence[str], masks: Path | None, target: Path) -> list[Clip]:
    """Return the videos that `sources` stand for, with their masks, each name once.

    Raises UsageError for a glob that matches nothing, for two videos of one name, and for a source
    that is `target` itself; DataError for a source without videos and for masks that fit none.
    """
    clips = [clip for source in sources for path in _paths(source) for clip in _clips(path, target)]
    places: dict[str, Path] = {}
    for clip in clips:
        if places.setdefault(clip.name, clip.place) != clip.place:
            raise UsageError(
                f"two videos are called {clip.name}: {places[clip.name]} and {clip.place}. "
                "Rename one, or import them under two names."
            )
    clips = list({clip.name: clip for clip in clips}.values())
    found = [_with_masks(clip, masks, alone=len(clips) == 1) for clip in clips]
    if masks is not None and not any(clip.masks for clip in found):
        raise DataError(
            f"{masks}: no masks found. Expected a folder of pictures for each video "
            f"({few([clip.name for clip in clips])}), or the pictures of the only video."
        )
    return found


def _paths(source: str) -> list[Path]:
    path = Path(source)
    if path.exists():
        return [path]
    if not glob.has_magic(source):
        raise DataError(f"{source}: no such file or folder. Check the path.")
    # what an earlier run wrote beside the videos is no source
    matches = [Path(p) for p in glob.glob(source, recursive=True) if not _is_made(Path(p))]
    if not matches:
        raise UsageError(f"{source}: nothing matches. Quote a glob, and check the path.")
    return sorted(matches, key=lambda path: media.natural_key(str(path)))


def _is_made(path: Path) -> bool:
    return path.name.lower() in MASKS or (path / flow_record.FILE).is_file()


def _clips(path: Path, target: Path) -> Iterator[Clip]:
    """Yield the videos of one file or folder."""
    path = Path(os.path.abspath(path))
    if path.resolve() == target.resolve():
        raise UsageError(f"{path}: lies in the data root already. It needs no import.")
    if not is_folder(path):
        yield _file(path)
    elif frames := numbered(path):
        yield Clip(path.name, path, frames, {})
    elif inner := _frames_in(path):
        yield Clip(path.name, inner, numbered(inner), {})
    elif catalogue.layout_of(path):
        for video in catalogue.find(str(path), path.parent).videos:
            by_number = {_number(frame.img): frame for frame in video.frames}
            gts = {n: frame.gt for n, frame in by_number.items() if frame.gt is not None}
            images = {n: frame.img for n, frame in by_number.items()}
            yield Clip(video.name, video.frames[0].img.parent, images, gts)
    else:
        yield from _collection(path)


def _file(path: Path) -> Clip:
    if unpack.is_archive(path):
        raise DataError(f"{path}: is an archive inside a folder. Name it, or unpack it.")
    if path.suffix.lower() in media.IMAGE_SUFFIXES:
        raise DataError(f"{path}: is one picture. Name the folder of the frames.")
    return Clip(path.stem, path, {}, {})


def _frames_in(folder: Path) -> Path | None:
    """Return the folder of frames in the folder of one video, such as `clip/RGB`."""
    named = [p for p in entries(folder) if p.name.lower() in FRAMES and pictures(p)]
    return named[0] if len(named) == 1 else None


def _collection(folder: Path) -> Iterator[Clip]:
    """Yield the video files of a folder and its folders of frames."""
    inside = sorted(entries(folder), key=lambda path: media.natural_key(path.name))
    files = [p for p in inside if p.suffix.lower() in media.VIDEO_SUFFIXES and p.is_file()]
    found = {p: p if pictures(p) else _frames_in(p) for p in inside if not _is_made(p)}
    folders = {p: frames for p, frames in found.items() if frames}
    if not files and not folders:
        raise DataError(
            f"{folder}: no videos found. Expected frames, video files or folders of frames in it."
        )
    yield from (_file(path) for path in files)
    yield from (Clip(path.name, frames, numbered(frames), {}) for path, frames in folders.items())


def _number(path: Path) -> int:
    number = media.frame_number(path.stem)
    assert number is not None, path  # the catalogue has read it
    return number


def _with_masks(clip: Clip, masks: Path | None, alone: bool) -> Clip:
    """Return `clip` with the masks of the folder `masks`, else its own, else those beside it."""
    if masks is not None and not is_folder(masks):
        raise DataError(f"{masks}: no such folder of masks. Check the path.")
    if masks is None and clip.masks:
        return clip
    found: dict[int, Path] = {}
    for folder in [masks] if masks is not None else _beside(clip):
        found = numbered(folder / clip.name) or (numbered(folder) if alone else {})
        # the masks of clip/RGB lie in clip/GT, whatever else there is
        inside = folder.parent == clip.place.parent and clip.place.name.lower() in FRAMES
        if not found and masks is None and inside:
            found = numbered(folder)
        if found:
            break
    if clip.frames and (extra := sorted(found.keys() - clip.frames.keys())):
        raise _too_many(clip, [found[n] for n in extra])
    return replace(clip, masks=found)


def _beside(clip: Clip) -> list[Path]:
    """Return the folders called like masks beside the video, then beside its folder."""
    parents = (clip.place.parent, clip.place.parent.parent)
    named = [[p for p in entries(above) if p.name.lower() in MASKS] for above in parents]
    return [folder for several in named for folder in sorted(several) if is_folder(folder)]


def _too_many(clip: Clip, masks: list[Path]) -> DataError:
    return DataError(
        f"{clip.place}: {len(masks)} masks have no frame of their number (first: {masks[0]}). "
        "Frames of a video file are numbered from 0."
    )


def _thinned(clip: Clip, stride: int) -> Clip:
    """Return `clip` with the frames whose numbers are `stride` apart."""
    first = min(clip.frames, default=0)
    return replace(clip, frames={n: p for n, p in clip.frames.items() if not (n - first) % stride})


def _import_clip(clip: Clip, target: Path, stride: int, force: bool, counter: Counter) -> int:
    """Bring in one video and return its number of frames; masks that stand stay without others."""
    if not clip.frames:
        return _decode(clip, target, stride, force, counter)
    items = _items(clip, clip.frames)
    rgb = target / "RGB"
    stands = not force and importer.stands(rgb, {i.frame.name: i.frame for i in items})
    if not stands and not force:
        _refuse_other(clip, rgb)
    if not stands or clip.masks:
        importer.import_video("objects", clip.name, target, items, force)
    counter.advance(len(items))
    return len(items)


def _items(clip: Clip, frames: dict[int, Path]) -> list[Item]:
    """Return the frames in order with their masks. Raises DataError where a size differs."""
    items = [Item(frames[n], (clip.masks[n],) if n in clip.masks else ()) for n in sorted(frames)]
    h, w = media.image_size(items[0].frame)
    for item in items:
        if (found := media.image_size(item.frame)) != (h, w):
            raise DataError(
                f"{item.frame}: expected {w}x{h} as the first frame of {clip.name}, got "
                f"{found[1]}x{found[0]}. Still pictures of your own need a card: "
                f"{known.PRIVATE}/NAME.toml in the data root."
            )
        if wrong := plan.wrong_size(item):
            raise DataError(f"{wrong}. Restore the files.")
    return items


def _refuse_other(clip: Clip, rgb: Path) -> None:
    if rgb.is_dir():
        raise UsageError(
            f"{rgb}: is there already, of other frames than {clip.place}. Import under another "
            "name, or replace it with --force."
        )


def _decode(clip: Clip, target: Path, stride: int, force: bool, counter: Counter) -> int:
    """Write the frames of a video file as `target`/RGB, after its masks."""
    rgb, origin = target / "RGB", _origin(clip.place, stride)
    if not force and _origin_of(rgb) == {**origin, "frames": len(pictures(rgb))}:
        items = _items(clip, numbered(rgb))
        if clip.masks and not importer.masks_stand(target, items):
            importer.write_masks("objects", clip.name, target, items)
        counter.advance(video_file.length(clip.place))
        return len(items)
    if not force:
        _refuse_other(clip, rgb)
    with media.replacing(rgb) as partial:
        partial.mkdir()
        last = -1
        for last, image in enumerate(video_file.frames(clip.place)):
            if last % stride == 0:
                (partial / f"{last:05d}.jpg").write_bytes(media.encode_jpeg(image))
            counter.advance()
        if extra := sorted(n for n in clip.masks if n > last):
            raise _too_many(clip, [clip.masks[n] for n in extra])
        items = _items(clip, numbered(partial))
        record = {**origin, "frames": len(items)}
        (partial / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        importer.write_masks("objects", clip.name, target, items)
    return len(items)


def _origin(file: Path, stride: int) -> dict[str, Any]:
    stat = file.stat()
    modified = stat.st_mtime_ns
    return {"file": str(file), "bytes": stat.st_size, "modified": modified, "stride": stride}


def _origin_of(folder: Path) -> Any:
    file = folder / RECORD
    return media.read_json(file, f"Delete {folder}.") if file.is_file() else None
