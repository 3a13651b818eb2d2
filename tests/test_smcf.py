"""SMCF against the numbers of the published code (specification section 12), and its recipe."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from numpy.typing import NDArray

from fill import answers, digest, fill, gap, gradient_gaps, inputs, parameters, shapes
from vsodpipe import checkpoint
from vsodpipe.errors import UsageError
from vsodpipe.models import smcf
from vsodpipe.models.smcf import SMCF

SIZES = {
    "rgb.": 23_508_032,
    "flow.": 23_508_032,
    "merge.": 23_498_496 + 9_536,
    "gate_rgb.0.": 4_160,
    "gate_flow.1.": 65_792,
    "gate_rgb.2.": 262_656,
    "gate_flow.3.": 1_049_600,
    "gate_rgb.4.": 4_196_352,
    "transformer3.": 23_211_064,
    "transformer4.": 79_973_432,
    "reduce_s.1.": 26_816,
    "reduce_e.4.": 84_160,
    "reduce_t3.": 51_392,
    "reduce_t4.": 84_160,
    "csf.1.": 253_696,
    "decoder_s.": 167_265,
    "unused.": 18_876_416,
}

STATISTICS = {
    "saliency": (-0.484059, 0.259304, -1.032008, 0.421716, 10270.7897),
    "pred_e": (-0.377346, 0.155615, -0.833062, 0.093411, 7733.2297),
}
"""Mean, deviation, least, largest and sum of absolutes of the published code's logits."""


@pytest.fixture(scope="module")
def expected() -> dict[str, NDArray[Any]]:
    return answers("smcf")


@pytest.fixture(scope="module")
def network() -> Iterator[SMCF]:
    # as DataParallel saved it, inside a training script's dictionary
    state = {f"module.{key}": value for key, value in fill(shapes("smcf"), gain=0.9).items()}
    built, report = checkpoint.load_published("smcf", {"epoch": 19, "state_dict": state})
    assert report.tensors == 2284 and report.problems == ()
    assert isinstance(built, SMCF)
    yield built


def tiny(**options: int) -> SMCF:
    options = {"width": 8} | options
    state = fill(shapes("smcf", width=options["width"]), gain=0.9)
    net, _ = checkpoint.load_published("smcf", state, **options)
    assert isinstance(net, SMCF)
    return net


def test_keys_and_sizes_are_the_published_ones(
    network: SMCF, expected: dict[str, NDArray[Any]]
) -> None:
    assert digest("smcf") == str(expected["keys_sha256"])
    assert {prefix: parameters(network, prefix) for prefix in SIZES} == SIZES
    assert parameters(network) == 205_621_746
    assert sum(p.numel() for p in network.parameters() if not p.requires_grad) == 18_885_952


@torch.no_grad()
def test_a_frame_alone_as_published(network: SMCF, expected: dict[str, NDArray[Any]]) -> None:
    """Fewer frames than a group are one group; its size is part of no weight."""
    maps = network(inputs(11, 1, 3, 160, 96), inputs(12, 1, 3, 160, 96))
    assert gap(maps["saliency"], expected["g1_pred_s"]) < 5e-5
    assert gap(maps["pred_e"], expected["g1_pred_e"]) < 5e-5


def test_a_group_of_five_as_published(network: SMCF, expected: dict[str, NDArray[Any]]) -> None:
    maps = network(inputs(1, 5, 3, 64, 64), inputs(2, 5, 3, 64, 64))
    assert list(maps) == ["saliency", "pred_e"]
    for name, numbers in STATISTICS.items():
        x = maps[name].detach()
        assert x.shape == (5, 1, 64, 64)
        found = [float(y) for y in (x.mean(), x.std(), x.min(), x.max())]
        assert found == pytest.approx(numbers[:4], abs=1e-5)
        assert float(x.abs().sum()) == pytest.approx(numbers[4], rel=1e-6)
    sample = {"gt": (inputs(3, 5, 1, 64, 64) > 0).float(), "valid": torch.ones(5).bool()}
    total = smcf.loss(maps, sample)
    merged = smcf.loss(maps, sample, {"pred_e": 0.0})
    assert merged.item() == pytest.approx(float(expected["loss_64"][0]), abs=1e-5)
    assert total.item() == pytest.approx(float(expected["loss_64"][2]), abs=1e-5)
    total.backward()  # type: ignore[no-untyped-call]
    assert max(gradient_gaps(network, expected).values()) < 1e-3
    bare = {k.partition(".")[0] for k, p in network.named_parameters() if p.grad is None}
    assert bare == {"merge", "unused"}
    network.zero_grad()


@torch.no_grad()
def test_only_the_frames_of_a_group_see_each_other() -> None:
    net = tiny(group=2)
    img, flow = inputs(1, 4, 3, 64, 96), inputs(2, 4, 3, 64, 96)
    before = net(img, flow)["saliency"]
    img[1] = 0
    changed = (net(img, flow)["saliency"] - before).abs().amax((1, 2, 3))
    assert changed[0] > 0 and changed[1] > 0 and changed[2:].max() == 0
    net.group = 4
    assert float((net(img, flow)["saliency"][2] - before[2]).abs().max()) > 0


def test_wrong_inputs_are_refused_in_words() -> None:
    net = tiny(group=2)
    img = torch.zeros(3, 3, 64, 64)
    with pytest.raises(UsageError, match="a multiple of 2 frames .*, got 3"):
        net(img, img)
    with pytest.raises(UsageError, match="multiples of 32, got 64 x 80"):
        net(torch.zeros(2, 3, 64, 80), torch.zeros(2, 3, 64, 80))
    with pytest.raises(UsageError, match=r"one shape \(N, 3, H, W\), got"):
        net(img[None], img[None])
    with pytest.raises(UsageError, match="group: expected at least 1, got 0"):
        smcf.Options(group=0)


def test_finetuning_begins_with_both_pretrainings() -> None:
    """Meant: flow's weights with the RGB trunk of RGB's, statistics too. Published: RGB's alone."""
    rgb = {key: torch.zeros(1) for key in tiny().state_dict()}
    flow = {key: torch.ones(1) for key in rgb}
    meant = smcf.intended([rgb, flow], {})
    assert {key for key, value in meant.items() if not value.any()} == {
        key for key in rgb if key.startswith("rgb.")
    }
    assert "rgb.layer4.2.bn3.running_var" in rgb
    assert not any(value.any() for value in smcf.published([rgb, flow], {}).values())
