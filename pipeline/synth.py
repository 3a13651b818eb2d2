"""Made clips with exact masks and exact flow: `make_clip(seed, frames, size=(H, W))`.

A clip is a stack of textured planes: a background that pans, and one or two smooth shapes that
move, turn and breathe over it. Every plane has a similarity transform per frame, so masks and flow
are computed, not estimated. All textures come from one generator and the background is about as
fast as the objects, in another direction: neither colour nor place nor speed alone gives the object
away.

Points of the plane are complex numbers x + iy in pixels (x right, y down): turning and scaling is a
multiplication. Legend: T frames, H W rows and columns, N objects.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vsodpipe.errors import UsageError

__all__ = ["Clip", "make_clip"]

_SHARE = {1: (0.07, 0.16), 2: (0.045, 0.085)}
"""Share of the frame that one object covers where nothing hides it, by the number of objects."""
_SPEED = (0.012, 0.022)
"""Speed of the objects per frame, in shorter sides of the frame."""
_PACE = (0.9, 1.25)
"""Speed of the background in speeds of the objects."""
_COURSE = (math.radians(80), math.radians(180))
"""Angle between the course of the background and that of an object."""
_TURN = (2 * math.pi / 90, 2 * math.pi / 45)
"""Change of every course per frame: the paths are circles, which keeps the angle between them."""
_FINE = 2
"""Texture pixels per frame pixel: bilinear sampling is then faithful to a fraction of a pixel."""
_SMALLEST = 32
"""Smallest side of a frame in pixels; below it an object is a few pixels wide."""


@dataclass(frozen=True, eq=False)
class Clip:
    """A made video."""

    img: NDArray[np.uint8]
    """(T, H, W, 3) RGB."""
    gt: NDArray[np.bool_]
    """(T, H, W) True where an object is seen."""
    flow: NDArray[np.float32]
    """(T, H, W, 2) x then y in pixels: where the surface seen at a pixel of frame t lies in frame
    t + 1, hidden or not; for the last frame, in the one before it (tail rule `backward`)."""


@dataclass(frozen=True, eq=False)
class _Plane:
    """A texture, its pose in every frame, and its outline (None: the background, without end)."""

    texture: NDArray[np.float32]
    """(P, P, 3) RGB in 0..255, periodic, _FINE texture pixels per pixel."""
    origin: NDArray[np.complex128]
    """(T,) where the plane's zero point lies in the frame."""
    gain: NDArray[np.complex128]
    """(T,) scale * exp(i angle) from plane to frame."""
    outline: tuple[float, NDArray[np.complex128]] | None = None
    """Mean radius in pixels, and waves c: radius(a) = mean * (1 + sum Re(c_k exp(i (k + 2) a)))."""


def _texture(rng: np.random.Generator, extent: float) -> NDArray[np.float32]:
    """Return a periodic texture for `extent` pixels, (P, P, 3) RGB, with structure at all scales.

    Cloud-like noise (amplitude falling with frequency) cut off well below the sampling rate, mostly
    brightness and some colour, around a colour of its own.
    """
    side = 1 << math.ceil(math.log2(extent * _FINE))
    y, x = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]
    frequency = np.hypot(y, x) * _FINE  # cycles per frame pixel
    shape = np.exp(-((frequency / 0.13) ** 2)) / (frequency + 0.015) ** 1.3
    shape[0, 0] = 0.0  # the mean is set below
    noise = np.fft.rfft2(rng.standard_normal((3, side, side), dtype=np.float32), axes=(1, 2))
    clouds = np.fft.irfft2(noise * shape.astype(np.float32), s=(side, side), axes=(1, 2))
    clouds /= clouds.std(axis=(1, 2), keepdims=True)
    tint = rng.uniform(-35.0, 35.0, 3)
    mix = np.array([[34.0, 9.0, 0.0], [34.0, -4.5, 7.0], [34.0, -4.5, -7.0]])
    texture = np.tensordot(clouds, mix, axes=(0, 1)) + (128.0 + tint)
    return np.clip(texture, 0, 255).astype(np.float32)


def _wave(rng: np.random.Generator, t: NDArray[np.float64], size: float) -> NDArray[np.float64]:
    """Return a slow oscillation of the given size over the frames `t`."""
    return size * np.sin(t * rng.uniform(0.08, 0.2) + rng.uniform(0, 2 * math.pi))


def _places(rng: np.random.Generator, size: tuple[int, int], margins: list[float]) -> list[complex]:
    """Return a point of the frame per margin, that far from its border, the points far apart."""

    def place(margin: float) -> complex:
        x, y = (rng.uniform(edge := min(margin, side / 2), side - edge) for side in size[::-1])
        return complex(x, y)

    layouts = [[place(margin) for margin in margins] for _ in range(8)]
    return max(layouts, key=lambda places: abs(places[0] - places[-1]))


def _planes(
    rng: np.random.Generator, frames: int, size: tuple[int, int], objects: int
) -> list[_Plane]:
    """Return the background and the objects, the nearest last."""
    height, width = size
    short = min(size)
    t = np.arange(frames, dtype=np.float64)
    turn = rng.choice((-1, 1)) * rng.uniform(*_TURN)
    course = np.exp(1j * (turn * t + rng.uniform(0, 2 * math.pi))) / (1j * turn)
    speed = short * rng.uniform(*_SPEED)

    middle = complex(width / 2, height / 2)
    gain = np.exp(_wave(rng, t, 0.05) + 1j * _wave(rng, t, 0.05))
    pan = speed * rng.uniform(*_PACE) * (course - course[0])
    planes = [_Plane(_texture(rng, max(size)), middle + pan, gain)]

    radii = [
        math.sqrt(rng.uniform(*_SHARE[objects]) * height * width / math.pi) for _ in range(objects)
    ]
    margins = [speed / abs(turn) + 0.4 * radius for radius in radii]
    for radius, place in zip(radii, _places(rng, size, margins), strict=True):
        angle = rng.choice((-1, 1)) * rng.uniform(*_COURSE)
        path = place + speed * course * np.exp(1j * angle)
        gain = np.exp(_wave(rng, t, 0.06) + 1j * _wave(rng, t, 0.25))
        waves = np.array([0.22, 0.14, 0.08]) * rng.uniform(0.3, 1.0, 3)
        outline = waves * np.exp(2j * math.pi * rng.random(3))
        planes.append(_Plane(_texture(rng, 3 * radius), path, gain, (radius, outline)))
    return planes


def _sample(plane: _Plane, points: NDArray[np.complex128]) -> NDArray[np.float32]:
    """Return the texture (H, W, 3) at `points` of the plane, bilinear."""
    side = plane.texture.shape[0]
    x = np.mod(points.real * _FINE, side).astype(np.float32)
    y = np.mod(points.imag * _FINE, side).astype(np.float32)
    wrap = cv2.BORDER_WRAP
    return np.asarray(cv2.remap(plane.texture, x, y, cv2.INTER_LINEAR, borderMode=wrap))


def _depth(plane: _Plane, points: NDArray[np.complex128], t: int) -> NDArray[np.float64]:
    """Return how many pixels of the frame a point lies inside the outline, about; < 0 outside."""
    if plane.outline is None:
        return np.full(points.shape, np.inf)
    mean, waves = plane.outline
    angle = np.angle(points)
    radius = np.full(points.shape, 1.0)
    for k, wave in enumerate(waves, start=2):
        radius += (wave * np.exp(1j * k * angle)).real
    return (mean * radius - np.abs(points)) * abs(plane.gain[t])


def make_clip(
    seed: int, frames: int, *, size: tuple[int, int] = (120, 160), objects: int | None = None
) -> Clip:
    """Return a clip of `frames` frames of `size` (H, W) with one or two objects (None: drawn).

    The same arguments give the same clip. Objects cover 5 to 20 % of a frame, less while they are
    partly outside or behind one another, and never leave it altogether.
    """
    if frames < 1 or min(size) < _SMALLEST or objects not in (None, *_SHARE):
        raise UsageError(
            f"made clip: expected at least 1 frame, sides of {_SMALLEST} px or more and 1 or 2 "
            f"objects, got {frames} frames of {size[0]}x{size[1]} and {objects} objects."
        )
    rng = np.random.default_rng(seed)
    planes = _planes(rng, frames, size, objects or int(rng.integers(1, 3)))
    y, x = np.mgrid[: size[0], : size[1]]
    pixels = x + 1j * y
    img = np.empty((frames, *size, 3), np.uint8)
    gt = np.zeros((frames, *size), bool)
    flow = np.zeros((frames, *size, 2), np.float32)
    for t in range(frames):
        other = t + 1 if t + 1 < frames else max(t - 1, 0)
        picture = np.zeros((*size, 3), np.float32)
        for plane in planes:
            points = (pixels - plane.origin[t]) / plane.gain[t]
            depth = _depth(plane, points, t)
            seen = depth >= 0
            # the edge is one pixel wide; the mask ends in its middle
            alpha = np.clip(depth + 0.5, 0, 1).astype(np.float32)[..., None]
            picture += alpha * (_sample(plane, points) - picture)
            moved = (plane.origin[other] + plane.gain[other] * points - pixels)[seen]
            flow[t][seen] = np.stack([moved.real, moved.imag], axis=-1)
            if plane.outline is not None:
                gt[t] |= seen
        img[t] = np.rint(picture)
    return Clip(img, gt, flow)
