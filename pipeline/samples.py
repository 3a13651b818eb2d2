"""From the choice of frames to a batch: read, augment, resize, normalise, into memory used again.

Legend: B samples of a batch, T frames of a sample, C channels, H W rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from vsodpipe import transforms
from vsodpipe.batches import Buffers
from vsodpipe.frames import FLOW_SCALE, WHITE, Reader, Sample, array_of, is_still, load_clip
from vsodpipe.reader import Store
from vsodpipe.recipe import Stage
from vsodpipe.sampling import Draw


class Pick(NamedTuple):
    """The frames of one sample."""

    reader: int
    video: int
    anchor: int
    frames: tuple[int, ...]
    valid: tuple[bool, ...]
    references: tuple[int, ...]
    draw: Draw
    """Draws the augmentation."""


class Samples:
    """Makes batches of what `readers` hold, by the recipe of `stage`; threads may share it."""

    def __init__(self, readers: Sequence[Reader], stage: Stage) -> None:
        self._readers, self._stage = list(readers), stage
        self._soft = stage.data.masks == "soft"
        self._whole = not transforms.changes(stage.augment)
        keys = dict.fromkeys((*stage.data.beside, "flow"))
        self._lacking = [
            {key for key in keys if not reader.holds(key) and _may_lack(key, reader, stage)}
            for reader in readers
        ]
        self._names = [
            (
                reader.dataset,
                videos := reader.videos,
                [reader.frames(v) for v in range(len(videos))],
            )
            for reader in readers
        ]
        self._buffers = Buffers()
        self._pin = torch.cuda.is_available()  # asking takes as long as reading a small frame

    def batch(self, picks: list[Pick]) -> Sample:
        """Return samples as one batch: tensors (B, ...), and lists of keys and sizes.

        Pictures are views of memory in which the channels of a pixel stand side by side. Raises
        DataError for a file that does not decode.
        """
        data = self._stage.data
        # img first: its size is that of an empty mask, also where the network takes flow alone
        inputs = dict.fromkeys(k for k in data.inputs if not k.startswith("ref_"))
        gt = ("gt",) if data.labels else ()
        keys = tuple(dict.fromkeys(("img", *inputs, *data.beside, *gt)))
        raw = self._read(picks, [pick.frames for pick in picks], keys)
        if data.references:
            keys = tuple(k for k in keys if k in ("img", "flow"))
            beside = self._read(picks, [pick.references for pick in picks], keys)
            raw |= {f"ref_{key}": value for key, value in beside.items()}
        raw["valid"] = np.array([pick.valid for pick in picks], np.bool_)
        sample: Sample = {key: self._tensor(key, array) for key, array in raw.items()}
        if any(self._lacking):
            for place, pick in enumerate(picks):
                for key in sample:
                    if not self._has(pick, key.removeprefix("ref_")):
                        sample[key][place] = 0
        sample["key"] = [self._key(pick) for pick in picks]
        sample["size"] = [self._readers[pick.reader].size(pick.video) for pick in picks]
        return sample

    def _key(self, pick: Pick) -> tuple[str, str, str]:
        dataset, videos, frames = self._names[pick.reader]
        return dataset, videos[pick.video], frames[pick.video][pick.anchor]

    def _read(
        self, picks: list[Pick], frames: list[tuple[int, ...]], keys: tuple[str, ...]
    ) -> dict[str, NDArray[Any]]:
        """Return the arrays of `keys`, augmented and at the size of the recipe.

        uint8 (B, T, H, W, C), flow as vectors float32 (B, T, 2, H, W); beside labels that may be
        refined `flipped`, bool (B, T).
        """
        count = len(picks), len(frames[0])
        height, width = size = tuple(self._stage.data.size)
        arrays = {}
        for key in keys:
            if self._vectors(key):
                arrays[key] = self._take((*count, 2, height, width), np.float32, True)
            else:
                channels = 1 if key == "gt" else 3
                shape = (*count, height, width, channels)
                arrays[key] = self._take(shape, np.uint8, self._stage.data.uint8)
        flipped = np.zeros(count, np.bool_)
        ready = [self._whole and self._stored(p.reader, p.video, size) for p in picks]
        for key, array in arrays.items():
            self._read_stored(picks, frames, ready, key, array)
        for number, (pick, wanted) in enumerate(zip(picks, frames, strict=True)):
            if not ready[number]:
                out = {k: a[number] for k, a in arrays.items() if self._has(pick, k)}
                one_draw = wanted is pick.frames
                flipped[number] = self._read_clip(pick, wanted, out, one_draw=one_draw)
        if "gt" in keys and self._stage.relabel_from is not None:
            arrays["flipped"] = flipped
        return arrays

    def _has(self, pick: Pick, key: str) -> bool:
        return key not in self._lacking[pick.reader]

    def _vectors(self, key: str) -> bool:
        return key == "flow" and self._stage.data.flow == "vectors"

    def _stored(self, number: int, video: int, size: tuple[int, ...]) -> bool:
        reader = self._readers[number]
        return isinstance(reader, Store) and reader.stored_size(reader.offsets[video]) == size

    def _read_stored(
        self,
        picks: list[Pick],
        frames: list[tuple[int, ...]],
        ready: list[bool],
        key: str,
        out: NDArray[Any],
    ) -> None:
        """Read what needs no change straight into the batch: one request a store."""
        stores: dict[int, list[int]] = {}
        for place, (pick, whole) in enumerate(zip(picks, ready, strict=True)):
            if whole and self._has(pick, key):
                stores.setdefault(pick.reader, []).append(place)
        name = array_of(key, self._stage.data.flow)
        for number, places in stores.items():
            store = self._readers[number]
            assert isinstance(store, Store)
            rows = [int(store.offsets[picks[p].video]) + f for p in places for f in frames[p]]
            part = out if len(places) == len(picks) else out[places]
            flat = part.reshape(len(rows), *part.shape[2:])
            if self._vectors(key):
                steps = self._take(flat.shape, np.int16, False)
                store.read_into(rows, name, steps)
                np.multiply(steps, np.float32(FLOW_SCALE), out=flat)
            elif key == "depth":
                grey = self._take(flat.shape[:3], np.uint8, False)
                store.read_into(rows, name, grey)
                flat[...] = grey[..., None]
            else:
                store.read_into(rows, name, flat[..., 0] if key == "gt" else flat)
            if key == "gt" and self._soft:
                np.multiply(flat, WHITE, out=flat)
            if part is not out:
                out[places] = part

    def _read_clip(
        self, pick: Pick, frames: tuple[int, ...], out: dict[str, NDArray[Any]], *, one_draw: bool
    ) -> bool:
        """Read one clip, change it by its random draw, resize it, and put it into its places.

        Returns whether it was flipped.
        """
        data, reader = self._stage.data, self._readers[pick.reader]
        soft = self._soft
        clip = load_clip(reader, pick.video, frames, tuple(out), data.flow, soft=soft)
        # one draw holds for the frames of a clip, every reference has its own
        parts = [clip] if one_draw else [_frame(clip, t) for t in range(len(frames))]
        native = reader.size(pick.video)
        if data.resize == "bicubic":  # then flips: masks differ by a pixel in the other order
            parts = [transforms.resize(c, data.size, data.resize, soft=soft) for c in parts]
        options = self._stage.augment
        drawn = [transforms.augment(c, options, pick.draw(), native, soft=soft) for c in parts]
        parts = [transforms.resize(c, data.size, data.resize, soft=soft) for c, _ in drawn]
        for key, array in out.items():
            value = torch.cat([part[key] for part in parts])
            array[...] = value if self._vectors(key) else value.permute(0, 2, 3, 1).numpy()
        return drawn[0][1]

    def _tensor(self, key: str, array: NDArray[Any]) -> torch.Tensor:
        """Return (B, T, C, H, W), of single frames (B, C, H, W), of flags without C, H and W.

        Pictures are float32 unless the recipe asks for uint8.
        """
        data = self._stage.data
        if data.sample == "frame" and not key.startswith("ref_"):
            array = array[:, 0]
        tensor = torch.from_numpy(array)
        if array.dtype != np.uint8:
            return tensor
        if not data.uint8:
            floats = torch.from_numpy(self._take(array.shape, np.float32, True))
            # frame by frame: it stays in the processor's cache
            for picture, out in zip(tensor.flatten(0, -4), floats.flatten(0, -4), strict=True):
                transforms.write_floats(key, picture, out, data)
            tensor = floats
        return tensor.movedim(-1, -3)

    def _take(self, shape: tuple[int, ...], kind: Any, handed_out: bool) -> NDArray[Any]:
        # pinned by the parent process where this is one of its workers
        pinned = handed_out and self._pin and get_worker_info() is None
        return self._buffers.take(shape, kind, pinned)


def _may_lack(key: str, reader: Reader, stage: Stage) -> bool:
    """Return whether a key that a data set has not is all zeros there; else it is an error."""
    return key in stage.data.beside or is_still(reader.has_flow, stage.data)


def _frame(clip: transforms.Clip, t: int) -> transforms.Clip:
    return {key: value[t : t + 1] for key, value in clip.items()}
