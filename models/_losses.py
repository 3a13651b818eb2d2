"""Losses that several papers share, per sample: shapes (N, 1, H, W) in, (N,) out, float32."""

import torch
import torch.nn.functional as F
from torch import Tensor


def bce(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the binary cross-entropy of each sample, mean over its pixels."""
    s, g = logits.float().flatten(1), mask.float().flatten(1)
    return F.binary_cross_entropy_with_logits(s, g, reduction="none").mean(1)


def bce_soft_iou(logits: Tensor, mask: Tensor, smooth: float = 1.0) -> Tensor:
    """Return binary cross-entropy plus soft IoU loss of each sample.

    `logits` and `mask` are (N, 1, H, W), the mask in 0..1; the result is (N,). N may be 0.
    `smooth` is added above and below the fraction: at 0 an empty mask costs 1 whatever is said.
    """
    s, g = logits.float().flatten(1), mask.float().flatten(1)
    p = torch.sigmoid(s)
    both = (p * g).sum(1)
    either = (p + g).sum(1) - both
    # The floor only matters where both are empty to the last bit of float32.
    iou = (both + smooth) / (either + smooth).clamp_min(1e-12)
    return bce(logits, mask) + 1 - iou
