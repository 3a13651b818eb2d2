"""The flow of one video: an entry for every frame, in folders that appear whole.

Flow forward leads from frame t to t+gap, flow backward from t to t-gap. The frames without such a
partner, the last ones forward and the first ones backward, follow the tail rule.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from vsodpipe import flow_entries, flow_record, media, video_file
from vsodpipe.catalogue import Video
from vsodpipe.errors import DataError, UsageError, VsodpipeError
from vsodpipe.flow_ahead import ahead, behind
from vsodpipe.flow_entries import Image, Tail, Way
from vsodpipe.flow_forms import FORMS, Entry, Writer, writer
from vsodpipe.flows import DIRECTIONS, Engine, Flow
from vsodpipe.flows.colour import longest_motion

THREADS = 2
"""Threads that colour, encode and write."""
IN_FLIGHT = 8
DECODED = 4
"""Frames that are decoded ahead."""


@dataclass(frozen=True)
class Options:
    """Which flow is computed, and how it is written down. Raises UsageError for what is unknown."""

    tail: Tail = "backward"
    """Entries of the frames without a partner: flow the other way (`backward`, as that of the last
    frame leads back), the nearest flow again, zero, or none."""
    colour: str = "frame"
    """Full colour: the largest motion of the `frame`, of the whole `video`, or `radius:N` px."""
    formats: tuple[str, ...] = ("jpg",)
    """What is written: `jpg` or `png` (the colour picture), `flo`, `kitti`, `raw`."""
    direction: str = "forward"
    """`forward` (t to t+gap), `backward` (t to t-gap) or `both`."""
    gap: int = 1
    """Frames from one of a pair to the other."""

    def __post_init__(self) -> None:
        if self.tail not in get_args(Tail):
            rules = ", ".join(get_args(Tail))
            raise UsageError(f"unknown tail rule {self.tail!r}. Known: {rules}.")
        self.radius()
        if unknown := [form for form in self.formats if form not in FORMS]:
            raise UsageError(f"unknown flow format {unknown[0]!r}. Known: {', '.join(FORMS)}.")
        if not self.formats or len(set(self.formats)) < len(self.formats):
            raise UsageError(f"expected flow formats, each once, got {', '.join(self.formats)!r}.")
        if sum(FORMS[form].is_picture for form in self.formats) > 1:
            raise UsageError("flow pictures are jpg or png, in one folder. Choose one of the two.")
        if self.direction not in DIRECTIONS:
            known = ", ".join(DIRECTIONS)
            raise UsageError(f"unknown flow direction {self.direction!r}. Known: {known}.")
        if self.gap < 1:
            raise UsageError(f"expected a gap of 1 frame or more, got {self.gap}.")

    def radius(self) -> float | None:
        """Return the radius in pixels of rule `radius:N`, None for the other rules."""
        if self.colour in ("frame", "video"):
            return None
        rule, _, number = self.colour.partition(":")
        try:
            radius = float(number)
        except ValueError:
            radius = 0.0
        if rule != "radius" or not 0 < radius < float("inf"):
            raise UsageError(
                f"unknown colour rule {self.colour!r}. Known: frame, video, radius:N (px)."
            )
        return radius

    @property
    def ways(self) -> tuple[Way, ...]:
        """The ways of `direction`."""
        ways: tuple[Way, ...] = get_args(Way)
        return tuple(way for way in ways if self.direction in (way, "both"))


@dataclass(frozen=True)
class Output:
    """A folder of flow of one video: one form of one way, with its record less its `source`."""

    form: str
    way: Way
    folder: Path
    record: dict[str, Any]


@dataclass(frozen=True)
class Written:
    """What `write` wrote."""

    entries: int
    """In each folder."""
    largest: float
    """The largest motion of any frame, in pixels."""
    still: int
    """Frames whose largest motion is under 1 px: the rule `frame` makes colourful noise of them."""


def outputs(
    video: Video, engine_fingerprint: Mapping[str, Any], options: Options
) -> tuple[Output, ...]:
    """Return the folders that `options` ask for, those of the colour pictures first."""
    forms = sorted(options.formats, key=lambda form: not FORMS[form].is_picture)
    found = []
    for way in options.ways:
        for form in forms:
            settings = {
                "version": 1,
                "engine": dict(engine_fingerprint),
                "direction": way,
                "gap": options.gap,
                "tail": options.tail,
                "colour": options.colour,
                "format": FORMS[form].words,
            }
            if not FORMS[form].is_picture:
                del settings["colour"]
            suffix = ("_BACKWARD" if way == "backward" else "") + FORMS[form].folder
            record = flow_record.make(settings)
            found.append(Output(form, way, video.flow_beside(suffix), record))
    return tuple(found)


def moved(video: Video, out: Path, alone: bool, several: bool) -> Video:
    """Return `video` with its flow in `out`, for a video that is `alone` in its data set or not.

    One form of flow lies in `out` itself or in `out`/VIDEO, `several` in `out`/FLOW, `out`/FLOW_FLO
    and so on, or in `out`/FLOW/VIDEO.
    """
    base = out / "FLOW" if several else out
    inner = "" if alone else video.name
    return replace(video, flow_base=base, flow_inner=inner, flow_is_here=not several)


def entries(video: Video, options: Options) -> int:
    """Return how many entries each folder will have; a video file's header may only estimate it."""
    frames = video_file.length(video.file) if video.file else len(video.frames)
    return _entries(frames, options)


def _entries(frames: int, options: Options) -> int:
    return max(0, frames - (options.gap if options.tail == "none" else 0))


def check_length(video: Video, frames: int, options: Options) -> None:
    """Raise DataError where a video of so many `frames` is too short for the tail rule."""
    least = {"backward": 2 * options.gap, "repeat": options.gap + 1}.get(options.tail, 0)
    if frames < least:
        gap = f" at a gap of {options.gap}" if options.gap > 1 else ""
        raise DataError(
            f"video {video.name}: expected at least {least} frames for flow{gap}, got {frames}. "
            "Remove the video, or use --tail zero (zero flow)."
        )


def locked(video: Video) -> Path:
    """Return what a command locks that works on `video`: its file, or the folder of its frames."""
    return video.file or video.frames[0].img.parent


def _files(video: Video) -> list[Path]:
    return [video.file] if video.file else [frame.img for frame in video.frames]


def _states(video: Video) -> list[tuple[int, int]]:
    """Return sizes and times of change of what the flow of `video` is made from."""
    try:
        return [(state.st_size, state.st_mtime_ns) for state in map(os.stat, _files(video))]
    except OSError as error:
        raise DataError(
            f"{error.filename}: cannot be read: {error.strerror}. Restore it and run again."
        ) from error


def source(video: Video) -> str:
    """Return a hash over names and sizes of the files that the flow of `video` is made from."""
    sized = zip(_files(video), _states(video), strict=True)
    text = "\n".join(f"{file.name} {size}" for file, (size, _) in sized)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def is_done(video: Video, output: Output, force: bool) -> bool:
    """Return whether the folder of `output` holds its flow, made from the frames as they are now.

    Raises DataError for a folder of files that are no flow of ours and, unless `force`, for one
    with flow of another kind.
    """
    folder, record = output.folder, output.record
    found = flow_record.read(folder)
    if found is None:
        if folder.exists() and any(folder.iterdir()):
            raise DataError(
                f"{folder}: holds files that vsodpipe flow did not write. "
                "Move them away, or name another folder with --out."
            )
        return False
    if found["fingerprint"] != record["fingerprint"]:
        if force:
            return False
        raise DataError(
            f"{folder}: video {video.name} has flow of another kind: "
            f"{flow_record.describe(found)}, asked for {flow_record.describe(record)}. "
            "Use --force to replace it."
        )
    if found.get("source") != source(video):
        return False
    gap, tail = record["gap"], record["tail"]
    first, last = flow_entries.window(len(video.frames), output.way, gap, tail)
    if first == last and not video.file:
        return True  # too few frames for any flow
    if output.form == "raw":
        from vsodpipe import flow_raw  # for its zarr, which takes half a second to import

        return flow_raw.is_whole(folder)
    if video.file:
        return True
    names = {frame.name for frame in video.frames[first:last]}
    return names <= {file.stem for file in folder.glob(f"*{FORMS[output.form].suffix}")}


def write(
    video: Video,
    engine: Engine,
    options: Options,
    todo: Sequence[Output],
    advance: Callable[[], None],
) -> Written:
    """Write the folders `todo` of `video` with their records; its flow is computed once for all.

    The folders appear once all are complete. `advance` is called per entry of the first way.
    Frames are decoded, and flow is coloured and written, in threads of their own. Under the colour
    rule `video` all flow waits in a file beside the pictures, 8 bytes a pixel, until the largest
    motion is known. Raises DataError for a frame that does not decode, a video too short for the
    tail rule and motion that a form does not hold; VsodpipeError where entries are lacking.
    """
    ways = tuple(way for way in options.ways if any(output.way == way for output in todo))
    if not ways:
        return Written(entries(video, options), 0.0, 0)
    longest: dict[int, float] = {}
    seen = 0
    made: list[tuple[Output, Path, Writer]] = []

    def put(way: Way, frame: int, flow: Flow) -> None:
        name = video.frames[frame].name if video.frames else f"{frame:05d}"
        length = longest_motion(flow)
        if way == ways[0]:
            longest[frame] = max(length, longest.get(frame, 0.0))
        number = frame - (options.gap if way == "backward" and options.tail == "none" else 0)
        entry = Entry(number, name, flow, length, f"video {video.name}, frame {name}")
        for output, _, target in made:
            if output.way == way:
                target.put(entry)

    def counted(images: Iterable[Image]) -> Iterator[Image]:
        nonlocal seen
        for image in images:
            seen += 1
            yield image

    check = partial(check_length, video, options=options)
    with ExitStack() as stack:
        begun = _states(video)
        for output in todo:
            place = stack.enter_context(media.replacing(output.folder))
            place.mkdir()
            target = _writer(output, place, options)
            stack.callback(target.close)
            made.append((output, place, target))
        with behind(THREADS, IN_FLIGHT) as run, ahead(video.images(), DECODED) as images:
            flows = flow_entries.flows(
                engine, counted(images), ways, options.gap, options.tail, check
            )
            for way, frame, flow in flows:
                run(partial(put, way, frame, flow))
                if way == ways[0]:
                    advance()
        with behind(THREADS, IN_FLIGHT) as run:
            for _, _, target in made:
                target.finish(run)
        expected = _entries(seen, options)
        if _states(video) != begun:
            raise DataError(
                f"video {video.name}: its frames changed while their flow was computed. Run again."
            )
        for output, place, target in made:
            _seal(video, output, place, target.count(), expected)
    if options.tail == "zero":  # motion that nobody measured
        first, last = flow_entries.window(seen, ways[0], options.gap, "none")
        longest = {frame: length for frame, length in longest.items() if first <= frame < last}
    still = sum(length < 1 for length in longest.values())
    return Written(expected, max(longest.values(), default=0.0), still)


def _seal(video: Video, output: Output, place: Path, count: int, expected: int) -> None:
    """Write the record of a finished folder. Raises VsodpipeError where entries are lacking."""
    if count != expected:
        raise VsodpipeError(
            f"{output.folder}: expected {expected} entries of flow, got {count}: the engine or the "
            "disk lost some. Run vsodpipe flow again."
        )
    record = {**output.record, "source": source(video)}
    (place / flow_record.FILE).write_bytes(flow_record.dump(record))


def _writer(output: Output, place: Path, options: Options) -> Writer:
    relation = f"t -> t{'+' if output.way == 'forward' else '-'}{options.gap}"
    return writer(output.form, place, options.colour, options.radius(), relation, options.tail)
