"""A2S-v2's stage 1 against the numbers of the published code, its losses, its frozen encoder."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fill import answers, digest, fill, gap, inputs, parameters, shapes
from vsodpipe import checkpoint, models, optimisers
from vsodpipe.errors import UsageError, WeightsError
from vsodpipe.manifest import Source
from vsodpipe.models import _a2s_losses as losses
from vsodpipe.models import _moco, a2s

Run = Callable[..., tuple[int, str, str]]
PARTS = {
    "encoder.": 23_508_032,
    "decoder.ad2.": 299_392 - 128,
    "decoder.ad3.": 594_304 - 128,
    "decoder.ad4.": 1_184_128 - 128,
    "decoder.fusion.": 115_072 - 128,
    "unused.": 2_049_000 + 4 * 128,
}


@pytest.fixture(scope="module")
def expected() -> dict[str, NDArray[Any]]:
    return answers("a2s")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    built, report = checkpoint.load_published("a2s", fill(shapes("a2s")))
    assert report.tensors == 352 and report.problems == ()
    return built


def statistics(x: Tensor) -> NDArray[np.float64]:
    y = x.detach().double()
    return np.array([float(v) for v in (y.mean(), y.std(), y.min(), y.max())])


# ---- the network


def test_keys_and_sizes_are_the_published_ones(
    network: nn.Module, expected: dict[str, NDArray[Any]]
) -> None:
    assert digest("a2s") == str(expected["keys_sha256"])
    assert {prefix: parameters(network, prefix) for prefix in PARTS} == PARTS
    assert parameters(network) == 27_749_928
    assert parameters(network) - parameters(network, "unused.") == 25_700_416


@torch.no_grad()
def test_maps_and_features_as_published(
    network: a2s.A2S, expected: dict[str, NDArray[Any]]
) -> None:
    img = inputs(1, 1, 3, 96, 128)
    maps = network(img)
    assert list(maps) == ["saliency"] and maps["saliency"].shape == (1, 1, 96, 128)
    assert gap(maps["saliency"], expected["final"]) < 1e-4
    assert statistics(maps["saliency"]) == pytest.approx(expected["final/stats"], abs=1e-4)
    features = network.features(img)
    assert statistics(features) == pytest.approx(expected["feat/stats"], abs=1e-4)
    for name, x in zip(
        ("relu", *(f"layer{k}" for k in range(1, 5))), _moco.encode(network.encoder, img),
        strict=True,
    ):  # fmt: skip
        assert statistics(x) == pytest.approx(expected[f"encoder.{name}"], abs=1e-4), name


@torch.no_grad()
def test_the_side_of_the_object_as_published(
    network: a2s.A2S, expected: dict[str, NDArray[Any]]
) -> None:
    weight = network.decoder["fusion"].conv[0].weight  # type: ignore[index,union-attr]
    kept = weight.clone()
    weight -= 0.0278 * weight.abs()
    try:
        found = network(inputs(1, 2, 3, 96, 128))["saliency"]
    finally:
        weight.copy_(kept)
    assert gap(found, expected["final_sign"]) < 1e-4
    assert statistics(found) == pytest.approx(expected["final_sign/stats"], abs=1e-4)


def test_corners_decide_the_side() -> None:
    p = torch.full((5, 1, 4, 6), 9.0)
    corners = ((0, 0), (0, -1), (-1, 0), (-1, -1))
    for count, each in enumerate(p[:, 0]):
        for number, (y, x) in enumerate(corners):
            each[y, x] = 1.0 if number < count else 0.0  # 0 is not above 0
    assert a2s.side(p).flatten().tolist() == [1, 1, -1, -1, -1]


def test_training_sees_a_second_view_at_another_size() -> None:
    net = models.create("a2s", width=2)
    img = torch.rand(2, 3, 40, 60)
    sizes = set()
    for seed in range(24):
        torch.manual_seed(seed)
        with torch.no_grad():
            maps = net(img)
        assert maps["saliency"].shape == (2, 1, 40, 60)
        sizes.add(tuple(maps["view"].shape[-2:]))
    assert sizes == {(24, 36), (32, 48), (48, 72), (56, 84)}


def test_wrong_inputs_and_options_are_refused_in_words() -> None:
    with pytest.raises(UsageError, match=r"a2s: expected img \(N, 3, H, W\), got \(1, 4, 32, 32\)"):
        models.create("a2s", width=2)(torch.zeros(1, 4, 32, 32))
    with pytest.raises(UsageError, match="width: expected an even number > 0, got 3"):
        a2s.Options(width=3)
    with pytest.raises(UsageError, match="view_scales: expected numbers above 0"):
        a2s.Options(view_scales=())


# ---- the losses


def pictures(expected: dict[str, NDArray[Any]], view: str, *names: str) -> Tensor:
    """Return pictures at a quarter of a view; one of depth and flow is zero in each sample."""
    maps = [torch.from_numpy(expected[f"img{view}"])]
    for name in names:
        held = torch.from_numpy(expected[f"{name}{view}"])
        empty = torch.zeros_like(held)
        maps.append(torch.cat((held, empty) if name == "depth" else (empty, held)))
    return torch.cat(maps, 1)


@pytest.mark.parametrize(
    ("case", "names"),
    [("c", ()), ("d_e1", ("depth",)), ("o", ("flow",)), ("cdot", ("depth", "flow"))],
)
def test_boundary_texture_as_published(
    case: str, names: tuple[str, ...], expected: dict[str, NDArray[Any]]
) -> None:
    for number, view in enumerate("12"):
        p = torch.from_numpy(expected[f"p{view}"])
        assert int(losses.boundaries(p).sum()) == int(expected["boundary_pixels"][number])
        found = losses.strangeness(p, pictures(expected, view, *names))
        assert found.item() == pytest.approx(expected[f"boundary/{case}"][number], abs=1e-6)


def slow_boundary_texture(p: Tensor, stack: Tensor) -> Tensor:
    """Section 6 of the specification, window by window."""
    q = F.interpolate(p, scale_factor=0.25, mode="bilinear", align_corners=True)
    stack = F.interpolate(stack, q.shape[-2:], mode="bilinear", align_corners=True)
    inside = (q > 0.5).double()
    m = F.max_pool2d(inside, 5, 1, 2) + F.max_pool2d(-inside, 5, 1, 2)

    def windows(x: Tensor) -> Tensor:
        return F.unfold(x, 11, padding=5).view(len(x), x.shape[1], 121, *x.shape[-2:])

    distance = (windows(stack) - stack[:, :, None]).square().sum(1)
    change = (windows(q) - q[:, :, None]).abs()[:, 0]
    each = (torch.exp(-200 * distance) * change).sum(1, keepdim=True)
    return (m * each).sum() / m.sum()


def views() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return logits of two views and smooth pictures, float64; depth of sample 0 is missing."""

    def smooth(seed: int, channels: int, factor: float, size: int) -> Tensor:
        small = factor * inputs(seed, 2, channels, 6, 6).double()
        return F.interpolate(small, (size, size), mode="bicubic")

    logits = {"saliency": smooth(1, 1, 2.0, 60), "view": smooth(2, 1, 2.0, 84)}
    sample = {"img": smooth(3, 3, 0.1, 60), "depth": smooth(4, 3, 0.1, 60)}
    sample["depth"][0] = 0
    return {k: v.requires_grad_() for k, v in logits.items()}, sample


def test_the_loss_is_its_equations(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, sample = views()
    epochs, epoch = 20, 11  # counted from 1
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    found = a2s.loss(logits, sample, {}, (epoch - 1) / epochs)
    monkeypatch.undo()
    gradients = torch.autograd.grad(found, list(logits.values()))
    p, view = (x.sigmoid() for x in logits.values())
    power = 2 ** (1 - (epoch - 1) / epochs)
    stack = torch.cat((sample["img"], sample["depth"]), 1)
    larger = F.interpolate(stack, (84, 84), mode="bilinear", align_corners=True)
    back = F.interpolate(view, (60, 60), mode="bilinear", align_corners=True)
    by_hand = (
        sum(0.5**power - ((x - 0.5).abs() ** power).mean() for x in (p, view))
        + 0.05 * (slow_boundary_texture(p, stack) + slow_boundary_texture(view, larger))
        + ((p - back) ** 2).mean()
    )
    assert found.item() == pytest.approx(by_hand.item(), abs=1e-6)
    for one, other in zip(
        gradients, torch.autograd.grad(by_hand, list(logits.values())), strict=True
    ):
        assert other.abs().max() > 1e-5 and (one - other).abs().max() < 1e-8


def test_confidence_turns_from_squares_to_distances() -> None:
    p = torch.tensor([0.5, 0.75, 1.0])
    assert losses.confidence(p, 0.0).item() == pytest.approx(0.25 - (0.0625 + 0.25) / 3)
    last = losses.confidence(p, 19 / 20).item()
    power = 2 ** (1 / 20)
    assert last == pytest.approx(0.5**power - (0.25**power + 0.5**power) / 3)
    even = torch.full((4,), 0.5, requires_grad=True)
    losses.confidence(even, 19 / 20).backward()  # type: ignore[no-untyped-call]
    assert even.grad is not None and not even.grad.any()


@pytest.mark.parametrize("value", [-5.0, 5.0])
def test_a_batch_without_boundaries_costs_nothing_there(value: float) -> None:
    """The published code divides 0 by 0 here and loses its weights."""
    logits, sample = views()
    flat = {key: torch.full_like(x, value).requires_grad_() for key, x in logits.items()}
    only = {"confidence": 0.0, "boundary": 1.0, "consistency": 0.0}
    found = a2s.loss(flat, sample, only)
    found.backward()  # type: ignore[no-untyped-call]
    assert found.item() == 0
    assert all(x.grad is not None and not x.grad.any() for x in flat.values())
    total = a2s.loss(flat, sample)
    total.backward()  # type: ignore[no-untyped-call]
    assert total.isfinite() and all(bool(x.grad.isfinite().all()) for x in flat.values())


def test_an_empty_second_picture_changes_nothing() -> None:
    logits, sample = views()
    alone = a2s.loss(logits, {"img": sample["img"]})
    zeros = torch.zeros_like(sample["img"])
    beside = {"depth": zeros, "flow": zeros, "thermal": zeros}
    assert a2s.loss(logits, {"img": sample["img"], **beside}) == alone
    assert a2s.loss(logits, sample) != alone


# ---- training


def test_a_step_leaves_the_encoder_and_moves_its_statistics() -> None:
    stage = models.stages("a2s")["debug"]
    torch.manual_seed(0)
    net = models.load("a2s").build(stage.network)
    optimiser = optimisers.make(net, stage.optim)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    img = torch.rand(2, 3, 64, 96)
    a2s.objective(net, {"img": img}, stage, 0).backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    after = net.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    trained = {key for key, p in net.named_parameters() if p.requires_grad}
    assert trained == {key for key, _ in net.named_parameters() if key.startswith("decoder.")}
    statistics = {key for key, _ in net.named_buffers()}
    assert changed == trained | statistics
    assert int(after["encoder.bn1.num_batches_tracked"]) == 2, "two views, two updates"


def test_the_epoch_reaches_the_loss() -> None:
    stage = replace(models.stages("a2s")["debug"], epochs=2)
    net = models.load("a2s").build(stage.network)
    sample = {"img": torch.rand(2, 3, 64, 96)}

    def at(epoch: int) -> float:
        torch.manual_seed(0)
        with torch.no_grad():
            return float(a2s.objective(net, sample, stage, epoch))

    assert at(0) != at(1)


def test_the_recipes_are_the_published_ones() -> None:
    stages = models.stages("a2s")
    assert stages["cdot"].data.datasets == (
        *stages["c"].data.datasets, *stages["d"].data.datasets,
        *stages["o"].data.datasets, *stages["t"].data.datasets,
    )  # fmt: skip
    for name in ("c", "d", "o", "t", "cdot", "msra"):
        stage, optim = stages[name], stages[name].optim
        assert (stage.epochs, stage.batch, stage.data.size) == (20, 8, (320, 320))
        assert (optim.kind, optim.lr, optim.momentum, optim.weight_decay) == ("sgd", 0.1, 0.9, 5e-4)
        assert optim.decay_all and optim.groups["encoder"].frozen == (name != "msra")
    rates = [optimisers.rate_of(stages["c"].optim, step, 4, 0) for step in range(4)]
    assert rates == pytest.approx([0.1 * (0.2 + 0.8 * (1 - n / 4)) for n in (1, 2, 3, 4)])
    late = stages["msra"].optim.groups["encoder"]
    assert (late.lr, late.from_epoch) == (0.01, 2)


@pytest.mark.parametrize("name", ["a2s", "cornet", "midnet"])
def test_the_loop_trains_all_three(
    name: str, vsodpipe: Run, source: Source, tmp_path: Path
) -> None:
    sets = ('data.datasets=["TINY_train"]', "data.size=[64,64]", "epochs=2", "steps_per_epoch=1")
    given = [word for text in sets for word in ("--set", text)]
    run = tmp_path / "run"
    code, _, err = vsodpipe(
        "train", name, "--manifest", source.file, "--stage", "debug", "--run", run, *given
    )
    assert code == 0, err
    rows = [json.loads(row) for row in (run / "events.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 2 and all(np.isfinite(losses)) and losses[0] != losses[1]


# ---- MoCo-v2


def moco(network: nn.Module) -> dict[str, Tensor]:
    """Return what a file of MoCo-v2 holds beside the encoder `network` has."""
    held = {f"module.encoder_q.{key}": value.clone() for key, value in network.state_dict().items()}
    for value in held.values():
        if value.is_floating_point():
            value.uniform_()
    return held | {"module.encoder_q.fc.0.weight": torch.rand(4, 4), "module.queue": torch.rand(4)}


def test_the_encoder_begins_with_moco(tmp_path: Path) -> None:
    encoder = models.create("a2s", width=2).encoder
    held = moco(encoder)
    torch.save({"epoch": 200, "arch": "resnet50", "state_dict": held}, tmp_path / "moco.pth.tar")
    _moco.load_moco([encoder], str(tmp_path / "moco.pth.tar"))
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, held[f"module.encoder_q.{key}"]), key


@pytest.mark.parametrize("change", ["bare", "missing", "shape", "list"])
def test_a_file_that_is_not_moco_is_one_line(change: str, tmp_path: Path) -> None:
    encoder = models.create("a2s", width=2).encoder
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    held = moco(encoder)
    content: Any = {"state_dict": held}
    if change == "bare":  # a supervised ResNet-50
        content = {key.removeprefix("module.encoder_q."): value for key, value in held.items()}
    if change == "missing":
        del held["module.encoder_q.layer4.2.conv3.weight"]
    if change == "shape":
        held["module.encoder_q.conv1.weight"] = torch.zeros(2, 1, 7, 7)
    if change == "list":
        content = [1, 2]
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(WeightsError) as caught:
        _moco.load_moco([encoder], str(tmp_path / "x.pth"))
    assert str(tmp_path / "x.pth") in str(caught.value) and "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


# ---- published files


def test_a_cleaned_file_loads(tmp_path: Path) -> None:
    """What nothing uses may be missing, and the keys may begin with model. or module.model."""
    net = models.load("a2s").build(models.stages("a2s")["debug"].network)
    checkpoint.save_published(net, tmp_path / "x.pth")
    held = torch.load(tmp_path / "x.pth", weights_only=True)
    for prefix in ("", "model.", "module."):
        state = {prefix + k: v for k, v in held.items() if ".fc." not in k and ".se.gn." not in k}
        again, report = checkpoint.load_published("a2s", state, width=8)
        assert report.tensors == len(state) == len(held) - 10
        img = inputs(1, 1, 3, 64, 96)
        with torch.no_grad():
            assert torch.equal(again(img)["saliency"], net.eval()(img)["saliency"])
