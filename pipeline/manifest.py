"""Manifests: which (img, gt, flow) files make up the videos of a data set, as JSON and as txt rows.

    davis.json         every split of DAVIS, sizes, provenance; what the other commands read
    davis_train.txt    one row `img gt flow` a frame, for loaders written elsewhere (`-` for none)

Paths are relative to the manifest's root and cannot leave it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from vsodpipe import catalogue, flow_record, media
from vsodpipe.catalogue import Dataset
from vsodpipe.errors import DataError, UsageError, unknown
from vsodpipe.progress import Reporter

SPLITS = ("train", "val", "test")
"""Endings by which data sets without a card are grouped, in the order of a manifest."""


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or ":" in parts[0]:
        raise ValueError(f"path {path!r} leaves the manifest's root")
    return path


InsidePath = Annotated[str, AfterValidator(_inside)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Frame(_Strict):
    """One frame; paths are relative to the root of the manifest."""

    name: InsidePath
    img: InsidePath
    gt: InsidePath | None = None
    flow: InsidePath | None = None


class Video(_Strict):
    """A video: native (height, width) in pixels and its frames in order."""

    name: InsidePath
    size: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
    frames: Annotated[tuple[Frame, ...], Field(min_length=1)]


class Split(_Strict):
    """One data set of the manifest, such as DAVIS_train, with the record of its flow."""

    dataset: InsidePath
    split: str | None = None
    flow: dict[str, Any] | None = None
    store: str | None = None
    videos: Annotated[tuple[Video, ...], Field(min_length=1)]

    @property
    def frames(self) -> int:
        """Number of frames of all videos."""
        return sum(len(video.frames) for video in self.videos)


class Manifest(_Strict):
    """The whole manifest; `root` is relative to the manifest's own file, or absolute, or a URL."""

    version: Literal[1] = 1
    name: str
    root: str
    datasets: Annotated[tuple[Split, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Source:
    """A manifest that was read, and the folder or URL its paths start from."""

    manifest: Manifest
    file: Path
    root: str

    def path(self, relative: str) -> str:
        """Return the full path or URL of a file of the manifest."""
        return f"{self.root}/{relative}"

    def split(self, dataset: str) -> Split:
        """Return the split of that name. Raises UsageError with the known ones."""
        for split in self.manifest.datasets:
            if split.dataset == dataset:
                return split
        raise unknown(f"data set of {self.file}:", dataset, self.names())

    def names(self) -> list[str]:
        """Return the names of the data sets in the manifest."""
        return [split.dataset for split in self.manifest.datasets]


def read(file: Path) -> Source:
    """Return the manifest in `file`. Raises DataError with the first fault in words."""
    try:
        values = json.loads(media.read_bytes(file))
        manifest = Manifest.model_validate(values)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{file}: not a JSON manifest ({error}). See vsodpipe manifest.") from error
    except ValidationError as error:
        first, *more = error.errors(include_url=False)
        place = ".".join(str(step) for step in first["loc"]) or "the top"
        rest = f" ({len(more)} more faults)" if more else ""
        raise DataError(
            f"{file}: not a valid manifest: at {place}: {first['msg']}{rest}. "
            "Write it anew with vsodpipe manifest."
        ) from error
    root = manifest.root
    if "://" not in root:
        root = str((file.parent / root).resolve())
    return Source(manifest=manifest, file=file, root=root)


def build(names: list[str], root: Path, out: Path, reporter: Reporter) -> dict[str, Manifest]:
    """Return a manifest a group of data sets (DAVIS_train and DAVIS_test are `davis`).

    `names` are data sets of the data root, or groups; none takes all that are there. Every header
    is read: sizes of frame, mask and flow must agree; flow is complete and of one kind, or absent.
    """
    here = catalogue.present(root)
    groups: dict[str, list[str]] = {}
    for dataset in here:
        groups.setdefault(_group_and_split(dataset)[0], []).append(dataset)
    chosen: dict[str, list[str]] = groups if not names else {}
    for name in names:
        if name in groups:
            chosen[name] = groups[name]
        elif name in here:
            chosen.setdefault(_group_and_split(name)[0], []).append(name)
        else:
            catalogue.find(name, root)
            raise UsageError(f"{name}: only data sets inside the data root {root} have a manifest.")
    if not chosen:
        raise UsageError(f"no data set in {root}. Bring one with: vsodpipe import davis FOLDER.")
    base = _relative_root(root, out)
    made = {}
    for group, datasets in chosen.items():
        datasets.sort(key=_order)
        splits = tuple(split_of(catalogue.find(d, root), root, reporter) for d in datasets)
        made[group] = Manifest(name=group, root=base, datasets=splits)
    return made


def write(manifest: Manifest, out: Path, root: Path) -> list[Path]:
    """Write `NAME.json` and a txt for every split into folder `out`; return the files."""
    files = [out / f"{manifest.name}.json"]
    text = manifest.model_dump_json(exclude_none=True, indent=1)
    media.write_bytes(files[0], text.encode() + b"\n")
    for split in manifest.datasets:
        file = out / f"{split.dataset.lower()}.txt"
        media.write_bytes(file, "".join(_rows(split, root)).encode())
        files.append(file)
    return files


def _rows(split: Split, root: Path) -> Iterator[str]:
    rows = [
        [str(root / path) if path else "-" for path in (frame.img, frame.gt, frame.flow)]
        for video in split.videos
        for frame in video.frames
    ]
    blank = any(" " in path for row in rows for path in row)
    yield from (("\t" if blank else " ").join(row) + "\n" for row in rows)


def _group_and_split(dataset: str) -> tuple[str, str | None]:
    """Return (davis, train) for DAVIS_train: by its card, or by the end of its name."""
    if owner := catalogue.card_of(dataset):
        return owner[0].key, owner[1]
    stem, _, end = dataset.rpartition("_")
    return (stem.lower(), end) if stem and end in SPLITS else (dataset.lower(), None)


def _order(dataset: str) -> tuple[int, str]:
    split = _group_and_split(dataset)[1]
    return SPLITS.index(split) if split in SPLITS else len(SPLITS), dataset


def _relative_root(root: Path, out: Path) -> str:
    """Return the data root as seen from the manifest's folder, so that both can move together."""
    return Path(os.path.relpath(root.resolve(), out.resolve())).as_posix()


def split_of(dataset: Dataset, root: Path, reporter: Reporter) -> Split:
    """Return the manifest entry of one data set of the data root, after checking its headers."""
    total = sum(len(video.frames) for video in dataset.videos)
    records = {video.name: flow_record.read(video.flow_folder) for video in dataset.videos}
    record = flow_record.common(dataset.name, records)
    with reporter.task(f"check {dataset.name}", total, "frame") as counter:
        videos = []
        for video in dataset.videos:
            videos.append(_video(dataset.name, video, root, record is not None))
            counter.advance(len(video.frames))
    split = _group_and_split(dataset.name)[1]
    return Split(dataset=dataset.name, split=split, flow=record, videos=tuple(videos))


def _video(dataset: str, video: catalogue.Video, root: Path, has_flow: bool) -> Video:
    size = media.image_size(video.frames[0].img)
    entries = []
    for frame in video.frames:
        if has_flow and frame.flow is None:
            raise DataError(
                f"{dataset}/{video.name}: frame {frame.name} has no flow. "
                f"Run: vsodpipe flow {dataset}."
            )
        for file in (frame.img, frame.gt, frame.flow):
            if file is not None and (found := media.image_size(file)) != size:
                raise DataError(
                    f"{file}: expected {size[1]}x{size[0]} as the first frame of {video.name}, "
                    f"got {found[1]}x{found[0]}. Restore the file and run again."
                )
        paths = {
            key: file.relative_to(root).as_posix()
            for key, file in (("img", frame.img), ("gt", frame.gt), ("flow", frame.flow))
            if file is not None
        }
        entries.append(Frame(name=frame.name, **paths))
    return Video(name=video.name, size=size, frames=tuple(entries))


def schema() -> str:
    """Return the JSON Schema of a manifest; `python -m vsodpipe.manifest` prints it."""
    return json.dumps(Manifest.model_json_schema(), indent=1) + "\n"


if __name__ == "__main__":
    print(schema(), end="")
