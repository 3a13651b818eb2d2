"""IANet against the numbers of the published code (specification section 12), and its recipe."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from fill import answers, digest, fill, gap, gradient_gaps, inputs, parameters, shapes
from vsodpipe import checkpoint, models, recipe
from vsodpipe.errors import UsageError
from vsodpipe.models import ianet

SIZES = {
    "rgb.resnet.": 21_284_672,
    "rgb.aspp.": 4_131_840,
    "unused.rgb_head.": 1_180_929,
    "flow.resnet.": 21_284_672,
    "flow.aspp.": 4_131_840,
    "flow_head.": 1_180_929,
    "rgb_head.": 1_180_929,
    "lme.1.": 156_800,
    "lme.2.": 624_896,
    "lme.3.": 2_494_976,
    "lme.4.": 9_970_688,
    "lme.5.": 2_494_976,
    "gwg.squeeze_rgb.": 701_376,
    "gwg.squeeze_flow.": 701_376,
    "unused.squeeze": 28_830,
    "pa.1.": 320_896,
    "pa.2.": 1_280_768,
    "pa.3.": 5_117_440,
    "pa.4.": 20_458_496,
    "pa_last.": 525_312,
    "block.1.": 74_112,
    "block.2.": 221_760,
    "block.3.": 885_888,
    "block.4.": 3_541_248,
    "block.5.": 1_771_776,
    "head.": 65 + 129 + 257 + 513 + 257,
}


@pytest.fixture(scope="module")
def expected() -> dict[str, NDArray[Any]]:
    return answers("ianet")


@pytest.fixture(scope="module")
def network() -> Iterator[nn.Module]:
    built, report = checkpoint.load_published("ianet", fill(shapes("ianet")))
    assert report.tensors == 1168 and report.problems == ()
    yield built


def test_keys_and_sizes_are_the_published_ones(
    network: nn.Module, expected: dict[str, NDArray[Any]]
) -> None:
    assert digest("ianet") == str(expected["keys_sha256"])
    assert {prefix: parameters(network, prefix) for prefix in SIZES} == SIZES
    assert parameters(network) == 106_942_054
    assert sum(p.numel() for p in network.parameters() if not p.requires_grad) == 1_209_759


@torch.no_grad()
def test_odd_sizes_as_published(network: nn.Module, expected: dict[str, NDArray[Any]]) -> None:
    maps = network(inputs(11, 1, 3, 136, 184), inputs(12, 1, 3, 136, 184))
    assert list(maps) == list(ianet.HEADS)
    for number, logits in enumerate(maps.values()):
        assert logits.shape == (1, 1, 136, 184)
        assert gap(logits, expected[f"odd_out{number}"]) < 5e-5


def test_maps_losses_and_gradients_as_published(
    network: nn.Module, expected: dict[str, NDArray[Any]]
) -> None:
    maps = network(inputs(1, 1, 3, 224, 224), inputs(2, 1, 3, 224, 224))
    for number, logits in enumerate(maps.values()):
        assert gap(logits, expected[f"out{number}"]) < 5e-5
    sample = {"gt": (inputs(3, 1, 1, 224, 224) > 0).float(), "valid": torch.ones(1).bool()}
    total, paper = ianet.loss(maps, sample), ianet.loss(maps, sample, ianet.PAPER_WEIGHTS)
    assert total.item() == pytest.approx(float(expected["loss_total_code"]), abs=1e-5)
    assert paper.item() == pytest.approx(float(expected["loss_total_paper"]), abs=1e-5)
    for name, value in zip(ianet.HEADS, expected["loss_heads"], strict=True):
        alone = {head: float(head == name) for head in ianet.HEADS}
        assert ianet.loss(maps, sample, alone).item() == pytest.approx(float(value), abs=1e-5)
    total.backward()  # type: ignore[no-untyped-call]
    assert max(gradient_gaps(network, expected).values()) < 1e-3
    bare = [k for k, p in network.named_parameters() if p.grad is None]
    assert bare and all(key.startswith("unused.") for key in bare)
    network.zero_grad()


@torch.no_grad()
def test_frames_of_a_batch_are_independent() -> None:
    net = models.create("ianet", width=8).eval()
    img, flow = inputs(1, 3, 3, 40, 56), inputs(2, 3, 3, 40, 56)
    together = net(img, flow)["saliency"]
    alone = [net(i[None], f[None])["saliency"] for i, f in zip(img, flow, strict=True)]
    assert float((together - torch.cat(alone)).abs().max()) < 1e-5


def test_an_empty_mask_costs_one_beside_its_cross_entropy() -> None:
    maps = dict.fromkeys(ianet.HEADS, torch.zeros(2, 1, 8, 8))
    sample = {"gt": torch.zeros(2, 1, 8, 8), "valid": torch.tensor([True, False])}
    each = 1 + torch.log(torch.tensor(2.0)).item()
    assert ianet.loss(maps, sample).item() == pytest.approx(7 * each, abs=1e-5)


def test_wrong_inputs_and_options_are_refused_in_words() -> None:
    net = models.create("ianet", width=4)
    with pytest.raises(UsageError, match=r"ianet: expected .* one shape \(N, 3, H, W\), got"):
        net(torch.zeros(1, 3, 32, 32), torch.zeros(1, 2, 32, 32))
    with pytest.raises(UsageError, match="width: expected at least 1, got 0"):
        ianet.Options(width=0)


def test_the_recipe_is_the_published_one() -> None:
    stage = models.stages("ianet")["train"]
    optim = stage.optim
    assert (optim.kind, optim.lr, optim.momentum, optim.nesterov) == ("sgd", 5e-3, 0.9, True)
    assert (optim.weight_decay, optim.decay_all, optim.step_epochs) == (5e-4, True, (15,))
    assert (stage.epochs, stage.batch, stage.data.size) == (20, 8, (512, 512))
    paper = recipe.override(stage, ["optim.kind=adam"])
    assert paper.optim.kind == "adam", "the paper's optimiser is one --set away"
    with torch.device("meta"):
        net = models.create("ianet")
    slow = [
        p for key, p in net.named_parameters()
        if key.startswith(tuple(f"{module}." for module in optim.groups))
    ]  # fmt: skip
    # the published group has the dead stream decoder beside these
    assert sum(p.numel() for p in slow) == 53_194_882 - parameters(net, "unused.rgb_head.")
