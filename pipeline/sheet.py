"""Contact sheets: a grid of pictures that a person can judge at a glance.

contact_sheet([("dog\\n00012", [frame, mask, flow, saliency]), ...],
              ["frame", "mask", "flow", "ours"], "sheet.png")
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vsodpipe.errors import DataError
from vsodpipe.media import encode_png, write_bytes

__all__ = ["Cell", "contact_sheet"]

Cell = NDArray[np.uint8] | NDArray[np.bool_] | None
"""RGB (H, W, 3) or grey (H, W) uint8, a bool mask (H, W), or None where there is nothing."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_PAPER, _INK, _SOFT_INK = (255, 255, 255), (32, 36, 42), (96, 103, 112)
_LINE, _EMPTY = (205, 209, 214), (244, 245, 247)


@dataclass(frozen=True)
class _Layout:
    """Where things stand on the sheet, in pixels."""

    lefts: list[int]
    """Left side of each column."""
    widths: list[int]
    top: int
    """Upper side of the first row."""
    height: int
    """Height of every picture."""
    gap: int
    """Distance between neighbouring pictures."""
    title_font: Font
    label_font: Font


def _text_size(text: str, font: Font) -> tuple[int, int]:
    """Return width and height in pixels; text may have several lines."""
    scratch = ImageDraw.Draw(Image.new("L", (1, 1)))
    _, _, right, bottom = scratch.multiline_textbbox((0, 0), text, font=font)
    return math.ceil(right), math.ceil(bottom)


def _thumbnail(cell: Cell, height: int, where: str) -> Image.Image | None:
    """Return the cell as an RGB picture of the given height, its proportions kept."""
    if cell is None:
        return None
    pixels = cell.astype(np.uint8) * 255 if cell.dtype == np.bool_ else cell
    shaped = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not shaped or not pixels.size:
        raise DataError(
            f"contact sheet: expected uint8 (H, W, 3) or (H, W) or bool (H, W), "
            f"got {cell.dtype} {cell.shape} ({where})."
        )
    picture = Image.fromarray(pixels).convert("RGB")
    width = max(1, round(picture.width * height / picture.height))
    if picture.size == (width, height):
        return picture
    # shrinking by area: Lanczos would put halos around the hard edges of masks
    smaller = height < picture.height
    rule = Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC
    return picture.resize((width, height), rule)


def _layout(
    grid: list[list[Image.Image | None]], labels: list[str], titles: Sequence[str], height: int
) -> _Layout:
    """Give every column the width of its widest picture or title."""
    gap, margin = max(height // 20, 4), max(height // 8, 12)
    size = min(max(height // 9, 12), 28)
    title_font = ImageFont.load_default(size=size)
    label_font = ImageFont.load_default(size=round(size * 0.85))
    left = margin + max((_text_size(label, label_font)[0] for label in labels), default=0)
    left += 2 * gap if left > margin else 0
    top = margin + max((_text_size(title, title_font)[1] for title in titles), default=0) + 2 * gap
    usual = max((cell.width for row in grid for cell in row if cell), default=height)
    widths, lefts = [], []
    for i, title in enumerate(titles):
        pictures = [cell.width for row in grid if (cell := row[i])] or [usual]
        widths.append(max(_text_size(title, title_font)[0], *pictures))
        lefts.append(left)
        left += widths[-1] + gap
    return _Layout(lefts, widths, top, height, gap, title_font, label_font)


def _draw(
    grid: list[list[Image.Image | None]], labels: list[str], titles: Sequence[str], at: _Layout
) -> Image.Image:
    """Draw thumbnails, titles above and labels at the left."""
    margin = max(at.height // 8, 12)
    right = at.lefts[-1] + at.widths[-1]
    bottom = at.top + len(grid) * (at.height + at.gap) - (at.gap if grid else 0)
    sheet = Image.new("RGB", (right + margin, bottom + margin), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for title, x, width in zip(titles, at.lefts, at.widths, strict=True):
        place = (x + width / 2, at.top - at.gap)
        draw.text(place, title, fill=_INK, font=at.title_font, anchor="md")
    for i, (label, row) in enumerate(zip(labels, grid, strict=True)):
        y = at.top + i * (at.height + at.gap)
        width, height = _text_size(label, at.label_font)
        corner = (at.lefts[0] - 2 * at.gap - width, y + (at.height - height) // 2)
        draw.multiline_text(corner, label, fill=_SOFT_INK, font=at.label_font, align="right")
        for cell, x, width in zip(row, at.lefts, at.widths, strict=True):
            if cell is None:
                cell = Image.new("RGB", (width, at.height), _EMPTY)
            x += (width - cell.width) // 2
            sheet.paste(cell, (x, y))
            # a line around the picture, so that white flow ends visibly
            draw.rectangle((x - 1, y - 1, x + cell.width, y + at.height), outline=_LINE)
    return sheet


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Cell]]],
    titles: Sequence[str],
    path: str | os.PathLike[str] | None = None,
    *,
    height: int = 160,
) -> NDArray[np.uint8]:
    """Return the sheet as uint8 RGB (H, W, 3), and write it to `path` as PNG if given.

    A row is its label (may have several lines) and one cell per title. Pictures of any size are
    scaled to `height` pixels; a cell that is None stays an empty frame.
    """
    if not titles:
        raise DataError("contact sheet: expected at least one title, got none.")
    grid = []
    for label, cells in rows:
        if len(cells) != len(titles):
            raise DataError(
                f"contact sheet: expected a cell for each of the {len(titles)} titles, "
                f"got {len(cells)} (row {label!r})."
            )
        where = [f"row {label!r}, column {title!r}" for title in titles]
        grid.append([_thumbnail(c, height, w) for c, w in zip(cells, where, strict=True)])
    labels = [label for label, _ in rows]
    sheet = np.array(_draw(grid, labels, titles, _layout(grid, labels, titles, height)))
    if path is not None:
        write_bytes(Path(path), encode_png(sheet))
    return sheet
