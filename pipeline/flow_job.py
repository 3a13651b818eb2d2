"""Flow for every frame of a data set: one folder a video, with its record.

A video's folder appears whole by one rename, so that an interrupted run continues with the next
video.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from vsodpipe import flow_record, flow_video, media
from vsodpipe.catalogue import Dataset, Video
from vsodpipe.errors import DataError
from vsodpipe.flow_video import JPEG_QUALITY, Options, Tail, check_length
from vsodpipe.flows import Engine
from vsodpipe.progress import Reporter


@dataclass(frozen=True)
class Summary:
    """What a run did."""

    videos: int
    frames: int
    kept: int
    """Videos that were done before."""
    folders: tuple[Path, ...]
    record: dict[str, object]


def compute(
    dataset: Dataset, engine: Engine, options: Options, reporter: Reporter, *, force: bool = False
) -> Summary:
    """Write flow pictures and `flow.json` for every video of `dataset`.

    A video whose flow is there, of the same kind and from the same frames, is kept. Raises
    DataError for a frame that does not decode, for a video too short for the tail rule, for a
    folder of files that are no flow of ours and, unless `force`, for one with flow of another kind.
    """
    settings = {
        "version": 1,
        "engine": engine.fingerprint,
        "direction": "forward",
        "gap": 1,
        "tail": options.tail,
        "colour": options.colour,
        "format": f"jpeg {JPEG_QUALITY} 4:4:4",
    }
    record = flow_record.make(settings)
    todo = [video for video in dataset.videos if not _done(dataset, video, record, force)]
    for video in todo:
        check_length(video, len(video.frames), options.tail)
    frames = sum(_length(video, options.tail) for video in dataset.videos)
    kept = frames - sum(_length(video, options.tail) for video in todo)
    with reporter.task(f"flow {dataset.name}", frames, "frame", kept) as counter:
        for video in todo:
            flow_video.write(video, engine, options, record, counter.advance)
    folders = tuple(video.flow_folder for video in dataset.videos)
    count = len(dataset.videos)
    return Summary(count, counter.done, count - len(todo), folders, record)


def elsewhere(dataset: Dataset, out: Path) -> Dataset:
    """Return `dataset` with its flow in `out`: `out`/VIDEO, or `out` itself for one video alone."""
    alone = len(dataset.videos) == 1
    videos = (
        replace(video, flow_folder=out if alone else out / video.name) for video in dataset.videos
    )
    return replace(dataset, videos=tuple(videos))


def _length(video: Video, tail: Tail) -> int:
    frames = media.video_length(video.file) if video.file else len(video.frames)
    return max(0, frames - (tail == "none"))


def _done(dataset: Dataset, video: Video, record: dict[str, object], force: bool) -> bool:
    found = flow_record.read(video.flow_folder)
    if found is None:
        if video.flow_folder.exists() and any(video.flow_folder.iterdir()):
            raise DataError(
                f"{video.flow_folder}: holds files that vsodpipe flow did not write. "
                "Move them away, or name another folder with --out."
            )
        return False
    if found["fingerprint"] != record["fingerprint"]:
        if force:
            return False
        raise DataError(
            f"{dataset.name}/{video.name} has flow of another kind: "
            f"{flow_record.describe(found)}, asked for {flow_record.describe(record)}. "
            "Use --force to replace it."
        )
    if found.get("source") != flow_video.source(video):
        return False
    if video.file:
        return True
    names = {frame.name for frame in video.frames[: -1 if record["tail"] == "none" else None]}
    return names <= {file.stem for file in video.flow_folder.glob("*.jpg")}
