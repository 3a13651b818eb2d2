"""What an import will bring into the data root: frames with their masks, and what differs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from vsodpipe import locate, masks, media
from vsodpipe.card import Card, Split
from vsodpipe.errors import DataError, few
from vsodpipe.locate import Files, Found


@dataclass(frozen=True, slots=True)
class Item:
    """One frame or picture of the download with what belongs to it."""

    frame: Path
    masks: tuple[Path, ...] = ()
    auxiliary: dict[str, Path] = field(default_factory=dict)
    dat: Path | None = None
    """The index that explains the regions of an FBMS mask."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be imported of one split: the items of every video, and what differs, in words.

    A set of still pictures is one video without a name.
    """

    rule: str
    videos: dict[str, list[Item]]
    notes: tuple[str, ...]


def make(card: Card, name: str, found: Found, base: Path, stride: int | None) -> Plan:
    """Return what is imported of one split, after reading the headers of frames and masks."""
    names = _listed_videos(base / found.listed) if found.listed else None
    mine = locate.chosen(card, name, found, names)
    step = stride or card.step
    videos, notes = {}, []
    for video, kinds in mine.videos.items():
        if card.kind == "image":
            items, said = _pictures(kinds, base)
        else:
            items, said = _frames(found.raw.mask, video, kinds, base, step)
        notes += said
        if items:
            videos[video] = items
    if found.raw.mask == "fbms" and videos:
        notes.append(
            "masks: all regions of each Def.dat but 0; in marple2, 7, 10 and 13 also but 2 (and 4)"
        )
    if found.left:
        notes.append(f"left out, as the card says or without masks: {few(list(found.left))}")
    if step > 1 and videos:
        notes.append(f"frames whose numbers are {step} apart were taken (--stride)")
    split = card.splits[name]
    expected = split if step == card.step == 1 else replace(split, frames=None)
    if videos:
        notes = [*_notes(card, expected, videos), *notes]
    return Plan(found.raw.mask, videos, tuple(notes))


def _listed_videos(listed: Path) -> list[str]:
    """Return the videos of a list of names, or of a list of `/frame/path /mask/path` rows."""
    try:
        rows = media.read_bytes(listed).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{listed}: not UTF-8 text ({error}). Restore the list.") from error
    names = []
    for row in rows:
        words = row.split()
        name = Path(words[0]).parent.name if words and "/" in words[0] else "".join(words[:1])
        if name in ("..", "."):
            raise DataError(f"{listed}: expected the name of a video, got {row!r}.")
        if name:
            names.append(name)
    return list(dict.fromkeys(names))


def _frames(
    rule: str, video: str, kinds: dict[str, Files], base: Path, step: int
) -> tuple[list[Item], list[str]]:
    """Return the frames of a video with their masks, paired by number, and what to say of them."""
    frames = {n: files[0] for n, files in _numbered(kinds["img"], base).items()}
    numbers = sorted(frames)
    dat = None
    found: dict[int, tuple[Path, ...]]
    if rule == "fbms":
        dat = next((base / files[0] for files in kinds["gt"].values()), None)
        index = masks.fbms_files(dat, len(numbers)) if dat else {}
        found = {numbers[place]: (file,) for place, file in index.items()}
    else:
        found = _numbered(kinds["gt"], base, several=rule == "union")
    notes = []
    if extra := found.keys() - frames.keys():
        notes.append(f"{video}: {len(extra)} masks have no frame of their number")
    kept = [n for n in numbers if (n - numbers[0]) % step == 0]
    items = [Item(frames[n], found.get(n, ()), dat=dat) for n in kept]
    for item in items:
        if rule != "lossy" and (wrong := wrong_size(item)):
            raise DataError(f"{wrong}. Restore the files.")
    return items, notes


def _numbered(files: Files, base: Path, several: bool = False) -> dict[int, tuple[Path, ...]]:
    """Return pictures by the last number in their names. Raises DataError for one that is twice
    there, unless `several` are the objects of one frame."""
    found: dict[int, tuple[Path, ...]] = {}
    for stem, paths in files.items():
        number = media.frame_number(stem)
        whole = tuple(base / path for path in paths)
        if number is None:
            raise DataError(f"{whole[0]}: expected a frame number in the file name. Rename it.")
        before = found.get(number, ())
        if (len(whole) > 1 or before) and not several:
            other = (*before, *whole)[0].name
            raise DataError(f"{whole[-1]}: frame {number} is there twice ({other}). Remove one.")
        found[number] = before + whole
    return found


def _pictures(kinds: dict[str, Files], base: Path) -> tuple[list[Item], list[str]]:
    """Return still pictures with mask and auxiliary inputs, paired by the stem of their names."""
    auxiliary = {kind: files for kind, files in kinds.items() if kind not in ("img", "gt")}
    items, wrong = [], []
    lacking = dict.fromkeys(("gt", *auxiliary), 0)
    for stem, paths in kinds["img"].items():
        if len(paths) > 1:
            raise DataError(f"{base / paths[1]}: is there twice (also {paths[0]}). Remove one.")
        for kind in lacking:
            lacking[kind] += stem not in kinds[kind]
        inputs = {k: base / files[stem][0] for k, files in auxiliary.items() if stem in files}
        gt = tuple(base / path for path in kinds["gt"].get(stem, ()))
        item = Item(base / paths[0], gt, inputs)
        # DUTS has such pairs, which nobody can train on
        if problem := wrong_size(item):
            wrong.append(problem)
        else:
            items.append(item)
    notes = [f"{n} pictures have no {kind}" for kind, n in lacking.items() if n]
    if wrong:
        notes.append(f"{len(wrong)} pictures are left out, as sizes differ (first: {wrong[0]})")
    return items, notes


def wrong_size(item: Item) -> str | None:
    """Return in words which mask has not the size of its frame."""
    if not item.masks:
        return None
    h, w = media.image_size(item.frame)
    for mask in item.masks:
        mh, mw = media.image_size(mask)
        if (mh, mw) != (h, w):
            return f"{mask}: mask of {mw}x{mh} on a frame of {w}x{h} ({item.frame})"
    return None


def _notes(card: Card, split: Split, videos: dict[str, list[Item]]) -> Iterator[str]:
    """Yield what differs from the card, the first few videos by name."""
    if card.kind == "image":
        count = len(videos[""])
        if split.count not in (None, count):
            yield f"{count} pictures instead of {split.count}"
        return
    missing = [v for v in split.videos if v not in videos]
    foreign = [v for v in videos if v not in split.videos] if split.videos else []
    if missing:
        yield f"{len(missing)} of the {len(split.videos)} official videos are missing"
    elif not split.videos and split.count not in (None, len(videos)):
        yield f"{len(videos)} videos instead of {split.count}"
    if foreign:
        yield f"not in the official split: {few(foreign)}"
    yield from _first(_wrong_counts(split, videos))
    if card.annotation == "dense":
        yield from _first(_without_masks(videos))
    elif not missing:
        there = sum(bool(item.masks) for items in videos.values() for item in items)
        if split.masks not in (None, there):
            yield f"{there} masks instead of {split.masks}"
    if bare := [v for v, items in videos.items() if not any(item.masks for item in items)]:
        if card.annotation != "dense":
            yield f"without any mask: {few(bare)}"


def _wrong_counts(split: Split, videos: dict[str, list[Item]]) -> Iterator[str]:
    for video, items in videos.items() if split.frames else ():
        expected = split.videos.get(video)
        if expected not in (None, len(items)):
            yield f"{video} has {len(items)} frames instead of {expected}"


def _without_masks(videos: dict[str, list[Item]]) -> Iterator[str]:
    for video, items in videos.items():
        if without := sum(not item.masks for item in items):
            yield f"{video}: {without} frames have no mask"


def _first(notes: Iterator[str], limit: int = 5) -> Iterator[str]:
    said = list(notes)
    yield from said[:limit]
    if len(said) > limit:
        yield f"and {len(said) - limit} more videos like these"
