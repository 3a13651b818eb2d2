"""Load: time and memory of the largest inputs at three sizes each, and a long soak of the loader.

    python benchmarks/load.py rows          manifests of 10k, 100k and 1M rows, 100 frames a video
    python benchmarks/load.py videos        100, 1000 and 10 000 videos of 10 frames
    python benchmarks/load.py frames        one video of 1k, 10k and 100k frames
    python benchmarks/load.py json          manifests of 24, 75 and 238 MB, with long paths
    python benchmarks/load.py soak          108 000 samples from the loader (an hour at 30 a second)

Each size runs in a process of its own: the seconds of CPU time of every step, and the peak memory
(RSS) of the process on top of what it had after its imports. The steps: a manifest is written, read
and checked by name; the samples of a training are listed and put in order; every frame's map is
found for the scores. The maps are empty files, and no picture is opened.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vsodpipe import manifest, manifest_faults, maps, media, pack, stream, synth
from vsodpipe.frames import Files
from vsodpipe.manifest import Frame, Manifest, Split, Video
from vsodpipe.progress import Reporter
from vsodpipe.reader import open_store
from vsodpipe.recipe import Data, Stage

SIZES: dict[str, list[tuple[int, int, int]]] = {
    "rows": [(100, 100, 0), (1000, 100, 0), (10_000, 100, 0)],
    "videos": [(100, 10, 0), (1000, 10, 0), (10_000, 10, 0)],
    "frames": [(1, 1000, 0), (1, 10_000, 0), (1, 100_000, 0)],
    "json": [(250, 100, 450), (790, 100, 450), (2500, 100, 450)],
}
"""Videos, frames of each, and letters by which every path is longer."""
MAPS = 100_000
"""Maps are only listed for so many frames: a million files take the disk too long."""
DATA = Data(datasets=("BIG_train",), inputs=("img",), size=(48, 64))
STAGE = Stage(name="load", network=None, data=DATA, batch=8)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("load", choices=(*SIZES, "soak"))
    parser.add_argument("--samples", type=int, default=108_000, help="of the soak")
    parser.add_argument("--workers", type=int, default=2, help="threads of the soak")
    parser.add_argument("--size", type=int, nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def made(videos: int, frames: int, longer: int) -> Manifest:
    """Return a manifest of so many videos and frames."""
    long = "/".join(["x" * 200] * (longer // 200)) + "/" if longer else ""
    entries = []
    for v in range(videos):
        start = f"{long}BIG_train/video{v:05d}"
        names = [f"{f:06d}" for f in range(frames)]
        rows = tuple(
            Frame(name=n, img=f"{start}/RGB/{n}.jpg", gt=f"{start}/GT/{n}.png") for n in names
        )
        entries.append(Video(name=f"video{v:05d}", size=(480, 854), frames=rows))
    split = Split(dataset="BIG_train", split="train", videos=tuple(entries))
    return Manifest(name="big", root=".", datasets=(split,))


def sized(videos: int, frames: int, longer: int) -> None:
    """Do every step of one size in this process, and print its row."""
    base = resident()
    taken: dict[str, float] = {}

    def step(name: str, do: Callable[[], Any]) -> Any:
        started = time.process_time()
        value = do()
        taken[name] = time.process_time() - started
        return value

    with tempfile.TemporaryDirectory() as name:
        folder, total = Path(name), videos * frames
        whole: Manifest | None = made(videos, frames, longer)
        file = step("write", lambda: manifest.write(whole, folder, folder))[0]
        whole = None
        source = step("read", lambda: manifest.read(file))
        split = source.manifest.datasets[0]
        assert split.frames == total
        step(
            "names",
            lambda: [list(manifest_faults.of_video(split, v, None, False)) for v in split.videos],
        )
        clips = step("samples", lambda: stream.Clips([Files(source, split)], STAGE))
        assert step("order", lambda: len(clips.epoch_order(0))) == total
        items = next(clips.batches(0, 0))
        picks = step("200 picks", lambda: [clips._pick(*i) for i in items * 25])
        assert len(picks) == 200
        if total <= MAPS:
            for video in split.videos:
                (folder / "maps" / video.name).mkdir(parents=True)
                for frame in video.frames:
                    (folder / "maps" / video.name / f"{frame.name}.png").touch()
            found = step("maps", lambda: maps.match(folder / "maps", split))
            assert len(found.files) == total and not found.extra
        size = file.stat().st_size / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - base
    cells = [f"{taken[n]:.2f}" if n in taken else "-" for n in STEPS]
    print(
        f"| {videos} x {frames} | {size:.0f} | {' | '.join(cells)} | {peak / 2**20:.0f} |",
        flush=True,
    )


STEPS = ("write", "read", "names", "samples", "order", "200 picks", "maps")


def resident() -> int:
    """Return the bytes that this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def soak(samples: int, workers: int) -> None:
    """Take samples from files and from a store for long; print memory, open files and threads."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(4):
            clip = synth.make_clip(number, 20, size=(96, 128))
            base = folder / f"BIG_train/video{number}"
            for t in range(20):
                media.write_bytes(base / f"RGB/{t:05d}.jpg", media.encode_jpeg(clip.img[t]))
                mask = clip.gt[t].astype(np.uint8) * 255
                media.write_bytes(base / f"GT/{t:05d}.png", media.encode_png(mask))
        manifest.write(manifest.build([], folder, folder, Reporter(True))["big"], folder, folder)
        source = manifest.read(folder / "big.json")
        split = source.manifest.datasets[0]
        pack.pack(split, source.root, folder / "big.zarr", (48, 64), Reporter(True))
        readers = {"files": Files(source, split), "store": open_store(str(folder / "big.zarr"))}
        for kind, reader in readers.items():
            clips = stream.Clips([reader], STAGE)
            seen, epoch, every = 0, 0, samples // 10
            print(f"{kind}: samples, RSS MiB, open files, threads, seconds", flush=True)
            started, due = time.perf_counter(), 0
            while seen < samples:
                for batch in stream.loader(clips, epoch, 0, workers):
                    seen += len(batch["key"])
                    if seen >= due:
                        files = len(os.listdir("/proc/self/fd"))
                        took = time.perf_counter() - started
                        row = (seen, resident() // 2**20, files, threading.active_count())
                        print(*row, f"{took:.0f}", sep=", ", flush=True)
                        due += every
                epoch += 1


def main() -> None:
    options = arguments()
    if options.size:
        return sized(*options.size)
    print(
        f"python {' '.join(sys.argv)} (Python {platform.python_version()}, {os.cpu_count()} cores)"
    )
    if options.load == "soak":
        return soak(options.samples, options.workers)
    print(f"| videos x frames | MB | {' | '.join(f'{n} s' for n in STEPS)} | MiB |")
    print("| --- " * (len(STEPS) + 3) + "|", flush=True)
    for size in SIZES[options.load]:
        call = [sys.executable, __file__, options.load, "--size", *map(str, size)]
        subprocess.run(call, check=True)


if __name__ == "__main__":
    main()
