"""The dense CRF meets the published code, and draws maps to the edges of the frame."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from vsodpipe import crf
from vsodpipe.errors import UsageError

# pydensecrf2 1.1 on the picture of the A2S-v2 fixture; q_dss made with it in the same way
FIXTURE = np.load(Path(__file__).parent / "parity" / "crf.npz")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_pseudo_labels_of_a2s() -> None:
    """crf.npz: labels equal; probabilities of ten steps to 5e-5 (measured 1.3e-5)."""
    img = crf.restored(FIXTURE["image"], MEAN, STD)
    # 497 values come back one lower
    assert (FIXTURE["image"].astype(int) - img).sum() == (FIXTURE["image"] != img).sum() == 497
    labels = crf.otsu_labels((FIXTURE["saliency"] * 255).astype(np.uint8))
    assert np.array_equal(labels, FIXTURE["labels_in"])
    found = crf.marginal(img, crf.label_energy(labels), crf.PARAMETERS["a2s"])
    assert np.abs(found - FIXTURE["q_a2s"]).max() < 5e-5
    refined = crf.refine(img, FIXTURE["saliency"], "a2s")
    assert refined.dtype == np.float32 and np.array_equal(refined, FIXTURE["labels_median"])
    height, width = FIXTURE["final"].shape
    resized = cv2.resize(refined.astype(np.uint8), (width, height))
    assert np.array_equal(resized, FIXTURE["final"])


def test_one_step_of_dss() -> None:
    """Probabilities to 1e-5 (measured 2e-6; at 854x480 against the same code 4e-6)."""
    found = crf.refine(FIXTURE["image"], FIXTURE["saliency"], "dss")
    assert np.abs(found - FIXTURE["q_dss"]).max() < 1e-5


def test_a_blurred_map_is_drawn_to_the_edge() -> None:
    img = np.full((60, 80, 3), 40, np.uint8)
    img[20:40, 25:55] = (200, 150, 60)
    truth = np.zeros((60, 80), np.float32)
    truth[20:40, 25:55] = 1
    blurred = cv2.GaussianBlur(truth, (0, 0), 5)
    before = ((blurred > 0.5) != truth).sum()
    for name in crf.PARAMETERS:
        after = ((crf.refine(img, blurred, name) > 0.5) != truth).sum()
        assert after < before / 3, name  # the median of a2s rounds the corners


@pytest.mark.parametrize("name", sorted(crf.PARAMETERS))
def test_frames_without_any_edge(name: str) -> None:
    img = np.zeros((5, 7, 3), np.uint8)
    assert (crf.refine(img, np.ones((5, 7), np.float32), name) > 0.99).all()
    assert (crf.refine(img, np.zeros((5, 7), np.float32), name) < 0.01).all()
    assert crf.refine(img[:1, :1], np.ones((1, 1), np.float32), name).shape == (1, 1)


def test_wrong_input_is_refused() -> None:
    img, saliency = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.float32)
    with pytest.raises(UsageError, match="Did you mean dss"):
        crf.refine(img, saliency, "dsss")
    with pytest.raises(UsageError, match=r"expected a map of \(4, 6\), got \(6, 4\)"):
        crf.refine(img, saliency.T)
    with pytest.raises(UsageError, match="uint8 RGB"):
        crf.refine(img.astype(np.float32), saliency)  # type: ignore[arg-type]
    for value in (-0.1, 1.1, np.nan):
        with pytest.raises(UsageError, match="in 0..1"):
            crf.refine(img, np.full((4, 6), value, np.float32))
