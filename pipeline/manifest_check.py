"""`vsodpipe manifest --check`: whether manifests can be trusted, as one verdict.

Every file is opened and decoded (`quick`: its header is read), names and numbers are compared, and
no picture may stand in train and test, over all the manifests that are checked together.
"""

from __future__ import annotations

import os
import posixpath
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vsodpipe import flow_record, manifest_faults, media
from vsodpipe.card import Card, card_of
from vsodpipe.errors import DataError
from vsodpipe.manifest import Source, Split
from vsodpipe.manifest_faults import KEYS, PROBLEMS, Fault
from vsodpipe.progress import Reporter

SHOWN = 5
"""Faults of each kind that are told one by one; the others are counted."""
_UNIT = 16
"""Frames that a thread takes at once."""


@dataclass
class Verdict:
    """What a check found: counts by kind, and the first faults of each kind."""

    quick: bool
    manifests: list[str] = field(default_factory=list)
    frames: dict[str, int] = field(default_factory=dict)
    """Frames of each data set."""
    problems: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    first: list[Fault] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing but warnings was found."""
        return not self.problems

    def add(self, fault: Fault) -> None:
        """Count a fault, and keep it if it is one of the first of its kind."""
        counts = self.problems if fault.kind in PROBLEMS else self.warnings
        if counts[fault.kind] < SHOWN:
            self.first.append(fault)
        counts[fault.kind] += 1

    def as_dict(self) -> dict[str, Any]:
        """Return it for a script."""
        first = [{**asdict(fault), "remedy": fault.remedy} for fault in self.first]
        return {"ok": self.ok, **vars(self), "first": first}

    def lines(self) -> Iterator[str]:
        """Yield it in words: the first faults of each kind, then how many more there are."""
        for kind, count in [*self.problems.items(), *self.warnings.items()]:
            yield from (fault.line() for fault in self.first if fault.kind == kind)
            if count > SHOWN:
                yield f"{kind}: {count - SHOWN} more"

    def summary(self) -> str:
        """Return it in one line."""
        checked = f"{sum(self.frames.values())} frames of {', '.join(self.frames)}"
        how = "headers only, pictures compared by path" if self.quick else "every file read"
        found = [f"{count} {kind}" for kind, count in self.problems.items()]
        return f"{checked} ({how}): {', '.join(found) or 'no problem'}"


def check(
    sources: Sequence[Source],
    reporter: Reporter,
    *,
    quick: bool = False,
    threads: int = 0,
    data: Path | None = None,
) -> Verdict:
    """Return the verdict on the manifests in `sources`, with `threads` (0: as measured best).

    Private cards are those of each manifest's root, else of the data root `data`.
    """
    verdict, seen = Verdict(quick), _Seen()
    for source in sources:
        verdict.manifests.append(str(source.file))
        for split in source.manifest.datasets:
            held = verdict.frames.get(split.dataset, 0)
            verdict.frames[split.dataset] = held + split.frames
            owner = _card(source, split, data)
            for fault in _names(source, split, owner):
                verdict.add(fault)
            seen.start(source, split)
            with reporter.task(f"check {split.dataset}", split.frames, "frame") as counter:
                for unit, (faults, digests) in _files(source, split, owner, quick, threads):
                    found = seen.twice(unit, digests)
                    for fault in (*faults, *found):
                        verdict.add(fault)
                    counter.advance(unit.stop - unit.start)
    return verdict


def _names(source: Source, split: Split, owner: Card | None) -> Iterator[Fault]:
    """Yield what the manifest alone, and the flow.json beside the flow, say is wrong."""
    part = source.manifest.made_by is not None
    paths: set[str] = set()
    folders: dict[str, tuple[str, str]] = {}
    for video in split.videos:
        yield from manifest_faults.of_video(split, video, owner, part)
        for frame in video.frames:
            place = f"{split.dataset}/{video.name}/{frame.name}"
            for path in (getattr(frame, key) for key in KEYS):
                if path is None:
                    continue
                plain = posixpath.normpath(path) if "./" in path or "//" in path else path
                if plain in paths:
                    yield Fault("duplicate", place, f"{path} is there before")
                paths.add(plain)
            if frame.flow is not None:
                folders.setdefault(posixpath.dirname(frame.flow), (place, frame.flow))
    if split.flow is not None:
        for place, path in folders.values():
            yield from _flow(source.path(path), place, split.flow)


def _card(source: Source, split: Split, data: Path | None) -> Card | None:
    root = None if "://" in source.root else Path(source.root)
    found = card_of(split.dataset, root) or card_of(split.dataset, data)
    return found[0] if found else None


def _flow(picture: str, place: str, stated: dict[str, Any]) -> Iterator[Fault]:
    file = f"{posixpath.dirname(picture)}/{flow_record.FILE}"
    try:
        if "://" in picture:
            found = flow_record.check(media.read_json(file))
        else:
            found = flow_record.beside(Path(picture)) or {}
    except (DataError, ValueError):
        found = {}
    if not found:
        yield Fault("record", place, "no record of its flow", file)
    elif found["fingerprint"] != stated["fingerprint"]:
        here, there = flow_record.describe(found), flow_record.describe(stated)
        yield Fault("flow", place, f"the flow is {here}, the manifest says {there}", file)


@dataclass(frozen=True, slots=True)
class _Unit:
    """Frames `start` to `stop` of a video, by its place in the split."""

    video: int
    start: int
    stop: int


_Found = tuple[list[Fault], Sequence[str | int]]


def _files(
    source: Source, split: Split, owner: Card | None, quick: bool, threads: int
) -> Iterator[tuple[_Unit, _Found]]:
    """Yield what is wrong with the files of every unit of `split`, and a key of each picture.

    The key is a hash of the file, or its path where files are not read. In order.
    """
    soft = owner is not None and any(raw.mask == "soft" for raw in owner.layouts)

    def run(unit: _Unit) -> _Found:
        video = split.videos[unit.video]
        frames = video.frames[unit.start : unit.stop]
        faults, digests = manifest_faults.of_files(source, split, video, frames, soft, quick)
        return faults, digests or [source.path(frame.img) for frame in frames]

    units = (
        _Unit(number, start, min(start + _UNIT, len(video.frames)))
        for number, video in enumerate(split.videos)
        for start in range(0, len(video.frames), _UNIT)
    )
    # threads that read headers only wait for each other (benchmarks/manifest.py)
    threads = threads or (1 if quick else len(os.sched_getaffinity(0)))
    pending: deque[tuple[_Unit, Future[_Found]]] = deque()
    pool = ThreadPoolExecutor(threads, "check")
    try:
        for unit in units:
            pending.append((unit, pool.submit(run, unit)))
            if len(pending) > 4 * threads:
                first, future = pending.popleft()
                yield first, future.result()
        while pending:
            first, future = pending.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _role(split: str) -> str:
    """Return train or test, or nothing for what may hold both, as MSRA-B's `all`."""
    return "train" if split.startswith("train") else "" if split in ("", "all") else "test"


class _Seen:
    """The pictures seen so far, by role (train, test): finds the ones that are there twice."""

    def __init__(self) -> None:
        self._splits: list[tuple[Source, Split]] = []
        self._seen: dict[str, dict[str | int, int]] = {"train": {}, "test": {}, "": {}}
        self._role = ""

    def start(self, source: Source, split: Split) -> None:
        """Take what comes next as pictures of `split`."""
        self._splits.append((source, split))
        self._role = _role(split.split or "")

    def twice(self, unit: _Unit, keys: Sequence[str | int]) -> Iterator[Fault]:
        """Yield a fault for each picture of `unit` that was seen before in a place it may not."""
        other = self._seen[{"train": "test", "test": "train", "": ""}[self._role]]
        own = self._seen[self._role]
        for number, key in enumerate(keys, unit.start):
            if key == -1:
                continue
            # one number, as there may be millions: split, video and frame
            code = (len(self._splits) - 1) << 48 | unit.video << 24 | number
            if key in other and self._role:
                yield self._fault("leak", code, other[key])
            elif key in own and own[key] >> 24 == code >> 24:
                if self._file(own[key]) != self._file(code):  # else it is a duplicate
                    yield self._fault("repeat", code, own[key])
            own.setdefault(key, code)

    def _fault(self, kind: str, code: int, before: int) -> Fault:
        words = f"the same picture as {self._place(before)}"
        return Fault(kind, self._place(code), words, self._file(code))

    def _place(self, code: int) -> str:
        _, split = self._splits[code >> 48]
        video = split.videos[code >> 24 & 0xFFFFFF]
        return f"{split.dataset}/{video.name}/{video.frames[code & 0xFFFFFF].name}"

    def _file(self, code: int) -> str:
        source, split = self._splits[code >> 48]
        return source.path(split.videos[code >> 24 & 0xFFFFFF].frames[code & 0xFFFFFF].img)
