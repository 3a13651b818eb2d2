"""Networks + videos -> saliency maps and an overlay video, with flow that is made on the way.

    NAME_maps/00000.png ...      the maps of one network, NAME_maps-LABEL of each of several
    NAME.vsod.mp4                frame, flow and maps side by side

The maps of a video appear whole, and so does its overlay: a run that was ended continues with what
is missing. Frames stream through: what is held does not grow with the length of the video.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vsodpipe import (
    film,
    film_file,
    flow_video,
    footage,
    locks,
    media,
    overlay,
    sampling,
)
from vsodpipe.catalogue import Video
from vsodpipe.errors import DataError, UsageError
from vsodpipe.film import Film, View
from vsodpipe.flow_ahead import behind
from vsodpipe.flow_video import Options
from vsodpipe.flows import Engine
from vsodpipe.footage import Footage, Image
from vsodpipe.infer import Grey
from vsodpipe.listing import MAPS_RECORD, OVERLAY
from vsodpipe.progress import Reporter
from vsodpipe.video_columns import Column, flow_of

MARK = "vsodpipe predict "
"""How the comment in an overlay video begins; a hash over what decides it follows."""
IN_FLIGHT = 4
"""Frames that wait to be written."""

Put = Callable[[int, NDArray[Any]], Grey]
"""Takes what a network made of a frame, puts it away, and returns the map."""
Draw = Callable[[int, film.Shot, Sequence[Grey]], None]


@dataclass(frozen=True)
class Place:
    """A video and where its results go."""

    video: Video
    folders: tuple[Path, ...]
    """Of the maps, one a column."""
    overlay: Path | None


@dataclass(frozen=True)
class Settings:
    """What else is asked for."""

    audio: bool = False
    """The sound of a file is copied into its overlay."""
    fps: float | None = None
    """Frames per second of folders."""
    force: bool = False
    """Results of other kinds are replaced."""


@dataclass(frozen=True)
class Work:
    """One video: what its results are recorded as, and which of them are there."""

    place: Place
    source: str
    """What its frames are, see `flow_video.source`."""
    records: tuple[dict[str, Any], ...]
    done: tuple[bool, ...]
    """Whether the maps of each column are there."""
    mark: str
    draws: bool
    """Whether its overlay is asked for and not there."""


@dataclass(frozen=True)
class Result:
    """What there is of one video now."""

    place: Place
    frames: int
    computed: bool
    """Whether anything was missing."""


def places(
    videos: Sequence[Video], labels: Sequence[str], out: Path | None, with_overlay: bool
) -> list[Place]:
    """Return where the results of every video go: beside it, or in folder `out`.

    Raises UsageError for a video of a data set without `out`, and for two videos of one place.
    """
    found: dict[Path, Place] = {}
    for video in videos:
        base = out / video.name if out is not None else _beside(video)
        names = [f"{base.name}_maps{f'-{label}' if len(labels) > 1 else ''}" for label in labels]
        film_to = base.with_name(f"{base.name}{OVERLAY}") if with_overlay else None
        if base in found:
            raise UsageError(
                f"{video.file or video.name}: its maps would lie where those of "
                f"{found[base].video.file or found[base].video.name} do. Use --out FOLDER."
            )
        found[base] = Place(video, tuple(base.with_name(name) for name in names), film_to)
    return list(found.values())


def _beside(video: Video) -> Path:
    """Return the path of a video's results, less what comes after its name."""
    if video.file is not None:
        return video.file.with_name(video.file.stem)
    folder = video.frames[0].img.parent
    if video.flow_base != folder.with_name(f"{folder.name}_FLOW"):
        raise UsageError(
            f"{video.name}: is a video of a data set. Say where its maps go: --out FOLDER."
        )
    return folder


def as_dict(result: Result, labels: Sequence[str]) -> dict[str, Any]:
    """Return a result as plain JSON."""
    place = result.place
    return {
        "video": place.video.name,
        "frames": result.frames,
        "computed": result.computed,
        "maps": {label: str(f) for label, f in zip(labels, place.folders, strict=True)},
        "overlay": str(place.overlay) if place.overlay else None,
    }


def predict(
    videos: Sequence[Place],
    columns: Sequence[Column],
    engine: Engine | None,
    settings: Settings,
    reporter: Reporter,
) -> list[Result]:
    """Write the maps and overlays of `videos` that are missing.

    `engine` is needed where a column is shown flow. Raises DataError for a video that does not
    decode or is too short for its flow, for folders and files that hold something else and, unless
    told to replace them, results of other networks; the last two before anything is computed.
    """
    survey(videos, columns, engine, settings)
    results = []
    for place in videos:
        # as `vsodpipe flow` locks it; what another process did meanwhile is looked at again
        with locks.alone(flow_video.locked(place.video), reporter.say):
            work = _work(place, columns, engine, settings)
            results.append(_video(work, columns, engine, settings, reporter))
    return results


def survey(
    videos: Sequence[Place],
    columns: Sequence[Column],
    engine: Engine | None,
    settings: Settings,
) -> None:
    """Refuse what `predict` would, before anything is computed."""
    for place in videos:
        _work(place, columns, engine, settings)


def _work(
    place: Place, columns: Sequence[Column], engine: Engine | None, settings: Settings
) -> Work:
    source = flow_video.source(place.video)
    records = []
    for column in columns:
        flow = flow_of(place.video, engine, column.look) if engine and column.look else None
        kind = flow.record["fingerprint"] if flow else None
        records.append({**column.decided, "flow": kind, "source": source})
    kept = zip(place.folders, records, strict=True)
    done = tuple(_is_done(folder, record, settings.force) for folder, record in kept)
    shown = [[column.label for column in columns], records, settings.audio, settings.fps]
    mark = MARK + hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:16]
    file = place.overlay
    draws = file is not None and not _is_marked(file, mark, settings.force)
    return Work(place, source, tuple(records), done, mark, draws)


def _is_done(folder: Path, record: Mapping[str, Any], force: bool) -> bool:
    note = folder / MAPS_RECORD
    if not note.is_file():
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise DataError(
                f"{folder}: holds files that vsodpipe predict did not write. Use --out."
            )
        return False
    found = media.read_json(note, f"Delete {folder}.")
    if isinstance(found, dict):
        length = found.pop("length", None)
        if found == record:
            return len(list(folder.glob("*.png"))) == length
    if not force:
        raise DataError(
            f"{folder}: holds maps of other weights, of another flow or of another video. "
            "Use --force to replace them, or --out for another folder."
        )
    return False


def _is_marked(file: Path, mark: str, force: bool) -> bool:
    if not file.exists():
        return False
    found = film_file.comment(file)
    if not found.startswith(MARK) and not force:
        raise DataError(
            f"{file}: is there, and vsodpipe predict did not write it. Move it away, use --out "
            "for another folder, or --force to replace it."
        )
    return found == mark


def _video(
    work: Work,
    columns: Sequence[Column],
    engine: Engine | None,
    settings: Settings,
    reporter: Reporter,
) -> Result:
    """Write what is missing of one video, frame by frame."""
    place = work.place
    if all(work.done) and not work.draws:
        return Result(place, len(list(place.folders[0].glob("*.png"))), False)
    shown = footage.look_through(place.video, settings.fps, reporter)
    looks = tuple(dict.fromkeys(column.look for column in columns if column.look))
    for look in looks:
        flow_video.check_length(place.video, len(shown), look)
    frames = {
        frame
        for column, done in zip(columns, work.done, strict=True)
        if not done and any(key.startswith("ref_") for key in column.saved.stage.data.inputs)
        for frame in sampling.even_references(len(shown), column.saved.stage.data.references)
    }
    with ExitStack() as stack:
        shots, references = _shots(shown, engine, looks, frames, reporter)
        stack.enter_context(closing(shots))
        reel = Film(shown, shots, references)
        maps: list[Iterator[NDArray[Any]]] = []
        puts: list[Put] = []
        for column, done, folder, record in zip(
            columns, work.done, place.folders, work.records, strict=True
        ):
            if done:
                maps.append(_read(folder, shown))
                puts.append(lambda _, image: image)
                continue
            view = View(reel, column.look)
            found = stack.enter_context(closing(column.predictor.video(view, 0)))
            maps.append(saliency for _, saliency in found)
            finish = partial(column.predictor.finished, view, 0)
            puts.append(stack.enter_context(_folder(folder, record, shown, finish)))
        draw = stack.enter_context(_overlay(work, columns, shown, looks, settings, reporter))

        def put(frame: int, shot: film.Shot, made: Sequence[NDArray[Any]]) -> None:
            images = [put(frame, one) for put, one in zip(puts, made, strict=True)]
            draw(frame, shot, images)
            reel.forget(frame)
            counter.advance()

        title = f"predict {place.video.name}"
        with reporter.task(title, len(shown), "frame") as counter, behind(1, IN_FLIGHT) as run:
            for frame in range(len(shown)):
                run(partial(put, frame, reel.shot(frame), [next(found) for found in maps]))
        if flow_video.source(place.video) != work.source:
            raise DataError(f"video {place.video.name}: has changed while it was read. Run again.")
    return Result(place, len(shown), True)


def _shots(
    shown: Footage,
    engine: Engine | None,
    looks: Sequence[Options],
    frames: set[int],
    reporter: Reporter,
) -> tuple[Generator[film.Shot], dict[int, film.Shot]]:
    """Return the shots of a video in order, and those of its reference `frames`."""
    if engine is None or not looks:
        kept = dict(zip(sorted(frames), film.plain(shown, frames), strict=True)) if frames else {}
        return film.plain(shown), kept
    there = flow_of(shown.video, engine, looks[0])
    if len(looks) == 1 and film.is_stored(shown.video, there):
        place, look = there.folder, looks[0]
        found = film.stored(shown, place, look, frames) if frames else ()
        return film.stored(shown, place, look), dict(zip(sorted(frames), found, strict=True))
    longest = 0.0
    if any(look.colour == "video" for look in looks):
        with reporter.task(f"measure {shown.video.name}", len(shown), "frame") as counter:
            longest = film.longest(shown, engine, looks[0], counter.advance)
    paint = film.painter(looks, longest)
    kept = film.references(shown, frames, engine, looks[0], paint)
    return film.computed(shown, engine, looks[0], paint), kept


def _read(folder: Path, shown: Footage) -> Iterator[Grey]:
    """Yield the maps that are there, in order."""
    for frame in range(len(shown)):
        yield media.read_map(folder / f"{shown.name(frame)}.png")


@contextmanager
def _folder(
    folder: Path, record: Mapping[str, Any], shown: Footage, finish: Callable[..., Grey]
) -> Iterator[Put]:
    """Yield what writes the maps of one column; their folder appears when all is done."""
    with media.replacing(folder) as place:
        place.mkdir()

        def put(frame: int, saliency: NDArray[Any]) -> Grey:
            image = finish(frame, saliency)
            (place / f"{shown.name(frame)}.png").write_bytes(media.encode_png(image))
            return image

        yield put
        note = json.dumps({**record, "length": len(shown)}, indent=1)
        (place / MAPS_RECORD).write_text(note, encoding="utf-8")


@contextmanager
def _overlay(
    work: Work,
    columns: Sequence[Column],
    shown: Footage,
    looks: Sequence[Options],
    settings: Settings,
    reporter: Reporter,
) -> Iterator[Draw]:
    """Yield what draws a frame of the overlay video; the file appears when all is done."""
    if not work.draws or work.place.overlay is None:
        yield lambda *_: None
        return
    titles = ["frame", *(["flow"] if looks else []), *(column.label for column in columns)]
    grid = overlay.grid(titles, shown.size)
    canvas = overlay.Canvas(grid)

    def draw(frame: int, shot: film.Shot, maps: Sequence[Grey]) -> None:
        image = overlay.scaled(shot.img, grid.panel)
        panels: list[Image] = [image]
        panels += [overlay.scaled(shot.flow[look], grid.panel) for look in looks[:1]]
        panels += [overlay.painted(image, overlay.scaled(one, grid.panel)) for one in maps]
        writer.write(canvas.draw(panels, shown.name(frame)))

    with ExitStack() as stack:
        stack.enter_context(film_file.explained(work.place.overlay))
        partial = stack.enter_context(media.replacing(work.place.overlay))
        sound = None
        if settings.audio:
            sound = film_file.sound(shown.video.file)
            if sound is None:
                reporter.warn(f"video {shown.video.name}: has no sound to copy.")
            else:
                stack.callback(sound.close)
        writer = film_file.Writer(partial, grid.size, shown.times, work.mark, sound)
        stack.callback(writer.close)
        yield draw
        writer.finish()
