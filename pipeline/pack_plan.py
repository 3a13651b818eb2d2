"""What a pack will write: sizes, arrays, shards, and for every frame the files it is made from."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vsodpipe import catalogue, flow_raw, flow_record, hdf5, shards, store
from vsodpipe.errors import DataError, UsageError
from vsodpipe.flow_forms import FORMS
from vsodpipe.manifest import Split
from vsodpipe.pack_shard import Entry, Size, Task
from vsodpipe.place import Place

Container = Literal["zarr", "hdf5"]
Flow = Literal["picture", "raw", "both"]
SIZE_480P = (480, 854)


@dataclass(frozen=True)
class Options:
    """How to pack."""

    size: Size | None = (384, 384)
    """Stored (height, width) in pixels, None for the native one."""
    tier: str = "raw"
    container: Container = "zarr"
    flow: Flow = "picture"

    def __post_init__(self) -> None:
        _one_of("--tier", self.tier, store.TIERS)
        _one_of("--format", self.container, ("zarr", "hdf5"))
        _one_of("--flow", self.flow, ("picture", "raw", "both"))
        if self.container == "hdf5" and self.tier in ("jpeg", "small"):
            raise UsageError(f"--tier {self.tier}: HDF5 has no JPEG chunks. Use --format zarr.")


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{option} {value}: expected one of {', '.join(known)}.")


@dataclass(frozen=True)
class RawFlow:
    """Flow (u, v) beside the pictures: its form, record, and folder for every video."""

    form: str
    record: dict[str, Any]
    folders: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A whole pack."""

    split: Split
    options: Options
    arrays: tuple[str, ...]
    groups: tuple[store.Group, ...]
    """With no bytes yet."""
    order: tuple[tuple[int, ...], ...]
    """For each group, the places of its frames in the data set."""
    entries: tuple[Entry, ...]
    raw: RawFlow | None
    fingerprint: str
    """Of the options and the source files: names, sizes, times of change."""

    @property
    def mark(self) -> str:
        """What an interrupted pack leaves: whether another one may continue it."""
        how = [store.codec(a, self.options.tier, self.options.container) for a in self.arrays]
        return " ".join([self.fingerprint, *how])

    @property
    def shards(self) -> int:
        """Number of shards of every array."""
        return sum(group.shards for group in self.groups)

    def tasks(self, place: Place) -> Iterator[Task]:
        """Yield the tasks that write all shards to `place`."""
        form = self.raw.form if self.raw else None
        options = self.options
        for group, order in zip(self.groups, self.order, strict=True):
            for number in range(group.shards):
                part = order[number * group.shard : (number + 1) * group.shard]
                yield Task(
                    place,
                    number,
                    group.path,
                    group.size,
                    group.shard,
                    self.arrays,
                    options.tier,
                    options.container,
                    form,
                    tuple(self.entries[n] for n in part),
                )


def parse_size(text: str) -> Size | None:
    """Return (height, width) for `384`, `384x640` (height x width), `480p`; None for `native`.

    Raises UsageError for anything else.
    """
    if text == "native":
        return None
    if text == "480p":
        return SIZE_480P
    sides = text.split("x")
    if len(sides) > 2 or not all(re.fullmatch("[1-9][0-9]{0,3}", side) for side in sides):
        raise UsageError(f"--size {text}: expected N, HEIGHTxWIDTH, 480p or native, as in 384x640.")
    return int(sides[0]), int(sides[-1])


def make(split: Split, root: str, options: Options) -> Plan:
    """Return the plan for `split`, whose files are relative to `root`.

    Raises DataError where raw flow was asked for and is not there.
    """
    if options.container == "hdf5":
        hdf5.library()
    raw = None if options.flow == "picture" else _raw_flow(split, root)
    entries = tuple(_entries(split, root, options, raw))
    there = {array for entry in entries for array in entry.files}
    arrays = tuple(array for array in store.KINDS if array in there)
    by_size: dict[Size, list[int]] = {}
    for number, entry in enumerate(entries):
        by_size.setdefault(options.size or entry.native, []).append(number)
    several = len(by_size) > 1
    groups = tuple(
        store.Group(
            path=f"size_{height}x{width}" if several else "",
            size=(height, width),
            frames=len(numbers),
            shard=store.shard_frames(arrays, (height, width)),
            bytes={},
        )
        for (height, width), numbers in by_size.items()
    )
    order = tuple(tuple(numbers) for numbers in by_size.values())
    fingerprint = _fingerprint(split, options, arrays, entries, raw)
    return Plan(split, options, arrays, groups, order, entries, raw, fingerprint)


def _entries(split: Split, root: str, options: Options, raw: RawFlow | None) -> Iterator[Entry]:
    names = {"img": "img", "gt": "gt", "depth": "depth", "thermal": "thermal"}
    if options.flow != "raw":
        names["flow_picture"] = "flow"
    for number, video in enumerate(split.videos):
        for frame in video.frames:
            files = {
                array: f"{root}/{path}"
                for array, key in names.items()
                if (path := getattr(frame, key)) is not None
            }
            last = frame is video.frames[-1]
            if raw and not (last and raw.record.get("tail") == "none"):
                suffix = FORMS[raw.form].suffix
                folder = raw.folders[number]
                files["flow"] = f"{folder}/{frame.name}{suffix}" if suffix else folder
            where = f"{split.dataset}/{video.name}/{frame.name}"
            yield Entry(where, frame.name, video.size, files)


def _raw_flow(split: Split, root: str) -> RawFlow:
    """Return where flow (u, v) lies: what `vsodpipe flow --format raw|flo|kitti` left."""
    remedy = f"Run: vsodpipe flow {split.dataset} --format raw"
    if "://" in root:
        raise DataError(f"{split.dataset}: flow (u, v) is read from a local data root. Copy it.")
    videos = {video.name: video for video in catalogue.find(split.dataset, Path(root)).videos}
    if lacking := [video.name for video in split.videos if video.name not in videos]:
        raise DataError(f"{split.dataset}: {lacking[0]} is not in {root}. Write the manifest anew.")
    for form in ("raw", "flo", "kitti"):
        folders = [videos[v.name].flow_beside(FORMS[form].folder) for v in split.videos]
        found = {v.name: flow_record.read(f) for v, f in zip(split.videos, folders, strict=True)}
        record = flow_record.common(split.dataset, found)
        if record is not None and _is_form(record, form):
            return RawFlow(form, record, tuple(os.path.abspath(folder) for folder in folders))
    raise DataError(f"{split.dataset}: no flow (u, v) beside its pictures. {remedy}")


def _is_form(record: dict[str, Any], form: str) -> bool:
    # a flow folder that the user named holds one form, whatever its name
    return record.get("format", FORMS[form].words) == FORMS[form].words


def _fingerprint(
    split: Split,
    options: Options,
    arrays: tuple[str, ...],
    entries: tuple[Entry, ...],
    raw: RawFlow | None,
) -> str:
    about = (
        (store.VERSION, options.size, options.tier, options.container, arrays),
        (split.dataset, split.flow, raw and raw.record, [v.name for v in split.videos]),
    )
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for entry in entries:
        for array, path in entry.files.items():
            digest.update(f"{entry.where} {array} {_state(path)}\n".encode())
    return digest.hexdigest()[:16]


def _state(path: str) -> Any:
    """Return what tells whether a file has changed; of one behind a URL, its name alone."""
    if "://" in path:
        return path
    if os.path.isdir(path):
        path = f"{path}/{flow_raw.STORE}/flow/zarr.json"
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}. Check the path.") from error
    return status.st_size, status.st_mtime_ns


def shard_overhead(plan: Plan) -> int:
    """Return the bytes of the indices of all shards."""
    arrays = len(plan.arrays)
    return sum(group.shards * arrays * shards.index_bytes(group.shard) for group in plan.groups)
