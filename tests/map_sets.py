"""Tiny masks and maps whose scores are known: J is the share of columns that a map gets right."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vsodpipe import manifest, media
from vsodpipe.manifest import Frame, Manifest, Source, Split, Video

Columns = Mapping[str, Sequence[int | None]]
"""Video -> how many of the five columns of the object each frame's map has; None: empty mask."""


def columns(count: int, fore: int = 255, back: int = 0) -> NDArray[np.uint8]:
    """Return a picture uint8 (10, 10) whose first `count` columns are foreground."""
    image = np.full((10, 10), back, np.uint8)
    image[:, :count] = fore
    return image


def write(path: Path, image: NDArray[np.uint8]) -> None:
    if path.suffix == ".jpg":
        media.write_bytes(path, media.encode_jpeg(np.stack([image] * 3, axis=-1)))
    else:
        media.write_bytes(path, media.encode_png(image))


def make_source(root: Path, datasets: Mapping[str, Columns], name: str = "made") -> Source:
    """Write masks of five columns and their manifest; frames are called 00000, 00001..."""
    splits = []
    for dataset, videos in datasets.items():
        made = []
        for video, counts in videos.items():
            frames = []
            for t, count in enumerate(counts):
                gt = f"{dataset}/{video}/GT/{t:05d}.png"
                write(root / gt, columns(0 if count is None else 5))
                img = f"{dataset}/{video}/RGB/{t:05d}.jpg"
                frames.append(Frame(name=f"{t:05d}", img=img, gt=gt))
            made.append(Video(name=video, size=(10, 10), frames=tuple(frames)))
        splits.append(Split(dataset=dataset, videos=tuple(made)))
    file = root / f"{name}.json"
    text = Manifest(name=name, root=".", datasets=tuple(splits)).model_dump_json(exclude_none=True)
    media.write_bytes(file, text.encode())
    return manifest.read(file)


def write_maps(folder: Path, videos: Columns) -> None:
    """Write the maps of one data set as `folder`/video/frame.png; an empty mask's map is black."""
    for video, counts in videos.items():
        for t, count in enumerate(counts):
            write(folder / video / f"{t:05d}.png", columns(count or 0))
