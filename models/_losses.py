"""Losses that several papers share, per sample: shapes (N, 1, H, W) in, (N,) out, float32."""

import torch
import torch.nn.functional as F
from torch import Tensor


def bce_soft_iou(logits: Tensor, mask: Tensor) -> Tensor:
    """Return binary cross-entropy plus soft IoU loss of each sample.

    `logits` and `mask` are (N, 1, H, W), the mask in 0..1; the result is (N,). N may be 0.
    """
    s, g = logits.float().flatten(1), mask.float().flatten(1)
    p = torch.sigmoid(s)
    bce = F.binary_cross_entropy_with_logits(s, g, reduction="none").mean(1)
    both = (p * g).sum(1)
    either = (p + g).sum(1) - both
    return bce + 1 - (both + 1) / (either + 1)  # the ones keep an empty mask finite
