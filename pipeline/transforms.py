"""Joint geometry and colour changes of a clip's img, gt, flow, depth and thermal, on tensors.

Legend: T frames, H W rows and columns. One draw holds for the whole clip, so that two equal frames
stay equal. Flipping a colour-coded flow leaves its hue as it is: the published training code of
this family accepts that. Flow as vectors turns, flips and scales with the picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from vsodpipe.recipe import Augment, Data

Clip = dict[str, Tensor]
"""img, depth, thermal uint8 (T, 3, H, W); gt uint8 (T, 1, H, W) of 0 and 1, soft masks of 0 to 255;
flow uint8 (T, 3, H, W) as a picture, or float32 (T, 2, H, W) in pixels of that size, x then y."""


def changes(options: Augment) -> bool:
    """Return whether `augment` can change anything with these options."""
    ranges = (options.brightness, options.contrast, options.saturation, options.sharpness)
    turns = options.rotate and options.rotate_probability
    return bool(options.crop or options.flip or turns) or any(r != (1.0, 1.0) for r in ranges)


class Change(NamedTuple):
    """One random draw of an augmentation."""

    cut: tuple[int, int]
    """Pixels of the native frame that the centre crop takes, of rows and columns."""
    flip: bool
    angle: float
    """Counter-clockwise, in degrees."""
    factors: tuple[float, ...]
    """Of brightness, contrast, saturation and sharpness, in this order."""

    @property
    def only_flips(self) -> bool:
        """Whether nothing changes but left and right, or nothing at all."""
        return self == NOTHING._replace(flip=self.flip)


NOTHING = Change((0, 0), False, 0.0, (1.0, 1.0, 1.0, 1.0))


def draw(options: Augment, rng: np.random.Generator) -> Change:
    """Return one random change, drawn in the order of the options' fields."""
    cut = rng.integers(0, options.crop + 1, 2).tolist() if options.crop else (0, 0)
    flip = bool(rng.random() < options.flip)
    turned = options.rotate and rng.random() < options.rotate_probability
    angle = float(rng.uniform(-options.rotate, options.rotate)) if turned else 0.0
    ranges = (options.brightness, options.contrast, options.saturation, options.sharpness)
    factors = (float(rng.uniform(*r)) if r != (1.0, 1.0) else 1.0 for r in ranges)
    return Change((cut[0], cut[1]), flip, angle, tuple(factors))


def augment(clip: Clip, change: Change, native: tuple[int, int], *, soft: bool = False) -> Clip:
    """Return the clip after crop, flip, rotation and colour, in this order.

    `native` is the (H, W) that the crop's pixels refer to: a store holds the frames smaller. Masks
    turn to the nearest pixel, `soft` ones bilinearly.
    """
    if change.cut != (0, 0):
        sides = zip(clip["img"].shape[-2:], change.cut, native, strict=True)
        size = [max(1, side - round(cut * side / whole)) for side, cut, whole in sides]
        clip = {key: F.center_crop(value, size) for key, value in clip.items()}
    if change.flip:
        clip = {key: _flip(value) for key, value in clip.items()}
    if change.angle:
        clip = {key: _rotate(key, value, change.angle, soft) for key, value in clip.items()}
    return {**clip, "img": _colour(clip["img"], change.factors)}


def flip_in_place(pictures: NDArray[Any]) -> None:
    """Flip pictures uint8 (T, H, W, C), or vectors float32 (T, 2, H, W), as `augment` does.

    It takes a tenth of the time that tensors take.
    """
    vectors = pictures.dtype == np.float32
    for plane in pictures.reshape(-1, *pictures.shape[2:]) if vectors else pictures:
        cv2.flip(plane, 1, plane)
    if vectors:
        np.negative(pictures[:, 0], out=pictures[:, 0])


def resize(
    clip: Clip, size: tuple[int, int], rule: str = "bilinear", *, soft: bool = False
) -> Clip:
    """Return the clip at `size` (H, W): pictures antialiased by `rule`, as Pillow does it.

    `rule` is bilinear or bicubic; vectors are bilinear in either case. Masks are resized to the
    nearest pixel, `soft` ones bilinearly.
    """
    return {key: _resize(key, value, size, rule, soft) for key, value in clip.items()}


def _resize(key: str, value: Tensor, size: tuple[int, int], rule: str, soft: bool) -> Tensor:
    height, width = value.shape[-2:]
    if (height, width) == size:
        return value
    if key == "gt" and not soft:
        return F.resize(value, list(size), InterpolationMode.NEAREST_EXACT)
    if rule == "bicubic" and key != "gt" and not _vectors(value):
        return torch.stack([_bicubic(picture, size) for picture in value])
    resized = F.resize(value, list(size), InterpolationMode.BILINEAR, antialias=True)
    if _vectors(value):
        resized = resized * torch.tensor([size[1] / width, size[0] / height]).view(2, 1, 1)
    return resized


def _bicubic(picture: Tensor, size: tuple[int, int]) -> Tensor:
    # by Pillow, as published: torch's differs by a grey level in one pixel of two hundred
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    made = np.array(image.resize(size[::-1], Image.Resampling.BICUBIC))
    return torch.from_numpy(made).permute(2, 0, 1)


def _vectors(value: Tensor) -> bool:
    return value.shape[-3] == 2


def _flip(value: Tensor) -> Tensor:
    value = F.horizontal_flip(value)
    return value * torch.tensor([-1.0, 1.0]).view(2, 1, 1) if _vectors(value) else value


def _rotate(key: str, value: Tensor, angle: float, soft: bool = False) -> Tensor:
    if key == "gt" and not soft:
        return F.rotate(value, angle, InterpolationMode.NEAREST)
    if _vectors(value):  # the picture turns counter-clockwise, y points down
        u, v = F.rotate(value, angle, InterpolationMode.BILINEAR).unbind(1)
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        return torch.stack([u * cos + v * sin, v * cos - u * sin], 1)
    # outside the picture: black for the frame, white (no motion) for the flow
    fill = [255.0 if key == "flow" else 0.0] * value.shape[-3]
    return F.rotate(value, angle, InterpolationMode.BILINEAR, fill=fill)


def _colour(img: Tensor, factors: Sequence[float]) -> Tensor:
    steps = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_sharpness)
    for change, factor in zip(steps, factors, strict=True):
        if factor != 1:
            img = change(img, factor)
    return img


def to_float(clip: Clip, data: Data) -> Clip:
    """Return float32: img, and flow if the recipe says so, normalised; others, and gt, in 0..1.

    Works on any tensors (..., C, H, W) of a clip or a batch, with keys such as `ref_img`, on their
    own device, with the same result on each; what is float already stays as it is.
    """
    return {key: _to_float(key, value, data) for key, value in clip.items()}


def _normalised(key: str, data: Data) -> bool:
    chosen = key.endswith("img") or (data.normalise_flow and key.endswith("flow"))
    return chosen and (any(data.mean) or any(s != 1 for s in data.std))


def _to_float(key: str, value: Tensor, data: Data) -> Tensor:
    if value.dtype != torch.uint8:
        return value
    if key == "gt" and data.masks == "binary":
        return value.float()
    if not _normalised(key, data):
        # a number would become a multiplication by its inverse on CUDA
        return value.float() / torch.full((), 255.0, device=value.device)
    scale, shift = (row.to(value.device)[:, None, None] for row in _affine(data.mean, data.std, 1))
    return value.float() * scale + shift


@lru_cache
def _affine(mean: tuple[float, ...], std: tuple[float, ...], pixels: int) -> tuple[Tensor, Tensor]:
    """Return `a` and `b` of x * a + b, which is (x / 255 - mean) / std, for a row of pixels.

    Two operations in place of three, each of them rounded alike on every device.
    """
    wide = torch.tensor(std, dtype=torch.float64)
    scale, shift = 1 / (255 * wide), -torch.tensor(mean, dtype=torch.float64) / wide
    return scale.float().repeat(pixels), shift.float().repeat(pixels)


def write_floats(key: str, picture: Tensor, out: Tensor, data: Data) -> None:
    """Write what `to_float` makes of a uint8 `picture` (H, W, C) to the float32 `out` (H, W, C).

    Rows are taken as a whole, so that the three channels need no steps of three.
    """
    rows = out.view(len(out), -1)
    rows.copy_(picture.view(len(out), -1))
    if key == "gt" and data.masks == "binary":
        return
    if _normalised(key, data):
        scale, shift = _affine(data.mean, data.std, out.shape[1])
        rows.mul_(scale).add_(shift)
    else:
        rows.div_(255.0)


def rescale(value: Tensor, size: tuple[int, int]) -> Tensor:
    """Return float pictures (..., C, h, w) at `size` (H, W), corners aligned, not antialiased."""
    if tuple(value.shape[-2:]) == size:
        return value
    flat = value.flatten(0, -4)
    done = torch.nn.functional.interpolate(flat, size=size, mode="bilinear", align_corners=True)
    return done.view(*value.shape[:-2], *size)
