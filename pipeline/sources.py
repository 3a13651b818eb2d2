"""What a command line names, as videos: data sets, folders, video files, and globs of all these."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vsodpipe import catalogue, flow_record, listing, media
from vsodpipe.catalogue import Dataset, Video
from vsodpipe.errors import UsageError, unknown


def find(names: Sequence[str], root: Path) -> Dataset:
    """Return what the `names` stand for, in their order, each video once.

    A name is that of a data set in the data root, or a path (a folder of video files stands for all
    of them), or a glob of paths (a glob of the data
    root where nothing else matches). One name that is no glob is `catalogue.find`. Videos of one
    name get more of their path, so that every name stands for one video. Raises UsageError for a
    glob that matches nothing, and what `catalogue.find` raises.
    """
    found = [dataset for name in names for dataset in _found(name, root)]
    if len(found) == 1:
        return found[0]
    videos = {v.flow_folder.absolute(): (d, v) for d, v in _pairs(found)}
    kept = [pair for pair in videos.values()]
    title = names[0] if len(names) == 1 else f"{len(kept)} videos"
    named = zip(_distinct(kept), kept, strict=True)
    return Dataset(title, found[0].root, tuple(replace(v, name=n) for n, (_, v) in named))


def only(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """Return `dataset` with the videos of these `names` alone. Raises UsageError for an unknown."""
    known = {video.name for video in dataset.videos}
    for name in names:
        if name not in known:
            raise unknown(f"video of {dataset.name}", name, known)
    return replace(dataset, videos=tuple(v for v in dataset.videos if v.name in names))


def _found(name: str, root: Path) -> list[Dataset]:
    literal = Path(name).exists() or (root / name).exists()
    if literal or not glob.has_magic(name):
        here = not Path(name).is_absolute() and (root / name).exists()
        files = [] if here else list(map(str, _video_files(Path(name))))
        return [catalogue.find(file, root) for file in files or [name]]
    matches = glob.glob(name, recursive=True) or glob.glob(str(root / name), recursive=True)
    # what an earlier run wrote beside the videos is no source of another
    sources = [path for path in matches if not _is_result(Path(path))]
    if not sources:
        raise UsageError(f"{name}: no video or folder matches. Quote a glob, and check the path.")
    # absolute, as a bare name would be looked for in the data root first
    paths = (Path(path).absolute() for path in sorted(sources, key=media.natural_key))
    return [catalogue.find(str(path), root) for path in paths]


def _video_files(folder: Path) -> list[Path]:
    """Return the video files of a folder without frames, in natural order; their paths absolute."""
    if not listing.is_folder(folder) or listing.pictures(folder) or catalogue.layout_of(folder):
        return []
    files = (path.absolute() for path in listing.entries(folder) if path.is_file())
    videos = (
        path
        for path in files
        if path.suffix.lower() in media.VIDEO_SUFFIXES and not _is_result(path)
    )
    return sorted(videos, key=lambda path: media.natural_key(path.name))


def _is_result(path: Path) -> bool:
    """Return whether `vsodpipe flow` or `predict` wrote this file or folder."""
    records = (flow_record.FILE, listing.MAPS_RECORD)
    return path.name.endswith(listing.OVERLAY) or any((path / n).is_file() for n in records)


def _pairs(datasets: Sequence[Dataset]) -> list[tuple[Dataset, Video]]:
    return [(dataset, video) for dataset in datasets for video in dataset.videos]


def _distinct(pairs: Sequence[tuple[Dataset, Video]]) -> list[str]:
    """Return a name for each video: its own, with as much of the path before it as it takes."""
    names = [video.name for _, video in pairs]
    places = [_place(dataset, video).parts for dataset, video in pairs]
    for length in range(1, max(map(len, places)) + 1):
        often = Counter(names)
        if max(often.values()) == 1:
            break
        names = [
            "-".join(part.strip("/\\") for part in place[-length:]) if often[name] > 1 else name
            for name, place in zip(names, places, strict=True)
        ]
    return names


def _place(dataset: Dataset, video: Video) -> Path:
    if video.file is not None:
        return video.file.absolute()
    alone = len(dataset.videos) == 1 and dataset.root.name == video.name
    return dataset.root.absolute() if alone else dataset.root.absolute() / video.name
