"""Scores of a frame against PySODMetrics and vos-benchmark, and of a whole data set.

    pip install --no-deps pysodmetrics==1.6.2 vos-benchmark==0.1.0
    pip install scipy scikit-image scikit-learn tqdm        # what these two import
    python benchmarks/evaluate.py MASKS [--frames 9] [--rounds 5] [--set 1376]

MASKS is a folder of videos with masks (DAVIS: Annotations/480p). Soft predictions are made from
them. Equal scores (1e-6) are checked first; the variants then take turns in random order, one
thread each, arrays in memory. Ratios are to the other package: more than 1 is faster. With --set a
DAVIS_test of that many frames, the same ones over and over, is evaluated from files, T included, as
`vsodpipe eval` does, by one process and by two; on a shared machine look at the seconds of
processors.
"""

import argparse
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from multiprocessing import active_children
from pathlib import Path

import cv2
import numpy as np

from timing import timed
from vsodpipe import card, evaluate, manifest, maps, media, metrics
from vsodpipe.progress import Reporter

try:
    if __name__ == "__main__":  # not in the processes that score, which import this file as well
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


def whole_set(frames: list[Frame], count: int) -> None:
    """Print what `vsodpipe eval` costs for `count` frames of DAVIS_test, by one process and two."""
    with tempfile.TemporaryDirectory() as place:
        folders = made_set(Path(place), frames, count)
        cost = {}
        for processes in (2, 1):
            options = evaluate.Options(workers=processes)
            before, start = os.times(), time.perf_counter()
            evaluate.evaluate(folders, options, Reporter(quiet=True))
            cost[processes] = time.perf_counter() - start
            for child in active_children():
                child.join()  # before that its time is not known
            after = os.times()
            cpu = sum(after[:4]) - sum(before[:4])  # user and system, of the processes as well
            print(
                f"{count} frames, every score and T, {processes} at once: {cost[processes]:.1f} s, "
                f"{cpu:.1f} s of processors, load {os.getloadavg()[0]:.1f}"
            )
        print(f"two processes                            x {cost[1] / cost[2]:.2f}")


def made_set(root: Path, frames: list[Frame], count: int) -> list[maps.Folder]:
    """Return maps of `count` frames of DAVIS_test, its videos made of `frames` over and over."""
    for number, (prediction, gt) in enumerate(frames):
        media.write_bytes(root / f"{number}_map.png", media.encode_png(prediction))
        media.write_bytes(root / f"{number}_gt.png", media.encode_png(gt.view(np.uint8) * 255))
    videos, left = [], count
    for name, length in dict(card.cards()["davis"].splits["test"].videos).items():
        made = []
        for t in range(min(length, left)):
            # a video keeps to its few frames, as T compares successive ones
            number = (len(videos) * 2 + t % 2) % len(frames)
            gt, file = f"gt/{name}/{t:05d}.png", root / "maps" / "DAVIS" / name / f"{t:05d}.png"
            for link, target in ((root / gt, "gt"), (file, "map")):
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(root / f"{number}_{target}.png")
            made.append(manifest.Frame(name=f"{t:05d}", img=gt, gt=gt))
        left -= len(made)
        if made:
            size = frames[0][1].shape
            videos.append(manifest.Video(name=name, size=size, frames=tuple(made)))
    split = manifest.Split(dataset="DAVIS_test", videos=tuple(videos))
    text = manifest.Manifest(name="set", root=".", datasets=(split,)).model_dump_json(
        exclude_none=True
    )
    media.write_bytes(root / "set.json", text.encode())
    return maps.find([root / "maps"], [manifest.read(root / "set.json")])


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
