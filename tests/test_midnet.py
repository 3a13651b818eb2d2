"""MIDNet of A2S-v2 against the numbers of the published code, its loss and its recipes."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fill import answers, digest, fill, inputs, parameters, shapes
from vsodpipe import checkpoint, models, optimisers
from vsodpipe.errors import UsageError
from vsodpipe.models import midnet

PARTS = {
    "encoder.": 23_508_032,
    "encoder_aux.": 23_508_032,
    "reduce.": 1_740_928,
    "reduce_aux.": 1_740_928,
    "context.": 3_936_000,
    "fuse.3.": 4_264_832,
    "fuse.2.": 3_477_248,
    "fuse.1.": 1_755_584,
    "fuse.0.": 1_103_648,
    "fuse_aux.": 4_264_832 + 3_477_248 + 1_755_584 + 1_103_648,
    "score.": 129,
    "attend.": 16_705 - 129,
    "score1.": 65,
    "score2.": 65,
    "score_global.": 513,
    "unused.": 2 * 2_049_000,
}
HEADS = ("saliency", "score1", "score2", "score_global")


@pytest.fixture(scope="module")
def expected() -> dict[str, NDArray[Any]]:
    return answers("midnet")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    built, report = checkpoint.load_published("midnet", fill(shapes("midnet"), gain=1.2))
    assert report.tensors == 1018 and report.problems == ()
    return built


def test_keys_and_sizes_are_the_published_ones(
    network: nn.Module, expected: dict[str, NDArray[Any]]
) -> None:
    assert digest("midnet") == str(expected["keys_sha256"])
    assert {prefix: parameters(network, prefix) for prefix in PARTS} == PARTS
    assert parameters(network) == 79_751_892 == sum(PARTS.values())


@torch.no_grad()
def test_maps_as_published(network: nn.Module, expected: dict[str, NDArray[Any]]) -> None:
    seen: dict[str, Tensor] = {}
    parts = {"decoder.global_info": "context"}
    parts |= {f"decoder.gfb{k + 1}_1": f"fuse.{k}" for k in range(4)}
    parts |= {f"decoder.gfb{k + 1}_2": f"fuse_aux.{k}" for k in range(4)}
    parts |= {f"trans_rgb.{k}": f"reduce.{k}" for k in range(4)}
    parts |= {f"trans_t.{k}": f"reduce_aux.{k}" for k in range(4)}
    hooks = [
        network.get_submodule(own).register_forward_hook(
            lambda module, taken, out, name=name: seen.__setitem__(name, out)
        )
        for name, own in parts.items()
    ]
    maps = network(inputs(1, 1, 3, 96, 128), inputs(2, 1, 3, 96, 128))
    for hook in hooks:
        hook.remove()
    assert tuple(maps) == HEADS
    for number, logits in enumerate(maps.values()):
        found = logits.numpy() if number == 3 else logits[..., ::4, ::4].numpy()
        assert found.shape == expected[f"sal{number}"].shape
        assert np.abs(found - expected[f"sal{number}"]).max() < 1e-4
    assert maps["saliency"].shape == (1, 1, 48, 64)
    for name, x in seen.items():
        y = x.double()
        statistics = [float(v) for v in (y.mean(), y.std(), y.min(), y.max())]
        assert statistics == pytest.approx(expected[name].tolist(), rel=1e-4, abs=1e-4), name


@torch.no_grad()
def test_the_streams_are_not_the_same() -> None:
    torch.manual_seed(0)
    net = models.create("midnet", width=4).eval()
    for parameter in net.parameters():  # the published start is nearly flat
        parameter.add_(0.1 * torch.randn_like(parameter))
    img, aux = torch.rand(1, 3, 64, 96), torch.rand(1, 3, 64, 96)
    gap = (net(img, aux)["saliency"] - net(aux, img)["saliency"]).abs().max()
    assert gap > 1e-3


def test_loss_as_published(expected: dict[str, NDArray[Any]]) -> None:
    maps = [torch.from_numpy(expected[f"pred{k}"]).requires_grad_() for k in range(2)]
    logits = dict(zip(HEADS, maps, strict=False))
    target = np.unpackbits(expected["target"]).reshape(2, 1, 128, 128)
    sample = {"gt": torch.from_numpy(target).float(), "valid": torch.ones(2).bool()}
    value = midnet.loss(logits, sample)
    value.backward()  # type: ignore[no-untyped-call]
    assert value.item() == pytest.approx(float(expected["total"]), abs=1e-6)
    for number, x in enumerate(maps):
        assert x.grad is not None
        norm = float(expected[f"grad_norm{number}"])
        assert x.grad.norm().item() == pytest.approx(norm, rel=1e-5)
    first = midnet.loss(logits, sample, {"score1": 0.0})
    assert first.item() == pytest.approx(float(expected["term0"]), abs=1e-6)
    other = midnet.loss(logits, sample, {"saliency": 0.0, "score1": 1.0})
    assert other.item() == pytest.approx(float(expected["term1_raw"]), abs=1e-6)


def test_untrained_heads_stay_and_everything_else_learns() -> None:
    net = models.create("midnet", width=4)
    sample = {"gt": torch.ones(2, 1, 64, 64), "valid": torch.ones(2).bool()}
    maps = net(torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64))
    midnet.loss(maps, sample).backward()  # type: ignore[no-untyped-call]
    still = {key.partition(".")[0] for key, p in net.named_parameters() if p.grad is None}
    assert still == {"score2", "score_global", "unused"}


def test_the_decoder_starts_small_and_the_encoders_do_not() -> None:
    torch.manual_seed(0)
    net = models.create("midnet", width=16)
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 2000:
            small = abs(module.weight.std().item() - 0.01) < 0.001
            assert small == (not name.startswith("encoder")), name


def test_wrong_inputs_and_options_are_refused_in_words() -> None:
    net = models.create("midnet", width=2)
    with pytest.raises(UsageError, match=r"midnet: expected .* one shape \(N, 3, H, W\), got"):
        net(torch.zeros(1, 3, 32, 32), torch.zeros(1, 1, 32, 32))
    with pytest.raises(UsageError, match="width: expected an even number > 0, got 1"):
        midnet.Options(width=1)


def test_the_recipes_are_the_published_ones() -> None:
    seconds = {"d": "depth", "o": "flow", "t": "thermal"}
    for name, key in seconds.items():
        stage = models.stages("midnet")[name]
        optim = stage.optim
        assert stage.data.inputs == ("img", key)
        assert (stage.epochs, stage.batch, stage.data.size) == (10, 8, (320, 320))
        assert (optim.kind, optim.lr, optim.momentum, optim.weight_decay) == ("sgd", 5e-3, 0.9, 0)
        assert all(name.endswith("_pseudo") for name in stage.data.datasets)
    stage = models.stages("midnet")["debug"]
    net = models.load("midnet").build(stage.network)
    groups = optimisers.make(net, stage.optim).param_groups
    sizes = {group["factor"]: sum(p.numel() for p in group["params"]) for group in groups}
    slow = parameters(net, "encoder.") + parameters(net, "encoder_aux.")
    learnt = sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert sizes == {0.1: slow, 1.0: learnt - slow}
