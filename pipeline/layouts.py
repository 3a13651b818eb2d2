"""Published layouts as they are: a folder of another repository's data becomes a manifest.

Nothing is imported or written. The repositories do not say how their flow pictures were made, and
the record of the manifest says just that. Where a `flow.json` lies beside them, it counts: so do
links to flow that was computed here.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from vsodpipe import card, catalogue, flow_record, layout_files, locate, manifest, media, tree
from vsodpipe.errors import DataError, UsageError, unknown
from vsodpipe.layout_files import Cards, Files, Found, Key
from vsodpipe.layout_table import LAYOUTS
from vsodpipe.manifest import Frame, Manifest, Split, Video
from vsodpipe.progress import Reporter


def check(layout: str) -> None:
    """Raise UsageError unless `layout` is one of the known layouts."""
    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)


def named(names: Sequence[str], root: Path, layout: str | None) -> Path | None:
    """Return the folder that is to be read as it is: with a layout, or outside the data root.

    None is what the data root has a name for. Raises UsageError for a layout without one folder.
    """
    if layout is not None:
        check(layout)
        if len(names) != 1:
            raise UsageError(f"--layout {layout}: expected one folder, got {len(names)} names.")
        return Path(names[0])
    if len(names) != 1 or not names[0] or not (folder := Path(names[0])).is_dir():
        return None
    here = catalogue.present(root)
    known = {*here, *(manifest.group_and_split(name, root)[0] for name in here)}
    inside = root.resolve() in folder.resolve().parents
    return None if inside or names[0].rstrip("/") in known else folder


def manifest_of(
    folder: Path, layout: str | None, reporter: Reporter, data: Path | None = None
) -> Manifest:
    """Return the manifest of a folder in a published layout; its root is `folder`, absolute.

    Data sets are named by the cards, those of the data root `data` too. None for `layout` takes the
    one that explains most of the pictures. Every header is read: sizes of frame, mask and flow must
    agree; still pictures that do not are left out, with their number. Raises UsageError for an
    unknown layout and DataError for a folder that no layout explains, or several equally well.
    """
    if layout is not None:
        check(layout)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Check the path.")
    root = Path(os.path.abspath(folder))
    listing = tree.of_folder(root)
    notes: list[str] = []
    cards = card.cards(data)
    if layout is None:
        layout, found = _recognised(listing, root, cards, notes)
        reporter.say(f"{folder}: in the layout of {LAYOUTS[layout].title} (--layout {layout})")
    else:
        found = layout_files.find(layout, listing, root, cards, notes)
    if not found:
        raise DataError(f"{folder}: nothing in the layout {layout}: {LAYOUTS[layout].looks}.")
    layout_files.check_pairs(found, root)
    named = [one for part in found for one in layout_files.data_sets(part, cards)]
    published = {
        "engine": {"engine": "unknown"},
        "layout": layout,
        "fingerprint": f"published-{layout}-{_digest(found, root)}",
    }
    splits = [
        _split(one, published, root, cards, reporter, notes) for one in _distinct(named, cards)
    ]
    for note in notes:
        reporter.say(f"note: {note}")
    with manifest.valid(f"{folder}", "Rename the files."):
        name = root.resolve().name or layout
        return Manifest(name=name, root=root.as_posix(), datasets=tuple(splits))


def _digest(found: Sequence[Found], root: Path) -> str:
    """Return a hash of the names and sizes of all flow pictures of a folder.

    It tells the flow of one repository's folder from that of another's, as nothing else does.
    """
    hashed = hashlib.sha256()
    flows = (files.get("flow", {}).values() for one in found for files in one.videos.values())
    for path in sorted(path for paths in flows for path in paths):
        with suppress(OSError):  # what is not there is told with its name later
            hashed.update(f"{path} {os.stat(root / path).st_size}\n".encode(errors="replace"))
    return hashed.hexdigest()[:8]


def _recognised(
    listing: tree.Tree, root: Path, cards: Cards, notes: list[str]
) -> tuple[str, list[Found]]:
    """Return the layout that explains most of the files, and what it finds; adds to `notes`.

    Raises DataError for no layout and for two.
    """
    readings: dict[str, tuple[list[Found], list[str]]] = {}
    faults: list[DataError] = []
    for layout in LAYOUTS:
        said: list[str] = []
        try:
            readings[layout] = layout_files.find(layout, listing, root, cards, said), said
        except DataError as error:  # it may be another layout's folder
            faults.append(error)
    explained = {key: sum(one.files() for one in found) for key, (found, _) in readings.items()}
    most = max(explained.values(), default=0)
    best = [layout for layout, count in explained.items() if count == most]
    if not most and faults:
        raise faults[0]
    if not most:
        fits = locate.fitting(listing, root.name, cards.values())
        how = f"vsodpipe import {fits[0] if fits else '--own NAME'} {root}"
        raise DataError(
            f"{root}: in none of the layouts {', '.join(LAYOUTS)} (docs/layouts.md). Name the "
            f"folder that holds the data sets, or bring it in: {how}"
        )
    if len(best) > 1:
        raise DataError(
            f"{root}: may be in the layout {' or '.join(best)}. Say which with --layout {best[0]}."
        )
    found, said = readings[best[0]]
    notes += said
    return best[0], found


def _distinct(found: Sequence[Found], cards: Cards) -> list[Found]:
    """Return `found` with names that differ: TOY in train and in test are TOY_train, TOY_test."""
    names = [one.name for one in found]
    kept: dict[str, Found] = {}
    for one in found:
        twice = names.count(one.name) > 1 and not card.owner(one.name, cards)
        split = one.split if twice else None
        name = f"{one.name}_{split}" if split else one.name
        if name in kept:
            first = next(iter(one.videos.values()))["img"]
            raise DataError(
                f"{name} is there twice, the second time with {next(iter(first.values()))}. "
                "Move one of them away."
            )
        kept[name] = replace(one, name=name)
    return list(kept.values())


def _split(
    one: Found,
    published: dict[str, Any],
    root: Path,
    cards: Cards,
    reporter: Reporter,
    notes: list[str],
) -> Split:
    videos = _pictures(one) if one.stills else one.videos
    record = _record(one.name, published, videos, root)
    checked = []
    total = sum(len(files["img"]) for files in videos.values())
    with (
        reporter.task(f"check {one.name}", total, "frame") as counter,
        manifest.valid(f"{root}: {one.name}", "Rename the files."),
    ):
        left = 0
        for video in sorted(videos, key=media.natural_key):
            try:
                checked.append(_video(video, videos[video], root))
            except _SizeError:
                if not one.stills:
                    raise
                left += 1
            counter.advance(len(videos[video]["img"]))
        if left:
            notes.append(f"{one.name}: {left} pictures whose mask has another size are left out")
        owner = card.owner(one.name, cards)
        end = one.name.rpartition("_")[2]
        split = owner[1] if owner else end if end in manifest.SPLITS else one.split
        return Split(dataset=one.name, split=split, flow=record, videos=tuple(checked))


def _pictures(one: Found) -> dict[str, Files]:
    """Return each still picture as a video of one frame, as it has a size of its own."""
    (files,) = one.videos.values()
    return {
        str(key): {kind: {key: found[key]} for kind, found in files.items() if key in found}
        for key in files["img"]
    }


class _SizeError(DataError):
    """Frame and mask of different sizes."""


def _video(name: str, files: Files, root: Path) -> Video:
    frames = []
    size: tuple[int, int] | None = None
    for key in _order(files):
        paths = {kind: found[key] for kind, found in files.items() if key in found}
        for path in paths.values():
            found_size = media.image_size(root / path)
            size = size or found_size
            if found_size != size:
                raise _SizeError(
                    f"{root / path}: expected {size[1]}x{size[0]} as the first frame of {name}, "
                    f"got {found_size[1]}x{found_size[0]}. Restore the file."
                )
        stem = posixpath.splitext(posixpath.basename(paths["img"]))[0]
        frames.append(Frame(name=stem, **paths))
    return Video(name=name, size=size or (1, 1), frames=tuple(frames))


def _order(files: Files) -> list[Key]:
    return sorted(files["img"], key=lambda key: media.natural_key(str(key)))


def _record(
    dataset: str, published: dict[str, Any], videos: dict[str, Files], root: Path
) -> dict[str, Any] | None:
    """Return what is known of the flow of a data set: its own record, or `published`.

    Raises DataError where some videos or frames have flow and others have none.
    """
    order = {video: _order(files) for video, files in videos.items()}
    lacking = {
        video: [key for key in keys if key not in videos[video].get("flow", {})]
        for video, keys in order.items()
    }
    if lacking == order:
        return None
    tail = all(lacking[video] == keys[-1:] for video, keys in order.items())
    if not tail and (bad := next((v for v, keys in lacking.items() if keys), None)):
        raise DataError(
            f"{root}: {dataset}/{bad}: {len(lacking[bad])} frames have no flow (first: "
            f"{videos[bad]['img'][lacking[bad][0]]}). Restore it, or move all flow away."
        )
    unknown_make = {**published, **({"tail": "none"} if tail else {})}  # N frames have N-1 flows
    # a link, as an export makes them, leads to where the flow was computed
    firsts = {
        v: next(iter(files["flow"].values())) for v, files in videos.items() if "flow" in files
    }
    records: dict[str, dict[str, Any] | None] = {
        video: flow_record.beside(root / path) or unknown_make for video, path in firsts.items()
    }
    return flow_record.common(dataset, records)
