"""Grey-level scores of a map from one integer table: MAE, S, F, E, precision and recall.

    counts = count_levels(prediction, gt)          # uint8 (H, W), bool (H, W): the only pass
    mae(counts), s_measure(counts), f_curve(counts), e_curve(counts)

Definitions are those of PySODMetrics 1.6.2; section numbers are the evaluation specification's.

Legend: H W rows and columns; a level is a grey value 0..255; p is the prediction and g the mask in
0..1; "stretched" means that the frame's own minimum and maximum are moved to 0 and 1 (section 1.1).
A curve has one value for each threshold t = 0..255: place t calls levels >= t foreground, the level
being (value - minimum) * 255 // (maximum - minimum), in integers (section 1.6).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vsodpipe.errors import DataError

_EPS = 2.0**-52
_LEVELS = np.arange(256, dtype=np.int64)

Counts = NDArray[np.int64]
"""Numbers of pixels."""


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


def check_pair(prediction: NDArray[np.generic], gt: NDArray[np.generic], dtype: type) -> None:
    """Refuse what cannot be compared; nothing is resized or converted here."""
    right = prediction.dtype == dtype and gt.dtype == np.bool_
    if right and prediction.ndim == 2 and prediction.shape == gt.shape and prediction.size:
        return
    raise DataError(
        f"scores of a map: expected {np.dtype(dtype)} prediction and bool mask of one size (H, W), "
        f"got {prediction.dtype} {prediction.shape} and {gt.dtype} {gt.shape}. "
        "Bring the map to the size of the mask first."
    )


def centre(sums: Sequence[int], shape: tuple[int, int]) -> tuple[int, int]:
    """Return how many rows and columns of a mask of this `shape` lie in the upper left block.

    `sums` over its foreground pixels: their number, their rows, their columns (section 1.3).
    """
    total, rows, columns = sums
    if total == 0:
        return shape
    # half to even, as numpy does in the reference
    return round(rows / total) + 1, round(columns / total) + 1


def from_histogram(raw: Counts, stretched: bool = True) -> LevelCounts:
    """Return the counts of a frame from those of its values, (4, 2, 256) as `LevelCounts.blocks`.

    A map that is not constant is stretched to 0..1, unless `stretched` is false (A2S-v2).
    """
    present = np.flatnonzero(raw.sum(axis=(0, 1)))
    low, high = int(present[0]), int(present[-1])
    if low == high or not stretched:
        return LevelCounts(raw, offset=0, span=255)
    blocks = np.zeros_like(raw)
    blocks[:, :, : high - low + 1] = raw[:, :, low : high + 1]
    return LevelCounts(blocks, offset=low, span=high - low)


def count_levels(
    prediction: NDArray[np.uint8], gt: NDArray[np.bool_], stretched: bool = True
) -> LevelCounts:
    """Count the levels of a map `prediction` uint8 (H, W) under the mask `gt` bool (H, W)."""
    check_pair(prediction, gt, np.uint8)
    key = gt.astype(np.uint16)
    key *= 256
    key += prediction  # 0..255 background, 256..511 foreground
    rows, columns = np.count_nonzero(gt, axis=1), np.count_nonzero(gt, axis=0)
    moments = [int(n @ np.arange(n.size)) for n in (rows, columns)]
    cy, cx = centre([int(rows.sum()), *moments], gt.shape)
    parts = (key[:cy, :cx], key[:cy, cx:], key[cy:, :cx], key[cy:, cx:])
    raw = np.stack([np.bincount(part.ravel(), minlength=512) for part in parts])
    return from_histogram(raw.astype(np.int64).reshape(4, 2, 256), stretched)


def mae(counts: LevelCounts) -> float:
    """Return the mean of |p - g| over the stretched frame, 0..1 (section 1.2)."""
    back, fore = counts.background, counts.foreground
    total = int(back.sum() + fore.sum())
    error = int(back @ _LEVELS + fore @ (counts.span - _LEVELS))
    return error / (total * counts.span)


def _moments(histogram: NDArray[np.int64]) -> tuple[int, int, int]:
    """Return the number of pixels, the sum and the sum of squares of their levels."""
    return int(histogram.sum()), int(histogram @ _LEVELS), int(histogram @ _LEVELS**2)


def _object_score(histogram: Counts, span: int, inverse: bool, ddof: int, eps: float) -> float:
    """Return O(x) of section 1.3 for x = p, or x = 1 - p if `inverse`."""
    n, total, squares = _moments(histogram)
    mean = total / (n * span)
    mean = 1.0 - mean if inverse else mean
    # n * squares - total^2 can pass 2^63 for a large frame; Python's integers cannot overflow
    spread = n * squares - total * total
    deviation = math.sqrt(spread / (n * (n - ddof))) / span if n > 1 else 0.0
    return 2.0 * mean / (mean * mean + 1.0 + deviation + eps)


def _block_score(block: Counts, span: int, ddof: int, eps: float) -> float:
    """Return the structural similarity of p and g in one block (2, 256) of section 1.3."""
    n, total, squares = _moments(block.sum(axis=0))
    g, total_fore, _ = _moments(block[1])
    # Integers, because the cases a = 0 and b = 0 are decided by equality: rounding noise in the
    # variance of a constant block would turn its score from 1 to 0.
    covariance, spread_x, spread_y = n * total_fore - total * g, n * squares - total**2, g * (n - g)
    if total == 0 or g == 0 or covariance == 0:  # a = 0
        b_is_zero = (total == 0 and g == 0) or (spread_x == 0 and spread_y == 0)
        return 1.0 if b_is_zero else 0.0
    x, y = total / (n * span), g / n
    a = 4.0 * x * y * (covariance / span) / (n * (n - 1 + _EPS))
    b = (x * x + y * y) * (spread_x / span**2 + spread_y) / (n * (n - ddof + _EPS))
    return a / (b + eps)


def s_measure(counts: LevelCounts, ddof: int = 1, eps: float = _EPS) -> float:
    """Return the structure measure with alpha = 0.5 (section 1.3).

    A block without pixels (the centre of the mask in the last row or column) contributes 0, where
    the reference returns NaN. `ddof` is taken off the divisor of standard deviations and variances;
    it and `eps` are 0 and 1e-8 in A2S-v2, whose values may also be negative.
    """
    back, fore, span = counts.background, counts.foreground, counts.span
    background, foreground = int(back.sum()), int(fore.sum())
    total = background + foreground
    if foreground == 0:
        return 1.0 - int(back @ _LEVELS) / (total * span)
    if background == 0:
        return int(fore @ _LEVELS) / (total * span)
    share = foreground / total
    objects = share * _object_score(fore, span, False, ddof, eps)
    objects += (1.0 - share) * _object_score(back, span, True, ddof, eps)
    sizes = counts.blocks.sum(axis=(1, 2)).tolist()
    regions = sum(
        n / total * _block_score(block, span, ddof, eps)
        for n, block in zip(sizes, counts.blocks, strict=True)
        if n
    )
    score = 0.5 * objects + 0.5 * regions
    return max(0.0, score) if ddof else score


@dataclass(frozen=True, eq=False)
class Thresholded:
    """Pixel counts of binary maps made from one frame, one place a threshold."""

    true: Counts
    """Predicted foreground that is foreground."""
    predicted: Counts
    """Predicted foreground."""
    actual: int
    """Foreground of the mask."""
    total: int
    """Pixels of the frame."""


def thresholds(counts: LevelCounts) -> Thresholded:
    """Return the counts for the 256 thresholds of a curve (section 1.4)."""
    level = np.minimum(_LEVELS * 255 // counts.span, 255)  # past the span there are no pixels
    back = np.bincount(level, weights=counts.background, minlength=256)
    fore = np.bincount(level, weights=counts.foreground, minlength=256)
    true = np.cumsum(fore[::-1])[::-1].astype(np.int64)
    false = np.cumsum(back[::-1])[::-1].astype(np.int64)
    return Thresholded(true, true + false, int(true[0]), int(true[0] + false[0]))


def adaptive(counts: LevelCounts) -> Thresholded:
    """Return the counts for the one threshold min(2 * mean(p), 1): a zero map is all foreground."""
    back, fore = counts.background, counts.foreground
    total = int(back.sum() + fore.sum())
    # p >= t is value * total >= min(2 * sum, span * total): no rounding
    limit = min(2 * int((back + fore) @ _LEVELS), counts.span * total)
    kept = _LEVELS * total >= limit
    true, false = fore[kept].sum(keepdims=True), back[kept].sum(keepdims=True)
    return Thresholded(true, true + false, int(fore.sum()), total)


def f_values(binary: Thresholded) -> NDArray[np.float64]:
    """Return F with beta^2 = 0.3; 0 where there is no true positive (section 1.4)."""
    # 1.3 P R / (0.3 P + R) with P = true / predicted and R = true / actual
    divisor = 0.3 * binary.actual + binary.predicted
    return np.where(binary.true > 0, 1.3 * binary.true / np.maximum(divisor, _EPS), 0.0)


def f_curve(counts: LevelCounts) -> NDArray[np.float64]:
    """Return F for the 256 thresholds (section 1.4).

    Average curves over frames and videos first, then take the mean (mean F) or `max_f`.
    """
    return f_values(thresholds(counts))


def max_f(curves: NDArray[np.float64]) -> float:
    """Return the maximum of the mean curve of `curves` (..., 256), not the mean of their maxima."""
    return float(curves.reshape(-1, curves.shape[-1]).mean(axis=0).max())


def adaptive_f(counts: LevelCounts) -> float:
    """Return F at the adaptive threshold (section 1.4)."""
    return float(f_values(adaptive(counts))[0])


def precision_curve(counts: LevelCounts) -> NDArray[np.float64]:
    """Return precision for the 256 thresholds; 0 where nothing is predicted (section 1.4)."""
    binary = thresholds(counts)
    return binary.true / np.maximum(binary.predicted, 1)


def recall_curve(counts: LevelCounts) -> NDArray[np.float64]:
    """Return recall for the 256 thresholds; 0 for an empty mask (section 1.4)."""
    binary = thresholds(counts)
    return binary.true / max(binary.actual, 1)


def e_values(binary: Thresholded, eps: float = _EPS) -> NDArray[np.float64]:
    """Return the enhanced alignment measure of binary maps (section 1.5), 0..N / (N - 1)."""
    n, actual = binary.total, binary.actual
    true, false = binary.true, binary.predicted - binary.true
    if actual == 0:
        enhanced = (n - binary.predicted).astype(np.float64)
    elif actual == n:
        enhanced = binary.predicted.astype(np.float64)
    else:
        enhanced = np.zeros(true.shape)
        # map and mask are 0 or 1, so a pixel has one of four values
        mean_b, mean_g = binary.predicted / n, actual / n
        cases = ((1, 1, true), (1, 0, false), (0, 1, actual - true), (0, 0, n - actual - false))
        for b, g, pixels in cases:
            x, y = b - mean_b, g - mean_g
            align = 2.0 * x * y / (x * x + y * y + eps)
            enhanced += pixels * (align + 1.0) ** 2 / 4.0
    return enhanced / (n - 1 + eps)


def e_curve(counts: LevelCounts) -> NDArray[np.float64]:
    """Return E for the 256 thresholds (section 1.5), binarised with >=.

    Average curves first, then take their mean or maximum. A perfect binary map of N pixels scores
    N / (N - 1): the divisor is the reference's.
    """
    return e_values(thresholds(counts))


def adaptive_e(counts: LevelCounts) -> float:
    """Return E at the adaptive threshold (section 1.5)."""
    return float(e_values(adaptive(counts))[0])
