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
    whole or not at all, and one that is there already is kept unless `force`. Raises UsageError for
    an unknown card and DataError for a source that is not this data set or does not fit together.
    """
    if key not in catalogue.cards():
        raise unknown("data set card", key, catalogue.cards())
    card = catalogue.cards()[key]
    base = _base(card, source)
    plans = [(name, _plan(card, split, base)) for name, split in card.splits.items()]
    done = []
    for name, videos in plans:
        if videos:
            folder = root / card.dataset(name)
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
        if any((base / entry).is_file() for entry in wanted):
            return base
    raise DataError(
        f"{source}: not the official {card.name} folder: none of {', '.join(wanted)} is there. "
        f"Unpack {card.download} from {card.home} and name its folder."
    )


def _plan(card: Card, split: Split, base: Path) -> dict[str, list[tuple[Path, Path | None]]]:
    """Return the (frame, mask) files of every video in the split's list that lies on disk."""
    listed = next((base / entry for entry in split.lists if (base / entry).is_file()), None)
    plan = {}
    for video in _listed_videos(listed) if listed else []:
        pairs = list(_pairs(card, base, video))
        if pairs:
            plan[video] = pairs
    if listed and not plan:
        raise DataError(f"{listed}: none of its videos lies in {base}. Restore the frames.")
    return plan


def _listed_videos(listed: Path) -> Iterator[str]:
    """Yield the videos of a list of names, or of a list of `/frame/path /mask/path` rows."""
    seen = set()
    for row in listed.read_text(encoding="utf-8").splitlines():
        words = row.split()
        name = Path(words[0]).parent.name if words and "/" in words[0] else "".join(words[:1])
        if name in ("..", "."):
            raise DataError(f"{listed}: expected the name of a video, got {row!r}.")
        if name and name not in seen:
            seen.add(name)
            yield name


def _pairs(card: Card, base: Path, video: str) -> Iterator[tuple[Path, Path | None]]:
    layout = {
        key: base / pattern.format(video=video, frame="0") for key, pattern in card.layout.items()
    }
    frames, masks = (_by_number(layout[key]) for key in ("img", "gt"))
    for number, frame in sorted(frames.items()):
        mask = masks.get(number)
        if mask is not None and media.image_size(mask) != media.image_size(frame):
            (mh, mw), (h, w) = media.image_size(mask), media.image_size(frame)
            raise DataError(f"{mask}: mask of {mw}x{mh} on a frame of {w}x{h} ({frame}).")
        yield frame, mask


def _by_number(example: Path) -> dict[int, Path]:
    files = example.parent.glob(f"*{example.suffix}")
    numbered = ((media.frame_number(f.stem), f) for f in files)
    return {number: f for number, f in numbered if number is not None}


def _import_video(target: Path, files: list[tuple[Path, Path | None]], force: bool) -> None:
    masks = [gt for _, gt in files if gt is not None]
    if not force and _count(target / "RGB") == len(files) and _count(target / "GT") == len(masks):
        return
    # frames last: without RGB the folder is no video yet
    with media.replacing(target / "GT") as partial:
        partial.mkdir()
        for mask in masks:
            _place_mask(mask, partial / f"{mask.stem}.png")
        media.remove(target / "GT")
    with media.replacing(target / "RGB") as partial:
        partial.mkdir()
        for frame, _ in files:
            _link(frame, partial / frame.name)
        media.remove(target / "RGB")


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0


def _place_mask(source: Path, target: Path) -> None:
    try:
        with Image.open(source) as picture:
            is_palette = picture.mode == "P"
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{source}: not a picture. Restore the file and run again.") from error
    if is_palette or source.suffix != target.suffix:
        target.write_bytes(media.encode_png(media.read_mask(source).astype("uint8") * 255))
    else:
        _link(source, target)


def _link(source: Path, target: Path) -> None:
    try:
        os.symlink(source.resolve(), target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _notes(split: Split, videos: dict[str, list[tuple[Path, Path | None]]]) -> Iterator[str]:
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
