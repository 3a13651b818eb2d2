"""Which frames make a sample: one frame, a clip, a group of neighbours, references of a video.

Everything here is numbers of frames in one video; a still picture is a video of one frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Clip(NamedTuple):
    """Frame indices of one clip of a video; `valid` is False for a frame that only fills up."""

    frames: tuple[int, ...]
    valid: tuple[bool, ...]


class Draw:
    """The random draw of one sample: called, it gives its generator, always the same one.

    The generator is made when it is first asked for: that takes as long as reading a tenth of a
    frame.
    """

    def __init__(self, *seed: int) -> None:
        self._seed = seed
        self._rng: np.random.Generator | None = None

    def __call__(self) -> np.random.Generator:
        if self._rng is None:
            self._rng = np.random.default_rng(self._seed)
        return self._rng

    def below(self, limit: int) -> int:
        """Return a number from 0 to `limit` - 1; where there is no choice nothing is drawn."""
        return int(self().integers(limit)) if limit > 1 else 0


def anchors(annotated: Sequence[bool], stride: int) -> list[int]:
    """Return the frames that may start a clip: every `stride`-th of those with ground truth."""
    return [index for index, has in enumerate(annotated) if has][::stride]


def training_clip(
    annotated: Sequence[bool],
    anchor: int,
    length: int,
    steps: Sequence[int],
    draw: Draw,
) -> Clip:
    """Return `length` frames around `anchor`.

    In a densely annotated video the clip starts at the anchor, at a distance drawn from `steps`;
    where annotations are sparse it holds consecutive frames and the anchor takes a random place
    among them. A clip that would leave the video is shifted inside, a step too wide for the video
    becomes the widest that fits, and a video shorter than the clip repeats its last frame as
    invalid.
    """
    count, dense = len(annotated), all(annotated)
    step = steps[draw.below(len(steps))] if dense else 1
    step = min(step, max(1, (count - 1) // max(1, length - 1)))
    offset = 0 if dense else draw.below(length)
    start = max(0, min(anchor - offset, count - 1 - (length - 1) * step))
    wanted = range(start, start + length * step, step)
    valid = tuple(f < count and annotated[f] for f in wanted)
    return Clip(tuple(min(f, count - 1) for f in wanted), valid)


def group(annotated: Sequence[bool], start: int, length: int) -> Clip:
    """Return the group of `length` neighbours from `start`, one of `group_starts`.

    A video shorter than a group repeats its last frame as invalid.
    """
    wanted = range(start, start + length)
    count = len(annotated)
    valid = tuple(f < count and annotated[f] for f in wanted)
    return Clip(tuple(min(f, count - 1) for f in wanted), valid)


def group_starts(annotated: Sequence[bool], length: int) -> list[int]:
    """Return the first frames of the groups that cover a video and hold some ground truth."""
    return [w.start for w in windows(len(annotated), length) if any(annotated[f] for f in w)]


def random_references(count: int, number: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Return `number` different frames of a video of `count`, drawn uniformly, for training.

    The query may be among them (DPA draws so). A shorter video gives every frame as often as any
    other, give or take one.
    """
    rounds = [rng.permutation(count) for _ in range(-(-number // count))]
    return tuple(int(f) for f in np.concatenate(rounds)[:number]) if rounds else ()


def even_references(count: int, number: int) -> tuple[int, ...]:
    """Return `number` frames spread evenly over a video of `count`, for testing.

    They are multiples of count // number, as in DPA's release: its first frame repeated where the
    video is shorter than `number`.
    """
    return tuple(i * (count // number) for i in range(number))


def windows(count: int, length: int) -> list[range]:
    """Return consecutive windows of `length` frames that cover `count` frames.

    The last window is moved left to stay full; a video shorter than a window is one window.
    """
    if count <= length:
        return [range(count)]
    starts = [*range(0, count - length, length), count - length]
    return [range(start, start + length) for start in starts]
