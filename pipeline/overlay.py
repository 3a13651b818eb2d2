"""One picture of a frame, its flow and its saliency maps side by side, each under its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pictures
from PIL import ImageDraw, ImageFont

from vsodpipe.progress import printable

Image = NDArray[np.uint8]

WIDEST, HIGHEST = 2576, 1440
"""Most pixels of the whole picture; panels of larger frames are made smaller."""
SMALLEST = 256
"""Least pixels of a panel's longer side: names have to be read."""
GAP = 4
"""Pixels between panels."""

_PAPER, _INK, _SOFT_INK = (22, 24, 28), (238, 240, 243), (150, 156, 165)
_COLOUR = np.array((255, 72, 50), np.float32)
"""Of the salient object: red as DAVIS paints its masks, seen on grass, water and sky alike."""
_TINT = 0.45
"""Share of that colour where the map is full."""
_DIM = 0.55
"""What is left of the light where the map is empty."""


@dataclass(frozen=True)
class Grid:
    """Where the panels of a picture stand, in pixels."""

    titles: tuple[str, ...]
    columns: int
    panel: tuple[int, int]
    """(height, width) of a panel."""
    bar: int
    """Height of the strip with the name above each panel."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the whole picture; both are even, as H.264 needs."""
        rows = -(-len(self.titles) // self.columns)
        height = rows * (self.bar + self.panel[0]) + (rows - 1) * GAP
        width = self.columns * self.panel[1] + (self.columns - 1) * GAP
        return height, width

    def corner(self, number: int) -> tuple[int, int]:
        """Return (top, left) of the strip above a panel."""
        row, column = divmod(number, self.columns)
        return row * (self.bar + self.panel[0] + GAP), column * (self.panel[1] + GAP)


def grid(titles: Sequence[str], size: tuple[int, int]) -> Grid:
    """Return the grid of one panel a title for frames of `size` (H, W).

    Panels stand in one row, more than three of them (six of upright frames) in two.
    """
    height, width = size
    count = len(titles)
    columns = count if count <= (3 if width > height else 6) else -(-count // 2)
    rows = -(-count // columns)
    bar = 36
    scale = min(
        1.0,
        (WIDEST - (columns - 1) * GAP) / (columns * width),
        (HIGHEST - rows * bar - (rows - 1) * GAP) / (rows * height),
    )
    scale = max(scale, SMALLEST / max(height, width)) if scale == 1.0 else scale
    panel = (_even(height * scale), _even(width * scale))
    return Grid(tuple(map(printable, titles)), columns, panel, bar)


def _even(pixels: float) -> int:
    return max(2, 2 * round(pixels / 2))


class Canvas:
    """The picture of a grid, drawn anew for every frame."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._font = ImageFont.load_default(size=20)
        blank = Pictures.new("RGB", grid.size[::-1], _PAPER)
        draw = ImageDraw.Draw(blank)
        for number, title in enumerate(grid.titles):
            top, left = grid.corner(number)
            text = self._fitted(draw, title, grid.panel[1] - 20)
            draw.text((left + 10, top + grid.bar // 2), text, _INK, self._font, "lm")
        self._blank = np.array(blank)
        self._note_right = grid.panel[1] - 10
        self._note_left = 10 + draw.textlength(grid.titles[0], self._font) + 20

    def _fitted(self, draw: ImageDraw.ImageDraw, title: str, width: int) -> str:
        """Return as much of `title` as has room."""
        text = title
        while text and draw.textlength(text, self._font) > width:
            text = f"{text[:-2]}…" if len(text) > 2 else ""
        return text

    def draw(self, panels: Sequence[Image], note: str) -> Image:
        """Return the picture of the panels, uint8 RGB; `note` stands at the right of the first."""
        picture = self._blank.copy()
        height, width = self._grid.panel
        for number, panel in enumerate(panels):
            top, left = self._grid.corner(number)
            top += self._grid.bar
            picture[top : top + height, left : left + width] = panel
        strip = Pictures.fromarray(picture[: self._grid.bar, :width])
        draw = ImageDraw.Draw(strip)
        if draw.textlength(note, self._font) <= self._note_right - self._note_left:
            place = (self._note_right, self._grid.bar // 2)
            draw.text(place, note, _SOFT_INK, self._font, "rm")
            picture[: self._grid.bar, :width] = np.array(strip)
        return picture


def scaled(image: Image, size: tuple[int, int]) -> Image:
    """Return `image` at `size` (H, W), by area where that is smaller."""
    if image.shape[:2] == size:
        return image
    rule = cv2.INTER_AREA if size[0] < image.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size[::-1], interpolation=rule), np.uint8)


def painted(image: Image, saliency: Image) -> Image:
    """Return the frame (H, W, 3) with its map (H, W) on it: dim, the object tinted and outlined."""
    share = saliency.astype(np.float32)[..., None] / 255
    light = image * (_DIM + (1 - _DIM) * share)
    mixed = light + _TINT * share * (_COLOUR - light)
    result: Image = mixed.astype(np.uint8)
    mask = (saliency >= 128).astype(np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    thick = max(1, round(max(saliency.shape) / 400))
    cv2.drawContours(result, outlines, -1, (255, 255, 255), thick, cv2.LINE_AA)
    return result
