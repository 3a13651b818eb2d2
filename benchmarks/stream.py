"""Training batches from a packed store against the ways of others, side by side in one run.

    python benchmarks/stream.py DATA --flow FLOW [--size 384] [--clip 1] [--batch 8] [--rounds 7]

DATA holds JPEGImages/480p, Annotations/480p and a folder FLOW of pictures, each by video. Every
variant gives the same batches: img, gt and flow of random frames at the training size, float32
normalised or uint8. Each is a process of its own with one thread, and they take turns in random
order; the figures are ratios of the median CPU time to `files, PIL`, which reads as published
training code does. Then come packing, two threads against one, the first epoch over HTTP and S3,
and the time a training step waits for data.

MosaicML Streaming, LitData, WebDataset and h5py take part where they can be imported.

`loader(data, cache, ...)` is this project's side alone, for a comparison made elsewhere.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from vsodpipe import manifest, media, models, pack, shards, stream
from vsodpipe.progress import Reporter
from vsodpipe.reader import Store
from vsodpipe.recipe import Augment, Data, Stage

PLAIN = Augment()
AUGMENTS = {
    "none": PLAIN,
    "flips, as A2S-v2": Augment(flip=0.5),
    "all, as DBSNet": models.load("dbsnet").STAGES[0].augment,
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Batch = dict[str, torch.Tensor]
Places = list[tuple[int, ...]]
"""Numbers of the frames of every sample of a batch, over all videos."""
Make = Callable[[bool], Callable[[Places], Batch]]
"""Returns what reads batches, as uint8 or not."""


def split_of(data: Path, flow: str) -> manifest.Split:
    """Return the manifest entry of a folder in the layout of DAVIS, with pictures of any flow.

    Frames without a mask or a flow picture are left out.
    """
    videos = []
    for folder in sorted((data / "JPEGImages" / "480p").iterdir()):
        frames = []
        pictures = {file.stem: file for file in (data / flow / folder.name).glob("*.*")}
        for file in sorted(folder.glob("*.jpg")):
            mask = data / "Annotations" / "480p" / folder.name / f"{file.stem}.png"
            if file.stem not in pictures or not mask.is_file():
                continue
            img, gt, picture = (
                path.relative_to(data).as_posix() for path in (file, mask, pictures[file.stem])
            )
            frames.append(manifest.Frame(name=file.stem, img=img, gt=gt, flow=picture))
        if not frames:
            continue
        size = media.image_size(data / frames[0].img)
        videos.append(manifest.Video(name=folder.name, size=size, frames=tuple(frames)))
    record = {"fingerprint": "pictures of any flow"}
    return manifest.Split(dataset="BENCH_train", split="train", flow=record, videos=tuple(videos))


def loader(
    data: str | Path,
    cache: str | Path,
    flow: str = "FLOW",
    size: int = 384,
    clip: int = 1,
    batch: int = 16,
    uint8: bool = False,
) -> Iterator[Batch]:
    """Return endless batches of `data`, which is packed into `cache` first where that is empty.

    A batch has img, gt and flow: (B, 3, H, W) and (B, 1, H, W), for clips (B, T, 3, H, W); float32
    with img normalised, or uint8. The batches are made ahead by two threads.
    """
    source = packed(Path(data), Path(cache), flow, size)
    clips = clips_of(source, size, clip, batch, uint8)

    def endless() -> Iterator[Batch]:
        epoch = 0
        while True:
            for found in stream.loader(clips, epoch, 0, workers=2):
                yield {key: found[key] for key in ("img", "gt", "flow")}
            epoch += 1

    return endless()


def packed(data: Path, cache: Path, flow: str, size: int, tier: str = "raw") -> manifest.Source:
    """Return the manifest of the store in `cache`, packed if there is none."""
    split = split_of(data, flow)
    target = cache / "BENCH_train.zarr"
    if not target.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        pack.pack(split, str(data), target, (size, size), Reporter(quiet=True), tier=tier)
    made = manifest.Manifest(name="bench", root=str(cache), datasets=(split,))
    return manifest.Source(manifest=made, file=cache / "bench.json", root=str(cache))


def clips_of(
    source: manifest.Source,
    size: int,
    clip: int,
    batch: int,
    uint8: bool,
    augment: Augment = PLAIN,
    **options: Any,
) -> stream.Clips:
    """Return the samples of the store: every frame may start one."""
    data = Data(
        datasets=("BENCH_train",),
        source="store",
        sample="frame" if clip == 1 else "clip",
        clip=clip,
        size=(size, size),
        mean=MEAN,
        std=STD,
        uint8=uint8,
    )
    stage = Stage(name="bench", network=None, data=data, augment=augment, batch=batch)
    return stream.Clips([stream.open_reader(source, "BENCH_train", "store", **options)], stage)


def ours(source: manifest.Source, size: int, clip: int, uint8: bool) -> Callable[[Places], Batch]:
    """Return what reads samples; number n starts at frame n of the store.

    All frames are read before: later epochs do not compare their checksums again.
    """
    clips = clips_of(source, size, clip, 1, uint8)
    for number in range(len(clips.anchors)):
        clips.batch([(0, 0, number)])
    return lambda places: clips.batch([(0, 0, sample[0]) for sample in places])


def draw(source: manifest.Source, clip: int, batch: int, seed: int) -> Places:
    """Return the frames of a random batch: windows of `clip` frames inside a video."""
    rng = random.Random(seed)
    videos = source.manifest.datasets[0].videos
    starts, first = [], 0
    for video in videos:
        starts += range(first, first + len(video.frames) - clip + 1)
        first += len(video.frames)
    return [tuple(range(s, s + clip)) for s in rng.sample(starts, batch)]


def serve(make: Make, uint8: bool, turns: Connection) -> None:
    """Answer a list of batches with the CPU seconds of reading it, or one with its bytes."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    read = make(uint8)
    while (asked := turns.recv()) is not None:
        if isinstance(asked[0], tuple):
            turns.send({key: read(asked)[key].numpy() for key in ("img", "gt", "flow")})
            continue
        start = time.process_time()
        held = [read(places) for places in asked]
        turns.send(time.process_time() - start)
        del held


def medians(variants: dict[str, Make], uint8: bool, draws: list[list[Places]]) -> dict[str, float]:
    """Return the median CPU seconds of a round of batches, after one that does not count."""
    context, ends, processes = get_context("spawn"), {}, []
    for name, make in variants.items():
        ends[name], other = context.Pipe()
        processes.append(context.Process(target=serve, args=(make, uint8, other), daemon=True))
        processes[-1].start()
        other.close()
    check({name: _asked(end, draws[0][0]) for name, end in ends.items()})
    found: dict[str, list[float]] = {name: [] for name in variants}
    for number, places in enumerate(draws):
        for name in random.sample(list(variants), len(variants)):
            spent = _asked(ends[name], places)
            if number:
                found[name].append(spent)
    for end, process in zip(ends.values(), processes, strict=True):
        end.send(None)
        process.join()
    return {name: statistics.median(values) for name, values in found.items()}


def _asked(end: Any, what: Any) -> Any:
    end.send(what)
    return end.recv()


def check(found: dict[str, dict[str, Any]]) -> None:
    """Raise AssertionError unless all variants give (nearly) the same pictures, of one type."""
    want = found["ours, raw"]
    for name, batch in found.items():
        for key in ("img", "gt", "flow"):
            a, b = batch[key], want[key].reshape(batch[key].shape)
            assert a.dtype == b.dtype, (name, key, a.dtype, b.dtype)
            if name != "WebDataset":  # its frames come in an order of its own
                span = 255.0 if a.dtype == np.uint8 and key != "gt" else 1.0
                gap = np.abs(a.astype(np.float32) - b).mean() / span
                assert gap < 0.05, (name, key, gap)


def augmented(source: manifest.Source, size: int, batch: int) -> dict[str, dict[str, float]]:
    """Return the CPU ms of a float32 frame under the published augmentations, and frames/s."""
    result = {}
    for name, augment in AUGMENTS.items():
        clips = clips_of(source, size, 1, batch, False, augment)
        taken, start = [], time.process_time()
        for epoch in range(8):
            for items in itertools.islice(clips.batches(epoch, 0), 4):
                clips.batch(items)
            taken.append(time.process_time() - start)
            start = time.process_time()
        spent = statistics.median(taken[1:])  # the first compares checksums
        result[name] = {
            "ms": round(1e3 * spent / (4 * batch), 2),
            "frames_per_s_of_2_threads": round(rate(clips, 2, time.monotonic() + 0.5, 4.0)),
        }
    return result


def rate(clips: stream.Clips, workers: int, start: float, seconds: float) -> float:
    """Return the frames/s of a loader from `start` on, of time.monotonic, after a warm-up."""
    batches = (b for n in itertools.count() for b in stream.loader(clips, n, 0, workers))
    frames = 0
    for batch in batches:
        now = time.monotonic()
        if now > start + seconds:
            break
        frames += len(batch["key"]) if now > start else 0
    batches.close()
    return frames / seconds


def threads(source: manifest.Source, size: int, batch: int) -> dict[str, int]:
    """Return the median uint8 frames/s of one thread, of two, and of two processes of one thread.

    Processes share nothing but memory and cores: they show what those can give.
    """
    clips = clips_of(source, size, 1, batch, True)
    context = get_context("spawn")
    found: dict[str, list[float]] = {"1 thread": [], "2 threads": [], "2 processes": []}
    with ProcessPoolExecutor(2, context, torch.set_num_threads, (1,)) as pool:
        for _ in range(7):
            found["1 thread"].append(rate(clips, 1, time.monotonic() + 0.5, 1.0))
            found["2 threads"].append(rate(clips, 2, time.monotonic() + 0.5, 1.0))
            asked = (clips, 1, time.monotonic() + 1.5, 1.0)
            both = [pool.submit(rate, *asked) for _ in range(2)]
            found["2 processes"].append(sum(one.result() for one in both))
    return {name: round(statistics.median(values)) for name, values in found.items()}


def waiting(
    source: manifest.Source, files: list[dict[str, str]], size: int, batch: int
) -> dict[str, Any]:
    """Return the mean time in ms that a step of 100 ms (asleep, as with a GPU) waits for data."""
    import stream_others

    result = {}
    clips = clips_of(source, size, 1, batch, False)
    read = stream_others.pil_files(files, size, False)
    made: dict[str, Iterator[Any]] = {
        "ours, 2 threads": stream.loader(clips, 0, 0, 2),
        "files, PIL, in the loop": (read(draw(source, 1, batch, s)) for s in range(99)),
    }
    for name, found in made.items():
        next(found)
        waits = []
        for _ in range(12):
            time.sleep(0.1)
            start = time.perf_counter()
            next(found)
            waits.append(time.perf_counter() - start)
        result[name] = round(1e3 * statistics.mean(waits), 1)
    return result


def sizes(sources: dict[str, manifest.Source], files: list[dict[str, str]]) -> str:
    """Return the kB a frame of the files and of every store, and what raw has beside pixels."""
    found = {"files": sum(os.path.getsize(path) for paths in files for path in paths.values())}
    for tier, source in sources.items():
        found[tier] = sum(f.stat().st_size for f in Path(source.root).rglob("*") if f.is_file())
    store = stream.open_reader(sources["raw"], "BENCH_train", "store")
    assert isinstance(store, Store)
    indices = sum(
        len(group.bytes) * group.shards * shards.index_bytes(group.shard) for group in store.groups
    )
    beside = found["raw"] / (store.nbytes - indices) - 1
    kept = ", ".join(f"{tier} {n / len(files) / 1e3:.1f}" for tier, n in found.items())
    return f"kB a frame: {kept}; beside chunks {100 * beside:.3f} %"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--flow", default="FLOW", help="folder of flow pictures in DATA")
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--clip", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8, help="samples in a batch")
    parser.add_argument("--rounds", type=int, default=7, help="after one that does not count")
    parser.add_argument("--only", choices=["batches", "rest"], help="one half of the report")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as scratch:
        report(chosen, Path(scratch))


def report(chosen: argparse.Namespace, scratch: Path) -> None:
    data, size = chosen.data, chosen.size
    started = time.process_time()
    sources = {"raw": packed(data, scratch / "raw", chosen.flow, size)}
    packing = time.process_time() - started
    split = sources["raw"].manifest.datasets[0]
    frames = [frame for video in split.videos for frame in video.frames]
    files = [{k: f"{data}/{getattr(f, k)}" for k in ("img", "gt", "flow")} for f in frames]
    print(
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}"
        f", torch {torch.__version__}, {len(frames)} frames, {size} px, clips of {chosen.clip}, "
        f"batch {chosen.batch}: {' '.join(sys.argv)}"
    )
    if chosen.only != "rest":
        for tier in ("jpeg", "small"):
            sources[tier] = packed(data, scratch / tier, chosen.flow, size, tier)
        compare(chosen, scratch, sources, files)
        print(sizes(sources, files))
    if chosen.only != "batches":
        import stream_remote

        print(f"packing: {len(frames) / packing:.0f} frames/s of CPU time")
        print("uint8 frames/s:", json.dumps(threads(sources["raw"], size, 16)))
        print("augmented, float:", json.dumps(augmented(sources["raw"], size, 16)))
        print("a step waits (ms):", json.dumps(waiting(sources["raw"], files, size, 16)))
        for line in stream_remote.measure(
            sources["raw"], partial(clips_of, size=size, clip=1, batch=16, uint8=True), scratch
        ):
            print(line)


def compare(
    chosen: argparse.Namespace,
    scratch: Path,
    sources: dict[str, manifest.Source],
    files: list[dict[str, str]],
) -> None:
    """Print the CPU time of a frame of every variant, and its ratio to the first one's."""
    import stream_others

    size, clip = chosen.size, chosen.clip
    store = stream.open_reader(sources["raw"], "BENCH_train", "store")
    assert isinstance(store, Store)
    shapes = {"img": (size, size, 3), "flow": (size, size, 3), "gt": (size, size)}
    held = {key: np.empty((len(files), *shape), np.uint8) for key, shape in shapes.items()}
    for key, out in held.items():
        store.read_into(range(len(files)), "flow_picture" if key == "flow" else key, out)
    variants: dict[str, Make] = {
        name: partial(read, files, size) for name, read in stream_others.FILES.items()
    }
    for name, (write, read) in stream_others.PEERS.items():
        folder = scratch / name
        folder.mkdir()
        try:
            write(held, folder)
            variants[name] = partial(read, folder)
        except Exception as error:  # a package of others: whatever it lacks
            print(f"{name}: left out ({type(error).__name__}: {error})")
    for tier, source in sources.items():
        variants[f"ours, {tier}"] = partial(ours, source, size, clip)
    rounds = [
        [
            draw(sources["raw"], clip, chosen.batch, 1000 * number + k)
            for k in range(32 // chosen.batch // clip or 1)
        ]
        for number in range(chosen.rounds + 1)
    ]
    found = {kind: medians(variants, kind == "uint8", rounds) for kind in ("float", "uint8")}
    count = len(rounds[0]) * chosen.batch * clip
    print(f"{'':24}{'float ms/frame':>16}{'x':>7}{'uint8 ms/frame':>18}{'x':>7}")
    for name in variants:
        row = [(1e3 * v[name] / count, v["files, PIL"] / v[name]) for v in found.values()]
        print(f"{name:24}" + "".join(f"{ms:16.3f}{ratio:9.1f}" for ms, ratio in row))


if __name__ == "__main__":
    main()
