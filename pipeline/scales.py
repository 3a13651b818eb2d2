"""Training at several sizes: which of a recipe's scales a step takes, and the batch at one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from vsodpipe.recipe import Stage

Sample = dict[str, Any]


def of_step(stage: Stage, epoch: int, step: int) -> list[tuple[int, int]]:
    """Return the sizes (H, W) of a step, each of which is an optimiser step of its own."""
    sizes = [scaled(stage.data.size, scale) for scale in stage.scales]
    if stage.scale_rule == "each":
        return sizes
    # apart from the draws of the samples, which take three numbers; the same on every process
    rng = np.random.default_rng([stage.seed, epoch, step, 2])
    return [sizes[int(rng.integers(len(sizes)))]]


def scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return (H, W) times `scale` in multiples of 32; at scale 1 as it is."""
    if scale == 1:
        return size
    height, width = (max(1, round(side * scale / 32)) * 32 for side in size)
    return height, width


def resized(sample: Sample, size: tuple[int, int], stage: Stage) -> Sample:
    """Return the batch with its pictures (..., C, H, W) at `size`, by the recipe's filter."""
    pictures = {*stage.data.inputs, *stage.data.beside, "gt"}
    return {
        key: _resized(value, size, stage.scale_filter) if key in pictures else value
        for key, value in sample.items()
    }


def _resized(value: torch.Tensor, size: tuple[int, int], kind: str) -> torch.Tensor:
    if tuple(value.shape[-2:]) == size:
        return value
    mode = "bicubic" if kind == "bicubic" else "bilinear"
    done = F.interpolate(
        value.flatten(0, -4), size=size, mode=mode, align_corners=kind == "aligned"
    )
    return done.view(*value.shape[:-2], *size)
