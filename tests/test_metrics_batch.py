"""Scores of a batch of tensors equal those of the arrays, to the last bit."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vsodpipe import metrics
from vsodpipe.errors import DataError
from vsodpipe.metrics_batch import BATCHED, batch_scores

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


def _batch() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return blocky masks with noisy maps, and the special cases: constants and corners."""
    rng = np.random.default_rng(0)
    coarse = rng.random((10, 13, 18)) < 0.3
    gt = np.kron(coarse, np.ones((1, 5, 5), bool))
    maps = np.clip(gt * 120 + rng.integers(0, 150, gt.shape), 0, 255).astype(np.uint8)
    gt[0], gt[1] = False, True
    gt[2] = False
    gt[2, -1, -1] = True
    maps[3], maps[4], maps[5] = 0, 255, 77
    gt[6], maps[6] = False, 0
    maps[7] = gt[7] * 255
    return maps, gt


def _assert_equal(got: metrics.FrameScores, expected: metrics.FrameScores) -> None:
    for name in metrics.ALL:
        assert np.array_equal(getattr(got, name), getattr(expected, name)), name


@pytest.mark.parametrize("device", DEVICES)
def test_equal_to_the_scores_of_arrays(device: str) -> None:
    maps, gt = _batch()
    got = batch_scores(torch.from_numpy(maps).to(device), torch.from_numpy(gt).to(device))
    assert len(got) == len(maps)
    for scores, prediction, mask in zip(got, maps, gt, strict=True):
        _assert_equal(scores, metrics.frame_scores(prediction, mask, BATCHED))


def test_probabilities_count_as_they_would_be_saved() -> None:
    maps, gt = _batch()
    rng = np.random.default_rng(1)
    probability = np.clip(maps / 255 + rng.uniform(-0.4, 0.4, maps.shape) / 255, 0, 1)
    for dtype in (torch.float32, torch.float64):
        tensor = torch.from_numpy(probability).to(dtype)
        for scores, expected in zip(
            batch_scores(tensor, torch.from_numpy(gt)),
            batch_scores(torch.from_numpy(maps), torch.from_numpy(gt)),
            strict=True,
        ):
            _assert_equal(scores, expected)


def test_only_what_is_wanted() -> None:
    maps, gt = (torch.from_numpy(array) for array in _batch())
    for scores in batch_scores(maps, gt, frozenset({"mae", "j"})):
        assert scores.mae is not None and scores.j is not None
        assert scores.s is scores.f_curve is scores.f_boundary is None
    with pytest.raises(DataError, match=r"got \['f_weighted'\]"):
        batch_scores(maps, gt, frozenset({"f_weighted"}))


def test_wrong_batches_are_refused() -> None:
    maps, gt = (torch.from_numpy(array) for array in _batch())
    with pytest.raises(DataError, match="one size"):
        batch_scores(maps[:, :-1], gt)
    with pytest.raises(DataError, match="bool masks"):
        batch_scores(maps, gt.float())
    with pytest.raises(DataError, match="uint8 or float"):
        batch_scores(maps.int(), gt)
