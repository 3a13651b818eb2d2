"""Convolutions of stride 1 by fewer products than the direct ones, on a CPU in float32.

Winograd's minimal filtering (Lavin & Gray, "Fast algorithms for convolutional neural networks",
CVPR 2016): a 3x3 window takes NNPACK's 64 products for 36 outputs instead of 324, a row or column
of five takes 8 for 4 instead of 20. Equal to the direct convolution up to rounding: about 7e-5
(3x3) and 1e-5 (five) of an output of size 1. Tensors are contiguous, (B, C, H, W).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Convolution = Callable[[Tensor], Tensor]

_OUTPUTS = 4
"""Outputs of one row that are computed together."""

_POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)
"""Where the polynomials of four outputs and five weights are multiplied, beside infinity."""

_SQUARE_BLOCK, _LINE_BLOCK = 2**21, 2**20
"""Numbers of the input that are transformed at once, so that their products stay in the cache.

Fewer for the squares would be no faster: NNPACK transforms the weights anew for each block.
"""


def available() -> bool:
    """Return whether this torch has NNPACK and this processor runs it."""
    found = hasattr(torch, "_nnpack_spatial_convolution")
    return found and bool(torch._nnpack_available())  # which starts NNPACK, too


def convolution(weight: Tensor, bias: Tensor | None, padding: tuple[int, ...]) -> Convolution:
    """Return the convolution of stride 1 by `weight` (O, C, h, w) that keeps H and W."""
    size = tuple(weight.shape[2:])
    if size == (3, 3) and padding == (1, 1):
        return _Square(weight, bias)
    if size in ((1, 5), (5, 1)) and padding == (size[0] // 2, size[1] // 2):
        return _Line(weight, bias)
    return lambda x: F.conv2d(x, weight, bias, padding=padding)


def quicken(module: nn.Module) -> None:
    """Replace the 3x3 and 1x1 convolutions of stride 1 in `module`.

    Not the 3x3 of a few outputs, which gain nothing.
    """
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Conv2d):
                if _is(child, 3, 1) and child.out_channels >= 16:
                    setattr(parent, name, _Square(child.weight, child.bias))
                elif _is(child, 1, 0):
                    setattr(parent, name, _Point(child.weight, child.bias))


def _is(layer: nn.Conv2d, side: int, padding: int) -> bool:
    shape = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
    return shape == ((side, side), (1, 1), (padding, padding), (1, 1), 1)


class _Square(nn.Module):
    """3x3 by NNPACK, a picture at a time (it takes another way for several), rows by rows."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._weight, self._bias = weight.contiguous(), bias

    def forward(self, x: Tensor) -> Tensor:
        height = x.shape[2]
        # NNPACK keeps room for the transformed input and output for ever; six rows are a tile
        rows = max(6, _SQUARE_BLOCK * height // x[0].numel() // 6 * 6)
        if len(x) == 1 and rows >= height:
            return self._block(x)
        out = x.new_empty(len(x), len(self._weight), *x.shape[2:])
        for one, target in zip(x.split(1), out.split(1), strict=True):
            for start in range(0, height, rows):
                end, above = min(start + rows, height), min(start, 1)
                found = self._block(one[:, :, start - above : end + 1])
                target[:, :, start:end] = found[:, :, above : above + end - start]
        return out

    def _block(self, x: Tensor) -> Tensor:
        return torch._nnpack_spatial_convolution(x.contiguous(), self._weight, self._bias, 1)


class _Point(nn.Module):
    """1x1 as a product of matrices, whatever the layout of the input; the output is contiguous."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._weight = weight.flatten(1).contiguous()
        self._bias = weight.new_zeros(len(weight)) if bias is None else bias

    def forward(self, x: Tensor) -> Tensor:
        weight = self._weight.expand(len(x), -1, -1)
        out = torch.baddbmm(self._bias[:, None], weight, x.flatten(2))
        return out.unflatten(2, x.shape[2:])


class _Line:
    """1x5 or 5x1: windows of eight inputs, two small products around one for each of the eight."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._axis = 3 if weight.shape[3] > 1 else 2
        line = weight.flatten(2).double()
        points = len(_POINTS) + 1
        into = _vandermonde(points).inverse().T
        # each point's two factors may be moved against each other: this keeps them of one size
        scale = into.abs().sum(1, keepdim=True)
        self._into = (into / scale).float()
        self._out = _vandermonde(_OUTPUTS).T.float().contiguous()
        factors = _vandermonde(line.shape[2]) * scale
        self._weight = torch.einsum("pk,ock->poc", factors, line).float().contiguous()
        self._bias = None if bias is None else bias.view(1, -1, 1, 1)

    def __call__(self, x: Tensor) -> Tensor:
        other = 5 - self._axis
        length, rows = x.shape[self._axis], x.shape[other]
        tiles = -(-length // _OUTPUTS)
        sides = (2, 2 + tiles * _OUTPUTS - length)
        padded = F.pad(x, (*sides, 0, 0) if self._axis == 3 else (0, 0, *sides))
        shape = [len(x), self._weight.shape[1], *x.shape[2:]]
        shape[self._axis] = tiles * _OUTPUTS
        out = x.new_empty(shape)
        step = max(1, _LINE_BLOCK * rows // padded.numel())
        for start in range(0, rows, step):
            count = min(step, rows - start)
            self._block(
                padded.narrow(other, start, count),
                out.narrow(other, start, count),
            )
        out = out.narrow(self._axis, 0, length)
        return out if self._bias is None else out + self._bias

    def _block(self, x: Tensor, out: Tensor) -> None:
        """Write the convolution of the padded `x` to `out`."""
        points, outputs, channels = self._weight.shape
        windows = x.unfold(self._axis, points, _OUTPUTS)  # (B, C, h, w, point)
        lined = windows.permute(4, 1, 0, 2, 3).reshape(points, -1)
        values = torch.mm(self._into, lined).view(points, channels, -1)
        products = torch.bmm(self._weight, values).view(points, -1)
        batch, _, height, width = windows.shape[:4]
        found = torch.mm(self._out, products).view(_OUTPUTS, outputs, batch, height, width)
        # the outputs of a window lie side by side on the axis
        out.unflatten(self._axis, (-1, _OUTPUTS)).copy_(
            found.permute(2, 1, 3, 4, 0) if self._axis == 3 else found.permute(2, 1, 3, 0, 4)
        )


def _vandermonde(count: int) -> Tensor:
    """Return the powers 0 to `count` - 1 of every point, the highest alone at infinity."""
    points = torch.tensor(_POINTS, dtype=torch.float64)
    infinity = torch.zeros(1, count, dtype=torch.float64)
    infinity[0, -1] = 1
    return torch.cat([torch.vander(points, count, increasing=True), infinity])
