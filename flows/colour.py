"""Flow as a picture: the hue is the direction, the saturation the length, white is no motion.

The colour wheel of Baker et al., "A Database and Evaluation Methodology for Optical Flow" (IJCV
2011), with the arithmetic of princeton's RAFT and torchvision, but normalised for every frame by
itself: torchvision divides by the largest motion of a batch, so its colours depend on the batch.

The colours come out of a table of the disc of all motions, in steps of 1/512 of its radius: at most
2 levels of 255 from the formula (1 in all that was measured), and six times as fast.
"""

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from vsodpipe.errors import DataError, UsageError
from vsodpipe.flows import Flow, Frame

# Red to yellow to green to cyan to blue to magenta and back: hues per step, the channel that
# changes, and whether it rises.
_STEPS = ((15, 1, True), (6, 0, False), (4, 2, True), (11, 1, False), (13, 0, True), (6, 2, False))


def _wheel() -> NDArray[np.float32]:
    """Return the 55 hues as float32 RGB in 0..255, (55, 3)."""
    hues = []
    colour = [255.0, 0.0, 0.0]
    for count, channel, rises in _STEPS:
        for i in range(count):
            level = 255 * i // count
            colour[channel] = level if rises else 255 - level
            hues.append(tuple(colour))
        colour[channel] = 255 if rises else 0
    return np.array(hues, np.float32)


# What a hue takes away from white, and how much more of it the next hue takes, by channel.
_INK = np.ascontiguousarray(255 - _wheel().T)
_NEXT = np.roll(_INK, -1, axis=1) - _INK


# Steps from the middle of the disc to its edge. From one to the next a channel changes by about one
# level (255 a radius outwards, 550 around), so the nearest entry is within about 0.6.
_STEP = 512
_REMAP_SIDE = 2**15 - 1  # OpenCV's remap takes smaller pictures


def flow_to_picture(flow: Flow, radius: float | None = None, longest: float | None = None) -> Frame:
    """Return `flow`, (H, W, 2) in pixels, as a uint8 RGB picture (H, W, 3).

    Full saturation is the largest motion in this flow, or `radius` pixels and more. Where
    `longest_motion` has been called before, its result as `longest` spares a second search.
    """
    if radius is not None and not 0 < radius < np.inf:
        raise UsageError(f"flow colours: expected a radius above 0 px, got {radius}.")
    if longest is None:
        longest = longest_motion(flow)
    u, v = (np.asarray(x, np.float32) for x in cv2.split(np.asarray(flow, np.float32)))
    if radius is None:
        scale = np.float32(_STEP / (longest + np.finfo(np.float32).eps))
        u *= scale
        v *= scale
    else:
        for axis in (u, v):
            axis /= np.float32(radius)
        if longest > radius:
            beyond = np.maximum(np.hypot(u, v), 1)
            u /= beyond
            v /= beyond
        u *= _STEP
        v *= _STEP
    # the first and the last hue meet where v changes its sign, also that of zero: two halves
    row = np.abs(v)
    row += np.signbit(v) * np.float32(_STEP + 1)
    u += _STEP
    if max(u.shape) >= _REMAP_SIDE:
        return np.asarray(_disc()[np.rint(row).astype(np.intp), np.rint(u).astype(np.intp)])
    return np.asarray(cv2.remap(_disc(), u, row, cv2.INTER_NEAREST), np.uint8)


def longest_motion(flow: Flow) -> float:
    """Return the largest motion of `flow`, (H, W, 2), in pixels. Raises DataError for no number."""
    if flow.ndim != 3 or flow.shape[2] != 2 or not flow.size:
        raise DataError(f"flow colours: expected a flow (H, W, 2), got {flow.shape}.")
    longest = float(cv2.magnitude(*cv2.split(np.asarray(flow, np.float32))).max())
    if not np.isfinite(longest):  # so it is too if any number is not
        raise DataError(f"flow colours: expected finite numbers, got a motion of {longest} px.")
    return longest


@cache
def _disc() -> Frame:
    """Return the colours of all motions in the unit disc, (2 * (_STEP + 1), 2 * _STEP + 1, 3).

    The columns are u from -1 to 1; the rows |v| from 0 to 1, for v down and then for v up.
    """
    down = np.arange(_STEP + 1, dtype=np.float32) / _STEP
    u = (np.arange(-_STEP, _STEP + 1, dtype=np.float32) / _STEP)[None]
    v = np.concatenate([down, -down])[:, None]
    length = np.minimum(np.hypot(u, v), 1)
    # -pi..pi onto the positions 0..54 of the wheel
    position = (np.arctan2(-v, -u) / np.float32(np.pi) + 1) / 2 * (_INK.shape[1] - 1)
    hue = position.astype(np.intp)
    share = position - hue
    picture = np.empty((*length.shape, 3), np.uint8)
    for channel in range(3):
        ink = _INK[channel][hue] + share * _NEXT[channel][hue]
        picture[..., channel] = 255 - length * ink
    return picture
