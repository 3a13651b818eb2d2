"""The training loop on a network of two convolutions: resume, processes, averages, best weights."""

import itertools
import json
import os
import subprocess
import sys
import tomllib
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vsodpipe import checkpoint, feed, learner, loggers, models, runs, stages, train, validate
from vsodpipe.errors import DataError, UsageError, VsodpipeError
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter
from vsodpipe.ranks import Ranks
from vsodpipe.recipe import Stage

Run = Callable[..., tuple[int, str, str]]
EXTRA = Path(__file__).parent / "extra_models"
QUIET = Reporter(quiet=True)


@pytest.fixture(autouse=True)
def plainnet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(EXTRA)])
    yield
    sys.modules.pop("vsodpipe.models.plainnet", None)


def chosen(*assignments: str, names: tuple[str, ...] = ()) -> tuple[Stage, ...]:
    return stages.choose("plainnet", list(names), list(assignments), None)


def job(source: Source, run: Path, *assignments: str, **options: Any) -> runs.Job:
    names = options.pop("names", ())
    found = chosen(*assignments, names=names)
    return replace(runs.Job("plainnet", source, found, run, "cpu", 0), **options)


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(row) for row in (run / "events.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in rows(run) if "loss" in row]


def weights(file: Path) -> dict[str, Tensor]:
    return checkpoint.read(file, "plainnet").state_dict


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


EVERYTHING = (
    "network.drop=0.5",
    "ema=0.5",
    "accumulate=2",
    "scales=[1.0, 2.0]",
    "scale_rule=draw",
    "optim.warmup_steps=2",
    "validate.split=TINY_test",
)


def test_a_run_killed_at_any_step_continues_as_if_it_had_not_been(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses, weights, averages, optimiser and best score, step for step; with other workers."""
    monkeypatch.setattr(train, "SAVE_SECONDS", 0.0)
    whole = train.train(job(source, tmp_path / "whole", *EVERYTHING), QUIET)
    real, real_scores = train._step, validate.scores
    for kill in (0, 1, 3, 4):  # steps; at 4 it is the first validation
        taken: list[int] = []

        def step(*given: Any, kill: int = kill, taken: list[int] = taken) -> float:
            if len(taken) == kill:
                raise KeyboardInterrupt
            taken.append(1)
            return real(*given)

        def scores(*given: Any, kill: int = kill) -> dict[str, float]:
            if kill == 4:
                raise KeyboardInterrupt
            return real_scores(*given)

        monkeypatch.setattr(train, "_step", step)
        monkeypatch.setattr(validate, "scores", scores)
        run = tmp_path / f"killed{kill}"
        with pytest.raises(KeyboardInterrupt):
            train.train(job(source, run, *EVERYTHING), QUIET)
        monkeypatch.setattr(train, "_step", real)
        monkeypatch.setattr(validate, "scores", real_scores)
        found = runs.resumed(run, "plainnet", source)
        again = replace(job(source, run), stages=found, workers=2 if kill == 1 else 0)
        last = train.train(again, QUIET, resume=True)
        assert losses(run) == losses(tmp_path / "whole")
        assert [r.get("proxy") for r in rows(run)] == [
            r.get("proxy") for r in rows(tmp_path / "whole")
        ]
        for name in ("last.pt", "debug.pt", "debug-best.pt", "best.pt"):
            a, b = (checkpoint.read(f.with_name(name), "plainnet") for f in (last, whole))
            assert equal(a.state_dict, b.state_dict) and equal(a.training, b.training)


def test_a_run_in_use_is_not_continued(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that a scheduler started twice: the second one touches nothing."""
    run, real = tmp_path / "run", train._step
    second = job(source, run)
    told = []

    def step(*given: Any) -> float:
        before = (run / "checkpoints/last.pt").read_bytes()
        with pytest.raises(UsageError, match="run: process [0-9]+ is training in it"):
            train.train(second, QUIET, resume=True)
        told.append((run / "checkpoints/last.pt").read_bytes() == before)
        monkeypatch.setattr(train, "_step", real)
        return real(*given)

    monkeypatch.setattr(train, "_step", step)
    train.train(job(source, run), QUIET)
    assert told == [True] and len(losses(run)) == 4
    train.train(second, QUIET, resume=True)  # finished, and free again


def test_everything_to_continue_is_in_a_save_in_mid_epoch(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "SAVE_SECONDS", 0.0)
    saved: list[dict[str, Any]] = []
    real = checkpoint.save

    def save(file: Path, *given: Any) -> None:
        saved.append(given[3])
        real(file, *given)

    monkeypatch.setattr(checkpoint, "save", save)
    train.train(job(source, tmp_path / "run", "ema=0.9", "epochs=1"), QUIET)
    assert [s["position"] for s in saved] == [
        {"stage": 0, "epoch": 0, "step": 0},
        {"stage": 0, "epoch": 0, "step": 1},
        {"stage": 1, "epoch": 0, "step": 0},
    ]
    assert len(saved[1]["optimiser"]["state"]) == 4 and saved[1]["raw"].keys()


def test_parts_of_a_batch_add_up_to_it(source: Source, tmp_path: Path) -> None:
    one = train.train(job(source, tmp_path / "one"), QUIET)
    two = train.train(job(source, tmp_path / "two", "accumulate=2"), QUIET)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-6)
    for key, value in weights(one).items():
        assert torch.allclose(value, weights(two)[key], atol=1e-5)
    batch = {"key": ["a", "b", "c"], "gt": torch.arange(3)}
    found = feed.parts(batch, 2)
    assert [(round(share, 3), part["key"]) for share, part in found] == [
        (0.667, ["a", "b"]),
        (0.333, ["c"]),
    ]


def test_the_average_is_what_a_run_delivers(source: Source, tmp_path: Path) -> None:
    """Two steps: the average of decay 1/2 is 1/4 first + 1/4 second + 1/2 third weights."""
    plain = job(source, tmp_path / "a", "epochs=1")
    seen: list[dict[str, Tensor]] = []
    real = train._step

    def step(job: Any, state: Any, *given: Any) -> float:
        seen.append({k: v.clone() for k, v in state.network.state_dict().items()})
        return real(job, state, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_step", step)
        last = train.train(plain, QUIET)
    averaged = train.train(job(source, tmp_path / "b", "epochs=1", "ema=0.5"), QUIET)
    for key, value in weights(averaged).items():
        expected = 0.25 * seen[0][key] + 0.25 * seen[1][key] + 0.5 * weights(last)[key]
        assert torch.allclose(value, expected, atol=1e-6)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


@pytest.mark.parametrize("metric", ["j", "mae"])
def test_best_weights_by_the_recipes_rule(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str
) -> None:
    values = iter([0.3, 0.1, 0.5, 0.4])
    monkeypatch.setattr(validate, "scores", lambda *_: {metric: next(values)})
    said: list[str] = []
    reporter = Reporter(quiet=True)
    reporter.say = said.append  # type: ignore[method-assign]
    rule = ("validate.split=TINY_test", f"validate.metric={metric}", "epochs=7", "validate.every=2")
    train.train(job(source, tmp_path / "r", *rule), reporter)
    proxies = [(r["epoch"], r["proxy"][metric]) for r in rows(tmp_path / "r") if "proxy" in r]
    assert proxies == [(1, 0.3), (3, 0.1), (5, 0.5), (6, 0.4)], "every second one, and the last"
    best = checkpoint.read(tmp_path / "r/checkpoints/best.pt", "plainnet")
    assert best.training["epoch"] == {"j": 5, "mae": 3}[metric]
    assert "best.pt is chosen on TINY_test (test data: its scores are no longer a test)" in said[1]
    assert sum("best so far" in line for line in said) == 2
    assert all("proxy" in line for line in said[2:6])


def test_scores_are_those_of_the_maps(source: Source, tmp_path: Path, vsodpipe: Run) -> None:
    last = train.train(job(source, tmp_path / "run", "validate.split=TINY_test"), QUIET)
    found = rows(tmp_path / "run")[-1]["proxy"]
    made = ("--checkpoint", last, "--manifest", source.file, "--out", tmp_path / "maps")
    assert vsodpipe("test", "plainnet", *made)[0] == 0
    scored = vsodpipe(
        "eval", tmp_path / "maps", "--manifest", source.file, "--frames", "all", "--json"
    )
    (method,) = json.loads(scored[1])["methods"].values()
    total = method["datasets"]["TINY_test"]["total"]
    assert found["j"] == pytest.approx(total["j_mean"])
    assert found["s"] == pytest.approx(total["s_measure"])
    assert found["mae"] == pytest.approx(total["mae"])


def test_every_frame_is_scored_once_on_any_device(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames are scored a few at a time; the batched metrics of CUDA give the same numbers."""
    real, sizes = validate.frames_scores, []

    def both(pairs: list[validate.Pair], device: str) -> list[Any]:
        with pytest.MonkeyPatch.context() as patch:
            cast = Tensor.to  # to a type; the device is the CPU
            patch.setattr(Tensor, "to", lambda t, *to, **named: t if to else cast(t, **named))
            batched = real(pairs, "cuda:0")
        found = real(pairs, device)
        for a, b in zip(batched, found, strict=True):
            assert all(getattr(a, n) == pytest.approx(getattr(b, n)) for n in validate.SCORES)
            assert a.f_weighted is b.f_weighted is None, "slow, and never shown"
        sizes.append(len(pairs))
        return found

    monkeypatch.setattr(validate, "TOGETHER", 2)
    monkeypatch.setattr(validate, "frames_scores", both)
    train.train(job(source, tmp_path / "run", "validate.split=TINY_test", "epochs=1"), QUIET)
    masks = [sum(f.gt is not None for f in v.frames) for v in source.split("TINY_test").videos]
    assert sum(sizes) == sum(masks) and max(sizes) == 2


def test_held_out_videos_are_not_trained_on(source: Source, tmp_path: Path) -> None:
    held = ("validate.split=train", "batch=2")
    stage = chosen(*held)[0]
    data = feed.choose(stage, source)
    kept = [video.name for video in data.training.split("TINY_train").videos]
    out = [video.name for split in data.validation for video in split.videos]
    assert sorted(kept + out) == ["ball", "cube"] and len(out) == 1
    assert [v.name for v in feed.choose(stage, source).validation[0].videos] == out
    train.train(job(source, tmp_path / "r", *held), QUIET)
    note = json.loads((tmp_path / "r/run.json").read_text())
    assert note["best_chosen_on"] == {"debug": {"TINY_train": out}}
    with pytest.raises(UsageError, match="needs data.source=files"):
        feed.choose(chosen("validate.split=train", "data.source=store")[0], source)
    with pytest.raises(UsageError, match="Did you mean TINY_test"):
        feed.choose(chosen("validate.split=TINY_tset")[0], source)


def test_strict_data(source: Source) -> None:
    both = chosen('data.datasets=["TINY_train", "OTHER_train"]')[0]
    assert feed.choose(both, source).lacking == ("OTHER_train",)
    with pytest.raises(DataError, match="needs all of OTHER_train; the manifest holds TINY_train"):
        feed.choose(both, source, strict=True)


def test_stages_hand_weights_on_by_a_function_of_the_model(source: Source, tmp_path: Path) -> None:
    still = ("optim.lr=1e-12", "optim.min_lr=0", "epochs=1")
    run = job(source, tmp_path / "r", *still, names=("debug", "other", "wide"))
    last = weights(train.train(run, QUIET))
    first, second = (weights(tmp_path / f"r/checkpoints/{n}.pt") for n in ("debug", "other"))
    assert not torch.equal(first["body.weight"], second["body.weight"]), "other begins anew"
    assert torch.allclose(last["body.weight"][:4], first["body.weight"])
    assert torch.allclose(last["body.weight"][4:8], second["body.weight"])
    assert last["body.weight"].shape[0] == 10
    steps = [row["stage"] for row in rows(tmp_path / "r")]
    assert steps == ["debug"] * 2 + ["other"] * 2 + ["wide"] * 2
    alone = job(source, tmp_path / "s", *still, names=("wide",), init=(tmp_path / "r",))
    again = weights(train.train(alone, QUIET))
    assert torch.allclose(again["body.weight"], last["body.weight"])
    with pytest.raises(UsageError, match="Did you mean widen"):
        train.train(job(source, tmp_path / "t", "transfer=wden", names=("wide",)), QUIET)
    assert not (tmp_path / "t").exists()


def test_a_resumed_chain_hands_on_as_well(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the first step of the third stage: last.pt is still of the second."""
    names = ("debug", "other", "wide")
    whole = train.train(job(source, tmp_path / "whole", "epochs=1", names=names), QUIET)
    real = train._step

    def step(job: Any, state: Any, *given: Any) -> float:
        if state.stage.name == "wide":
            raise KeyboardInterrupt
        return real(job, state, *given)

    monkeypatch.setattr(train, "_step", step)
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train.train(job(source, run, "epochs=1", names=names), QUIET)
    monkeypatch.setattr(train, "_step", real)
    again = replace(job(source, run), stages=runs.resumed(run, "plainnet", source))
    assert equal(weights(train.train(again, QUIET, resume=True)), weights(whole))


def test_the_batch_of_a_loss_that_is_no_number_is_kept(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = models.load("plainnet")
    monkeypatch.setattr(module, "loss", lambda logits, *_: logits["saliency"].sum() * torch.inf)
    with pytest.raises(VsodpipeError, match="the loss is .*inf on TINY_train/.*bad_batch.json"):
        train.train(job(source, tmp_path / "r"), QUIET)
    note = json.loads((tmp_path / "r/bad_batch.json").read_text())
    assert len(note["keys"]) == 4 and note["keys"][0].startswith("TINY_train/")
    assert (note["stage"], note["epoch"], note["step"]) == ("debug", 0, 0)
    kept = weights(tmp_path / "r")
    assert all(bool(value.isfinite().all()) for value in kept.values())


@pytest.mark.parametrize(
    ("precision", "bad", "remedy"),
    [
        ("fp32", 0, "No step was taken before: look at these frames"),
        ("fp32", 2, r"lower rate, such as --set optim.lr=\S+; --stage debug --init \S+/r goes on"),
        ("bf16", 0, r"optim.lr=\S+, or with --set precision=fp32; --stage debug --init"),
    ],
)
def test_the_remedy_for_a_loss_that_is_no_number(
    source: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    bad: int,
    remedy: str,
) -> None:
    """A rate is to blame only where a step was taken, and float32 is no advice to float32."""
    module, calls = models.load("plainnet"), itertools.count()
    real = module.loss
    monkeypatch.setattr(
        module, "loss", lambda *given: real(*given) * (torch.nan if next(calls) == bad else 1)
    )
    with pytest.raises(VsodpipeError, match=remedy):
        train.train(job(source, tmp_path / "r", f"precision={precision}"), QUIET)


def test_weights_that_are_no_numbers_are_not_saved(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss that is a number may have a gradient that is none, in the last step, too."""
    module = models.load("plainnet")
    monkeypatch.setattr(module, "loss", lambda logits, *_: (0 * logits["saliency"]).sum().sqrt())
    with pytest.raises(VsodpipeError, match="weights are no longer numbers.*lower rate"):
        train.train(job(source, tmp_path / "r", "epochs=1", "steps_per_epoch=1"), QUIET)
    assert all(bool(value.isfinite().all()) for value in weights(tmp_path / "r").values())
    assert not (tmp_path / "r/checkpoints/debug.pt").exists()


def test_an_objective_replaces_forward_and_loss(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As A2S needs it: several views, a weight that grows with the epochs, random numbers."""
    seen: list[tuple[int, float]] = []

    def objective(network: Any, sample: Any, stage: Stage, epoch: int) -> Tensor:
        seen.append((epoch, float(torch.rand(()))))
        logits = network(sample["img"], sample["flow"])["saliency"]
        return (epoch + 1) * logits.square().mean()

    monkeypatch.setattr(models.load("plainnet"), "objective", objective, raising=False)
    train.train(job(source, tmp_path / "a"), QUIET)
    first = list(seen)
    train.train(job(source, tmp_path / "b"), QUIET)
    assert [epoch for epoch, _ in first] == [0, 0, 1, 1] and len({d for _, d in first}) == 4
    assert seen[4:] == first, "drawn by seed, epoch and step"


def test_loss_weights_clipping_and_unknown_heads(source: Source, tmp_path: Path) -> None:
    one = ("epochs=1", "steps_per_epoch=1", "optim.kind=sgd", "optim.momentum=0")
    free = ("optim.weight_decay=0", "optim.lr=1", "optim.clip_norm=0")
    train.train(job(source, tmp_path / "a", *one), QUIET)
    train.train(job(source, tmp_path / "b", *one, "loss_weights.saliency=2"), QUIET)
    assert losses(tmp_path / "b")[0] == pytest.approx(2 * losses(tmp_path / "a")[0])
    cut = job(source, tmp_path / "c", *one, *free, "optim.clip_value=1e-4")
    start = models.load("plainnet").build(cut.stages[0].network)
    torch.manual_seed(0)
    start = models.load("plainnet").build(cut.stages[0].network)
    moved = weights(train.train(cut, QUIET))
    most = max(float((moved[k] - v).abs().max()) for k, v in start.state_dict().items())
    assert most == pytest.approx(1e-4, rel=1e-2)
    with pytest.raises(UsageError, match="Did you mean loss_weights.saliency"):
        train.train(job(source, tmp_path / "d", "loss_weights.salience=2"), QUIET)


class Fake(types.SimpleNamespace):
    """Stands in for wandb and mlflow: every call is kept."""


def fakes() -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    calls: list[tuple[str, Any]] = []

    def kept(name: str, result: Any = None) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            calls.append((name, (given, named)))
            return result

        return call

    run = Fake(log=kept("wandb.log"), finish=kept("wandb.finish"))
    wandb = Fake(init=kept("wandb.init", run), Image=lambda picture: picture)
    started = Fake(info=Fake(run_id="abc"))
    names = ("set_experiment", "log_dict", "log_metrics", "log_image", "end_run")
    mlflow = Fake(**{name: kept(f"mlflow.{name}") for name in names})
    mlflow.start_run = kept("mlflow.start_run", started)
    return {"wandb": wandb, "mlflow": mlflow}, calls


def test_curves_and_pictures_go_to_the_loggers(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules, calls = fakes()
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    names = ("debug", "other")
    split = "validate.split=TINY_test"
    run = job(source, tmp_path / "r", split, names=names, logs=("wandb", "mlflow"))
    train.train(run, QUIET)
    count = {name: sum(n == name for n, _ in calls) for name, _ in calls}
    assert count["mlflow.log_metrics"] == 8 + 4 and count["mlflow.log_image"] == 4 * 2
    assert count["wandb.log"] == 12 + 8 and count["wandb.finish"] == count["mlflow.end_run"] == 1
    steps = [named["step"] for name, (_, named) in calls if name == "mlflow.log_metrics"]
    assert steps == sorted(steps) and steps[-1] == 7, "the steps of a run go on over its stages"
    values = next(given[0] for name, (given, _) in calls if name == "mlflow.log_metrics")
    assert values["loss"] == losses(tmp_path / "r")[0] and values["lr"] == 1e-2
    picture = next(given[0] for name, (given, _) in calls if name == "mlflow.log_image")
    assert picture.shape == (32, 96, 3) and picture.dtype == np.uint8
    assert set(np.unique(picture[:, 32:64])) == {0, 255}, "frame, mask, map"
    assert (tmp_path / "r/mlflow.txt").read_text() == "abc"


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with loggers.opened(["tensorboard"], tmp_path, {}) as log:
        log.numbers(3, {"loss": 0.5})
        log.picture(3, "TINY_train/ball", np.zeros((4, 12, 3), np.uint8))
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(3, 0.5)]
    (image,) = found.Images("TINY_train/ball")
    assert (image.height, image.width, image.step) == (4, 12, 3)


def test_loggers_that_are_not_there_are_named(source: Source, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'pip install "vsodpipe\[wandb\]"'):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "wandb", None)
            train.train(job(source, tmp_path / "r", logs=("wandb",)), QUIET)
    assert not (tmp_path / "r").exists()
    with pytest.raises(UsageError, match="Did you mean mlflow"):
        loggers.check(["mlfow"])


def test_batch_norm_over_processes_needs_a_gpu() -> None:
    stage = chosen("sync_bn=true")[0]
    network = models.load("plainnet").build(stage.network)
    with pytest.raises(UsageError, match="sync_bn: needs CUDA"):
        learner.start(network, stage, "cpu", Ranks(0, 2))
    assert learner.start(network, stage, "cpu", Ranks()).network is network


def test_compile_is_asked_for(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(
        torch, "compile", lambda network: compiled.append(type(network).__name__) or network
    )
    train.train(job(source, tmp_path / "r", "epochs=1", compiled=True), QUIET)
    assert compiled == ["Plain"]


@pytest.mark.skipif(os.environ.get("FAULTS") != "long", reason="compiles: FAULTS=long")
def test_a_compiled_network_trains_alike(source: Source, tmp_path: Path) -> None:
    train.train(job(source, tmp_path / "plain", "epochs=2"), QUIET)
    train.train(job(source, tmp_path / "compiled", "epochs=2", compiled=True), QUIET)
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), abs=1e-5)
    plain, compiled = (
        weights(tmp_path / f"{n}/checkpoints/last.pt") for n in ("plain", "compiled")
    )
    assert plain.keys() == compiled.keys(), "a compiled run is read like any other"
    for key, value in plain.items():
        torch.testing.assert_close(compiled[key], value, atol=1e-5, rtol=1e-4)


def test_a_printed_recipe_trains(source: Source, tmp_path: Path, vsodpipe: Run) -> None:
    code, printed, _ = vsodpipe("recipe", "plainnet", "--stage", "debug", "--set", "epochs=1")
    assert code == 0 and tomllib.loads(printed)["debug"]["epochs"] == 1
    assert "# Passes over the data." in printed
    (tmp_path / "mine.toml").write_text(printed.replace("[debug", "[mine"))
    call = ("train", "plainnet", "--manifest", source.file, "--recipe", "mine.toml", "--run", "r")
    assert vsodpipe(*call)[0] == 0
    (found,) = runs.resumed(tmp_path / "r", "plainnet", source)
    assert found == replace(chosen("epochs=1")[0], name="mine")
    for text, words in (
        ("[debug]\nepoch = 3\n", "Did you mean epochs"),
        ("[debug.optim]\nlr = 'fast'\n", "debug.toml: recipe key optim.lr: expected float"),
        ("[own]\nepochs = 3\n", "recipe key data is missing"),
        ("epochs = 3\n", "expected one table a stage"),
        ("[", "no TOML file"),
    ):
        (tmp_path / "debug.toml").write_text(text)
        code, _, err = vsodpipe("recipe", "plainnet", "--recipe", "debug.toml")
        assert code == 2 and words in err, err


def test_two_processes_train_as_one(source: Source, tmp_path: Path) -> None:
    """torchrun with gloo: the same batch shared by two gives the losses and weights of one."""
    script = tmp_path / "script.py"
    script.write_text(
        f"from vsodpipe import cli, models\nmodels.__path__.append({str(EXTRA)!r})\ncli.main()\n"
    )
    settings = ("accumulate=2", "optim.kind=sgd", "validate.split=TINY_test")
    arguments = [part for key in settings for part in ("--set", key)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "--", str(script), "train", "plainnet"]
    command += ["--manifest", str(source.file), "--run", str(tmp_path / "two"), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("trains on TINY_train") == 1, "only the first process speaks"
    one = train.train(job(source, tmp_path / "one", *settings), QUIET)
    assert len(losses(tmp_path / "two")) == 4, "only the first process writes"
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-6)
    two = weights(tmp_path / "two/checkpoints/last.pt")
    assert all(torch.allclose(v, two[k], atol=1e-5) for k, v in weights(one).items())
    proxies = [[r["proxy"] for r in rows(tmp_path / n) if "proxy" in r] for n in ("one", "two")]
    for a, b in zip(*proxies, strict=True):
        assert a == pytest.approx(b, abs=1e-3)
    assert json.loads((tmp_path / "two/run.json").read_text())["processes"] == 2
