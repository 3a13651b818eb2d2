"""What an export to a published layout will write, and how it differs from the data sets.

Nothing is written here. Whatever a loader could not read as it is, is changed, and counted in a
note that says why.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vsodpipe import manifest, media
from vsodpipe.card import Card, owner
from vsodpipe.errors import DataError, UsageError
from vsodpipe.layout_table import LAYOUTS, Layout, Place
from vsodpipe.manifest import Frame, Split, Video


@dataclass(frozen=True, slots=True)
class Written:
    """What is written of one data set."""

    folder: str
    videos: int
    frames: int


@dataclass
class Plan:
    """Files by their path from the folder that is written."""

    links: dict[str, Path] = field(default_factory=dict)
    """Frames and flow, and what they are links to."""
    masks: dict[str, Path] = field(default_factory=dict)
    """Masks, which are links too where the loaders read them rightly."""
    texts: dict[str, list[str]] = field(default_factory=dict)
    """Lists, row by row."""
    notes: list[str] = field(default_factory=list)
    """Differences from the data sets, in words."""
    sets: dict[str, Written] = field(default_factory=dict)
    """By data set."""


def make(layout: str, sources: Sequence[tuple[Split, Path]], cards: Mapping[str, Card]) -> Plan:
    """Return the plan to write data sets, each below its root, in a layout; `cards` name them.

    Raises UsageError for a data set that the layout has no place for, and DataError where files
    that it needs are missing or two would have one name.
    """
    plan = Plan()
    for split, root in sources:
        place = _place(layout, split, cards)
        folder = _folder(place, split.dataset, LAYOUTS[layout], cards)
        _Writer(LAYOUTS[layout], place, folder, split, root, plan).add_all()
    return plan


def _place(layout: str, split: Split, cards: Mapping[str, Card]) -> Place:
    """Return the first place that suits a data set. Raises UsageError where none does."""
    stills, train = _is_stills(split, cards), (split.split or "").startswith("train")
    frames = [frame for video in split.videos for frame in video.frames]
    for place in LAYOUTS[layout].places:
        fits = place.stills == stills and place.train in (None, train)
        known = not place.only or split.dataset in place.folders
        kinds = [kind for kind in ("depth", "thermal") if getattr(place, kind)]
        if fits and known and all(getattr(f, kind) for kind in kinds for f in frames):
            return place
    kind = f"{'training' if train else 'test'} set of {'still pictures' if stills else 'videos'}"
    raise UsageError(
        f"{split.dataset}: {LAYOUTS[layout].title} has no place for this {kind} "
        f"({LAYOUTS[layout].looks}). Export it to another layout."
    )


def _is_stills(split: Split, cards: Mapping[str, Card]) -> bool:
    if found := owner(split.dataset, cards):
        return found[0].kind == "image"
    return all(len(v.frames) == 1 and v.frames[0].name == v.name for v in split.videos)


def _folder(place: Place, dataset: str, layout: Layout, cards: Mapping[str, Card]) -> str:
    found = owner(dataset, cards)
    name = dataset if found is None or place.own_names else found[0].name
    blanks = "".join(mark for mark in layout.video_marks if mark.isspace())
    return _without(place.folders.get(dataset, name), blanks)


def _without(name: str, marks: str) -> str:
    return "".join("-" if mark in marks else mark for mark in name)


class _Writer:
    """Adds one data set to a plan."""

    def __init__(
        self, layout: Layout, place: Place, folder: str, split: Split, root: Path, plan: Plan
    ) -> None:
        self.layout, self.place, self.folder = layout, place, folder
        self.split, self.root, self.plan = split, root, plan
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add_all(self) -> None:
        """Add every video; then say what was changed."""
        if self.place.flow is not None:
            manifest.require_flow(self.split)
        written = {}
        for video in self.split.videos:
            frames = [f for f in video.frames if f.gt or not self.place.every_mask]
            self._count(
                "unmasked", f"{video.name}/{video.frames[0].name}", len(video.frames) - len(frames)
            )
            if frames:
                name = self._name(video)
                written[name] = frames
                self._add_video(name, video, frames)
        if not written:
            raise DataError(
                f"{self.split.dataset} has no masks, and {self.layout.title} needs one for every "
                "frame. Export it to another layout."
            )
        common = posixpath.commonpath([self.place.img, self.place.gt])
        folder = common.replace("{set}", self.folder).partition("/{")[0]
        self.plan.sets[self.split.dataset] = Written(
            folder, len(written), sum(map(len, written.values()))
        )
        for split, file in self.place.lists.items():
            if split == ("train" if self.split.split == "train" else "test"):
                self.plan.texts[file.format(set=self.folder)] = list(written)
        self.plan.notes += self._notes()

    def _count(self, what: str, example: str, number: int = 1) -> None:
        if number:
            self.counts[what] += number
            self.first.setdefault(what, example)

    def _name(self, video: Video) -> str:
        if self.place.stills:
            return video.name
        name = _without(video.name, self.layout.video_marks)
        if name != video.name:
            self._count("video", f"{video.name} is {name}")
        return name

    def _stems(self, name: str, frames: Sequence[Frame]) -> list[str]:
        """Return the names of the files of a video; loaders sort them as text."""
        stems = [_without(frame.name, self.layout.frame_marks) for frame in frames]
        if self.place.stills:
            wanted = stems
        else:
            numbers = [media.frame_number(frame.name) for frame in frames]
            if None in numbers:
                raise DataError(f"{self.split.dataset}/{name}: a frame has no number in its name.")
            width = max(5, *(len(str(number)) for number in numbers))
            plain = [f"{number:0{width}d}" for number in numbers]
            if self.place.flat or self.place.numbered:
                wanted = [f"{name}_{number}" for number in plain]
            else:
                wanted = stems if sorted(stems) == stems else plain
        for frame, stem in zip(frames, wanted, strict=True):
            if stem != frame.name:
                self._count("frame", f"{frame.name} is {stem}")
        return wanted

    def _add_video(self, name: str, video: Video, frames: Sequence[Frame]) -> None:
        values = {"set": self.folder, "video": name}
        if "{class}" in self.place.img:
            values["class"], _, values["video"] = name.partition("_")
        for frame, stem in zip(frames, self._stems(name, frames), strict=True):
            paths = {}
            for kind in ("img", "gt", "flow", "depth", "thermal"):
                relative, pattern = getattr(frame, kind), getattr(self.place, kind)
                if relative is None:
                    continue
                if pattern is None:
                    self._count(kind, frame.name)
                    continue
                paths[kind] = self._add(kind, pattern, {**values, "frame": stem}, relative)
                if self.place.again is not None and kind in ("img", "gt"):
                    again = self.place.again[kind == "gt"]
                    self._add(kind, again, {**values, "frame": stem}, relative)
            if self.place.rows is not None:
                row = [paths[kind] for kind in ("img", "gt", "flow") if kind in paths]
                file = self.place.rows.format(set=self.folder)
                self.plan.texts.setdefault(file, []).append(" ".join(row))

    def _add(self, kind: str, pattern: str, values: Mapping[str, str], relative: str) -> str:
        source = self.root / relative
        ending = source.suffix.lower().replace("jpeg", "jpg")
        path = pattern.format_map(values)
        if path.endswith(".*"):
            path = path[:-2] + ending
        elif kind != "gt" and not path.endswith(ending):
            self._count("ending", f"{source.name} is {path.rpartition('/')[2]}")
        files = self.plan.masks if kind == "gt" else self.plan.links
        if files.setdefault(path, source) != source:
            raise DataError(
                f"{source} and {files[path]} would both be {path}. Rename one of the videos, or "
                "export their data sets to two folders."
            )
        return path

    def _notes(self) -> Iterator[str]:
        said = {
            "video": f"videos have another name, as {self.layout.why}",
            "frame": "frames have another name, as the loader sorts and pairs by it",
            "unmasked": "frames without a mask are left out, as the loader wants one for each",
            "flow": "flow pictures are left out: there is no place for them",
            "depth": "depth pictures are left out: there is no place for them",
            "thermal": "thermal pictures are left out: there is no place for them",
            "ending": "pictures are under another ending; loaders go by what is in the file",
        }
        if self.place.note:
            yield f"{self.split.dataset}: {self.place.note}"
        for what, words in said.items():
            if number := self.counts[what]:
                yield f"{self.split.dataset}: {number} {words} (first: {self.first[what]})"
