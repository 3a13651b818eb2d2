"""Scores against the published numbers: tests/expected_eval.json, copied from parity/eval.json."""

import hashlib
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import helpers
from predictions import predictions
from vsodpipe import metrics
from vsodpipe.errors import DataError
from vsodpipe.metrics import FrameScores

EXPECTED = json.loads((Path(__file__).parent / "expected_eval.json").read_text())
DAVIS = helpers.DAVIS / "Annotations" / "480p"
TOLERANCE = 1e-6  # the fixture's own, its values are rounded to 6 decimals
KINDS = tuple(EXPECTED["results"])
VIDEOS = ("blackswan", "car-shadow", "dog")
Mask = NDArray[np.bool_]
Map = NDArray[np.uint8]


@pytest.fixture(scope="module")
def scores() -> dict[str, dict[str, list[FrameScores]]]:
    """Kind -> video -> scores of its frames, for all predictions of the fixture."""
    if not all((DAVIS / video).is_dir() for video in VIDEOS):
        pytest.skip(f"needs the masks of {', '.join(VIDEOS)} in {DAVIS}")
    out: dict[str, dict[str, list[FrameScores]]] = {k: {v: [] for v in VIDEOS} for k in KINDS}
    for video in VIDEOS:
        digests = {kind: hashlib.sha256() for kind in KINDS}
        for index, path in enumerate(sorted((DAVIS / video).glob("*.png"))):
            with Image.open(path) as picture:
                mask = np.asarray(picture) > 128
            for kind, prediction in predictions(mask, video, index).items():
                digests[kind].update(prediction.tobytes())
                out[kind][video].append(metrics.frame_scores(prediction, mask))
        made = {kind: digest.hexdigest() for kind, digest in digests.items()}
        assert made == {kind: EXPECTED["sha256"][kind][video] for kind in KINDS}
    return out


def _summary(videos: list[list[FrameScores]]) -> dict[str, float | dict[str, float]]:
    """Average over the frames of each video, then over the videos."""

    def mean(values: list[list[float]]) -> float:
        return float(np.mean([np.mean(video) for video in values]))

    def curves(name: str) -> NDArray[np.float64]:
        return np.stack([np.mean([getattr(f, name) for f in video], axis=0) for video in videos])

    f_curves, e_curves = curves("f_curve"), curves("e_curve")
    return {
        "mae": mean([[f.mae for f in video] for video in videos]),
        "sm": mean([[f.s for f in video] for video in videos]),
        "wfm": mean([[f.f_weighted for f in video] for video in videos]),
        "fm": {
            "adp": mean([[f.f_adaptive for f in video] for video in videos]),
            "mean": float(f_curves.mean()),
            "max": metrics.max_f(f_curves),
        },
        "em": {
            "adp": mean([[f.e_adaptive for f in video] for video in videos]),
            "mean": float(e_curves.mean()),
            "max": float(e_curves.mean(axis=0).max()),
        },
    }


def _davis(videos: list[list[FrameScores]]) -> dict[str, float | dict[str, float]]:
    out: dict[str, float | dict[str, float]] = {}
    for name, field in (("J", "j"), ("F", "f_boundary")):
        each = [metrics.davis_statistics([getattr(f, field) for f in video]) for video in videos]
        out[name] = {
            key: float(np.mean([getattr(statistics, key) for statistics in each]))
            for key in ("mean", "recall", "decay")
        }
    out["JF_mean"] = (out["J"]["mean"] + out["F"]["mean"]) / 2  # type: ignore[index]
    return out


def _assert_close(got: object, expected: object, where: str) -> None:
    if isinstance(expected, dict):
        assert isinstance(got, dict)
        for key, value in expected.items():
            _assert_close(got[key], value, f"{where}/{key}")
    else:
        assert got == pytest.approx(expected, abs=TOLERANCE), where


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_the_davis_fixture(
    scores: dict[str, dict[str, list[FrameScores]]], kind: str
) -> None:
    expected = EXPECTED["results"][kind]
    for choice, frames in (("all", slice(None)), ("trim", slice(1, -1))):
        videos = {video: scores[kind][video][frames] for video in VIDEOS}
        for video, one in videos.items():
            where, numbers = f"{kind}/{video}/{choice}", expected["videos"][video]
            _assert_close(_summary([one]), numbers["saliency"][choice], where)
            if "davis" in numbers:
                _assert_close(_davis([one]), numbers["davis"][choice], where)
        total = expected["total"]
        pooled = [[frame for one in videos.values() for frame in one]]
        saliency = total["saliency"][choice]
        _assert_close(_summary(pooled), saliency["frame_mean"], f"{kind}/{choice}/frame_mean")
        separate = list(videos.values())
        _assert_close(_summary(separate), saliency["video_mean"], f"{kind}/{choice}/video_mean")
        if "davis" in total:
            _assert_close(_davis(separate), total["davis"][choice], f"{kind}/{choice}/total")


@pytest.mark.parametrize(
    "name", ["bmx-trees_060_soft", "car-shadow_013_dim", "car-shadow_013_soft"]
)
def test_scores_of_the_matlab_toolboxes(name: str) -> None:
    """DAVSOD's toolbox and davis-matlab, run under Octave; E with >=."""
    video, index, kind = name.split("_")
    files = sorted((DAVIS / video).glob("*.png"))
    if not files:
        pytest.skip(f"needs the masks of {video} in {DAVIS}")
    with Image.open(files[int(index)]) as picture:
        mask = np.asarray(picture) > 128
    got = metrics.frame_scores(predictions(mask, video, int(index))[kind], mask)
    found = {"mae": got.mae, "sm": got.s, "J": got.j, "F": got.f_boundary}
    found |= {"fm_adp": got.f_adaptive, "fm_max": got.f_curve.max(), "em_adp": got.e_adaptive}
    if kind != "dim":  # MATLAB misses equalities of floats there (section 1.6)
        found["fm_mean"] = got.f_curve.mean()
    expected = EXPECTED["matlab_check"]["frames"][name]
    assert found == pytest.approx({key: expected[key] for key in found}, abs=TOLERANCE)


def _grey(*boxes: tuple[slice, slice], value: int = 255) -> Map:
    out = np.zeros((24, 32), np.uint8)
    for box in boxes:
        out[box] = value
    return out


_ALL, _LEFT = np.s_[:, :], np.s_[:, :16]
_PIXEL, _CORNER = np.s_[5:6, 7:8], np.s_[23:, 31:]
_RECT, _BORDER, _BOTTOM = np.s_[8:16, 10:20], np.s_[:8, :12], np.s_[16:, 20:]
_EVEN = np.add.outer(np.arange(24), np.arange(32)) % 2 == 0
EDGE_CASES: dict[str, tuple[Map, Map]] = {  # name -> mask, prediction
    "empty_gt_zero_pred": (_grey(), _grey()),
    "empty_gt_full_pred": (_grey(), _grey(_ALL)),
    "empty_gt_flat_pred": (_grey(), _grey(_ALL, value=77)),
    "empty_gt_left_half": (_grey(), _grey(_LEFT)),
    "full_gt_zero_pred": (_grey(_ALL), _grey()),
    "full_gt_full_pred": (_grey(_ALL), _grey(_ALL)),
    "full_gt_left_half": (_grey(_ALL), _grey(_LEFT)),
    "one_pixel_same": (_grey(_PIXEL), _grey(_PIXEL)),
    "one_pixel_corner_zero_pred": (_grey(_CORNER), _grey()),
    "one_pixel_corner_same": (_grey(_CORNER), _grey(_CORNER)),
    "rect_shifted": (_grey(_RECT), _grey(np.s_[10:18, 12:22])),
    "rect_flat_pred": (_grey(_RECT), _grey(_ALL, value=77)),
    "border_rect_same": (_grey(_BORDER), _grey(_BORDER)),
    "border_rect_vs_inner": (_grey(_BORDER), _grey(np.s_[1:9, 1:13])),
    "bottom_right_rect_same": (_grey(_BOTTOM), _grey(_BOTTOM)),
    "ramp_right_half": (
        _grey(np.s_[:, 16:]),
        np.tile(8 * np.arange(32, dtype=np.uint8), (24, 1)),
    ),
    "gt_128_129_checker": (
        np.where(_EVEN, 129, 128).astype(np.uint8),
        np.where(_EVEN, 255, 0).astype(np.uint8),
    ),
}


@pytest.mark.parametrize("case", EXPECTED["edge_cases"], ids=lambda case: case["name"])
def test_edge_cases(case: dict) -> None:
    mask, prediction = EDGE_CASES[case["name"]]
    got = metrics.frame_scores(prediction, mask > 128)
    saliency = dict(case["saliency"])
    if saliency["sm"] is None:  # the reference returns NaN: its block of weight 0 counts as 0 here
        assert 0.0 <= got.s <= 1.0
        del saliency["sm"]
    _assert_close(_summary([[got]]), saliency, case["name"])
    _assert_close({"J": got.j, "F": got.f_boundary}, case["davis"], case["name"])


def test_edge_cases_are_all_there() -> None:
    assert [case["name"] for case in EXPECTED["edge_cases"]] == list(EDGE_CASES)


def test_centre_in_the_last_pixel_gives_the_score_of_the_other_blocks() -> None:
    mask, prediction = EDGE_CASES["one_pixel_corner_same"]
    # Object part 1; one block holds the whole frame and is equal: (1 + 1) / 2
    assert metrics.frame_scores(prediction, mask > 128).s == pytest.approx(1.0)


def test_mae_and_curve_equal_the_plain_formulas() -> None:
    rng = np.random.default_rng(3)
    gt = rng.random((37, 53)) < 0.3
    value = rng.integers(9, 201, gt.shape)
    p = (value - value.min()) / (value.max() - value.min())
    level = (value - value.min()) * 255 // (value.max() - value.min())
    counts = metrics.count_levels(value.astype(np.uint8), gt)
    assert metrics.mae(counts) == pytest.approx(np.abs(p - gt).mean(), abs=1e-14)
    for threshold in (0, 1, 100, 254, 255):
        binary = level >= threshold
        precision = (binary & gt).sum() / binary.sum()
        recall = (binary & gt).sum() / gt.sum()
        f = 1.3 * precision * recall / (0.3 * precision + recall)
        assert metrics.f_curve(counts)[threshold] == pytest.approx(f, abs=1e-14)


def test_levels_are_counted_for_every_pixel_and_kept_for_constant_maps() -> None:
    gt = np.zeros((6, 8), bool)
    gt[2:, 3:] = True
    counts = metrics.count_levels(np.full((6, 8), 77, np.uint8), gt)
    assert (counts.offset, counts.span) == (0, 255)
    assert counts.foreground[77] == gt.sum() and counts.background[77] == (~gt).sum()
    counts = metrics.count_levels(np.where(gt, 90, 20).astype(np.uint8), gt)
    assert (counts.offset, counts.span) == (20, 70)
    assert counts.foreground[70] == gt.sum() and counts.background[0] == (~gt).sum()


def test_max_f_is_the_maximum_of_the_mean_curve() -> None:
    curves = np.zeros((2, 256))
    curves[0, 10], curves[1, 20] = 1.0, 0.5
    assert metrics.max_f(curves) == 0.5
    assert metrics.max_f(curves[0]) == 1.0


def test_boundary_f_equals_the_distance_rule() -> None:
    """Section 2.2: inside the dilated truth is the same as Euclidean distance <= r."""
    rng = np.random.default_rng(1)
    base, change = (cv2.GaussianBlur(n, (0, 0), 6) for n in rng.standard_normal((2, 130, 170)))
    mask, gt = base > 0.01, base + 0.7 * change > 0.01
    mask[:20] = gt[:20] = False

    def points(a: Mask) -> NDArray[np.int64]:
        b = np.zeros_like(a)
        b[:-1, :-1] = (a[:-1, :-1] != a[:-1, 1:]) | (a[:-1, :-1] != a[1:, :-1])
        b[:-1, :-1] |= a[:-1, :-1] != a[1:, 1:]
        b[-1, :-1] = a[-1, :-1] != a[-1, 1:]
        b[:-1, -1] = a[:-1, -1] != a[1:, -1]
        return np.argwhere(b)

    radius = math.ceil(0.008 * math.hypot(130, 170))
    ours, theirs = points(mask), points(gt)
    square = ((ours[:, None] - theirs[None]) ** 2).sum(axis=-1)
    precision = (square.min(axis=1) <= radius**2).mean()
    recall = (square.min(axis=0) <= radius**2).mean()
    assert 0.05 < precision < 0.95
    expected = 2 * precision * recall / (precision + recall)
    assert metrics.boundary_f(mask, gt) == pytest.approx(expected, abs=1e-12)


def test_statistics() -> None:
    got = metrics.davis_statistics([1.0, 0.8, 0.6, 0.5, 0.4, 0.2])
    # edges 1, 2.25, 3.5, 4.75, 6 -> 1, 2, 4, 5, 6
    assert got.mean == pytest.approx(3.5 / 6)
    assert got.recall == pytest.approx(0.5)  # 0.5 itself is no hit
    assert got.decay == pytest.approx(0.9 - 0.3)


def test_statistics_of_more_than_256_frames() -> None:
    values = np.linspace(1.0, 0.0, 1001)
    # 250 steps in each bin, both ends inside: means 0.875 and 0.125
    assert metrics.davis_statistics(values).decay == pytest.approx(0.75)


def test_statistics_of_few_frames_and_of_nan() -> None:
    assert metrics.davis_statistics([0.7]) == metrics.Statistics(0.7, 1.0, 0.0)
    assert metrics.davis_statistics([0.7, 0.2]).decay == pytest.approx(0.5)
    assert metrics.davis_statistics([0.7, 0.5, 0.2]).decay == pytest.approx(0.4)
    with_gap = metrics.davis_statistics([math.nan, 0.8, 0.4, 0.2])
    assert with_gap.mean == pytest.approx(1.4 / 3)
    assert with_gap.recall == pytest.approx(1 / 3)
    assert with_gap.decay == pytest.approx(0.8 - 0.3)
    for nothing in ([], [math.nan]):
        got = metrics.davis_statistics(nothing)
        assert math.isnan(got.mean) and math.isnan(got.recall) and math.isnan(got.decay)


def test_only_what_is_wanted_is_computed() -> None:
    mask, prediction = EDGE_CASES["rect_shifted"]
    every = metrics.frame_scores(prediction, mask > 128)
    for name in metrics.ALL:
        one = metrics.frame_scores(prediction, mask > 128, frozenset({name}))
        for other in metrics.ALL:
            value = getattr(one, other)
            if other == name:
                assert np.array_equal(value, getattr(every, name))
            else:
                assert value is None
    with pytest.raises(DataError, match=r"got \['s_mesure'\]"):
        metrics.frame_scores(prediction, mask > 128, frozenset({"s_mesure"}))


def test_flow_outliers() -> None:
    truth = np.zeros((1, 6, 2), np.float32)
    truth[..., 0] = (0, 0, 0, 0, 100, 100)
    flow = truth.copy()
    flow[0, :, 1] = (0, 1, 2, 6, 4, 6)
    got = metrics.flow_outliers(flow, truth)
    # 4 px of 100 are above 3 px and below 5 %
    assert got == pytest.approx({"1px": 4 / 6, "3px": 3 / 6, "5px": 2 / 6, "fl": 2 / 6})
    valid = np.zeros((1, 6), bool)
    assert all(math.isnan(share) for share in metrics.flow_outliers(flow, truth, valid).values())
    valid[0, 3] = True
    assert metrics.flow_outliers(flow, truth, valid)["fl"] == 1.0


def test_end_point_error() -> None:
    truth = np.zeros((4, 5, 2), np.float32)
    flow = truth + np.array([3, 4], np.float32)
    flow[0] = 0
    assert metrics.end_point_error(flow, truth) == pytest.approx(5 * 3 / 4)
    valid = np.ones((4, 5), bool)
    valid[0] = False
    assert metrics.end_point_error(flow, truth, valid) == pytest.approx(5)
    assert math.isnan(metrics.end_point_error(flow, truth, np.zeros((4, 5), bool)))
    with pytest.raises(DataError, match=r"\(4, 5, 2\) and \(4, 4, 2\)"):
        metrics.end_point_error(flow, truth[:, :4])
    with pytest.raises(DataError, match=r"bool \(4, 5\), got bool \(5, 4\)"):
        metrics.end_point_error(flow, truth, valid.T)


@pytest.mark.parametrize(
    ("prediction", "gt"),
    [
        (np.zeros((4, 5), np.uint8), np.zeros((5, 4), bool)),
        (np.zeros((4, 5), np.float32), np.zeros((4, 5), bool)),
        (np.zeros((4, 5), np.uint8), np.zeros((4, 5), np.uint8)),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5, 3), bool)),
        (np.zeros((0, 5), np.uint8), np.zeros((0, 5), bool)),
    ],
)
def test_what_cannot_be_compared_is_refused(prediction: Map, gt: Mask) -> None:
    with pytest.raises(DataError) as caught:
        metrics.frame_scores(prediction, gt)
    assert str(prediction.shape) in str(caught.value) and str(gt.shape) in str(caught.value)


def test_masks_of_different_sizes_are_refused() -> None:
    for score in (metrics.region_similarity, metrics.boundary_f):
        with pytest.raises(DataError, match=r"\(4, 5\) and bool \(5, 4\)"):
            score(np.zeros((4, 5), bool), np.zeros((5, 4), bool))


def test_public_names() -> None:
    assert sorted(metrics.__all__) == metrics.__all__
    assert all(hasattr(metrics, name) for name in metrics.__all__)
