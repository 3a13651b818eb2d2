"""Optimisers, parameter groups and schedules of recipes; sizes of a step."""

import pytest
import torch
from torch import nn

from vsodpipe import optimisers, recipe, scales
from vsodpipe.errors import UsageError
from vsodpipe.recipe import Data, Group, Optim, Stage


def rates(options: Optim, total: int, per_epoch: int = 1) -> list[float]:
    return [optimisers.rate_of(options, step, total, step // per_epoch) for step in range(total)]


def test_schedules() -> None:
    def of(kind: str, **more: object) -> list[float]:
        return rates(Optim(lr=1.0, min_lr=0.2, schedule=kind, **more), 5)  # type: ignore[arg-type]

    assert of("cosine")[::2] == pytest.approx([1.0, 0.6, 0.2])
    assert of("poly", power=1.0) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert of("poly", power=2.0)[1] == pytest.approx(0.2 + 0.8 * 0.75**2)
    assert of("constant") == [1.0] * 5
    assert of("step", step_epochs=(2, 4), step_factor=0.5) == [1.0, 1.0, 0.5, 0.5, 0.25]
    # A2S-v2, section 7: 0.2 + 0.8 (1 - it / total) with it = 1..total
    assert of("linear") == pytest.approx([0.2 + 0.8 * (1 - it / 5) for it in range(1, 6)])
    assert of("constant", warmup_steps=3) == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_published_step_schedules() -> None:
    """IANet: 15 epochs, then a tenth; SMCF: the last of 20 epochs alone."""
    ianet = rates(Optim(lr=5e-3, schedule="step", step_epochs=(15,)), 40, per_epoch=2)
    assert ianet == pytest.approx([5e-3] * 30 + [5e-4] * 10)
    smcf = rates(Optim(lr=2e-3, schedule="step", step_epochs=(19,)), 20)
    assert smcf == pytest.approx([2e-3] * 19 + [2e-4])


def network() -> nn.Module:
    parts = {
        "encoder": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
        "head": nn.Linear(4, 1),
    }
    return nn.ModuleDict(parts)


def test_no_decay_on_biases_and_norms() -> None:
    decayed, plain = optimisers.make(network(), Optim(weight_decay=0.5)).param_groups
    assert [p.ndim for p in decayed["params"]] == [4, 2] and decayed["weight_decay"] == 0.5
    assert len(plain["params"]) == 4 and plain["weight_decay"] == 0
    (everything,) = optimisers.make(network(), Optim(decay_all=True)).param_groups
    assert len(everything["params"]) == 6


def test_groups_by_the_innermost_module() -> None:
    groups = {"encoder": Group(lr=0.1, weight_decay=0.0), "encoder.0": Group(lr=0.5, from_epoch=2)}
    options = Optim(kind="sgd", lr=1.0, nesterov=True, weight_decay=1e-3, groups=groups)
    optimiser = optimisers.make(network(), options)
    assert isinstance(optimiser, torch.optim.SGD)
    found = {(g["factor"], g["from_epoch"], g["weight_decay"]): len(g["params"])
             for g in optimiser.param_groups}  # fmt: skip
    assert found == {
        (0.5, 2, 1e-3): 1,
        (0.5, 2, 0.0): 1,
        (0.1, 0, 0.0): 2,
        (1.0, 0, 1e-3): 1,
        (1.0, 0, 0.0): 1,
    }
    optimisers.set_rate(optimiser, 0.8, epoch=1)
    assert {g["factor"]: g["lr"] for g in optimiser.param_groups} == {
        0.5: 0.0,
        0.1: 0.8 * 0.1,
        1: 0.8,
    }
    optimisers.set_rate(optimiser, 0.8, epoch=2)
    assert optimiser.param_groups[0]["lr"] == 0.4
    assert type(optimisers.make(network(), Optim(kind="adam"))) is torch.optim.Adam
    with pytest.raises(UsageError, match="Did you mean optim.groups.encoder"):
        optimisers.make(network(), Optim(groups={"encodr": Group()}))


def test_a_frozen_group_rests_but_measures() -> None:
    net = network()
    optimiser = optimisers.make(net, Optim(groups={"encoder": Group(frozen=True)}))
    assert sum(len(g["params"]) for g in optimiser.param_groups) == 2
    before = net["encoder"][1].running_mean.clone()  # type: ignore[index]
    features = net.train()["encoder"](torch.ones(2, 3, 5, 5))  # type: ignore[index,operator]
    net["head"](features.mean((2, 3))).sum().backward()  # type: ignore[index,operator]
    assert net["encoder"][0].weight.grad is None  # type: ignore[index]
    assert net["head"].weight.grad is not None  # type: ignore[index]
    assert not torch.equal(before, net["encoder"][1].running_mean)  # type: ignore[index]
    with pytest.raises(UsageError, match="every parameter is frozen"):
        frozen = {"encoder": Group(frozen=True), "head": Group(frozen=True)}
        optimisers.make(network(), Optim(groups=frozen))


STAGE = Stage(name="s", network=None, data=Data(datasets=("A",), size=(352, 352)))


def test_sizes_of_a_step() -> None:
    """SMCF: three sizes, each a step; DPA: one of five, drawn."""
    smcf = recipe.override(STAGE, ["scales=[0.75, 1.0, 1.25]"])
    assert scales.of_step(smcf, 0, 0) == [(256, 256), (352, 352), (448, 448)]
    keys = ["data.size=[512, 512]", "scales=[0.75, 0.8125, 0.875, 0.9375, 1]", "scale_rule=draw"]
    dpa = recipe.override(STAGE, keys)
    drawn = [scales.of_step(dpa, 0, step) for step in range(200)]
    assert {size for (size,) in drawn} == {(s, s) for s in (384, 416, 448, 480, 512)}
    assert drawn == [scales.of_step(dpa, 0, step) for step in range(200)]
    assert drawn != [scales.of_step(dpa, 1, step) for step in range(200)]
    assert scales.of_step(STAGE, 3, 4) == [(352, 352)]


def test_filters() -> None:
    ramp = torch.arange(5.0).expand(2, 3, 1, 4, 5)
    sample = {"img": ramp, "gt": ramp, "valid": torch.ones(2, 3), "key": ["a", "b"]}
    aligned = recipe.override(STAGE, ["scale_filter=aligned", 'data.inputs=["img"]'])
    found = scales.resized(sample, (7, 9), aligned)
    assert torch.allclose(found["img"][1, 2, 0, 3], torch.arange(9.0) / 2)
    assert found["gt"].shape == (2, 3, 1, 7, 9) and found["valid"] is sample["valid"]
    for kind in ("bilinear", "bicubic"):
        other = scales.resized(sample, (4, 10), recipe.override(aligned, [f"scale_filter={kind}"]))
        expected = nn.functional.interpolate(ramp.flatten(0, 1), size=(4, 10), mode=kind)
        assert torch.equal(other["img"].flatten(0, 1), expected)
