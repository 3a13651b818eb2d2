"""Official downloads into the data root: checked against their card, by links where possible."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vsodpipe import card as known
from vsodpipe import import_record, locate, locks, masks, media, plan, tree, unpack
from vsodpipe.card import Card
from vsodpipe.errors import DataError, UsageError, few, unknown
from vsodpipe.locate import Found
from vsodpipe.plan import Item, Plan
from vsodpipe.progress import Reporter

UNPACKED = ".sources"
"""The folder of the data root that archives are unpacked to, as links need files that stay."""


@dataclass(frozen=True)
class Imported:
    """What an import left in the data root for one split."""

    dataset: str
    folder: Path
    videos: int
    """0 for still pictures."""
    frames: int
    notes: tuple[str, ...]
    """Differences from what the card expects, in words."""


def import_dataset(
    key: str,
    source: Path,
    root: Path,
    reporter: Reporter,
    *,
    force: bool = False,
    stride: int | None = None,
) -> list[Imported]:
    """Bring the official download `source` of card `key` into the data root, one folder a split.

    `source` is a folder, or a zip or tar archive, which is unpacked below the data root. Frames and
    masks that are binary PNG already become links; the others are written anew as 0/255. A video
    appears whole or not at all, and one that stands complete already is kept unless `force`. Frames
    whose numbers are `stride` apart are taken [default: the card's step]. A split of which `source`
    has no video is left out, with a note. Raises UsageError for an unknown card and DataError for a
    source that is not this data set or does not fit together.
    """
    cards = known.cards(root)
    if key not in cards:
        own = f"Data of your own: vsodpipe import --own {key} {source}"
        raise UsageError(f"{unknown('data set card', key, cards)} {own}")
    card = cards[key]
    if card.shadows:
        reporter.say(f"note: card {key} is {card.file}, in place of the built-in one")
    if stride is not None and (card.kind == "image" or stride < 1):
        raise UsageError(f"--stride {stride}: expected 1 or more, and a data set of videos.")
    with held(root, reporter):
        return _import(card, cards, source, root, reporter, force, stride)


@contextmanager
def held(root: Path, reporter: Reporter) -> Iterator[None]:
    """Wait until no other import is at work in the data root, which is made if there is none."""
    new = () if root.exists() else (root,)
    with tidied(*new):
        root.mkdir(parents=True, exist_ok=True)
        with locks.alone(root, reporter.say):
            yield


def _import(
    card: Card,
    cards: dict[str, Card],
    source: Path,
    root: Path,
    reporter: Reporter,
    force: bool,
    stride: int | None,
) -> list[Imported]:
    key = card.key
    base, found = _found(card, cards, source, root, reporter, force)
    plans = {name: plan.make(card, name, split, base, stride) for name, split in found.items()}
    if not any(each.videos for each in plans.values()):
        raise DataError(f"{base}: has lists of videos, but no frames of them. Restore the frames.")
    listed = {video for each in plans.values() for video in each.videos}
    shared = {video for each in found.values() if each.shared for video in each.videos}
    if other := sorted(shared - listed, key=media.natural_key):
        reporter.say(f"note: {len(other)} videos are in no split: {few(other)}")
    done = []
    for name in card.splits:
        folder = root / card.dataset(name)
        if name not in plans or not plans[name].videos:
            reporter.say(f"note: {folder.name} is left out: none of its videos lies in {source}")
            continue
        done.append(_import_split(card, plans[name], folder, reporter, force))
        if card.kind == "video":
            import_record.write(folder, key, source, stride or card.step)
    return done


def _found(
    card: Card,
    cards: dict[str, Card],
    source: Path,
    root: Path,
    reporter: Reporter,
    force: bool,
) -> tuple[Path, dict[str, Found]]:
    """Return the folder of `source` and what it holds of the card, judged before it is unpacked."""
    is_archive = unpack.is_archive(source)
    if is_archive:
        name = unpack.stem(source)
        listing = tree.of_names(member.name for member in unpack.members(source))
    elif source.is_dir():
        name, listing = source.resolve().name, tree.of_folder(source)
    else:
        got = f"Get {card.download or 'it'} from {card.home}"
        raise DataError(
            f"{source}: not the official {card.name} folder: no folder, zip or tar file. {got}."
        )
    found = locate.splits(card, listing, name)
    locate.check(card, found, listing, name, str(source), cards.values())
    if is_archive:
        folder = root / UNPACKED / card.key / name
        unpack.extract(source, folder, reporter, force=force)
        return folder, found
    return source, found


def _import_split(
    card: Card, planned: Plan, folder: Path, reporter: Reporter, force: bool
) -> Imported:
    unit = "video" if card.kind == "video" else "folder"
    with reporter.task(f"import {folder.name}", len(planned.videos), unit) as counter:
        for video, items in planned.videos.items():
            with tidied(folder / video, folder):
                import_video(planned.rule, video, folder / video, items, force)
            counter.advance()
    frames = sum(map(len, planned.videos.values()))
    videos = len(planned.videos) if card.kind == "video" else 0
    return Imported(folder.name, folder, videos, frames, planned.notes)


@contextmanager
def tidied(*folders: Path) -> Iterator[None]:
    """Remove those of the `folders` that an error leaves empty."""
    try:
        yield
    except BaseException:
        for folder in folders:
            with suppress(OSError):
                folder.rmdir()
        raise


def import_video(rule: str, video: str, target: Path, items: list[Item], force: bool) -> None:
    """Write `target`/GT, DEPTH or THERMAL where there are any, and RGB last.

    What stands complete already is kept unless `force`. Raises DataError for a mask that is damaged
    or does not fit its frame.
    """
    plain = {"RGB": {item.frame.name: item.frame for item in items}}
    for kind in ("depth", "thermal"):
        there = [
            (item.frame.stem, item.auxiliary[kind]) for item in items if kind in item.auxiliary
        ]
        if there:
            plain[kind.upper()] = {f"{stem}{file.suffix}": file for stem, file in there}
    stand = all(stands(target / kind, files) for kind, files in plain.items())
    if not force and stand and masks_stand(target, items):
        return
    write_masks(rule, video, target, items)
    # frames last: without RGB the folder is no video yet
    for kind in sorted(plain):
        with media.replacing(target / kind) as partial:
            partial.mkdir()
            for name, file in plain[kind].items():
                _link(file, partial / name)


def masks_stand(target: Path, items: list[Item]) -> bool:
    """Return whether `target`/GT holds the masks of `items` and no others."""
    return stands(target / "GT", {_mask_name(i): i.masks[0] for i in items if i.masks})


def write_masks(rule: str, video: str, target: Path, items: list[Item]) -> None:
    """Write or link the masks of `items` as `target`/GT, in place of what was there."""
    with media.replacing(target / "GT") as partial:
        partial.mkdir()
        for item in items:
            if item.masks:
                _place_mask(rule, video, item, partial / _mask_name(item))


def _mask_name(item: Item) -> str:
    return f"{item.frame.stem}.png"


def stands(folder: Path, files: dict[str, Path]) -> bool:
    """Return whether `folder` holds exactly `files`, each a link to its source or written anew."""
    if not folder.is_dir() or {path.name for path in folder.iterdir()} != files.keys():
        return False
    placed = ((folder / name, source) for name, source in files.items())
    return all(
        os.readlink(file) == os.path.realpath(source) if file.is_symlink() else file.is_file()
        for file, source in placed
    )


def _place_mask(rule: str, video: str, item: Item, target: Path) -> None:
    if masks.linked(rule, item.masks):
        _link(item.masks[0], target)
        return
    size = media.image_size(item.frame)
    if item.dat is not None:
        mask = masks.read_fbms(item.dat, item.masks[0], video, size)
    else:
        mask = masks.read(rule, item.masks, size)
    target.write_bytes(media.encode_png(mask.astype("uint8") * 255))


def _link(source: Path, target: Path) -> None:
    try:
        os.symlink(os.path.realpath(source), target)
    except FileExistsError:  # of another command: a copy would go through its link
        raise
    except OSError:  # a file system without links
        shutil.copyfile(source, target)
