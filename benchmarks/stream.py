"""Training batches from a packed store against the ways of others, side by side in one run.

    python benchmarks/stream.py DATA --flow FLOW [--size 384] [--clip 1] [--batch 8] [--rounds 7]

DATA holds JPEGImages/480p, Annotations/480p and a folder FLOW of pictures, each by video. Every
variant gives the same batches: img, gt and flow of random frames at the training size, float32
normalised or uint8. Variants take turns in random order, on one thread; the figures are ratios of
the median CPU time to `files, PIL`, which reads as published training code does. Then come packing,
the first epoch over HTTP with 20 ms of latency, and the time a training step waits for data.

MosaicML Streaming, LitData, WebDataset and h5py take part where they can be imported.

`loader(data, cache, ...)` is this project's side alone, for a comparison made elsewhere.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import fsspec
import numpy as np
import torch
from PIL import Image

from vsodpipe import manifest, media, pack, stream
from vsodpipe.progress import Reporter
from vsodpipe.recipe import Augment, Data, Stage

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LATENCY = 0.02
Batch = dict[str, torch.Tensor]
Places = list[tuple[int, ...]]
"""Numbers of the frames of every sample of a batch, over all videos."""


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
    source: manifest.Source, size: int, clip: int, batch: int, uint8: bool, **options: Any
) -> stream.Clips:
    """Return the samples of the store: every frame may start one, nothing is augmented."""
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
    stage = Stage(name="bench", network=None, data=data, augment=Augment(), batch=batch)
    return stream.Clips([stream.open_reader(source, "BENCH_train", "store", **options)], stage)


# The ways of others: each makes a `read(places, uint8) -> Batch`, of the files or of the `arrays`:
# the frames at training size, as the store holds them.


def normalised(img: torch.Tensor) -> torch.Tensor:
    shape = (3, 1, 1)
    return (img.float() / 255 - torch.tensor(MEAN).view(shape)) / torch.tensor(STD).view(shape)


def tensors(img: Any, flow: Any, gt: Any, uint8: bool) -> Batch:
    """Return arrays (n, H, W, 3) and (n, H, W) as torch training code does."""
    pictures = [
        torch.from_numpy(np.ascontiguousarray(a.transpose(0, 3, 1, 2))) for a in (img, flow)
    ]
    mask = torch.from_numpy(np.ascontiguousarray(gt))[:, None]
    if uint8:
        return {"img": pictures[0], "flow": pictures[1], "gt": mask}
    return {"img": normalised(pictures[0]), "flow": pictures[1].float() / 255, "gt": mask.float()}


def pil_files(files: list[dict[str, str]], size: int) -> Callable[[Places, bool], Batch]:
    """Loose files as the published repositories read them: PIL, torchvision's transforms."""
    from torchvision import transforms as tv

    shape = (size, size)
    to_img = tv.Compose([tv.Resize(shape), tv.ToTensor(), tv.Normalize(MEAN, STD)])
    to_flow = tv.Compose([tv.Resize(shape), tv.ToTensor()])
    to_gt = tv.Compose([tv.Resize(shape, tv.InterpolationMode.NEAREST), tv.ToTensor()])
    to_bytes = tv.Compose([tv.Resize(shape), tv.PILToTensor()])
    gt_bytes = tv.Compose([tv.Resize(shape, tv.InterpolationMode.NEAREST), tv.PILToTensor()])

    def read(places: Places, uint8: bool) -> Batch:
        rows: dict[str, list[torch.Tensor]] = {"img": [], "flow": [], "gt": []}
        for number in (n for sample in places for n in sample):
            paths = files[number]
            img = Image.open(paths["img"]).convert("RGB")
            flow = Image.open(paths["flow"]).convert("RGB")
            gt = Image.open(paths["gt"]).convert("L")
            rows["img"].append((to_bytes if uint8 else to_img)(img))
            rows["flow"].append((to_bytes if uint8 else to_flow)(flow))
            rows["gt"].append((gt_bytes(gt) > 128).byte() if uint8 else to_gt(gt))
        return {key: torch.stack(value) for key, value in rows.items()}

    return read


def cv2_files(files: list[dict[str, str]], size: int) -> Callable[[Places, bool], Batch]:
    """Loose files read by OpenCV."""

    def read(places: Places, uint8: bool) -> Batch:
        rows: dict[str, list[Any]] = {"img": [], "flow": [], "gt": []}
        for number in (n for sample in places for n in sample):
            for key, out in rows.items():
                mode = cv2.IMREAD_GRAYSCALE if key == "gt" else cv2.IMREAD_COLOR_RGB
                how = cv2.INTER_NEAREST if key == "gt" else cv2.INTER_LINEAR
                out.append(
                    cv2.resize(cv2.imread(files[number][key], mode), (size, size), None, 0, 0, how)
                )
        arrays = {key: np.stack(value) for key, value in rows.items()}
        return tensors(arrays["img"], arrays["flow"], (arrays["gt"] > 128).view(np.uint8), uint8)

    return read


def gather(arrays: dict[str, Any]) -> Callable[[Places, bool], Batch]:
    """Arrays that are indexed by frame, copied row by row into a batch."""

    def read(places: Places, uint8: bool) -> Batch:
        rows = [n for sample in places for n in sample]
        found = {}
        for key, array in arrays.items():
            found[key] = np.empty((len(rows), *array.shape[1:]), np.uint8)
            for slot, row in enumerate(rows):
                found[key][slot] = array[row]
        return tensors(found["img"], found["flow"], found["gt"], uint8)

    return read


def memmap(arrays: dict[str, Any], folder: Path) -> Callable[[Places, bool], Batch]:
    """.npy files under a memory map: the floor."""
    for key, array in arrays.items():
        np.save(folder / f"{key}.npy", array)
    return gather({key: np.load(folder / f"{key}.npy", mmap_mode="r") for key in arrays})


def h5(arrays: dict[str, Any], folder: Path) -> Callable[[Places, bool], Batch]:
    """HDF5, one frame a chunk, no filter."""
    h5py = importlib.import_module("h5py")
    file = h5py.File(folder / "a.h5", "w")
    for key, array in arrays.items():
        file.create_dataset(key, data=array, chunks=(1, *array.shape[1:]))
    return gather({key: file[key] for key in arrays})


def samples(arrays: dict[str, Any], number: int) -> dict[str, Any]:
    return {key: np.ascontiguousarray(array[number]) for key, array in arrays.items()}


def from_rows(row: Callable[[int], dict[str, Any]]) -> Callable[[Places, bool], Batch]:
    """A data set that gives one frame's arrays at a time."""

    def read(places: Places, uint8: bool) -> Batch:
        rows = [row(n) for sample in places for n in sample]
        stacked = {
            key: np.stack([np.asarray(r[key]) for r in rows]) for key in ("img", "flow", "gt")
        }
        return tensors(stacked["img"], stacked["flow"], stacked["gt"], uint8)

    return read


def mosaic(arrays: dict[str, Any], folder: Path) -> Callable[[Places, bool], Batch]:
    """MosaicML Streaming: MDS shards of the same uint8 arrays, read at random."""
    streaming = importlib.import_module("streaming")
    columns = {key: "ndarray" for key in arrays}
    with streaming.MDSWriter(out=str(folder), columns=columns) as out:
        for number in range(len(arrays["img"])):
            out.write(samples(arrays, number))
    return from_rows(streaming.LocalDataset(str(folder)).__getitem__)


def litdata(arrays: dict[str, Any], folder: Path) -> Callable[[Places, bool], Batch]:
    """LitData: chunks of the same uint8 arrays, read at random."""
    lit = importlib.import_module("litdata")
    lit.optimize(
        partial(samples, arrays),
        list(range(len(arrays["img"]))),
        output_dir=str(folder),
        chunk_bytes="64MB",
        num_workers=1,
    )
    return from_rows(lit.StreamingDataset(str(folder)).__getitem__)


def webdataset(arrays: dict[str, Any], folder: Path) -> Callable[[Places, bool], Batch]:
    """WebDataset: tar files of the same arrays; it reads in sequence, whatever is asked for."""
    wds = importlib.import_module("webdataset")
    with wds.ShardWriter(f"{folder}/%03d.tar", maxcount=128, verbose=0) as out:
        for number in range(len(arrays["img"])):
            frame = {f"{key}.npy": value for key, value in samples(arrays, number).items()}
            out.write({"__key__": f"{number:06d}", **frame})
    urls = sorted(map(str, folder.glob("*.tar")))
    rows = iter(wds.WebDataset(urls, shardshuffle=False).decode().repeat())

    def row(_: int) -> dict[str, Any]:
        found = next(rows)
        return {key: found[f"{key}.npy"] for key in arrays}

    return from_rows(row)


PEERS = {
    "memmap (floor)": memmap,
    "h5py": h5,
    "MosaicML Streaming": mosaic,
    "LitData": litdata,
    "WebDataset": webdataset,
}


def ours(source: manifest.Source, size: int, clip: int, uint8: bool) -> Callable[[Places], Batch]:
    clips = clips_of(source, size, clip, 1, uint8)
    anchor = {(int(v), int(f)): n for n, (_, v, f) in enumerate(clips.anchors)}
    lengths = np.cumsum([0, *(len(video.frames) for video in source.manifest.datasets[0].videos)])

    def read(places: Places) -> Batch:
        items = []
        for sample in places:
            video = int(np.searchsorted(lengths, sample[0], "right")) - 1
            items.append((0, 0, anchor[video, sample[0] - int(lengths[video])]))
        return clips.batch(items)

    return read


def draw(source: manifest.Source, clip: int, batch: int, seed: int) -> Places:
    """Return the frames of a random batch: windows of `clip` frames inside a video."""
    rng = random.Random(seed)
    videos = source.manifest.datasets[0].videos
    starts, first = [], 0
    for video in videos:
        starts += range(first, first + len(video.frames) - clip + 1)
        first += len(video.frames)
    return [tuple(range(s, s + clip)) for s in rng.sample(starts, batch)]


def cpu(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def medians(
    variants: dict[str, Callable[[Places], Batch]], draws: list[list[Places]]
) -> dict[str, float]:
    """Return the median CPU seconds of a round of batches, after one that does not count."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    for number, places in enumerate(draws):
        for name in random.sample(list(variants), len(variants)):
            spent = cpu(lambda: [variants[name](p) for p in places])  # noqa: B023
            if number:
                found[name].append(spent)
    return {name: statistics.median(values) for name, values in found.items()}


@contextmanager
def range_server(folder: str) -> Iterator[str]:
    """Serve a folder from a process of its own; yield its URL."""
    script = Path(__file__).with_name("range_server.py")
    command = [sys.executable, str(script), folder, str(LATENCY)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def served(url: str) -> tuple[int, int]:
    """Return the requests that the server has answered, and the bytes that it has sent."""
    with urllib.request.urlopen(f"{url}/served") as answer:
        requests, sent = json.load(answer)
    return requests, sent


def over_http(source: manifest.Source, size: int, batch: int, folder: Path) -> dict[str, Any]:
    """Return what the cold first epoch of uint8 batches over HTTP took, and its fetch alone."""
    result: dict[str, Any] = {}
    with range_server(source.root) as url:
        far = manifest.Source(source.manifest, source.file, url)
        store = stream.open_reader(far, "BENCH_train", "store")
        total = len(store)
        frame = size * size * 3
        wanted = [
            (f"{url}/BENCH_train.zarr/img/c/0/0/0/0", n * frame) for n in range(min(128, total))
        ]
        system = fsspec.filesystem("http")
        start = time.perf_counter()
        for first in range(0, len(wanted), 32):
            paths, starts = zip(*wanted[first : first + 32], strict=True)
            system.cat_ranges(list(paths), list(starts), [s + frame for s in starts])
        result["MB/s of 32 ranges at once"] = round(
            len(wanted) * frame / 1e6 / (time.perf_counter() - start)
        )
        for name, cache in (("ranges", None), ("cache", folder / "cache")):
            before = served(url)
            start = time.perf_counter()
            clips = clips_of(far, size, 1, batch, True, cache=cache)
            first_batch = None
            for _ in stream.loader(clips, 0, 0, 4):
                first_batch = first_batch or time.perf_counter() - start
            took = time.perf_counter() - start
            requests, sent = (b - a for a, b in zip(before, served(url), strict=True))
            result[name] = {
                "frames_per_s": round(clips.steps() * batch / took),
                "first_batch_s": round(first_batch or 0, 2),
                "requests_per_frame": round(requests / (clips.steps() * batch), 2),
                "MB": round(sent / 1e6),
            }
    return result


def waiting(
    source: manifest.Source, files: list[dict[str, str]], size: int, batch: int
) -> dict[str, Any]:
    """Return the mean time in ms that a step of 100 ms (asleep, as with a GPU) waits for data."""
    result = {}
    clips = clips_of(source, size, 1, batch, False)
    read = pil_files(files, size)
    made: dict[str, Iterator[Any]] = {
        "ours, 2 threads": stream.loader(clips, 0, 0, 2),
        "files, PIL, in the loop": (read(draw(source, 1, batch, s), False) for s in range(99)),
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
    parser.add_argument("--only-batches", action="store_true", help="no packing, HTTP and waiting")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as scratch:
        report(chosen, Path(scratch))


def report(chosen: argparse.Namespace, scratch: Path) -> None:
    data, size, clip = chosen.data, chosen.size, chosen.clip
    started = time.process_time()
    sources = {"raw": packed(data, scratch / "raw", chosen.flow, size)}
    packing = time.process_time() - started
    sources["jpeg"] = packed(data, scratch / "jpeg", chosen.flow, size, "jpeg")
    sources["small"] = packed(data, scratch / "small", chosen.flow, size, "small")
    split = sources["raw"].manifest.datasets[0]
    frames = [frame for video in split.videos for frame in video.frames]
    files = [{k: f"{data}/{getattr(f, k)}" for k in ("img", "gt", "flow")} for f in frames]
    store = stream.open_reader(sources["raw"], "BENCH_train", "store")
    arrays = {"img": (size, size, 3), "flow": (size, size, 3), "gt": (size, size)}
    held = {key: np.empty((len(frames), *shape), np.uint8) for key, shape in arrays.items()}
    for key, out in held.items():
        store.read_into(range(len(frames)), "flow_picture" if key == "flow" else key, out)
    peers: dict[str, Callable[[Places, bool], Batch]] = {
        "files, PIL": pil_files(files, size),
        "files, OpenCV": cv2_files(files, size),
    }
    for name, make in PEERS.items():
        folder = scratch / make.__name__
        folder.mkdir()
        try:
            peers[name] = make(held, folder)
        except Exception as error:  # a package of others: whatever it lacks
            print(f"{name}: left out ({type(error).__name__}: {error})")
    print(
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}"
        f", torch {torch.__version__}, {len(frames)} frames, {size} px, clips of {clip}, batch "
        f"{chosen.batch}: {' '.join(sys.argv)}"
    )
    rounds = [
        [
            draw(sources["raw"], clip, chosen.batch, 1000 * r + k)
            for k in range(32 // chosen.batch // clip or 1)
        ]
        for r in range(chosen.rounds + 1)
    ]
    result: dict[str, Any] = {}
    for uint8 in (False, True):
        variants: dict[str, Callable[[Places], Batch]] = {
            name: partial(read, uint8=uint8) for name, read in peers.items()
        }
        for tier, source in sources.items():
            variants[f"ours, {tier}"] = ours(source, size, clip, uint8)
        check(variants, rounds[0][0])
        result["uint8" if uint8 else "float"] = medians(variants, rounds)
    count = len(rounds[0]) * chosen.batch * clip
    print(f"{'':22}{'float ms/frame':>16}{'x':>7}{'uint8 ms/frame':>18}{'x':>7}")
    base = {kind: values["files, PIL"] for kind, values in result.items()}
    for name in result["float"]:
        row = [
            (1e3 * result[k][name] / count, base[k] / result[k][name]) for k in ("float", "uint8")
        ]
        print(f"{name:22}" + "".join(f"{ms:16.2f}{ratio:9.1f}" for ms, ratio in row))
    loose = sum(os.path.getsize(p) for paths in files for p in paths.values())
    kept = {
        tier: sum(f.stat().st_size for f in Path(s.root).rglob("*") if f.is_file())
        for tier, s in sources.items()
    }
    sizes = {"files": loose, **kept}
    print({name: f"{n / len(frames) / 1e3:.0f} kB a frame" for name, n in sizes.items()})
    if not chosen.only_batches:
        print(f"packing: {len(frames) / packing:.0f} frames/s of CPU time")
        print("HTTP, 20 ms:", json.dumps(over_http(sources["raw"], size, 16, scratch)))
        print("a step waits (ms):", json.dumps(waiting(sources["raw"], files, size, 16)))
    shutil.rmtree(scratch, ignore_errors=True)


def check(variants: dict[str, Callable[[Places], Batch]], places: Places) -> None:
    """Every variant gives the same shapes, types and (nearly) the same pictures."""
    want = variants["ours, raw"](places)
    for name, read in variants.items():
        found = read(places)
        for key in ("img", "gt", "flow"):
            a, b = found[key], want[key].reshape(found[key].shape)
            assert a.dtype == b.dtype, (name, key, a.dtype, b.dtype)
            if name != "WebDataset":  # its frames come in an order of its own
                span = 255.0 if a.dtype == torch.uint8 and key != "gt" else 1.0
                gap = float((a.float() - b.float()).abs().mean()) / span
                assert gap < 0.05, (name, key, gap)


if __name__ == "__main__":
    main()
