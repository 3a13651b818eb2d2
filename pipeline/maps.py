"""Folders of saliency maps in the layouts that people publish, matched to a manifest by name.

    MAPS/METHOD/DATASET/...   MAPS/DATASET/...   DATASET/...   or the videos of one data set

Below a data set: `video/frame.png`, `video/video_frame.png`, `video_frame.png`, and `frame.png`
where no two frames share a name. Upper and lower case, `-` and `_`, and the ending (.png, .jpg,
.bmp) do not matter; the frame's name, that of its picture and that of its mask all count.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vsodpipe import card, catalogue, media
from vsodpipe.errors import DataError
from vsodpipe.manifest import Frame, Source, Split

OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "davis": ("davis16", "davis2016"),
    "fbms": ("fbms59",),
    "longvideos": ("lvid",),
    "pascals": ("pascal",),
    "segtrack2": ("segv2",),
    "ytobj": ("ytobj", "ytobjects"),
}
"""What published maps call a data set besides its card's name and key."""

TRAINING = ("train", "train2985", "val", "valid", "all")
"""Splits that the bare name of a data set does not stand for: published maps are of test splits."""

SHOWN = 5
"""Names that a message lists."""


@dataclass(frozen=True)
class Folder:
    """The maps of one method for one data set."""

    method: str
    root: Path
    """The method's own folder."""
    path: Path
    """The folder of the data set's maps."""
    source: Source
    split: Split

    @property
    def cards(self) -> Path:
        """The data root whose private cards count."""
        return catalogue.cards_root(self.source.root)


@dataclass(frozen=True)
class Matched:
    """Which map belongs to which frame, both by name."""

    files: dict[tuple[str, str], Path]
    """(video, frame) -> map."""
    extra: tuple[str, ...]
    """Maps below the folder that no frame is called like."""


def find(paths: Sequence[Path], sources: Sequence[Source]) -> list[Folder]:
    """Return every folder of maps below `paths` for a data set of the manifests `sources`.

    A method is called like its folder (that of the run for `RUN/maps`), with as much of the path
    before it as it takes to tell two apart. Raises DataError for a path that holds none, and for
    two folders of one data set.
    """
    splits = [(source, split) for source in sources for split in source.manifest.datasets]
    ((twice, count),) = Counter(split.dataset for _, split in splits).most_common(1)
    if count > 1:
        raise DataError(f"{twice} is in {count} manifests. Name one --manifest that holds it.")
    names = _labels([(split.dataset, catalogue.cards_root(s.root)) for s, split in splits])
    found: dict[tuple[Path, str], tuple[Path, Source, Split]] = {}
    for path in paths:
        if not path.is_dir():
            raise DataError(f"{path}: no such folder of maps. Write maps with vsodpipe test.")
        here = list(_below(path, splits, names))
        if not here:
            known = ", ".join(split.dataset for _, split in splits)
            raise DataError(
                f"{path}: expected a folder of one of the data sets {known} of "
                f"{sources[0].file}. Write maps with vsodpipe test."
            )
        for root, folder, source, split in here:
            key = (root.absolute(), split.dataset)
            other = found.setdefault(key, (folder, source, split))[0]
            if not os.path.samefile(other, folder):
                raise DataError(
                    f"{root}: {other.name} and {folder.name} are both {split.dataset}. "
                    "Move one of them away."
                )
    methods = _methods(list(dict.fromkeys(root for root, _ in found)))
    return [
        Folder(methods[root], root, folder, source, split)
        for (root, _), (folder, source, split) in found.items()
    ]


def match(folder: Path, split: Split, root: Path | None = None) -> Matched:
    """Return the map of every frame that has one below `folder`; private cards are those of `root`.

    Raises DataError where two maps could be the same frame's, such as a .png and a .jpg.
    """
    described = card.card_of(split.dataset, root)
    official = described[0].official if described else str
    names = {name: _key(name, official) for name in _pictures(folder)}
    frames = [(video.name, frame) for video in split.videos for frame in video.frames]
    often = Counter(stem for _, frame in frames for stem in _stems(frame))
    used: dict[str, tuple[str, str]] = {}
    matched: dict[tuple[str, str], str] = {}

    def assign(video: str, frame: Frame, hits: Sequence[str]) -> None:
        title = video, frame.name
        for name in dict.fromkeys(hits):
            other = matched.setdefault(title, name)
            if other != name:
                raise DataError(
                    f"{folder}: {other} and {name} are both the map of {video}/{frame.name}. "
                    "Remove one of them."
                )
            if used.setdefault(name, title) != title:
                raise DataError(
                    f"{folder}: {name} may be the map of {'/'.join(used[name])} and of "
                    f"{video}/{frame.name}. Put maps into a folder for each video."
                )

    nested = _index(names)
    for video, frame in frames:
        places = (f"{_plain(video)}/{stem}" for stem in _stems(frame))
        assign(video, frame, [name for key in places for name in nested.get(key, ())])
    flat = _index({n: key.replace("/", "_") for n, key in names.items() if n not in used})
    for video, frame in frames:
        start, stems = _plain(video), _stems(frame)
        keys = [f"{start}_{stem}" for stem in stems] + [f"{start}_{start}_{s}" for s in stems]
        keys += [stem for stem in stems if often[stem] == 1]
        assign(video, frame, [name for key in keys for name in flat.get(key, ())])
    extra = tuple(name for name in names if name not in used)
    return Matched({title: folder / name for title, name in matched.items()}, extra)


def missing(matched: Matched, wanted: Mapping[str, Sequence[str]]) -> str:
    """Return which `wanted` frames (video -> names) have no map, in words; empty for none."""
    total = sum(map(len, wanted.values()))
    lacking: list[str] = []
    count = 0
    for video, names in wanted.items():
        gone = [name for name in names if (video, name) not in matched.files]
        count += len(gone)
        if len(gone) == len(names) > 1:
            lacking.append(f"{video} (all {len(names)})")
        else:
            lacking += [f"{video}/{name}" for name in gone]
    return f"{count} of {total} maps are missing: {listed(lacking)}" if lacking else ""


def listed(names: Sequence[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _labels(datasets: Sequence[tuple[str, Path]]) -> dict[str, str]:
    """Return what folders may be called, in plain letters, and the data set that is meant.

    `datasets` are names, each with the root of its private cards.
    """
    full = {_letters(dataset): dataset for dataset, _ in datasets}
    short: dict[str, str] = {}
    for dataset, root in datasets:
        for name in _other_names(dataset, root):
            short.setdefault(_letters(name), dataset)
    return {**short, **full}


def _other_names(dataset: str, root: Path) -> Iterator[str]:
    found = card.card_of(dataset, root)
    if found is None:
        if dataset.endswith("_test"):
            yield dataset.removesuffix("_test")
        return
    described, split = found
    main = next((s for s in described.splits if s not in TRAINING), None)
    others = OTHER_NAMES.get(described.key, ())
    for base in (described.name, described.key, *described.folders, *others):
        yield f"{base}{split}"
        if split == "train":
            yield f"{base}tr"
        if split == main:
            yield from (base, f"{base}te", f"{base}test")
            yield from () if "val" in described.splits else (f"{base}val",)
    if split not in (*TRAINING, "test"):
        yield split


def _below(
    path: Path, splits: Sequence[tuple[Source, Split]], names: Mapping[str, str]
) -> Iterator[tuple[Path, Path, Source, Split]]:
    """Yield (method's folder, data set's folder, source, split) for what lies in `path`."""
    by_name = {split.dataset: (source, split) for source, split in splits}

    def named(folder: Path) -> tuple[Source, Split] | None:
        dataset = names.get(_letters(folder.absolute().name))
        return by_name[dataset] if dataset else None

    def children(folder: Path) -> list[tuple[Path, Path, Source, Split]]:
        hits = ((below, named(below)) for below in _folders(folder))
        return [(folder, below, *hit) for below, hit in hits if hit]

    if here := children(path):
        yield from here
    elif hit := named(path):
        yield path.absolute().parent, path, *hit
    elif deeper := [row for below in _folders(path) for row in children(below)]:
        yield from deeper
    else:  # a folder that holds the videos of one data set
        inside = {_plain(below.name) for below in _folders(path)}
        fits = [
            (source, split)
            for source, split in splits
            if any(_plain(video.name) in inside for video in split.videos)
        ]
        if len(fits) == 1:
            yield path, path, *fits[0]


def _folders(folder: Path) -> list[Path]:
    inside = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return sorted(entry for entry in inside if entry.is_dir())


def _methods(roots: Sequence[Path]) -> dict[Path, str]:
    """Return a name for each method's folder, by which no two are called alike."""
    places = {}
    for root in roots:
        of_run = root.name == "maps" and (root.parent / "run.json").is_file()
        places[root] = (root.parent if of_run else root).parts
    length = 1
    while True:
        names = {root: "/".join(parts[-length:]) for root, parts in places.items()}
        if len(set(names.values())) == len(roots) or length > max(map(len, places.values())):
            return names
        length += 1


def _pictures(folder: Path) -> list[str]:
    """Return the pictures below `folder` as relative paths, in order."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        here = os.path.realpath(place)
        # a link to a folder that holds it would be walked for ever
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and not f"{here}/".startswith(f"{os.path.realpath(os.path.join(place, name))}/")
        )
        below = Path(place).relative_to(folder)
        found += [
            (below / name).as_posix()
            for name in sorted(files)
            if Path(name).suffix.lower() in media.IMAGE_SUFFIXES
            and not name.startswith(".")
            and os.path.isfile(os.path.join(place, name))  # no pipe, no link to nothing
        ]
    return found


def _index(keys: Mapping[str, str]) -> dict[str, list[str]]:
    """Return key -> the names that have it."""
    index: dict[str, list[str]] = {}
    for name, key in keys.items():
        index.setdefault(key, []).append(name)
    return index


def _stems(frame: Frame) -> list[str]:
    """Return the names that a frame's map may have, without an ending."""
    paths = (PurePosixPath(path).stem for path in (frame.gt, frame.img) if path)
    return list(dict.fromkeys(map(_plain, (frame.name, *paths))))


def _key(name: str, official: Callable[[str], str]) -> str:
    """Return `video/frame` of a map's relative path, `a_b/frame` of `a/b/frame`.

    `official` gives the name of a video that re-packed copies call otherwise.
    """
    path = PurePosixPath(name)
    video, mark, frame = path.stem.rpartition("_")
    stem = f"{official(video)}_{frame}" if mark else path.stem
    folders = "_".join(_plain(official(part)) for part in path.parts[:-1])
    return f"{folders}/{_plain(stem)}" if folders else _plain(stem)


def _plain(name: str) -> str:
    """Return a name by which `Select-0616` and `select_0616` are the same."""
    return re.sub(r"[-_ ]+", "_", name).lower()


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
