"""Joint geometry and colour changes of a clip's img, gt and flow pictures, on uint8 tensors.

Legend: T frames, H W rows and columns. One draw holds for the whole clip, so that two equal frames
stay equal. Flipping a colour-coded flow leaves its hue as it is: the published training code of
this family accepts that.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from vsodpipe.recipe import Augment

Clip = dict[str, Tensor]
"""img and flow uint8 (T, 3, H, W); gt uint8 (T, 1, H, W) of 0 and 1."""


def augment(
    clip: Clip, options: Augment, rng: np.random.Generator, native: tuple[int, int]
) -> Clip:
    """Return the clip after one random draw of crop, flip, rotation and colour, in this order.

    `native` is the (H, W) that the crop's pixels refer to: a store holds the frames smaller.
    """
    height, width = clip["img"].shape[-2:]
    if options.crop:
        cut_y, cut_x = rng.integers(0, options.crop + 1, 2)
        size = [
            max(1, height - round(int(cut_y) * height / native[0])),
            max(1, width - round(int(cut_x) * width / native[1])),
        ]
        clip = {key: F.center_crop(value, size) for key, value in clip.items()}
    if rng.random() < options.flip:
        clip = {key: F.horizontal_flip(value) for key, value in clip.items()}
    if options.rotate and rng.random() < options.rotate_probability:
        angle = float(rng.uniform(-options.rotate, options.rotate))
        clip = {key: _rotate(key, value, angle) for key, value in clip.items()}
    return {**clip, "img": _colour(clip["img"], options, rng)}


def resize(clip: Clip, size: tuple[int, int]) -> Clip:
    """Return the clip at `size` (H, W): pictures bilinear and antialiased, masks nearest."""
    return {key: _resize(key, value, size) for key, value in clip.items()}


def _resize(key: str, value: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(value.shape[-2:]) == size:
        return value
    if key == "gt":
        return F.resize(value, list(size), InterpolationMode.NEAREST_EXACT)
    return F.resize(value, list(size), InterpolationMode.BILINEAR, antialias=True)


def _rotate(key: str, value: Tensor, angle: float) -> Tensor:
    if key == "gt":
        return F.rotate(value, angle, InterpolationMode.NEAREST)
    # outside the picture: black for the frame, white (no motion) for the flow
    fill = [255.0] * 3 if key == "flow" else [0.0] * 3
    return F.rotate(value, angle, InterpolationMode.BILINEAR, fill=fill)


def _colour(img: Tensor, options: Augment, rng: np.random.Generator) -> Tensor:
    for change, (low, high) in (
        (F.adjust_brightness, options.brightness),
        (F.adjust_contrast, options.contrast),
        (F.adjust_saturation, options.saturation),
        (F.adjust_sharpness, options.sharpness),
    ):
        if (low, high) != (1.0, 1.0):
            img = change(img, float(rng.uniform(low, high)))
    return img


def to_float(
    clip: Clip, mean: tuple[float, ...], std: tuple[float, ...], *, normalise_flow: bool = False
) -> Clip:
    """Return float32: img normalised by `mean` and `std`, flow like it or in 0..1, gt 0 or 1."""

    def normalised(picture: Tensor) -> Tensor:
        shape = (1, 3, 1, 1)
        return (picture - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)

    plain = not any(mean) and all(s == 1 for s in std)
    done: Clip = {key: clip[key].float() / 255 for key in ("img", "flow") if key in clip}
    for key in ("img", "flow") if normalise_flow else ("img",):
        if key in done and not plain:
            done[key] = normalised(done[key])
    if "gt" in clip:
        done["gt"] = clip["gt"].float()
    return done


def rescale(value: Tensor, size: tuple[int, int]) -> Tensor:
    """Return float pictures (..., C, h, w) at `size` (H, W), corners aligned, not antialiased."""
    if tuple(value.shape[-2:]) == size:
        return value
    flat = value.flatten(0, -4)
    done = torch.nn.functional.interpolate(flat, size=size, mode="bilinear", align_corners=True)
    return done.view(*value.shape[:-2], *size)
