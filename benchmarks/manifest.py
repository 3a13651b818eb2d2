"""Manifests: memory and time of many rows, and frames a minute of `--check`.

    python benchmarks/manifest.py --rows 1000000          written, read, compared; peak memory
    python benchmarks/manifest.py --frames 1000           --check at 480x854, every file and headers
    python benchmarks/manifest.py --headers 100000        --check --quick of so many rows

`--rows` writes and reads in processes of their own, whose peak memory (RSS) is theirs alone; 100
frames a video. `--frames` makes pictures of noise over a texture, as large as files of DAVIS, and
checks them with 1 thread and with one a core, in turns; the median of the rounds. `--headers` gives
every row files of its own, as hard links to those of one video, and checks them once.
"""

import argparse
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from vsodpipe import manifest, manifest_check, media
from vsodpipe.manifest import Frame, Manifest, Split, Video
from vsodpipe.progress import Reporter

FOLDERS = {"img": "RGB/{:05d}.jpg", "gt": "GT/{:05d}.png", "flow": "FLOW/{:05d}.jpg"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int)
    parser.add_argument("--frames", type=int)
    parser.add_argument("--headers", type=int)
    parser.add_argument("--rounds", type=int, default=5, help="after one that does not count")
    parser.add_argument("--step", choices=("write", "read"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def made(rows: int, per_video: int, flow: dict | None = None) -> Manifest:
    """Return a manifest of so many rows."""
    videos = []
    for v in range(max(1, rows // per_video)):
        paths = {key: f"BIG_train/video{v:05d}/{end}" for key, end in FOLDERS.items()}
        frames = tuple(
            Frame(name=f"{f:05d}", **{key: path.format(f) for key, path in paths.items()})
            for f in range(min(rows, per_video))
        )
        videos.append(Video(name=f"video{v:05d}", size=(480, 854), frames=frames))
    flow = flow or {"fingerprint": "0" * 16, "engine": {"engine": "none"}}
    split = Split(dataset="BIG_train", split="train", flow=flow, videos=tuple(videos))
    return Manifest(name="big", root=".", datasets=(split,))


def step(name: str, rows: int, folder: Path) -> None:
    """Do one step of the row benchmark in this process, and say its time and peak memory."""
    whole = made(rows, 100) if name == "write" else None
    started = time.perf_counter()
    if whole is not None:
        manifest.write(whole, folder, folder)
    else:
        found = manifest.read(folder / "big.json").manifest.datasets[0]
        assert found.frames == rows
    took = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    size = (folder / "big.json").stat().st_size / 1e6
    print(f"{name}: {rows} rows, {size:.0f} MB of JSON: {took:.1f} s, peak {peak:.2f} GiB")


def pictures(folder: Path, count: int) -> None:
    """Write a video of `count` frames with mask and flow, as large as those of DAVIS."""
    rng = np.random.default_rng(0)
    cells = rng.uniform(0, 255, (12, 20, 3)).astype(np.float32)
    texture = cv2.resize(cells, (854, 480), interpolation=cv2.INTER_CUBIC)
    noise = [rng.normal(0, 4, texture.shape) for _ in range(4)]
    base = folder / "BIG_train/video00000"
    for number in range(count):
        frame = np.clip(texture + noise[number % 4] + number % 97, 0, 255).astype(np.uint8)
        mask = np.zeros((480, 854), np.uint8)
        cv2.circle(mask, (100 + number % 600, 240), 90, 255, -1)
        flow = np.roll(texture, number, 1).clip(0, 255).astype(np.uint8)
        for key, data in (
            ("img", media.encode_jpeg(frame, 90)),
            ("gt", media.encode_png(mask)),
            ("flow", media.encode_jpeg(flow)),
        ):
            media.write_bytes(base / FOLDERS[key].format(number), data)


def headers(folder: Path, rows: int) -> None:
    """Time `--check --quick` over so many rows."""
    pictures(folder, 100)
    source = manifest.read(manifest.write(made(rows, 100), folder, folder)[0])
    base = folder / "BIG_train"
    for video in source.manifest.datasets[0].videos[1:]:
        for frame in video.frames:
            for path in (frame.img, frame.gt, frame.flow):
                file = folder / path
                file.parent.mkdir(parents=True, exist_ok=True)
                os.link(base / "video00000" / file.relative_to(base / video.name), file)
    started = time.perf_counter()
    found = manifest_check.check([source], Reporter(True), quick=True)
    took = time.perf_counter() - started
    assert found.ok, list(found.lines())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"headers of {rows} rows: {took:.1f} s, {rows / took * 60:.0f} rows a minute, "
        f"peak {peak:.2f} GiB"
    )


def check(folder: Path, count: int, rounds: int) -> None:
    """Time `--check` over the pictures in `folder`."""
    whole = made(count, count)
    source = manifest.read(manifest.write(whole, folder, folder)[0])
    base = folder / "BIG_train/video00000"
    kilobytes = {key: (base / end.format(0)).stat().st_size // 1000 for key, end in FOLDERS.items()}
    print(f"{count} frames of 480x854, kB a file: {kilobytes}")
    cores = len(os.sched_getaffinity(0))
    variants = [(quick, threads) for quick in (False, True) for threads in {1, cores}]
    times: dict[tuple[bool, int], list[float]] = {variant: [] for variant in variants}
    for round_ in range(rounds + 1):
        for quick, threads in random.sample(variants, len(variants)):
            started = time.perf_counter()
            found = manifest_check.check([source], Reporter(True), quick=quick, threads=threads)
            took = time.perf_counter() - started
            assert found.ok, list(found.lines())
            if round_:
                times[quick, threads].append(took)
    first = statistics.median(times[False, 1])
    for (quick, threads), taken in sorted(times.items()):
        took = statistics.median(taken)
        what = "headers" if quick else "every file"
        print(
            f"{what}, {threads} threads: {count / took * 60:.0f} frames a minute "
            f"(x{first / took:.2f} of every file on one thread)"
        )


def main() -> None:
    options = arguments()
    if options.step:
        return step(options.step, options.rows, options.folder)
    versions = f"Python {platform.python_version()}, OpenCV {cv2.__version__}"
    print(f"python {' '.join(sys.argv)} ({versions}, {platform.machine()}, {os.cpu_count()} cores)")
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        if options.rows:
            for name in ("write", "read"):
                call = [sys.executable, __file__, "--rows", str(options.rows), "--folder", folder]
                subprocess.run([*call, "--step", name], check=True)
        if options.headers:
            headers(Path(folder, "headers"), options.headers)
        if options.frames:
            pictures(Path(folder), options.frames)
            check(Path(folder), options.frames, options.rounds)


if __name__ == "__main__":
    main()
