"""Scores of a saliency map against its mask, of a video's masks, and of a flow: pure functions.

    scores = frame_scores(prediction, gt)          # uint8 (H, W), bool (H, W)
    scores.mae, scores.f_curve, scores.e_adaptive, scores.f_weighted, scores.j, scores.f_boundary

This is the public name of everything that `levels` (MAE, S, F, E), `weighted_f`, `boundary` (J,
boundary F and their statistics over a video), `stability` (T) and `a2s_scores` (the flavour of
A2S-v2) compute. `metrics_batch` does the same on tensors, for validation during training.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vsodpipe.a2s_scores import A2SScores, a2s_mask, a2s_scores, a2s_total
from vsodpipe.boundary import (
    CUT,
    Statistics,
    binarise,
    boundary_f,
    davis_statistics,
    region_similarity,
)
from vsodpipe.errors import DataError
from vsodpipe.levels import (
    LevelCounts,
    adaptive_e,
    adaptive_f,
    check_pair,
    count_levels,
    e_curve,
    f_curve,
    mae,
    max_f,
    precision_curve,
    recall_curve,
    s_measure,
)
from vsodpipe.stability import temporal_stability
from vsodpipe.weighted_f import weighted_f

__all__ = [
    "A2SScores",
    "ALL",
    "CUT",
    "FrameScores",
    "LevelCounts",
    "Statistics",
    "a2s_mask",
    "a2s_scores",
    "a2s_total",
    "adaptive_e",
    "adaptive_f",
    "binarise",
    "boundary_f",
    "count_levels",
    "davis_statistics",
    "e_curve",
    "end_point_error",
    "f_curve",
    "flow_outliers",
    "frame_scores",
    "mae",
    "max_f",
    "precision_curve",
    "recall_curve",
    "region_similarity",
    "s_measure",
    "temporal_stability",
    "weighted_f",
]


@dataclass(frozen=True, eq=False)
class FrameScores:
    """The scores of one frame; None what was not wanted. `vsodpipe eval` averages them, curves
    included, and takes mean and maximum of the averaged curve.
    """

    mae: float | None = None
    s: float | None = None
    f_adaptive: float | None = None
    f_curve: NDArray[np.float64] | None = None
    """(256,) F where level t or more counts as foreground, at place t; as all curves here."""
    e_adaptive: float | None = None
    e_curve: NDArray[np.float64] | None = None
    f_weighted: float | None = None
    precision: NDArray[np.float64] | None = None
    recall: NDArray[np.float64] | None = None
    j: float | None = None
    f_boundary: float | None = None


ALL = frozenset(field.name for field in fields(FrameScores))
"""Every score that `frame_scores` knows."""

OF_COUNTS: dict[str, Callable[[LevelCounts], Any]] = {
    "mae": mae,
    "s": s_measure,
    "f_adaptive": adaptive_f,
    "f_curve": f_curve,
    "e_adaptive": adaptive_e,
    "e_curve": e_curve,
    "precision": precision_curve,
    "recall": recall_curve,
}
"""The scores that follow from the counted levels."""

_OF_MASKS = {"j": region_similarity, "f_boundary": boundary_f}


def end_point_error(
    flow: NDArray[np.floating],
    truth: NDArray[np.floating],
    valid: NDArray[np.bool_] | None = None,
) -> float:
    """Return the mean distance in pixels of two flows (H, W, 2), over `valid` bool (H, W) if given.

    NaN when no pixel is valid.
    """
    distance, _ = _flow_errors(flow, truth, valid)
    return float(distance.mean()) if distance.size else math.nan


def flow_outliers(
    flow: NDArray[np.floating],
    truth: NDArray[np.floating],
    valid: NDArray[np.bool_] | None = None,
) -> dict[str, float]:
    """Return the shares 0..1 of pixels whose flow is wrong, over `valid` bool (H, W) if given.

    `1px`, `3px`, `5px`: by more than that. `fl`: by more than 3 px and by more than 5 % of the true
    length (KITTI 2015, Fl-all). NaN when no pixel is valid.
    """
    distance, length = _flow_errors(flow, truth, valid)
    if not distance.size:
        return dict.fromkeys(("1px", "3px", "5px", "fl"), math.nan)
    shares = {f"{limit}px": float((distance > limit).mean()) for limit in (1, 3, 5)}
    return {**shares, "fl": float(((distance > 3) & (distance > 0.05 * length)).mean())}


def _flow_errors(
    flow: NDArray[np.floating], truth: NDArray[np.floating], valid: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distance of two flows and the length of the true one, in every valid pixel."""
    if flow.shape != truth.shape or flow.ndim != 3 or flow.shape[2] != 2:
        raise DataError(
            f"end-point error: expected two flows of one size (H, W, 2), "
            f"got {flow.shape} and {truth.shape}."
        )
    if valid is not None and (valid.shape != flow.shape[:2] or valid.dtype != np.bool_):
        raise DataError(
            f"end-point error: expected valid as bool {flow.shape[:2]}, "
            f"got {valid.dtype} {valid.shape}."
        )
    kept = np.s_[:] if valid is None else valid
    difference, true = flow[kept].astype(np.float64) - truth[kept], truth[kept].astype(np.float64)
    return np.hypot(*np.moveaxis(difference, -1, 0)), np.hypot(*np.moveaxis(true, -1, 0))


def frame_scores(
    prediction: NDArray[np.uint8], gt: NDArray[np.bool_], wanted: frozenset[str] = ALL
) -> FrameScores:
    """Return the scores of a map `prediction` uint8 (H, W) against the mask `gt` bool (H, W).

    `wanted` names fields of `FrameScores`; the others stay None and cost nothing.
    """
    if unknown := wanted - ALL:
        raise DataError(f"scores: expected names of {sorted(ALL)}, got {sorted(unknown)}.")
    check_pair(prediction, gt, np.uint8)
    found: dict[str, Any] = {}
    if of_counts := wanted & OF_COUNTS.keys():
        counts = count_levels(prediction, gt)
        found |= {name: OF_COUNTS[name](counts) for name in of_counts}
    if of_masks := wanted & _OF_MASKS.keys():
        mask = binarise(prediction)
        found |= {name: _OF_MASKS[name](mask, gt) for name in of_masks}
    if "f_weighted" in wanted:
        found["f_weighted"] = weighted_f(prediction, gt)
    return FrameScores(**found)
