"""Training: what a stage trains on, exact resume, weights handed on, and what stops it."""

import json
import signal
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vsodpipe import checkpoint, manifest, models, recipe, runs, train
from vsodpipe import stages as recipes
from vsodpipe.errors import DataError, UsageError, VsodpipeError, WeightsError
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter
from vsodpipe.recipe import Optim, Stage

SMALL = [
    'data.datasets=["TINY_train", "DAVIS_train"]',
    "data.size=[32, 32]",
    "data.clip=2",
    "network.dim=8",
    "network.heads=2",
    "network.num_frames=2",
]


def stages(*assignments: str) -> tuple[Stage, ...]:
    return recipes.choose("dbsnet", ["debug"], [*SMALL, *assignments], None)


def job(source: Source, run: Path, *assignments: str) -> runs.Job:
    return runs.Job("dbsnet", source, stages(*assignments), run, "cpu", 0)


def losses(run: Path) -> list[float]:
    return [json.loads(row)["loss"] for row in (run / "events.jsonl").read_text().splitlines()]


def weights(file: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(file, "dbsnet").state_dict


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_folder_tells_where_it_comes_from(source: Source, tmp_path: Path) -> None:
    printed: list[str] = []
    reporter = Reporter(quiet=True)
    reporter.say = printed.append  # type: ignore[method-assign]
    run = tmp_path / "runs" / "a"
    last = train.train(job(source, run, "epochs=2"), reporter)
    assert last == run / "checkpoints" / "last.pt" and (run / "checkpoints" / "debug.pt").is_file()
    assert len(losses(run)) == 2 * 4
    assert printed[0] == (
        "stage debug: trains on TINY_train; the published recipe has beside them: DAVIS_train"
    )
    assert "no val split in the manifest, so no best.pt" in printed[1] and len(printed) == 2
    note = json.loads((run / "run.json").read_text())
    assert note["trained_on"] == {"debug": ["TINY_train"]}
    assert note["recipe_also_names"] == {"debug": ["DAVIS_train"]}
    flow = source.split("TINY_train").flow
    assert flow is not None and note["flow"]["TINY_train"] == flow["fingerprint"]
    values = tomllib.loads((run / "recipe.toml").read_text())["debug"]
    assert recipe.stage_from_dict(values, models.load("dbsnet").Options) == stages("epochs=2")[0]
    assert checkpoint.read(run, "dbsnet").provenance["manifest_sha256"] == note["manifest_sha256"]


def test_the_same_seed_gives_the_same_weights(source: Source, tmp_path: Path) -> None:
    quiet = Reporter(quiet=True)
    files = [train.train(job(source, tmp_path / n), quiet) for n in ("a", "b")]
    assert equal(weights(files[0]), weights(files[1]))
    other = train.train(job(source, tmp_path / "c", "seed=1"), quiet)
    assert not equal(weights(files[0]), weights(other))


def test_a_resumed_run_equals_an_uninterrupted_one(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = Reporter(quiet=True)
    whole = train.train(job(source, tmp_path / "whole", "epochs=2"), quiet)
    monkeypatch.setattr(train, "SAVE_SECONDS", 0.0)
    real, taken = train._step, []

    def killed(*arguments: object) -> float:
        if len(taken) == 6:
            raise KeyboardInterrupt
        taken.append(1)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(train, "_step", killed)
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train.train(job(source, run, "epochs=2"), quiet)
    monkeypatch.setattr(train, "_step", real)
    again = replace(job(source, run), stages=runs.resumed(run, "dbsnet", source))
    last = train.train(again, quiet, resume=True)
    assert losses(run) == losses(tmp_path / "whole")
    assert equal(weights(last), weights(whole))
    assert train.train(again, quiet, resume=True) == last, "a finished run stays as it is"
    assert len(losses(run)) == 8


def test_a_run_killed_before_its_first_save_keeps_its_initial_weights(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = Reporter(quiet=True)
    train.train(job(source, tmp_path / "a"), quiet)
    whole = replace(job(source, tmp_path / "whole", "seed=3"), init=(tmp_path / "a",))
    train.train(whole, quiet)

    def killed(*_: object) -> float:
        raise KeyboardInterrupt

    real = train._step
    monkeypatch.setattr(train, "_step", killed)
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train.train(replace(whole, run=run), quiet)
    monkeypatch.setattr(train, "_step", real)
    again = replace(job(source, run), stages=runs.resumed(run, "dbsnet", source))
    train.train(again, quiet, resume=True)
    assert losses(run) == losses(tmp_path / "whole")


def test_a_signal_saves_and_stops_after_the_step(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = Reporter(quiet=True)
    train.train(job(source, tmp_path / "whole"), quiet)
    real = train._step

    def signalled(*arguments: object) -> float:
        loss = real(*arguments)  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGTERM)
        return loss

    monkeypatch.setattr(train, "_step", signalled)
    before = signal.getsignal(signal.SIGTERM)
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train.train(job(source, run), quiet)
    assert signal.getsignal(signal.SIGTERM) == before
    assert len(losses(run)) == 1
    monkeypatch.setattr(train, "_step", real)
    with open(run / "events.jsonl", "a") as events:
        events.write('{"stage": "debug", "epoch": 0, "step": 1, "loss": 9}\n{"stage": "deb')
    again = replace(job(source, run), stages=runs.resumed(run, "dbsnet", source))
    train.train(again, quiet, resume=True)
    assert losses(run) == losses(tmp_path / "whole"), "rows that were not saved are cut"


def test_a_signal_in_the_last_step_of_a_stage_keeps_its_checkpoint(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = train._step

    def signalled(*arguments: object) -> float:
        loss = real(*arguments)  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGINT)
        return loss

    monkeypatch.setattr(train, "_step", signalled)
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train.train(job(source, run, "steps_per_epoch=1"), Reporter(quiet=True))
    assert (run / "checkpoints" / "debug.pt").is_file()


def test_two_runs_never_share_a_folder(source: Source, tmp_path: Path) -> None:
    quiet = Reporter(quiet=True)
    train.train(job(source, tmp_path / "run"), quiet)
    with pytest.raises(UsageError, match="Continue it with --resume"):
        train.train(job(source, tmp_path / "run"), quiet)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("x")
    with pytest.raises(UsageError, match="is there already"):
        train.train(job(source, tmp_path / "mine"), quiet)


def test_stages_of_different_networks_cannot_follow_each_other(
    source: Source, tmp_path: Path
) -> None:
    first, other = stages()[0], stages("network.dim=16")[0]
    both = replace(job(source, tmp_path / "r"), stages=(first, replace(other, name="second")))
    with pytest.raises(UsageError, match="second builds another network than stage debug"):
        train.train(both, Reporter(quiet=True))
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("data.size=[30, 30]", "32"),
        ('data.inputs=["img"]', "takes img, flow"),
        ("precision=fp16", "needs CUDA"),
        ("data.source=store", "no store"),
    ],
)
def test_a_run_that_cannot_start_leaves_nothing(
    source: Source, tmp_path: Path, key: str, words: str
) -> None:
    with pytest.raises(VsodpipeError, match=words):
        train.train(job(source, tmp_path / "r", key), Reporter(quiet=True))
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_frame_is_one_line_with_any_workers(
    source: Source, tmp_path: Path, workers: int
) -> None:
    frame = Path(source.root) / "TINY_train/ball/RGB/00002.jpg"
    frame.write_bytes(frame.read_bytes()[:-50])
    with pytest.raises(DataError) as error:
        broken = replace(job(source, tmp_path / "r", "epochs=3"), workers=workers)
        train.train(broken, Reporter(quiet=True))
    assert str(error.value).startswith(f"{frame}: damaged picture")
    assert "\n" not in str(error.value)


def test_stages_hand_their_weights_on(source: Source, tmp_path: Path) -> None:
    first = stages()[0]
    second = replace(first, name="second", optim=Optim(lr=1e-12, min_lr=0, weight_decay=0))
    both = replace(job(source, tmp_path / "run"), stages=(first, second))
    train.train(both, Reporter(quiet=True))
    before, after = (
        weights(tmp_path / "run" / "checkpoints" / f"{name}.pt") for name in ("debug", "second")
    )
    for name in ("debug", "second"):
        file = tmp_path / "run" / "checkpoints" / f"{name}.pt"
        assert checkpoint.read(file, "dbsnet").stage.name == name
    trained = [key for key in before if key.endswith(("weight", "bias"))]
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in trained)


def test_init_takes_the_weights_of_another_run(source: Source, tmp_path: Path) -> None:
    quiet = Reporter(quiet=True)
    first = train.train(job(source, tmp_path / "a"), quiet)
    still = job(source, tmp_path / "b", "optim.lr=1e-12", "optim.min_lr=0", "seed=5")
    second = train.train(replace(still, init=(tmp_path / "a",)), quiet)
    key = "heads.0.weight"
    key = key if key in weights(first) else next(k for k in weights(first) if "fwd" in k)
    assert torch.allclose(weights(first)[key], weights(second)[key], atol=1e-6)


def test_a_later_stage_needs_weights(source: Source, tmp_path: Path) -> None:
    chosen = recipes.choose("dbsnet", ["finetune"], SMALL, None)
    with pytest.raises(UsageError, match="continues from the weights of stage pretrain"):
        train.train(replace(job(source, tmp_path / "r"), stages=chosen), Reporter(quiet=True))
    assert not (tmp_path / "r").exists()


def test_the_chain_is_the_default_and_backbone_weights_go_to_its_start() -> None:
    chain = recipes.choose("dbsnet", [], [], "none")
    assert [s.name for s in chain] == ["pretrain", "finetune"]
    assert chain[0].network.backbone_weights is None
    published = recipes.choose("dbsnet", [], [], None)
    assert published[0].network.backbone_weights == "imagenet"
    with pytest.raises(UsageError, match="Did you mean finetune"):
        recipes.choose("dbsnet", ["finetun"], [], None)


def test_a_key_about_a_data_set_that_no_stage_has() -> None:
    with pytest.raises(UsageError, match="Did you mean data.frame_steps.DAVIS_train?"):
        recipes.choose("dbsnet", ["debug"], ["data.frame_steps.DAVIS_trian=[2]"], None)
    with pytest.raises(UsageError, match="data.anchor_stride.DAVIS'"):
        recipes.choose("dbsnet", [], ["data.anchor_stride.DAVIS=2"], None)
    # of another stage, or of the recipe though its data are replaced: nothing to refuse
    pretrain, finetune = recipes.choose(
        "dbsnet", [], ["data.anchor_stride.YouTubeVOS_train=3", 'data.datasets=["MINE"]'], None
    )
    assert pretrain.data.anchor_stride == finetune.data.anchor_stride == {"YouTubeVOS_train": 3}


def test_a_manifest_without_the_recipes_data(source: Source, tmp_path: Path) -> None:
    chosen = stages('data.datasets=["OTHER_train"]')
    words = (
        "needs one of OTHER_train.*holds TINY_train, TINY_test. "
        "Name your own: --set 'data.datasets=.\"TINY_train\".'"
    )
    with pytest.raises(DataError, match=words):
        train.train(replace(job(source, tmp_path / "r"), stages=chosen), Reporter(quiet=True))
    assert not (tmp_path / "r").exists()


def test_a_data_set_without_flow(data_root: Path, tmp_path: Path) -> None:
    quiet = Reporter(quiet=True)
    made = manifest.build([], data_root, tmp_path, quiet)["tiny"]
    bare = manifest.read(manifest.write(made, tmp_path, data_root)[0])
    with pytest.raises(DataError, match="Run: vsodpipe flow TINY_train, then vsodpipe manifest"):
        train.train(job(bare, tmp_path / "r"), quiet)


def test_a_last_frame_without_flow(data_root: Path, tmp_path: Path, source: Source) -> None:
    """`--tail none` leaves the last frame without flow: said before anything is written."""
    split = source.split("TINY_train")
    video = split.videos[1]
    frames = (*video.frames[:-1], replace(video.frames[-1], flow=None))
    videos = (split.videos[0], video.model_copy(update={"frames": frames}))
    bare = split.model_copy(
        update={"videos": videos, "flow": {**(split.flow or {}), "tail": "none"}}
    )
    changed = Source(
        source.manifest.model_copy(update={"datasets": (bare,)}), source.file, source.root
    )
    with pytest.raises(DataError, match="frame 00003 has no flow .tail none.*--tail backward"):
        train.train(job(changed, tmp_path / "r"), Reporter(quiet=True))
    assert not (tmp_path / "r").exists()


def test_a_loss_that_is_no_number_stops(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = models.load("dbsnet")
    real = module.loss
    monkeypatch.setattr(module, "loss", lambda *given: real(*given) * float("nan"))
    with pytest.raises(VsodpipeError, match="the loss is nan on TINY_train/"):
        train.train(job(source, tmp_path / "r"), Reporter(quiet=True))


def test_resume_refuses_another_manifest_or_model(source: Source, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train.train(job(source, run), Reporter(quiet=True))
    with pytest.raises(DataError, match="is a run of dbsnet, expected other"):
        runs.resumed(run, "other", source)
    source.file.write_text(source.file.read_text() + "\n")
    with pytest.raises(DataError, match="is not the manifest"):
        runs.resumed(run, "dbsnet", manifest.read(source.file))
    with pytest.raises(DataError, match="no run folder"):
        runs.resumed(tmp_path, "dbsnet", source)


@pytest.mark.parametrize("name", ["run.json", "recipe.toml"])
@pytest.mark.parametrize("text", ["", "{", "[[", "{}", "[]"])
def test_a_damaged_run_folder_is_named(
    source: Source, tmp_path: Path, name: str, text: str
) -> None:
    train.train(job(source, tmp_path / "run", "steps_per_epoch=1"), Reporter(quiet=True))
    (tmp_path / "run" / name).write_text(text)
    with pytest.raises(DataError, match="run"):
        runs.resumed(tmp_path / "run", "dbsnet", source)


@pytest.fixture
def saved(source: Source, tmp_path: Path) -> Path:
    return train.train(job(source, tmp_path / "run"), Reporter(quiet=True))


def test_checkpoints_of_other_networks_are_refused(saved: Path, tmp_path: Path) -> None:
    content = torch.load(saved, weights_only=True)
    bad = tmp_path / "bad.pt"

    def refuse(words: str) -> None:
        with pytest.raises(WeightsError, match=words) as error:
            checkpoint.build(checkpoint.read(bad, "dbsnet"))
        assert str(bad) in str(error.value)

    torch.save({**content, "model": "ianet"}, bad)
    refuse("holds weights of ianet, expected dbsnet")
    torch.save({**content, "version": 99}, bad)
    refuse("checkpoint version 99")
    torch.save(content["state_dict"], bad)
    refuse("a bare state dict of")
    torch.save([1, 2], bad)
    refuse("a list")
    bad.write_bytes(b"junk")
    refuse("not a checkpoint of plain tensors, or damaged")
    bad.write_bytes(saved.read_bytes()[:5000])
    refuse("not a checkpoint of plain tensors, or damaged")
    state = dict(content["state_dict"])
    state["more"] = state.pop(next(iter(state)))
    torch.save({**content, "state_dict": state}, bad)
    refuse("1 tensors missing, 1 not known")
    with pytest.raises(WeightsError, match="no such checkpoint"):
        checkpoint.read(tmp_path / "none.pt", "dbsnet")
    with pytest.raises(WeightsError, match="no run folder"):
        checkpoint.read(tmp_path, "dbsnet")


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "executed",)

    torch.save({"format": "vsodpipe-checkpoint", "x": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(WeightsError):
        checkpoint.read(tmp_path / "trap.pt", "dbsnet")
    assert not (tmp_path / "executed").exists()
