"""Losses of A2S-v2: three without any label (stage 1), one on pseudo labels (stage 2).

Zhou, Qiao, Yang, Lai, Xie: "Texture-guided Saliency Distilling for Unsupervised Salient Object
Detection", CVPR 2023. N pictures, H W their size; saliency is (N, 1, H, W), in 0..1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vsodpipe.models._blocks import resized

RADIUS = 5
"""Half a side of the window in which pixels are compared (11x11)."""
SHARPNESS = 200.0
"""How fast a difference in texture makes two pixels strangers."""


def confidence(p: Tensor, progress: float) -> Tensor:
    """Return the loss that distils confidence: saliency leaves one half (CSD).

    `progress` in 0..1 is the part of the epochs that is over. At first sure pixels are made surer,
    at the end all alike.
    """
    power = 2.0 ** (1.0 - progress)
    gain: Tensor = 0.5**power - (p - 0.5).abs().pow(power).mean()
    return gain


def boundaries(p: Tensor) -> Tensor:
    """Return where saliency changes sides, bool (N, 1, H, W): dilated less eroded, 5x5."""
    inside = (p > 0.5).float()
    dilated = F.max_pool2d(inside, 5, stride=1, padding=2)
    eroded = -F.max_pool2d(-inside, 5, stride=1, padding=2)
    return dilated > eroded


def boundary_texture(p: Tensor, pictures: Tensor) -> Tensor:
    """Return how much saliency changes along boundaries where no picture does (BTM).

    `pictures` (N, C, H, W) are all pictures of a sample, stacked: where any of them changes, so may
    saliency. Both are compared at a quarter of the size of p.
    """
    p = F.interpolate(p, scale_factor=0.25, mode="bilinear", align_corners=True)
    return strangeness(p, resized(pictures, p))


def strangeness(p: Tensor, pictures: Tensor) -> Tensor:
    """Return the loss of `boundary_texture` for p and pictures of one size.

    Of every boundary pixel and the 11x11 around it (0 outside the picture): the difference of
    saliency, weighed by the likeness of texture, summed; the mean over the boundary pixels of the
    batch. A batch without any costs 0: the published code has 0/0 there, which ends the training.
    """
    n, y, x = (index[:, None] for index in boundaries(p)[:, 0].nonzero(as_tuple=True))
    steps = torch.arange(2 * RADIUS + 1, device=p.device)
    dy, dx = torch.meshgrid(steps, steps, indexing="ij")
    around = n, slice(None), y + dy.flatten(), x + dx.flatten()  # (pixels, 121)
    here = n, slice(None), y + RADIUS, x + RADIUS
    with torch.no_grad():  # texture tells what to compare, it is not learnt
        pictures = F.pad(pictures, (RADIUS,) * 4)
        distance = (pictures[around] - pictures[here]).square().sum(-1)
        weight = torch.exp(-SHARPNESS * distance)
    p = F.pad(p, (RADIUS,) * 4)
    change = (p[around] - p[here]).abs().squeeze(-1)
    return (weight * change).sum() / max(len(n), 1)


def consistency(p: Tensor, other: Tensor) -> Tensor:
    """Return the mean squared difference of saliency and that of another view of the batch."""
    return (p - resized(other, p)).square().mean()


def soft_iou(logits: Tensor, label: Tensor) -> Tensor:
    """Return one minus the soft IoU of each sample, (N,): logits and pseudo label, of any sizes.

    An empty label costs 1 whatever is said.
    """
    # unlike all else here, the published loss resizes without aligned corners
    size = label.shape[-2:]
    logits = F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)
    p, y = logits.sigmoid().flatten(1), (label > 0.5).float().flatten(1)
    both = (p * y).sum(1)
    return 1 - both / ((p + y).sum(1) - both + 1e-7)
