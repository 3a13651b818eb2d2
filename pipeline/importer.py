"""Official downloads into the data root: checked against their card, by links where possible."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vsodpipe import catalogue, media
from vsodpipe.catalogue import Card, Split
from vsodpipe.errors import DataError, unknown
from vsodpipe.progress import Reporter

Pairs = list[tuple[Path, Path | None]]
"""The (frame, mask) files of one video, in order."""


@dataclass(frozen=True)
class Imported:
    """What an import left in the data root for one split."""

    dataset: str
    folder: Path
    videos: int
    frames: int
    notes: tuple[str, ...]
    """Differences from what the card expects, in words."""


def import_dataset(
    key: str, source: Path, root: Path, reporter: Reporter, *, force: bool = False
) -> list[Imported]:
    """Bring the official download `source` of card `key` into the data root, one folder a split.

    Frames and grey masks become links; palette masks are written anew as 0/255. A video appears
    whole or not at all, and one that stands complete already is kept unless `force`. A split of
    which `source` has no video is left out, with a note. Raises UsageError for an unknown card and
    DataError for a source that is not this data set or does not fit together.
    """
    if key not in catalogue.cards():
        raise unknown("data set card", key, catalogue.cards())
    card = catalogue.cards()[key]
    base = _base(card, source)
    plans = {name: _plan(card, split, base) for name, split in card.splits.items()}
    if not any(plans.values()):
        raise DataError(f"{base}: has lists of videos, but no frames of them. Restore the frames.")
    done = []
    for name, videos in plans.items():
        folder = root / card.dataset(name)
        if not videos:
            reporter.say(
                f"note: {folder.name} is left out: none of its listed videos lies in {base}"
            )
            continue
        with reporter.task(f"import {folder.name}", len(videos), "video") as counter:
            for video, files in videos.items():
                _import_video(folder / video, files, force)
                counter.advance()
        frames = sum(map(len, videos.values()))
        notes = tuple(_notes(card.splits[name], videos))
        done.append(Imported(folder.name, folder, len(videos), frames, notes))
    return done


def _base(card: Card, source: Path) -> Path:
    """Return the folder that holds the card's lists: `source`, or a folder of the card's name."""
    wanted = [entry for split in card.splits.values() for entry in split.lists]
    for base in (source, source / card.name):
        if any(os.path.isfile(base / entry) for entry in wanted):
            return base
    raise DataError(
        f"{source}: not the official {card.name} folder: none of {', '.join(wanted)} is there. "
        f"Unpack {card.download} from {card.home} and name its folder."
    )


def _plan(card: Card, split: Split, base: Path) -> dict[str, Pairs]:
    """Return the files of every video in the split's list that lies on disk."""
    listed = next((base / entry for entry in split.lists if os.path.isfile(base / entry)), None)
    found = {video: _pairs(card, base, video) for video in _listed_videos(listed)} if listed else {}
    return {video: pairs for video, pairs in found.items() if pairs}


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


def _pairs(card: Card, base: Path, video: str) -> Pairs:
    folders = {
        key: (base / pattern.format(video=video, frame="0")).parent
        for key, pattern in card.layout.items()
    }
    frames, masks = (catalogue.numbered(folders[key]) for key in ("img", "gt"))
    pairs = [(frames[number], masks.get(number)) for number in sorted(frames)]
    for frame, mask in pairs:
        if mask is not None and media.image_size(mask) != media.image_size(frame):
            (mh, mw), (h, w) = media.image_size(mask), media.image_size(frame)
            raise DataError(
                f"{mask}: mask of {mw}x{mh} on a frame of {w}x{h} ({frame}). Restore the files."
            )
    return pairs


def _import_video(target: Path, files: Pairs, force: bool) -> None:
    frames = {frame.name: frame for frame, _ in files}
    masks = {f"{mask.stem}.png": mask for _, mask in files if mask is not None}
    if not force and _stands(target / "RGB", frames) and _stands(target / "GT", masks):
        return
    # frames last: without RGB the folder is no video yet
    with media.replacing(target / "GT") as partial:
        partial.mkdir()
        for name, mask in masks.items():
            _place_mask(mask, partial / name)
        media.remove(target / "GT")
    with media.replacing(target / "RGB") as partial:
        partial.mkdir()
        for name, frame in frames.items():
            _link(frame, partial / name)
        media.remove(target / "RGB")


def _stands(folder: Path, files: dict[str, Path]) -> bool:
    """Return whether `folder` holds exactly `files`, each a link to its source or written anew."""
    if not folder.is_dir() or {path.name for path in folder.iterdir()} != files.keys():
        return False
    placed = ((folder / name, source) for name, source in files.items())
    return all(
        os.readlink(file) == str(source.resolve()) if file.is_symlink() else file.is_file()
        for file, source in placed
    )


def _place_mask(source: Path, target: Path) -> None:
    try:
        with Image.open(source) as picture:
            is_palette = picture.mode == "P"
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{source}: not a picture. Restore the file and run again.") from error
    if is_palette or source.suffix.lower() != target.suffix:
        target.write_bytes(media.encode_png(media.read_mask(source).astype("uint8") * 255))
    else:
        _link(source, target)


def _link(source: Path, target: Path) -> None:
    try:
        os.symlink(source.resolve(), target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _notes(split: Split, videos: dict[str, Pairs]) -> Iterator[str]:
    missing = [v for v in split.videos if v not in videos]
    foreign = [v for v in videos if v not in split.videos]
    if missing:
        yield f"{len(missing)} of the {len(split.videos)} official videos are missing"
    if foreign:
        yield f"not in the official split: {', '.join(foreign)}"
    for video, pairs in videos.items():
        expected = split.videos.get(video, len(pairs))
        if len(pairs) != expected:
            yield f"{video} has {len(pairs)} frames instead of {expected}"
        if without := sum(mask is None for _, mask in pairs):
            yield f"{video}: {without} frames have no mask"
