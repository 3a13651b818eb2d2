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
from vsodpipe.frames import (
    Reader,
    Sample,
    Take,
    array_type,
    is_still,
    load_clip,
    read_stored,
    tensors,
)
from vsodpipe.reader import Store
from vsodpipe.recipe import Stage
from vsodpipe.sampling import Draw
from vsodpipe.transforms import Change


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
        self._changes = transforms.changes(stage.augment)
        keys = dict.fromkeys((*stage.data.beside, "flow"))
        self._lacking = [
            {key for key in keys if not reader.holds(key) and _may_lack(key, reader, stage)}
            for reader in readers
        ]
        self._videos = [_videos(reader) for reader in readers]
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
                    if key.removeprefix("ref_") in self._lacking[pick.reader]:
                        sample[key][place] = 0
        videos = [self._videos[pick.reader][pick.video] for pick in picks]
        sample["key"] = [
            (video.dataset, video.name, video.frames[pick.anchor])
            for video, pick in zip(videos, picks, strict=True)
        ]
        sample["size"] = [video.native for video in videos]
        return sample

    def _read(
        self, picks: list[Pick], frames: list[tuple[int, ...]], keys: tuple[str, ...]
    ) -> dict[str, NDArray[Any]]:
        """Return the arrays of `keys`, augmented and at the size of the recipe.

        uint8 (B, T, H, W, C), flow as vectors float32 (B, T, 2, H, W); beside labels that may be
        refined `flipped`, bool (B, T).
        """
        count, size = (len(picks), len(frames[0])), tuple(self._stage.data.size)
        arrays = {key: self._array(key, (*count, *size)) for key in keys}
        # one draw holds for the frames of a clip, every reference has its own
        changes = [
            self._drawn(pick, 1 if wanted is pick.frames else count[1])
            for pick, wanted in zip(picks, frames, strict=True)
        ]
        parts: dict[tuple[int, tuple[int, int] | None], list[int]] = {}
        for place, pick in enumerate(picks):
            stored = self._videos[pick.reader][pick.video].stored
            parts.setdefault((pick.reader, stored), []).append(place)
        for (number, stored), places in parts.items():
            lacking = self._lacking[number]
            out = {key: array for key, array in arrays.items() if key not in lacking}
            chosen = [_Chosen(place, picks[place].video, frames[place]) for place in places]
            if stored is None:
                self._from_files(number, chosen, changes, out)
            else:
                self._from_store(number, stored, chosen, changes, out)
        if "gt" in keys and self._stage.relabel_from is not None:
            flips = [drawn[0].flip for drawn in changes]
            arrays["flipped"] = np.repeat(np.array(flips)[:, None], count[1], 1)
        return arrays

    def _drawn(self, pick: Pick, count: int) -> list[Change]:
        if not self._changes:
            return [transforms.NOTHING]
        return [transforms.draw(self._stage.augment, pick.draw()) for _ in range(count)]

    def _from_store(
        self,
        number: int,
        stored: tuple[int, int],
        chosen: list[_Chosen],
        changes: list[list[Change]],
        out: dict[str, NDArray[Any]],
    ) -> None:
        """Read samples of frames of one size at once, straight into the batch where they fit."""
        store, data = self._readers[number], self._stage.data
        assert isinstance(store, Store)
        fits = stored == tuple(data.size)
        take: Take = self._scratch
        held = out
        if not fits or len(chosen) < len(changes):  # of any count and size: not kept
            take, shape = np.empty, (len(chosen), len(chosen[0].frames), *stored)
            held = {key: np.empty(*array_type(key, data.flow, shape)) for key in out}
        videos = self._videos[number]
        rows = np.array([videos[one.video].start + t for one in chosen for t in one.frames])
        flat = {key: array.reshape(-1, *array.shape[2:]) for key, array in held.items()}
        read_stored(store, rows, flat, data.flow, soft=self._soft, take=take)
        if held is out and not self._changes:
            return
        for source, one in enumerate(chosen):
            clip = {key: array[source] for key, array in held.items()}
            drawn = changes[one.place]
            if fits and all(change.only_flips for change in drawn):
                self._flip(clip, drawn)
                if held is not out:
                    for key, array in out.items():
                        array[one.place] = clip[key]
            else:
                self._change(number, one, tensors(clip), drawn, out)

    def _flip(self, clip: dict[str, NDArray[Any]], drawn: list[Change]) -> None:
        if len(drawn) == 1:
            frames = [slice(None)] if drawn[0].flip else []
        else:
            frames = [slice(t, t + 1) for t, change in enumerate(drawn) if change.flip]
        for array in clip.values():
            for part in frames:
                transforms.flip_in_place(array[part])

    def _from_files(
        self,
        number: int,
        chosen: list[_Chosen],
        changes: list[list[Change]],
        out: dict[str, NDArray[Any]],
    ) -> None:
        for one in chosen:
            clip = load_clip(
                self._readers[number], one.video, one.frames, tuple(out), soft=self._soft
            )
            self._change(number, one, clip, changes[one.place], out)

    def _change(
        self,
        number: int,
        one: _Chosen,
        clip: transforms.Clip,
        drawn: list[Change],
        out: dict[str, NDArray[Any]],
    ) -> None:
        """Change a clip by its random draw, resize it, and put it into its place of the batch."""
        data, soft = self._stage.data, self._soft
        parts = [clip] if len(drawn) == 1 else [_frame(clip, t) for t in range(len(drawn))]
        native = self._videos[number][one.video].native
        if data.resize == "bicubic":  # then flips: masks differ by a pixel in the other order
            parts = [transforms.resize(c, data.size, data.resize, soft=soft) for c in parts]
        parts = [
            transforms.augment(part, change, native, soft=soft)
            for part, change in zip(parts, drawn, strict=True)
        ]
        parts = [transforms.resize(c, data.size, data.resize, soft=soft) for c in parts]
        for key, array in out.items():
            value = torch.cat([part[key] for part in parts]) if len(parts) > 1 else parts[0][key]
            pictures = value.dtype == torch.uint8
            array[one.place] = value.permute(0, 2, 3, 1).numpy() if pictures else value

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

    def _array(self, key: str, frames: tuple[int, ...]) -> NDArray[Any]:
        data = self._stage.data
        shape, kind = array_type(key, data.flow, frames)
        # pictures are turned into floats first
        return self._take(shape, kind, data.uint8 or kind == np.float32)

    def _scratch(self, shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
        return self._take(shape, kind, handed_out=False)

    def _take(self, shape: tuple[int, ...], kind: Any, handed_out: bool) -> NDArray[Any]:
        # pinned by the parent process where this is one of its workers
        pinned = handed_out and self._pin and get_worker_info() is None
        return self._buffers.take(shape, kind, pinned)


class _Video(NamedTuple):
    dataset: str
    name: str
    frames: list[str]
    native: tuple[int, int]
    stored: tuple[int, int] | None
    """Height and width in the store; None where files are read."""
    start: int
    """Number of its first frame in the store."""


def _videos(reader: Reader) -> list[_Video]:
    found = []
    for number, name in enumerate(reader.videos):
        start = int(reader.offsets[number]) if isinstance(reader, Store) else 0
        stored = reader.stored_size(start) if isinstance(reader, Store) else None
        about = reader.frames(number), reader.size(number), stored, start
        found.append(_Video(reader.dataset, name, *about))
    return found


class _Chosen(NamedTuple):
    """The frames of one sample of one data set."""

    place: int
    """In the batch."""
    video: int
    frames: tuple[int, ...]


def _may_lack(key: str, reader: Reader, stage: Stage) -> bool:
    """Return whether a key that a data set has not is all zeros there; else it is an error."""
    return key in stage.data.beside or is_still(reader.has_flow, stage.data)


def _frame(clip: transforms.Clip, t: int) -> transforms.Clip:
    return {key: value[t : t + 1] for key, value in clip.items()}
