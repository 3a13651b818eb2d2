"""Scores as A2S-v2 computes them, to compare with its published tables.

    a2s_total([a2s_scores(prediction, gt) for prediction, gt in data_set])

Differences from `metrics.frame_scores` (section 9 of the A2S-v2 specification): maps are not
stretched, S divides by n, adaptive F is called mean F, max F is taken from the mean precision and
recall of the data set, E is the adaptive one, and the mean runs over all frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vsodpipe.errors import DataError
from vsodpipe.levels import (
    adaptive,
    count_levels,
    e_values,
    f_values,
    mae,
    s_measure,
    thresholds,
)
from vsodpipe.weighted_f import weighted_f

_EPS = 1e-8


@dataclass(frozen=True, eq=False)
class A2SScores:
    """The scores of one frame; `a2s_total` makes the published figures of them."""

    mae: float
    f_adaptive: float
    e_adaptive: float
    s: float
    f_weighted: float
    precision: NDArray[np.float64]
    """(255,) at place t levels >= t are foreground; 0 for an empty mask."""
    recall: NDArray[np.float64]


def a2s_mask(gt: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the foreground of raw mask values uint8 (H, W): above half of their maximum."""
    return gt / (gt.max(initial=0) + _EPS) > 0.5


def a2s_scores(
    prediction: NDArray[np.uint8], gt: NDArray[np.uint8], stretched: bool = False
) -> A2SScores:
    """Return the scores of a map `prediction` uint8 (H, W) against the raw mask `gt` uint8 (H, W).

    The published figures are of maps as they are; A2S-v2's second script, for saved maps, has them
    `stretched` to 0..1 first. Where its S is NaN (centre of the mask in the last row or column) the
    empty blocks count as 0.
    """
    mask = a2s_mask(gt)
    counts = count_levels(prediction, mask, stretched)
    binary, curve = adaptive(counts), thresholds(counts)
    # its histogram has 255 bins: the last holds levels 254 and 255
    true, predicted = curve.true[:255], curve.predicted[:255]
    return A2SScores(
        mae=mae(counts),
        f_adaptive=float(f_values(binary)[0]),
        e_adaptive=float(e_values(binary, eps=_EPS)[0]),
        s=s_measure(counts, ddof=0, eps=_EPS),
        f_weighted=weighted_f(prediction, mask, stretched, eps=1e-6),
        precision=true / (predicted + _EPS),
        recall=true / (curve.actual + _EPS),
    )


def a2s_total(scores: Sequence[A2SScores]) -> dict[str, float]:
    """Return the figures of a data set: mae, mean_f (adaptive), max_f, e_measure, s_measure,
    weighted_f. Frames with an empty mask count as 0 in F, precision and recall.
    """
    if not scores:
        raise DataError("A2S-v2 scores: expected at least one frame, got none.")
    precision = np.mean([frame.precision for frame in scores], axis=0)
    recall = np.mean([frame.recall for frame in scores], axis=0)
    curve = 1.3 * precision * recall / (0.3 * precision + recall + _EPS)
    return {
        "mae": float(np.mean([frame.mae for frame in scores])),
        "mean_f": float(np.mean([frame.f_adaptive for frame in scores])),
        "max_f": float(curve.max()),
        "e_measure": float(np.mean([frame.e_adaptive for frame in scores])),
        "s_measure": float(np.mean([frame.s for frame in scores])),
        "weighted_f": float(np.mean([frame.f_weighted for frame in scores])),
    }
