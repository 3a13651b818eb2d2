"""Network + manifest -> saliency maps at native size, 8-bit grey `maps/DATASET/video/frame.png`.

A video's folder appears whole by one rename, so a run that was killed continues with the videos
that are missing. Several devices share the videos.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

import torch

from vsodpipe import a2s_tasks, checkpoint, devices, infer, listing, locks, media, stream
from vsodpipe.errors import DataError, UsageError
from vsodpipe.flow_ahead import behind
from vsodpipe.frames import Files
from vsodpipe.infer import Predictor
from vsodpipe.manifest import Source, Split, require_flow
from vsodpipe.progress import Counter, Reporter

RECORD = listing.MAPS_RECORD


def choose_datasets(source: Source, names: list[str]) -> list[str]:
    """Return the data sets to predict: those named, else every split of the manifest but train.

    Names may be the two-letter codes of A2S-v2 (`de`), for what the manifest holds of their sets.
    """
    chosen = []
    for name in names:
        coded = [] if name in source.names() else a2s_tasks.coded(name)
        chosen += [n for n in coded if n in source.names()] or [source.split(name).dataset]
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
    batch: int = 0,
    crf: str | None = None,
    force: bool = False,
) -> list[Path]:
    """Write the maps of every video of `datasets` below `out`; return the folders of the data sets.

    `device` may name several, comma-separated; `batch` clips (or frames) are predicted at once, 0
    lets the device decide; `crf` names parameters of `vsodpipe.crf`. Videos that are done are kept.
    Raises DataError for a folder that holds maps of other weights, unless `force` replaces them,
    for one that holds something else, and for a frame that does not decode.
    """
    for name in datasets:
        if stream.needs_flow(saved.stage, source.split(name)):
            require_flow(source.split(name))
    stop = threading.Event()
    predictors = [
        Predictor(
            saved.model,
            checkpoint.build(saved).to(name),
            saved.stage,
            name,
            batch,
            crf,
            stop,
            reporter.warn,
        )
        for name in device.split(",")
    ]
    frames = predictors[0].batch * infer.group_length(saved.stage.data)
    devices.use_threads(frames * math.prod(saved.stage.data.size))
    note = _record(saved, source, crf)
    out.mkdir(parents=True, exist_ok=True)
    with locks.alone(out, reporter.say):
        for name in datasets:
            split = source.split(name)
            _warn_of_flow(saved, split, reporter)
            _prepare(out / name, note, force)
            with reporter.task(f"test {saved.model} on {name}", split.frames, "frame") as counter:
                _dataset(predictors, Files(source, split), out / name, counter)
    return [out / name for name in datasets]


def _dataset(predictors: Sequence[Predictor], files: Files, folder: Path, counter: Counter) -> None:
    """Write the maps of every video of a data set that lacks some."""
    missing = []
    for video, title in enumerate(files.videos):
        if {file.stem for file in (folder / title).glob("*.png")} == set(files.frames(video)):
            counter.advance(len(files.frames(video)))
        else:
            missing.append(video)
    if missing and (run := folder.parent.parent / "run.json").is_file():
        media.remove(run.with_name("scores.json"))  # of other maps, whatever the clock said then
    waiting, lock = deque(missing), threading.Lock()

    def counted() -> None:
        with lock:
            counter.advance()

    def work(predictor: Predictor) -> None:
        if predictor.device.startswith("cuda:"):
            torch.cuda.set_device(predictor.device)  # of this thread
        while not predictor.stop.is_set():
            with lock:
                video = waiting.popleft() if waiting else None
            if video is None:
                return
            _video(predictor, files, video, folder / files.videos[video], counted)

    if len(predictors) == 1:
        work(predictors[0])
        return
    with ThreadPoolExecutor(len(predictors), "device") as pool:
        running = [pool.submit(work, predictor) for predictor in predictors]
        try:
            wait(running, return_when=FIRST_EXCEPTION)
        finally:  # after an error, or Ctrl-C, the other devices end with their batch
            if not all(future.done() and not future.exception() for future in running):
                predictors[0].stop.set()
    errors = [error for future in running if (error := future.exception())]
    # those that were stopped are none of the reasons
    for error in sorted(errors, key=lambda error: isinstance(error, infer.Stopped)):
        raise error


def _video(
    predictor: Predictor, files: Files, video: int, folder: Path, counted: Callable[[], None]
) -> None:
    """Write the maps of one video; threads refine, encode and write while the network goes on."""
    names = files.frames(video)
    threads = min(4, os.cpu_count() or 1) if predictor.crf else 1
    with media.replacing(folder) as partial_folder:
        partial_folder.mkdir()

        def write(frame: int, saliency: infer.Saliency) -> None:
            image = predictor.finished(files, video, frame, saliency)
            (partial_folder / f"{names[frame]}.png").write_bytes(media.encode_png(image))
            counted()

        with behind(threads, 2 * threads) as run:
            for frame, saliency in predictor.video(files, video):
                run(partial(write, frame, saliency))


def _warn_of_flow(saved: checkpoint.Checkpoint, split: Split, reporter: Reporter) -> None:
    trained = set(saved.provenance.get("flow", {}).values())
    if split.flow is not None and trained and split.flow["fingerprint"] not in trained:
        reporter.warn(f"{split.dataset}: its flow is of another kind than that of the training.")


def _record(saved: checkpoint.Checkpoint, source: Source, crf: str | None) -> str:
    """Return what decides the maps, as JSON."""
    decided = infer.decided_by(saved, crf)
    rest = {key: decided.pop(key) for key in ("size", "resize", "frames", "maps", "crf")}
    return json.dumps({**decided, "manifest_sha256": source.sha256(), **rest}, indent=1)


def _prepare(folder: Path, record: str, force: bool) -> None:
    """Leave a folder of maps with this record, or start an empty one."""
    note = folder / RECORD
    if not note.is_file() and not media.is_free(folder):
        raise DataError(f"{folder}: holds files that vsodpipe test did not write. Use --out.")
    if note.is_file() and note.read_text(encoding="utf-8") == record:
        return
    if note.is_file() and not force:
        raise DataError(
            f"{folder}: holds maps of other weights, or of another manifest. "
            "Use --force to replace them, or --out for another folder."
        )
    media.withdraw(folder)
    media.write_bytes(note, record.encode())
