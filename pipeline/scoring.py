"""Maps scored frame by frame, in this process or in several: the same numbers either way.

A task is a few frames of one method; one frame at a time is in memory, and what comes back is the
scores alone. Results arrive in the order of the tasks, so that sums do not depend on the workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing import get_context

import cv2
import numpy as np
from numpy.typing import NDArray

from vsodpipe import media, metrics
from vsodpipe.a2s_scores import A2SScores, a2s_scores
from vsodpipe.errors import DataError, VsodpipeError
from vsodpipe.signals import end_with_parent, ignore_interrupt
from vsodpipe.stability import temporal_stability

VALUES = ("mae", "s", "f_adaptive", "e_adaptive", "f_weighted", "j", "f_boundary")
"""Numbers of a frame, by their names in `metrics.FrameScores`."""
CURVES = ("f_curve", "e_curve", "precision", "recall")
"""Its curves of 256 thresholds."""
CHUNK = 8
"""Frames of a task: it decides the order of sums, so it does not depend on the workers."""
ALONE = 128
"""Fewer frames than this do not pay for the start of a process."""


@dataclass(frozen=True, slots=True)
class Item:
    """One frame to score: paths of its mask and its map, and the video's name."""

    video: str
    gt: str
    map: str


@dataclass(frozen=True, slots=True)
class Rules:
    """What a protocol asks of a frame."""

    skip_empty: bool = False
    resize: bool = False
    a2s: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """Frames of one method and data set (`key`)."""

    key: tuple[str, str]
    rules: Rules
    items: tuple[Item, ...]
    stability: bool = False
    """Whether to judge the temporal stability of the maps, which are then of one video."""
    after: Item | None = None
    """The frame that follows, whose map is only looked at for stability."""


@dataclass(slots=True)
class Part:
    """The scores of successive frames of one video."""

    video: str
    values: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in VALUES})
    curves: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Sums over the frames."""
    a2s: list[A2SScores] = field(default_factory=list)
    t: list[float] = field(default_factory=list)
    """Temporal stability of successive frames, NaN where a map has no shape."""
    scored: int = 0
    empty: int = 0
    """Frames without foreground in the mask, scored or skipped."""
    full: int = 0
    """Frames with foreground in the mask."""
    perfect: int = 0
    """Those of them whose map is the mask itself."""
    resized: int = 0
    ones: int = 0
    """Frames whose map has no level above 1."""

    def add(self, other: Part) -> None:
        """Take in the scores of the frames that follow."""
        for name, values in other.values.items():
            self.values[name] += values
        for name, total in other.curves.items():
            self.curves[name] = self.curves[name] + total if name in self.curves else total
        self.a2s += other.a2s
        self.t += other.t
        self.scored += other.scored
        self.empty += other.empty
        self.full += other.full
        self.perfect += other.perfect
        self.resized += other.resized
        self.ones += other.ones


def tasks(
    key: tuple[str, str], rules: Rules, items: Sequence[Item], stability: bool = False
) -> Iterator[Task]:
    """Yield the tasks that score `items`; for stability, those of one video."""
    for start in range(0, len(items), CHUNK):
        end = start + CHUNK
        chunk, following = items[start:end], items[end : end + 1]
        after = following[0] if stability and following else None
        yield Task(key, rules, tuple(chunk), stability, after)


def run(todo: Sequence[Task], workers: int) -> Iterator[tuple[Task, list[Part]]]:
    """Yield every task with its parts, in order, from up to `workers` processes.

    Raises the first DataError of a task; what has not started then does not start.
    """
    if workers < 2 or total_frames(todo) < ALONE:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)  # as in a worker: OpenCV's last digits depend on it
        try:
            yield from ((task, score(task)) for task in todo)
        finally:
            cv2.setNumThreads(threads)
        return
    # not forked: a child would inherit the locks of this process' threads
    with ProcessPoolExecutor(workers, get_context("spawn"), _start) as pool:
        try:
            yield from zip(todo, pool.map(score, todo), strict=True)
        except BrokenProcessPool as error:
            raise VsodpipeError(
                "eval: a worker died, the machine may be out of memory. Use fewer --workers."
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start() -> None:
    ignore_interrupt(0)
    end_with_parent()
    cv2.setNumThreads(1)


def score(task: Task) -> list[Part]:
    """Return the parts of a task. Raises DataError, naming the file, for what cannot be scored."""
    parts: list[Part] = []
    maps = _scored(task, parts)
    if task.stability:
        stable = temporal_stability(map(metrics.binarise, maps))
        parts[0].t = stable
    else:
        for _ in maps:
            pass
    return parts


def is_copy(item: Item, rules: Rules) -> bool | None:
    """Return whether a map is its mask; None for a mask without foreground, which says nothing."""
    prediction, gt, _ = _read(rules, item)
    if not gt.any():
        return None
    found = metrics.frame_scores(prediction, gt, frozenset({"mae", "j"}))
    return found.mae == 0 or found.j == 1


def _scored(task: Task, parts: list[Part]) -> Iterator[NDArray[np.uint8]]:
    """Yield each map of a task after its scores are in `parts`: one is in memory."""
    for item in task.items:
        if not parts or parts[-1].video != item.video:
            parts.append(Part(item.video))
        yield _add(parts[-1], item, task.rules)
    if task.after:
        yield _read(task.rules, task.after)[0]


def _add(part: Part, item: Item, rules: Rules) -> NDArray[np.uint8]:
    """Add the scores of a frame to `part`; return its map."""
    prediction, gt, changed = _read(rules, item)
    empty = not gt.any()
    part.empty += empty
    if empty and rules.skip_empty:
        return prediction
    found = metrics.frame_scores(prediction, gt)
    for name in VALUES:
        part.values[name].append(getattr(found, name))
    part.values["f_weighted"][-1] = _steady(part.values["f_weighted"][-1])
    for name in CURVES:
        part.curves[name] = part.curves.get(name, 0.0) + getattr(found, name)
    if rules.a2s:
        a2s = a2s_scores(prediction, gt.astype(np.uint8) * 255)
        part.a2s.append(replace(a2s, f_weighted=_steady(a2s.f_weighted)))
    part.scored += 1
    part.resized += changed
    part.ones += int(prediction.max()) == 1
    part.full += not empty
    part.perfect += not empty and (found.mae == 0 or found.j == 1)
    return prediction


def _steady(weighted_f: float) -> float:
    """Return a weighted F without its last digits.

    They depend on where in memory the frame lies (a sum in single precision): without them the
    result is the same whatever process scores it.
    """
    return round(weighted_f, 7)


def _read(rules: Rules, item: Item) -> tuple[NDArray[np.uint8], NDArray[np.bool_], bool]:
    """Return the map at the size of its mask, the mask, and whether the map had another size."""
    prediction, gt = media.read_prediction(item.map), media.read_mask(item.gt)
    if prediction.shape == gt.shape:
        return prediction, gt, False
    if not rules.resize:
        raise DataError(
            f"{item.map}: expected {gt.shape[1]}x{gt.shape[0]} as its mask, got "
            f"{prediction.shape[1]}x{prediction.shape[0]}. Write maps at native size, or use "
            "--resize."
        )
    height, width = gt.shape
    # in floating point: OpenCV's 8-bit weights are coarser
    smooth = cv2.resize(prediction.astype(np.float32), (width, height))
    return np.clip(np.rint(smooth), 0, 255).astype(np.uint8), gt, True


def pair(item: Item) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return a frame's map, brought to the size of its mask, and the mask: for pictures."""
    return _read(Rules(resize=True), item)[:2]


def total_frames(todo: Iterable[Task]) -> int:
    """Return how many frames the tasks score."""
    return sum(len(task.items) for task in todo)
