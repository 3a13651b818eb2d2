"""Manifest or store -> torch samples, in an order that only the seed and the epoch decide.

A sample's random draw depends on (seed, epoch, position) and on nothing else: the same samples come
with any number of workers, and a run resumed in mid-epoch gets the samples that were left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from vsodpipe import media, models, sampling, transforms
from vsodpipe.errors import DataError, VsodpipeError
from vsodpipe.manifest import Source, Split
from vsodpipe.recipe import Data, Stage
from vsodpipe.signals import ignore_interrupt
from vsodpipe.store import Store

Sample = dict[str, Any]


class Reader(Protocol):
    """One data set, frame by frame; `Files` and `store.Store` both are one."""

    @property
    def dataset(self) -> str: ...
    @property
    def videos(self) -> list[str]: ...
    @property
    def has_flow(self) -> bool: ...
    def frames(self, video: int) -> list[str]: ...
    def annotated(self, video: int) -> list[bool]: ...
    def size(self, video: int) -> tuple[int, int]: ...
    def read(self, video: int, frame: int, key: str) -> NDArray[np.uint8]: ...


class Files:
    """The files of one data set of a manifest, decoded as they are asked for."""

    def __init__(self, source: Source, split: Split) -> None:
        self._source, self._split = source, split

    @property
    def dataset(self) -> str:
        """Name of the data set, such as DAVIS_train."""
        return self._split.dataset

    @property
    def videos(self) -> list[str]:
        """Names of the videos, in order."""
        return [video.name for video in self._split.videos]

    @property
    def has_flow(self) -> bool:
        """Whether the frames have flow; those of still images have none."""
        return self._split.flow is not None

    def frames(self, video: int) -> list[str]:
        """Return the names of the frames of a video."""
        return [frame.name for frame in self._split.videos[video].frames]

    def annotated(self, video: int) -> list[bool]:
        """Return for every frame of a video whether it has ground truth."""
        return [frame.gt is not None for frame in self._split.videos[video].frames]

    def size(self, video: int) -> tuple[int, int]:
        """Return the native (height, width) of a video."""
        return self._split.videos[video].size

    def read(self, video: int, frame: int, key: str) -> NDArray[np.uint8]:
        """Return `img` or `flow` as uint8 RGB (H, W, 3), `gt` as uint8 (H, W) of 0 and 1.

        Raises DataError for a file that is not there, is damaged, or has another size than the
        manifest says.
        """
        entry = self._split.videos[video].frames[frame]
        relative = getattr(entry, key)
        if relative is None:
            place = f"{self.dataset}/{self.videos[video]}/{entry.name}"
            raise DataError(f"{self._source.file}: {place} has no {key}.")
        path = self._source.path(relative)
        array = media.read_mask(path).view(np.uint8) if key == "gt" else media.read_image(path)
        height, width = self.size(video)
        if array.shape[:2] != (height, width):
            found = f"{array.shape[1]}x{array.shape[0]}"
            raise DataError(
                f"{path}: expected {width}x{height} as in {self._source.file}, got {found}. "
                "Write the manifest anew."
            )
        return array


class Clips(Dataset[Sample | VsodpipeError]):
    """Training clips of several data sets; an item is (epoch, position, anchor number)."""

    def __init__(self, readers: list[Reader], stage: Stage) -> None:
        self._readers, self._stage = readers, stage
        self._annotated = [[r.annotated(v) for v in range(len(r.videos))] for r in readers]
        self.anchors = [
            (number, video, frame)
            for number, reader in enumerate(readers)
            for video in range(len(reader.videos))
            for frame in sampling.anchors(
                self._annotated[number][video],
                stage.data.anchor_stride.get(reader.dataset, 1),
            )
        ]
        if not self.anchors:
            names = ", ".join(reader.dataset for reader in readers)
            raise DataError(f"{names}: no frame has ground truth, so there is nothing to train on.")

    def __getitem__(self, item: tuple[int, int, int]) -> Sample | VsodpipeError:
        """Return the sample, or its error: raised in a worker, it would arrive as a traceback."""
        try:
            return self.sample(item)
        except VsodpipeError as error:
            return error

    def sample(self, item: tuple[int, int, int]) -> Sample:
        """Return the sample of an item. Raises DataError for a file that does not decode."""
        epoch, position, anchor = item
        data = self._stage.data
        rng = np.random.default_rng([self._stage.seed, epoch, position])
        number, video, frame = self.anchors[anchor]
        reader, annotated = self._readers[number], self._annotated[number][video]
        steps = data.frame_steps.get(reader.dataset, (1,))
        chosen = sampling.training_clip(annotated, frame, data.clip, steps, rng)
        # img first: its size is that of an empty mask, also where the network takes flow alone
        clip = load_clip(reader, video, chosen.frames, ("img", *data.inputs, "gt"), data)
        clip = transforms.augment(clip, self._stage.augment, rng, reader.size(video))
        clip = transforms.resize(clip, data.size)
        return {
            **ready(clip, data),
            "valid": torch.tensor(chosen.valid),
            "key": (reader.dataset, reader.videos[video], reader.frames(video)[frame]),
            "size": reader.size(video),
        }

    def steps(self) -> int:
        """Return the number of steps of an epoch; a last incomplete batch is left out."""
        most = max(1, len(self.anchors) // self._stage.batch)
        return min(most, self._stage.steps_per_epoch or most)

    def batches(self, epoch: int, start: int) -> Iterator[list[tuple[int, int, int]]]:
        """Yield the items of every batch of `epoch` from step `start` on."""
        order = np.random.default_rng([self._stage.seed, epoch]).permutation(len(self.anchors))
        size = self._stage.batch
        for step in range(start, self.steps()):
            positions = range(step * size, min((step + 1) * size, len(order)))
            yield [(epoch, p, int(order[p])) for p in positions]


def load_clip(
    reader: Reader, video: int, frames: Sequence[int], keys: tuple[str, ...], data: Data
) -> transforms.Clip:
    """Return the uint8 tensors (T, C, H, W) of a clip; an unannotated frame has an empty mask.

    Of a data set without flow it has none, where the recipe allows that.
    """
    annotated = reader.annotated(video)
    tensors: transforms.Clip = {}
    still = data.without_flow == "zero" and not reader.has_flow
    for key in dict.fromkeys(k for k in keys if not (still and k == "flow")):
        pictures = []
        for frame in frames:
            if key == "gt" and not annotated[frame]:
                pictures.append(np.zeros(tensors["img"].shape[-2:], np.uint8))
            else:
                pictures.append(reader.read(video, frame, key))
        array = np.stack(pictures)
        array = array[..., None] if key == "gt" else array
        tensors[key] = torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))
    return tensors


def ready(clip: transforms.Clip, data: Data) -> transforms.Clip:
    """Return the float32 tensors the network takes; flow that a still image lacks is 0."""
    done = transforms.to_float(clip, data.mean, data.std, normalise_flow=data.normalise_flow)
    if "flow" in data.inputs and "flow" not in done:
        done["flow"] = torch.zeros_like(done["img"])
    return done


def fed(model: str, sample: Sample) -> Sample:
    """Return a batch of clips (B, T, ...) as network `model` takes it.

    One that takes frames gets them clip after clip (B.T, ...).
    """
    if models.load(model).SAMPLING == "clip":
        return sample
    return {
        key: value.flatten(0, 1) if isinstance(value, torch.Tensor) else value
        for key, value in sample.items()
    }


def needs_flow(stage: Stage, split: Split) -> bool:
    """Return whether the stage takes the flow of this data set: still images may have none."""
    still = stage.data.without_flow == "zero" and split.flow is None
    return "flow" in stage.data.inputs and not still


def loader(clips: Clips, epoch: int, start: int, workers: int) -> Iterator[Sample]:
    """Yield the batches of `epoch` from step `start` on, decoded by `workers` processes."""
    batches = DataLoader(
        clips,
        batch_sampler=list(clips.batches(epoch, start)),
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=ignore_interrupt,
        pin_memory=torch.cuda.is_available(),
    )
    for batch in batches:
        if isinstance(batch, VsodpipeError):
            raise batch
        yield batch


def collate(samples: list[Sample | VsodpipeError]) -> Sample | VsodpipeError:
    """Return a batch: tensors stacked, keys and sizes as lists; or its first error."""
    for sample in samples:
        if isinstance(sample, VsodpipeError):
            return sample
    return stack([sample for sample in samples if not isinstance(sample, VsodpipeError)])


def stack(samples: list[Sample]) -> Sample:
    """Return samples as one batch."""
    return {
        key: torch.stack([s[key] for s in samples])
        if isinstance(value, torch.Tensor)
        else [s[key] for s in samples]
        for key, value in samples[0].items()
    }


def open_reader(source: Source, dataset: str, kind: str) -> Reader:
    """Return the reader of a data set: its files, or its store (`vsodpipe pack`).

    Raises DataError for a store that is missing, incomplete, or not of what the manifest names.
    """
    files = Files(source, source.split(dataset))
    if kind == "files":
        return files
    store = Store(f"{source.root}/{dataset}.zarr")
    flow = source.split(dataset).flow or {}
    same = (
        store.dataset == dataset
        and (store.attributes["flow"] or {}).get("fingerprint") == flow.get("fingerprint")
        and store.videos == files.videos
        and all(store.frames(v) == files.frames(v) for v in range(len(files.videos)))
    )
    if not same:
        raise DataError(
            f"{store.path}: holds other frames or another flow than {source.file}. "
            f"Pack it anew: vsodpipe pack {dataset} --force."
        )
    return store
