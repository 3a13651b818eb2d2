"""Scores of one saliency map against its mask: MAE, S, F curve, J, boundary F, flow error.

Everything that needs grey levels follows from one integer table, made in one pass:

    counts = count_levels(prediction, gt)          # uint8 (H, W), bool (H, W)
    mae(counts), s_measure(counts), f_curve(counts)

`frame_scores(prediction, gt)` does all of it. Definitions and section numbers are those of the
evaluation specification: PySODMetrics 1.6.2 for MAE, S and F, the DAVIS-2016 code for J and the
boundary F.

Legend: H W rows and columns; a level is a grey value 0..255; p is the prediction and g the mask in
0..1; "stretched" means that the frame's own minimum and maximum are moved to 0 and 1 (section 1.1).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from vsodpipe.errors import DataError

__all__ = [
    "CUT",
    "FrameScores",
    "LevelCounts",
    "Statistics",
    "adaptive_f",
    "binarise",
    "boundary_f",
    "count_levels",
    "davis_statistics",
    "end_point_error",
    "f_curve",
    "frame_scores",
    "mae",
    "max_f",
    "region_similarity",
    "s_measure",
]

CUT = 128
"""J and boundary F call a pixel foreground from this 8-bit value on, without stretching (2.5)."""

_EPS = 2.0**-52
_LEVELS = np.arange(256, dtype=np.int64)
_STATISTICS_BINS = 4


@dataclass(frozen=True, eq=False)
class LevelCounts:
    """How many pixels of a frame have which stretched level, in the background and the foreground.

    MAE, S and F follow from these integers alone, which keeps them free of rounding (section 1.6).
    """

    blocks: NDArray[np.int64]
    """(4, 2, 256): upper left, upper right, lower left and lower right block, split at the centre
    of the mask (section 1.3); background, foreground; value - offset."""
    offset: int
    """The value that becomes 0: the frame's minimum, or 0 for a constant map (not stretched)."""
    span: int
    """p = (value - offset) / span: maximum - minimum, or 255 for a constant map."""

    @property
    def background(self) -> NDArray[np.int64]:
        """(256,) pixels of the background by value - offset."""
        return self.blocks[:, 0].sum(axis=0)

    @property
    def foreground(self) -> NDArray[np.int64]:
        """(256,) pixels of the foreground by value - offset."""
        return self.blocks[:, 1].sum(axis=0)


@dataclass(frozen=True, eq=False)
class FrameScores:
    """The scores of one frame; `vsodpipe eval` averages them, the curve included."""

    mae: float
    s: float
    f_adaptive: float
    f_curve: NDArray[np.float64]
    """(256,) F where level t or more counts as foreground, at place t."""
    j: float
    f_boundary: float


@dataclass(frozen=True)
class Statistics:
    """What DAVIS reports of the values of one video; NaN where there is no value."""

    mean: float
    recall: float
    """Share of frames above 0.5."""
    decay: float
    """Mean of the first quarter of the video minus mean of the last."""


def _check(prediction: NDArray[np.generic], gt: NDArray[np.generic], dtype: type) -> None:
    """Refuse what cannot be compared; nothing is resized or converted here."""
    right = prediction.dtype == dtype and gt.dtype == np.bool_
    if right and prediction.ndim == 2 and prediction.shape == gt.shape and prediction.size:
        return
    raise DataError(
        f"scores of a map: expected {np.dtype(dtype)} prediction and bool mask of one size (H, W), "
        f"got {prediction.dtype} {prediction.shape} and {gt.dtype} {gt.shape}. "
        "Bring the map to the size of the mask first."
    )


def _centre(gt: NDArray[np.bool_]) -> tuple[int, int]:
    """Return how many rows and columns lie in the upper left block (section 1.3)."""
    rows, columns = np.count_nonzero(gt, axis=1), np.count_nonzero(gt, axis=0)
    total = int(rows.sum())
    if total == 0:
        return gt.shape
    row = int(rows @ np.arange(rows.size)) / total
    column = int(columns @ np.arange(columns.size)) / total
    return round(row) + 1, round(column) + 1  # half to even, as numpy does in the reference


def count_levels(prediction: NDArray[np.uint8], gt: NDArray[np.bool_]) -> LevelCounts:
    """Count the levels of a map `prediction` uint8 (H, W) under the mask `gt` bool (H, W)."""
    _check(prediction, gt, np.uint8)
    key = gt.astype(np.uint16)
    key *= 256
    key += prediction  # 0..255 background, 256..511 foreground
    cy, cx = _centre(gt)
    parts = (key[:cy, :cx], key[:cy, cx:], key[cy:, :cx], key[cy:, cx:])
    raw = np.stack([np.bincount(part.ravel(), minlength=512) for part in parts])
    raw = raw.astype(np.int64).reshape(4, 2, 256)
    present = np.flatnonzero(raw.sum(axis=(0, 1)))
    low, high = int(present[0]), int(present[-1])
    if low == high:
        return LevelCounts(raw, offset=0, span=255)
    blocks = np.zeros_like(raw)
    blocks[:, :, : high - low + 1] = raw[:, :, low : high + 1]
    return LevelCounts(blocks, offset=low, span=high - low)


def mae(counts: LevelCounts) -> float:
    """Return the mean of |p - g| over the stretched frame, 0..1 (section 1.2)."""
    back, fore = counts.background, counts.foreground
    total = int(back.sum() + fore.sum())
    error = int(back @ _LEVELS + fore @ (counts.span - _LEVELS))
    return error / (total * counts.span)


def _moments(histogram: NDArray[np.int64]) -> tuple[int, int, int]:
    """Return the number of pixels, the sum and the sum of squares of their levels."""
    return int(histogram.sum()), int(histogram @ _LEVELS), int(histogram @ _LEVELS**2)


def _object_score(histogram: NDArray[np.int64], span: int, inverse: bool) -> float:
    """Return O(x) of section 1.3 for x = p, or x = 1 - p if `inverse`."""
    n, total, squares = _moments(histogram)
    mean = total / (n * span)
    mean = 1.0 - mean if inverse else mean
    # n * squares - total^2 can pass 2^63 for a large frame; Python's integers cannot overflow
    spread = n * squares - total * total
    deviation = math.sqrt(spread / (n * (n - 1))) / span if n > 1 else 0.0
    return 2.0 * mean / (mean * mean + 1.0 + deviation + _EPS)


def _block_score(block: NDArray[np.int64], span: int) -> float:
    """Return the structural similarity of p and g in one block (2, 256) of section 1.3."""
    n, total, squares = _moments(block.sum(axis=0))
    g, total_fore, _ = _moments(block[1])
    # Integers, because the cases a = 0 and b = 0 are decided by equality: rounding noise in the
    # variance of a constant block would turn its score from 1 to 0.
    covariance, spread_x, spread_y = n * total_fore - total * g, n * squares - total**2, g * (n - g)
    if total == 0 or g == 0 or covariance == 0:  # a = 0
        b_is_zero = (total == 0 and g == 0) or (spread_x == 0 and spread_y == 0)
        return 1.0 if b_is_zero else 0.0
    x, y, divisor = total / (n * span), g / n, n * (n - 1 + _EPS)
    a = 4.0 * x * y * (covariance / span) / divisor
    b = (x * x + y * y) * (spread_x / span**2 + spread_y) / divisor
    return a / (b + _EPS)


def s_measure(counts: LevelCounts) -> float:
    """Return the structure measure with alpha = 0.5 (section 1.3).

    A block without pixels (the centre of the mask in the last row or column) contributes 0, where
    the reference returns NaN.
    """
    back, fore, span = counts.background, counts.foreground, counts.span
    background, foreground = int(back.sum()), int(fore.sum())
    total = background + foreground
    if foreground == 0:
        return 1.0 - int(back @ _LEVELS) / (total * span)
    if background == 0:
        return int(fore @ _LEVELS) / (total * span)
    share = foreground / total
    objects = share * _object_score(fore, span, inverse=False)
    objects += (1.0 - share) * _object_score(back, span, inverse=True)
    sizes = counts.blocks.sum(axis=(1, 2)).tolist()
    regions = sum(
        n / total * _block_score(block, span)
        for n, block in zip(sizes, counts.blocks, strict=True)
        if n
    )
    return max(0.0, 0.5 * objects + 0.5 * regions)


def _f(true: NDArray[np.int64], predicted: NDArray[np.int64], actual: int) -> NDArray[np.float64]:
    """Return F with beta^2 = 0.3 from pixel counts; 0 where there is no true positive."""
    # 1.3 P R / (0.3 P + R) with P = true / predicted and R = true / actual
    divisor = 0.3 * actual + predicted
    return np.where(true > 0, 1.3 * true / np.maximum(divisor, _EPS), 0.0)


def f_curve(counts: LevelCounts) -> NDArray[np.float64]:
    """Return F for the 256 thresholds (section 1.4): place t calls levels >= t foreground.

    The level is (value - minimum) * 255 // (maximum - minimum), in integers (section 1.6). Average
    curves over frames and videos first, then take `max_f`.
    """
    level = np.minimum(_LEVELS * 255 // counts.span, 255)  # past the span there are no pixels
    back = np.bincount(level, weights=counts.background, minlength=256)
    fore = np.bincount(level, weights=counts.foreground, minlength=256)
    true = np.cumsum(fore[::-1])[::-1].astype(np.int64)
    false = np.cumsum(back[::-1])[::-1].astype(np.int64)
    return _f(true, true + false, int(true[0]))


def max_f(curves: NDArray[np.float64]) -> float:
    """Return the maximum of the mean curve of `curves` (..., 256), not the mean of their maxima."""
    return float(curves.reshape(-1, curves.shape[-1]).mean(axis=0).max())


def adaptive_f(counts: LevelCounts) -> float:
    """Return F at the threshold min(2 * mean(p), 1) (section 1.4): a zero map is all foreground."""
    back, fore = counts.background, counts.foreground
    total = int(back.sum() + fore.sum())
    # p >= t is value * total >= min(2 * sum, span * total): no rounding
    limit = min(2 * int((back + fore) @ _LEVELS), counts.span * total)
    kept = _LEVELS * total >= limit
    true, false = fore[kept].sum(), back[kept].sum()
    return float(_f(true, true + false, int(fore.sum())))


def binarise(prediction: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the map cut at `CUT`: the object that J and boundary F judge."""
    return prediction >= CUT


def region_similarity(mask: NDArray[np.bool_], gt: NDArray[np.bool_]) -> float:
    """Return J of two bool (H, W) masks: intersection over union, 1 when both are empty (2.1)."""
    _check(mask, gt, np.bool_)
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
def _disk(height: int, width: int) -> NDArray[np.uint8]:
    """Return the disk of the tolerance that boundary F allows in a frame of this size (2.2)."""
    r = math.ceil(0.008 * math.sqrt(height**2 + width**2))
    y, x = np.ogrid[-r : r + 1, -r : r + 1]
    return (x * x + y * y <= r * r).astype(np.uint8)


def boundary_f(mask: NDArray[np.bool_], gt: NDArray[np.bool_]) -> float:
    """Return the boundary accuracy of two bool (H, W) masks, 0..1 (section 2.2).

    The picture's border is no boundary, so a full mask has none: against an empty one it scores 1.
    """
    _check(mask, gt, np.bool_)
    ours, theirs = _boundary(mask), _boundary(gt)
    x, y, width, height = cv2.boundingRect(ours | theirs)
    if not width:
        return 1.0
    # Outside this box both are empty, and so it is for the dilation (OpenCV's default border).
    box = np.s_[y : y + height, x : x + width]
    ours, theirs = ours[box], theirs[box]
    n_ours, n_theirs = np.count_nonzero(ours), np.count_nonzero(theirs)
    if not n_ours or not n_theirs:
        return 0.0  # (P, R) is (1, 0) or (0, 1)
    disk = _disk(*gt.shape)
    precision = np.count_nonzero(np.logical_and(ours, cv2.dilate(theirs, disk))) / n_ours
    recall = np.count_nonzero(np.logical_and(theirs, cv2.dilate(ours, disk))) / n_theirs
    total = precision + recall
    return 2.0 * precision * recall / total if total else 0.0


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


def end_point_error(
    flow: NDArray[np.floating],
    truth: NDArray[np.floating],
    valid: NDArray[np.bool_] | None = None,
) -> float:
    """Return the mean distance in pixels of two flows (H, W, 2), over `valid` bool (H, W) if given.

    NaN when no pixel is valid.
    """
    if flow.shape != truth.shape or flow.ndim != 3 or flow.shape[2] != 2:
        raise DataError(
            f"end-point error: expected two flows of one size (H, W, 2), "
            f"got {flow.shape} and {truth.shape}."
        )
    if valid is not None and (valid.shape != flow.shape[:2] or valid.dtype != np.bool_):
        raise DataError(
            f"end-point error: expected valid as bool {flow.shape[:2]}, "
            f"got {valid.dtype} {valid.shape}."
        )
    difference = flow.astype(np.float64) - truth
    distance = np.hypot(difference[..., 0], difference[..., 1])
    if valid is not None:
        distance = distance[valid]
    return float(distance.mean()) if distance.size else math.nan


def frame_scores(prediction: NDArray[np.uint8], gt: NDArray[np.bool_]) -> FrameScores:
    """Return all scores of a map `prediction` uint8 (H, W) against the mask `gt` bool (H, W)."""
    counts = count_levels(prediction, gt)
    mask = binarise(prediction)
    return FrameScores(
        mae=mae(counts),
        s=s_measure(counts),
        f_adaptive=adaptive_f(counts),
        f_curve=f_curve(counts),
        j=region_similarity(mask, gt),
        f_boundary=boundary_f(mask, gt),
    )
