"""A2S-v2's scores against its own code: tests/a2s_metrics.npz, copied from parity (8 decimals)."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from predictions import predictions
from vsodpipe import metrics
from vsodpipe.errors import DataError
from vsodpipe.metrics import A2SScores, a2s_scores, a2s_total

FIXTURE = np.load(Path(__file__).parent / "a2s_metrics.npz")
EXPECTED = json.loads((Path(__file__).parent / "expected_eval.json").read_text())
COLUMNS = ("mae", "max_f", "mean_f", "s_measure", "e_measure", "weighted_f")
TOLERANCE = 5e-8  # float32 in our weighted F, another eps in S


@pytest.fixture(scope="module")
def scores() -> list[A2SScores]:
    return [a2s_scores(FIXTURE[f"pred{i}"], FIXTURE[f"gt{i}"]) for i in range(8)]


def _columns(scores: list[A2SScores]) -> list[float]:
    total = a2s_total(scores)
    return [total[name] for name in COLUMNS]


@pytest.mark.parametrize("item", range(8))
def test_scores_of_one_frame(scores: list[A2SScores], item: int) -> None:
    got = _columns([scores[item]])
    assert got == pytest.approx(FIXTURE[f"item{item}"].tolist(), abs=TOLERANCE)


@pytest.mark.parametrize(("name", "frames"), [("set_all", 8), ("set_normal", 4)])
def test_scores_of_a_set(scores: list[A2SScores], name: str, frames: int) -> None:
    assert _columns(scores[:frames]) == pytest.approx(FIXTURE[name].tolist(), abs=TOLERANCE)
    precision = np.mean([frame.precision for frame in scores[:frames]], axis=0)
    recall = np.mean([frame.recall for frame in scores[:frames]], axis=0)
    curve = 1.3 * precision * recall / (0.3 * precision + recall + 1e-8)
    # the original lists its thresholds from the highest on
    assert curve[::-1] == pytest.approx(FIXTURE[f"{name}/f_curve"], abs=TOLERANCE)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_scores_of_saved_maps(davis: Path, kind: str) -> None:
    masks = sorted((davis / "Annotations" / "480p" / "car-shadow").glob("*.png"))
    if not masks:
        pytest.skip("needs the masks of car-shadow")
    found = []
    for index, path in enumerate(masks):
        raw = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        prediction = predictions(raw > 128, "car-shadow", index)[kind]
        found.append(a2s_scores(prediction, raw, stretched=True))
    total = a2s_total(found)
    names = {"fm_adp": "mean_f", "fm_max": "max_f", "em_adp": "e_measure", "sm": "s_measure"}
    names |= {"mae": "mae", "wfm": "weighted_f"}
    expected = EXPECTED["a2s_flavour"][kind]
    assert {key: total[name] for key, name in names.items()} == pytest.approx(expected, abs=1e-6)


def test_foreground_is_above_half_of_the_masks_maximum() -> None:
    gt = np.array([[0, 60, 61, 120]], np.uint8)
    assert metrics.a2s_mask(gt).tolist() == [[False, False, True, True]]
    assert not metrics.a2s_mask(np.zeros((2, 2), np.uint8)).any()


def test_maps_are_not_stretched() -> None:
    gt = np.zeros((8, 8), np.uint8)
    gt[:4] = 1
    got = a2s_scores(np.where(gt > 0, 204, 51).astype(np.uint8), gt)
    assert got.mae == pytest.approx(0.2)


def test_a_perfect_map_scores_more_than_one() -> None:
    gt = cv2.circle(np.zeros((40, 52), np.uint8), (20, 18), 9, 255, -1)
    total = a2s_total([a2s_scores(gt, gt)])
    assert total["s_measure"] > 1 and total["e_measure"] > 1


def test_nothing_has_no_mean() -> None:
    with pytest.raises(DataError, match="at least one frame"):
        a2s_total([])
