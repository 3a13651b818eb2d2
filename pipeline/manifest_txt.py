"""Rows `img gt [flow]` of a txt, ours or that of a loader written elsewhere, as a manifest.

    JPEGImages/bear/00000.jpg Annotations/bear/00000.png -

Columns stand apart by blanks, or by tabs where a path holds a blank; `-` is for none; empty rows
and rows that begin with `#` do not count. The root of the manifest is the folder that all the files
have in common.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vsodpipe import card, catalogue, flow_record, media
from vsodpipe.card import Card
from vsodpipe.errors import DataError
from vsodpipe.manifest import Frame, Manifest, Source, Split, Video, group_in, valid
from vsodpipe.manifest_text import MAX_BYTES, shown

Row = tuple[str, ...]
"""Absolute paths of img, gt and flow; empty for none."""

UNKNOWN = {"engine": {"engine": "unknown"}, "fingerprint": "published-txt"}
"""The record of flow that came without one."""


@dataclass(frozen=True)
class Rows:
    """The rows of one txt, which are one data set."""

    dataset: str
    rows: tuple[Row, ...]


def read(file: Path, root: Path | None = None, data: Path | None = None) -> Source:
    """Return the manifest that the rows of one txt make up, as `manifest_of` does."""
    made = manifest_of([file], root, data)
    return Source(manifest=made, file=file, root=made.root)


def manifest_of(
    files: Sequence[Path], root: Path | None = None, data: Path | None = None
) -> Manifest:
    """Return one manifest of the data sets in `files`, a txt each; its root is absolute.

    Relative paths start from `root`, else from the folder of the txt or the working folder,
    whichever holds the first frame. A data set is called as its file, and known by the cards, those
    of the data root `data` too; videos are called as in our
    layouts, else by the third part of the path from its end, as in IANet. Frames are in natural
    order. The first frame of every video is opened for its size. Raises DataError for rows that are
    none, and for files that are not there.
    """
    cards = card.cards(data)
    read = [_rows(file, root, cards) for file in files]
    every = (path for one in read for row in one.rows for path in row if path)
    base = os.path.commonpath({os.path.dirname(path) for path in every})
    splits = [_split(one, base, file, cards) for one, file in zip(read, files, strict=True)]
    names = {group_in(cards, one.dataset)[0] for one in read}
    with valid(", ".join(map(str, files)), "Rename the files."):
        name = names.pop() if len(names) == 1 else "_".join(sorted(names))
        return Manifest(name=name, root=base, datasets=tuple(splits))


def _rows(file: Path, root: Path | None, cards: Mapping[str, Card]) -> Rows:
    text = media.read_bytes(file, limit=MAX_BYTES).decode("utf-8-sig", "surrogateescape")
    start: str | None = None
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        row = line.strip()
        if not row or row.startswith("#"):
            continue
        paths = [path.strip() for path in (row.split("\t") if "\t" in row else row.split())]
        place = f"{file}: row {number}"
        if len(paths) not in (2, 3) or paths[0] in ("-", ""):
            raise DataError(
                f"{place}: expected img gt and perhaps flow, got {shown(row)}. "
                "Put tabs between paths that hold blanks."
            )
        if any("\0" in path or "://" in path for path in paths):
            raise DataError(f"{place}: expected paths of files, got {shown(row)}.")
        if start is None:
            start = _start(paths[0], file, root)
        rows.append(tuple(_full(start, path) for path in paths))
    if not rows:
        raise DataError(f"{file}: no row in it. Write it with vsodpipe manifest.")
    return Rows(_dataset(file, cards), tuple(rows))


def _full(start: str, path: str) -> str:
    return "" if path in ("-", "") else os.path.normpath(os.path.join(start, path))


def _start(first: str, file: Path, root: Path | None) -> str:
    """Return the absolute folder that relative paths start from, by where the first frame is."""
    places = [root] if root is not None else [file.parent, Path.cwd()]
    for place in places:
        if os.path.isfile(os.path.join(place, first)):
            return os.path.abspath(place)
    tried = " and ".join(str(place) for place in places)
    raise DataError(
        f"{file}: its first frame {shown(first)} is not there (looked in {tried}). "
        f"Name the folder that its paths start from: vsodpipe manifest {file} --root FOLDER."
    )


def _dataset(file: Path, cards: Mapping[str, Card]) -> str:
    """Return the name of the data set: that of a card in its own letters, else the file's."""
    stem = file.name.removesuffix(".txt")
    every = (one.dataset(split) for one in cards.values() for split in one.splits)
    return next((name for name in every if name.lower() == stem.lower()), stem)


def _split(one: Rows, base: str, file: Path, cards: Mapping[str, Card]) -> Split:
    owner = card.owner(one.dataset, cards)
    stills = owner is not None and owner[0].kind == "image"
    videos: dict[str, list[Row]] = {}
    for row in one.rows:
        name = PurePosixPath(row[0]).stem if stills else _video(row[0], one.dataset)
        videos.setdefault(name, []).append(row)
    with valid(str(file), "Mend its rows."):
        made = tuple(_made(name, rows, base) for name, rows in videos.items())
        record = _record(one, made)
        split = group_in(cards, one.dataset)[1]
        return Split(dataset=one.dataset, split=split, flow=record, videos=made)


def _video(img: str, dataset: str) -> str:
    parts = PurePosixPath(img).parts
    for pattern in _PATTERNS:
        # JPEGImages/480p/00000.jpg has no name of a video
        if (found := pattern.search(img)) and found[1] != catalogue.RESOLUTION:
            return _flat(found[1], dataset, parts[-1])
    above = parts[-3] if len(parts) > 3 else parts[max(0, len(parts) - 2)]
    return _flat(above, dataset, parts[-1])


_PATTERNS = [
    re.compile(f"/{layout.img}/[^/]+$".replace("{video}", "([^/]+)"))
    for layout in catalogue.LAYOUTS
]


def _flat(name: str, dataset: str, frame: str) -> str:
    """Return the video of a frame in a flat tree, `NAME/RGB/bear_00000.jpg`, else `name`."""
    if name.lower() == dataset.lower():
        found = re.fullmatch(r"(.+?)[_-]?\d+", PurePosixPath(frame).stem)
        return found[1] if found else name
    return name


def _made(name: str, rows: Sequence[Row], base: str) -> Video:
    frames = [
        Frame(
            name=PurePosixPath(row[0]).stem,
            **{k: p[len(base) :].lstrip("/") for k, p in zip(_KEYS, row, strict=False) if p},
        )
        for row in sorted(rows, key=lambda row: media.natural_key(row[0]))
    ]
    return Video(name=name, size=media.image_size(Path(rows[0][0])), frames=tuple(frames))


_KEYS = ("img", "gt", "flow")


def _record(one: Rows, videos: Sequence[Video]) -> dict[str, Any] | None:
    """Return what is known of the flow: the flow.json beside it, or that nothing is known."""
    flows = (row[2] for row in one.rows if len(row) > 2 and row[2])
    held = {os.path.dirname(path): path for path in flows}
    if not held:
        return None
    # N frames have N-1 flows where nobody made one for the last
    lacking = [[frame.flow is None for frame in video.frames] for video in videos]
    last = all(found == [False] * (len(found) - 1) + [True] for found in lacking)
    unknown = {**UNKNOWN, **({"tail": "none"} if last else {})}
    records = {folder: flow_record.beside(Path(first)) or unknown for folder, first in held.items()}
    return flow_record.common(one.dataset, records)
