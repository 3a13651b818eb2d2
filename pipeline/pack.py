"""Manifest -> chunked store: one task a shard, committed at the end, continued after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vsodpipe import (
    __version__,
    cluster,
    flow_raw,
    hdf5,
    media,
    pack_plan,
    pack_shard,
    reader,
    store,
    zarr_files,
)
from vsodpipe.errors import DataError, UsageError, VsodpipeError, unwritable
from vsodpipe.manifest import Split
from vsodpipe.pack_plan import Options, Plan
from vsodpipe.place import Place
from vsodpipe.progress import Reporter

PLAN = ".plan"
ROOT = "zarr.json"
MEASURED = 4
"""Frames that an estimate encodes."""


@dataclass(frozen=True)
class Packed:
    """What a pack left."""

    path: str
    frames: int
    shards: int
    bytes: int
    kept: bool
    """The store was there already, made from the same files."""


@dataclass(frozen=True)
class Estimate:
    """What a pack would do; nothing is written to find out."""

    frames: int
    arrays: tuple[str, ...]
    bytes: int
    files: int
    seconds: float
    """In one process, as long as the first frames took."""
    measured: int


def pack(
    split: Split,
    root: str,
    target: str | Path,
    size: pack_plan.Size | None,
    reporter: Reporter,
    *,
    tier: str = "raw",
    container: pack_plan.Container = "zarr",
    flow: pack_plan.Flow = "picture",
    where: str | None = None,
    force: bool = False,
) -> Packed:
    """Write the store of `split` (files relative to `root`) to `target`, a path or URL.

    Frames are stored at `size`, (height, width) in pixels, or at their own where that is None.
    Runs where `cluster.each` says. A store of the same files (names, sizes, times of change) is
    kept; one of others is an error unless `force`, and what is no store is never replaced. A
    damaged file ends the pack with nothing left behind.
    """
    url, options = str(target).rstrip("/"), Options(size, tier, container, flow)
    _check_name(url, options)
    plan = pack_plan.make(split, root, options)
    local, path = "://" not in url, Path(url)
    place = Place(str(path.with_name(f".{path.name}.partial")) if local else url)
    with place.held(reporter.say):
        if (kept := _what_is_there(url, plan, force)) is not None:
            # killed after the commit: the rest of the work is still there
            if local:
                _clear(place)
            else:
                place.remove([name for name in place.names() if name.startswith(".")])
            return kept
        try:
            notes = _write_shards(plan, place, reporter, where)
            _check_unchanged(plan, place, split, root)
            attributes, small = _metadata(plan, notes)
            if options.container == "hdf5":
                _finish_hdf5(plan, place, path, attributes, small)
            else:
                _finish_zarr(place, path if local else None, notes, attributes, small)
        except DataError:  # after any other error the next run continues
            with suppress(VsodpipeError):
                _clear(place)
            raise
        except OSError as error:
            raise unwritable(url, error) from error
    opened = reader.open_store(url)
    return Packed(url, len(opened), plan.shards, _bytes_of(url, opened), False)


def estimate(split: Split, root: str, options: Options) -> Estimate:
    """Return what `pack` would do: it encodes the first frames to find out."""
    plan = pack_plan.make(split, root, options)
    task = next(plan.tasks(Place("")))
    entries = task.entries[:MEASURED]
    started = time.perf_counter()
    sizes = [
        len(pack_shard.encode(task, entry, array)[0] or b"")
        for entry in entries
        for array in plan.arrays
    ]
    took = time.perf_counter() - started
    height, width = task.size
    scale = sum(g.frames * g.size[0] * g.size[1] for g in plan.groups) / (height * width)
    count = plan.shards * len(plan.arrays) + 2 * len(store.SMALL)
    return Estimate(
        frames=len(plan.entries),
        arrays=plan.arrays,
        bytes=round(sum(sizes) / len(entries) * scale) + pack_plan.shard_overhead(plan),
        files=1 if options.container == "hdf5" else count,
        seconds=took / len(entries) * scale,
        measured=len(entries),
    )


def _check_name(url: str, options: Options) -> None:
    is_hdf5 = url.endswith(hdf5.SUFFIXES)
    if options.container == "hdf5" and (not is_hdf5 or "://" in url):
        raise UsageError(f"{url}: HDF5 is written to a local file NAME.h5. Copy it from there.")
    if options.container == "zarr" and is_hdf5:
        raise UsageError(f"{url}: the ending of HDF5. Add --format hdf5, or name it NAME.zarr.")


def _what_is_there(url: str, plan: Plan, force: bool) -> Packed | None:
    """Return the store that can stay, None to write it. Raises DataError where that is unclear."""
    place, local = Place(url), "://" not in url
    if local and not os.path.lexists(url):
        return None
    if not local:
        names = place.names()
        if not names or (ROOT not in names and PLAN in names):
            return None
    found = _attributes(url)
    if found is None:
        raise DataError(f"{url}: is there already and is no store. Use --to.")
    if found.get("packed_from") == plan.fingerprint and not force:
        opened = reader.open_store(url)
        return Packed(url, len(opened), plan.shards, _bytes_of(url, opened), True)
    if not force:
        raise DataError(
            f"{url}: was packed in another way, or from other files than there are now. "
            "Use --force."
        )
    if not local:  # from here on it is no store, but one that is being packed
        place.write(PLAN, b"another one")
        place.remove([ROOT])
    return None


def _attributes(url: str) -> dict[str, Any] | None:
    """Return the attributes of a store of any version, None for what is none."""
    try:
        if url.endswith(hdf5.SUFFIXES):
            return reader.open_store(url).attributes
        found = json.loads(Place(url).read(ROOT) or b"")["attributes"]
        return found if found["schema"]["name"] == store.SCHEMA else None
    except (DataError, ValueError, KeyError, TypeError):
        return None


def _write_shards(
    plan: Plan, place: Place, reporter: Reporter, where: str | None
) -> dict[str, dict[str, Any]]:
    """Write the shards that an interrupted run has not; return the notes of all of them."""
    if (place.read(PLAN) or b"").decode() != plan.mark:
        _clear(place)
        place.write(PLAN, plan.mark.encode())
    tasks, notes, todo = list(plan.tasks(place)), {}, []
    there = set(place.names())
    for task in tasks:
        data = place.read(task.note) if task.note in there else None
        if data is None:
            todo.append(task)
        else:
            notes[task.note] = json.loads(data)
    finished = sum(len(task.entries) for task in tasks) - sum(len(t.entries) for t in todo)
    title = f"pack {plan.split.dataset}"
    with reporter.task(title, len(plan.entries), "frame", finished) as counter:
        for frames, name, note in cluster.each(pack_shard.write, todo, where, say=reporter.say):
            notes[name] = note
            counter.advance(frames)
    return {task.note: notes[task.note] for task in tasks}


def _metadata(
    plan: Plan, notes: dict[str, dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the attributes of the store, and its arrays that are not pixels."""
    groups, small = [], _small(plan)
    task_notes = iter(notes.values())
    stored = np.zeros((len(plan.entries), len(plan.arrays)), np.uint32)
    source = stored.copy()
    for group, order in zip(plan.groups, plan.order, strict=True):
        mine = [next(task_notes) for _ in range(group.shards)]
        for column, array in enumerate(plan.arrays):
            stored[list(order), column] = np.concatenate([n["stored"][array] for n in mine])
            source[list(order), column] = np.concatenate([n["source"][array] for n in mine])
        sizes = {array: tuple(note["bytes"][array] for note in mine) for array in plan.arrays}
        groups.append(group.model_copy(update={"bytes": sizes}))
        if group.path:
            small[group.named("order")] = np.array(order, np.int64)
    small |= {"stored_crc32c": stored, "source_crc32c": source}
    return _attributes_of(plan, groups, small), small


def _attributes_of(
    plan: Plan, groups: list[store.Group], small: dict[str, NDArray[Any]]
) -> dict[str, Any]:
    split, options = plan.split, plan.options
    record = plan.raw.record if plan.raw else None
    attributes: dict[str, Any] = {
        "schema": {"name": store.SCHEMA, "version": store.VERSION},
        "dataset": split.dataset,
        "split": split.split,
        "tier": options.tier,
        "arrays": list(plan.arrays),
        "color": "RGB",
        "resize": {
            "pictures": "area, linear where enlarged",
            "gt": "nearest",
            "flow": "as pictures, u and v scaled",
            "flow_picture": "made before the resize",
            "library": f"opencv {cv2.__version__}",
        },
        "videos": [video.name for video in split.videos],
        "groups": [group.model_dump(mode="json") for group in groups],
        "flow": split.flow or record,
        "flow_vectors": {
            "record": record,
            "direction": f"t -> t+{(record or {}).get('gap', 1)}",
            "last_frame": (record or {}).get("tail", "missing"),
        },
        "packed_from": plan.fingerprint,
        "created_with": f"vsodpipe {__version__}",
    }
    # what the store holds, wherever and from whichever files it was made
    digest = hashlib.sha256()
    what = {k: v for k, v in attributes.items() if k not in ("packed_from", "created_with")}
    digest.update(json.dumps(what, sort_keys=True).encode())
    for name in sorted(set(small) - {"source_crc32c"}):
        digest.update(np.ascontiguousarray(small[name]).tobytes())
    return {**attributes, "fingerprint": digest.hexdigest()[:16]}


def _small(plan: Plan) -> dict[str, NDArray[Any]]:
    videos, entries = plan.split.videos, plan.entries
    numbers = [
        place if (number := media.frame_number(frame.name)) is None else number
        for video in videos
        for place, frame in enumerate(video.frames)
    ]
    has = {
        f"has_{array}": np.array([array in entry.files for entry in entries])
        for array in plan.arrays
        if array != "img"
    }
    return {
        "video_offset": np.cumsum([0, *(len(video.frames) for video in videos)], dtype=np.int64),
        "video_size": np.array([video.size for video in videos], np.int32),
        "frame_name": flow_raw.names_as_letters([entry.name for entry in entries]),
        "source_frame": np.array(numbers).astype(np.int32),
        **has,
    }


def _check_unchanged(plan: Plan, place: Place, split: Split, root: str) -> None:
    """Raise an error where the files, or what was written, have changed since the beginning."""
    if pack_plan.make(split, root, plan.options).fingerprint != plan.fingerprint:
        raise DataError(f"{split.dataset}: files changed while they were packed. Run again.")
    if (place.read(PLAN) or b"").decode() != plan.mark:
        raise VsodpipeError(f"{place.url}: another pack writes there too. End one, run again.")


def _finish_zarr(
    place: Place,
    target: Path | None,
    notes: dict[str, dict[str, Any]],
    attributes: dict[str, Any],
    small: dict[str, NDArray[Any]],
) -> None:
    """Write the metadata, the root's last, and move a local store to `target`."""
    for name, data in zarr_files.metadata_files(attributes, small):
        place.write(name, data)
    place.remove([PLAN, *notes])
    if target is not None:
        media.remove(Path(place.url, ".done"))
        media.withdraw(target)
        os.replace(place.url, target)


def _finish_hdf5(
    plan: Plan,
    place: Place,
    target: Path,
    attributes: dict[str, Any],
    small: dict[str, NDArray[Any]],
) -> None:
    files = {
        group.named(array): [
            Path(place.url, zarr_files.shard_file(group.named(array), number))
            for number in range(group.shards)
        ]
        for group in plan.groups
        for array in plan.arrays
    }
    built = Path(place.url, "store.h5")
    hdf5.assemble(built, attributes, small, files)
    os.replace(built, target)
    _clear(place)


def _clear(place: Place) -> None:
    """Delete everything: the notes first, as they vouch for the rest, and the plan, our mark, last.

    A local folder stays, as it is locked.
    """
    if place.local:
        for path in sorted(Path(place.url).iterdir()):
            media.remove(path)
        return
    names = place.names()
    done = [name for name in names if name.startswith(".done/")]
    for part in (done, set(names) - {PLAN, *done}, [PLAN]):
        place.remove(list(part))


def _bytes_of(url: str, opened: reader.Store) -> int:
    if url.endswith(hdf5.SUFFIXES):
        return os.path.getsize(url)
    return opened.nbytes
