"""`vsodpipe test`: how networks are fed, how maps are made of logits, and what a kill costs."""

import json
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from helpers import files_below
from vsodpipe import checkpoint, crf, infer, media, models, predict, sampling, stages
from vsodpipe.checkpoint import Checkpoint
from vsodpipe.errors import UsageError, VsodpipeError
from vsodpipe.frames import Files
from vsodpipe.infer import Predictor
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter
from vsodpipe.recipe import Maps

Run = Callable[..., tuple[int, str, str]]


class Fake(nn.Module):
    """Logits that are each frame's mean level; remembers the shapes and levels it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[list[tuple[int, ...]]] = []
        self.levels: list[list[float]] = []
        self.references: list[float] = []

    def forward(self, *given: Tensor) -> dict[str, Tensor]:
        self.shapes.append([tuple(x.shape) for x in given])
        level = given[0][..., :1, :, :].mean((-1, -2), keepdim=True)
        self.levels.append([round(float(x), 3) for x in level.flatten()])
        if len(given) > 2:
            self.references = [round(float(x), 3) for x in given[2][:, :, 0].mean((-1, -2))[0]]
        return {"saliency": level.expand(*level.shape[:-2], 8, 8)}


def video_of(source: Source, count: int) -> Source:
    """Return the manifest with one video of `count` frames, even pictures of level 8, 16, 24..."""
    split = source.split("TINY_test")
    first = split.videos[0].frames[0]
    frames = []
    for i in range(count):
        path = Path(source.path(f"{first.img}.{i}.png"))
        path.write_bytes(media.encode_png(np.full((48, 64, 3), 8 * (i + 1), np.uint8)))
        frames.append(replace(first, name=f"{i:02}", img=f"{first.img}.{i}.png"))
    video = split.videos[0].model_copy(update={"frames": tuple(frames)})
    only = split.model_copy(update={"videos": (video,)})
    return replace(source, manifest=source.manifest.model_copy(update={"datasets": (only,)}))


def level(frame: int) -> float:
    return round(8 * (frame + 1) / 255, 3)


def shown(
    saved: Checkpoint,
    source: Source,
    monkeypatch: pytest.MonkeyPatch,
    sampling: str,
    **changes: Any,
) -> tuple[Fake, dict[str, float]]:
    """Return the network after a test of `saved` with changed data options, and map -> level."""
    batch = changes.pop("batch", 1)
    stage = replace(saved.stage, data=replace(saved.stage.data, **changes))
    fake = Fake()
    monkeypatch.setattr(checkpoint, "build", lambda _: fake)
    monkeypatch.setattr(models.load("dbsnet"), "SAMPLING", sampling)
    out = source.file.parent / "maps"
    changed = replace(saved, stage=stage)
    predict.predict(changed, source, ["TINY_test"], out, "cpu", Reporter(quiet=True), batch=batch)
    maps = {file.stem: media.read_map(file) for file in sorted(out.rglob("*.png"))}
    assert all(image.shape == (48, 64) and image.std() == 0 for image in maps.values())
    return fake, {name: int(image[0, 0]) / 255 for name, image in maps.items()}


def test_single_frames_in_batches(
    saved: Checkpoint, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = video_of(source, 5)
    fake, maps = shown(saved, changed, monkeypatch, "frame", clip=1, batch=2)
    assert fake.shapes == [[(n, 3, 32, 32)] * 2 for n in (2, 2, 1)]
    assert sum(fake.levels, []) == [level(i) for i in range(5)]
    for i in range(5):
        assert maps[f"{i:02}"] == pytest.approx(1 / (1 + np.exp(-level(i))), abs=0.003)


def test_groups_of_neighbours_whatever_the_training_samples_are(
    saved: Checkpoint, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SMCF: trained on frames, tested on groups of five, of one video."""
    changed = video_of(source, 7)
    fake, maps = shown(saved, changed, monkeypatch, "frame", clip=1, predict_frames=5, batch=2)
    assert fake.shapes == [[(10, 3, 32, 32)] * 2], "two full groups in one batch"
    assert fake.levels == [[level(i) for i in (0, 1, 2, 3, 4, 2, 3, 4, 5, 6)]]
    assert sorted(maps) == [f"{i:02}" for i in range(7)]
    changed = video_of(source, 3)
    media.remove(source.file.parent / "maps")
    fake, maps = shown(saved, changed, monkeypatch, "frame", clip=1, predict_frames=5, batch=2)
    assert fake.shapes == [[(3, 3, 32, 32)] * 2], "a short video is one group"


def test_references_are_spread_over_the_video(
    saved: Checkpoint, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DPA: multiples of count // 4, the same for every frame."""
    changed = video_of(source, 9)
    inputs = ("img", "flow", "ref_img", "ref_flow")
    fake, _ = shown(
        saved, changed, monkeypatch, "references", clip=1, references=4, inputs=inputs, batch=3
    )
    single, several = (3, 3, 32, 32), (3, 4, 3, 32, 32)
    assert fake.shapes == [[single, single, several, several]] * 3
    assert fake.references == [level(i) for i in (0, 2, 4, 6)]


def test_references_are_encoded_once_a_video(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `remember` keeps gives the maps that showing the references with each batch gives."""
    changes = ["data.size=[32, 48]", "network.width=4", "data.references=3"]
    (stage,) = stages.choose("dpa", ["debug"], changes, None)
    torch.manual_seed(0)
    network = models.load("dpa").build(stage.network).eval()
    for module in network.modules():  # the published start is so small that all maps are even
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    kept = Counting(network)
    files = Files(source, source.split("TINY_train"))

    def maps(asked: nn.Module, batch: int) -> list[NDArray[np.float32]]:
        given = Predictor("dpa", asked, stage, "cpu", batch, None, threading.Event(), print)
        return [saliency for v in range(2) for _, saliency in given.video(files, v)]

    class Forgetful(nn.Module):
        def forward(self, *given: Tensor) -> dict[str, Tensor]:
            logits: dict[str, Tensor] = network(*given)
            return logits

    found, expected = maps(kept, 2), maps(Forgetful(), 2)
    assert kept.shapes == [[(1, 3, 3, 32, 48)] * 2] * 2, "once a video"
    assert len(found) == sum(len(v.frames) for v in source.split("TINY_train").videos[:2])
    assert min(map(np.ptp, found)) > 0.05, "these maps show something"
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one - other).max() < 1e-5
    monkeypatch.setattr(sampling, "even_references", lambda count, n: (0,) * n)
    others = maps(kept, 2)
    assert max(np.abs(a - b).max() for a, b in zip(found, others, strict=True)) > 1e-4


class Counting(nn.Module):
    """DPA, and the shapes of the references that it was shown."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.shapes = network, []

    def remember(self, *given: Tensor) -> Any:
        self.shapes.append([tuple(x.shape) for x in given])
        return self.network.remember(*given)

    def segment(self, *given: Any) -> dict[str, Tensor]:
        return self.network.segment(*given)


@pytest.mark.parametrize("twice", ["mean", "first"])
def test_frames_predicted_twice(
    saved: Checkpoint, source: Source, monkeypatch: pytest.MonkeyPatch, twice: Any
) -> None:
    class Counting(Fake):
        def forward(self, *given: Tensor) -> dict[str, Tensor]:
            self.shapes.append([])
            number = torch.logit(torch.tensor(0.2 * len(self.shapes)))
            return {"saliency": number.expand(*given[0].shape[:2], 1, 8, 8)}

    monkeypatch.setattr(checkpoint, "build", lambda _: Counting())
    changed = replace(saved, stage=replace(saved.stage, maps=Maps(twice=twice)))
    out, source = source.file.parent / "maps", video_of(source, 4)
    predict.predict(changed, source, ["TINY_test"], out, "cpu", Reporter(quiet=True))
    found = [int(media.read_map(file)[0, 0]) for file in sorted(out.rglob("*.png"))]
    both = 51 if twice == "first" else 76  # 0.2, or the mean of 0.2 and 0.4, of 255
    assert found == [51, both, both, 102]


def test_maps_are_made_in_the_order_of_the_paper() -> None:
    logits = torch.linspace(-2, 3, 12).reshape(1, 1, 3, 4)
    size = (6, 10)

    def resized(x: Tensor, aligned: bool = False) -> Tensor:
        return nn.functional.interpolate(x, size, mode="bilinear", align_corners=aligned)

    def stretched(x: Tensor) -> Tensor:
        return (x - x.min()) / (x.max() - x.min())

    expected = {
        ("sigmoid", "resize"): resized(logits.sigmoid()),  # DBSNet, A2S-v2
        ("sigmoid", "min-max", "resize"): resized(stretched(logits.sigmoid())),  # IANet
        ("sigmoid", "resize", "min-max"): stretched(resized(logits.sigmoid())),  # DPA
    }
    for steps, maps in expected.items():
        found = infer.to_maps(logits, Maps(steps=steps), size)  # type: ignore[arg-type]
        assert torch.allclose(found, maps, atol=1e-6), steps
    smcf = Maps(steps=("resize", "sigmoid", "min-max"), aligned=True)
    maps = stretched(resized(logits, aligned=True).sigmoid())
    assert torch.allclose(infer.to_maps(logits, smcf, size), maps, atol=1e-6)
    two = torch.stack([logits[0], 0 * logits[0]])
    found = infer.to_maps(two, smcf, size)
    assert found[0].max() == 1 and not found[1].any(), "each map by its own range; even ones are 0"
    for steps in ([], ["sigmoid"], ["min-max", "sigmoid", "resize"], ["sigmoid"] * 2 + ["resize"]):
        with pytest.raises(UsageError, match="recipe key steps"):
            Maps(steps=tuple(steps))  # type: ignore[arg-type]


def read_all(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*.*"))}


def test_batches_and_devices_change_nothing(
    saved: Checkpoint, source: Source, tmp_path: Path, quiet: Reporter
) -> None:
    names = ["TINY_train", "TINY_test"]
    predict.predict(saved, source, names, tmp_path / "one", "cpu", quiet)
    predict.predict(saved, source, names, tmp_path / "two", "cpu,cpu", quiet)
    one = read_all(tmp_path / "one")
    assert len(one) == 14 + 2 and one == read_all(tmp_path / "two")
    predict.predict(saved, source, names, tmp_path / "three", "cpu", quiet, batch=3)
    for name in one:
        if name.endswith(".png"):
            a, b = (media.read_map(tmp_path / n / name).astype(int) for n in ("one", "three"))
            assert np.abs(a - b).max() <= 1, "as far as float32 goes"


def test_an_error_on_one_device_ends_the_others(
    saved: Checkpoint, source: Source, tmp_path: Path, quiet: Reporter
) -> None:
    frame = source.split("TINY_train").videos[1].frames[2]
    Path(source.path(frame.img)).write_bytes(b"\xff\xd8\xff damaged")
    with pytest.raises(VsodpipeError, match=r"cube/RGB/00002.jpg: damaged picture"):
        predict.predict(saved, source, ["TINY_train"], tmp_path / "maps", "cpu,cpu", quiet)
    assert not [name for name in files_below(tmp_path / "maps") if "cube" in name]


def test_where_memory_ends_the_batch_is_halved(
    saved: Checkpoint,
    source: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Small(Fake):
        room = 2

        def forward(self, *given: Tensor) -> dict[str, Tensor]:
            if len(given[0]) > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(*given)

    network, warned = Small(), list[str]()
    monkeypatch.setattr(checkpoint, "build", lambda _: network)
    monkeypatch.setattr(models.load("dbsnet"), "SAMPLING", "frame")
    reporter = Reporter(quiet=True)
    reporter.warn = warned.append  # type: ignore[method-assign]
    one = replace(saved, stage=replace(saved.stage, data=replace(saved.stage.data, clip=1)))
    source = video_of(source, 10)
    predict.predict(one, source, ["TINY_test"], tmp_path / "m", "cpu", reporter, batch=7)
    assert sum(network.levels, []) == [level(i) for i in range(10)]
    assert warned == [f"cpu: out of memory, --batch {n} from here on" for n in (3, 1)]
    network.room = 0
    with pytest.raises(VsodpipeError, match="does not hold one group of frames at 32x32"):
        predict.predict(one, source, ["TINY_test"], tmp_path / "n", "cpu", reporter)


KILLED = """
import os, signal, sys
from vsodpipe import cli, infer
real, done = infer.Predictor.finished, []
def finished(*given):
    done.append(1)
    if len(done) == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*given)
infer.Predictor.finished = finished
sys.argv = ["vsodpipe", *sys.argv[1:]]
cli.main()
"""


def test_a_killed_run_continues_to_the_same_bytes(
    saved: Checkpoint, source: Source, tmp_path: Path, vsodpipe: Run, quiet: Reporter
) -> None:
    run = ["test", "dbsnet", "--checkpoint", str(tmp_path / "run"), "--manifest", str(source.file)]
    run += ["--dataset", "TINY_train", "--out", str(tmp_path / "maps"), "--device", "cpu", "-q"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-c", KILLED, *run]
    ended = subprocess.run(call, env=environment, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    folder = tmp_path / "maps" / "TINY_train"
    assert sorted(p.name for p in folder.iterdir()) == [".cube.partial", "ball", "maps.json"]
    stamps = {file: file.stat().st_mtime_ns for file in (folder / "ball").iterdir()}
    assert len(stamps) == 5
    assert vsodpipe(*run)[0] == 0
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in stamps.items())
    assert not (folder / ".cube.partial").exists()
    predict.predict(saved, source, ["TINY_train"], tmp_path / "whole", "cpu", quiet)
    assert read_all(tmp_path / "maps") == read_all(tmp_path / "whole")


def test_refined_maps_have_a_folder_of_their_own(
    saved: Checkpoint, source: Source, tmp_path: Path, vsodpipe: Run
) -> None:
    run = ["test", "dbsnet", "--checkpoint", tmp_path / "run", "--manifest", source.file]
    assert vsodpipe(*run)[0] == 0
    assert vsodpipe(*run, "--crf", "dss")[0] == 0
    code, _, err = vsodpipe(*run, "--crf", "a2s")
    assert code == 0 and "maps-a2s" in err
    for frame in source.split("TINY_test").videos[0].frames:
        plain, soft, hard = (
            media.read_map(tmp_path / "run" / n / f"TINY_test/dice/{frame.name}.png")
            for n in ("maps", "maps-dss", "maps-a2s")
        )
        img = media.read_image(source.path(frame.img))
        expected = (crf.refine(img, plain.astype(np.float32) / 255, "dss") * 255).astype(int)
        assert np.abs(expected - soft).max() <= 1
        assert hard.shape == plain.shape and set(np.unique(hard)) <= {0, 255}
    record = json.loads((tmp_path / "run/maps-dss/TINY_test/maps.json").read_text())
    assert record["crf"] == "dss" and record["size"] == [32, 32] and record["frames"] == 3
    code, _, err = vsodpipe(*run, "--crf", "dss", "--out", tmp_path / "run/maps")
    assert code == 2 and "Use --force" in err


def test_the_best_weights_of_a_run_are_tested(saved: Checkpoint, tmp_path: Path) -> None:
    run, folder = tmp_path / "run", tmp_path / "run" / "checkpoints"
    media.write_bytes(run / "run.json", json.dumps({"stages": ["pretrain", "debug"]}).encode())
    (folder / "pretrain-best.pt").write_bytes(b"of an earlier stage")
    assert checkpoint.locate(run) == folder / "last.pt"
    (folder / "debug-best.pt").write_bytes((folder / "last.pt").read_bytes())
    assert checkpoint.locate(run) == folder / "debug-best.pt"
    assert checkpoint.read(run, "dbsnet").file == folder / "debug-best.pt"


class Code:
    """What a pickle may hold: it touches a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (self.file.touch, ())


def test_bad_input_is_one_line_and_leaves_nothing(
    saved: Checkpoint, source: Source, tmp_path: Path, vsodpipe: Run, quiet: Reporter
) -> None:
    good = saved.file.read_bytes()
    content = torch.load(saved.file, weights_only=True)
    file, maps = tmp_path / "x.pt", tmp_path / "maps"

    def refused(words: str, given: object = file, *more: object) -> None:
        run = (
            "test",
            "dbsnet",
            "--checkpoint",
            given,
            "--manifest",
            source.file,
            "--out",
            maps,
            "-q",
        )
        code, out, err = vsodpipe(*run, *more)
        assert code == 2 and out == "", err
        lines = [line for line in err.splitlines() if not line.startswith("TINY")]
        assert len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0], err
        assert not maps.exists()

    file.write_bytes(good[: len(good) // 2])
    refused("damaged. Name a run folder")
    file.write_bytes(b"")
    refused("damaged")
    torch.save(Code(tmp_path / "was-run"), file)
    refused("not only tensors: it asks for")
    assert not (tmp_path / "was-run").exists()
    saved.file.with_name("last.pt").rename(tmp_path / "kept.pt")
    refused("no run folder", tmp_path / "run")
    refused("no such checkpoint", tmp_path / "none.pt")
    with zipfile.ZipFile(tmp_path / "kept.pt") as stored, zipfile.ZipFile(file, "w") as packed:
        for entry in stored.infolist():
            packed.writestr(entry.filename, bytes(entry.file_size), zipfile.ZIP_DEFLATED)
    refused("torch.save packs nothing")
    for change, words in (
        ({"model": "dpa"}, "holds weights of dpa, expected dbsnet. Run it as dpa"),
        ({"version": 99}, "checkpoint version 99"),
        ({"stage": {}}, "recipe or weights are not as"),
        ({"stage": {**content["stage"], "epcohs": 3}}, "Did you mean epochs"),
        ({"state_dict": {"a": 1}}, "recipe or weights are not as"),
        ({"state_dict": {"a": torch.zeros(2)}}, "does not fit dbsnet as built here"),
    ):
        torch.save({**content, **change}, file)
        refused(words)
    file.write_bytes(good)
    refused("Did you mean dss", file, "--crf", "ds")
    refused("unknown device 'tpu'", file, "--device", "cpu,tpu")


def test_a_manifest_without_flow_and_a_damaged_frame(
    saved: Checkpoint, source: Source, tmp_path: Path, vsodpipe: Run
) -> None:
    maps = tmp_path / "run" / "maps"
    run = ("test", "dbsnet", "--checkpoint", tmp_path / "run", "--device", "cpu", "-q")
    frame = source.split("TINY_train").videos[1].frames[2]
    file = Path(source.path(frame.img))
    file.write_bytes(file.read_bytes()[:300])
    code, out, err = vsodpipe(*run, "--manifest", source.file, "--dataset", "TINY_train")
    assert code == 2 and out == "" and len(err.splitlines()) == 1, err
    assert "cube/RGB/00002.jpg: damaged picture" in err and "Restore the file" in err
    folder = maps / "TINY_train"
    assert sorted(p.name for p in folder.iterdir()) == ["ball", "maps.json"], "done, and no halves"
    text = json.loads(source.file.read_text())
    for dataset in text["datasets"]:
        dataset["flow"] = None
        for video in dataset["videos"]:
            for row in video["frames"]:
                row.pop("flow", None)
    bare = source.file.with_name("bare.json")
    bare.write_text(json.dumps(text))
    media.remove(maps)
    code, out, err = vsodpipe(*run, "--manifest", bare)
    assert code == 2 and len(err.splitlines()) == 1 and "has no flow" in err, err
    assert not maps.exists()
