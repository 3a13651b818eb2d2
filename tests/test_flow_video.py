"""One video's flow: ways, gaps, tails and forms; what is written whole, and what is read back."""

import pickle
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from vsodpipe import catalogue, flow_ahead, flow_raw, flow_record, flow_video, flows, media
from vsodpipe.catalogue import Video
from vsodpipe.errors import DataError, UsageError, VsodpipeError
from vsodpipe.flow_video import Options, Written
from vsodpipe.flows import Flow, pairwise
from vsodpipe.flows.colour import flow_to_picture
from vsodpipe.flows.files import read_flo, read_kitti

LEVELS = (10, 13, 21, 40, 44)


class Levels:
    """An engine whose flow tells its frames: u is the level of the target, v that of the source."""

    fingerprint: dict[str, object] = {"engine": "levels"}
    calls = 0

    def clip(self, frames: Iterable, direction: str = "forward", gap: int = 1) -> Iterator:
        def flow(source: np.ndarray, target: np.ndarray) -> Flow:
            self.calls += 1
            made = np.empty((*source.shape[:2], 2), np.float32)
            made[..., 0], made[..., 1] = target.mean(), source.mean()
            return made

        return pairwise(flow, frames, direction, gap, least=1)


def nothing() -> None:
    pass


def made_video(root: Path, levels: Iterable[int] = LEVELS) -> Video:
    for t, level in enumerate(levels):
        image = np.full((16, 24, 3), level, np.uint8)
        media.write_bytes(root / f"S/a/RGB/f{t + 3:03d}.png", media.encode_png(image))
    return catalogue.find("S", root).videos[0]


def run(video: Video, options: Options, engine: object = None) -> Written:
    engine = engine or Levels()
    todo = flow_video.outputs(video, engine.fingerprint, options)  # type: ignore[attr-defined]
    done = flow_video.write(video, engine, options, todo, nothing)  # type: ignore[arg-type]
    assert all(flow_video.is_done(video, output, False) for output in todo)
    return done


def pairs(folder: Path) -> dict[str, tuple[int, int]]:
    """Return for every `.flo` the levels of source and target."""
    found = {file.stem: read_flo(file)[3, 4] for file in sorted(folder.glob("*.flo"))}
    return {name: (round(float(v)), round(float(u))) for name, (u, v) in found.items()}


def expected(levels: tuple[int, ...], way: str, gap: int, tail: str) -> dict[str, tuple[int, int]]:
    found = {}
    step = gap if way == "forward" else -gap
    inside = [t for t in range(len(levels)) if 0 <= t + step < len(levels)]
    for t, level in enumerate(levels):
        name = f"f{t + 3:03d}"
        if t in inside:
            found[name] = (level, levels[t + step])
        elif tail == "backward":
            found[name] = (level, levels[t - step])
        elif tail == "repeat":
            nearest = inside[-1 if way == "forward" else 0]
            found[name] = (levels[nearest], levels[nearest + step])
        elif tail == "zero":
            found[name] = (0, 0)
    return found


@pytest.mark.parametrize("gap", [1, 2])
@pytest.mark.parametrize("tail", ["backward", "repeat", "zero", "none"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_every_way_gap_and_tail(tmp_path: Path, gap: int, tail: str, count: int) -> None:
    video = made_video(tmp_path, LEVELS[:count])
    least = {"backward": 2 * gap, "repeat": gap + 1}.get(tail, 0)
    for direction in ("forward", "backward", "both"):
        options = Options(tail, formats=("flo",), direction=direction, gap=gap)  # type: ignore[arg-type]
        media.remove(tmp_path / "S/a/FLOW_FLO")
        media.remove(tmp_path / "S/a/FLOW_BACKWARD_FLO")
        if count < least:
            with pytest.raises(DataError, match=f"expected at least {least} frames.*--tail zero"):
                run(video, options)
            assert {p.name for p in (tmp_path / "S/a").iterdir()} == {"RGB"}
            continue
        done = run(video, options)
        assert done.entries == flow_video.entries(video, options)
        for way, name in (("forward", "FLOW_FLO"), ("backward", "FLOW_BACKWARD_FLO")):
            wanted = expected(LEVELS[:count], way, gap, tail)
            assert pairs(tmp_path / "S/a" / name) == (wanted if way in options.ways else {})
            assert done.entries == len(wanted)


def test_both_ways_in_all_forms_are_computed_once(tmp_path: Path) -> None:
    video, engine = made_video(tmp_path), Levels()
    options = Options(formats=("raw", "kitti", "jpg", "flo"), direction="both")
    steps: list[None] = []
    todo = flow_video.outputs(video, engine.fingerprint, options)
    flow_video.write(video, engine, options, todo, lambda: steps.append(None))
    assert engine.calls == 2 * 4 + 2 and len(steps) == 5
    assert [output.folder.name for output in todo] == [
        *("FLOW", "FLOW_RAW", "FLOW_KITTI", "FLOW_FLO"),
        *("FLOW_BACKWARD", "FLOW_BACKWARD_RAW", "FLOW_BACKWARD_KITTI", "FLOW_BACKWARD_FLO"),
    ]
    kinds = set()
    for output in todo:
        record = flow_record.read(output.folder)
        assert record is not None and record["direction"] == output.way
        assert ("colour" in record) == (output.form == "jpg")
        kinds.add(record["fingerprint"])
    assert len(kinds) == 8
    folder, way = tmp_path / "S/a", expected(LEVELS, "backward", 1, "backward")
    names, array = flow_raw.read(folder / "FLOW_BACKWARD_RAW")
    assert names == list(way)
    for t, (name, (source, target)) in enumerate(way.items()):
        kitti, valid = read_kitti(folder / f"FLOW_BACKWARD_KITTI/{name}.png")
        assert valid.all() and (kitti == (target, source)).all()
        raw = np.asarray(array[t]) * array.attrs["scale_factor"]
        assert (raw[0] == target).all() and (raw[1] == source).all()
    assert len(list((folder / "FLOW_BACKWARD").glob("*.jpg"))) == 5
    # the ways again, each by itself: the same folders are found done
    for direction in ("forward", "backward"):
        alone = flow_video.outputs(video, engine.fingerprint, Options(direction=direction))
        assert flow_video.is_done(video, alone[0], False)


def test_only_what_is_to_do_is_written(tmp_path: Path) -> None:
    video, engine = made_video(tmp_path), Levels()
    options = Options(formats=("jpg", "flo"), direction="both")
    todo = flow_video.outputs(video, engine.fingerprint, options)[3:]
    flow_video.write(video, engine, options, todo, nothing)
    assert {p.name for p in (tmp_path / "S/a").iterdir()} == {"RGB", "FLOW_BACKWARD_FLO"}
    assert engine.calls == 5
    assert flow_video.write(video, engine, options, (), nothing).entries == 5


def test_the_default_record_is_unchanged() -> None:
    """The folders that version 1 wrote before there were other forms stay valid."""
    video = Video("a", Path("a/FLOW"))
    (output,) = flow_video.outputs(video, {"engine": "dis"}, Options())
    record = {
        **{"version": 1, "engine": {"engine": "dis"}, "direction": "forward", "gap": 1},
        **{"tail": "backward", "colour": "frame", "format": "jpeg 95 4:4:4"},
    }
    assert output.record == flow_record.make(record) and list(output.record)[:-1] == list(record)
    for thing in (output, Options(), Written(1, 2.0, 3)):
        assert pickle.loads(pickle.dumps(thing)) == thing


@pytest.mark.parametrize(
    ("name", "folders"),
    [
        ("a/RGB", ("a/FLOW", "a/FLOW_RAW")),
        ("JPEGImages/480p/a", ("JPEGFlows/480p/a", "JPEGFlows_RAW/480p/a")),
        ("JPEGImages/a", ("JPEGFlows/a", "JPEGFlows_RAW/a")),
    ],
)
def test_forms_lie_side_by_side(tmp_path: Path, name: str, folders: tuple[str, str]) -> None:
    image = media.encode_png(np.zeros((16, 24, 3), np.uint8))
    media.write_bytes(tmp_path / "S" / name / "00000.png", image)
    (video,) = catalogue.find("S", tmp_path).videos
    assert video.flow_folder == tmp_path / "S" / folders[0]
    options = Options(formats=("raw", "png"))
    found = [output.folder for output in flow_video.outputs(video, {}, options)]
    assert found == [tmp_path / "S" / folder for folder in folders]


def test_forms_elsewhere(tmp_path: Path) -> None:
    video, out = Video("clip", tmp_path / "clip.mp4_FLOW", file=tmp_path / "clip.mp4"), Path("o")
    two = Options(formats=("flo", "jpg"))

    def places(video: Video, options: Options) -> list[str]:
        return [str(output.folder) for output in flow_video.outputs(video, {}, options)]

    assert places(video, two)[1] == str(tmp_path / "clip.mp4_FLOW_FLO")
    one = flow_video.moved(video, out, alone=True, several=False)
    assert places(one, Options(formats=("flo",), direction="backward")) == ["o"]
    one = flow_video.moved(video, out, alone=False, several=False)
    assert places(one, Options(formats=("flo",))) == ["o/clip"]
    several = flow_video.moved(video, out, alone=True, several=True)
    assert places(several, two) == ["o/FLOW", "o/FLOW_FLO"]
    several = flow_video.moved(video, out, alone=False, several=True)
    assert places(several, two) == ["o/FLOW/clip", "o/FLOW_FLO/clip"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"formats": ("jpg", "png")}, "jpg or png"),
        ({"formats": ()}, "each once"),
        ({"formats": ("flo", "flo")}, "each once"),
        ({"formats": ("gif",)}, "unknown flow format 'gif'"),
        ({"direction": "up"}, "unknown flow direction"),
        ({"gap": 0}, "gap of 1"),
        ({"tail": "x"}, "tail rule"),
        ({"colour": "radius:-1"}, "colour rule"),
    ],
)
def test_wrong_options(wrong: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Options(**wrong)


class Given(Levels):
    """An engine that gives the flows it was given."""

    def __init__(self, given: list[Flow]) -> None:
        self.given = given

    def clip(self, frames: Iterable, direction: str = "forward", gap: int = 1) -> Iterator:
        list(frames)
        return iter(self.given)


def smooth_flow(seed: int, size: tuple[int, int] = (16, 24)) -> Flow:
    noise = np.random.default_rng(seed).normal(size=(*size, 2)).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(noise * (seed + 1) * 9, (0, 0), 2), np.float32)


def test_colour_of_the_whole_video(tmp_path: Path) -> None:
    video, given = made_video(tmp_path), [smooth_flow(t) for t in range(4)]
    largest = max(float(np.hypot(*flow.transpose(2, 0, 1)).max()) for flow in given)
    done = run(video, Options("none", "video", ("png",)), Given(given))
    assert done.largest == pytest.approx(largest) and done.entries == 4
    folder = tmp_path / "S/a/FLOW"
    assert {p.name for p in folder.iterdir()} == {
        *(f"f{t + 3:03d}.png" for t in range(4)),
        "flow.json",
    }
    for t, flow in enumerate(given):
        picture = media.read_image(folder / f"f{t + 3:03d}.png")
        np.testing.assert_array_equal(picture, flow_to_picture(flow, done.largest))


def test_a_frame_has_its_colours_in_any_clip(tmp_path: Path) -> None:
    video, given = made_video(tmp_path), [smooth_flow(t) for t in range(4)]
    run(video, Options("none", formats=("png",)), Given(given))
    for t, flow in enumerate(given):
        file = tmp_path / f"S/a/FLOW/f{t + 3:03d}.png"
        assert file.read_bytes() == media.encode_png(flow_to_picture(flow))


def test_frames_without_motion_are_counted(tmp_path: Path) -> None:
    video = made_video(tmp_path)
    given = [np.full((16, 24, 2), size, np.float32) for size in (0, 0.5, 3, 0.8)]
    for colour in ("frame", "video", "radius:2"):
        media.remove(tmp_path / "S/a/FLOW")
        done = run(video, Options("zero", colour), Given(given))
        assert done == Written(5, pytest.approx(3 * 2**0.5), 2), "the tail's zero is no motion"
    media.remove(tmp_path / "S/a/FLOW")
    still = [np.zeros((16, 24, 2), np.float32)] * 4
    assert run(video, Options("repeat", "video"), Given(still)).still == 5
    assert media.read_image(tmp_path / "S/a/FLOW/f003.jpg").min() == 255


@pytest.mark.parametrize("form", ["kitti", "raw"])
def test_motion_beyond_16_bits_is_named(tmp_path: Path, form: str) -> None:
    video, given = made_video(tmp_path), [smooth_flow(t) for t in range(4)]
    given[2][3, 4, 1] = -600
    with pytest.raises(DataError, match=r"±512 px.*-600 to .*video a, frame f005.*\.flo"):
        run(video, Options("none", formats=(form, "jpg")), Given(given))
    assert {p.name for p in (tmp_path / "S/a").iterdir()} == {"RGB"}


def test_raw_flow_in_several_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_raw, "SHARD_BYTES", 2 * 16 * 24 * 4)
    for tail, count in (("none", 4), ("zero", 5)):
        for way in ("forward", "backward"):
            video, given = made_video(tmp_path), [smooth_flow(t) for t in range(4)]
            options = Options(tail, formats=("raw",), direction=way)  # type: ignore[arg-type]
            run(video, options, Given(given))
            folder = tmp_path / "S/a/FLOW_RAW"
            if way == "backward":
                folder = tmp_path / "S/a/FLOW_BACKWARD_RAW"
            names, array = flow_raw.read(folder)
            first = way == "backward" and tail == "none"
            assert names == [f"f{t + 3:03d}" for t in range(first, first + count)]
            assert array.shape == (count, 2, 16, 24) and array.shards == (2, 2, 16, 24)
            assert array.metadata.dimension_names == ("frame", "component", "y", "x")
            found = np.asarray(array[:]).transpose(0, 2, 3, 1) / 64
            start = way == "backward" and tail == "zero"
            assert np.abs(found[start : start + 4] - np.stack(given)).max() <= 1 / 128
            media.remove(folder)
    media.remove(tmp_path / "S")


def test_raw_flow_that_lacks_a_shard_is_not_done(tmp_path: Path) -> None:
    video = made_video(tmp_path)
    options = Options(formats=("raw",))
    run(video, options)
    (output,) = flow_video.outputs(video, Levels.fingerprint, options)
    (tmp_path / "S/a/FLOW_RAW/flow.zarr/flow/c/0/0/0/0").unlink()
    assert not flow_video.is_done(video, output, False)
    with pytest.raises(DataError, match="0 of 1 shards"):
        flow_raw.read(output.folder)


def test_entries_are_counted_before_anything_appears(tmp_path: Path) -> None:
    video = made_video(tmp_path)
    for form in ("jpg", "flo", "raw"):
        with pytest.raises(VsodpipeError, match="expected 4 entries of flow, got 3"):
            run(video, Options("none", formats=(form,)), Given([smooth_flow(t) for t in range(3)]))
    assert {p.name for p in (tmp_path / "S/a").iterdir()} == {"RGB"}


@pytest.mark.parametrize("error", [DataError("a"), KeyboardInterrupt(), OSError(28, "disk full")])
@pytest.mark.parametrize("place", ["decode", "engine", "write", "progress"])
def test_an_error_ends_all_threads_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, place: str
) -> None:
    video = made_video(tmp_path, range(40))
    engine, advance = Levels(), nothing

    def fail_at(number: int) -> Callable[..., None]:
        left = [number]

        def step(*_: object) -> None:
            left[0] -= 1
            if not left[0]:
                raise error

        return step

    step = fail_at(3)
    if place == "decode":
        read = media.read_image
        monkeypatch.setattr(media, "read_image", lambda path: (step(), read(path))[1])
    elif place == "engine":
        monkeypatch.setattr(flow_video, "DECODED", 1)
        whole = engine.clip
        monkeypatch.setattr(
            engine, "clip", lambda *a: ((step(), flow)[1] for flow in whole(*a)), raising=False
        )
    elif place == "write":
        encode = media.encode_jpeg
        monkeypatch.setattr(media, "encode_jpeg", lambda *a: (step(), encode(*a))[1])
    else:
        advance = step
    before = threading.active_count()
    (output,) = flow_video.outputs(video, engine.fingerprint, Options())
    wanted = VsodpipeError if isinstance(error, OSError) else type(error)
    with pytest.raises(wanted):
        flow_video.write(video, engine, Options(), [output], advance)  # type: ignore[arg-type]
    assert threading.active_count() == before
    assert {p.name for p in (tmp_path / "S/a").iterdir()} == {"RGB"}


def test_reading_ahead_is_bounded() -> None:
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for n in range(100):
            read.append(n)
            yield n

    with flow_ahead.ahead(numbers(), 3) as items:
        assert [next(items) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(read) <= 5 + 3 + 2
    assert threading.active_count() == 1 or "ahead" not in {t.name for t in threading.enumerate()}


def test_work_behind_is_bounded() -> None:
    gate, begun = threading.Event(), []

    def task() -> None:
        begun.append(None)
        gate.wait(10)

    threading.Timer(0.2, gate.set).start()
    with flow_ahead.behind(2, 3) as run:
        for _ in range(8):
            run(task)
            assert gate.is_set() or len(begun) <= 2
    assert len(begun) == 8


def test_a_known_translation(tmp_path: Path) -> None:
    """OpenCV's DIS on a texture that moves by (3, -2) px a frame, through decoding and `.flo`."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (160, 200, 3), dtype=np.uint8)
    texture = np.asarray(cv2.GaussianBlur(texture, (0, 0), 2), np.uint8)
    for t in range(5):
        window = texture[20 + 2 * t : 116 + 2 * t, 30 - 3 * t : 158 - 3 * t]
        media.write_bytes(tmp_path / f"S/a/RGB/{t:05d}.png", media.encode_png(window))
    video, engine = catalogue.find("S", tmp_path).videos[0], flows.create("dis")
    for gap in (1, 2):
        options = Options(formats=("flo",), direction="both", gap=gap)
        media.remove(tmp_path / "S/a/FLOW_FLO")
        media.remove(tmp_path / "S/a/FLOW_BACKWARD_FLO")
        run(video, options, engine)
        for t in range(5):
            for name, sign in (("FLOW_FLO", 1), ("FLOW_BACKWARD_FLO", -1)):
                if not 0 <= t + sign * gap < 5:
                    sign = -sign  # the tail leads the other way
                flow = read_flo(tmp_path / f"S/a/{name}/{t:05d}.flo")[24:-24, 24:-24]
                wanted = np.array((3, -2)) * sign * gap
                assert np.abs(np.median(flow, axis=(0, 1)) - wanted).max() < 0.1
