"""A2S-v2 from pictures to scores on made miniatures: second pictures, pseudo labels, the chain."""

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vsodpipe import (
    a2s_chain,
    crf,
    feed,
    manifest,
    media,
    models,
    pack,
    predict,
    reader,
    runs,
    synth,
    train,
)
from vsodpipe.errors import DataError, UsageError
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter
from vsodpipe.ranks import Ranks
from vsodpipe.recipe import Augment, Data, Stage
from vsodpipe.stream import Clips, open_reader

Run = Callable[..., tuple[int, str, str]]
SIZE = (48, 64)
SMALL = ("--stage", "debug", "--set", "steps_per_epoch=2", "--set", "data.size=[64,64]")
ALL = {
    "DUTS_train": None,
    "RGBD-TR_train": "DEPTH",
    "NJUD_test": "DEPTH",
    "VT5000_train": "THERMAL",
    "VT821_test": "THERMAL",
}


def make(root: Path, name: str, second: str | None, gt: bool = True) -> None:
    """Write three stills of one size: frames, masks, and a grey depth or a thermal picture."""
    rng = np.random.default_rng(sum(map(ord, name)))
    for number in range(3):
        clip = synth.make_clip(sum(map(ord, name)) + number, 1, size=SIZE)
        folder, stem = root / name, f"p{number}"
        media.write_bytes(folder / "RGB" / f"{stem}.jpg", media.encode_jpeg(clip.img[0]))
        mask = clip.gt[0].astype(np.uint8) * 255
        if gt:
            media.write_bytes(folder / "GT" / f"{stem}.png", media.encode_png(mask))
        if second is not None:
            shape = SIZE if second == "DEPTH" else (*SIZE, 3)
            picture = rng.integers(0, 256, shape, np.uint8)
            media.write_bytes(folder / second / f"{stem}.png", media.encode_png(picture))


@pytest.fixture
def mini(tmp_path: Path, quiet: Reporter) -> Source:
    """A manifest of the RGB, RGB-D and RGB-T miniatures."""
    root = tmp_path / "datasets"
    for name, second in ALL.items():
        make(root, name, second)
    made = manifest.build([], root, tmp_path / "m", quiet, name="mini")["mini"]
    return manifest.read(manifest.write(made, tmp_path / "m", root)[0])


def stage_of(*names: str, flip: float = 0.0, **data: object) -> Stage:
    debug = models.stages("midnet")["debug"]
    given = {"datasets": names, "inputs": ("img", "depth"), "size": SIZE, **data}
    return replace(debug, data=Data(**given), augment=Augment(flip=flip), batch=2)  # type: ignore[arg-type]


def sample(source: Source, stage: Stage) -> dict[str, torch.Tensor]:
    readers = [open_reader(source, name, stage.data.source) for name in stage.data.datasets]
    clips = Clips(readers, stage)
    batch = clips.batch([(0, 0, number) for number in range(len(clips.anchors))])
    return feed.on_device(batch, torch.device("cpu"), "midnet", stage.data)


# ---- second pictures


def test_depth_goes_with_its_frame_from_files_and_stores(mini: Source, quiet: Reporter) -> None:
    stage = stage_of("RGBD-TR_train", mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    split = mini.split("RGBD-TR_train")
    grey = media.read_image(mini.path(str(split.videos[0].frames[0].depth)))
    plain = sample(mini, stage)
    assert plain["depth"].shape == (3, 3, *SIZE) and plain["img"].min() < 0
    expected = torch.from_numpy(grey.transpose(2, 0, 1).copy()) / 255
    torch.testing.assert_close(plain["depth"][0], expected)
    pack.pack(split, mini.root, f"{mini.root}/RGBD-TR_train.zarr", None, quiet)
    for flip in (0.0, 1.0):
        turned = replace(stage, augment=Augment(flip=flip))
        stored = replace(turned, data=replace(turned.data, source="store"))
        for key in ("img", "depth", "gt"):
            files = sample(mini, turned)[key]
            assert torch.equal(files, plain[key].flip(-1) if flip else plain[key]), key
            assert torch.equal(files, sample(mini, stored)[key]), key


def test_beside_is_zero_where_a_data_set_has_none(mini: Source, quiet: Reporter) -> None:
    stage = stage_of(
        "RGBD-TR_train", "VT5000_train", inputs=("img",), beside=("depth", "flow", "thermal")
    )
    for labels in (True, False):
        given = replace(stage, data=replace(stage.data, labels=labels))
        found = sample(mini, given)
        assert ("gt" in found) == labels
        assert found["depth"][:3].mean() > 0.3 and not found["depth"][3:].any()
        assert found["thermal"][3:].mean() > 0.3 and not found["thermal"][:3].any()
        assert not found["flow"].any()
    chosen = feed.choose(stage, mini)
    assert feed.describe(stage, chosen)[1:4] == [
        "stage debug: depth for the loss: RGBD-TR_train",
        "stage debug: flow for the loss: nowhere",
        "stage debug: thermal for the loss: VT5000_train",
    ]
    with pytest.raises(DataError, match="reads flow for its loss, which none of VT5000_train has"):
        feed.choose(stage_of("VT5000_train", inputs=("img",), beside=("flow",)), mini)
    with pytest.raises(UsageError, match="none of them an input, got depth"):
        stage_of("RGBD-TR_train", beside=("depth",))


def test_stage_1_needs_no_ground_truth(tmp_path: Path, quiet: Reporter) -> None:
    make(tmp_path / "d", "RGBD-TR_train", "DEPTH", gt=False)
    made = manifest.build([], tmp_path / "d", tmp_path, quiet, name="bare")["bare"]
    source = manifest.read(manifest.write(made, tmp_path, tmp_path / "d")[0])
    stage = models.stages("a2s")["d"]
    assert not stage.data.labels and stage.data.beside == ("depth",)
    job = runs.Job("a2s", source, (stage,), tmp_path / "run", "cpu", 0)
    small = replace(stage, data=replace(stage.data, size=(32, 32)), batch=1)
    clips = feed.clips(small, feed.choose(small, source), job, Ranks(), quiet)
    batch = clips.batch([(0, 0, 0)])
    assert len(clips) == 3 and "gt" not in batch and batch["depth"].shape[-3:] == (3, 32, 32)
    with pytest.raises(DataError, match="no frame has ground truth"):
        sample(source, stage_of("RGBD-TR_train"))


# ---- the chain


def test_the_chain_of_rgb_d(
    mini: Source, tmp_path: Path, vsodpipe: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    call = ("train", "a2s-v2", "--task", "d", "--manifest", mini.file, "--run", run, *SMALL)
    code, _, err = vsodpipe(*call)
    assert code == 0, err
    scores = json.loads((run / "scores.json").read_text())["d"]
    assert list(scores) == ["pseudo labels", "stage 2"]
    assert scores["pseudo labels"]["RGBD-TR_train"]["frames"] == 3
    assert 0 <= scores["stage 2"]["NJUD_test"]["a2s_mae"] <= 1
    trained = json.loads((run / "stage2-d" / "run.json").read_text())
    assert trained["model"] == "midnet" and trained["trained_on"] == {"debug": ["RGBD-TR_pseudo"]}
    # the labels: a data set of their own, of 0 and 255 at the size of the pictures
    labelled = manifest.read(run / "pseudo-d" / "pseudo.json")
    (split,) = labelled.manifest.datasets
    for video in split.videos:
        (frame,) = video.frames
        label = media.read_map(labelled.path(str(frame.gt)))
        assert label.shape == SIZE and set(np.unique(label)) <= {0, 255}
        own = next(v for v in mini.split("RGBD-TR_train").videos if v.name == video.name)
        for key in ("img", "depth"):
            linked = Path(labelled.path(str(getattr(frame, key))))
            assert linked.samefile(mini.path(str(getattr(own.frames[0], key)))), key
    whose = json.loads((run / "pseudo-d" / "provenance.json").read_text())
    weights = run / "stage1" / "checkpoints" / "last.pt"
    assert whose["checkpoint_sha256"] == runs.sha256(weights)
    assert whose["crf"]["name"] == "a2s" and whose["crf"]["iterations"] == 10
    assert crf.find("a2s").median == whose["crf"]["median"]
    # every part is there: nothing is made again
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.name != "scores.json"}
    code, _, err = vsodpipe(*call)
    assert code == 0, err
    assert before == {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.name != "scores.json"}
    monkeypatch.chdir(tmp_path)  # from another folder it is the same chain
    code, _, err = vsodpipe("train", "a2s-v2", "--manifest", mini.file, "--resume", "run")
    assert code == 0, err
    code, _, err = vsodpipe(*call, "--set", "optim.lr=0.1")
    assert code == 2 and "holds a chain with other options" in err
    # and the labels alone, by their own command
    alone = ("pseudo", "--checkpoint", run / "stage1", "--manifest", mini.file, "--task", "d")
    assert vsodpipe(*alone, "--out", tmp_path / "labels")[0] == 0
    name = "RGBD-TR_pseudo/p0/GT/p0.png"
    made, here = tmp_path / "labels" / name, run / "pseudo-d" / name
    assert made.read_bytes() == here.read_bytes()


def test_a_chain_that_was_killed_continues(
    mini: Source, tmp_path: Path, quiet: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    assignments = ("steps_per_epoch=1", "data.size=[64,64]", "data.source=files", "relabel_from=0")
    options = a2s_chain.Options("t", "debug", assignments)

    def chain(name: str) -> a2s_chain.Chain:
        return a2s_chain.Chain(options, mini, tmp_path / name, "cpu", 0)

    whole = a2s_chain.execute(chain("whole"), quiet)
    video, calls = predict._video, []

    def killed(*args: object) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        video(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(predict, "_video", killed)
    with pytest.raises(KeyboardInterrupt):
        a2s_chain.execute(chain("cut"), quiet)
    assert not (tmp_path / "cut" / "pseudo-t" / "pseudo.json").exists()
    assert a2s_chain.started(tmp_path / "cut") == options
    # and killed in stage 2 before its first step
    media.write_bytes(tmp_path / "cut" / "stage2-t" / "checkpoints" / "last.pt", b"half")
    assert a2s_chain.execute(chain("cut"), quiet) == whole
    # 1 + the one that was killed, the two left of three, three test maps
    assert len(calls) == 2 + 2 + 3


def test_the_joint_chain_from_stores(mini: Source, tmp_path: Path, vsodpipe: Run) -> None:
    for name in ("DUTS_train", "RGBD-TR_train", "VT5000_train"):
        split = mini.split(name)
        quiet = Reporter(quiet=True)
        pack.pack(split, mini.root, f"{mini.root}/{name}.zarr", (64, 64), quiet)
    run = tmp_path / "run"
    stores = ("--set", "data.source=store")
    call = ("train", "a2s-v2", "--task", "cdt", "--manifest", mini.file, "--run", run)
    code, _, err = vsodpipe(*call, *SMALL, *stores)
    assert code == 0, err
    assert "thermal for the loss: VT5000_train" in err and "holds no test set of task c" in err
    first = json.loads((run / "stage1" / "run.json").read_text())
    assert first["trained_on"] == {"debug": ["DUTS_train", "RGBD-TR_train", "VT5000_train"]}
    scores = json.loads((run / "scores.json").read_text())
    assert {x: list(found) for x, found in scores.items()} == {
        "c": ["pseudo labels"],
        "d": ["pseudo labels", "stage 2"],
        "t": ["pseudo labels", "stage 2"],
    }
    assert (run / "pseudo-t" / "VT5000_pseudo.zarr").is_dir()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("a2s-v2",), "a2s-v2 needs --task"),
        (("a2s-v2", "--task", "o"), "task o trains on DAVIS_train, DAVSOD_train"),
        (("a2s-v2", "--task", "x"), "unknown task 'x'"),
        (("a2s-v3", "--task", "d"), "unknown model 'a2s-v3'. Did you mean a2s-v2"),
        (("a2s-v2", "--task", "d", "--compile"), "a2s-v2 takes no --recipe"),
        (("a2s", "--task", "d"), "--task belongs to a2s-v2"),
    ],
)
def test_wrong_calls(
    given: tuple[str, ...], message: str, mini: Source, tmp_path: Path, vsodpipe: Run
) -> None:
    run = tmp_path / "run"
    code, _, err = vsodpipe("train", *given, "--manifest", mini.file, "--run", run)
    assert code == 2 and message in err
    assert not run.exists()


def test_two_letter_codes_name_data_sets(mini: Source) -> None:
    assert predict.choose_datasets(mini, ["de", "te"]) == ["NJUD_test", "VT821_test"]
    assert predict.choose_datasets(mini, ["DUTS_train"]) == ["DUTS_train"]
    with pytest.raises(UsageError, match="oe"):
        predict.choose_datasets(mini, ["oe"])


def test_the_chain_of_video_from_stores_and_files(
    with_flow: Path, tmp_path: Path, vsodpipe: Run
) -> None:
    """With flow, and frames larger than the network's: the same losses and scores to the bit."""
    for kind in ("train", "test"):
        (with_flow / f"TINY_{kind}").rename(with_flow / f"DAVIS_{kind}")
    quiet = Reporter(quiet=True)
    made = manifest.build([], with_flow, tmp_path / "m", quiet)["davis"]
    source = manifest.read(manifest.write(made, tmp_path / "m", with_flow)[0])
    split = source.split("DAVIS_train")
    pack.pack(split, source.root, with_flow / "DAVIS_train.zarr", None, quiet, tier="lossless")
    call = ("train", "a2s-v2", "--task", "o", "--manifest", source.file, "--json")
    small = ("--stage", "debug", "--set", "steps_per_epoch=2", "--set", "data.size=[32,48]")
    found = {}
    for kind in ("files", "store"):
        run = ("--run", f"of {kind}", "--set", f"data.source={kind}")
        code, out, err = vsodpipe(*call, *small, *run)
        assert code == 0, err
        assert "flow for the loss: DAVIS_train" in err
        events = Path(f"of {kind}", "stage2-o", "events.jsonl").read_text().splitlines()
        losses = [json.loads(row)["loss"] for row in events]
        assert len(losses) == 2
        found[kind] = losses, json.loads(out)["scores"]
        assert Path(f"of {kind}", "pseudo-o", "DAVIS_pseudo.zarr").is_dir() == (kind == "store")
    assert found["files"] == found["store"]
    assert list(found["store"][1]["o"]) == ["pseudo labels", "stage 2"]
    stored = reader.open_store("of store/pseudo-o/DAVIS_pseudo.zarr")
    assert stored.attributes["tier"] == "lossless" and stored.stored == split.videos[0].size
    # a store of another size: that of the labels is like it
    pack.pack(split, source.root, with_flow / "DAVIS_train.zarr", (40, 56), quiet, force=True)
    labelled = manifest.read(Path("of store/pseudo-o/pseudo.json"))
    given = (source, "DAVIS_train", labelled, "DAVIS_pseudo", tmp_path / "like.zarr", quiet)
    a2s_chain._pack(*given)
    assert reader.open_store(str(tmp_path / "like.zarr")).stored == (40, 56)


def test_what_is_wrong_shows_at_once_and_leaves_nothing(
    mini: Source, tmp_path: Path, vsodpipe: Run
) -> None:
    torch.save({"state_dict": {"module.encoder_k.conv1.weight": torch.zeros(1)}}, "moco.pth.tar")
    call = ("train", "a2s-v2", "--task", "d", "--run", "run", *SMALL)
    wrong = ("--backbone-weights", "moco.pth.tar")
    code, _, err = vsodpipe(*call, "--manifest", mini.file, *wrong)
    assert code == 2 and "expected a file of MoCo-v2" in err and not Path("run").exists()
    # stage 1 could do without depth, stage 2 cannot: it is said before hours of the first
    split = mini.split("NJUD_test")
    video = split.videos[0].model_copy(
        update={"frames": (replace(split.videos[0].frames[0], depth=None),)}
    )
    lacking = split.model_copy(update={"videos": (video, *split.videos[1:])})
    others = [s for s in mini.manifest.datasets if s is not split]
    changed = mini.manifest.model_copy(update={"datasets": (*others, lacking), "name": "no"})
    file = manifest.write(changed, tmp_path / "m", tmp_path / "datasets")[0]
    code, _, err = vsodpipe(*call, "--manifest", file)
    assert code == 2 and "NJUD_test/p0/p0 has no depth, which midnet takes" in err
    assert not Path("run").exists()


def test_hints_can_be_pasted(
    mini: Source, tmp_path: Path, vsodpipe: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders with blanks are quoted; the chain continues with what is said."""
    place = tmp_path / "my manifest.json"
    text = json.loads(Path(mini.file).read_text()) | {"root": "datasets"}
    place.write_text(json.dumps(text))
    real, calls = train._step, []

    def killed(*given: object) -> float:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(train, "_step", killed)
    call = ("train", "a2s-v2", "--task", "t", "--manifest", place, "--run", "my run", *SMALL)
    code, _, err = vsodpipe(*call)
    assert code == 130
    hint = err.partition("Continue with: ")[2].splitlines()[0]
    words = shlex.split(hint)
    assert words == [
        "vsodpipe",
        *map(str, call[:2]),
        "--manifest",
        str(place),
        "--resume",
        "my run",
    ]
    code, out, err = vsodpipe(*words[1:], "--json")
    assert code == 0, err
    assert json.loads(out)["run"] == "my run" and list(json.loads(out)["scores"]["t"]) == [
        "pseudo labels",
        "stage 2",
    ]
    one = ("train", "midnet", "--manifest", "my run/pseudo-t/pseudo.json", "--stage", "t")
    small = (*SMALL[2:], "--set", "network.width=8", "--set", "epochs=2", "--set", "batch=2")
    calls.clear()
    code, _, err = vsodpipe(*one, *small, "--run", "it's")
    assert code == 130 and shlex.split(err.partition("with: ")[2])[-2:] == ["--resume", "it's"]
    code, out, _ = vsodpipe(
        *("pseudo", "--checkpoint", "my run/stage1", "--manifest", place, "--task", "t"),
        *("--out", "my labels", "--json"),
    )
    assert code == 0
    made = {"manifest": "my labels/pseudo.json", "frames": {"VT5000_pseudo": 3}}
    assert json.loads(out) == made
