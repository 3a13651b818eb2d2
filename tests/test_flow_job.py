"""One flow a frame, one folder a video, one kind of flow in a folder; interrupted runs continue."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers import files_below
from vsodpipe import catalogue, flow_job, flow_plan, flow_record, flows, media
from vsodpipe.errors import DataError, UsageError
from vsodpipe.flow_job import Options
from vsodpipe.flows.colour import flow_to_picture
from vsodpipe.progress import Reporter


class Difference:
    """An engine whose flow tells which frames it was made from: (level of b, level of a)."""

    fingerprint: dict[str, object] = {"engine": "difference"}

    def clip(self, frames: Iterable[np.ndarray], direction: str = "forward") -> Iterator:
        before = None
        for frame in frames:
            if before is not None:
                flow = np.zeros((*frame.shape[:2], 2), np.float32)
                flow[..., 0], flow[0, 0, 1] = float(frame.mean()) - float(before.mean()), 100
                yield flow
            before = frame


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for video, levels in (("a", (10, 20, 40)), ("b", (90, 60))):
        for t, level in enumerate(levels):
            image = np.full((16, 24, 3), level, np.uint8)
            media.write_bytes(tmp_path / f"S/{video}/RGB/{t:05d}.jpg", media.encode_jpeg(image))
    return tmp_path


def colour_of(path: Path) -> np.ndarray:
    return media.read_image(path)[8, 12].astype(int)


def expected(difference: float) -> np.ndarray:
    flow = np.zeros((16, 24, 2), np.float32)
    flow[..., 0], flow[0, 0, 1] = difference, 100
    return flow_to_picture(flow)[8, 12].astype(int)


@pytest.mark.parametrize(
    ("tail", "last"), [("backward", -20.0), ("repeat", 20.0), ("zero", None), ("none", "absent")]
)
def test_every_frame_has_an_entry_by_the_tail_rule(
    root: Path, quiet: Reporter, tail: str, last: float | str | None
) -> None:
    dataset = catalogue.find("S", root)
    options = Options(tail=tail)  # type: ignore[arg-type]
    flow_job.compute(dataset, Difference(), options, quiet)
    folder = root / "S/a/FLOW"
    for name, difference in (("00000", 10.0), ("00001", 20.0)):
        np.testing.assert_allclose(colour_of(folder / f"{name}.jpg"), expected(difference), atol=6)
    if last == "absent":
        assert not (folder / "00002.jpg").exists()
    elif last is None:
        np.testing.assert_allclose(colour_of(folder / "00002.jpg"), [255, 255, 255])
    else:
        np.testing.assert_allclose(colour_of(folder / "00002.jpg"), expected(last), atol=6)
    record = flow_record.read(folder)
    assert record is not None and record["tail"] == tail
    assert record["engine"] == {"engine": "difference"}


def test_a_second_run_keeps_what_is_there(root: Path, quiet: Reporter) -> None:
    dataset = catalogue.find("S", root)
    flow_job.compute(dataset, Difference(), Options(), quiet)
    stamp = (root / "S/a/FLOW/00000.jpg").stat().st_mtime_ns
    done = flow_job.compute(catalogue.find("S", root), Difference(), Options(), quiet)
    assert (done.kept, done.frames) == (2, 5)
    assert (root / "S/a/FLOW/00000.jpg").stat().st_mtime_ns == stamp


def test_an_interrupted_run_continues_with_equal_bytes(root: Path, quiet: Reporter) -> None:
    class Interrupted(Difference):
        left = 3

        def clip(self, frames: Iterable[np.ndarray], direction: str = "forward") -> Iterator:
            for flow in super().clip(frames):
                self.left -= 1
                if self.left < 0:
                    raise KeyboardInterrupt
                yield flow

    with pytest.raises(KeyboardInterrupt):
        flow_job.compute(catalogue.find("S", root), Interrupted(), Options(), quiet)
    assert (root / "S/a/FLOW/flow.json").exists() and not (root / "S/b/FLOW").exists()
    assert not [name for name in files_below(root) if "partial" in name]
    flow_job.compute(catalogue.find("S", root), Difference(), Options(), quiet)
    resumed = {n: (root / n).read_bytes() for n in files_below(root) if (root / n).is_file()}
    for video in ("a", "b"):
        media.remove(root / "S" / video / "FLOW")
    flow_job.compute(catalogue.find("S", root), Difference(), Options(), quiet)
    assert resumed == {n: (root / n).read_bytes() for n in resumed}


def test_two_kinds_of_flow_never_mix(root: Path, quiet: Reporter) -> None:
    flow_job.compute(catalogue.find("S", root), Difference(), Options(), quiet)
    other = Options(colour="radius:5")
    with pytest.raises(DataError, match="flow of another kind") as error:
        flow_job.compute(catalogue.find("S", root), Difference(), other, quiet)
    assert "colour=frame" in str(error.value) and "colour=radius:5" in str(error.value)
    flow_job.compute(catalogue.find("S", root), Difference(), other, quiet, force=True)
    record = flow_record.read(root / "S/b/FLOW")
    assert record is not None and record["colour"] == "radius:5"


def test_files_that_are_not_ours_are_never_replaced(root: Path, quiet: Reporter) -> None:
    mine = root / "S/b/FLOW/00000.jpg"
    media.write_bytes(mine, b"mine")
    with pytest.raises(DataError, match="did not write"):
        flow_job.compute(catalogue.find("S", root), Difference(), Options(), quiet, force=True)
    assert mine.read_bytes() == b"mine" and not (root / "S/a/FLOW").exists()
    media.remove(root / "S/b/FLOW")
    frames = root / "S/a/RGB"
    alone = catalogue.find(str(frames), root)
    for place in (frames, frames.parent, root):
        with pytest.raises(DataError, match="did not write"):
            flow_job.compute(flow_job.elsewhere(alone, place), Difference(), Options(), quiet)
    assert len(list(frames.iterdir())) == 3


def test_changed_frames_are_noticed(root: Path, quiet: Reporter) -> None:
    flow_job.compute(catalogue.find("S", root), Difference(), Options(), quiet)
    frame = root / "S/b/RGB/00001.jpg"
    rng = np.random.default_rng(0)
    frame.write_bytes(media.encode_jpeg(rng.integers(0, 255, (16, 24, 3), np.uint8)))
    assert flow_job.compute(catalogue.find("S", root), Difference(), Options(), quiet).kept == 1


def test_an_interrupted_force_continues(root: Path, quiet: Reporter) -> None:
    flow_job.compute(catalogue.find("S", root), Difference(), Options(), quiet)
    dataset, other = catalogue.find("S", root), Options(tail="zero")
    first = replace(dataset, videos=dataset.videos[:1])
    flow_job.compute(first, Difference(), other, quiet, force=True)
    done = flow_job.compute(dataset, Difference(), other, quiet, force=True)
    assert done.kept == 1


def test_a_damaged_frame_in_the_middle_leaves_no_flow_of_its_video(
    root: Path, quiet: Reporter
) -> None:
    frame = root / "S/b/RGB/00001.jpg"
    frame.write_bytes(frame.read_bytes()[:-60])
    with pytest.raises(DataError, match="damaged picture") as error:
        flow_job.compute(catalogue.find("S", root), Difference(), Options(), quiet)
    assert str(frame) in str(error.value)
    assert (root / "S/a/FLOW/flow.json").exists()
    assert {p.name for p in (root / "S/b").iterdir()} == {"RGB"}


def test_one_frame_has_no_flow(root: Path, quiet: Reporter) -> None:
    (root / "S/b/RGB/00001.jpg").unlink()
    dataset = catalogue.find("S", root)
    with pytest.raises(DataError, match="expected at least 2 frames"):
        flow_job.compute(dataset, Difference(), Options(), quiet)
    assert not (root / "S/a/FLOW").exists(), "noticed before the first video"
    flow_job.compute(dataset, Difference(), Options(tail="zero"), quiet)
    assert {p.name for p in (root / "S/b/FLOW").iterdir()} == {"00000.jpg", "flow.json"}


@pytest.mark.parametrize("colour", ["radius:", "radius:0", "radius:x", "radius:inf", "videos", ""])
def test_unknown_colour_rules(colour: str) -> None:
    with pytest.raises(UsageError, match="colour rule"):
        Options(colour=colour)


def test_a_video_file(tmp_path: Path, quiet: Reporter) -> None:
    file = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    rng = np.random.default_rng(0)
    base = cv2.GaussianBlur(rng.integers(0, 255, (80, 96, 3), dtype=np.uint8), (7, 7), 2)
    for t in range(4):
        writer.write(np.ascontiguousarray(base[2 * t : 2 * t + 48, 3 * t : 3 * t + 64]))
    writer.release()
    dataset = catalogue.find(str(file), tmp_path)
    engine = flows.create("dis")
    done = flow_job.compute(dataset, engine, Options(), quiet)
    assert done.frames == 4
    assert {p.name for p in (tmp_path / "clip.avi_FLOW").iterdir()} == {
        *(f"{t:05d}.jpg" for t in range(4)),
        "flow.json",
    }
    elsewhere = flow_job.elsewhere(dataset, tmp_path / "out")
    flow_job.compute(elsewhere, engine, Options(), quiet)
    assert (tmp_path / "out" / "00003.jpg").is_file()


def test_elsewhere_gives_every_video_its_folder(root: Path, quiet: Reporter) -> None:
    dataset = flow_job.elsewhere(catalogue.find("S", root), root / "out")
    flow_job.compute(dataset, Difference(), Options(), quiet)
    assert (root / "out/a/00002.jpg").is_file() and (root / "out/b/flow.json").is_file()
    assert flow_job.compute(dataset, Difference(), Options(), quiet).kept == 2


def test_a_folder_that_cannot_be_written_is_named(root: Path, quiet: Reporter) -> None:
    (root / "file").write_text("in the way")
    dataset = replace(catalogue.find("S", root), root=root)
    with pytest.raises(DataError, match="cannot be written"):
        flow_job.compute(flow_job.elsewhere(dataset, root / "file"), Difference(), Options(), quiet)


def test_only_the_lacking_forms_are_computed(root: Path, quiet: Reporter) -> None:
    flow_job.compute(catalogue.find("S", root), Difference(), Options(), quiet)
    stamp = (root / "S/a/FLOW/00000.jpg").stat().st_mtime_ns
    both = Options(formats=("flo", "jpg"))
    done = flow_job.compute(catalogue.find("S", root), Difference(), both, quiet)
    assert (done.kept, done.frames, done.computed) == (0, 5, 5)
    assert [folder.name for folder in done.folders] == ["FLOW", "FLOW_FLO"] * 2
    assert (root / "S/a/FLOW/00000.jpg").stat().st_mtime_ns == stamp
    assert {p.name for p in (root / "S/b/FLOW_FLO").iterdir()} == {
        "00000.flo",
        "00001.flo",
        "flow.json",
    }
    media.remove(root / "S/b/FLOW_FLO")
    done = flow_job.compute(catalogue.find("S", root), Difference(), both, quiet)
    assert (done.kept, done.computed) == (1, 2)


def test_the_summary_and_the_warning_of_still_frames(root: Path, quiet: Reporter) -> None:
    warned: list[str] = []
    quiet.warn = warned.append  # type: ignore[method-assign]
    dataset = catalogue.find("S", root)
    done = flow_job.compute(dataset, Difference(), Options(), quiet)
    assert done.largest == pytest.approx(np.hypot(30, 100), abs=0.1) and done.still == 0
    assert "the largest motion is 104.4 px" in flow_job.lines(done)[1]
    assert not warned
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
    for t in range(3):
        media.write_bytes(root / f"still/{t}.jpg", media.encode_jpeg(noise))
    dataset = catalogue.find(str(root / "still"), root)
    for options in (Options(), Options(colour="radius:4"), Options(formats=("flo",))):
        out = flow_job.elsewhere(dataset, root / f"out {options.colour} {options.formats[0]}")
        assert flow_job.compute(out, flows.create("dis"), options, quiet).still == 3
    assert len(warned) == 1 and warned[0].startswith("3 of 3 frames move less than 1 px")


def test_an_estimate_writes_nothing_and_is_about_right(root: Path, quiet: Reporter) -> None:
    before = files_below(root)
    dataset = catalogue.find("S", root)
    options = Options(formats=("jpg", "flo"), direction="both")
    engine = flows.create("dis")
    plan = flow_plan.estimate(dataset, engine, options, force=False)
    assert files_below(root) == before
    assert (plan.videos, plan.frames, plan.computed, plan.kept) == (2, 5, 5, 0)
    assert set(plan.written) == {"jpg forward", "jpg backward", "flo forward", "flo backward"}
    assert plan.written["flo forward"] == flow_plan.Form(5, 5 * (16 * 24 * 8 + 12))
    assert plan.seconds is not None and plan.seconds > 0 and plan.measured == 1
    flow_job.compute(dataset, engine, options, quiet)
    flo = [*root.glob("S/*/FLOW_FLO/*.flo")]
    assert sum(file.stat().st_size for file in flo) == plan.written["flo forward"].bytes
    plan = flow_plan.estimate(catalogue.find("S", root), engine, options, force=False)
    assert (plan.computed, plan.kept, plan.written, plan.seconds) == (0, 2, {}, None)
    assert flow_plan.lines(plan) == ["2 videos, 5 frames: 0 to compute, 2 videos are done"]


@pytest.mark.parametrize(
    ("count", "words"), [(12, "12 bytes"), (32e3, "32 kB"), (3.14e6, "3.1 MB"), (2e15, "2000 TB")]
)
def test_bytes_in_words(count: float, words: str) -> None:
    assert flow_plan.in_words(count) == words
