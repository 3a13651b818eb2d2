"""What A2S-v2 makes of pictures and masks before its networks, number for number, and of labels.

Legend: H W rows and columns. Pictures are uint8 RGB or grey, resized by Pillow: torch's bicubic
differs from it by a grey level in one pixel of two hundred. Labels come from masks of any levels.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

MEAN = np.array((0.485, 0.456, 0.406))
STD = np.array((0.229, 0.224, 0.225))
SIZE = (320, 320)
"""Height and width that the published networks are trained and tested at."""


def resize(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a picture as RGB (H, W, 3) at `size`, bicubic with antialiasing; grey is repeated."""
    image = Image.fromarray(picture).convert("RGB")
    return np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC))


def img(picture: NDArray[np.uint8], size: tuple[int, int] = SIZE) -> NDArray[np.float32]:
    """Return the RGB picture that a network takes: (3, H, W), mean and deviation of ImageNet."""
    scaled = (resize(picture, size) / np.float32(255) - MEAN) / STD  # in float64, as published
    return np.ascontiguousarray(scaled.transpose(2, 0, 1), dtype=np.float32)


def second(picture: NDArray[np.uint8] | None, size: tuple[int, int] = SIZE) -> NDArray[np.float32]:
    """Return a depth, flow or thermal picture as (3, H, W) in 0..1; all zeros where there is none.

    It is not normalised, although the encoder that sees it began with normalised pictures.
    """
    if picture is None:
        return np.zeros((3, *size), np.float32)
    return np.ascontiguousarray(resize(picture, size).transpose(2, 0, 1) / np.float32(255))


def label(mask: NDArray[np.uint8], size: tuple[int, int] | None = SIZE) -> NDArray[np.float32]:
    """Return a grey mask (H, W) as (1, H, W), its levels stretched to 0 and (almost) 1.

    At `size`, by the nearest pixel, for training; at its own with None, for the test. The object is
    where it is above one half. A mask of one level is empty.
    """
    if size is not None:
        image = Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST)
        mask = np.asarray(image)
    levels = mask.astype(np.float32)
    low, high = levels.min(), levels.max()
    return ((levels - low) / (high - low + np.float32(1e-5)))[None]


def mask(labels: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return labels (H, W), those of the CRF, as a mask file of 0 and 255 at `size`."""
    made = np.empty(size, np.uint8)
    cv2.resize(labels.astype(np.uint8), size[::-1], made, interpolation=cv2.INTER_LINEAR)
    return made * np.uint8(255)
