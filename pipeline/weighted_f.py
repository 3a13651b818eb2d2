"""Weighted F-measure of a saliency map (Margolin, Zelnik-Manor, Tal, CVPR 2014; beta^2 = 1).

    weighted_f(prediction, gt)                     # uint8 (H, W), bool (H, W)

Errors of the foreground are forgiven where their neighbourhood is right, errors of the background
weigh more the farther away they are. Steps and ties are those of PySODMetrics 1.6.2 with scipy's
distance transform (section 1.7 of the evaluation specification).
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from vsodpipe.levels import check_pair

_EPS = 2.0**-52
_RADIUS = 3
"""Of the 7x7 Gaussian."""
_SIGMA = 5.0
_DECAY = math.log(0.5) / 5.0
"""Per pixel of distance: half of the weight is gained after 5 pixels."""
_FAR = 128
"""From this distance on the weight of the background is 2, to 2e-8."""


def _gaussian() -> NDArray[np.float64]:
    """Return one axis of the normalised Gaussian."""
    weights = np.exp(-(np.arange(-_RADIUS, _RADIUS + 1) ** 2) / (2.0 * _SIGMA**2))
    return weights / weights.sum()


def _steps() -> NDArray[np.int64]:
    """Return the (row, column) steps to look for the nearest foreground, nearest first.

    A pixel that the Gaussian of some foreground pixel sees has foreground within (3, 3), so the
    nearest is not farther than that. Of equally near pixels scipy takes the one in the left column,
    then the upper one: it searches columns first, then along rows, and keeps the first.
    """
    reach = math.isqrt(2 * _RADIUS**2)
    sides = range(-reach, reach + 1)
    every = [(y * y + x * x, x, y) for y in sides for x in sides]
    return np.array([(y, x) for square, x, y in sorted(every) if 0 < square <= 2 * _RADIUS**2])


_GAUSSIAN, _STEPS = _gaussian(), _steps()
_REACH = int(_STEPS.max())


def _nearest_error(
    error: NDArray[np.float32], gt: NDArray[np.bool_], seen: NDArray[np.bool_]
) -> None:
    """Give the `seen` background pixels of `error` the error of their nearest foreground pixel."""
    padded = np.pad(gt, _REACH).ravel()
    width = gt.shape[1] + 2 * _REACH
    rows, columns = np.nonzero(seen)
    places = (rows + _REACH) * width + columns + _REACH
    steps = _STEPS @ np.array([width, 1])
    nearest = np.empty_like(places)
    left = np.arange(places.size)
    for step in steps:  # the nearest rings find most of them: few are left for the far ones
        target = places[left] + step
        hit = padded[target]
        nearest[left[hit]] = target[hit]
        left = left[~hit]
        if not left.size:
            break
    sources = np.divmod(nearest, width)
    error[rows, columns] = error[sources[0] - _REACH, sources[1] - _REACH]


def weighted_f(
    prediction: NDArray[np.uint8],
    gt: NDArray[np.bool_],
    stretched: bool = True,
    eps: float = _EPS,
) -> float:
    """Return the weighted F of a map `prediction` uint8 (H, W) against the mask `gt` bool (H, W).

    0..1; 0 for an empty mask. A map that is not constant is stretched to 0..1 first, unless
    `stretched` is false (A2S-v2, which also has its own `eps`).
    """
    check_pair(prediction, gt, np.uint8)
    mask = gt.view(np.uint8)
    x, y, width, height = cv2.boundingRect(mask)
    if not width:
        return 0.0
    low, high = int(prediction.min()), int(prediction.max())
    if low == high or not stretched:
        low, high = 0, 255
    table = ((np.arange(256) - low) / (high - low)).astype(np.float32)

    def around(margin: int) -> tuple[slice, slice]:
        """Return the box of the foreground with a margin."""
        top, left = max(y - margin, 0), max(x - margin, 0)
        return np.s_[top : y + height + margin, left : x + width + margin]

    # Foreground: only the box around it that the Gaussian sees
    box = around(_RADIUS)
    inside = gt[box]
    error = 1.0 - cv2.LUT(prediction[box], table)
    side = 2 * _RADIUS + 1
    seen = cv2.dilate(mask[box], np.ones((side, side), np.uint8)).view(np.bool_) & ~inside
    _nearest_error(error, inside, seen)
    smooth = cv2.sepFilter2D(error, -1, _GAUSSIAN, _GAUSSIAN, borderType=cv2.BORDER_CONSTANT)
    foreground = int(np.count_nonzero(inside))
    missed = float(np.minimum(smooth, error)[inside].sum(dtype=np.float64))

    # Background: the sum of (2 - exp(decay * distance)) p, the second term near the foreground only
    background = prediction.size - foreground
    levels = int(prediction.sum(dtype=np.int64)) - int(prediction[box][inside].sum(dtype=np.int64))
    box = around(_FAR)
    distance = cv2.distanceTransform(1 - mask[box], cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    spared = cv2.exp(distance * _DECAY) * cv2.LUT(prediction[box], table)
    spared[gt[box]] = 0.0
    false = 2.0 * (levels - background * low) / (high - low)
    false -= float(spared.sum(dtype=np.float64))

    true = foreground - missed
    recall = 1.0 - missed / foreground
    precision = true / (true + false + eps)
    return 2.0 * recall * precision / (recall + precision + eps)
