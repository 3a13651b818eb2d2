"""Temporal stability T of the DAVIS-2016 benchmark: how much a predicted shape changes in a frame.

    temporal_stability(masks)                      # bool (H, W) each -> a value for every pair

No ground truth enters; lower is better. Section 4 of Perazzi et al., CVPR 2016, with the settings
of its code (section 2.6 of the evaluation specification). The code of the benchmark is partly in
C++ and published no reference values: compare T only with T of this implementation.
"""

import math
from collections.abc import Iterable
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from vsodpipe.errors import DataError

_TOLERANCE = 3.0
"""Pixels: of the simplified contour, and the largest step between the points put on it."""
_RADII = np.geomspace(1 / 8, 2, 5)
"""Outer edges of the radial bins, in units of the mean distance of two points."""
_ANGLES = 12
_SCALE = 5.0

Points = NDArray[np.float64]
"""(n, 2) x and y along a closed contour."""
Descriptors = NDArray[np.float64]
"""(n, bins) shape context of each point, rows sum up to 1."""
Pairs = NDArray[np.int64]
"""(k, 2) indices of matched points, in order along both contours."""


def temporal_stability(masks: Iterable[NDArray[np.bool_]]) -> list[float]:
    """Return T of each two consecutive `masks` bool (H, W): one value less than there are masks.

    0 (same shape, wherever it is) to 5; NaN where one of the two has no contour of three points.
    """
    return [_stability(*pair) for pair in pairwise(map(_descriptors, masks))]


def _stability(first: Descriptors | None, second: Descriptors | None) -> float:
    """Return T of two shapes, None being one without a contour."""
    if first is None or second is None:
        return math.nan
    costs = _chi_square(first, second)
    # Contours have no first point: a pass from any start finds where they agree best, and the pass
    # that counts starts there.
    row, column = _longest_run(_path(costs))
    costs = np.roll(costs, (-row, -column), axis=(0, 1))
    pairs = _path(costs)
    alone = _alone(pairs[:, 0]) & _alone(pairs[:, 1])
    if not alone.any():
        alone[:] = True
    return _SCALE * float(costs[pairs[alone, 0], pairs[alone, 1]].mean())


def _descriptors(mask: NDArray[np.bool_]) -> Descriptors | None:
    """Return the shape contexts along the longest outer contour; None below three points."""
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise DataError(f"T: expected a bool mask (H, W), got {mask.dtype} {mask.shape}.")
    found, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not found:
        return None
    contour = cv2.approxPolyDP(max(found, key=len), _TOLERANCE, closed=True)
    points = _upsampled(contour[:, 0].astype(np.float64))
    return _shape_contexts(points) if len(points) > 2 else None


def _upsampled(corners: Points) -> Points:
    """Return points along the closed polygon `corners`, at most the tolerance apart."""
    edges = np.roll(corners, -1, axis=0) - corners
    parts = np.ceil(np.hypot(*edges.T) / _TOLERANCE).astype(np.int64)
    return np.concatenate(
        [
            corner + edge * (np.arange(n)[:, None] / n)
            for corner, edge, n in zip(corners, edges, parts, strict=True)
            if n
        ]
        or [corners]
    )


def _shape_contexts(points: Points) -> Descriptors:
    """Return where the other points lie as seen from each: counts by log distance and angle."""
    n = len(points)
    x, y = (points[None] - points[:, None]).transpose(2, 0, 1)
    distance = np.hypot(x, y)
    distance *= n * (n - 1) / distance.sum()
    ring = np.searchsorted(_RADII, distance.ravel(), side="right").reshape(n, n)
    sector = np.floor(np.arctan2(y, x) % (2 * np.pi) * (_ANGLES / (2 * np.pi))).astype(np.int64)
    bins = len(_RADII) * _ANGLES
    place = np.arange(n)[:, None] * bins + ring * _ANGLES + sector % _ANGLES
    counted = ring < len(_RADII)  # what is farther away does not count, and no point sees itself
    np.fill_diagonal(counted, False)
    histogram = np.bincount(place[counted], minlength=n * bins).reshape(n, bins)
    return histogram / np.maximum(histogram.sum(axis=1, keepdims=True), 1)


def _chi_square(first: Descriptors, second: Descriptors) -> NDArray[np.float64]:
    """Return half the chi-square distance, 0..1, of every point to every other (n, m)."""
    # (a - b)^2 / (a + b) = a + b - 4 a b / (a + b): bins that are empty in either add nothing
    shared = np.zeros((len(first), len(second)))
    for a, b in zip(first.T, second.T, strict=True):
        rows = np.flatnonzero(a)
        one, other = a[rows, None], b[None]
        share = one * other
        share /= one + other
        shared[rows] += share
    mass = (first.sum(axis=1)[:, None] + second.sum(axis=1)) / 2
    return np.maximum(mass - 2.0 * shared, 0.0)


def _path(costs: NDArray[np.float64]) -> Pairs:
    """Return the cheapest path from (0, 0) to (n-1, m-1) by steps down, right and diagonal."""
    n, m = costs.shape
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0.0
    flat, width = total.ravel(), m + 1
    for diagonal in range(n + m - 1):  # its cells depend only on the two diagonals before
        rows = np.arange(max(0, diagonal - m + 1), min(n, diagonal + 1))
        columns = diagonal - rows
        cell = (rows + 1) * width + columns + 1
        before = np.minimum(flat[cell - width], flat[cell - 1])
        flat[cell] = costs[rows, columns] + np.minimum(before, flat[cell - width - 1])
    i, j = n, m
    pairs = [(i, j)]
    while (i, j) != (1, 1):
        _, i, j = min(
            (total[i - 1, j - 1], i - 1, j - 1),
            (total[i - 1, j], i - 1, j),
            (total[i, j - 1], i, j - 1),
            key=lambda step: step[0],  # the diagonal of equally cheap ones
        )
        pairs.append((i, j))
    return np.array(pairs[::-1]) - 1


def _alone(indices: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which of the matched points of one contour are matched once."""
    return np.bincount(indices)[indices] == 1


def _longest_run(pairs: Pairs) -> tuple[int, int]:
    """Return the middle pair of the longest run of one-to-one matches."""
    alone = _alone(pairs[:, 0]) & _alone(pairs[:, 1])
    ends = np.flatnonzero(np.diff(np.concatenate([[False], alone, [False]])))
    if not ends.size:
        return 0, 0
    starts, stops = ends[::2], ends[1::2]
    best = int(np.argmax(stops - starts))
    row, column = pairs[(starts[best] + stops[best]) // 2]
    return int(row), int(column)
