"""Properties of DBSNet (section 9 of its specification); tiny sizes, float64 below 1e-6."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from vsodpipe import models
from vsodpipe.errors import UsageError
from vsodpipe.models import dbsnet
from vsodpipe.models.dbsnet import BiPropagation, CoDGA, DBSNet, DenseConvLSTM, RefineBlock

TINY: dict[str, Any] = {"backbone": "mobilevit_xxs", "dim": 16, "depth": 1, "num_frames": 3}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def tiny(**options: Any) -> DBSNet:
    net = models.create("dbsnet", **(TINY | options))
    assert isinstance(net, DBSNet)
    return net


def clips(b: int, t: int, h: int = 64, w: int = 64) -> tuple[Tensor, Tensor]:
    return torch.rand(b, t, 3, h, w), torch.rand(b, t, 3, h, w)


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


def exchange(a: nn.Module, b: nn.Module) -> None:
    """Exchange the weights of two modules; a bias that only one of them has stays."""
    one, two = a.state_dict(), b.state_dict()
    kept = {k: v.clone() for k, v in one.items()}
    for key in one.keys() & two.keys():
        one[key].copy_(two[key])
        two[key].copy_(kept[key])


# ---- dense bi-ConvLSTM (3.2)


def reverse_in_time(module: BiPropagation) -> None:
    exchange(module.fwd, module.bwd)
    exchange(module.out_f, module.out_b)


@torch.no_grad()
def test_propagation_of_the_reversed_clip_is_the_reversed_propagation() -> None:
    module, x = BiPropagation(8, 2).double(), torch.randn(2, 4, 8, 5, 6).double()
    before = module(x)
    assert gap(module(x.flip(1)), before.flip(1)) > 1e-3
    reverse_in_time(module)
    assert gap(module(x.flip(1)), before.flip(1)) < 1e-12


@torch.no_grad()
def test_network_on_the_reversed_clip_is_reversed() -> None:
    net = tiny().eval()
    img, flow = clips(1, 3)
    before = net(img, flow)["saliency"]
    for module in net.propagate:
        reverse_in_time(module)  # type: ignore[arg-type]
    after = net(img.flip(1), flow.flip(1))["saliency"]
    assert gap(after.flip(1), before) < 1e-5  # outputs are float32


@torch.no_grad()
def test_forward_cell_is_causal() -> None:
    cell, x = DenseConvLSTM(8, 3).double(), torch.randn(1, 4, 8, 5, 6).double()
    assert torch.equal(cell(x)[:, :2], cell(x[:, :2]))


@torch.no_grad()
def test_single_frame_needs_no_recurrent_weights() -> None:
    cell, x = DenseConvLSTM(8, 3).double(), torch.randn(2, 1, 8, 5, 6).double()
    before = cell(x)
    nn.init.normal_(cell.mix.weight)
    nn.init.normal_(cell.wh.weight)
    assert torch.equal(cell(x), before)


@pytest.mark.parametrize(("lags", "linked"), [(1, False), (2, True), (3, True)])
def test_dense_links_reach_past_the_step_before(lags: int, linked: bool) -> None:
    cell, x = DenseConvLSTM(8, lags).double(), torch.randn(1, 4, 8, 5, 6).double()
    with torch.no_grad():
        cell.mix.weight[:, :8] = 0  # cuts h_{t-1}
        assert cell.wx.bias is not None
        cell.wx.bias[8:16] = -1e4  # forgets c_{t-1}
    (grad,) = torch.autograd.grad(cell(x.requires_grad_())[:, 3].sum(), x)
    assert bool(grad[:, 1].any()) is linked
    assert not grad[:, 2].any()


@torch.no_grad()
def test_cell_is_its_equations() -> None:
    """Section 3.2 at a single pixel, where a 3x3 kernel is its centre."""
    cell, x = DenseConvLSTM(4, 2).double(), torch.randn(1, 3, 4, 1, 1).double()
    wh, wz = cell.wh.weight[..., 1, 1], cell.mix.weight[..., 0, 0]
    h, c = [torch.zeros(4).double()] * 2, torch.zeros(4).double()
    for t, out in enumerate(cell(x)[0, ..., 0, 0]):
        z = wz @ torch.cat((h[-1], h[-2]))
        i, f, o, u = (cell.wx(x[0, t])[:, 0, 0] + wh @ z).chunk(4)
        c = (f + 1).sigmoid() * c + i.sigmoid() * u.tanh()
        h.append(o.sigmoid() * c.tanh())
        assert gap(out, h[-1]) < 1e-12


# ---- refinement (3.3)


@torch.no_grad()
def test_refinement_commutes_with_any_order_of_frames() -> None:
    block, x = RefineBlock(8, 2, pool=2).double(), torch.randn(2, 5, 5, 6, 8).double()
    order = torch.tensor([3, 0, 4, 1, 2])
    assert gap(block(x[:, order]), block(x)[:, order]) < 1e-12
    assert gap(block(x)[:, :1], block(x[:, :1])) > 1e-6  # frames do see each other


@torch.no_grad()
def test_refinement_block_is_its_equations() -> None:
    """Section 3.3 with an explicit softmax; 5 x 6 pixels in pools of 4 leave a part-filled rim."""
    block, x = RefineBlock(8, 2, pool=4).double(), torch.randn(1, 2, 5, 6, 8).double()
    n = block.norm1(x)
    cells = [(t, rows, cols) for t in range(2) for rows in (slice(4), slice(4, 5))
             for cols in (slice(4), slice(4, 6))]  # fmt: skip
    pooled = torch.stack([n[0, t, rows, cols].mean((0, 1)) for t, rows, cols in cells])
    q, (k, v) = block.q(n[0].flatten(0, 2)), block.kv(pooled).chunk(2, -1)
    heads = []
    for part in (slice(4), slice(4, 8)):
        scores = q[:, part] @ k[:, part].T / 4**0.5
        heads.append(scores.softmax(-1) @ v[:, part])
    y = x + block.out(torch.cat(heads, -1)).view_as(x)
    f = block.expand(block.norm2(y))
    around = block.local(f[0].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert gap(block(x), y + block.shrink(nn.functional.gelu(f + around))) < 1e-12


# ---- Co-DGA (3.4)


def test_message_comes_from_the_row_and_column_of_the_other_stream() -> None:
    module = CoDGA(8).double()
    a, m = (torch.randn(2, 8, 5, 6).double().requires_grad_() for _ in range(2))
    y, x = 1, 4
    cross = torch.zeros(5, 6, dtype=torch.bool)
    cross[y], cross[:, x] = True, True
    for heard, other in zip(module.messages(a, m), (m, a), strict=True):
        (grad,) = torch.autograd.grad(heard[0, :, y, x].sum(), other, retain_graph=True)
        assert torch.equal(grad[0].ne(0).any(0), cross)
        assert not grad[1].any()


@torch.no_grad()
def test_codga_is_its_equations() -> None:
    """Section 3.4, steps 1 to 3, at one pixel of the appearance stream."""
    module, y, x = CoDGA(4).double().eval(), 2, 1
    a, m = torch.randn(1, 4, 3, 5).double(), torch.randn(1, 4, 3, 5).double()
    s = torch.cat((a, m), 1)
    rows, cols = s.mean(3, keepdim=True), s.mean(2, keepdim=True)
    u_row, u_col = (nn.functional.hardswish(module.norm(module.squeeze(z))) for z in (rows, cols))
    s = s * module.gate_rows(u_row).sigmoid() * module.gate_columns(u_col).sigmoid()
    a2, m2 = s.chunk(2, 1)
    q = module.qkv[0](a2)[0, :4, y, x]
    k, v = module.qkv[1](m2)[0, 4:].split(4)
    lines = ((k[:, y], v[:, y]), (k[:, :, x], v[:, :, x]))
    heard = torch.cat([lv @ (q @ lk / 4**0.5).softmax(0) for lk, lv in lines])
    heard = module.message[0](heard.view(1, 8, 1, 1))
    own = a2[..., y : y + 1, x : x + 1]
    new = own + module.update[0](torch.cat((own, heard), 1)).sigmoid() * heard
    assert gap(module(a, m)[0][..., y : y + 1, x : x + 1], new) < 1e-12


@torch.no_grad()
def test_codga_never_mixes_frames() -> None:
    module = CoDGA(8).double().eval()
    a, m = torch.randn(3, 8, 5, 6).double(), torch.randn(3, 8, 5, 6).double()
    before = torch.cat(module(a, m), 1)
    a[1], m[1] = 0, 1
    after = torch.cat(module(a, m), 1)
    assert torch.equal(after[::2], before[::2]) and gap(after[1], before[1]) > 1e-3


@torch.no_grad()
def test_exchanging_the_streams_and_their_weights_exchanges_the_result() -> None:
    module = CoDGA(8).double().eval()
    a, m = torch.randn(3, 8, 5, 6).double(), torch.randn(3, 8, 5, 6).double()
    before_a, before_m = module(a, m)
    for pair in (module.qkv, module.message, module.update):
        exchange(pair[0], pair[1])
    module.squeeze.weight.copy_(module.squeeze.weight.roll(8, 1))
    for gate in (module.gate_rows, module.gate_columns):
        assert gate.bias is not None
        gate.weight.copy_(gate.weight.roll(8, 0))
        gate.bias.copy_(gate.bias.roll(8, 0))
    after_m, after_a = module(m, a)
    assert gap(after_a, before_a) < 1e-12 and gap(after_m, before_m) < 1e-12


# ---- the whole network


def test_every_frame_reaches_every_frame() -> None:
    net = tiny().eval()  # batch norm in training mode mixes frames on its own
    img, flow = clips(1, 3)
    out = net(img.requires_grad_(), flow)["saliency"]
    for here, there in ((0, 2), (2, 0)):
        (grad,) = torch.autograd.grad(out[:, here].sum(), img, retain_graph=True)
        assert grad[:, there].any()


def test_without_backward_cells_and_refinement_the_future_is_unknown() -> None:
    net = tiny(use_refine=False).eval()
    for module in net.propagate:
        nn.init.zeros_(module.out_b.weight)  # type: ignore[arg-type,union-attr]
    img, flow = clips(1, 3)
    out = net(img.requires_grad_(), flow)["saliency"]
    (grad,) = torch.autograd.grad(out[:, 0].sum(), img, retain_graph=True)
    assert not grad[:, 2].any()
    (grad,) = torch.autograd.grad(out[:, 2].sum(), img)
    assert grad[:, 0].any()


@torch.no_grad()
@pytest.mark.parametrize("t", [1, 2])
def test_clips_of_a_batch_are_independent(t: int) -> None:
    net = tiny().eval()
    img, flow = clips(3, t)
    alone = [net(i[None], f[None])["saliency"] for i, f in zip(img, flow, strict=True)]
    assert gap(net(img, flow)["saliency"], torch.cat(alone)) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize(("t", "h", "w"), [(1, 64, 64), (2, 64, 128), (5, 96, 160)])
def test_outputs_are_float32_at_input_size(t: int, h: int, w: int) -> None:
    net = tiny()
    img, flow = clips(1, t, h, w)  # t beyond num_frames is allowed, too
    out = net(img, flow)
    assert list(out) == ["saliency", "side8", "side16", "side32"]
    assert {tuple(x.shape) for x in out.values()} == {(1, t, 1, h, w)}
    with torch.autocast("cpu", torch.bfloat16):
        out = net.eval()(img, flow)
    assert list(out) == ["saliency"] and out["saliency"].dtype == torch.float32
    assert out["saliency"].shape == (1, t, 1, h, w) and out["saliency"].isfinite().all()


def test_wrong_inputs_are_refused_in_words() -> None:
    net = tiny()
    with pytest.raises(
        UsageError, match=r"of one shape \(B, T, 3, H, W\), got \(1, 2, 3, 64, 64\)"
    ):
        net(torch.zeros(1, 2, 3, 64, 64), torch.zeros(1, 2, 2, 64, 64))
    with pytest.raises(UsageError, match="multiples of 32 .best 64., got 64 x 100"):
        net(torch.zeros(1, 1, 3, 64, 100), torch.zeros(1, 1, 3, 64, 100))


def test_wrong_options_are_refused_in_words() -> None:
    with pytest.raises(UsageError, match="dim: expected a multiple of heads=4, got 30"):
        dbsnet.Options(dim=30)
    with pytest.raises(UsageError, match="num_frames: expected at least 1, got 0"):
        dbsnet.Options(num_frames=0)
    with pytest.raises(UsageError, match="unknown backbone 'mobilevit_m'. Did you mean mobilevit"):
        dbsnet.Options(backbone="mobilevit_m")


@pytest.mark.parametrize("t", [1, 3])
@pytest.mark.parametrize(
    "options",
    [{}, {"shared_encoder": True}, {"use_prop": False, "use_refine": False, "use_codga": False}],
    ids=["full", "shared", "bare"],
)
def test_every_parameter_gets_a_gradient(t: int, options: dict[str, bool]) -> None:
    net = tiny(**options)
    gt, valid = torch.ones(2, t, 1, 64, 64), torch.ones(2, t, dtype=torch.bool)
    value = dbsnet.loss(net(*clips(2, t)), {"gt": gt, "valid": valid})
    value.backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


def test_memory_for_the_backward_pass_is_linear_in_the_frames() -> None:
    net = tiny(num_frames=9)
    own = {x.untyped_storage().data_ptr() for x in net.state_dict().values()}
    per_frame = []
    for t in (2, 4, 8):
        kept: dict[int, int] = {}

        def keep(x: Tensor, kept: dict[int, int] = kept) -> Tensor:
            storage = x.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return x

        with saved_tensors_hooks(keep, lambda x: x):
            out = net(*clips(1, t))
        per_frame.append(sum(kept.values()) / t)
        del out
    assert max(per_frame) / min(per_frame) < 1.05


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 12_786_020),
        ({"shared_encoder": True}, 7_848_388),
        ({"backbone": "mobilevit_xs"}, 6_731_396),
        ({"backbone": "mobilevit_xxs"}, 4_752_388),
        ({"num_frames": 5}, 12_786_020 + 6 * 64 * 64),
    ],
)
def test_parameter_count(options: dict[str, Any], count: int) -> None:
    """Section 3.7: the totals pin every width; pools (3.3) have no weights."""
    with torch.device("meta"):
        net = models.create("dbsnet", **options)
    assert sum(p.numel() for p in net.parameters()) == count
    pools = [m.kernel_size for m in net.modules() if isinstance(m, nn.AvgPool2d)]
    assert pools == [4, 4, 2, 2, 1, 1]


@torch.no_grad()
def test_saved_and_loaded_network_gives_the_same_maps(tmp_path: Path) -> None:
    net, other = tiny(), tiny()
    net(*clips(1, 2))  # moves the batch norm statistics, which are part of the state
    torch.save(net.state_dict(), tmp_path / "net.pt")
    other.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    img, flow = clips(1, 2)
    assert torch.equal(net.eval()(img, flow)["saliency"], other.eval()(img, flow)["saliency"])


# ---- learning (3.7)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """At these sizes a second thread gains nothing, and loses tenfold on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def moving_square() -> tuple[Tensor, Tensor, Tensor]:
    """Return img, flow (both (1, 3, 3, 64, 64)) and gt of a square that moves on a still ground."""
    img = (torch.rand(1, 1, 3, 64, 64) / 2).repeat(1, 3, 1, 1, 1)
    flow, gt = torch.ones(1, 3, 3, 64, 64), torch.zeros(1, 3, 1, 64, 64)
    colour, (y, x) = torch.rand(3, 1, 1), torch.randint(6, 38, (2,)).tolist()
    dy, dx = torch.randint(-3, 4, (2,)).tolist()
    hue = torch.tensor([dy + 3, dx + 3, 0]).view(3, 1, 1) / 6
    for t in range(3):
        rows, columns = (slice(z + d * t, z + d * t + 20) for z, d in ((y, dy), (x, dx)))
        for clip, value in ((img, colour), (flow, hue), (gt, 1.0)):
            clip[0, t, :, rows, columns] = value
    return img, flow, gt


@pytest.mark.usefixtures("one_thread")
def test_debug_variant_learns_moving_squares_within_80_steps() -> None:
    """Section 3.7 reports J 0.97 on the training batch after 80 steps; here every batch is new."""
    stage = models.stages("dbsnet")["debug"]
    net = dbsnet.build(stage.network)
    optimiser = torch.optim.AdamW(net.parameters(), lr=stage.optim.lr)
    scores: list[float] = []
    while len(scores) < 80 and not (len(scores) >= 5 and min(scores[-5:]) > 0.8):
        pairs = zip(*(moving_square() for _ in range(stage.batch)), strict=True)
        img, flow, gt = (torch.cat(x) for x in pairs)
        logits = net(img, flow)
        optimiser.zero_grad()
        dbsnet.loss(logits, {"gt": gt, "valid": torch.ones(2, 3).bool()}).backward()
        nn.utils.clip_grad_norm_(net.parameters(), stage.optim.clip_norm)
        optimiser.step()
        found, true = logits["saliency"] > 0, gt > 0
        scores.append(float((found & true).sum() / (found | true).sum()))
    assert min(scores[-5:]) > 0.8, scores


# ---- the recipe (sections 5.7 and 6)


def test_recipe_is_the_published_one() -> None:
    stages = models.stages("dbsnet")
    pretrain, finetune = (stages[name] for name in dbsnet.CHAIN)
    assert pretrain.network == dbsnet.Options(backbone_weights="imagenet")
    assert pretrain.data.datasets == ("YouTubeVOS_train", "DAVIS_train", "FBMS_train")
    assert pretrain.data.anchor_stride == {"YouTubeVOS_train": 5}
    assert finetune.data.datasets == ("DAVIS_train", "FBMS_train")
    assert (pretrain.epochs, pretrain.optim.lr) == (30, 1e-4)
    assert (finetune.epochs, finetune.optim.lr) == (25, 1e-5)
    for stage in (pretrain, finetune):
        assert (stage.batch, stage.data.clip, stage.data.size) == (4, 4, (384, 640))
        assert stage.data.clip == stage.network.num_frames
        assert stage.data.frame_steps == {"DAVIS_train": (1, 2, 3)}
        assert (stage.optim.min_lr, stage.optim.weight_decay) == (1e-6, 1e-2)
