"""`vsodpipe predict`: videos in; maps as `test` makes them and an overlay video out."""

import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from helpers import files_below
from vsodpipe import (
    catalogue,
    checkpoint,
    film,
    film_file,
    flow_job,
    flow_like,
    flow_video,
    flows,
    footage,
    infer,
    media,
    models,
    overlay,
    predict,
    recipe,
    synth,
    video_columns,
    video_maps,
)
from vsodpipe.errors import DataError, UsageError, WeightsError
from vsodpipe.flow_video import Options
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter

Run = Callable[..., tuple[int, str, str]]
SMALL = {
    "dbsnet": [
        "data.clip=3",
        "network.backbone=mobilevit_xxs",
        "network.dim=8",
        "network.heads=2",
        "network.num_frames=2",
    ],
    "dpa": ["network.width=4", "data.references=3"],
    "smcf": ["data.predict_frames=4"],
    "plainnet": ["data.clip=3"],  # where any network does
}


def write_run(run: Path, model: str, records: dict[str, Any], *changes: str) -> Path:
    """Write the run folder of a small network whose random weights give maps with contrast."""
    stage, network = made(model, *changes)
    kept = {name: record["fingerprint"] for name, record in records.items()}
    note = {"flow": kept, "flow_records": records}
    checkpoint.save(run / "checkpoints/last.pt", model, stage, network, {}, note)
    return run


@cache
def made(model: str, *changes: str) -> tuple[recipe.Stage, torch.nn.Module]:
    settings = ["data.size=[32, 32]", *SMALL[model], *changes]
    stage = recipe.override(models.stages(model)["debug"], settings)
    torch.manual_seed(0)
    network = models.load(model).build(stage.network)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
            module.weight.data.mul_(0.7 if model == "smcf" else 1)  # it multiplies its features
    return stage, network


def record(colour: str = "frame", **changes: Any) -> dict[str, Any]:
    """Return the record of flow by the quickest engine."""
    engine = flows.create("dis", preset="ultrafast")
    video = catalogue.Video("v", Path("v_FLOW"))
    options = Options(colour=colour, **changes)
    return flow_video.outputs(video, engine.fingerprint, options)[0].record


def write_film(
    file: Path, times: list[float], size: tuple[int, int] = (48, 64), sound: str = ""
) -> list[NDArray[np.uint8]]:
    """Write a made clip as H.264 mp4 or mkv; return its frames."""
    clip = synth.make_clip(5, len(times), size=size)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        heard = container.add_stream(sound, rate=44100) if sound else None
        for image, time in zip(clip.img, times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        for number in range(round(44.1 * 1000 * times[-1] / 1024) if heard else 0):
            form = heard.codec_context.format.name  # type: ignore[union-attr]
            zeros = np.zeros((1, 1024), np.float32 if "flt" in form else np.int16)
            tone = av.AudioFrame.from_ndarray(zeros, format=form, layout="mono")
            tone.rate, tone.pts, tone.time_base = 44100, 1024 * number, Fraction(1, 44100)
            container.mux(heard.encode(tone))  # type: ignore[union-attr]
        if heard:
            container.mux(heard.encode())
    return list(clip.img)


@pytest.fixture(autouse=True, scope="module")
def plainnet() -> Iterator[None]:
    extra = Path(__file__).parent / "extra_models"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "__path__", [*models.__path__, str(extra)])
        yield
    sys.modules.pop("vsodpipe.models.plainnet", None)


def maps_of(folder: Path) -> dict[str, NDArray[np.uint8]]:
    return {file.stem: media.read_map(file) for file in sorted(folder.glob("*.png"))}


@pytest.fixture
def frames(source: Source, tmp_path: Path) -> Path:
    """The frames of TINY_test/dice as a folder of their own."""
    video = source.split("TINY_test").videos[0]
    for frame in video.frames:
        path = Path(source.path(frame.img))
        media.write_bytes(tmp_path / "dice" / path.name, path.read_bytes())
    return tmp_path / "dice"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_film(tmp_path / "clip.mp4", [i / 25 for i in range(6)])
    return tmp_path / "clip.mp4"


@pytest.mark.parametrize("model", ["dbsnet", "dpa", "smcf"])
def test_maps_are_those_of_flow_manifest_and_test(
    source: Source, frames: Path, tmp_path: Path, vsodpipe: Run, quiet: Reporter, model: str
) -> None:
    """Clips, references and groups; the flow that the checkpoint records is made again."""
    split = source.split("TINY_test")
    assert split.flow is not None
    run = write_run(tmp_path / "run", model, {"TINY_test": split.flow})
    saved = checkpoint.read(run, None)
    assert saved.model == model
    predict.predict(saved, source, ["TINY_test"], tmp_path / "maps", "cpu", quiet)
    code, out, err = vsodpipe("predict", frames, "--checkpoint", run, "--json", "--no-overlay")
    assert code == 0, err
    assert "warning" not in err
    assert json.loads(out)["videos"][0]["maps"] == {model: "dice_maps"} or "dice_maps" in out
    expected, found = maps_of(tmp_path / "maps/TINY_test/dice"), maps_of(tmp_path / "dice_maps")
    assert list(found) == list(expected) == [f"{i:05d}" for i in range(5)]
    assert all(image.shape == (48, 64) for image in found.values())
    assert max(np.ptp(image) for image in expected.values()) > 25, "these maps show something"
    for name, image in expected.items():
        np.testing.assert_array_equal(found[name], image)


def test_a_film_of_uneven_times_with_sound(tmp_path: Path, vsodpipe: Run) -> None:
    times = [0, 0.04, 0.2, 0.21, 0.5, 0.9, 1.0]
    images = write_film(tmp_path / "h.mkv", times, sound="aac")
    run = write_run(tmp_path / "run", "plainnet", {"A_train": record()})
    code, _, err = vsodpipe("predict", "h.mkv", "--checkpoint", run, "--audio")
    assert code == 0, err
    assert "maps: h_maps, 7 frames" in err and "Next: play h.vsod.mp4" in err
    assert list(maps_of(tmp_path / "h_maps")) == [f"{i:05d}" for i in range(7)]
    with av.open(str(tmp_path / "h.vsod.mp4")) as made:
        assert made.streams.video[0].codec_context.name == "h264"
        assert float(made.duration or 0) / 1e6 == pytest.approx(1.0 + 1 / 6, abs=0.1)
        shown = list(made.decode(video=0))
        assert [frame.time for frame in shown] == pytest.approx(times, abs=1e-3)
    sound = []
    for name in ("h.vsod.mp4", "h.mkv"):
        with av.open(str(tmp_path / name)) as opened:
            sound.append([bytes(packet) for packet in opened.demux(audio=0) if packet.size])
    assert sound[0] == sound[1] and len(sound[0]) > 30, "copied, not encoded again"
    # the first panel shows the frame
    panel = overlay.grid(["frame", "flow", "plainnet"], (48, 64))
    for image, frame in zip(images, shown, strict=True):
        picture = frame.reformat(format="rgb24", src_colorspace="ITU709").to_ndarray()
        assert picture.shape[:2] == panel.size
        cut = picture[panel.bar : panel.bar + panel.panel[0], : panel.panel[1]].astype(int)
        assert np.abs(cut - overlay.scaled(image, panel.panel)).mean() < 8
    assert vsodpipe("predict", "h.mkv", "--checkpoint", run, "--audio")[2].count("done before") == 1


@pytest.mark.parametrize(
    ("sound", "name", "words"),
    [("", "a.mp4", "no sound"), ("pcm_s16le", "a.mkv", "an mp4 file does not hold")],
)
def test_sound_that_cannot_be_copied(
    tmp_path: Path, vsodpipe: Run, sound: str, name: str, words: str
) -> None:
    write_film(tmp_path / name, [0, 0.1, 0.2], sound=sound)
    run = write_run(tmp_path / "run", "plainnet", {"A_train": record()})
    code, _, err = vsodpipe("predict", name, "--checkpoint", run, "--audio")
    assert (code == 0) == (not sound) and words in err
    assert (tmp_path / "a_maps").exists() == (not sound)


def test_checkpoints_side_by_side(
    clip: Path, tmp_path: Path, vsodpipe: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flow is computed once for all; maps that are there are taken from there."""
    runs = [write_run(tmp_path / m, m, {"A_train": record()}) for m in ("plainnet", "dpa")]
    pairs = []
    real = film.computed
    monkeypatch.setattr(film, "computed", lambda *given: pairs.append(1) or real(*given))
    call = ["predict", clip, "--checkpoint", runs[0], "--checkpoint", f"refs={runs[1]}"]
    code, out, err = vsodpipe(*call, "--json")
    assert code == 0 and len(pairs) == 1, err
    result = json.loads(out)["videos"][0]
    assert set(result["maps"]) == {"plainnet", "refs"} and result["frames"] == 6
    folders = [tmp_path / "clip_maps-plainnet", tmp_path / "clip_maps-refs"]
    stamps = [(f / "00000.png").stat().st_mtime_ns for f in folders]
    both = [maps_of(folder) for folder in folders]
    assert any((both[0][name] != both[1][name]).any() for name in both[0])
    with av.open(str(tmp_path / "clip.vsod.mp4")) as made:
        size = (made.streams.video[0].height, made.streams.video[0].width)
    assert size == overlay.grid(["frame", "flow", "plainnet", "refs"], (48, 64)).size

    # alone, each gives the same maps
    code, _, err = vsodpipe(
        "predict", clip, "--checkpoint", runs[1], "--no-overlay", "--out", "alone"
    )
    assert code == 0, err
    for name, image in maps_of(tmp_path / "alone/clip_maps").items():
        np.testing.assert_array_equal(image, both[1][name])

    # without the overlay it is drawn again, from the maps
    (tmp_path / "clip.vsod.mp4").unlink()
    monkeypatch.setattr(infer.Predictor, "video", None)
    assert vsodpipe(*call)[0] == 0
    assert (tmp_path / "clip.vsod.mp4").is_file()
    assert [(f / "00000.png").stat().st_mtime_ns for f in folders] == stamps


def test_an_ended_run_leaves_nothing_and_continues(
    clip: Path, tmp_path: Path, vsodpipe: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(clip, tmp_path / "zoo.mp4")
    run = write_run(tmp_path / "run", "plainnet", {"A_train": record()})
    call = ("predict", "*.mp4", "--checkpoint", run)
    before = files_below(tmp_path)
    done: list[int] = []
    real = infer.Predictor.finished

    def finished(*given: Any) -> NDArray[np.uint8]:
        done.append(1)
        if len(done) == 9:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(infer.Predictor, "finished", finished)
    code, _, err = vsodpipe(*call)
    assert code == 130 and "Run the same command again" in err
    left = files_below(tmp_path) - before
    assert {name.split("/")[0] for name in left} == {"clip_maps", "clip.vsod.mp4"}
    (tmp_path / ".zoo.vsod.mp4.partial").write_bytes(b"of a run that was killed")
    stamp = (tmp_path / "clip_maps/00000.png").stat().st_mtime_ns
    code, _, err = vsodpipe(*call)
    assert code == 0 and "clip_maps, 6 frames (done before)" in err, "overlays are no sources"
    assert (tmp_path / "clip_maps/00000.png").stat().st_mtime_ns == stamp
    tops = {path.name for path in tmp_path.iterdir()} - {"run"}
    names = {f"{name}{end}" for name in ("clip", "zoo") for end in (".mp4", ".vsod.mp4", "_maps")}
    assert tops == names
    for name, image in maps_of(tmp_path / "clip_maps").items():
        np.testing.assert_array_equal(image, media.read_map(tmp_path / f"zoo_maps/{name}.png"))


def test_the_window_is_as_long_for_any_video(
    tmp_path: Path, quiet: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks of clips and of references read at their own pace; a few frames are held."""
    most: dict[int, int] = {}
    engine = flows.create("dis", preset="ultrafast")
    named = []
    for model, change in (("plainnet", "data.clip=3"), ("dpa", "data.references=2")):
        run = write_run(tmp_path / model, model, {"A_train": record()}, change)
        named.append(str(run))
    for length in (10, 26):
        write_film(tmp_path / f"{length}.mp4", [i / 25 for i in range(length)])
        held = []
        real = film.Film.forget
        with monkeypatch.context() as patch:
            forget = lambda self, frame, real=real, held=held: (  # noqa: E731
                held.append(self.held()),
                real(self, frame),
            )
            patch.setattr(film.Film, "forget", forget)
            columns = video_columns.columns(named, "cpu", quiet)
            dataset = catalogue.find(str(tmp_path / f"{length}.mp4"), tmp_path)
            places = video_maps.places(dataset.videos, ["a", "b"], tmp_path / "out", False)
            video_maps.predict(places, columns, engine, video_maps.Settings(), quiet)
        assert len(held) == length
        most[length] = max(held)
    # groups read ahead, in the network and waiting, and the frames that wait to be written
    assert most[26] <= 3 * 4 + video_maps.IN_FLIGHT + 2
    assert most[26] <= most[10] + 2


@pytest.mark.parametrize("colour", ["video", "radius:3"])
def test_pictures_are_those_of_the_flow_command(
    clip: Path, tmp_path: Path, quiet: Reporter, colour: str
) -> None:
    """In the order of the frames and as references, which see only a few of the frames."""
    engine = flows.create("dis", preset="ultrafast")
    dataset = catalogue.find(str(clip), tmp_path)
    looks = [
        replace(record_options, colour=colour, formats=(form,))
        for record_options in (Options(gap=2), Options(gap=2, tail="repeat"))
        for form in ("jpg", "png")
    ]
    shown = footage.look_through(dataset.videos[0], None, quiet)
    for look in looks:
        flow_job.compute(dataset, engine, look, quiet, force=True)
        folder = dataset.videos[0].flow_folder
        expected = [media.read_image(f) for f in sorted(folder.glob(f"*.{look.formats[0]}"))]
        most = film.longest(shown, engine, look, int)
        paint = film.painter([look], most)
        found = [shot.flow[look] for shot in film.computed(shown, engine, look, paint)]
        np.testing.assert_array_equal(np.stack(found), np.stack(expected))
        single = film.references(shown, range(6), engine, look, paint)
        np.testing.assert_array_equal([single[i].flow[look] for i in range(6)], expected)
        kept = dict(enumerate(film.stored(shown, folder, look)))
        np.testing.assert_array_equal([kept[i].flow[look] for i in range(6)], expected)


def test_kept_flow_is_that_of_the_flow_command(
    clip: Path, tmp_path: Path, vsodpipe: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", "dpa", {"A_train": record()})
    call = ("predict", clip, "--checkpoint", run, "--no-overlay")
    assert vsodpipe(*call, "--out", "o")[0] == 0
    assert not list(tmp_path.rglob("*FLOW*"))
    monkeypatch.setattr(film, "computed", None)  # what was kept is read, not made again
    code, _, err = vsodpipe(*call, "--keep-flow")
    assert code == 0, err
    assert vsodpipe("flow", clip, "--engine", "dis", "--preset", "ultrafast")[0] == 0
    stamps = {f.name for f in (tmp_path / "clip.mp4_FLOW").iterdir()}
    assert stamps == {*(f"{i:05d}.jpg" for i in range(6)), "flow.json"}
    for name, image in maps_of(tmp_path / "o/clip_maps").items():
        np.testing.assert_array_equal(image, media.read_map(tmp_path / f"clip_maps/{name}.png"))


def test_the_flow_of_the_training_is_restored(tmp_path: Path) -> None:
    known = {"A_train": record("radius:4", tail="repeat", gap=2, formats=("png",))}
    saved = checkpoint.read(write_run(tmp_path / "a", "dbsnet", known), None)
    wanted = Options(tail="repeat", colour="radius:4", formats=("png",), gap=2)
    assert flow_like.options(saved, None, None) == wanted
    assert flow_like.options(saved, "video", "zero") == replace(wanted, colour="video", tail="zero")
    assert flow_like.engine([saved], None, {}) == ("dis", {"preset": "ultrafast"})
    assert flow_like.engine([saved], None, {"preset": "fast"}) == ("dis", {"preset": "fast"})
    assert flow_like.engine([saved], "raft_small", {}) == ("raft_small", {})
    old = replace(saved, provenance={})
    assert flow_like.options(old, None, None) == Options()
    assert flow_like.engine([old], None, {}) == ("raft_large", {})
    raft = {"engine": "raft_large", "weights": "C_T_V1", "weights_sha256": "0", "updates": 7}
    for weights, expected in (("C_T_V1", "C_T_V1"), ("raft-things.pth", None)):
        note = {"flow_records": {"A": {"engine": {**raft, "weights": weights}}}}
        other = replace(saved, provenance=note)
        if expected:
            options = {"updates": 7, "weights": expected}
            assert flow_like.engine([other], None, {}) == ("raft_large", options)
        else:
            with pytest.raises(UsageError, match="raft-things.pth. Name that file with --weights"):
                flow_like.engine([other], None, {})
    backward = {"flow_records": {"A": {"engine": {}, "direction": "backward"}}}
    with pytest.raises(UsageError, match="backward flow"):
        flow_like.options(replace(saved, provenance=backward), None, None)
    damaged: Any
    for damaged in (["A"], {"A": 3}, {"A": {"gap": "2"}}, {"A": {"colour": 3}}):
        with pytest.raises(WeightsError, match="record of flow is damaged"):
            flow_like.options(replace(saved, provenance={"flow_records": damaged}), None, None)


def refused(result: tuple[int, str, str], *words: str) -> None:
    code, out, err = result
    lines = [line for line in err.splitlines() if not line.startswith("read ")]
    assert code == 2 and out == "" and len(lines) == 1, err
    assert lines[0].startswith("error: ") and "\x1b" not in err
    for word in words:
        assert word in lines[0]


def test_bad_input_is_one_line(tmp_path: Path, vsodpipe: Run, clip: Path) -> None:
    run = write_run(tmp_path / "run", "plainnet", {"A_train": record()})
    call = ("--checkpoint", run)
    (tmp_path / "text\x1b[31m.mp4").write_text("hello")
    (tmp_path / "empty").mkdir()
    refused(vsodpipe("predict", "text\x1b[31m.mp4", *call), "not a video that OpenCV can read")
    refused(vsodpipe("predict", "empty", *call), "no frames found")
    refused(vsodpipe("predict", "clip.mp4", "--checkpoint", "none.pt"), "no such checkpoint")
    twice = ("--checkpoint", f"x={run}") * 2
    refused(vsodpipe("predict", "clip.mp4", *twice), "two checkpoints are called x")
    refused(vsodpipe("predict", "clip.mp4", "--checkpoint", f"a/b={run}"), "expected a name")
    refused(vsodpipe("predict", "clip.mp4", *call, "--fps", 9), "--fps: is for folders")
    refused(vsodpipe("predict", "clip.mp4", *call, "--audio", "--no-overlay"), "--audio")
    refused(vsodpipe("predict", "clip.mp4", *call, "--tail", "none"), "every frame needs flow")
    (tmp_path / "file").write_text("")
    refused(vsodpipe("predict", "clip.mp4", *call, "--out", "file/x"), "cannot be written")
    media.write_bytes(tmp_path / "A_test/dog/RGB/0.png", media.encode_png(np.zeros((8, 8))))
    refused(vsodpipe("predict", "A_test", *call), "is a video of a data set", "--out FOLDER")
    write_film(tmp_path / "one.mp4", [0])
    refused(vsodpipe("predict", "one.mp4", *call), "at least 2 frames for flow, got 1")
    for number, height in enumerate((48, 48, 50)):
        picture = np.zeros((height, 64, 3), np.uint8)
        media.write_bytes(tmp_path / f"sizes/{number}.png", media.encode_png(picture))
    refused(vsodpipe("predict", "sizes", *call), "64x48 as the first, got 64x50 (frame 2)")
    (tmp_path / "clip.vsod.mp4").write_bytes(clip.read_bytes())
    refused(vsodpipe("predict", "clip.mp4", *call), "did not write it")
    assert not [name for name in files_below(tmp_path) if "_maps" in name or "partial" in name]
    (tmp_path / "clip.vsod.mp4").unlink()
    media.write_bytes(tmp_path / "clip_maps/mine.txt", b"x")
    refused(vsodpipe("predict", "clip.mp4", *call), "did not write")


def test_maps_of_other_weights_are_kept_unless_forced(
    clip: Path, tmp_path: Path, vsodpipe: Run
) -> None:
    run = write_run(tmp_path / "run", "plainnet", {"A_train": record()})
    other = write_run(tmp_path / "other", "plainnet", {"A_train": record()}, "data.clip=2")
    assert vsodpipe("predict", clip, "--checkpoint", run, "--no-overlay")[0] == 0
    refused(vsodpipe("predict", clip, "--checkpoint", other, "--no-overlay"), "of other weights")
    assert vsodpipe("predict", clip, "--checkpoint", other, "--no-overlay", "--force")[0] == 0
    code, _, err = vsodpipe("predict", clip, "--checkpoint", other, "--preset", "fast", "--force")
    assert code == 0 and "warning: plainnet: its flow is of another kind" in err


@pytest.mark.parametrize("frames", [1, 2])
def test_the_shortest_videos(tmp_path: Path, vsodpipe: Run, frames: int) -> None:
    """Two frames are enough for flow, one with a tail of zero; upright frames of odd sides."""
    for number in range(frames):
        image = synth.make_clip(4, 2, size=(51, 37)).img[number]
        media.write_bytes(tmp_path / f"up/{number}.png", media.encode_png(image))
    run = write_run(tmp_path / "run", "plainnet", {"A_train": record()})
    tail = ("--tail", "zero") if frames == 1 else ()
    code, _, err = vsodpipe("predict", "up", "--checkpoint", run, "--fps", "5", *tail)
    assert code == 0, err
    assert {m.shape for m in maps_of(tmp_path / "up_maps").values()} == {(51, 37)}
    with av.open(str(tmp_path / "up.vsod.mp4")) as made:
        assert [f.time for f in made.decode(video=0)] == pytest.approx(
            [0.2 * i for i in range(frames)]
        )


def test_maps_without_pyav(
    clip: Path, tmp_path: Path, vsodpipe: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", "plainnet", {"A_train": record()})
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    monkeypatch.setattr(film_file.importlib.util, "find_spec", lambda name: None)
    refused(vsodpipe("predict", clip, "--checkpoint", run), "pip install 'vsodpipe[video]'")
    assert vsodpipe("predict", clip, "--checkpoint", run, "--no-overlay")[0] == 0
    assert len(maps_of(tmp_path / "clip_maps")) == 6


@pytest.mark.parametrize(
    ("count", "size", "columns"),
    [(2, (480, 854), 2), (3, (1080, 1920), 3), (4, (480, 854), 2), (5, (47, 31), 5)],
)
def test_the_grid_is_even_and_bounded(count: int, size: tuple[int, int], columns: int) -> None:
    made = overlay.grid([str(i) for i in range(count)], size)
    assert made.columns == columns
    height, width = made.size
    assert height % 2 == width % 2 == 0 and height <= 1440 and width <= 2576
    ratio = made.panel[1] / made.panel[0]
    assert ratio == pytest.approx(size[1] / size[0], rel=0.02) and max(made.panel) >= 256
    images = [np.full((*made.panel, 3), 40 * (i + 1), np.uint8) for i in range(count)]
    picture = overlay.Canvas(made).draw(images, "00042")
    for number in range(count):
        top, left = made.corner(number)
        below = picture[top + made.bar :, left:][: made.panel[0], : made.panel[1]]
        assert (below == 40 * (number + 1)).all()
        strip = picture[top : top + made.bar, left : left + made.panel[1]]
        assert strip.max() > 200 and strip.min() < 40, "its name, light on dark"


def test_the_object_is_tinted_and_outlined() -> None:
    image = np.full((40, 60, 3), 100, np.uint8)
    saliency = np.zeros((40, 60), np.uint8)
    saliency[10:30, 20:40] = 255
    drawn = overlay.painted(image, saliency)
    assert (drawn[0, 0] == 55).all(), "dimmed"
    assert drawn[20, 30, 0] > 150 > drawn[20, 30, 2], "red"
    assert (drawn[10, 30] > 200).all(), "outlined in white"


def test_a_thread_that_waits_hears_of_the_error(
    clip: Path, tmp_path: Path, quiet: Reporter
) -> None:
    shown = footage.look_through(catalogue.find(str(clip), tmp_path).videos[0], None, quiet)

    def failing() -> Any:
        yield from list(film.plain(shown))[:2]
        raise DataError("broken")

    reel = film.Film(shown, failing(), {})
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            reel.shot(3)
        except DataError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [str(error) for error in errors] == ["broken"] * 2
