"""A clock that goes back, files of the future: what is old is not taken for new, nor the reverse.

Commands under such a clock are in test_faults.py.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
import numpy as np
import pytest

from vsodpipe import (
    checkpoint,
    evaluate,
    locks,
    maps,
    media,
    predict,
    progress,
    report_scores,
    scoring,
    shard_cache,
)
from vsodpipe.evaluate import Options
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter

DAY = 86_400.0


@dataclass
class Clock:
    """Hours that `time.time` is ahead of the real one."""

    ahead: float = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made, real = Clock(), time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600 * made.ahead)
    return made


@pytest.fixture
def mapped(source: Source, tmp_path: Path) -> Path:
    """A run with maps of TINY_test: noise."""
    run = tmp_path / "run"
    media.write_bytes(run / "run.json", b"{}")
    chance = np.random.default_rng(0)
    (video,) = source.split("TINY_test").videos
    for frame in video.frames:
        noise = chance.integers(0, 256, video.size, np.uint8)
        file = run / "maps/TINY_test" / video.name / f"{frame.name}.png"
        media.write_bytes(file, media.encode_png(noise))
    return run


def mae(run: Path, source: Source, quiet: Reporter, *, saved: bool = True) -> float:
    """Return the error of a run's maps as the report has it, or as it is."""
    found = maps.find([run / "maps"], [source])
    scores = report_scores.scores if saved else evaluate.evaluate
    result = scores(found, Options(workers=1), quiet)
    return float(result["methods"]["run"]["datasets"]["TINY_test"]["total"]["mae"])


def score(run: Path, source: Source, quiet: Reporter) -> None:
    """Do what `vsodpipe eval` does."""
    since = time.time_ns()
    found = evaluate.evaluate(maps.find([run / "maps"], [source]), Options(workers=1), quiet)
    assert evaluate.save(found, since) == [run / "scores.json"]


def test_a_map_that_changes_while_it_is_scored(
    mapped: Path, source: Source, quiet: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores are of the old one, and written after the new one has come."""
    real, file = scoring.run, next(mapped.rglob("*.png"))

    def late(todo: list[scoring.Task], workers: int) -> Iterator[object]:
        yield from real(todo, workers)
        media.write_bytes(file, media.encode_png(np.zeros_like(media.read_map(file))))

    score(mapped, source, quiet)
    assert mae(mapped, source, quiet) == mae(mapped, source, quiet, saved=False)
    monkeypatch.setattr(scoring, "run", late)
    score(mapped, source, quiet)
    monkeypatch.setattr(scoring, "run", real)
    assert mae(mapped, source, quiet) == mae(mapped, source, quiet, saved=False)


def test_new_maps_are_not_shown_with_old_scores_of_the_future(
    mapped: Path, saved: checkpoint.Checkpoint, source: Source, quiet: Reporter
) -> None:
    score(mapped, source, quiet)
    old = mae(mapped, source, quiet)
    later = time.time() + DAY  # then the clock was put right
    os.utime(mapped / "scores.json", (later, later))
    assert mae(mapped, source, quiet) == old
    media.remove(mapped / "maps")
    predict.predict(saved, source, ["TINY_test"], mapped / "maps", "cpu", quiet)
    assert not (mapped / "scores.json").exists()
    assert mae(mapped, source, quiet) == mae(mapped, source, quiet, saved=False) != old
    score(mapped, source, quiet)
    predict.predict(saved, source, ["TINY_test"], mapped / "maps", "cpu", quiet)
    assert (mapped / "scores.json").is_file(), "no map is new"


def test_what_is_being_fetched_is_left_alone(tmp_path: Path, clock: Clock) -> None:
    """A killed process leaves a part of a file, whose time tells its age; a clock may jump."""
    fsspec.filesystem("memory").pipe("memory://clock/file", bytes(1000))
    cache = shard_cache.ShardCache(tmp_path, 10_000)
    old, new, busy = (tmp_path / f"x.shard{name}.partial" for name in "012")
    for file, age in ((old, -DAY), (new, DAY), (busy, 0.0)):
        file.write_bytes(bytes(10))
        os.utime(file, (time.time() - age,) * 2)
    clock.ahead = 2
    with locks.alone(busy):
        cache.local("memory://clock/file")
        assert sorted(tmp_path.glob("*.partial")) == [busy]
    cache.local("memory://clock/file", "again")
    assert not list(tmp_path.glob("*.partial"))


def test_jobs_never_end_before_they_start(tmp_path: Path, clock: Clock) -> None:
    pytest.importorskip("starlette", reason="the extra serve is not installed")
    from vsodpipe.service import requests
    from vsodpipe.service.queue import Queue
    from vsodpipe.service.settings import Settings

    home = Settings(tmp_path / "datasets", tmp_path / "runs", tmp_path / "manifests")
    queue = Queue(tmp_path / "jobs.sqlite")
    asked = requests.check("flow", {"names": ["TINY_train"], "engine": "dis"}, home)
    numbers = []
    for hours in (0.0, -5.0):
        clock.ahead = hours
        numbers.append(int(queue.submit(asked)[0]["id"]))
        clock.ahead = hours - 1
        queue.begin(numbers[-1])
        clock.ahead = hours - 2
        queue.end(numbers[-1], "done", 0)
        job = queue.get(numbers[-1])
        assert job["created"] == job["started"] == job["ended"]
    assert [job["id"] for job in queue.page(None, 9, None)] == numbers[::-1], "by number"
    queue.close()


def test_a_bar_does_not_hear_the_clock(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "JSON_SECONDS", 0.0)
    with Reporter().task("flow", 3, "frame") as counter:
        for _ in range(3):
            clock.ahead -= 24
            counter.advance()
    said = capsys.readouterr().err
    assert "3/3 frames" in said and "-" not in said
