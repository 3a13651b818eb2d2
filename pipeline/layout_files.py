"""Which files of a folder belong to which frame, by the places of a published layout.

Works on names alone. Frame, mask and flow are paired by video and frame number, still pictures by
their stem, never by their place in a sorted list.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vsodpipe import media, tree
from vsodpipe.card import Card, owner
from vsodpipe.errors import DataError
from vsodpipe.layout_table import ALIASES, LAYOUTS, Place
from vsodpipe.tree import Tree

Key = int | str
"""A frame's number, or the stem of a still picture."""
Cards = Mapping[str, Card]
"""The known cards by key."""
Files = dict[str, dict[Key, str]]
"""Kind (img, gt, flow, depth, thermal) -> key -> path from the folder."""


@dataclass(frozen=True)
class Found:
    """What one folder of a layout holds."""

    name: str
    stills: bool
    split: str | None = None
    """train or test, where the folder or a list says so."""
    videos: dict[str, Files] = field(default_factory=dict)
    """Video -> its files. A set of still pictures is one video without a name."""

    def files(self) -> int:
        """Return the number of files."""
        return sum(len(found) for files in self.videos.values() for found in files.values())


def find(layout: str, listing: Tree, folder: Path, cards: Cards, notes: list[str]) -> list[Found]:
    """Return what `listing`, the tree of `folder`, holds by a layout; adds to `notes` what is left.

    Raises DataError for a number that is there twice, and for rows that are none.
    """
    found: list[Found] = []
    taken: set[str] = set()  # paths without endings: the first place that has a file keeps it
    read: set[str] = set()
    places = LAYOUTS[layout].places
    for place in places:
        if place.rows is not None:
            if place.rows not in read:
                found += _by_rows(place, listing, folder)
            read.add(place.rows)
            continue
        also_stills = any(other.stills and other.img == place.img for other in places)
        for one in _by_patterns(place, listing, folder, taken):
            if place.stills or not also_stills or _is_of_videos(one, place, listing, cards):
                taken |= set(_paths(one, place))
                if place.frames_too:
                    one = _without_frames(one, folder, cards, notes)
                if place.flat and also_stills:
                    _say_unread(place, listing, {"set": one.name}, notes)
                found += _listed(one, place, folder, notes)
        if place.flat and not also_stills:
            _say_unread(place, listing, {}, notes)
    return found


def _is_of_videos(one: Found, place: Place, listing: Tree, cards: Cards) -> bool:
    """Return whether a flat folder holds frames: its card says so, else the names in it."""
    if owners := _owners(one, cards):
        return owners[0][0].kind == "video"
    pictures = sum(1 for _ in tree.match(listing, _any(place.img), {"set": one.name}))
    frames = sum(len(files["img"]) for files in one.videos.values())
    several = all(len(files["img"]) > 1 for files in one.videos.values())
    return frames == pictures and (several or any("flow" in f for f in one.videos.values()))


def _without_frames(one: Found, folder: Path, cards: Cards, notes: list[str]) -> Found:
    """Return still pictures without the frames of videos among them; says how many these are.

    Raises DataError where nothing else is there.
    """
    videos = {
        plain(name): card.dataset(split)
        for card in cards.values()
        if card.kind == "video"
        for split, held in card.splits.items()
        for name in held.videos
    }
    (files,) = one.videos.values()
    frames = [key for key in files["img"] if plain(_video_of(str(key))) in videos]
    if not frames:
        return one
    first = f"{frames[0]} of {videos[plain(_video_of(str(frames[0])))]}"
    if len(frames) == len(files["img"]):
        raise DataError(
            f"{folder}: {one.name} holds nothing but frames of videos (first: {first}). Name a "
            "folder that holds the videos with their flow."
        )
    notes.append(
        f"{one.name}: {len(frames)} pictures are left out: by their names they are frames of "
        f"videos (first: {first})"
    )
    gone = set(frames)
    kept = {kind: {k: p for k, p in of.items() if k not in gone} for kind, of in files.items()}
    return replace(one, videos={"": kept})


def _video_of(stem: str) -> str:
    """Return the video that a file in a flat folder belongs to, empty for none."""
    video, _, number = stem.rpartition("_")
    return video if number.isdecimal() else ""


def _say_unread(place: Place, listing: Tree, known: Mapping[str, str], notes: list[str]) -> None:
    """Add a note where pictures of flat folders belong to no video."""
    pictures = tree.match(listing, _any(place.img), known)
    left = [path for values, path in pictures if not _video_of(values["frame"])]
    if left:
        notes.append(
            f"{len(left)} pictures are left out: their names do not end in _NUMBER "
            f"(first: {left[0]})"
        )


def _paths(one: Found, place: Place) -> Iterator[str]:
    """Yield the files of `one`, and where they stand a second time, without their endings."""
    for files in one.videos.values():
        for found in files.values():
            yield from (posixpath.splitext(path)[0] for path in found.values())
        for pattern in place.again or ():
            for path in files.get("img", {}).values():
                stem = posixpath.splitext(posixpath.basename(path))[0]
                yield posixpath.splitext(pattern.format(frame=stem))[0]


def _any(pattern: str) -> str:
    """Return a pattern that fits every ending of a picture."""
    return pattern.rpartition(".")[0] + ".*"


def _by_patterns(place: Place, listing: Tree, folder: Path, taken: set[str]) -> Iterator[Found]:
    sets: dict[str, Found] = {}
    first = place.img.split("/")[0]
    alone = folder.resolve().name if "{" in first else first
    split = {True: "train", False: "test", None: None}[place.train]
    for kind, pattern in place.patterns().items():
        for values, path in tree.match(listing, _any(pattern), {}):
            stem = values.pop("frame")
            name = values.pop("set", alone)
            video = "_".join(values.values())
            if place.flat and not (video := _video_of(stem)):
                continue
            if posixpath.splitext(path)[0] in taken or (kind != "img" and name not in sets):
                continue
            one = sets.setdefault(name, Found(name, place.stills, split))
            files = one.videos.setdefault(video, {})
            _add(files.setdefault(kind, {}), path, stem, place.stills, folder)
    yield from sets.values()


def _add(files: dict[Key, str], path: str, stem: str, stills: bool, folder: Path) -> None:
    key: Key | None = stem if stills else media.frame_number(stem)
    if key is None:
        raise DataError(f"{folder / path}: expected a frame number in its name. Rename the frames.")
    if key in files:
        other = posixpath.basename(files[key])
        raise DataError(f"{folder / path}: frame {key} is there twice (also {other}). Remove one.")
    files[key] = path


def check_pairs(found: Sequence[Found], folder: Path) -> None:
    """Raise DataError for a mask, flow or other picture that has no frame."""
    for video, files in (pair for one in found for pair in one.videos.items()):
        for kind, paths in files.items():
            if extra := [key for key in paths if key not in files.get("img", {})]:
                raise DataError(
                    f"{folder / paths[extra[0]]}: {len(extra)} {kind} pictures of "
                    f"{video or 'the set'} have no frame of their number. Remove them or restore "
                    "the frames."
                )


def _listed(one: Found, place: Place, folder: Path, notes: list[str]) -> Iterator[Found]:
    """Yield `one` itself, or the splits of it that the lists of its place name."""
    lists = {split: file.format(set=one.name) for split, file in place.lists.items()}
    lists = {split: file for split, file in lists.items() if (folder / file).is_file()}
    if not lists:
        yield one
        return
    left = dict(one.videos)
    for split, file in lists.items():
        rows = media.read_bytes(folder / file).decode(errors="surrogateescape").splitlines()
        # names, or rows of a frame and a mask
        words = [row.split()[0] for row in rows if row.strip()]
        names = {posixpath.basename(posixpath.dirname(w)) if "/" in w else w for w in words}
        videos = {video: left.pop(video) for video in list(left) if video in names}
        if lost := sorted(names - videos.keys(), key=media.natural_key):
            notes.append(f"{file}: {len(lost)} videos are not there (first: {lost[0]})")
        if videos:
            yield replace(one, split=split, videos=videos)
    if left:
        notes.append(f"{one.name}: {len(left)} videos are on no list (first: {next(iter(left))})")


def _by_rows(place: Place, listing: Tree, folder: Path) -> Iterator[Found]:
    split = "train" if place.train else "test"
    for values, path in tree.match(listing, place.rows or "", {}):
        videos: dict[str, Files] = {}
        stills: Files = {}
        text = media.read_bytes(folder / path).decode(errors="surrogateescape")
        for number, row in enumerate(text.splitlines(), 1):
            columns = [posixpath.normpath(part) for part in row.split()]
            if not columns:
                continue
            parts = columns[0].split("/")
            if len(columns) not in (2, 3) or len(parts) < 3:
                raise DataError(
                    f"{folder / path}: row {number}: expected the paths `.../VIDEO/FOLDER/FRAME "
                    "mask flow`, or two for still pictures. Paths hold no blank."
                )
            stem = posixpath.splitext(parts[-1])[0]
            still = len(columns) == 2
            files = stills if still else videos.setdefault(parts[-3], {})
            for kind, file in zip(("img", "gt", "flow"), columns, strict=False):
                _add(files.setdefault(kind, {}), file, stem, still, folder)
        if videos and stills:
            raise DataError(f"{folder / path}: rows of two and of three paths. Make two lists.")
        if videos or stills:
            yield Found(values["set"], bool(stills), split, videos or {"": stills})


def data_sets(one: Found, cards: Cards) -> list[Found]:
    """Return what `one` holds by data set of the catalogue, its videos under their official names.

    The folder's name and the videos on the cards tell which; what no card knows keeps its name.
    """
    owners = _owners(one, cards)
    if one.split is not None and (sure := [o for o in owners if o[1] == one.split]):
        owners = sure
    shared: dict[str, Found] = {}
    for video, files in one.videos.items():
        named = [(o, name) for o in owners if (name := _official(*o, video)) is not None]
        if len(owners) == 1:
            (card, split), name = owners[0], named[0][1] if named else video
            dataset = card.dataset(split)
        elif len(named) == 1:
            ((card, split), name) = named[0]
            dataset = card.dataset(split)
        else:
            dataset, name = one.name, video
        held = shared.setdefault(dataset, replace(one, name=dataset, videos={}))
        if name in held.videos:
            raise DataError(f"{one.name}: two videos are {name}. Rename one of them.")
        held.videos[name] = files
    return list(shared.values())


def _owners(one: Found, cards: Cards) -> list[tuple[Card, str]]:
    """Return card and split of the data sets that a folder of this name may hold."""
    if one.name in ALIASES:
        named = [owner(dataset, cards) for dataset in ALIASES[one.name]]
    else:
        named = [owner(one.name, cards)]
    return [found for found in named if found is not None] or [
        (card, split)
        for card in cards.values()
        if one.name.lower() in {name.lower() for name in (card.name, *card.folders)}
        for split in card.splits
    ]


def _official(card: Card, split: str, video: str) -> str | None:
    """Return the name that the card lists for `video`, None where it lists none of the kind."""
    listed = card.splits[split].videos
    if (name := card.official(video)) in listed:
        return name
    # a writer of DPA's layout replaces underscores
    like = [name for name in listed if plain(name) == plain(video)]
    return like[0] if len(like) == 1 else None


def plain(name: str) -> str:
    """Return a video's name as the strictest of the loaders can have it."""
    return "".join("-" if mark in "_. \t" else mark for mark in name)
