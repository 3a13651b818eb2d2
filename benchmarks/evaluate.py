"""Scores of a frame against PySODMetrics and vos-benchmark, and of a whole data set.

    pip install --no-deps pysodmetrics==1.6.2 vos-benchmark==0.1.0
    pip install scipy scikit-image scikit-learn tqdm        # what these two import
    python benchmarks/evaluate.py MASKS [--frames 9] [--rounds 5] [--set 1376]

MASKS is a folder of videos with masks (DAVIS: Annotations/480p). Soft predictions are made from
them. Equal scores (1e-6) are checked first; the variants then take turns in random order, one
thread each, arrays in memory. Ratios are to the other package: more than 1 is faster. With --set a
data set of that many frames, the same ones over and over, is scored from files by one process and
by two.
"""

import argparse
import os
import platform
import random
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from vsodpipe import media, metrics

try:
    import py_sod_metrics
    from vos_benchmark.evaluator import Evaluator
except ImportError as error:
    sys.exit(f"{error}: install what `--help` of this file names at its top (see the docstring)")

Frame = tuple[np.ndarray, np.ndarray]
"""Prediction uint8 and mask bool, (H, W)."""
SALIENCY = frozenset(
    "mae s f_adaptive f_curve e_adaptive e_curve f_weighted".split()  # as PySODMetrics: five names
)
DAVIS = frozenset({"j", "f_boundary"})


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("masks", type=Path)
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=5, help="after one that does not count")
    parser.add_argument("--set", type=int, default=0, metavar="FRAMES")
    return parser.parse_args()


def made_frames(folder: Path, count: int) -> Iterator[Frame]:
    """Return soft predictions of `count` masks spread over the videos of `folder`."""
    files = sorted(folder.glob("*/*.png"))
    if not files:
        sys.exit(f"{folder}: expected VIDEO/FRAME.png below it")
    rng = np.random.default_rng(0)
    for place in np.linspace(0, len(files) - 1, count).astype(int):
        gt = media.read_mask(files[place])
        moved = np.roll(gt, (3, 5), axis=(0, 1)).astype(np.float32)
        coarse = rng.uniform(-20, 20, (gt.shape[0] // 16 + 1, gt.shape[1] // 16 + 1))
        noise = np.kron(coarse, np.ones((16, 16)))[: gt.shape[0], : gt.shape[1]]
        soft = 20 + 210 * cv2.GaussianBlur(moved, (0, 0), 3) + noise + rng.normal(0, 4, gt.shape)
        yield np.clip(soft, 0, 255).astype(np.uint8), gt


def theirs_saliency(frames: list[Frame]) -> dict[str, float]:
    made = [
        py_sod_metrics.MAE(),
        py_sod_metrics.Smeasure(),
        py_sod_metrics.Fmeasure(),
        py_sod_metrics.Emeasure(),
        py_sod_metrics.WeightedFmeasure(),
    ]
    for prediction, gt in frames:
        for metric in made:
            metric.step(prediction, gt.view(np.uint8) * 255)
    mae, s, f, e, weighted = (metric.get_results() for metric in made)
    return {
        "mae": mae["mae"],
        "s": s["sm"],
        "f_adaptive": f["fm"]["adp"],
        "f_mean": f["fm"]["curve"].mean(),
        "f_max": f["fm"]["curve"].max(),
        "e_adaptive": e["em"]["adp"],
        "e_mean": e["em"]["curve"].mean(),
        "e_max": e["em"]["curve"].max(),
        "f_weighted": weighted["wfm"],
    }


def ours_saliency(frames: list[Frame]) -> dict[str, float]:
    scores = [metrics.frame_scores(*frame, SALIENCY) for frame in frames]
    mean = {name: np.mean([getattr(s, name) for s in scores], axis=0) for name in SALIENCY}
    return {
        **{name: value for name, value in mean.items() if not name.endswith("curve")},
        "f_mean": mean["f_curve"].mean(),
        "f_max": mean["f_curve"].max(),
        "e_mean": mean["e_curve"].mean(),
        "e_max": mean["e_curve"].max(),
    }


def theirs_davis(frames: list[Frame]) -> dict[str, float]:
    evaluator = Evaluator()
    for prediction, gt in frames:
        evaluator.feed_frame((prediction >= metrics.CUT).view(np.uint8), gt.view(np.uint8))
    j, f = evaluator.conclude()
    return {"j": j[1] / 100, "f_boundary": f[1] / 100}


def ours_davis(frames: list[Frame]) -> dict[str, float]:
    scores = [metrics.frame_scores(*frame, DAVIS) for frame in frames]
    return {name: float(np.mean([getattr(s, name) for s in scores])) for name in DAVIS}


def check(ours: dict[str, float], theirs: dict[str, float]) -> None:
    for name, expected in theirs.items():
        if abs(ours[name] - expected) > 1e-6:
            sys.exit(f"{name}: {ours[name]:.9f} is not {expected:.9f}: nothing to compare")
    largest = max(abs(ours[name] - expected) for name, expected in theirs.items())
    print(f"{', '.join(theirs)}: equal, largest difference {largest:.1g}")


def timed(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each of the `variants`."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name in random.sample(list(variants), len(variants)):
            start = time.perf_counter()
            variants[name]()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def score_files(files: list[tuple[Path, Path]]) -> int:
    cv2.setNumThreads(1)
    for prediction, gt in files:
        metrics.frame_scores(media.read_map(prediction), media.read_mask(gt))
    return len(files)


def whole_set(frames: list[Frame], count: int) -> None:
    """Print what all scores of `count` frames cost, files read, with one process and two."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number, (prediction, gt) in enumerate(frames):
            pair = Path(folder, f"{number}_map.png"), Path(folder, f"{number}_gt.png")
            media.write_bytes(pair[0], media.encode_png(prediction))
            media.write_bytes(pair[1], media.encode_png(gt.view(np.uint8) * 255))
            files.append(pair)
        chosen = (files * (count // len(files) + 1))[:count]
        parts = [chosen[start : start + 43] for start in range(0, count, 43)]  # as videos
        seconds = {}
        for processes in (1, 2):
            with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
                list(pool.map(score_files, [files] * processes))  # started and warm
                start = time.perf_counter()
                assert sum(pool.map(score_files, parts)) == count
                seconds[processes] = time.perf_counter() - start
            print(f"{count} frames, every score, {processes} at once: {seconds[processes]:.1f} s")
    print(f"two processes                            x {seconds[1] / seconds[2]:.2f}")


def main() -> None:
    chosen = arguments()
    cv2.setNumThreads(1)
    frames = list(made_frames(chosen.masks, chosen.frames))
    print(f"$ {shlex.join(sys.argv)}")
    print(
        f"{platform.processor() or platform.machine()}, 1 thread, load {os.getloadavg()[0]:.1f}, "
        f"python {platform.python_version()}, numpy {np.__version__}, opencv {cv2.__version__}, "
        f"pysodmetrics {version('pysodmetrics')}, vos-benchmark {version('vos-benchmark')}"
    )
    pairs = {
        "MAE, S, F, E, weighted F": (theirs_saliency, ours_saliency),
        "J and boundary F": (theirs_davis, ours_davis),
    }
    for title, (theirs, ours) in pairs.items():
        check(ours(frames), theirs(frames))
        variants = {"theirs": lambda run=theirs: run(frames), "ours": lambda run=ours: run(frames)}
        medians = timed(variants, chosen.rounds)
        each = {name: 1000 * value / len(frames) for name, value in medians.items()}
        print(
            f"{title:28}{each['theirs']:8.2f} ms a frame against {each['ours']:.2f} ms   "
            f"x {each['theirs'] / each['ours']:.2f}"
        )
    if chosen.set:
        whole_set(frames, chosen.set)


if __name__ == "__main__":
    main()
