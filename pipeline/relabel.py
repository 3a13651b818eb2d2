"""Online label refinement of A2S-v2: what the network says of a frame becomes its label.

The published code writes the map over the label file after each step. Here files stay as they are:
refined labels are part of the state of a run, saved with its weights and continued with them.
Legend: N samples of a batch, H W the size of a label, h w that of the network's map.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from vsodpipe.ranks import Ranks

SHARE = 0.6
"""Part of the map that the published code writes; reading stretches it to 0..1 again."""

Label = tuple[tuple[int, int], NDArray[np.uint8]]
"""(h, w), and the bits of the foreground, row by row."""


class Labels:
    """The refined labels of a stage by dataset/video/frame, from epoch `start` on."""

    def __init__(self, start: int) -> None:
        self.start = start
        self._known: dict[str, Label] = {}
        self._new: dict[str, Label] = {}

    def __len__(self) -> int:
        return len(self._known)

    def put(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return a batch with refined labels for those of its frames that have one.

        `gt` is (N, 1, H, W) in 0..1, `key` names N frames and `flipped` (N,) says which are. Labels
        are resized to the nearest pixel.
        """
        gt = sample["gt"].clone()
        for number, name in enumerate(_names(sample)):
            if name not in self._known:
                continue
            (height, width), bits = self._known[name]
            mask = np.unpackbits(bits, count=height * width).reshape(1, 1, height, width)
            label = torch.from_numpy(mask).to(gt)
            if sample["flipped"][number]:
                label = label.flip(-1)
            gt[number] = F.interpolate(label, gt.shape[-2:], mode="nearest-exact")[0]
        return {**sample, "gt": gt}

    def take(self, sample: dict[str, Any], logits: Tensor) -> None:
        """Note what the network says of a batch, logits (N, 1, h, w); `keep` makes it count.

        The object is what lies above the middle between the lowest and the highest level of a map.
        """
        # 8 bits cut off, as in a file
        levels = (logits.detach().float().sigmoid() * (255 * SHARE)).byte().float()
        low, high = levels.amin((1, 2, 3), keepdim=True), levels.amax((1, 2, 3), keepdim=True)
        found = ((levels - low) / (high - low + 1e-5) > 0.5)[:, 0].cpu().numpy()
        for name, flipped, label in zip(_names(sample), sample["flipped"], found, strict=True):
            turned = label[:, ::-1] if flipped else label
            self._new[name] = (label.shape, np.packbits(turned))

    def keep(self, ranks: Ranks) -> None:
        """End a step: its labels, those of every process, are the ones to train on from now on."""
        for found in ranks.gather(self._new):
            self._known |= found
        self._new = {}

    def state(self) -> dict[str, Any]:
        """Return the labels as names and tensors."""
        sizes = [size for size, _ in self._known.values()]
        bits = [bits for _, bits in self._known.values()]
        return {
            "names": list(self._known),
            "sizes": torch.tensor(sizes, dtype=torch.int64).reshape(-1, 2),
            "bits": torch.from_numpy(np.concatenate([np.empty(0, np.uint8), *bits])),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        sizes = [(int(height), int(width)) for height, width in state["sizes"]]
        lengths = [-(-height * width // 8) for height, width in sizes]
        parts = np.split(state["bits"].numpy(), np.cumsum(lengths)[:-1]) if lengths else []
        self._known = dict(zip(state["names"], zip(sizes, parts, strict=True), strict=True))


def _names(sample: dict[str, Any]) -> list[str]:
    return ["/".join(key) for key in sample["key"]]
