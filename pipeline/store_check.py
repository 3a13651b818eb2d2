"""What is inside a store, and whether it still is what was packed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsodpipe import catalogue, manifest, pack_plan, pack_shard
from vsodpipe.errors import DataError, UsageError
from vsodpipe.progress import Reporter
from vsodpipe.reader import Store


@dataclass(frozen=True)
class Checked:
    """What a check compared, and what it found, one line a fault."""

    chunks: int
    """Frames of arrays in the store."""
    sources: int
    """Files they were made from; 0 where those are not at hand."""
    faults: list[str]


def describe(store: Store) -> dict[str, Any]:
    """Return what a store holds."""
    has = {key: int(store.has(key).sum()) for key in store.arrays}
    return {
        "store": store.url,
        "dataset": store.dataset,
        "tier": store.attributes["tier"],
        "videos": len(store.videos),
        "frames": len(store),
        "sizes": {"x".join(map(str, g.size)): g.frames for g in store.groups},
        "arrays": {key: {"frames": has[key], "codec": store.codec(key)} for key in store.arrays},
        "shards": sum(group.shards for group in store.groups),
        "frames_a_shard": [group.shard for group in store.groups],
        "bytes": store.nbytes,
        "fingerprint": store.fingerprint,
        "flow": store.attributes.get("flow"),
    }


def lines(about: dict[str, Any]) -> list[str]:
    """Return a description in words, one line each."""
    sizes = ", ".join(f"{count} of {size}" for size, count in about["sizes"].items())
    said = [
        f"{about['store']}: {about['dataset']}, tier {about['tier']}, {about['videos']} videos",
        f"{about['frames']} frames (height x width): {sizes}",
    ]
    for name, array in about["arrays"].items():
        lacking = about["frames"] - array["frames"]
        said.append(
            f"  {name}: {array['codec']}" + (f", {lacking} frames without" if lacking else "")
        )
    per_frame = about["bytes"] / about["frames"] / 1000
    size = f"{about['bytes'] / 1e6:.0f} MB, {per_frame:.0f} kB a frame"
    said.append(f"{size}, {about['shards']} shards an array, fingerprint {about['fingerprint']}")
    return said


def check(store: Store, root: Path, reporter: Reporter) -> Checked:
    """Compare every frame with its checksum, and the files in data root `root` with theirs."""
    plan = _plan(store, root, reporter)
    made_from = store.source_crc32c()
    faults: list[str] = []
    chunks = sources = 0
    with reporter.task(f"check {store.url}", len(store), "frame") as counter:
        for index in range(len(store)):
            for column, key in enumerate(store.arrays):
                try:
                    chunks += store.chunk(index, key) is not None
                except DataError as error:
                    faults.append(str(error))
                if plan is None:
                    continue
                entry = plan.entries[index]
                form = plan.raw.form if plan.raw else None
                try:
                    crc = pack_shard.source_crc(entry, key, form)
                except DataError as error:
                    faults.append(str(error))
                    continue
                sources += crc != 0
                if crc != made_from[index, column]:
                    faults.append(f"{entry.where}: {key} has changed since it was packed.")
            counter.advance()
    return Checked(chunks, sources, faults)


def _plan(store: Store, root: Path, reporter: Reporter) -> pack_plan.Plan | None:
    """Return the files that the store was made from, None where they are not in the data root."""
    vectors, pictures = "flow" in store.arrays, "flow_picture" in store.arrays
    flow: pack_plan.Flow = "picture" if not vectors else "both" if pictures else "raw"
    try:
        split = manifest.split_of(catalogue.find(store.dataset, root), root, reporter)
        plan = pack_plan.make(split, str(root.resolve()), pack_plan.Options(None, flow=flow))
    except (UsageError, DataError) as error:
        reporter.warn(f"the files are not compared, only the store itself: {error}")
        return None
    named = [name for video in range(len(store.videos)) for name in store.frames(video)]
    if [v.name for v in split.videos] != store.videos or [e.name for e in plan.entries] != named:
        raise DataError(
            f"{store.url}: holds other frames than {root / store.dataset}. "
            f"Run: vsodpipe pack {store.dataset} --force."
        )
    return plan
