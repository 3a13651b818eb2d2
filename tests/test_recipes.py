"""What the published recipes ask of the training loop, on tiny data and slim networks."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fill import small
from vsodpipe import (
    checkpoint,
    feed,
    handover,
    infer,
    manifest,
    models,
    optimisers,
    runs,
    sampling,
    stream,
    train,
    transforms,
)
from vsodpipe import stages as recipes
from vsodpipe.errors import DataError, UsageError
from vsodpipe.manifest import Source
from vsodpipe.models import smcf
from vsodpipe.progress import Reporter
from vsodpipe.recipe import Data, Stage

Run = Callable[..., tuple[int, str, str]]
SLIM = [
    'data.datasets=["TINY_train"]',
    "data.size=[64, 64]",
    "network.width=8",
    "epochs=2",
    "steps_per_epoch=1",
    "batch=2",
]


def stages(model: str, *assignments: str) -> tuple[Stage, ...]:
    return recipes.choose(model, [], [*SLIM, *assignments], "none")


def job(model: str, source: Source, run: Path, *assignments: str) -> runs.Job:
    return runs.Job(model, source, stages(model, *assignments), run, "cpu", 0)


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(row) for row in (run / "events.jsonl").read_text().splitlines()]


def weights(model: str, file: Path) -> dict[str, Tensor]:
    return checkpoint.read(file, model).state_dict


def test_the_chain_of_smcf_joins_its_pretrainings(source: Source, tmp_path: Path) -> None:
    """Finetuning at (almost) no rate keeps what it began with, statistics of batch norm apart."""
    run, quiet = tmp_path / "run", Reporter(quiet=True)
    given = job("smcf", source, run, "network.group=2", "epochs=1", "optim.lr=1e-12")
    last = weights("smcf", train.train(given, quiet))
    rgb, flow = (weights("smcf", run / "checkpoints" / f"pretrain_{n}.pt") for n in ("rgb", "flow"))
    for key in ("rgb.conv1.weight", "flow.conv1.weight", "csf.1.mix.1.0.0.weight"):
        assert torch.allclose(rgb[key], flow[key], atol=1e-9), "the same seed, both from scratch"
    assert not torch.equal(rgb["rgb.bn1.running_mean"], flow["rgb.bn1.running_mean"])
    assert torch.allclose(last["rgb.conv1.weight"], rgb["rgb.conv1.weight"], atol=1e-9)
    assert [row["stage"] for row in rows(run)] == [stage.name for stage in given.stages]
    assert int(last["rgb.bn1.num_batches_tracked"]) == 2 * 3, "three sizes, one step each"
    with pytest.raises(UsageError, match="transfer"):
        train.train(job("smcf", source, tmp_path / "b", "transfer=all"), quiet)
    assert not (tmp_path / "b").exists()


def test_the_stages_begin_with_the_right_weights(source: Source, tmp_path: Path) -> None:
    """The hand-over itself, with weights that tell the stages apart."""
    run = job("smcf", source, tmp_path / "run", "network.group=2")
    torch.manual_seed(run.stages[1].seed)
    network = models.load("smcf").build(run.stages[1].network)
    origin = {key: value.clone() for key, value in network.state_dict().items()}
    for stage, value in zip(run.stages[:2], (1.0, 2.0), strict=True):
        for tensor in network.state_dict().values():
            tensor.fill_(value)
        file = run.last.with_name(f"{stage.name}.pt")
        checkpoint.save(file, "smcf", stage, network, {}, {})
    begun = handover.begin(run, 1, network.state_dict()).state_dict()
    assert all(torch.equal(value, origin[k]) for k, value in begun.items())
    for key, value in handover.begin(run, 2, None).state_dict().items():
        assert bool((value == (1 if key.startswith("rgb.") else 2)).all()), key
    alone = replace(run, stages=run.stages[2:], run=tmp_path / "other", init=(run.run,))
    pair = [run.last.with_name(f"{stage.name}.pt") for stage in run.stages[:2]]
    apart = replace(alone, init=tuple(pair))
    begun = handover.begin(apart, 0, None).state_dict()
    assert runs.initial_files(alone) == pair == runs.initial_files(apart)
    for key, value in begun.items():
        assert bool((value == (1 if key.startswith("rgb.") else 2)).all()), key
    for wrong in (tuple(pair[::-1]), (pair[1],)):
        with pytest.raises(UsageError, match="holds weights of stage pretrain_flow, .* in this"):
            handover.begin(replace(alone, init=wrong), 0, None)
    with pytest.raises(UsageError, match="named 3 times, but stage finetune joins"):
        handover.begin(replace(alone, init=(*pair, pair[0])), 0, None)
    changed = replace(alone.stages[0], transfer="published")
    begun = handover.begin(replace(alone, stages=(changed,)), 0, None).state_dict()
    assert all(bool((value == 1).all()) for value in begun.values())


def test_still_images_train_ianet_with_zero_flow(
    data_root: Path, tmp_path: Path, vsodpipe: Run
) -> None:
    quiet = Reporter(quiet=True)
    made = manifest.build([], data_root, tmp_path, quiet)["tiny"]
    bare = manifest.read(manifest.write(made, tmp_path, data_root)[0])
    given = job("ianet", bare, tmp_path / "run", "optim.step_epochs=[1]")
    data = feed.choose(given.stages[0], bare)
    clips = feed.clips(given.stages[0], data, given, given.ranks, quiet)
    sample = stream.fed("ianet", next(stream.loader(clips, epoch=0, start=0, workers=0)))
    assert sample["flow"].shape == sample["img"].shape == (2, 3, 64, 64)
    assert not sample["flow"].any() and sample["valid"].shape == (2,)
    train.train(given, quiet)
    assert [row["lr"] for row in rows(tmp_path / "run")] == pytest.approx([5e-3, 5e-4])
    out = vsodpipe("test", "ianet", "--checkpoint", "run", "--manifest", bare.file)
    assert out[0] == 0 and len(list((tmp_path / "run" / "maps").rglob("*.png"))) == 5
    with pytest.raises(DataError, match="has no flow"):
        train.train(job("ianet", bare, tmp_path / "b", "data.without_flow=refuse"), quiet)


def test_smcf_predicts_groups_of_neighbours(
    source: Source, tmp_path: Path, vsodpipe: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short last group is filled with the frames before it: every frame has a map."""
    stage = models.stages("smcf")["debug"]
    checkpoint.save(tmp_path / "x.pt", "smcf", stage, small("smcf")[0], {}, {})
    seen: list[int] = []
    real = smcf.SMCF.forward

    def watched(self: smcf.SMCF, img: Tensor, flow: Tensor) -> dict[str, Tensor]:
        seen.append(len(img))
        return real(self, img, flow)

    monkeypatch.setattr(smcf.SMCF, "forward", watched)
    files = ("--checkpoint", "x.pt", "--manifest", source.file, "--out", "maps")
    assert vsodpipe("test", "smcf", *files)[0] == 0
    assert seen == [2, 2, 2] and len(list((tmp_path / "maps").rglob("*.png"))) == 5


@pytest.mark.parametrize(("count", "groups"), [(1, 1), (4, 1), (5, 1), (6, 2), (11, 3)])
def test_groups_of_smcf_cover_a_video(count: int, groups: int) -> None:
    """In training and in prediction: within the video, every frame, the last group by overlap."""
    data = models.stages("smcf")["finetune"].data
    assert data.sample == "group" and data.clip == data.predict_frames == 5
    annotated = [True] * count
    starts = sampling.group_starts(annotated, data.clip)
    made = [sampling.group(annotated, start, data.clip) for start in starts]
    assert len(made) == groups and all(len(group.frames) == 5 for group in made)
    real = [f for g in made for f, valid in zip(g.frames, g.valid, strict=True) if valid]
    assert set(real) == set(range(count)) and len(real) == min(count, 5) * groups
    predicted = sampling.windows(count, infer.group_length(data))
    assert [list(g) for g in predicted] == [list(dict.fromkeys(g.frames)) for g in made]


def test_optimisers_of_the_recipes() -> None:
    with torch.device("meta"):
        network = models.load("ianet").build(models.load("ianet").Options())
    optimiser = optimisers.make(network, models.stages("ianet")["train"].optim)
    assert isinstance(optimiser, torch.optim.SGD)
    rest, slow = sorted(optimiser.param_groups, key=lambda group: -group["factor"])
    assert (rest["factor"], slow["factor"]) == (1.0, 0.1) and rest["nesterov"]
    assert rest["weight_decay"] == slow["weight_decay"] == 5e-4, "on biases and norms, too"
    # the published groups have the dead parameters beside these
    assert sum(p.numel() for p in slow["params"]) == 53_194_882 - 1_180_929
    assert sum(p.numel() for p in rest["params"]) == 53_747_172 - 28_830


@pytest.mark.parametrize(
    ("model", "head", "near"),
    [
        ("ianet", "side6", "side"),
        ("smcf", "pred_s", "pred_e"),
        ("dpa", "side1", "side"),
        ("midnet", "score2", "score1"),
        ("a2s", "bondary", "boundary"),
    ],
)
def test_unknown_heads_are_refused_before_data_is_read(
    vsodpipe: Run, source: Source, tmp_path: Path, model: str, head: str, near: str
) -> None:
    file = next(Path(source.root).rglob("*.jpg"))
    file.write_bytes(b"no picture")  # would be an error of its own
    given = ("--manifest", source.file, "--run", tmp_path / "r", "--device", "cpu")
    code, out, err = vsodpipe("train", model, *given, "--set", f"loss_weights.{head}=0.4")
    line = " ".join(err.split())
    assert (code, out) == (2, "") and line.startswith("error: unknown recipe key")
    assert f"loss_weights.{head}'. Did you mean loss_weights.{near}" in line
    assert not (tmp_path / "r").exists()


def test_flow_pictures_are_normalised_where_the_recipe_says_so() -> None:
    clip = {key: torch.full((1, 3, 2, 2), 255, dtype=torch.uint8) for key in ("img", "flow")}
    data = Data(datasets=(), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    plain = transforms.to_float(clip, data)
    both = transforms.to_float(clip, replace(data, normalise_flow=True))
    assert plain["img"].unique().item() == both["flow"].unique().item() == 2
    assert plain["flow"].unique().item() == 1
