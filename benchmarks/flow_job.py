"""The whole flow job against flow alone: decode, flow, colour, encode and write, or flow only.

    python benchmarks/flow_job.py FRAMES [--preset medium] [--rounds 5]

FRAMES is a folder with the frames of one video. Flow alone is the same engine over frames that are
decoded before the clock starts. The two take turns in random order; the ratio is of frames/s. The
share of each step follows, measured one after another in one thread.
"""

import argparse
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2

from vsodpipe import catalogue, flow_job, flows, media
from vsodpipe.flow_forms import JPEG_QUALITY
from vsodpipe.flows.colour import flow_to_picture
from vsodpipe.progress import Reporter


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("frames", type=Path)
    parser.add_argument("--preset", choices=("ultrafast", "fast", "medium"), default="medium")
    parser.add_argument("--rounds", type=int, default=5, help="after one that does not count")
    return parser.parse_args()


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    chosen = arguments()
    engine = flows.create("dis", preset=chosen.preset)
    dataset = catalogue.find(str(chosen.frames), Path())
    (video,) = dataset.videos
    images = list(video.images())
    if len(images) < 2:
        sys.exit("expected a folder of two frames or more")
    quiet, options = Reporter(quiet=True), flow_job.Options()

    def job() -> None:
        with tempfile.TemporaryDirectory() as out:
            target = flow_job.elsewhere(dataset, Path(out) / "flow")
            flow_job.compute(target, engine, options, quiet)

    def alone() -> None:
        list(engine.clip(images))
        list(engine.clip(images[-2:]))  # the last frame's entry is a flow too

    variants = {"flow alone": alone, "whole job": job}
    found: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(chosen.rounds + 1):
        for name in random.sample(list(variants), len(variants)):
            spent = seconds(variants[name])
            if number:
                found[name].append(spent)
    height, width = images[0].shape[:2]
    print(
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}"
        f", opencv {cv2.__version__}, {len(images)} frames of {width}x{height}"
    )
    medians = {name: statistics.median(values) for name, values in found.items()}
    for name, spent in medians.items():
        ratio = medians["flow alone"] / spent
        print(f"{name:12}{len(images) / spent:8.1f} frame/s   x {ratio:.2f}")
    flow = next(iter(engine.clip(images[:2])))
    picture = flow_to_picture(flow)
    steps = {
        "decode": lambda: media.read_image(video.frames[0].img),
        "colour": lambda: flow_to_picture(flow),
        "encode": lambda: media.encode_jpeg(picture, JPEG_QUALITY),
    }
    for name, step in steps.items():
        spent = statistics.median(seconds(step) for _ in range(20))
        print(f"{name:12}{1e3 * spent:8.1f} ms a frame")


if __name__ == "__main__":
    main()
