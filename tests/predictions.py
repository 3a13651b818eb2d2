"""The predictions behind expected_eval.json, made again with the same integers and random bits."""

import zlib

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Map = NDArray[np.uint8]


def _gaussian(radius: int, sigma: float) -> NDArray[np.float32]:
    k = np.arange(-radius, radius + 1, dtype=np.float64)
    return np.floor(4096.0 * np.exp(-(k * k) / (2.0 * sigma * sigma)) + 0.5).astype(np.float32)


def _blurred(a: NDArray[np.int64]) -> NDArray[np.int64]:
    """Integer convolution, rounded half up after each axis, edge pixels repeated."""
    weights, one = _gaussian(9, 3.0), np.ones(1, np.float32)
    total = int(weights.sum())
    for row, column in ((one, weights), (weights, one)):
        # exact in float32: whole numbers, and 255 times the weights stays below 2^24
        image, border = a.astype(np.float32), cv2.BORDER_REPLICATE
        summed = cv2.sepFilter2D(image, cv2.CV_32F, row, column, borderType=border)
        a = (summed.astype(np.int64) + total // 2) // total
    return a


def _moved(a: NDArray[np.int64], dy: int, dx: int) -> NDArray[np.int64]:
    h, w = a.shape
    out = np.zeros_like(a)
    y0, y1, x0, x1 = max(0, dy), min(h, h + dy), max(0, dx), min(w, w + dx)
    out[y0:y1, x0:x1] = a[y0 - dy : y1 - dy, x0 - dx : x1 - dx]
    return out


def _soft(mask: Mask, video: str, index: int) -> NDArray[np.int64]:
    """Blurred, drifting, noisy version of the mask with one false blob, 0..255."""
    h, w = mask.shape
    base = zlib.crc32(video.encode())
    rng = np.random.RandomState((base + 7919 * index) % 2**32)
    dy, dx = base % 5 - 2 + index // 16, (base >> 8) % 7 - 3 + index // 9
    a = _blurred(_moved(mask.astype(np.int64) * 255, dy, dx))
    cy, cx = int(rng.randint(0, h)), int(rng.randint(0, w))
    rad = 10 + int(rng.randint(0, 30))
    distance = np.abs(np.arange(h)[:, None] - cy) + np.abs(np.arange(w) - cx)
    a = np.maximum(a, np.maximum(0, rad - distance) * 200 // rad)
    coarse = rng.randint(-18, 19, size=((h + 15) // 16, (w + 15) // 16))
    coarse = np.repeat(np.repeat(coarse, 16, axis=0), 16, axis=1)[:h, :w]
    fine = rng.randint(-5, 6, size=(3, h, w)).sum(axis=0)
    return np.clip(a + coarse + fine, 0, 255)


def predictions(mask: Mask, video: str, index: int) -> dict[str, Map]:
    """Return the fixture's prediction of every kind for frame `index` of `video`."""
    a, exact = _soft(mask, video, index), mask.astype(np.uint8) * 255
    soft = (14 + (a * (231 - 14) + 127) // 255).astype(np.uint8)
    return {
        "soft": soft,
        "dim": ((a * 170 + 127) // 255).astype(np.uint8),
        "hard": (soft >= 128).astype(np.uint8) * 255,
        "exact": exact,
        "zero": np.zeros_like(exact),
        "full": np.full_like(exact, 255),
        "flat": np.full_like(exact, 77),
        "inverted": 255 - exact,
    }
