"""CORNet of A2S-v2 against the numbers of the published code, its loss and its recipe."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fill import answers, digest, fill, gap, inputs, parameters, shapes
from vsodpipe import checkpoint, models
from vsodpipe.errors import UsageError
from vsodpipe.models import cornet
from vsodpipe.models._moco import encode

PARTS = {
    "encoder.": 23_508_032,
    "adapters.0.": 37_056,
    "adapters.1.": 147_648,
    "adapters.2.": 295_104,
    "adapters.3.": 590_016,
    "adapters.4.": 1_179_840,
    "region.": 221_568,
    "local.": 221_568,
    "guide.": 148_032,
    "unused.": 2_049_000,
}


@pytest.fixture(scope="module")
def expected() -> dict[str, NDArray[Any]]:
    return answers("cornet")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    built, report = checkpoint.load_published("cornet", fill(shapes("cornet")))
    assert report.tensors == 368 and report.problems == ()
    return built


def statistics(x: Tensor) -> list[float]:
    y = x.detach().double()
    return [float(v) for v in (y.mean(), y.std(), y.min(), y.max())]


def test_keys_and_sizes_are_the_published_ones(
    network: nn.Module, expected: dict[str, NDArray[Any]]
) -> None:
    assert digest("cornet") == str(expected["keys_sha256"])
    assert {prefix: parameters(network, prefix) for prefix in PARTS} == PARTS
    assert parameters(network) == 28_397_864


@torch.no_grad()
def test_map_and_features_as_published(
    network: cornet.CORNet, expected: dict[str, NDArray[Any]]
) -> None:
    img = inputs(1, 1, 3, 96, 128)
    maps = network(img)
    assert list(maps) == ["saliency"] and maps["saliency"].shape == (1, 1, 96, 128)
    assert gap(maps["saliency"], expected["final"]) < 1e-4
    a = [f(x) for f, x in zip(network.adapters, encode(network.encoder, img), strict=True)]
    found = {f"decoder.adapter{level}": x for level, x in enumerate(a)}
    found["decoder.gb_conv"] = network.guide(a[4])
    found["decoder.region[0]"] = network.region(a[2], a[3], a[4])
    found["decoder.local[0]"] = network.local(a[0], a[1], found["decoder.gb_conv"])
    for name, x in found.items():
        assert statistics(x) == pytest.approx(expected[name].tolist(), abs=1e-4), name


@torch.no_grad()
@pytest.mark.parametrize("size", [(40, 72), (33, 65)])
def test_any_size_goes_in_and_comes_out(size: tuple[int, int]) -> None:
    net = models.create("cornet", width=4).eval()
    assert net(torch.rand(2, 3, *size))["saliency"].shape == (2, 1, *size)


def test_loss_as_published(expected: dict[str, NDArray[Any]]) -> None:
    logits = torch.from_numpy(expected["pred"]).requires_grad_()
    target = np.unpackbits(expected["target"]).reshape(2, 1, 128, 128)
    sample = {"gt": torch.from_numpy(target).float(), "valid": torch.ones(2).bool()}
    value = cornet.loss({"saliency": logits}, sample)
    value.backward()  # type: ignore[no-untyped-call]
    assert value.item() == pytest.approx(float(expected["total"]), abs=1e-6)
    assert logits.grad is not None
    assert logits.grad.norm().item() == pytest.approx(float(expected["grad_norm"]), rel=1e-5)


def test_labels_are_cut_at_one_half_and_only_valid_ones_count() -> None:
    logits = torch.randn(2, 1, 8, 8)
    soft = torch.rand(2, 1, 8, 8)
    one = {"gt": soft, "valid": torch.tensor([True, False])}
    hard = {"gt": (soft[:1] > 0.5).float(), "valid": torch.ones(1).bool()}
    alone = cornet.loss({"saliency": logits[:1]}, hard)
    assert cornet.loss({"saliency": logits}, one) == pytest.approx(alone.item(), abs=1e-6)
    none = {"gt": soft, "valid": torch.zeros(2).bool()}
    assert cornet.loss({"saliency": logits}, none) == 0
    halved = cornet.loss({"saliency": logits}, one, {"saliency": 0.5})
    assert halved.item() == pytest.approx(alone.item() / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("level", "label", "cost"), [(-90.0, 0.0, 1), (90.0, 1.0, 0), (-90.0, 1.0, 1)]
)
def test_extreme_maps_and_labels_stay_finite(level: float, label: float, cost: float) -> None:
    logits = torch.full((1, 1, 8, 8), level, requires_grad=True)
    sample = {"gt": torch.full((1, 1, 8, 8), label), "valid": torch.ones(1).bool()}
    value = cornet.loss({"saliency": logits}, sample)
    value.backward()  # type: ignore[no-untyped-call]
    assert value.item() == pytest.approx(cost, abs=1e-6)
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_wrong_inputs_and_options_are_refused_in_words() -> None:
    with pytest.raises(UsageError, match=r"cornet: expected img \(N, 3, H, W\), got \(3, 32, 32\)"):
        models.create("cornet", width=2)(torch.zeros(3, 32, 32))
    with pytest.raises(UsageError, match="width: expected an even number > 0, got 0"):
        cornet.Options(width=0)


def test_the_recipe_is_the_published_one() -> None:
    for name in ("c", "msra"):
        stage = models.stages("cornet")[name]
        optim = stage.optim
        assert (stage.epochs, stage.batch, stage.data.size) == (10, 8, (320, 320))
        assert (optim.kind, optim.lr, optim.min_lr) == ("sgd", 5e-3, pytest.approx(0.2 * 5e-3))
        assert (optim.momentum, optim.weight_decay, optim.decay_all) == (0.9, 5e-4, True)
        assert {name: group.lr for name, group in optim.groups.items()} == {"encoder": 0.1}
        assert all(name.endswith("_pseudo") for name in stage.data.datasets)
