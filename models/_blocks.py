"""Blocks that several networks share. All resizes of the published code align the corners."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn(c_in: int, c_out: int, kernel: int) -> nn.Sequential:
    """Return convolution without bias and batch norm, at constant size."""
    conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out))


def conv_bn_relu(
    c_in: int, c_out: int, kernel: int, *, dilation: int = 1, bias: bool = False
) -> nn.Sequential:
    """Return convolution, batch norm, ReLU, at constant size."""
    conv = nn.Conv2d(
        c_in, c_out, kernel, padding=kernel // 2 * dilation, dilation=dilation, bias=bias
    )
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))


def numbered(modules: Iterable[nn.Module]) -> nn.ModuleDict:
    """Return modules under the names 1, 2, 3, ... as papers count levels and units."""
    return nn.ModuleDict({str(number): module for number, module in enumerate(modules, 1)})


def resized(x: Tensor, size: Tensor | tuple[int, int]) -> Tensor:
    """Return `x` (N, C, h, w) at `size` (H, W), or at that of a map; corners stay corners."""
    target = size.shape[-2:] if isinstance(size, Tensor) else size
    return F.interpolate(x, size=target, mode="bilinear", align_corners=True)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al. 2017), rates for output stride 16."""

    def __init__(self, c_in: int, dim: int, *, bias: bool = False) -> None:
        super().__init__()
        self.branches = numbered(
            conv_bn_relu(c_in, dim, 1 if rate == 1 else 3, dilation=rate, bias=bias)
            for rate in (1, 6, 12, 18)
        )
        self.pooled = conv_bn_relu(c_in, dim, 1, bias=bias)
        self.merge = conv_bn_relu(5 * dim, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, c_in, h, w) to (N, dim, h, w)."""
        maps = [branch(x) for branch in self.branches.values()]
        pooled = self.pooled(x.mean((2, 3), keepdim=True))
        merged: Tensor = self.merge(torch.cat((*maps, resized(pooled, x)), 1))
        return merged


def start_small(network: nn.Module) -> None:
    """Draw the weights of all convolutions from N(0, 0.01); biases and norms stay as they are."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
