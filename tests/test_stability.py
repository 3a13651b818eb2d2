"""Temporal stability T: no published values, so what the definition demands."""

import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from vsodpipe.errors import DataError
from vsodpipe.metrics import temporal_stability

Mask = NDArray[np.bool_]


def _shape(*corners: tuple[int, int], size: tuple[int, int] = (120, 160)) -> Mask:
    canvas = np.zeros(size, np.uint8)
    cv2.fillPoly(canvas, [np.array(corners, np.int32)], 1)
    return canvas.astype(bool)


ARROW = _shape((30, 30), (90, 40), (70, 60), (100, 95), (60, 80), (35, 100))
BENT = _shape((30, 30), (95, 45), (70, 60), (100, 95), (60, 85), (35, 100))
BAR = _shape((10, 50), (140, 50), (140, 60), (10, 60))
EMPTY = np.zeros_like(ARROW)


def test_equal_shapes_wherever_they_are() -> None:
    moved = np.roll(ARROW, (9, 31), axis=(0, 1))
    assert temporal_stability([ARROW, ARROW, moved]) == pytest.approx([0, 0], abs=1e-6)


def test_size_of_the_picture_does_not_count() -> None:
    wide = [np.pad(mask, ((40, 3), (7, 90))) for mask in (ARROW, BENT)]
    assert temporal_stability(wide) == pytest.approx(temporal_stability([ARROW, BENT]))


def test_more_change_is_less_stable() -> None:
    (bent,), (other,) = temporal_stability([ARROW, BENT]), temporal_stability([ARROW, BAR])
    assert 0 < bent < other <= 5


def test_a_shape_twice_as_large_is_nearly_the_same() -> None:
    large = cv2.resize(ARROW.view(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    (scaled,) = temporal_stability([ARROW, large.astype(bool)])
    (other,) = temporal_stability([ARROW, BAR])
    assert scaled < other / 3


def test_only_the_longest_outer_contour_counts() -> None:
    holed = ARROW.copy()
    holed[60:64, 60:64] = False
    holed[5:9, 150:154] = True
    assert temporal_stability([ARROW, holed]) == pytest.approx([0], abs=1e-6)


def test_contours_may_start_anywhere() -> None:
    """A spike on the left makes the contour start elsewhere; most of its points stay."""
    spike = ARROW | _shape((50, 32), (56, 32), (53, 10))
    (value,) = temporal_stability([ARROW, spike])
    assert value < temporal_stability([ARROW, BAR])[0] / 2


def test_masks_without_a_contour() -> None:
    point = EMPTY.copy()
    point[5, 5] = True
    got = temporal_stability([ARROW, EMPTY, ARROW, point, ARROW, ARROW])
    assert [math.isnan(value) for value in got] == [True] * 4 + [False]
    assert temporal_stability([]) == temporal_stability([ARROW]) == []


def test_wrong_arrays_are_refused() -> None:
    with pytest.raises(DataError, match=r"expected a bool mask \(H, W\), got uint8 \(120, 160\)"):
        temporal_stability([ARROW, ARROW.astype(np.uint8)])
