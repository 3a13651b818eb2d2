"""Pseudo labels: what a network says of its training data, as a data set of its own.

OUT/labels/DUTS_train/      the labels as `vsodpipe test --crf` writes them, video by video
OUT/DUTS_pseudo/            a data set: the pictures as links, the labels for masks
OUT/pseudo.json             its manifest
OUT/provenance.json         whose labels they are: checkpoint, CRF, the data they were made of
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vsodpipe import __version__, a2s_tasks, crf, manifest, media, predict
from vsodpipe.checkpoint import Checkpoint
from vsodpipe.errors import DataError, UsageError
from vsodpipe.manifest import Frame, Manifest, Source, Split, Video
from vsodpipe.progress import Reporter

LABELS, RECORD, NAME = "labels", "provenance.json", "pseudo"
FOLDERS = {"img": "RGB", "flow": "FLOW", "depth": "DEPTH", "thermal": "THERMAL"}


def write(
    saved: Checkpoint,
    source: Source,
    datasets: list[str],
    out: Path,
    device: str,
    reporter: Reporter,
    *,
    parameters: str = "a2s",
    batch: int = 0,
    force: bool = False,
) -> Source:
    """Write the pseudo labels of `datasets` below folder `out`; return their manifest.

    `parameters` names those of the dense CRF. A folder of the same labels is kept, and one that was
    not finished is continued. Raises UsageError for data at a URL, and DataError for a folder that
    holds labels of other weights, unless `force` replaces them.
    """
    if "://" in source.root:
        raise UsageError(f"{source.root}: pseudo labels are made of data on your own disk.")
    record = provenance(saved, source, datasets, parameters)
    note, file = out / RECORD, out / f"{NAME}.json"
    same = note.is_file() and _decides(media.read_json(note)) == _decides(record)
    if note.is_file() and not (same or force):
        raise DataError(
            f"{out}: holds pseudo labels of another checkpoint, manifest or CRF. "
            "Use --force to replace them, or --out for another folder."
        )
    if same and file.is_file():
        reporter.say(f"{out} is finished.")
        return manifest.read(file)
    if not same:
        media.remove(file)
        media.write_bytes(note, json.dumps(record, indent=1).encode() + b"\n")
    folders = predict.predict(
        saved,
        source,
        datasets,
        out / LABELS,
        device,
        reporter,
        batch=batch,
        crf=parameters,
        force=force,
    )
    splits = []
    for name, folder in zip(datasets, folders, strict=True):
        target = out / a2s_tasks.stage2_name(name)
        splits.append(_data_set(source, source.split(name), folder, target, force))
    command = ["vsodpipe", "pseudo", "--checkpoint", str(saved.file)]
    command += ["--manifest", str(source.file), "--out", str(out)]
    made = Manifest(name=NAME, root=".", made_by=shlex.join(command), datasets=tuple(splits))
    manifest.write(made, out, out)
    return manifest.read(file)


def provenance(
    saved: Checkpoint, source: Source, datasets: list[str], parameters: str
) -> dict[str, Any]:
    """Return what decides the labels, as plain values for JSON."""
    return {
        "model": saved.model,
        "stage": saved.stage.name,
        "checkpoint": str(saved.file),
        "checkpoint_sha256": hashlib.sha256(saved.file.read_bytes()).hexdigest(),
        "size": list(saved.stage.data.size),
        "resize": saved.stage.data.resize,
        "crf": {"name": parameters, **asdict(crf.find(parameters))},
        "manifest": str(source.file),
        "manifest_sha256": source.sha256(),
        "datasets": {name: a2s_tasks.stage2_name(name) for name in datasets},
        "vsodpipe": __version__,
    }


def _decides(record: dict[str, Any]) -> str:
    """Return a record as text without its paths: they depend on the folder of the call."""
    loose = ("checkpoint", "manifest", "vsodpipe")
    return json.dumps({key: value for key, value in record.items() if key not in loose})


def _data_set(source: Source, split: Split, labels: Path, target: Path, force: bool) -> Split:
    """Write the data set of one training set: links to its pictures, and copies of the labels."""
    if target.exists() and not force and not (target / RECORD).is_file():
        raise DataError(f"{target}: holds files that vsodpipe pseudo did not write. Use --out.")
    videos = []
    with media.replacing(target) as partial:
        for video in split.videos:
            videos.append(_video(source, video, labels, partial, target.name))
        (partial / RECORD).write_text(f'{{"labels_of": "{split.dataset}"}}\n', encoding="utf-8")
    return split.model_copy(
        update={"dataset": target.name, "split": "train", "videos": tuple(videos)}
    )


def _video(source: Source, video: Video, labels: Path, folder: Path, name: str) -> Video:
    frames = []
    for frame in video.frames:
        paths = {"gt": f"{video.name}/GT/{frame.name}.png"}
        _placed(folder / paths["gt"]).write_bytes(
            media.read_bytes(labels / video.name / f"{frame.name}.png")
        )
        for key, kind in FOLDERS.items():
            if (relative := getattr(frame, key)) is not None:
                file = Path(source.path(relative)).resolve()
                paths[key] = f"{video.name}/{kind}/{frame.name}{file.suffix}"
                _placed(folder / paths[key]).symlink_to(file)
        frames.append(Frame(name=frame.name, **{k: f"{name}/{v}" for k, v in paths.items()}))
    return video.model_copy(update={"frames": tuple(frames)})


def _placed(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file
