"""Saliency maps against the masks of manifests: per video and in total, under named protocols.

    folders = maps.find([Path("runs/RUN/maps")], [manifest.read(Path("manifests/davis.json"))])
    result = evaluate(folders, Options(), reporter)
    result["methods"]["RUN"]["datasets"]["DAVIS_test"]["total"]["jf"]

A result holds every number of `protocols.METRICS` that its protocol defines, null where one has no
value (decay over all frames, T of a video that the benchmark leaves out).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vsodpipe import card, cores, maps, media, metrics, protocols, scoring
from vsodpipe.a2s_scores import A2SScores, a2s_total
from vsodpipe.errors import DataError
from vsodpipe.manifest import Video
from vsodpipe.maps import Folder
from vsodpipe.progress import Reporter
from vsodpipe.protocols import METRICS, Frames, Protocol
from vsodpipe.scoring import CURVES, Item, Part, Rules, Task

PLAIN = {
    "mae": "mae",
    "s_measure": "s",
    "adaptive_f": "f_adaptive",
    "adaptive_e": "e_adaptive",
    "weighted_f": "f_weighted",
}
"""Key of the result -> value of a frame, for means over frames."""
A2S = {
    "a2s_mae": "mae",
    "a2s_mean_f": "mean_f",
    "a2s_max_f": "max_f",
    "a2s_e": "e_measure",
    "a2s_s": "s_measure",
    "a2s_weighted_f": "weighted_f",
}

Values = dict[str, float | None]


@dataclass(frozen=True)
class Options:
    """How to evaluate; what is None is that of the data set's protocol."""

    protocol: Protocol | None = None
    """None: the one that the data set's card names."""
    frames: Frames | None = None
    resize: bool = False
    workers: int = 1

    @classmethod
    def named(
        cls, protocol: str | None, frames: str | None, resize: bool, workers: int | None
    ) -> Options:
        """Return the options that a user wrote; `workers` None: one a core. Raises UsageError."""
        return cls(
            protocol=protocols.get(protocol) if protocol else None,
            frames=protocols.frames_rule(frames) if frames else None,
            resize=resize,
            workers=workers or cores.count(),
        )

    def of(self, folder: Folder) -> Protocol:
        """Return the protocol for the data set of a folder of maps."""
        found = self.protocol or protocols.of(folder.split.dataset, folder.cards)
        sizes = "bilinear" if self.resize else found.sizes
        return replace(found, frames=self.frames or found.frames, sizes=sizes)


@dataclass(frozen=True)
class Unit:
    """What is averaged: a video, a class, or all frames."""

    frames: int
    values: Values
    curves: dict[str, NDArray[np.float64]]

    def row(self) -> dict[str, Any]:
        """Return the numbers in the order of METRICS."""
        found = dict(self.values)
        for name in ("f", "e"):
            curve = self.curves[f"{name}_curve"]
            found[f"max_{name}"], found[f"mean_{name}"] = float(curve.max()), float(curve.mean())
        return {"frames": self.frames, **{key: found[key] for key in METRICS if key in found}}


def evaluate(folders: Sequence[Folder], options: Options, reporter: Reporter) -> dict[str, Any]:
    """Return the scores of all `folders` of maps.

    Every annotated frame that counts must have a map, of its mask's size unless they are resized.
    Raises DataError naming what is missing, and for maps that are the ground truth itself, before
    anything is scored.
    """
    todo: list[Task] = []
    for folder in folders:
        todo += _tasks(folder, options.of(folder), reporter)
    found: dict[tuple[str, str], dict[str, Part]] = {task.key: {} for task in todo}
    title = "eval " + (folders[0].split.dataset if len(folders) == 1 else f"{len(folders)} folders")
    with reporter.task(title, scoring.total_frames(todo), "frame") as counter:
        for task, scored in scoring.run(todo, options.workers):
            for part in scored:
                found[task.key].setdefault(part.video, Part(part.video)).add(part)
            counter.advance(len(task.items))
    result: dict[str, Any] = {
        "manifests": list(dict.fromkeys(str(folder.source.file) for folder in folders)),
        "methods": {},
    }
    for folder in folders:
        dataset = folder.split.dataset
        parts = found[folder.method, dataset]
        _warn_of_maps(folder, parts, reporter)
        of_method = result["methods"].setdefault(
            folder.method, {"maps": str(folder.root), "datasets": {}}
        )
        of_method["datasets"][dataset] = _summary(parts, options.of(folder), folder, reporter)
    return result


def save(result: Mapping[str, Any], since: int) -> list[Path]:
    """Write scores.json into the run folder around each method's maps; return the files.

    Their time of change is `since`, in ns: when scoring began, as maps may have changed after that.
    """
    written = []
    for method, found in result["methods"].items():
        run = Path(found["maps"]).parent
        if (run / "run.json").is_file():
            own = {**result, "methods": {method: found}}
            own.pop("comparison", None)
            media.write_bytes(run / "scores.json", json.dumps(own, indent=1).encode() + b"\n")
            os.utime(run / "scores.json", ns=(since, since))
            written.append(run / "scores.json")
    return written


def _tasks(folder: Folder, protocol: Protocol, reporter: Reporter) -> list[Task]:
    """Return the tasks of one folder. Raises DataError for maps that are missing."""
    split, source = folder.split, folder.source
    chosen = {video.name: _counted(folder, video, protocol.frames) for video in split.videos}
    chosen = {video: frames for video, frames in chosen.items() if frames}
    if not chosen:
        raise DataError(f"{split.dataset}: no frame of {source.file} has a mask.")
    matched = maps.match(folder.path, split, folder.cards)
    wanted = {video: [name for name, _ in frames] for video, frames in chosen.items()}
    if lacking := maps.missing(matched, wanted):
        raise DataError(f"{folder.path}: {lacking}. Write the maps again, such as: vsodpipe test")
    if matched.extra:
        names = maps.listed(matched.extra)
        reporter.warn(f"{folder.path}: {len(matched.extra)} maps have no frame: {names}.")
    rules = Rules(
        skip_empty=protocol.frames == "non-empty",
        resize=protocol.sizes == "bilinear",
        a2s=protocol.flavour == "a2s",
    )
    items = {
        video: [
            Item(video, source.path(gt), str(matched.files[video, name])) for name, gt in frames
        ]
        for video, frames in chosen.items()
    }
    key = folder.method, split.dataset
    every = [item for group in items.values() for item in group]
    _refuse_ground_truth(folder, rules, every)
    if not protocol.stability:  # tasks may run on from video to video: many have few frames
        return list(scoring.tasks(key, rules, every))
    todo: list[Task] = []
    for video, group in items.items():
        todo += scoring.tasks(key, rules, group, video not in protocol.unstable)
    return todo


def _counted(folder: Folder, video: Video, frames: Frames) -> list[tuple[str, str]]:
    """Return (frame name, mask path) of the annotated frames that count, empty ones included."""
    annotated = [(f.name, f.gt) for f in video.frames if f.gt is not None]
    counted = annotated[1:-1] if frames == "trim" else annotated
    if annotated and not counted:
        raise DataError(
            f"{folder.split.dataset}/{video.name}: {len(annotated)} annotated frames, and the "
            "protocol leaves out the first and the last. Use --frames all."
        )
    return counted


def _refuse_ground_truth(folder: Folder, rules: Rules, items: Sequence[Item]) -> None:
    """Raise DataError where every map is its mask: the first that is not ends the look."""
    judged = (found for item in items if (found := scoring.is_copy(item, rules)) is not None)
    if next(judged, False) and all(judged):
        raise DataError(
            f"{folder.path}: every map equals its mask: this is the ground truth of "
            f"{folder.split.dataset}, no prediction. Name the folder of the maps."
        )


def _warn_of_maps(folder: Folder, parts: Mapping[str, Part], reporter: Reporter) -> None:
    """Warn of maps that can hardly be meant: masks themselves, or levels that no eye would see."""
    perfect = [video for video, part in parts.items() if 0 < part.full == part.perfect]
    if perfect:
        reporter.warn(
            f"{folder.path}: all maps of {len(perfect)} videos equal their masks "
            f"({maps.listed(perfect)}). Are they copies of the ground truth?"
        )
    ones = [video for video, part in parts.items() if 0 < part.scored == part.ones]
    if ones:
        reporter.warn(
            f"{folder.path}: the maps of {len(ones)} videos hold 0 and 1 alone "
            f"({maps.listed(ones)}), which J and F take for black. Write foreground as 255."
        )


def _summary(
    parts: Mapping[str, Part], protocol: Protocol, folder: Folder, reporter: Reporter
) -> dict[str, Any]:
    skipped = [video for video, part in parts.items() if not part.scored]
    if len(skipped) == len(parts):
        raise DataError(f"{folder.split.dataset}: every mask is empty. Use --frames all.")
    if skipped:
        names = maps.listed(skipped)
        reporter.warn(f"{folder.split.dataset}: without any foreground, left out: {names}.")
    scored = {video: part for video, part in parts.items() if part.scored}
    videos = {video: _of_frames(part, protocol) for video, part in scored.items()}
    pooled = _pooled(scored.values())
    total = {"frame": _of_frames(pooled, protocol, ordered=False), "video": _mean(videos.values())}
    found = card.card_of(folder.split.dataset, folder.cards)
    classes: dict[str, Unit] = {}
    if protocol.average == "class" or (found and found[0].key == "ytobj"):
        groups: dict[str, list[Unit]] = {}
        for video, unit in videos.items():
            groups.setdefault(protocols.class_of(video), []).append(unit)
        classes = {name: _mean(units) for name, units in groups.items()}
        total["class"] = _mean(classes.values())
    chosen = total[protocol.average]
    return {
        "protocol": protocol.facts(),
        "maps": str(folder.path),
        "total": {"videos": len(videos), **chosen.row()},
        **{f"{name}_mean": unit.row() for name, unit in total.items()},
        **({"classes": {name: unit.row() for name, unit in classes.items()}} if classes else {}),
        "videos": {video: unit.row() for video, unit in videos.items()},
        "skipped_videos": skipped,
        "empty_masks": pooled.empty,
        "resized_maps": pooled.resized,
        "curves": {name: curve.tolist() for name, curve in chosen.curves.items()},
    }


def _pooled(parts: Iterable[Part]) -> Part:
    pooled = Part("")
    for part in parts:
        pooled.add(part)
    return pooled


def _of_frames(part: Part, protocol: Protocol, ordered: bool = True) -> Unit:
    """Return the means over frames; `ordered`: they are one video's, so that decay is defined."""
    values: Values = {key: _average(part.values[name]) for key, name in PLAIN.items()}
    for name, key in (("j", "j"), ("f", "f_boundary")):
        found = metrics.davis_statistics(part.values[key])
        values |= {f"{name}_mean": found.mean, f"{name}_recall": found.recall}
        values[f"{name}_decay"] = found.decay if ordered else None
    values["jf"] = _average([values["j_mean"], values["f_mean"]])
    if protocol.stability:
        values["t"] = _average(part.t)
    if protocol.flavour == "a2s":
        values |= _a2s(part.a2s)
    return Unit(part.scored, values, {name: part.curves[name] / part.scored for name in CURVES})


def _a2s(frames: Sequence[A2SScores]) -> Values:
    total = a2s_total(frames)
    return {key: total[name] for key, name in A2S.items()}


def _mean(units: Iterable[Unit]) -> Unit:
    """Return the mean of videos or classes, each counting once."""
    rows = list(units)
    return Unit(
        sum(row.frames for row in rows),
        {key: _average([row.values[key] for row in rows]) for key in rows[0].values},
        {name: np.mean([row.curves[name] for row in rows], axis=0) for name in CURVES},
    )


def _average(values: Iterable[float | None]) -> float | None:
    """Return the mean of what has a value, None where nothing has."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    return float(np.mean(known)) if known else None
