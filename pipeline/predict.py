"""Network + manifest -> saliency maps at native size, 8-bit grey `maps/DATASET/video/frame.png`.

A video is cut into windows of T frames; the last one is moved left to stay full, and frames covered
twice average their probabilities. A video's folder appears whole by one rename.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vsodpipe import checkpoint, devices, media, sampling, stream, transforms
from vsodpipe.errors import DataError, UsageError
from vsodpipe.frames import Files, is_still, load_clip
from vsodpipe.manifest import Source, require_flow
from vsodpipe.progress import Reporter
from vsodpipe.recipe import Stage

RECORD = "maps.json"


def choose_datasets(source: Source, names: list[str]) -> list[str]:
    """Return the data sets to predict: those named, else every split of the manifest but train."""
    chosen = [source.split(name).dataset for name in names]
    chosen = chosen or [s.dataset for s in source.manifest.datasets if s.split != "train"]
    if not chosen:
        raise UsageError(f"{source.file}: holds no test split. Name one: --dataset DATASET.")
    return chosen


def predict(
    saved: checkpoint.Checkpoint,
    source: Source,
    datasets: list[str],
    out: Path,
    device: str,
    reporter: Reporter,
    *,
    force: bool = False,
) -> list[Path]:
    """Write the maps of every video of `datasets` below `out`; return the folders of the data sets.

    Videos that are done are kept. Raises DataError for a folder that holds maps of other weights,
    unless `force` replaces them, and for one that holds something else.
    """
    network = checkpoint.build(saved).to(device)
    data = saved.stage.data
    devices.use_threads((data.predict_frames or data.clip) * math.prod(data.size))
    folders = []
    for name in datasets:
        split, files = source.split(name), Files(source, source.split(name))
        if stream.needs_flow(saved.stage, split):
            require_flow(split)
        trained = set(saved.provenance.get("flow", {}).values())
        if split.flow is not None and trained and split.flow["fingerprint"] not in trained:
            reporter.warn(f"{name}: its flow is of another kind than that of the training.")
        folder = out / name
        _prepare(folder, saved, source, force)
        with reporter.task(f"test {saved.model} on {name}", split.frames, "frame") as counter:
            for video, title in enumerate(files.videos):
                names = files.frames(video)
                if _names(folder / title) != set(names):
                    with media.replacing(folder / title) as partial:
                        partial.mkdir()
                        for frame, image in _video(
                            saved.model, network, saved.stage, files, video, device
                        ):
                            (partial / f"{names[frame]}.png").write_bytes(media.encode_png(image))
                            counter.advance()
                        media.remove(folder / title)
                else:
                    counter.advance(len(names))
        folders.append(folder)
    return folders


def _names(folder: Path) -> set[str]:
    return {file.stem for file in folder.glob("*.png")}


def _prepare(folder: Path, saved: checkpoint.Checkpoint, source: Source, force: bool) -> None:
    """Leave a folder of maps of these weights and this manifest, or start an empty one."""
    digest = hashlib.sha256()
    for key, value in sorted(saved.state_dict.items()):
        digest.update(key.encode() + value.numpy().tobytes())
    record = {
        "model": saved.model,
        "weights_sha256": digest.hexdigest(),
        "manifest_sha256": source.sha256(),
    }
    text = json.dumps(record, indent=1)
    note = folder / RECORD
    if folder.is_dir() and not note.is_file() and any(folder.iterdir()):
        raise DataError(f"{folder}: holds files that vsodpipe test did not write. Use --out.")
    if note.is_file() and note.read_text(encoding="utf-8") == text:
        return
    if note.is_file() and not force:
        raise DataError(
            f"{folder}: holds maps of other weights, or of another manifest. "
            "Use --force to replace them, or --out for another folder."
        )
    media.remove(folder)
    media.write_bytes(note, text.encode())


def _video(
    model: str, network: nn.Module, stage: Stage, files: Files, video: int, device: str
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield (frame, map) of a video in order; only the frames of two windows are held."""
    length = stage.data.predict_frames or stage.data.clip
    windows = sampling.windows(len(files.frames(video)), length)
    waiting: dict[int, list[NDArray[np.float32]]] = {}
    for window, following in zip(windows, [*windows[1:], None], strict=True):
        maps = _window(model, network, stage, files, video, window, device)
        for frame, probability in zip(window, maps, strict=True):
            waiting.setdefault(frame, []).append(probability)
        ready = [f for f in waiting if following is None or f not in following]
        for frame in sorted(ready):
            mean = np.mean(waiting.pop(frame), axis=0)
            yield frame, np.rint(mean * 255).astype(np.uint8)


@torch.inference_mode()
def _window(
    model: str,
    network: nn.Module,
    stage: Stage,
    files: Files,
    video: int,
    window: range,
    device: str,
) -> NDArray[np.float32]:
    """Return the probabilities (T, H, W) of one window at native size."""
    data = stage.data
    still = is_still(files.has_flow, data)
    keys = [key for key in dict.fromkeys(("img", *data.inputs)) if not (still and key == "flow")]
    clip = load_clip(files, video, window, tuple(keys), data.flow)
    clip = transforms.to_float(transforms.resize(clip, data.size), data)
    if still and "flow" in data.inputs:
        clip["flow"] = torch.zeros_like(clip["img"])
    batch = stream.fed(model, {key: value[None].to(device) for key, value in clip.items()})
    logits = network(*(batch[key] for key in data.inputs))["saliency"]
    probability = logits.float().sigmoid().flatten(0, -4)
    native = nn.functional.interpolate(
        probability, files.size(video), mode="bilinear", align_corners=False
    )
    maps: NDArray[np.float32] = native[:, 0].cpu().numpy()
    return maps
