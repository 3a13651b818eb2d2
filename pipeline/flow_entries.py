"""An entry of flow for every frame of a video, forward and backward, at any gap.

Flow forward leads from frame t to t+gap, flow backward from t to t-gap. The frames without such a
partner, the last ones forward and the first ones backward, follow the tail rule.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vsodpipe.flows import Engine, Flow

Tail = Literal["backward", "repeat", "zero", "none"]
Way = Literal["forward", "backward"]
Image = NDArray[np.uint8]


def window(frames: int, way: Way, gap: int, tail: Tail) -> tuple[int, int]:
    """Return the first of `frames` that has an entry, and the one after the last."""
    if tail != "none":
        return 0, frames
    return (min(gap, frames), frames) if way == "backward" else (0, max(0, frames - gap))


def flows(
    engine: Engine,
    images: Iterable[Image],
    ways: Sequence[Way],
    gap: int,
    tail: Tail,
    check: Callable[[int], None],
) -> Iterator[tuple[Way, int, Flow]]:
    """Yield (way, number of the frame, flow): those of the pairs, then those by the tail rule.

    `images` are read as needed; at most 2 * gap at either end are kept. `check` is called with
    their number before the tail rule is applied, and raises for too few.
    """
    start: list[Image] = []
    end: deque[Image] = deque(maxlen=2 * gap)
    seen = 0

    def kept() -> Iterator[Image]:
        nonlocal seen
        for image in images:
            seen += 1
            end.append(image)
            if len(start) < 2 * gap:
                start.append(image)
            yield image

    nearest: dict[Way, Flow] = {}
    for pair, found in enumerate(_clip(engine, kept(), "both" if len(ways) == 2 else ways[0], gap)):
        for way, flow in zip(ways, found if len(ways) == 2 else (found,), strict=True):
            if way == "forward" or pair == 0:
                nearest[way] = flow
            yield way, pair if way == "forward" else pair + gap, flow
    check(seen)
    partnerless = min(gap, seen)
    for way in ways:
        frames = range(seen - partnerless, seen) if way == "forward" else range(partnerless)
        if tail == "backward":
            # each with the frame a gap to its other side: in this order that comes a gap later
            order = [*end][gap:] + [*end][:gap] if way == "forward" else start
            found = _clip(engine, order, "forward", gap)
            # too few are noticed by whoever counts the entries
            yield from ((way, frame, flow) for frame, flow in zip(frames, found, strict=False))
        elif tail == "repeat":
            yield from ((way, frame, nearest[way]) for frame in frames)
        elif tail == "zero" and end:
            zero = np.zeros((*end[-1].shape[:2], 2), np.float32)
            yield from ((way, frame, zero) for frame in frames)


def _clip(engine: Engine, frames: Iterable[Image], direction: str, gap: int) -> Iterator[Any]:
    # an engine that knows no gap serves the usual one
    return engine.clip(frames, direction, gap) if gap > 1 else engine.clip(frames, direction)
