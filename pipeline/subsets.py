"""Parts of manifests, and several manifests as one: videos, splits, samples, weights, mixtures.

From Manifest to Manifest; no picture is opened.
"""

from __future__ import annotations

import hashlib
import math
import os
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from vsodpipe import flow_record, media
from vsodpipe.errors import DataError, UsageError, few, unknown
from vsodpipe.manifest import Frame, Manifest, Split, Video, group_and_split, read


@dataclass(frozen=True, slots=True)
class Choice:
    """Which part of a manifest is wanted, in the order in which it is taken."""

    split: str | None = None
    videos: tuple[str, ...] = ()
    sample: int | None = None
    seed: int = 0
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    """A manifest to join, the folder (absolute) or URL that its paths start from, and a label."""

    manifest: Manifest
    root: str
    label: str


def chosen(manifest: Manifest, choice: Choice) -> Manifest:
    """Return the part of `manifest` that `choice` asks for. Raises UsageError for what it lacks."""
    if choice.split is not None:
        manifest = of_split(manifest, choice.split)
    if choice.videos:
        manifest = of_videos(manifest, choice.videos)
    if choice.sample is not None:
        manifest = sample(manifest, choice.sample, choice.seed)
    return weighted(manifest, choice.weights)


def of_split(manifest: Manifest, name: str) -> Manifest:
    """Return the data sets of split `name` (train, val, test). Raises UsageError for none."""
    kept = [split for split in manifest.datasets if split.split == name]
    if not kept:
        known = {split.split for split in manifest.datasets if split.split}
        raise unknown("split", name, known)
    return _with(manifest, kept)


def of_videos(manifest: Manifest, patterns: Sequence[str]) -> Manifest:
    """Return the videos that any of the `patterns` names; data sets without such a video go.

    A pattern is a name or a glob of a video (`bear`, `car-*`), or of data set and video
    (`DAVIS_train/*`). Raises UsageError for a pattern that no video has.
    """
    hit: set[str] = set()

    def kept(split: Split, video: Video) -> bool:
        names = (video.name, f"{split.dataset}/{video.name}")
        fits = [p for p in patterns if any(n == p or fnmatchcase(n, p) for n in names)]
        hit.update(fits)
        return bool(fits)

    chosen = [(split, [v for v in split.videos if kept(split, v)]) for split in manifest.datasets]
    for pattern in patterns:
        if pattern not in hit:
            names = {video.name for split in manifest.datasets for video in split.videos}
            raise unknown("video", pattern, names)
    return _with(manifest, [_holding(split, videos) for split, videos in chosen if videos])


def sample(manifest: Manifest, count: int, seed: int) -> Manifest:
    """Return `count` videos of every data set, chosen by `seed`, in the order of the manifest.

    A video's chance depends on the seed and its own name alone: not on the order of anything, nor
    on the other data sets, and a larger sample of one seed holds the smaller one. Raises UsageError
    where a data set has fewer videos.
    """
    kept = []
    for split in manifest.datasets:
        if not 1 <= count <= len(split.videos):
            raise UsageError(
                f"--sample {count}: expected 1 to {len(split.videos)}, the number of videos of "
                f"{split.dataset}."
            )
        drawn = sorted(split.videos, key=_draw(f"{seed}/{split.dataset}"))[:count]
        names = {video.name for video in drawn}
        kept.append(_holding(split, [v for v in split.videos if v.name in names]))
    return _with(manifest, kept)


def _draw(salt: str) -> Callable[[Video], str]:
    return lambda video: hashlib.sha256(f"{salt}/{video.name}".encode()).hexdigest()


def weighted(manifest: Manifest, weights: Mapping[str, float]) -> Manifest:
    """Return the manifest with `weights` of its data sets: how often a sample stands in an epoch.

    Raises UsageError for a data set that it does not hold.
    """
    names = [split.dataset for split in manifest.datasets]
    for name in weights:
        if name not in names:
            raise unknown("data set in --weight", name, names)
    splits = [
        split.model_copy(update={"weight": weights[split.dataset]})
        if split.dataset in weights
        else split
        for split in manifest.datasets
    ]
    return _with(manifest, splits)


def parse_weights(texts: Sequence[str]) -> dict[str, float]:
    """Return {"DAVIS_train": 2.0} for `DAVIS_train=2`. Raises UsageError for anything else."""
    weights: dict[str, float] = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = 0.0
        if not name or not weight > 0 or math.isinf(weight):
            raise UsageError(f"--weight {text}: expected DATASET=NUMBER above 0: DAVIS_train=2.")
        if name in weights:
            raise UsageError(f"--weight {text}: {name} has a weight already.")
        weights[name] = weight
    return weights


def join(parts: Sequence[Part], name: str) -> tuple[Manifest, str]:
    """Return one manifest `name` of all data sets of the `parts`, and its root.

    The root is the nearest folder or URL that holds those of all parts; it is absolute, in the
    manifest too. Raises UsageError for a data set that two parts hold, and for roots without a
    common parent.
    """
    holders: dict[str, str] = {}
    for part in parts:
        for split in part.manifest.datasets:
            if split.dataset in holders:
                raise UsageError(
                    f"{split.dataset} is in {holders[split.dataset]} and in {part.label}. "
                    "Take one of the two out."
                )
            holders[split.dataset] = part.label
    root = _common_root([part.root for part in parts])
    splits = [
        _below(split, part.root[len(root) :].strip("/"))
        for part in parts
        for split in part.manifest.datasets
    ]
    return Manifest(name=name, root=root, datasets=tuple(splits)), root


def _common_root(roots: Sequence[str]) -> str:
    if len(set(roots)) == 1:
        return roots[0]
    schemes = {root.partition("://")[0] if "://" in root else "" for root in roots}
    try:
        if schemes == {""}:
            return os.path.commonpath(roots)
        (scheme,) = schemes
        common = posixpath.commonpath([root.partition("://")[2] for root in roots])
        if common:
            return f"{scheme}://{common}"
    except ValueError:  # several schemes, or drives
        pass
    raise UsageError(f"no folder or URL holds both {roots[0]} and the other roots: {few(roots)}.")


def _below(split: Split, prefix: str) -> Split:
    """Return `split` with `prefix` before every path."""
    if not prefix:
        return split

    def moved(frame: Frame) -> Frame:
        kinds = ("img", "gt", "flow", "depth", "thermal")
        paths = {kind: path for kind in kinds if (path := getattr(frame, kind)) is not None}
        return Frame(name=frame.name, **{k: f"{prefix}/{path}" for k, path in paths.items()})

    videos = [
        video.model_copy(update={"frames": tuple(moved(frame) for frame in video.frames)})
        for video in split.videos
    ]
    return _holding(split, videos)


def kinds_of_flow(manifest: Manifest) -> str | None:
    """Return in words that the flow of the data sets is of several kinds, None where it is not."""
    kinds: dict[str, list[str]] = {}
    for split in manifest.datasets:
        if split.flow is not None:
            kinds.setdefault(flow_record.describe(split.flow), []).append(split.dataset)
    if len(kinds) < 2:
        return None
    return f"{manifest.name} holds flow of {len(kinds)} kinds: " + "; ".join(
        f"{kind} in {few(names)}" for kind, names in kinds.items()
    )


def check_free(name: str, out: Path) -> None:
    """Raise UsageError where a part or mixture called `name` would replace another manifest.

    `name` is one part of a path, and `out`/`name`.json is absent or a part or mixture itself.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(f"--name {name!r}: expected letters, digits, _, - and dots.")
    file = out / f"{name}.json"
    if file.exists() and read(file).manifest.made_by is None:
        raise UsageError(
            f"--name {name}: {file} holds whole data sets, which a choice would replace. "
            "Choose another name."
        )


def remove_lost(manifest: Manifest, out: Path) -> None:
    """Remove the txt files of a part or mixture in `out` that its successor does not write."""
    held = {split.dataset for split in manifest.datasets}
    with suppress(DataError):  # no manifest yet, or none that could be read before
        for name in read(out / f"{manifest.name}.json").names():
            if name not in held:
                media.remove(out / f"{manifest.name}.{name.lower()}.txt")


def check_name(manifest: Manifest, root: Path) -> None:
    """Raise UsageError where the manifest is called as the group of one of its data sets."""
    for split in manifest.datasets:
        if group_and_split(split.dataset, root)[0] == manifest.name:
            raise UsageError(
                f"--name {manifest.name}: is the name of the whole manifest of {split.dataset}. "
                "Choose another name."
            )


def _holding(split: Split, videos: Sequence[Video]) -> Split:
    return split.model_copy(update={"videos": tuple(videos)})


def _with(manifest: Manifest, splits: Sequence[Split]) -> Manifest:
    return manifest.model_copy(update={"datasets": tuple(splits)})
