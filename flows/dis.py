"""Dense inverse search (Kroeger et al., ECCV 2016) by OpenCV: no weights, no GPU, milliseconds.

    engine = vsodpipe.flows.create("dis", preset="medium")

The numbers do not depend on the number of OpenCV's threads.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cv2

from vsodpipe.errors import unknown
from vsodpipe.flows import Engine, Flow, Frame, Plan, check_clip, pairwise, silent

ENGINES = ("dis",)

PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}

# Of smaller frames OpenCV reads more than there is: below 32 px it may kill the process (a height
# of 31 at a width of 100), below 90 the flow of a pair depends on the pairs before it.
LEAST_SIDE = 96

_BYTES = 60  # of OpenCV's buffers for a pixel, measured at 1080p with the preset that takes most


class Dis:
    """Flow between the grey values of two frames."""

    def __init__(self, preset: str) -> None:
        if preset not in PRESETS:
            raise unknown("dis preset", str(preset), PRESETS)
        self._preset = PRESETS[preset]
        # The algorithm lives in OpenCV, whose releases change it.
        self.fingerprint: dict[str, object] = {
            "engine": "dis",
            "preset": preset,
            "opencv": cv2.__version__,
        }
        self.say: Callable[[str], None] = silent

    def plan(self, height: int, width: int, direction: str = "forward", gap: int = 1) -> Plan:
        """See `vsodpipe.flows.Engine.plan`. Always fits: it grows with the pixels only."""
        check_clip(direction, gap)
        pixels = max(height, LEAST_SIDE) * max(width, LEAST_SIDE)
        return Plan(1, "none", pixels * (_BYTES + 3 * (gap + 1)))

    def clip(
        self, frames: Iterable[Frame], direction: str = "forward", gap: int = 1
    ) -> Iterator[Any]:
        """See `vsodpipe.flows.Engine.clip`."""
        # One per clip: the object keeps buffers, so two threads must not share it.
        # (Any: OpenCV's stubs do not know that calc takes None for "no flow to start from".)
        dis: Any = cv2.DISOpticalFlow.create(self._preset)

        def flow(source: Frame, target: Frame) -> Flow:
            grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (source, target)]
            return dis.calc(grey[0], grey[1], None)

        return pairwise(flow, frames, direction, gap, least=LEAST_SIDE)


def create(name: str, *, preset: str = "medium") -> Engine:
    """Return the engine; `preset` is `ultrafast`, `fast` or `medium`."""
    return Dis(preset)
