"""How others read training batches, for benchmarks/stream.py.

`FILES` make a `read(places)` of the paths of loose files. `PEERS` hold the frames of a data set as
uint8 arrays at training size: one function writes them into a folder, another reads them there.
Nobody is made to copy what this project does not: pictures are views with the channels last.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from vsodpipe.batches import Buffers

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KEYS = ("img", "flow", "gt")
Batch = dict[str, torch.Tensor]
Places = list[tuple[int, ...]]
"""Numbers of the frames of every sample of a batch, over all videos."""
Read = Callable[[Places], Batch]


def tensors(arrays: dict[str, Any], uint8: bool) -> Batch:
    """Return arrays (n, H, W, 3) and (n, H, W) as torch training code does."""
    img, flow = (torch.from_numpy(arrays[key]).permute(0, 3, 1, 2) for key in ("img", "flow"))
    gt = torch.from_numpy(arrays["gt"])[:, None]
    if uint8:
        return {"img": img, "flow": flow, "gt": gt}
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return {"img": (img.float() / 255 - mean) / std, "flow": flow.float() / 255, "gt": gt.float()}


def numbers(places: Places) -> list[int]:
    return [number for sample in places for number in sample]


def pil_files(files: list[dict[str, str]], size: int, uint8: bool) -> Read:
    """Loose files as the published repositories read them: PIL, torchvision's transforms."""
    from torchvision import transforms as tv

    shape = (size, size)
    to_img = tv.Compose([tv.Resize(shape), tv.ToTensor(), tv.Normalize(MEAN, STD)])
    to_flow = tv.Compose([tv.Resize(shape), tv.ToTensor()])
    to_gt = tv.Compose([tv.Resize(shape, tv.InterpolationMode.NEAREST), tv.ToTensor()])
    to_bytes = tv.Compose([tv.Resize(shape), tv.PILToTensor()])
    gt_bytes = tv.Compose([tv.Resize(shape, tv.InterpolationMode.NEAREST), tv.PILToTensor()])

    def read(places: Places) -> Batch:
        rows: dict[str, list[torch.Tensor]] = {key: [] for key in KEYS}
        for number in numbers(places):
            paths = files[number]
            img = Image.open(paths["img"]).convert("RGB")
            flow = Image.open(paths["flow"]).convert("RGB")
            gt = Image.open(paths["gt"]).convert("L")
            rows["img"].append((to_bytes if uint8 else to_img)(img))
            rows["flow"].append((to_bytes if uint8 else to_flow)(flow))
            rows["gt"].append((gt_bytes(gt) > 128).byte() if uint8 else to_gt(gt))
        return {key: torch.stack(value) for key, value in rows.items()}

    return read


def cv2_files(files: list[dict[str, str]], size: int, uint8: bool) -> Read:
    """Loose files read by OpenCV."""

    def read(places: Places) -> Batch:
        rows: dict[str, list[Any]] = {key: [] for key in KEYS}
        for number in numbers(places):
            for key, out in rows.items():
                mode = cv2.IMREAD_GRAYSCALE if key == "gt" else cv2.IMREAD_COLOR_RGB
                how = cv2.INTER_NEAREST if key == "gt" else cv2.INTER_LINEAR
                picture = cv2.imread(files[number][key], mode)
                out.append(cv2.resize(picture, (size, size), None, 0, 0, how))
        arrays = {key: np.stack(value) for key, value in rows.items()}
        return tensors({**arrays, "gt": (arrays["gt"] > 128).view(np.uint8)}, uint8)

    return read


FILES = {"files, PIL": pil_files, "files, OpenCV": cv2_files}


def gather(arrays: dict[str, Any], uint8: bool, buffers: Buffers | None = None) -> Read:
    """Arrays that are indexed by frame, copied row by row into a fresh batch, or of `buffers`."""

    def read(places: Places) -> Batch:
        rows = numbers(places)
        found = {}
        for key, array in arrays.items():
            shape = (len(rows), *array.shape[1:])
            out = buffers.take(shape, np.uint8) if buffers else np.empty(shape, np.uint8)
            for slot, row in enumerate(rows):
                out[slot] = array[row]
            found[key] = out
        return tensors(found, uint8)

    return read


def to_npy(arrays: dict[str, Any], folder: Path) -> None:
    for key, array in arrays.items():
        np.save(folder / f"{key}.npy", array)


def memmap(folder: Path, uint8: bool, again: bool = False) -> Read:
    """.npy files under a memory map; `again` into memory that is used again, as ours."""
    maps = {key: np.load(folder / f"{key}.npy", mmap_mode="r") for key in KEYS}
    for array in maps.values():
        array.max()  # touches its pages
    return gather(maps, uint8, Buffers() if again else None)


def to_h5(arrays: dict[str, Any], folder: Path) -> None:
    h5py = importlib.import_module("h5py")
    with h5py.File(folder / "a.h5", "w") as file:
        for key, array in arrays.items():
            file.create_dataset(key, data=array, chunks=(1, *array.shape[1:]))


def h5(folder: Path, uint8: bool) -> Read:
    """HDF5, one frame a chunk, no filter."""
    file = importlib.import_module("h5py").File(folder / "a.h5", "r")
    return gather({key: file[key] for key in KEYS}, uint8)


def sample(arrays: dict[str, Any], number: int) -> dict[str, Any]:
    return {key: np.ascontiguousarray(array[number]) for key, array in arrays.items()}


def from_rows(row: Callable[[int], dict[str, Any]], uint8: bool) -> Read:
    """A data set that gives one frame's arrays at a time."""

    def read(places: Places) -> Batch:
        rows = [row(number) for number in numbers(places)]
        return tensors({k: np.stack([np.asarray(r[k]) for r in rows]) for k in KEYS}, uint8)

    return read


def to_mds(arrays: dict[str, Any], folder: Path) -> None:
    streaming = importlib.import_module("streaming")
    with streaming.MDSWriter(out=str(folder), columns=dict.fromkeys(arrays, "ndarray")) as out:
        for number in range(len(arrays["img"])):
            out.write(sample(arrays, number))


def mosaic(folder: Path, uint8: bool) -> Read:
    """MosaicML Streaming: MDS shards, read at random by the class that needs no remote."""
    data = importlib.import_module("streaming").LocalDataset(str(folder))
    return from_rows(data.__getitem__, uint8)


def to_litdata(arrays: dict[str, Any], folder: Path) -> None:
    importlib.import_module("litdata").optimize(
        partial(sample, arrays),
        list(range(len(arrays["img"]))),
        output_dir=str(folder),
        chunk_bytes="64MB",
        num_workers=1,
    )


def litdata(folder: Path, uint8: bool) -> Read:
    """LitData: chunks, read at random."""
    data = importlib.import_module("litdata").StreamingDataset(str(folder))
    return from_rows(data.__getitem__, uint8)


def to_tar(arrays: dict[str, Any], folder: Path) -> None:
    wds = importlib.import_module("webdataset")
    with wds.ShardWriter(f"{folder}/%03d.tar", maxcount=128, verbose=0) as out:
        for number in range(len(arrays["img"])):
            frame = {f"{key}.npy": value for key, value in sample(arrays, number).items()}
            out.write({"__key__": f"{number:06d}", **frame})


def webdataset(folder: Path, uint8: bool) -> Read:
    """WebDataset: tar files; it reads in sequence, whatever is asked for."""
    wds = importlib.import_module("webdataset")
    urls = sorted(map(str, folder.glob("*.tar")))
    rows = iter(wds.WebDataset(urls, shardshuffle=False).decode().repeat())

    def row(_: int) -> dict[str, Any]:
        found = next(rows)
        return {key: found[f"{key}.npy"] for key in KEYS}

    return from_rows(row, uint8)


PEERS: dict[str, tuple[Callable[[dict[str, Any], Path], None], Callable[[Path, bool], Read]]] = {
    "memory map": (to_npy, memmap),
    "memory map, memory reused": (to_npy, partial(memmap, again=True)),
    "h5py": (to_h5, h5),
    "MosaicML Streaming": (to_mds, mosaic),
    "LitData": (to_litdata, litdata),
    "WebDataset": (to_tar, webdataset),
}
