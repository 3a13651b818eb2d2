"""A data set in memory, for tests of what stands above the readers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Made:
    """Videos of `lengths` frames; every pixel tells its video and frame."""

    lengths: tuple[int, ...]
    dataset: str = "MADE_train"
    shape: tuple[int, int] = (12, 16)
    every: int = 1
    """Every how many-th frame has ground truth."""

    @property
    def videos(self) -> list[str]:
        return [f"v{number}" for number in range(len(self.lengths))]

    @property
    def has_flow(self) -> bool:
        return True

    def holds(self, key: str) -> bool:
        return True

    def frames(self, video: int) -> list[str]:
        return [f"{frame:05d}" for frame in range(self.lengths[video])]

    def annotated(self, video: int) -> list[bool]:
        return [frame % self.every == 0 for frame in range(self.lengths[video])]

    def size(self, video: int) -> tuple[int, int]:
        return self.shape

    def read(self, video: int, frame: int, key: str) -> NDArray[np.uint8]:
        rng = np.random.default_rng([video, frame, len(key)])
        channels = () if key == "gt" else (3,)
        picture = rng.integers(0, 2 if key == "gt" else 256, (*self.shape, *channels), np.uint8)
        if key == "img":
            picture[..., 0], picture[..., 1] = video, frame
        return picture
