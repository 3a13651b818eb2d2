"""The whole tour on clips that the program makes itself: flow, manifest, store, training, scores.

Textured objects move over a moving textured background, with exact masks and exact flow, so that
the flow engine and the trained network can both be judged, offline and in about a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vsodpipe import (
    catalogue,
    checkpoint,
    evaluate,
    flow_job,
    flows,
    manifest,
    maps,
    media,
    metrics,
    pack,
    predict,
    protocols,
    runs,
    sheet,
    synth,
    train,
)
from vsodpipe.errors import DataError
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter
from vsodpipe.recipe import Stage

FRAMES, SIZE = 16, (96, 144)
VIDEOS = {"DEMO_train": 12, "DEMO_test": 3}
MODEL, STAGE = "dbsnet", "debug"
MARK = "vsodpipe-demo.txt"
COLUMNS = ("jf", "j_mean", "f_mean", "s_measure", "max_f", "mae")
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Result:
    """What the tour ends with."""

    scores: dict[str, dict[str, Any]]
    """Method -> scores in total."""
    end_point_error: float
    """Mean distance in pixels of the engine's flow from the exact one."""
    motion: float
    """Mean length in pixels of the exact flow: the error of an engine that sees no motion."""
    written: dict[str, Path | str]


def run(out: Path, reporter: Reporter) -> Result:
    """Take the tour inside folder `out`. Raises DataError for a folder that is not a demo's."""
    _prepare(out)
    root = out / "datasets"
    exact = {name: _make(root / name, count) for name, count in VIDEOS.items()}
    reporter.say(f"made {sum(VIDEOS.values())} clips of {FRAMES} frames in {root}")
    engine = flows.create("dis")
    for name in VIDEOS:
        flow_job.compute(catalogue.find(name, root), engine, flow_job.Options(), reporter)
    made = manifest.build([], root, out / "manifests", reporter)["demo"]
    source = manifest.read(manifest.write(made, out / "manifests", root)[0])
    stage = _stage()
    store = root / "DEMO_train.zarr"
    pack.pack(source.split("DEMO_train"), source.root, store, stage.data.size, reporter)
    job = runs.Job(MODEL, source, (stage,), out / "run", "cpu", workers=0)
    saved = checkpoint.read(train.train(job, reporter), MODEL)
    predict.predict(saved, source, ["DEMO_test"], out / "run" / "maps", "cpu", reporter)
    found = _baselines(out / "baselines", source, engine)
    methods = {f"{MODEL} ({STAGE})": out / "run" / "maps", **found}
    folders = [
        replace(folder, method=method)
        for method, path in methods.items()
        for folder in maps.find([path], [source])
    ]
    scored = evaluate.evaluate(folders, evaluate.Options(), Reporter(quiet=True))["methods"]
    scores = {method: row["datasets"]["DEMO_test"]["total"] for method, row in scored.items()}
    picture = out / "demo.png"
    _sheet(picture, source, out / "run" / "maps")
    error, motion = _flow_error(root / "DEMO_test", exact["DEMO_test"], engine)
    written = {
        "frames, masks, flow": root,
        "manifests": source.file,
        "store": store,
        "run, weights, maps": job.run,
        "picture": picture,
    }
    return Result(scores, error, motion, written)


def columns() -> list[protocols.Metric]:
    """Return the columns of the table of scores."""
    return [protocols.METRICS[key] for key in COLUMNS]


def describe(result: Result) -> str:
    """Return what follows the table of scores, for people."""
    error, motion = result.end_point_error, result.motion
    lines = [
        f"Flow (dis): {error:.2f} px mean end-point error; the exact flow is {motion:.2f} px long."
    ]
    return "\n".join([*lines, *(f"  {what}: {path}" for what, path in result.written.items())])


def _prepare(out: Path) -> None:
    if out.exists() and not (out / MARK).is_file():
        if not out.is_dir() or not media.is_free(out):
            raise DataError(f"{out}: is there already and holds no demo. Use --out FOLDER.")
    for name in ("datasets", "manifests", "run", "baselines", "demo.png"):
        media.remove(out / name)
    media.write_bytes(out / MARK, b"Written by vsodpipe demo, which replaces what it wrote here.\n")


def _stage() -> Stage:
    stage = next(s for s in train.models.load(MODEL).STAGES if s.name == STAGE)
    data = replace(stage.data, datasets=("DEMO_train",), source="store")
    return replace(stage, data=data, epochs=2, steps_per_epoch=0)


def _make(folder: Path, count: int) -> list[synth.Clip]:
    """Write `count` clips as frames and masks; return them with their exact flow."""
    first_seed = sum(map(ord, folder.name))  # train and test clips differ
    clips = []
    for number in range(count):
        clip = synth.make_clip(first_seed + 1000 * number, FRAMES, size=SIZE)
        video = folder / f"clip{number:02d}"
        for t in range(FRAMES):
            media.write_bytes(video / "RGB" / f"{t:05d}.jpg", media.encode_jpeg(clip.img[t]))
            mask = clip.gt[t].astype(np.uint8) * 255
            media.write_bytes(video / "GT" / f"{t:05d}.png", media.encode_png(mask))
        clips.append(clip)
    return clips


def _flow_error(folder: Path, clips: list[synth.Clip], engine: flows.Engine) -> tuple[float, float]:
    """Return the engine's mean end-point error in pixels, and the mean length of the exact flow."""
    dataset = catalogue.find(str(folder), folder.parent)
    errors, lengths = [], []
    for video, clip in zip(dataset.videos, clips, strict=True):
        for flow, truth in zip(engine.clip(video.images()), clip.flow[:-1], strict=True):
            errors.append(metrics.end_point_error(flow, truth))
            lengths.append(metrics.end_point_error(np.zeros_like(truth), truth))
    return float(np.mean(errors)), float(np.mean(lengths))


def _baselines(out: Path, source: Source, engine: flows.Engine) -> dict[str, Path]:
    """Write the maps of three trivial methods; return their folders by name."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    distance = np.hypot((y + 0.5) / SIZE[0] - 0.5, (x + 0.5) / SIZE[1] - 0.5)
    blob = np.rint(255 * np.exp(-((distance / 0.25) ** 2))).astype(np.uint8)
    full = np.full(SIZE, 255, np.uint8)
    methods: dict[str, Callable[[Iterator[Image]], Iterator[Image]]] = {
        "all foreground": lambda frames: (full for _ in frames),
        "centre blob": lambda frames: (blob for _ in frames),
        "flow magnitude": lambda frames: _magnitude(frames, engine),
    }
    split = source.split("DEMO_test")
    for method, drawn in methods.items():
        for video in split.videos:
            images = (media.read_image(source.path(frame.img)) for frame in video.frames)
            folder = out / method / split.dataset / video.name
            for frame, image in zip(video.frames, drawn(images), strict=True):
                media.write_bytes(folder / f"{frame.name}.png", media.encode_png(image))
    return {method: out / method for method in methods}


def _magnitude(frames: Iterator[Image], engine: flows.Engine) -> Iterator[Image]:
    flow = None
    for flow in engine.clip(frames):
        length = np.hypot(flow[..., 0], flow[..., 1])
        yield np.rint(255 * length / max(float(length.max()), 1e-6)).astype(np.uint8)
    assert flow is not None
    length = np.hypot(flow[..., 0], flow[..., 1])  # the last frame repeats the last flow
    yield np.rint(255 * length / max(float(length.max()), 1e-6)).astype(np.uint8)


def _sheet(path: Path, source: Source, maps: Path) -> None:
    split = source.split("DEMO_test")
    rows = []
    for video in split.videos:
        for frame in (video.frames[FRAMES // 4], video.frames[3 * FRAMES // 4]):
            cells: list[sheet.Cell] = [
                media.read_image(source.path(frame.img)),
                media.read_mask(source.path(str(frame.gt))),
                media.read_image(source.path(str(frame.flow))),
                media.read_map(maps / split.dataset / video.name / f"{frame.name}.png"),
            ]
            rows.append((f"{video.name}\n{frame.name}", cells))
    sheet.contact_sheet(rows, ["frame", "mask", "flow", "prediction"], path)
