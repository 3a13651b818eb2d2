"""Correlation of every pixel of one frame with every pixel of another, kept in three ways.

    volume = made("full", pairs=2, size=(60, 107), levels=4, radius=4, like=features)
    volume.fill([(source, target), ...])
    windows = volume.lookup(centres)

`full`: float32, (B, n, n) and its three pooled levels: 220 MB a pair at 480p, 5.6 GB at 1080p.
`half`: the same in float16, rounded once, when it is stored. It moves the flow of the parity
fixtures (up to 11 px) by 0.0013 px at most with raft_large, by 0.0039 px with raft_small.
`on demand`: nothing is kept. Each lookup multiplies the features that its windows meet, equal to
`full` up to rounding (1e-5 px there).

Letters in shapes as in `raft_stream`.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

KINDS = ("full", "half", "on demand")

_LARGEST = torch.finfo(torch.float16).max


class Features(Protocol):
    """Features of a frame, float32."""

    levels: list[Tensor]
    """(n, C), then pooled by 2, 4 and 8: (n / 4, C), ..."""


class Correlation(Protocol):
    """What every kind offers."""

    def fill(self, pairs: Sequence[tuple[Features, Features]]) -> None:
        """Correlate each pair's (source, target)."""
        ...

    def turn(self, pairs: Sequence[tuple[Features, Features]]) -> None:
        """Make the volume of `pairs` that of the swapped ones: from each target to its source."""
        ...

    def lookup(self, centres: Tensor) -> Tensor:
        """Return the windows around `centres`, (B, 2, h, w), as (B, levels * k * k, h, w)."""
        ...


def made(
    kind: str, pairs: int, size: tuple[int, int], levels: int, radius: int, like: Tensor
) -> Correlation:
    """Return room for the correlation of `pairs` pairs, features of `size` (h, w), by `KINDS`."""
    if kind == "on demand":
        return OnDemand(size, levels, radius)
    if kind == "half":
        return HalfVolume(pairs, size, levels, radius, like)
    return Volume(pairs, size, levels, radius, like)


class Volume:
    """The `full` kind: one buffer for a whole clip, never allocated anew for each pair."""

    def __init__(
        self, pairs: int, size: tuple[int, int], levels: int, radius: int, like: Tensor
    ) -> None:
        self._sizes = _pyramid(size, levels)
        n = size[0] * size[1]
        self._levels = [like.new_empty(pairs, n, h * w) for h, w in self._sizes]
        steps = torch.arange(-radius, radius + 1, dtype=torch.float32, device=like.device)
        # x varies along the first axis of the window, as in torchvision's index_pyramid.
        offsets = torch.stack(torch.meshgrid(steps, steps, indexing="ij")).flatten(1)
        # Pixels of each level in the -1..1 of grid_sample, (2, 1). Made here, not in every lookup:
        # each would be a copy to the device that the device waits for.
        self._pixels = [like.new_tensor([[2 / (w - 1)], [2 / (h - 1)]]) for h, w in self._sizes]
        self._offsets = [offsets * pixel for pixel in self._pixels]
        self._window = 2 * radius + 1
        # All lookups write their points there: as many allocations cost more than what they hold.
        self._grid = like.new_empty(pairs * n, 2, self._window**2)

    def fill(self, pairs: Sequence[tuple[Features, Features]]) -> None:
        """See `Correlation`."""
        for number, (source, target) in enumerate(pairs):
            for level, features in zip(self._levels, target.levels, strict=True):
                _multiply(source.levels[0], features, level[number])

    def turn(self, pairs: Sequence[tuple[Features, Features]]) -> None:
        """See `Correlation`."""
        for number, (source, target) in enumerate(pairs):
            _transpose(self._levels[0][number])
            for level, features in zip(self._levels[1:], source.levels[1:], strict=True):
                _multiply(target.levels[0], features, level[number])

    def lookup(self, centres: Tensor) -> Tensor:
        """See `Correlation`."""
        batch, _, h, w = centres.shape
        centres = centres.permute(0, 2, 3, 1).reshape(-1, 2, 1)
        found = []
        for number, level in enumerate(self._levels):
            # Centres and offsets are normalised each by themselves: all windows are alike.
            moved = centres * (self._pixels[number] / 2**number) - 1
            grid = torch.add(moved, self._offsets[number], out=self._grid[: len(moved)])
            # (B * n, 2, k * k) seen as (B * n, k, k, 2): planes of x and y need no shuffling.
            grid = grid.unflatten(2, (self._window, self._window)).permute(0, 2, 3, 1)
            planes = level[:batch].view(-1, 1, *self._sizes[number])
            windows = F.grid_sample(planes, grid, align_corners=True)
            found.append(windows.view(batch, h, w, -1))
        return torch.cat(found, -1).permute(0, 3, 1, 2)


class HalfVolume:
    """The `half` kind: products and lookups in float32, by blocks, and only stored in float16."""

    def __init__(
        self, pairs: int, size: tuple[int, int], levels: int, radius: int, like: Tensor
    ) -> None:
        self._sizes = _pyramid(size, levels)
        n = size[0] * size[1]
        self._levels = [
            like.new_empty(pairs, n, h * w, dtype=torch.float16) for h, w in self._sizes
        ]
        self._radius = radius

    def fill(self, pairs: Sequence[tuple[Features, Features]]) -> None:
        """See `Correlation`."""
        for number, (source, target) in enumerate(pairs):
            for level, features in zip(self._levels, target.levels, strict=True):
                _multiply_half(source.levels[0], features, level[number])

    def turn(self, pairs: Sequence[tuple[Features, Features]]) -> None:
        """See `Correlation`."""
        for number, (source, target) in enumerate(pairs):
            _transpose(self._levels[0][number])
            for level, features in zip(self._levels[1:], source.levels[1:], strict=True):
                _multiply_half(target.levels[0], features, level[number])

    def lookup(self, centres: Tensor) -> Tensor:
        """See `Correlation`."""
        batch, _, h, w = centres.shape
        points = centres.permute(0, 2, 3, 1).reshape(-1, 2)
        found = points.new_empty(len(points), len(self._levels), (2 * self._radius + 1) ** 2)
        rows = block_rows(centres.device, 12 * (2 * self._radius + 2) ** 2)
        for number, level in enumerate(self._levels):
            planes = level[:batch].flatten(0, 1)
            for first in range(0, len(points), rows):
                part = slice(first, first + rows)
                window = _Windows(points[part] / 2**number, self._sizes[number], self._radius)
                values = planes[part].gather(1, window.index).float()
                found[part, number] = window.blend(values)
        return found.view(batch, h, w, -1).permute(0, 3, 1, 2)


class OnDemand:
    """The `on demand` kind: only the products that a lookup needs, block by block."""

    def __init__(self, size: tuple[int, int], levels: int, radius: int) -> None:
        self._sizes = _pyramid(size, levels)
        self._radius = radius
        self._pairs: list[tuple[Features, Features]] = []

    def fill(self, pairs: Sequence[tuple[Features, Features]]) -> None:
        """See `Correlation`."""
        self._pairs = list(pairs)

    def turn(self, pairs: Sequence[tuple[Features, Features]]) -> None:
        """See `Correlation`."""
        self._pairs = [(target, source) for source, target in pairs]

    def lookup(self, centres: Tensor) -> Tensor:
        """See `Correlation`."""
        batch, _, h, w = centres.shape
        points = centres.permute(0, 2, 3, 1).reshape(batch, h * w, 2)
        window_size = (2 * self._radius + 1) ** 2
        found = points.new_empty(batch, h * w, len(self._sizes), window_size)
        for number, (source, target) in enumerate(self._pairs):
            for level, features in enumerate(target.levels):
                self._level(points[number], source.levels[0], features, level, found[number])
        return found.view(batch, h, w, -1).permute(0, 3, 1, 2)

    def _level(
        self, points: Tensor, source: Tensor, target: Tensor, level: int, found: Tensor
    ) -> None:
        corners = (2 * self._radius + 2) ** 2
        channels = source.shape[1]
        rows = block_rows(source.device, 4 * corners * channels)
        for first in range(0, len(points), rows):
            part = slice(first, first + rows)
            window = _Windows(points[part] / 2**level, self._sizes[level], self._radius)
            met = target.index_select(0, window.index.flatten()).view(-1, corners, channels)
            # Not bmm: as many products of matrix and vector are five times as slow on a CPU.
            found[part, level] = window.blend(met.mul_(source[part, None]).sum(-1))


class _Windows:
    """The 2r+2 by 2r+2 pixels around `points`, (m, 2), of a level of `size`, by number."""

    def __init__(self, points: Tensor, size: tuple[int, int], radius: int) -> None:
        h, w = size
        # Points far outside meet zeros only, wherever they are; as integers they must stay small.
        limit = points.new_tensor([w, h]) + (radius + 1)
        points = torch.minimum(points.clamp(min=-radius - 2), limit)
        low = points.floor()
        self._share = points - low
        steps = torch.arange(-radius, radius + 2, device=points.device)
        x, y = (low.long()[:, :, None] + steps).unbind(1)
        self._inside = ((x >= 0) & (x < w))[:, :, None] & ((y >= 0) & (y < h))[:, None]
        x, y = x.clamp_(0, w - 1), y.clamp_(0, h - 1)
        self.index = (x[:, :, None] + y[:, None] * w).flatten(1)
        """(m, (2r+2) ** 2); x varies along the first axis, as in torchvision's index_pyramid."""

    def blend(self, values: Tensor) -> Tensor:
        """Return the windows, (m, k * k), from the `values` at `index`: bilinear, 0 outside."""
        values = values.view_as(self._inside).masked_fill(~self._inside, 0)
        x, y = self._share[:, :, None, None].unbind(1)
        values = torch.lerp(values[:, :-1], values[:, 1:], x)
        return torch.lerp(values[:, :, :-1], values[:, :, 1:], y).flatten(1)


def block_rows(device: torch.device, row_bytes: int) -> int:
    """Return how many rows of `row_bytes` are worked on at once: what a cache holds, on a CPU."""
    return max(1, block_bytes(device) // row_bytes)


def block_bytes(device: torch.device) -> int:
    """Return the size of a block of working memory on `device`."""
    return 2**28 if device.type == "cuda" else 2**23


def _multiply(source: Tensor, target: Tensor, out: Tensor) -> None:
    """Write source @ target.T into `out`.

    On a CPU by blocks, 1.3 to 1.45 times as fast: so few channels for so large a product are not
    what BLAS is made for.
    """
    if source.device.type != "cpu":
        torch.mm(source, target.t(), out=out)
        return
    parts = -(-len(target) // 2048)
    for rows, found in zip(source.split(256), out.split(256), strict=True):
        for columns, block in zip(
            target.tensor_split(parts), found.tensor_split(parts, 1), strict=True
        ):
            torch.mm(rows, columns.t(), out=block)


def _multiply_half(source: Tensor, target: Tensor, out: Tensor) -> None:
    """Write source @ target.T into the float16 `out`, without the whole in float32."""
    # Larger blocks than a lookup's: with few rows a product is slow.
    rows = 8 * block_rows(source.device, 4 * len(target))
    for first in range(0, len(source), rows):
        part = slice(first, first + rows)
        product = torch.mm(source[part], target.t())
        # An infinity would become NaN in a lookup.
        out[part] = product.clamp_(-_LARGEST, _LARGEST)


def _pyramid(size: tuple[int, int], levels: int) -> list[tuple[int, int]]:
    return [(size[0] >> level, size[1] >> level) for level in range(levels)]


def _transpose(square: Tensor, block: int = 256) -> None:
    """Transpose a (n, n) matrix in place, block by block: a second one might not fit."""
    n = len(square)
    for top in range(0, n, block):
        rows = slice(top, top + block)
        square[rows, rows] = square[rows, rows].t().clone()
        for left in range(top + block, n, block):
            columns = slice(left, left + block)
            above = square[rows, columns].clone()
            square[rows, columns] = square[columns, rows].t()
            square[columns, rows] = above.t()
