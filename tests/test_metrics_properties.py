"""What must hold for every map: perfect, inverted and empty ones, mirrors, plain formulas."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from vsodpipe import metrics
from vsodpipe.metrics import FrameScores

Mask = NDArray[np.bool_]
Map = NDArray[np.uint8]
EPS = 2.0**-52


def _pairs(count: int, largest: int = 30, seed: int = 0) -> list[tuple[Map, Mask]]:
    """Return random maps and masks, blocky and with both kinds of pixels."""
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < count:
        h, w = rng.integers(6, largest, 2)
        gt = np.kron(rng.random((h // 3 + 1, w // 3 + 1)) < 0.3, np.ones((3, 3), bool))[:h, :w]
        gt ^= rng.random((h, w)) < 0.02
        if 0 < gt.sum() < gt.size:
            noise = rng.integers(-60, 60, (h, w))
            found.append((np.clip(gt * 150 + 40 + noise, 0, 255).astype(np.uint8), gt))
    return found


def _assert_equal(one: FrameScores, other: FrameScores, names: frozenset[str]) -> None:
    for name in names:
        got, expected = getattr(one, name), getattr(other, name)
        assert got == pytest.approx(expected, abs=1e-6), name


def test_a_perfect_map() -> None:
    for _, gt in _pairs(5):
        n = gt.size
        got = metrics.frame_scores(gt * np.uint8(255), gt)
        assert got.mae == 0.0
        assert got.s == pytest.approx(1.0)
        assert got.j == got.f_boundary == 1.0
        assert got.f_weighted == pytest.approx(1.0)
        assert got.f_adaptive == pytest.approx(1.0)
        assert got.f_curve[1:] == pytest.approx(np.ones(255))
        assert got.e_adaptive == pytest.approx(n / (n - 1))
        assert got.e_curve[1:] == pytest.approx(np.full(255, n / (n - 1)))
        assert got.e_curve[0] == pytest.approx(0.25 * n / (n - 1))
        assert got.precision[0] == pytest.approx(gt.mean())
        assert got.precision[1:] == pytest.approx(np.ones(255))
        assert got.recall == pytest.approx(np.ones(256))


def test_an_inverted_map() -> None:
    for _, gt in _pairs(5):
        got = metrics.frame_scores(~gt * np.uint8(255), gt)
        assert (got.mae, got.j, got.f_boundary) == (1.0, 0.0, 1.0)
        assert got.f_adaptive == 0.0 and not got.f_curve[1:].any()
        assert got.e_curve[1:] == pytest.approx(np.zeros(255), abs=1e-9)
        # the Gaussian sees zeros outside the picture: errors at its border weigh less than 1
        assert 0.0 <= got.f_weighted < 0.35


@pytest.mark.parametrize("value", [0, 77, 255])
def test_an_empty_mask(value: int) -> None:
    gt, n = np.zeros((9, 11), bool), 99
    got = metrics.frame_scores(np.full(gt.shape, value, np.uint8), gt)
    assert got.mae == pytest.approx(value / 255)
    assert got.s == pytest.approx(1 - value / 255)
    assert got.f_weighted == got.f_adaptive == 0.0
    for curve in (got.f_curve, got.precision, got.recall):
        assert not curve.any()
    # what lies below the threshold is right
    expected = np.where(np.arange(256) > value, n / (n - 1), 0.0)
    assert got.e_curve == pytest.approx(expected)
    assert got.e_adaptive == pytest.approx(n / (n - 1) if value == 77 else 0.0)
    assert got.j == (0.0 if value >= metrics.CUT else 1.0)
    assert got.f_boundary == 1.0


def test_a_zero_map_is_all_foreground_for_the_adaptive_threshold() -> None:
    for _, gt in _pairs(3):
        n, share = gt.size, gt.mean()
        got = metrics.frame_scores(np.zeros(gt.shape, np.uint8), gt)
        assert got.mae == pytest.approx(share)
        assert got.f_adaptive == pytest.approx(1.3 * share / (0.3 * share + 1))
        assert got.e_adaptive == pytest.approx(0.25 * n / (n - 1))
        assert got.j == got.f_boundary == 0.0


def test_mirrors_and_transposes() -> None:
    """Places count only in S (blocks round), boundary F (shifted) and weighted F (ties)."""
    names = metrics.ALL - {"s", "f_boundary", "f_weighted"}
    for prediction, gt in _pairs(6):
        straight = metrics.frame_scores(prediction, gt)
        for turn in (np.fliplr, np.flipud, np.transpose, np.rot90):
            _assert_equal(metrics.frame_scores(turn(prediction), turn(gt)), straight, names)
        turned = metrics.frame_scores(prediction.T, gt.T)
        _assert_equal(turned, straight, frozenset({"s", "f_boundary"}))


def test_layout_in_memory_does_not_count() -> None:
    for prediction, gt in _pairs(3):
        wide, mask = np.repeat(prediction, 2, axis=1), np.repeat(gt, 2, axis=1)
        got = metrics.frame_scores(wide[:, ::2], mask[:, ::2])
        _assert_equal(got, metrics.frame_scores(prediction, gt), metrics.ALL)


def test_grey_levels_are_stretched_except_for_j_and_boundary_f() -> None:
    names = metrics.ALL - {"j", "f_boundary"}
    for prediction, gt in _pairs(4):
        half = (prediction // 4).astype(np.uint8)
        half.flat[0], half.flat[1] = 0, 63
        moved = half + np.uint8(100)
        _assert_equal(
            metrics.frame_scores(moved, gt, names), metrics.frame_scores(half, gt, names), names
        )


def test_recall_falls_with_the_threshold_and_scores_stay_in_range() -> None:
    for prediction, gt in _pairs(20, seed=1):
        got = metrics.frame_scores(prediction, gt)
        assert got.recall[0] == 1.0 and (np.diff(got.recall) <= 0).all()
        for name in metrics.ALL:
            value = np.asarray(getattr(got, name))
            most = gt.size / (gt.size - 1) if name[0] == "e" else 1
            assert (value >= 0).all() and (value <= most + 1e-12).all(), name


def test_f_e_precision_and_recall_equal_the_plain_formulas() -> None:
    for prediction, gt in _pairs(4, seed=2):
        low, high = int(prediction.min()), int(prediction.max())
        level = (prediction.astype(int) - low) * 255 // (high - low)
        got = metrics.frame_scores(prediction, gt)
        for t in (0, 3, 90, 200, 255):
            b = level >= t
            x, y = b - b.mean(), gt - gt.mean()
            align = 2 * x * y / (x * x + y * y + EPS)
            assert got.e_curve[t] == pytest.approx(((align + 1) ** 2 / 4).sum() / (gt.size - 1))
            precision, recall = (b & gt).sum() / b.sum(), (b & gt).sum() / gt.sum()
            assert (got.precision[t], got.recall[t]) == pytest.approx((precision, recall))
            f = 1.3 * precision * recall / (0.3 * precision + recall) if (b & gt).any() else 0
            assert got.f_curve[t] == pytest.approx(f)


def _exact_s(prediction: Map, gt: Mask) -> float:
    """The S-measure of section 1.3 in fractions: no rounding decides whether a block is flat."""
    low, high = int(prediction.min()), int(prediction.max())
    p = [[Fraction(int(v) - low, high - low) for v in row] for row in prediction]
    every = list(np.ndindex(gt.shape))

    def mean(values: list[Fraction]) -> Fraction:
        return sum(values, Fraction(0)) / len(values)

    def spread(x: list[Fraction], y: list[Fraction]) -> Fraction:
        total = sum((a - mean(x)) * (b - mean(y)) for a, b in zip(x, y, strict=True))
        return Fraction(total) / max(len(x) - 1, 1)

    def objects(x: list[Fraction]) -> float:
        return 2 * mean(x) / (mean(x) ** 2 + 1 + math.sqrt(spread(x, x)) + EPS)

    fore, back = ([at for at in every if gt[at] == side] for side in (True, False))
    share = Fraction(len(fore), gt.size)
    s_objects = share * objects([p[y][x] for y, x in fore])
    s_objects += (1 - share) * objects([1 - p[y][x] for y, x in back])
    cy, cx = (round(mean([Fraction(at[axis]) for at in fore])) + 1 for axis in (0, 1))
    regions = Fraction(0)
    for lower, right in itertools.product((False, True), repeat=2):
        block = [(y, x) for y, x in every if (y >= cy) == lower and (x >= cx) == right]
        if not block:
            continue
        a, b = [p[y][x] for y, x in block], [Fraction(int(gt[at])) for at in block]
        above = 4 * mean(a) * mean(b) * spread(a, b)
        below = (mean(a) ** 2 + mean(b) ** 2) * (spread(a, a) + spread(b, b))
        score = above / below if above else Fraction(below == 0)
        regions += Fraction(len(block), gt.size) * score
    return max(0.0, 0.5 * float(s_objects) + 0.5 * float(regions))


def test_s_equals_the_formula_in_fractions() -> None:
    rng = np.random.default_rng(4)
    for prediction, gt in _pairs(12, largest=12, seed=4):
        got = metrics.s_measure(metrics.count_levels(prediction, gt))
        assert got == pytest.approx(_exact_s(prediction, gt), abs=1e-12)
        flat = np.where(rng.random() < 0.5, prediction, prediction // 128 * 85).astype(np.uint8)
        flat[: gt.shape[0] // 2] = 30  # constant blocks, where the reference meets rounding noise
        flat[-1, -2:] = 0, 255
        got = metrics.s_measure(metrics.count_levels(flat, gt))
        assert got == pytest.approx(_exact_s(flat, gt), abs=1e-12)


def _plain_weighted_f(prediction: Map, gt: Mask) -> float:
    """Section 1.7 word by word; of equally near pixels the left, then the upper one."""
    p = (prediction - float(prediction.min())) / (int(prediction.max()) - int(prediction.min()))
    error = np.abs(p - gt)
    moved, weight = error.copy(), np.ones(gt.shape)
    fore = [(int(y), int(x)) for y, x in np.argwhere(gt)]
    for y, x in np.argwhere(~gt):
        square, column, row = min(((y - v) ** 2 + (x - u) ** 2, u, v) for v, u in fore)
        moved[y, x] = error[row, column]
        weight[y, x] = 2 - math.exp(math.log(0.5) / 5 * math.sqrt(square))
    ys, xs = np.mgrid[-3:4, -3:4]
    kernel = np.exp(-(ys**2 + xs**2) / 50)
    kernel /= kernel.sum()
    padded = np.pad(moved, 3)
    h, w = gt.shape
    smooth = sum(kernel[i, j] * padded[i : i + h, j : j + w] for i in range(7) for j in range(7))
    final = np.where(gt, np.minimum(error, smooth), error) * weight
    true, false = gt.sum() - final[gt].sum(), final[~gt].sum()
    recall, precision = 1 - final[gt].mean(), true / (true + false + EPS)
    return float(2 * recall * precision / (recall + precision + EPS))


def test_weighted_f_equals_the_plain_formula() -> None:
    rng = np.random.default_rng(5)
    masks = [gt for _, gt in _pairs(6, seed=5)]
    masks += [rng.random((17, 23)) < share for share in (0.01, 0.05, 0.2, 0.9)]  # many ties
    for gt in masks:
        gt[3, 4] = True
        prediction = rng.integers(0, 256, gt.shape).astype(np.uint8)
        got = metrics.weighted_f(prediction, gt)
        assert got == pytest.approx(_plain_weighted_f(prediction, gt), abs=3e-7)


def test_weighted_f_near_the_border_sees_zeros_outside() -> None:
    """One pixel in the corner and an all-zero map: the fixture's odd 0.80013."""
    gt = np.zeros((24, 32), bool)
    gt[-1, -1] = True
    got = metrics.weighted_f(np.zeros(gt.shape, np.uint8), gt)
    assert got == pytest.approx(0.80013, abs=1e-5)


def test_weighted_f_of_far_background() -> None:
    """Past 128 pixels the weight is 2 without looking at the distance."""
    rng = np.random.default_rng(6)
    gt = np.zeros((20, 400), bool)
    gt[8:12, 3:9] = True
    prediction = rng.integers(0, 256, gt.shape).astype(np.uint8)
    got = metrics.weighted_f(prediction, gt)
    assert got == pytest.approx(_plain_weighted_f(prediction, gt), abs=3e-7)
