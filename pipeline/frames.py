"""The frames of one data set, read one by one: from a manifest's files or from a packed store.

Both give the same arrays, so that nothing above knows which one it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from vsodpipe import media, transforms
from vsodpipe.errors import DataError
from vsodpipe.manifest import Source, Split
from vsodpipe.reader import CACHE_BYTES, Store
from vsodpipe.recipe import Data

Sample = dict[str, Any]

Take = Callable[[tuple[int, ...], Any], NDArray[Any]]
"""Gives memory of a shape and a dtype."""

FLOW_SCALE = 1 / 64
"""Pixels of one step of a store's int16 flow."""
WHITE = np.uint8(255)
"""What 1 in a store's mask is as a grey level."""


class Reader(Protocol):
    """One data set, frame by frame; `Files` and `reader.Store` both are one."""

    @property
    def dataset(self) -> str: ...
    @property
    def videos(self) -> list[str]: ...
    @property
    def has_flow(self) -> bool: ...
    def holds(self, key: str) -> bool: ...
    def frames(self, video: int) -> list[str]: ...
    def annotated(self, video: int) -> list[bool]: ...
    def size(self, video: int) -> tuple[int, int]: ...
    def read(self, video: int, frame: int, key: str) -> NDArray[Any]: ...


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

    def holds(self, key: str) -> bool:
        """Return whether frames of the data set have `flow`, `depth` or `thermal`."""
        if key == "flow":
            return self.has_flow
        return any(getattr(f, key) is not None for v in self._split.videos for f in v.frames)

    def frames(self, video: int) -> list[str]:
        """Return the names of the frames of a video."""
        return [frame.name for frame in self._split.videos[video].frames]

    def annotated(self, video: int) -> list[bool]:
        """Return for every frame of a video whether it has ground truth."""
        return [frame.gt is not None for frame in self._split.videos[video].frames]

    def size(self, video: int) -> tuple[int, int]:
        """Return the native (height, width) of a video."""
        return self._split.videos[video].size

    def read(self, video: int, frame: int, key: str, *, soft: bool = False) -> NDArray[np.uint8]:
        """Return a picture as uint8 RGB (H, W, 3), `gt` as uint8 (H, W) of 0 and 1.

        With `soft`, `gt` is the grey levels of the file, 0 to 255.
        Raises DataError for a file that is not there, is damaged, or has another size than the
        manifest says.
        """
        entry = self._split.videos[video].frames[frame]
        relative = getattr(entry, key)
        if relative is None:
            place = f"{self.dataset}/{self.videos[video]}/{entry.name}"
            raise DataError(f"{self._source.file}: {place} has no {key}.")
        path = self._source.path(relative)
        if key != "gt":
            array = media.read_image(path)
        else:
            array = media.read_soft_mask(path) if soft else media.read_mask(path).view(np.uint8)
        height, width = self.size(video)
        if array.shape[:2] != (height, width):
            found = f"{array.shape[1]}x{array.shape[0]}"
            raise DataError(
                f"{path}: expected {width}x{height} as in {self._source.file}, got {found}. "
                "Write the manifest anew."
            )
        return array


def is_still(has_flow: bool, data: Data) -> bool:
    """Return whether the recipe takes what has no flow as still, its flow as 0."""
    return data.without_flow == "zero" and not has_flow


def array_of(key: str, flow: str) -> str:
    """Return the store's array for a sample key; `flow` is the form, picture or vectors."""
    return "flow_picture" if key == "flow" and flow == "picture" else key


def load_clip(
    reader: Reader,
    video: int,
    frames: Sequence[int],
    keys: tuple[str, ...],
    flow: str = "picture",
    *,
    soft: bool = False,
) -> transforms.Clip:
    """Return the tensors (T, C, H, W) of a clip; an unannotated frame has an empty mask.

    With `soft`, masks are grey levels, 0 to 255, those of a store 0 and 255. Raises DataError for
    what is not there or does not decode, and for flow as vectors from files.
    """
    if isinstance(reader, Store):
        rows = reader.rows(video, frames)
        size = reader.stored_size(int(reader.offsets[video]))
        out = {key: np.empty(*array_type(key, flow, (len(frames), *size))) for key in keys}
        read_stored(reader, rows, out, flow, soft=soft)
        return tensors(out)
    if flow == "vectors" and "flow" in keys:
        raise DataError(
            f"{reader.dataset}: flow as vectors is in stores alone. Make one with vsodpipe pack."
        )
    annotated = reader.annotated(video)
    found: dict[str, NDArray[Any]] = {}
    for key in keys:
        pictures = []
        for frame in frames:
            if key == "gt" and not annotated[frame]:
                pictures.append(np.zeros(found["img"].shape[1:3], np.uint8))
            elif key == "gt" and soft:
                assert isinstance(reader, Files)
                pictures.append(reader.read(video, frame, key, soft=True))
            else:
                pictures.append(reader.read(video, frame, key))
        array = np.stack(pictures)
        found[key] = array if array.ndim == 4 else array[..., None]
    return tensors(found)


def array_type(
    key: str, flow: str, frames: tuple[int, ...]
) -> tuple[tuple[int, ...], type[np.uint8] | type[np.float32]]:
    """Return shape and dtype of an array of `frames`, (..., H, W): pictures, masks or vectors."""
    if key == "flow" and flow == "vectors":
        return (*frames[:-2], 2, *frames[-2:]), np.float32
    return (*frames, 1 if key == "gt" else 3), np.uint8


def read_stored(
    store: Store,
    rows: NDArray[np.int64],
    out: Mapping[str, NDArray[Any]],
    flow: str = "picture",
    *,
    soft: bool = False,
    take: Take = np.empty,
) -> None:
    """Read frames of a store, counted over all videos, into arrays (n, ...) of `array_type`.

    An unannotated frame has an empty mask. With `soft`, masks are 0 and 255. `take` gives memory
    for what is stored in another form. Raises DataError where a frame lacks any other key.
    """
    into = {}
    for key, array in out.items():
        name = array_of(key, flow)
        if key == "gt" and name not in store.arrays:
            array[...] = 0
            continue
        if key == "gt":
            into[name] = array[..., 0]
            continue
        store.require(rows, name)
        if key == "depth":  # grey
            into[name] = take(array.shape[:-1], np.uint8)
        else:
            into[name] = take(array.shape, np.int16) if name == "flow" else array
    store.read_arrays(rows, into)
    for key, array in out.items():
        stored = into.get(array_of(key, flow), array)
        if key == "gt" and soft:
            np.multiply(array, WHITE, out=array)
        elif key == "depth":
            array[...] = stored[..., None]
        elif stored.dtype == np.int16:
            np.multiply(stored, np.float32(FLOW_SCALE), out=array)


def tensors(arrays: Mapping[str, NDArray[Any]]) -> transforms.Clip:
    """Return arrays of `array_type` as the tensors of a clip, views of the same memory."""
    found = {key: torch.from_numpy(array) for key, array in arrays.items()}
    return {k: v.permute(0, 3, 1, 2) if v.dtype == torch.uint8 else v for k, v in found.items()}


def stack(samples: list[Sample]) -> Sample:
    """Return samples as one batch: tensors stacked, keys and sizes as lists."""
    return {
        key: torch.stack([s[key] for s in samples])
        if isinstance(value, torch.Tensor)
        else [s[key] for s in samples]
        for key, value in samples[0].items()
    }


def open_reader(
    source: Source,
    dataset: str,
    kind: str,
    *,
    cache: Path | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> Reader:
    """Return the reader of a data set: its files, or its store (`vsodpipe pack`).

    A store on the network keeps up to `cache_bytes` of its shards in folder `cache`. Raises
    DataError for a store that is missing, incomplete, or not of what the manifest names.
    """
    split = source.split(dataset)
    files = Files(source, split)
    if kind == "files":
        return files
    store = Store(_packed(source.root, dataset), cache, cache_bytes)
    flow = split.flow or {}
    same = (
        store.dataset == dataset
        and (store.attributes.get("flow") or {}).get("fingerprint") == flow.get("fingerprint")
        and store.videos == files.videos
        and all(store.frames(v) == files.frames(v) for v in range(len(files.videos)))
    )
    if not same:
        raise DataError(
            f"{store.path}: holds other frames or another flow than {source.file}. "
            f"Pack it anew: vsodpipe pack {dataset} --force."
        )
    return store


def _packed(root: str, dataset: str) -> str:
    """Return where `vsodpipe pack` leaves a store: the .zarr, or the .h5 where that is alone."""
    url, alone = f"{root}/{dataset}.zarr", f"{root}/{dataset}.h5"
    return alone if Path(alone).is_file() and not Path(url).exists() else url
