"""The data of a stage: which data sets of its recipe a manifest holds, and the clips of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from vsodpipe import stream, transforms
from vsodpipe.errors import DataError, UsageError
from vsodpipe.manifest import Source, Split, require_flow
from vsodpipe.progress import Reporter
from vsodpipe.ranks import Ranks
from vsodpipe.reader import Store
from vsodpipe.recipe import Data, Stage
from vsodpipe.stream import Clips, Files, Sample, open_reader


@dataclass(frozen=True)
class Feed:
    """What a stage trains on and is validated on."""

    datasets: tuple[str, ...]
    """Data sets of the recipe that the manifest holds."""
    lacking: tuple[str, ...]
    """Data sets of the published recipe that it does not hold."""
    training: Source
    """The manifest, without the videos that are held out."""
    validation: tuple[Split, ...]
    """What the stage is validated on; nothing where the manifest holds no such split."""


class Place(Protocol):
    """Where a stage runs and keeps the shards of stores on the network: `runs.Job` says it."""

    @property
    def device(self) -> str: ...
    @property
    def cache(self) -> Path | None: ...
    @property
    def cache_bytes(self) -> int: ...


def choose(stage: Stage, source: Source, *, strict: bool = False) -> Feed:
    """Return the data of `stage` in a manifest.

    Raises DataError when it holds none of the recipe's data sets, with `strict` when it lacks one,
    and for one whose flow is missing.
    """
    here = tuple(name for name in stage.data.datasets if name in source.names())
    lacking = tuple(name for name in stage.data.datasets if name not in source.names())
    if not here or (strict and lacking):
        needs = f"all of {', '.join(lacking)}" if here else f"one of {', '.join(lacking)}"
        raise DataError(
            f"{source.file}: stage {stage.name} needs {needs}; the manifest holds "
            f"{', '.join(source.names())}. Name your own: {_remedy(stage, source)}"
        )
    training, validation = _validation(stage, source, here)
    splits = [source.split(name) for name in here]
    beside = {key: [s for s in splits if Files(source, s).holds(key)] for key in stage.data.beside}
    if beside and not any(beside.values()):
        raise DataError(
            f"{source.file}: stage {stage.name} reads {', '.join(beside)} for its loss, which none "
            f"of {', '.join(here)} has. Use --set data.beside=[] to train without."
        )
    for split in (*splits, *validation):
        if stream.needs_flow(stage, split) or split in beside.get("flow", ()):
            require_flow(split)
    return Feed(here, lacking, training, validation)


def _remedy(stage: Stage, source: Source) -> str:
    """Return the option, as a shell takes it, that trains on what a manifest has for `stage`."""
    splits = source.manifest.datasets
    fit = [s for s in splits if s.flow is not None or not stream.needs_flow(stage, s)] or splits
    names = [s.dataset for s in fit if s.split == "train"] or [s.dataset for s in fit]
    return f"--set 'data.datasets={json.dumps(names)}'"


def _validation(
    stage: Stage, source: Source, here: tuple[str, ...]
) -> tuple[Source, tuple[Split, ...]]:
    wanted = stage.validate.split
    if wanted == "none":
        return source, ()
    if wanted == "val":
        return source, tuple(s for s in source.manifest.datasets if s.split == "val")
    if wanted != "train":
        return source, (source.split(wanted),)
    if stage.data.source != "files":
        raise UsageError(
            "recipe key validate.split: train holds videos out, which needs data.source=files: "
            "a store is read whole. Name a data set of the manifest instead."
        )
    kept = {name: _held_out(source.split(name), stage) for name in here}
    rest = tuple(
        _part(split, kept[split.dataset], False) if split.dataset in kept else split
        for split in source.manifest.datasets
    )
    manifest = source.manifest.model_copy(update={"datasets": rest})
    held = tuple(_part(source.split(name), names, True) for name, names in kept.items())
    return replace(source, manifest=manifest), held


def _held_out(split: Split, stage: Stage) -> set[str]:
    """Return the names of the videos held out of a data set, drawn by the seed."""
    names = sorted(video.name for video in split.videos)
    if len(names) < 2:
        raise DataError(
            f"{split.dataset}: one video cannot be both trained on and held out. "
            "Use --set validate.split=none."
        )
    count = max(1, round(stage.validate.held_out * len(names)))
    order = np.random.default_rng(stage.seed).permutation(len(names))
    return {names[i] for i in order[: min(count, len(names) - 1)]}


def _part(split: Split, names: set[str], inside: bool) -> Split:
    videos = tuple(video for video in split.videos if (video.name in names) == inside)
    return split.model_copy(update={"videos": videos})


def describe(stage: Stage, feed: Feed) -> list[str]:
    """Return in two lines what a stage trains on and what its best weights are chosen by."""
    beside = ", ".join(feed.lacking)
    beside = f"; the published recipe has beside them: {beside}" if beside else ""
    lines = [f"stage {stage.name}: trains on {', '.join(feed.datasets)}{beside}"]
    for key in stage.data.beside:
        splits = [feed.training.split(name) for name in feed.datasets]
        having = [s.dataset for s in splits if Files(feed.training, s).holds(key)]
        lines.append(f"stage {stage.name}: {key} for the loss: {', '.join(having) or 'nowhere'}")
    names = ", ".join(split.dataset for split in feed.validation)
    if feed.validation and stage.validate.split == "train":
        count = sum(len(split.videos) for split in feed.validation)
        lines.append(
            f"stage {stage.name}: {count} videos of {names} are held out to choose best.pt"
        )
    elif feed.validation:
        on_test = any(split.split == "test" for split in feed.validation)
        warning = " (test data: its scores are no longer a test)" if on_test else ""
        lines.append(f"stage {stage.name}: best.pt is chosen on {names}{warning}")
    elif stage.validate.split == "val":
        lines.append(
            f"stage {stage.name}: no val split in the manifest, so no best.pt; "
            "--set validate.split=train holds training videos out for it"
        )
    return lines


def clips(stage: Stage, feed: Feed, job: Place, ranks: Ranks, reporter: Reporter) -> Clips:
    """Return the training clips of `stage`, this process' share of them.

    For a GPU they hold bytes, of which it makes the same floats: a quarter to read and to copy.
    """
    if job.device != "cpu" and stage.data.without_flow != "zero":
        stage = replace(stage, data=replace(stage.data, uint8=True))
    readers = [
        open_reader(
            feed.training, name, stage.data.source, cache=job.cache, cache_bytes=job.cache_bytes
        )
        for name in feed.datasets
    ]
    height, width = stage.data.size
    soft = stage.data.labels and stage.data.masks == "soft"
    for reader in readers:
        if isinstance(reader, Store) and soft:
            reporter.warn(
                f"{reader.path} holds masks of 0 and 1, without the grey edges that "
                "data.masks=soft trains on. Use --set data.source=files for them."
            )
        if isinstance(reader, Store) and (reader.stored[0] < height or reader.stored[1] < width):
            reporter.warn(
                f"{reader.path} holds {reader.stored[1]}x{reader.stored[0]}, enlarged to "
                f"{width}x{height}. Pack it with --size {height}x{width}."
            )
    weights = [feed.training.split(name).weight or 1.0 for name in feed.datasets]
    return Clips(readers, stage, weights, rank=ranks.rank, world=ranks.world)


def on_device(batch: Sample, device: torch.device, model: str, data: Data) -> Sample:
    """Return the batch on `device`, as network `model` takes it; uint8 pictures become floats."""
    tensors = {k: v.to(device, non_blocking=True) for k, v in batch.items() if torch.is_tensor(v)}
    return stream.fed(model, {**batch, **transforms.to_float(tensors, data)})


def parts(batch: Sample, count: int) -> list[tuple[float, Sample]]:
    """Return up to `count` parts of a batch, each with its share of the samples."""
    total = len(batch["key"])
    size = -(-total // min(count, total))
    return [
        (len(batch["key"][i : i + size]) / total, {k: v[i : i + size] for k, v in batch.items()})
        for i in range(0, total, size)
    ]
