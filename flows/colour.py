"""Flow as a picture: the hue is the direction, the saturation the length, white is no motion.

The colour wheel of Baker et al., "A Database and Evaluation Methodology for Optical Flow" (IJCV
2011), with the arithmetic of princeton's RAFT and torchvision, but normalised for every frame by
itself: torchvision divides by the largest motion of a batch, so its colours depend on the batch.
"""

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


def flow_to_picture(flow: Flow, radius: float | None = None) -> Frame:
    """Return `flow`, (H, W, 2) in pixels, as a uint8 RGB picture (H, W, 3).

    Full saturation is the largest motion in this flow, or `radius` pixels and more.
    """
    if radius is not None and not 0 < radius < np.inf:
        raise UsageError(f"flow colours: expected a radius above 0 px, got {radius}.")
    if flow.ndim != 3 or flow.shape[2] != 2 or not flow.size:
        raise DataError(f"flow colours: expected a flow (H, W, 2), got {flow.shape}.")
    u, v = np.ascontiguousarray(flow.transpose(2, 0, 1), np.float32)
    with np.errstate(over="ignore"):
        length = np.hypot(u, v)
    longest = float(length.max())  # also NaN or infinite if any number is
    if not np.isfinite(longest):
        raise DataError(f"flow colours: expected finite numbers, got a motion of {longest} px.")
    if radius is None:
        length /= longest + np.finfo(np.float32).eps
    else:
        length = np.minimum(length / np.float32(radius), 1)
    # -pi..pi onto the positions 0..54 of the wheel
    position = (np.arctan2(-v, -u) / np.float32(np.pi) + 1) / 2 * (_INK.shape[1] - 1)
    hue = position.astype(np.intp)
    share = position - hue
    picture = np.empty((*length.shape, 3), np.uint8)
    for channel in range(3):
        ink = _INK[channel][hue] + share * _NEXT[channel][hue]
        picture[..., channel] = 255 - length * ink
    return picture
