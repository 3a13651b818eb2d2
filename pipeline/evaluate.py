"""Saliency maps against a manifest's masks: per video and in total, under a named protocol.

`davis16`: the first and last annotated frame of a video do not count; frame values are averaged per
video, then over videos; max F is the maximum of the averaged curve; J and F cut the map at >= 128.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.table import Table

from vsodpipe import media, metrics
from vsodpipe.errors import DataError
from vsodpipe.manifest import Source, Split, Video
from vsodpipe.metrics import FrameScores
from vsodpipe.progress import Counter, Reporter

Frames = Literal["trim", "all"]
COLUMNS = {
    "J&F": "jf",
    "J": "j_mean",
    "F": "f_mean",
    "S": "s_measure",
    "max F": "max_f",
    "MAE": "mae",
}
"""Table heading -> key of the result; MAE is the one where less is better."""


@dataclass(frozen=True)
class Protocol:
    """Which frames count and how values are averaged; part of every result."""

    name: str = "davis16"
    frames: Frames = "trim"
    """trim: without the first and last annotated frame of a video (DAVIS-2016, DAVSOD toolbox)."""
    average: str = "over the frames of a video, then over videos"
    saliency: str = "each map stretched to 0..1 by its own minimum and maximum"
    threshold: str = "J and boundary F: 8-bit value >= 128"
    max_f: str = "maximum of the averaged curve of 256 thresholds"


def evaluate(
    maps: Path, source: Source, protocol: Protocol, reporter: Reporter, label: str = ""
) -> dict[str, Any]:
    """Return the scores of the maps `maps/DATASET/video/frame.png` under `protocol`.

    Every annotated frame that counts must have a map of its mask's size; the data sets are those of
    the manifest that have a folder in `maps`. Raises DataError naming what is missing.
    """
    names = [name for name in source.names() if (maps / name).is_dir()]
    if not names:
        raise DataError(
            f"{maps}: expected a folder of one of the data sets {', '.join(source.names())} of "
            f"{source.file}. Write maps with vsodpipe test."
        )
    datasets = {}
    for name in names:
        split = source.split(name)
        chosen = {video.name: _counted(split, video, protocol.frames) for video in split.videos}
        _check_names(maps / name, split, chosen, reporter)
        total = sum(map(len, chosen.values()))
        with reporter.task(f"eval {label or name}", total, "frame") as counter:
            scores = {
                video: _score(maps / name / video, frames, source, counter)
                for video, frames in chosen.items()
            }
        datasets[name] = _summary(scores)
    return {
        "protocol": vars(protocol),
        "maps": str(maps),
        "manifest": str(source.file),
        "datasets": datasets,
    }


def save(result: Mapping[str, Any], maps: Path) -> Path | None:
    """Write scores.json into the run folder around `maps`; None where there is no run."""
    if not (maps.parent / "run.json").is_file():
        return None
    file = maps.parent / "scores.json"
    media.write_bytes(file, json.dumps(result, indent=1).encode() + b"\n")
    return file


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Return a table for every data set of `result`, one row a video and the total."""
    protocol = result["protocol"]
    return [
        table(
            f"{name}, protocol {protocol['name']}, frames: {protocol['frames']}",
            {**scored["videos"], "total": scored["total"]},
        )
        for name, scored in result["datasets"].items()
    ]


def table(title: str, rows: Mapping[str, Mapping[str, Any]], first: str = "video") -> Table:
    """Return a table for people, one row a name; the last row is set apart when it is `total`."""
    made = Table(title=title, title_justify="left")
    made.add_column(first)
    for heading in COLUMNS:
        made.add_column(heading, justify="right")
    for name, row in rows.items():
        if name == "total":
            made.add_section()
        made.add_row(name, *(f"{row[key]:.3f}" for key in COLUMNS.values()))
    return made


def _counted(split: Split, video: Video, frames: Frames) -> list[tuple[str, str]]:
    """Return (frame name, mask path) of the annotated frames that count."""
    annotated = [(f.name, f.gt) for f in video.frames if f.gt is not None]
    counted = annotated[1:-1] if frames == "trim" else annotated
    if not counted:
        raise DataError(
            f"{split.dataset}/{video.name}: {len(annotated)} annotated frames, and the protocol "
            "leaves out the first and the last. Use --frames all."
        )
    return counted


def _check_names(
    folder: Path, split: Split, chosen: Mapping[str, Sequence[tuple[str, str]]], reporter: Reporter
) -> None:
    wanted = {f"{video}/{name}.png" for video, frames in chosen.items() for name, _ in frames}
    known = {f"{video.name}/{frame.name}.png" for video in split.videos for frame in video.frames}
    found = {file.relative_to(folder).as_posix() for file in folder.glob("*/*.png")}
    if missing := sorted(wanted - found):
        raise DataError(
            f"{folder}: {len(missing)} of {len(wanted)} maps are missing (first: {missing[0]}). "
            "Run vsodpipe test again."
        )
    if extra := sorted(found - known):
        reporter.warn(f"{folder}: {len(extra)} maps have no frame of their name ({extra[0]}).")


def _score(
    folder: Path, frames: Sequence[tuple[str, str]], source: Source, counter: Counter
) -> list[FrameScores]:
    scores = []
    for name, mask in frames:
        file = folder / f"{name}.png"
        prediction, gt = media.read_map(file), media.read_mask(source.path(mask))
        if prediction.shape != gt.shape:
            raise DataError(
                f"{file}: expected {gt.shape[1]}x{gt.shape[0]} as its mask, got "
                f"{prediction.shape[1]}x{prediction.shape[0]}. Write maps at native size."
            )
        scores.append(metrics.frame_scores(prediction, gt))
        counter.advance()
    return scores


def _summary(scores: Mapping[str, Sequence[FrameScores]]) -> dict[str, Any]:
    videos = {video: _video(frames) for video, frames in scores.items()}
    curves = {v: np.mean([s.f_curve for s in frames], axis=0) for v, frames in scores.items()}
    every = [frame for frames in scores.values() for frame in frames]
    total = {
        key: float(np.mean([row[key] for row in videos.values()]))
        for key in next(iter(videos.values()))
        if key not in ("frames", "max_f")
    }
    total["max_f"] = metrics.max_f(np.mean(list(curves.values()), axis=0))
    return {
        "total": {"videos": len(videos), "frames": len(every), **total},
        "frame_mean": {
            "mae": float(np.mean([s.mae for s in every])),
            "s_measure": float(np.mean([s.s for s in every])),
            "max_f": metrics.max_f(np.mean([s.f_curve for s in every], axis=0)),
            "adaptive_f": float(np.mean([s.f_adaptive for s in every])),
        },
        "videos": videos,
    }


def _video(frames: Sequence[FrameScores]) -> dict[str, Any]:
    j = metrics.davis_statistics(s.j for s in frames)
    f = metrics.davis_statistics(s.f_boundary for s in frames)
    return {
        "frames": len(frames),
        "mae": float(np.mean([s.mae for s in frames])),
        "s_measure": float(np.mean([s.s for s in frames])),
        "max_f": metrics.max_f(np.mean([s.f_curve for s in frames], axis=0)),
        "adaptive_f": float(np.mean([s.f_adaptive for s in frames])),
        "j_mean": j.mean,
        "j_recall": j.recall,
        "j_decay": j.decay,
        "f_mean": f.mean,
        "f_recall": f.recall,
        "f_decay": f.decay,
        "jf": (j.mean + f.mean) / 2,
    }
