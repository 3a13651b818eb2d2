"""Manifest -> chunked store: one task a shard, committed by one rename, continued after a kill."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vsodpipe import cluster, media, store
from vsodpipe.errors import DataError, UsageError, VsodpipeError
from vsodpipe.manifest import Frame, Split, require_flow
from vsodpipe.progress import Reporter

PLAN = "plan.txt"
DONE = ".done"


@dataclass(frozen=True)
class Packed:
    """What a pack left on disk."""

    path: Path
    frames: int
    shards: int
    bytes: int
    kept: bool
    """The store was there already, made from the same files."""


def parse_size(text: str, split: Split) -> tuple[int, int]:
    """Return (height, width) for `384`, `384x640` (height x width) or `native`.

    Raises UsageError for anything else, and DataError for `native` where videos differ in size.
    """
    if text == "native":
        sizes = {video.size for video in split.videos}
        if len(sizes) > 1:
            raise DataError(f"{split.dataset}: its videos have {len(sizes)} sizes. Use --size N.")
        return sizes.pop()
    sides = text.split("x")
    if len(sides) > 2 or not all(re.fullmatch("[1-9][0-9]{0,3}", side) for side in sides):
        raise UsageError(f"--size {text}: expected N, HEIGHTxWIDTH or native, such as 384x640.")
    return int(sides[0]), int(sides[-1])


def pack(
    split: Split,
    root: str,
    target: Path,
    size: tuple[int, int],
    reporter: Reporter,
    *,
    where: str | None = None,
    force: bool = False,
) -> Packed:
    """Write the store of `split` (files relative to `root`) to folder `target`.

    Runs where `cluster.each` says. A store of the same files (names, sizes, times of change) is
    kept; one of others is an error unless `force`, and what is no store is never replaced. A
    damaged file ends the pack with nothing left behind.
    """
    if split.flow is not None:
        require_flow(split)
    plan = store.plan(split, size)
    fingerprint = _fingerprint(plan, root)
    if target.exists():
        found = store.fingerprint_of(target)
        if found is None:
            raise DataError(f"{target}: is there already and is no store. Use --out.")
        if found == fingerprint and not force:
            store.Store(str(target))
            return Packed(target, plan.frames, plan.shards, _bytes_of(target), True)
        if not force:
            raise DataError(
                f"{target}: was packed at another size, or from other files than there are now. "
                "Use --force."
            )
    building = target.with_name(f".{target.name}.partial")
    _prepare(building, plan, fingerprint)
    todo = [k for k in range(plan.shards) if not (building / DONE / str(k)).exists()]
    task = partial(_shard, str(building), plan, root)
    sizes = [min(plan.shard, plan.frames - k * plan.shard) for k in range(plan.shards)]
    finished = plan.frames - sum(sizes[k] for k in todo)
    try:
        with reporter.task(f"pack {split.dataset}", plan.frames, "frame", finished) as counter:
            for number in cluster.each(task, todo, where, say=reporter.say):
                counter.advance(sizes[number])
    except VsodpipeError:
        media.remove(building)
        raise
    for name in (PLAN, DONE):
        media.remove(building / name)
    resize = {"img": "area", "flow_picture": "area", "gt": "nearest", "library": cv2.__version__}
    store.commit(building, plan, {"fingerprint": fingerprint, "resize": resize})
    media.remove(target)
    os.replace(building, target)
    return Packed(target, plan.frames, plan.shards, _bytes_of(target), False)


def _prepare(building: Path, plan: store.Plan, fingerprint: str) -> None:
    """Start the partial store, or keep the one of an interrupted run with the same plan."""
    note = building / PLAN
    if note.is_file() and note.read_text() == fingerprint:
        return
    media.remove(building)
    try:
        building.parent.mkdir(parents=True, exist_ok=True)
        store.create(building, plan)
        (building / DONE).mkdir()
        note.write_text(fingerprint)
    except OSError as error:
        media.remove(building)
        raise DataError(f"{building.parent}: cannot be written: {error.strerror}.") from error


def _shard(building: str, plan: store.Plan, root: str, number: int) -> int:
    """Decode, resize and write one shard of every array; return its number."""
    frames = [frame for video in plan.split.videos for frame in video.frames]
    part = frames[number * plan.shard : (number + 1) * plan.shard]
    blocks = {
        name: np.stack([_picture(root, frame, name, plan.size) for frame in part])
        for name in plan.arrays
    }
    store.write_shard(Path(building), number, blocks, plan.shard)
    (Path(building) / DONE / str(number)).touch()
    return number


def _picture(root: str, frame: Frame, name: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    height, width = size
    if name == "gt":
        if frame.gt is None:
            return np.zeros(size, np.uint8)
        mask = media.read_mask(f"{root}/{frame.gt}").astype(np.uint8)
        return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)  # type: ignore[return-value]
    file = frame.img if name == "img" else frame.flow
    image = media.read_image(f"{root}/{file}")
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def _fingerprint(plan: store.Plan, root: str) -> str:
    digest = hashlib.sha256(f"{store.VERSION} {plan.size} {plan.split.flow}".encode())
    for video in plan.split.videos:
        for frame in video.frames:
            for path in (frame.img, frame.gt, frame.flow):
                status = os.stat(f"{root}/{path}") if path else None
                state = (status.st_size, status.st_mtime_ns) if status else None
                digest.update(f"{video.name} {path} {state}\n".encode())
    return digest.hexdigest()[:16]


def _bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
