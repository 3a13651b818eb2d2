"""Scores of a batch on any device, equal to those of `metrics`: validation during training.

    scores = batch_scores(predictions, gt)         # (B, H, W) each -> a FrameScores per frame
    np.mean([frame.mae for frame in scores]), max_f(np.stack([frame.f_curve for frame in scores]))

The device counts whole numbers: levels under the mask, points of boundaries. Only these go to the
processor, 16 kB a frame, where the functions of `levels` and `boundary` turn them into scores.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vsodpipe.boundary import CUT, f_of_points, rectangles
from vsodpipe.errors import DataError
from vsodpipe.levels import Counts, centre, from_histogram
from vsodpipe.metrics import ALL, OF_COUNTS, FrameScores

BATCHED = ALL - {"f_weighted"}
"""What a batch can be scored by; weighted F looks for nearest pixels, which is no tensor's work."""


def batch_scores(
    predictions: Tensor, gt: Tensor, wanted: frozenset[str] = BATCHED
) -> list[FrameScores]:
    """Return the scores of maps `predictions` (B, H, W) against masks `gt` bool (B, H, W).

    Maps are uint8 levels or floats in 0..1, which count as they would be saved, rounded to 8 bits.
    Both lie on one device. `wanted` names fields of `FrameScores` in `BATCHED`.
    """
    if unknown := wanted - BATCHED:
        raise DataError(f"scores: expected names of {sorted(BATCHED)}, got {sorted(unknown)}.")
    right = predictions.ndim == 3 and predictions.shape == gt.shape and predictions.numel()
    if not right or gt.dtype != torch.bool:
        raise DataError(
            "scores of a batch: expected maps and bool masks of one size (B, H, W), got "
            f"{tuple(predictions.shape)} and {gt.dtype} {tuple(gt.shape)}."
        )
    levels = _levels(predictions)
    found: list[dict[str, Any]] = [{} for _ in levels]
    of_counts = wanted & OF_COUNTS.keys()
    if of_counts or "j" in wanted:
        for scores, raw in zip(found, _histograms(levels, gt), strict=True):
            counts = from_histogram(raw)
            scores |= {name: OF_COUNTS[name](counts) for name in of_counts}
            if "j" in wanted:
                scores["j"] = _region_similarity(raw)
    if "f_boundary" in wanted:
        for scores, value in zip(found, _boundary_f(levels >= CUT, gt), strict=True):
            scores["f_boundary"] = value
    return [FrameScores(**scores) for scores in found]


def _levels(predictions: Tensor) -> Tensor:
    """Return 8-bit levels as int64 (B, H, W)."""
    if predictions.is_floating_point():
        return (predictions.float() * 255.0).round().clamp(0, 255).long()
    if predictions.dtype != torch.uint8:
        raise DataError(f"scores of a batch: expected uint8 or float, got {predictions.dtype}.")
    return predictions.long()


def _histograms(levels: Tensor, gt: Tensor) -> Counts:
    """Return how many pixels have which level, (B, 4, 2, 256) as `LevelCounts.blocks`."""
    batch, height, width = levels.shape
    y, x = (torch.arange(side, device=gt.device) for side in (height, width))
    rows, columns = gt.sum(dim=2), gt.sum(dim=1)
    moments = torch.stack([rows.sum(dim=1), (rows * y).sum(dim=1), (columns * x).sum(dim=1)], dim=1)
    found = [centre(frame, (height, width)) for frame in moments.tolist()]
    centres = torch.tensor(found, device=gt.device)[:, :, None]
    lower, right = (y >= centres[:, 0]).long(), (x >= centres[:, 1]).long()
    block = 2 * lower[:, :, None] + right[:, None, :]
    frame = torch.arange(batch, device=gt.device)[:, None, None]
    key = ((frame * 4 + block) * 2 + gt) * 256 + levels
    counted = torch.bincount(key.flatten(), minlength=batch * 4 * 2 * 256)
    return counted.reshape(batch, 4, 2, 256).cpu().numpy()


def _region_similarity(raw: Counts) -> float:
    """Return J of the map cut at `CUT` (section 2.1) from its histogram (4, 2, 256)."""
    both, back = int(raw[:, 1, CUT:].sum()), int(raw[:, 0, CUT:].sum())
    union = int(raw[:, 1].sum()) + back
    return both / union if union else 1.0


def _boundary(masks: Tensor) -> Tensor:
    """Return where a pixel differs from its right, lower or lower right neighbour (2.2)."""
    edge = torch.zeros_like(masks)
    edge[:, :, :-1] = masks[:, :, :-1] != masks[:, :, 1:]
    edge[:, :-1] |= masks[:, :-1] != masks[:, 1:]
    edge[:, :-1, :-1] |= masks[:, :-1, :-1] != masks[:, 1:, 1:]
    return edge


def _near(edge: Tensor) -> Tensor:
    """Return where a pixel of `edge` is within the tolerance: dilation with a disk."""
    _, height, width = edge.shape
    parts = rectangles(height, width)
    r = max(y for y, _ in parts)
    # a rectangle around a pixel holds a point where its sum, by four corners, is not 0
    padded = functional.pad(edge.int(), (r + 1, r, r + 1, r))
    sums = padded.cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)
    found = torch.zeros_like(edge)
    for y, x in parts:
        rows = sums[:, r + 1 + y :][:, :height] - sums[:, r - y :][:, :height]
        found |= rows[:, :, r + 1 + x :][:, :, :width] != rows[:, :, r - x :][:, :, :width]
    return found


def _boundary_f(masks: Tensor, gt: Tensor) -> list[float]:
    """Return the boundary accuracy of every mask of the batch (section 2.2)."""
    ours, theirs = _boundary(masks), _boundary(gt)
    points = (ours, ours & _near(theirs), theirs, theirs & _near(ours))
    counted = torch.stack([kind.sum(dim=(1, 2)) for kind in points], dim=1)
    return [f_of_points(*frame) for frame in counted.tolist()]
