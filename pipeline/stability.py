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
Descriptors = NDArray[np.float32]
"""(n, bins) shape context of each point, rows sum up to 1."""
Costs = NDArray[np.float32]
"""(n, m) of matching a point of one contour to one of another."""
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
    x, y = (points[None] - points[:, None]).transpose(2, 0, 1).astype(np.float32)
    squared = x * x + y * y
    mean = float(np.sqrt(squared).sum(dtype=np.float64)) / (n * (n - 1))
    place = np.zeros((n, n), np.int64)
    for edge in np.square(_RADII * mean):
        place += squared >= edge
    place *= _ANGLES
    turns = np.arctan2(y, x) * np.float32(_ANGLES / (2 * np.pi)) + np.float32(_ANGLES)
    place += turns.astype(np.int64) % _ANGLES
    rings = len(_RADII) + 1
    place += np.arange(n)[:, None] * (rings * _ANGLES)
    histogram = np.bincount(place.ravel(), minlength=n * rings * _ANGLES).reshape(n, rings, -1)
    histogram[:, 0, 0] -= 1  # no point sees itself, at distance and angle 0
    near = histogram[:, :-1].reshape(n, -1)  # what is farther away does not count
    return (near / np.maximum(near.sum(axis=1, keepdims=True), 1)).astype(np.float32)


def _chi_square(first: Descriptors, second: Descriptors) -> Costs:
    """Return half the chi-square distance, 0..1, of every point to every other (n, m)."""
    # (a - b)^2 / (a + b) = a + b - 4 a b / (a + b): bins that are empty in either add nothing
    shared = np.zeros((len(first), len(second)), np.float32)
    for a, b in zip(first.T, np.ascontiguousarray(second.T), strict=True):
        rows = np.flatnonzero(a)
        one = a[rows, None]
        share = one + b
        np.divide(one * b, share, out=share)
        shared[rows] += share
    mass = (first.sum(axis=1)[:, None] + second.sum(axis=1)) / 2
    return np.maximum(mass - 2.0 * shared, 0.0)


def _path(costs: Costs) -> Pairs:
    """Return the cheapest path from (0, 0) to (n-1, m-1) by steps down, right and diagonal."""
    n, m = costs.shape
    last = n + m - 2
    # Anti-diagonals as rows, so that each is one step of arrays: row d, place i holds (i, d - i).
    # Rows of n + m places, read as rows of one less, slant.
    wide = np.full((n, n + m), np.inf)
    wide[:, :m] = costs
    slanted = np.ascontiguousarray(wide.ravel()[: n * (last + 1)].reshape(n, -1).T)
    # the cost of the way to (i, d - i) at row d + 2, place i + 1: what lies outside is no way
    total = np.full((last + 3, n + 1), np.inf)
    total[0, 0] = 0.0  # the way in, diagonal
    for d, own in enumerate(slanted):
        straight = np.minimum(total[d + 1, 1:], total[d + 1, :-1])
        np.add(np.minimum(straight, total[d, :-1], out=straight), own, out=total[d + 2, 1:])
    d, i = last, n - 1
    pairs = [(i, d - i)]
    while d:
        diagonal, up, left = total[d, i], total[d + 1, i], total[d + 1, i + 1]
        if diagonal <= up and diagonal <= left:  # the diagonal of equally cheap ones
            d, i = d - 2, i - 1
        elif up <= left:
            d, i = d - 1, i - 1
        else:
            d -= 1
        pairs.append((i, d - i))
    return np.array(pairs[::-1])


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
