"""Manifests: which (img, gt, flow) files make up the videos of a data set, as JSON and as txt rows.

    davis.json         every split of DAVIS, sizes, provenance; what the other commands read
    davis_train.txt    one row `img gt flow` a frame, for loaders written elsewhere (`-` for none)

Paths are relative to the manifest's root and cannot leave it.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass

from vsodpipe import card, catalogue, flow_record, locks, media
from vsodpipe.card import Card
from vsodpipe.catalogue import Dataset
from vsodpipe.errors import DataError, UsageError, unknown, unwritable
from vsodpipe.manifest_text import MAX_BYTES, inside, one_part, parse, plain, shown
from vsodpipe.progress import Reporter

SPLITS = ("train", "val", "test")
"""Endings by which data sets without a card are grouped, in the order of a manifest."""


def _unique(key: str) -> AfterValidator:
    """Return the validator of a tuple: no two of its items have the same `key`."""

    def check(items: tuple[Any, ...]) -> tuple[Any, ...]:
        ((name, count),) = Counter(getattr(item, key) for item in items).most_common(1)
        if count > 1:
            raise ValueError(f"{key} {shown(name)} is there {count} times")
        return items

    return AfterValidator(check)


Text = Annotated[str, AfterValidator(plain)]
InsidePath = Annotated[Text, AfterValidator(inside)]
Name = Annotated[Text, AfterValidator(one_part)]
Pixels = Annotated[int, Field(gt=0, le=media.MAX_PIXELS)]
FlowRecord = Annotated[
    dict[str, Any],
    AfterValidator(flow_record.check),
    Field(json_schema_extra={"required": ["fingerprint"]}),
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# there may be millions: slots take a third of the memory of a BaseModel
@pydantic_dataclass(config=ConfigDict(extra="forbid"), slots=True, frozen=True, kw_only=True)
class Frame:
    """One frame; paths are relative to the root of the manifest."""

    name: Name
    img: InsidePath
    gt: InsidePath | None = None
    flow: InsidePath | None = None
    depth: InsidePath | None = None
    thermal: InsidePath | None = None


class Video(_Strict):
    """A video: native (height, width) in pixels and its frames in order."""

    name: Name
    size: tuple[Pixels, Pixels]
    frames: Annotated[tuple[Frame, ...], FailFast(), Field(min_length=1), _unique("name")]


class Split(_Strict):
    """One data set of the manifest, such as DAVIS_train, with the record of its flow."""

    dataset: Name
    split: Text | None = None
    flow: FlowRecord | None = None
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """How often every sample stands in a training epoch, on average; 1 where absent."""
    videos: Annotated[tuple[Video, ...], FailFast(), Field(min_length=1), _unique("name")]

    @property
    def frames(self) -> int:
        """Number of frames of all videos."""
        return sum(len(video.frames) for video in self.videos)


class Manifest(_Strict):
    """The whole manifest; `root` is relative to the manifest's own file, or absolute, or a URL."""

    version: Literal[1] = 1
    name: Name
    root: Text
    made_by: Text | None = None
    """The command that made a part or a mixture; absent where a group's data sets are whole."""
    datasets: Annotated[tuple[Split, ...], FailFast(), Field(min_length=1), _unique("dataset")]


@dataclass(frozen=True)
class Source:
    """A manifest that was read, and the folder or URL its paths start from."""

    manifest: Manifest
    file: Path | str
    """Where it was read from: a file, a URL, or the folder it was made of."""
    root: str

    def path(self, relative: str) -> str:
        """Return the full path or URL of a file of the manifest."""
        if self.root.startswith(("http://", "https://")):
            relative = quote(relative)  # a `#` or `?` of a name would end the path
        return f"{self.root}/{relative}"

    def sha256(self) -> str:
        """Return the hash of the file behind it, or of the manifest made of a folder."""
        folder = os.path.isdir(self.file)
        data = _dump(self.manifest) if folder else media.read_bytes(self.file)
        return hashlib.sha256(data).hexdigest()

    def split(self, dataset: str) -> Split:
        """Return the split of that name. Raises UsageError with the known ones."""
        for split in self.manifest.datasets:
            if split.dataset == dataset:
                return split
        raise unknown(f"data set of {self.file}:", dataset, self.names())

    def names(self) -> list[str]:
        """Return the names of the data sets in the manifest."""
        return [split.dataset for split in self.manifest.datasets]


def require_flow(split: Split) -> None:
    """Raise DataError unless every frame of `split` has flow."""
    lacking = next((f for v in split.videos for f in v.frames if f.flow is None), None)
    if split.flow is None:
        raise DataError(
            f"{split.dataset} has no flow in its manifest. "
            f"Run: vsodpipe flow {split.dataset}, then vsodpipe manifest."
        )
    if lacking is not None:
        raise DataError(
            f"{split.dataset}: frame {lacking.name} has no flow (tail {split.flow.get('tail')}). "
            f"Run: vsodpipe flow {split.dataset} --tail backward --force, then vsodpipe manifest."
        )


def read(file: Path | str) -> Source:
    """Return the manifest in `file`, a JSON of up to MAX_BYTES, or at that fsspec URL.

    Raises DataError with the first fault in words.
    """
    try:
        # nothing holds on to the bytes: of a million rows each copy is 200 MB
        values = parse(media.read_bytes(file, limit=MAX_BYTES).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        words = " ".join(str(error).split())
        raise DataError(f"{file}: not a JSON file ({words}). See vsodpipe manifest.") from error
    with valid(f"{file}: not a valid manifest", "Write it anew with vsodpipe manifest."):
        manifest = Manifest.model_validate(values)
    return Source(manifest=manifest, file=file, root=resolve_root(manifest.root, file))


def resolve_root(root: str, file: Path | str) -> str:
    """Return where the paths of the manifest at `file` start: a folder or a URL.

    Raises DataError for a manifest at a URL whose root is on this disk.
    """
    scheme, remote, place = str(file).partition("://") if isinstance(file, str) else ("", "", "")
    if "://" in root:
        if remote and root.startswith(("file:", "local:")):
            raise DataError(f"{file}: its root {shown(root)} is on your disk. Write it anew.")
        return root
    if not remote:
        return os.path.realpath(Path(file).parent / root)
    # the first part may be a host or a bucket: no root leaves it
    host, _, path = place.partition("?")[0].rpartition("/")[0].partition("/")
    joined = posixpath.normpath(posixpath.join("/", path, root)).strip("/")
    return f"{scheme}://{host}/{joined}".rstrip("/")


@contextmanager
def valid(place: str, remedy: str) -> Iterator[None]:
    """Turn what pydantic finds into a DataError of one line: the first fault and where it is."""
    try:
        yield
    except ValidationError as error:
        first, *more = error.errors(include_url=False, include_input=False)
        where = ".".join(map(_step, first["loc"])) or "the top"
        rest = f" ({len(more)} more faults)" if more else ""
        raise DataError(f"{place}: at {where}: {first['msg']}{rest}. {remedy}") from error


def _step(step: int | str) -> str:
    known = isinstance(step, int) or re.fullmatch(r"\w{1,40}", step)
    return str(step) if known else shown(str(step), 40)


def build(
    names: list[str], root: Path, out: Path, reporter: Reporter, *, name: str | None = None
) -> dict[str, Manifest]:
    """Return a manifest a group of data sets (DAVIS_train and DAVIS_test are `davis`).

    `names` are data sets of the data root, or groups; none takes all that are there. Every header
    is read: sizes of frame, mask and flow must agree; flow is complete and of one kind, or absent.
    Says which data sets a manifest in `out` holds and its successor does not. With `name`, all are
    in one manifest of that name.
    """
    made = {}
    chosen = _chosen(names, root, reporter)
    if name is not None:
        chosen = {name: [dataset for datasets in chosen.values() for dataset in datasets]}
    for group, datasets in chosen.items():
        splits = tuple(split_of(catalogue.find(d, root), root, reporter) for d in datasets)
        with valid(f"manifest of {group}", "Rename the folders."):
            base = relative_root(root, out)
            made[group] = Manifest(name=group, root=base, datasets=splits)
        if name is None:
            warn_of_lost(out / f"{group}.json", datasets, reporter)
    return made


def _chosen(names: list[str], root: Path, reporter: Reporter) -> dict[str, list[str]]:
    """Return the data sets of every group that `names` ask for, each once and in order."""
    here = catalogue.present(root)
    downloads = {card.name.lower(): card for card in catalogue.cards(root).values()}
    groups: dict[str, set[str]] = {}
    for dataset in here:
        if dataset.lower() not in downloads:
            groups.setdefault(group_and_split(dataset, root)[0], set()).add(dataset)
        elif not names:
            card = downloads[dataset.lower()]
            reporter.say(
                f"note: {root / dataset} is left out: it has no split. If it is the official "
                f"download: vsodpipe import {card.key} {root / dataset}"
            )
    chosen: dict[str, set[str]] = {} if names else groups
    for name in (name.rstrip("/") for name in names):
        if name in groups:
            chosen.setdefault(name, set()).update(groups[name])
        elif name in here:
            chosen.setdefault(group_and_split(name, root)[0], set()).add(name)
        else:
            catalogue.find(name, root)
            raise _outside(name, root)
    if not chosen:
        raise UsageError(f"no data set in {root}. Bring one with: vsodpipe import davis FOLDER.")
    return {group: sorted(datasets, key=_order(root)) for group, datasets in chosen.items()}


def warn_of_lost(file: Path, datasets: list[str], reporter: Reporter) -> None:
    """Say which data sets the manifest in `file` holds, if there is one, that `datasets` lack."""
    with suppress(DataError):  # no manifest yet, or none that could be read before
        if lost := [name for name in read(file).names() if name not in datasets]:
            reporter.warn(f"{file} no longer holds {', '.join(lost)}")


def _outside(name: str | Path, root: Path) -> UsageError:
    return UsageError(
        f"{name}: expected a data set inside the data root {root}: a folder of videos with their "
        f"frames. Bring it in with: vsodpipe import --own NAME {name}"
    )


def write(manifest: Manifest, out: Path, root: Path | str) -> list[Path]:
    """Write a txt for every split and, last, `NAME.json` into folder `out`; return it and them.

    The txt files of a part or a mixture have its name before theirs (`mix.davis_train.txt`).
    """
    files = [out / f"{manifest.name}.json"]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(out, error) from error
    with locks.alone(out):
        for split in manifest.datasets:
            before = f"{manifest.name}." if manifest.made_by else ""
            file = out / f"{before}{split.dataset.lower()}.txt"
            with media.replacing(file) as partial, open(partial, "wb") as opened:
                rows = _rows(split, root)
                opened.writelines(row.encode(errors="surrogateescape") for row in rows)
            files.append(file)
        media.write_bytes(files[0], _dump(manifest))
    return files


def _dump(manifest: Manifest) -> bytes:
    return TypeAdapter(Manifest).dump_json(manifest, exclude_none=True, indent=1) + b"\n"


def _rows(split: Split, root: Path | str) -> Iterator[str]:
    frames = [frame for video in split.videos for frame in video.frames]
    blank = " " in str(root) or any(
        " " in path for f in frames for path in (f.img, f.gt, f.flow) if path
    )
    mark = "\t" if blank else " "
    start = f"{root}/" if isinstance(root, str) else str(root / "x")[:-1]
    for f in frames:
        yield mark.join(start + path if path else "-" for path in (f.img, f.gt, f.flow)) + "\n"


def group_and_split(dataset: str, root: Path) -> tuple[str, str | None]:
    """Return (davis, train) for DAVIS_train: by its card, or by the end of its name."""
    return group_in(catalogue.cards(root), dataset)


def group_in(cards: Mapping[str, Card], dataset: str) -> tuple[str, str | None]:
    """Return group and split of a data set by the known `cards`, or by the end of its name."""
    if found := card.owner(dataset, cards):
        return found[0].key, found[1]
    stem, _, end = dataset.rpartition("_")
    return (stem.lower(), end) if stem and end in SPLITS else (dataset.lower(), None)


def _order(root: Path) -> Callable[[str], tuple[int, str]]:
    def key(dataset: str) -> tuple[int, str]:
        split = group_and_split(dataset, root)[1]
        return SPLITS.index(split) if split in SPLITS else len(SPLITS), dataset

    return key


def relative_root(root: Path, out: Path) -> str:
    """Return the data root as seen from the manifest's folder, so that both can move together."""
    # not resolve(), which raises for links that go round
    return Path(os.path.relpath(os.path.realpath(root), os.path.realpath(out))).as_posix()


def split_of(dataset: Dataset, root: Path, reporter: Reporter) -> Split:
    """Return the manifest entry of one data set of the data root, after checking its headers.

    Raises UsageError for a video file and for a folder outside the data root.
    """
    base = Path(os.path.abspath(root))
    for video in dataset.videos:
        if video.file or base not in Path(os.path.abspath(dataset.root)).parents:
            raise _outside(video.file or dataset.root, root)
    total = sum(len(video.frames) for video in dataset.videos)
    records = {video.name: flow_record.read(video.flow_folder) for video in dataset.videos}
    record = flow_record.common(dataset.name, records)
    videos = []
    with (
        reporter.task(f"check {dataset.name}", total, "frame") as counter,
        valid(f"{dataset.root}", "Rename the files."),
    ):
        for video in dataset.videos:
            videos.append(_video(dataset.name, video, base, record))
            counter.advance(len(video.frames))
        split = group_and_split(dataset.name, root)[1]
        return Split(dataset=dataset.name, split=split, flow=record, videos=tuple(videos))


def _video(
    dataset: str, video: catalogue.Video, root: Path, record: dict[str, Any] | None
) -> Video:
    size = media.image_size(video.frames[0].img)
    # by the tail rule `none` a video's last frame has no flow
    with_flow = video.frames[:-1] if record and record.get("tail") == "none" else video.frames
    if record and (lacking := next((f for f in with_flow if f.flow is None), None)):
        raise DataError(
            f"{dataset}/{video.name}: frame {lacking.name} has no flow. "
            f"Run: vsodpipe flow {dataset}."
        )
    entries = []
    for frame in video.frames:
        paths = {}
        for key in ("img", "gt", "flow", "depth", "thermal"):
            file = getattr(frame, key)
            if file is None:
                continue
            if (found := media.image_size(file)) != size:
                raise DataError(
                    f"{file}: expected {size[1]}x{size[0]} as the first frame of {video.name}, "
                    f"got {found[1]}x{found[0]}. Restore the file and run again."
                )
            paths[key] = Path(os.path.abspath(file)).relative_to(root).as_posix()
        entries.append(Frame(name=frame.name, **paths))
    return Video(name=video.name, size=size, frames=tuple(entries))


def schema() -> str:
    """Return the JSON Schema of a manifest; `python -m vsodpipe.manifest` prints it."""
    return json.dumps(Manifest.model_json_schema(), indent=1) + "\n"


if __name__ == "__main__":
    print(schema(), end="")
