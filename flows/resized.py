"""Any engine on smaller frames: the flow of huge ones, at the price of detail.

    engine = Resized(engine, 960)

The flow has the size of the frames, and its vectors are in their pixels.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cv2
import numpy as np

from vsodpipe.errors import UsageError
from vsodpipe.flows import Engine, Flow, Frame, Plan, checked

LEAST = 32
"""Pixels of `max_side`: on frames of a side below, no engine finds anything."""


class Resized:
    """An engine whose frames have no side above `max_side`; frames within it are untouched."""

    def __init__(self, engine: Engine, max_side: int) -> None:
        if isinstance(max_side, bool) or not isinstance(max_side, int) or max_side < LEAST:
            raise UsageError(
                f"flow max_side: expected a whole number from {LEAST} px, got {max_side!r}."
            )
        self._engine = engine
        self._max_side = max_side
        self.fingerprint: dict[str, object] = {**engine.fingerprint, "max_side": max_side}

    @property
    def say(self) -> Callable[[str], None]:
        """The inner engine's."""
        return self._engine.say

    @say.setter
    def say(self, say: Callable[[str], None]) -> None:
        self._engine.say = say

    def plan(self, height: int, width: int, direction: str = "forward", gap: int = 1) -> Plan:
        """See `vsodpipe.flows.Engine.plan`."""
        return self._engine.plan(*fitted(height, width, self._max_side), direction, gap)

    def clip(
        self, frames: Iterable[Frame], direction: str = "forward", gap: int = 1
    ) -> Iterator[Any]:
        """See `vsodpipe.flows.Engine.clip`."""
        size = (0, 0)

        def smaller() -> Iterator[Frame]:
            nonlocal size
            for frame in checked(frames):
                size = frame.shape[:2]
                yield _resized(frame, fitted(*size, self._max_side), cv2.INTER_AREA)

        found = self._engine.clip(smaller(), direction, gap)
        if direction == "both":
            return (tuple(enlarged(way, size) for way in ways) for ways in found)
        return (enlarged(flow, size) for flow in found)


def fitted(height: int, width: int, max_side: int) -> tuple[int, int]:
    """Return height and width with the same aspect, rounded, and no side above `max_side`."""
    longer = max(height, width)
    if longer <= max_side:
        return height, width
    shorter = max(1, round(min(height, width) * max_side / longer))
    return (max_side, shorter) if height == longer else (shorter, max_side)


def enlarged(flow: Flow, size: tuple[int, int]) -> Flow:
    """Return `flow`, (h, w, 2), at `size` (H, W) and in its pixels."""
    if flow.shape[:2] == size:
        return flow
    ratios = np.array([size[1] / flow.shape[1], size[0] / flow.shape[0]], np.float32)
    return _resized(flow, size, cv2.INTER_LINEAR) * ratios


def _resized(array: Any, size: tuple[int, int], interpolation: int) -> Any:
    if array.shape[:2] == size:
        return array
    return cv2.resize(array, (size[1], size[0]), interpolation=interpolation)
