"""The DAVIS benchmark's scores of a binary mask: region similarity J and boundary accuracy F.

    mask = binarise(prediction)                    # uint8 (H, W) -> bool (H, W)
    region_similarity(mask, gt), boundary_f(mask, gt)
    davis_statistics(values_of_a_video)

Definitions are those of the DAVIS-2016 code; section numbers are the evaluation specification's.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from vsodpipe.levels import check_pair

CUT = 128
"""J and boundary F call a pixel foreground from this 8-bit value on, without stretching (2.5)."""

_STATISTICS_BINS = 4


@dataclass(frozen=True)
class Statistics:
    """What DAVIS reports of the values of one video; NaN where there is no value."""

    mean: float
    recall: float
    """Share of frames above 0.5."""
    decay: float
    """Mean of the first quarter of the video minus mean of the last."""


def binarise(prediction: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the map cut at `CUT`: the object that J and boundary F judge."""
    return prediction >= CUT


def region_similarity(mask: NDArray[np.bool_], gt: NDArray[np.bool_]) -> float:
    """Return J of two bool (H, W) masks: intersection over union, 1 when both are empty (2.1)."""
    check_pair(mask, gt, np.bool_)
    union = np.count_nonzero(mask | gt)
    return np.count_nonzero(mask & gt) / union if union else 1.0


def _boundary(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return 1 where a pixel differs from its right, lower or lower right neighbour (2.2)."""
    edge = np.zeros(mask.shape, dtype=bool)
    edge[:, :-1] = mask[:, :-1] != mask[:, 1:]
    edge[:-1] |= mask[:-1] != mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return edge.view(np.uint8)


@lru_cache(maxsize=64)
def rectangles(height: int, width: int) -> list[tuple[int, int]]:
    """Return the half sizes (y, x) of rectangles whose union is the disk of the tolerance.

    The disk belongs to a frame of this size. Rectangles, because dilation with them is an order of
    magnitude faster than with a disk, and just as exact.
    """
    r = math.ceil(0.008 * math.sqrt(height**2 + width**2))
    widest = {math.isqrt(r * r - x * x): x for x in range(r + 1)}
    return list(widest.items())


def _near(edge: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return 1 where a pixel of `edge` is within the tolerance of a frame of this `shape`."""
    near = np.zeros_like(edge)
    for y, x in rectangles(*shape):
        dilated = cv2.dilate(edge, np.ones((2 * y + 1, 2 * x + 1), np.uint8))
        np.maximum(near, dilated, out=near)
    return near


def f_of_points(ours: int, ours_near: int, theirs: int, theirs_near: int) -> float:
    """Return F from the numbers of boundary points and of those near the other boundary (2.2)."""
    if not ours or not theirs:
        return 0.0 if ours or theirs else 1.0  # (P, R) is (1, 0), (0, 1) or (1, 1)
    precision, recall = ours_near / ours, theirs_near / theirs
    total = precision + recall
    return 2.0 * precision * recall / total if total else 0.0


def boundary_f(mask: NDArray[np.bool_], gt: NDArray[np.bool_]) -> float:
    """Return the boundary accuracy of two bool (H, W) masks, 0..1 (section 2.2).

    The picture's border is no boundary, so a full mask has none: against an empty one it scores 1.
    """
    check_pair(mask, gt, np.bool_)
    x, y, width, height = cv2.boundingRect((mask | gt).view(np.uint8))
    # Outside this box and one pixel above and left of it there is no boundary, and so it is for the
    # dilation (OpenCV's default border); right of it and below, pixels only serve as neighbours.
    box = np.s_[max(y - 1, 0) : y + height + 1, max(x - 1, 0) : x + width + 1]
    ours, theirs = _boundary(mask[box]), _boundary(gt[box])
    points = (ours, ours & _near(theirs, gt.shape), theirs, theirs & _near(ours, gt.shape))
    return f_of_points(*(int(np.count_nonzero(kind)) for kind in points))


def _mean(values: NDArray[np.float64]) -> float:
    """Return the mean of what is not NaN; NaN, without numpy's warning, when nothing is left."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def davis_statistics(values: Iterable[float]) -> Statistics:
    """Return mean, recall and decay of a video's values in the order of its frames (section 2.3).

    NaN is ignored: it keeps its place in the bins of decay, and in recall it leaves the divisor as
    well (the official code counts it there as a miss). The four bins share a frame with their
    neighbours; with fewer than four frames they still exist but are only a frame or two (one frame:
    decay 0). Without any value all three are NaN.
    """
    series = np.fromiter(values, dtype=np.float64)
    if not series.size:
        return Statistics(math.nan, math.nan, math.nan)
    # 64-bit edges: the official code keeps them in 8 bits, wrong past 256 frames. + 0.5 and floor
    # rounds half away from zero; quarters of integers are exact.
    places = np.linspace(1, series.size, _STATISTICS_BINS + 1)
    edges = np.floor(places + 0.5).astype(np.int64)
    first, last = series[: edges[1]], series[edges[-2] - 1 :]
    above = np.where(np.isnan(series), math.nan, series > 0.5)
    return Statistics(_mean(series), _mean(above), _mean(first) - _mean(last))
