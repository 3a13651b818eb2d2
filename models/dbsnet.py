"""DBSNet: dense bidirectional propagation of appearance and motion through a clip.

Fan, Su, Zhang, Liu: "Dense Bidirectional Spatio-temporal Feature Propagation Network for
Unsupervised Video Object Segmentation", ACM MM 2022, doi 10.1145/3503161.3548039. No code of the
original was released and only the abstract is open: the modules' names and roles are published,
their equations are this project's decisions (section numbers are those of its specification).

Legend: B clips, T frames, N = B.T frames, H W the input, h w a map, C the common width `dim`,
K recurrent lags. A is appearance (the RGB frame), M motion (the flow picture). Levels 1, 2, 3, 4
are maps at strides 4, 8, 16, 32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsodpipe.errors import UsageError, unknown
from vsodpipe.models._backbones import MOBILEVITS, load_mobilevit, mobilevit
from vsodpipe.models._blocks import conv_bn_relu
from vsodpipe.models._losses import bce_soft_iou
from vsodpipe.recipe import Augment, Data, Optim, Stage

SIDES = ("side8", "side16", "side32")
SIDE_WEIGHT = 0.4
POOLS = (4, 2, 1)  # levels 2, 3, 4: keys and values always live on the stride-32 grid


@dataclass(frozen=True, kw_only=True)
class Options:
    """Constructor options."""

    backbone: str = "mobilevit_s"
    """mobilevit_xxs, mobilevit_xs or mobilevit_s."""
    backbone_weights: str | None = None
    """imagenet (downloaded on first use), a local .safetensors or .pth file, or none: random."""
    dim: int = 64
    """Common width C of all maps after the encoders."""
    num_frames: int = 4
    """Frames of a training clip; the recurrence looks back over num_frames - 1 of them."""
    heads: int = 4
    """Attention heads of the refinement; they divide dim."""
    depth: int = 2
    """Refinement blocks per level."""
    shared_encoder: bool = False
    """One encoder for frames and flow pictures instead of one each."""
    use_prop: bool = True
    """False leaves the dense bi-ConvLSTM out (ablation)."""
    use_refine: bool = True
    """False leaves the Transformer refinement out (ablation)."""
    use_codga: bool = True
    """False leaves Co-DGA out: one convolution merges the streams (ablation)."""

    def __post_init__(self) -> None:
        if self.backbone not in MOBILEVITS:
            raise unknown("backbone", self.backbone, MOBILEVITS)
        for name in ("dim", "num_frames", "heads", "depth"):
            if getattr(self, name) < 1:
                value = getattr(self, name)
                raise UsageError(f"dbsnet option {name}: expected at least 1, got {value}.")
        if self.dim % self.heads:
            raise UsageError(
                f"dbsnet option dim: expected a multiple of heads={self.heads}, got {self.dim}."
            )


class DenseConvLSTM(nn.Module):
    """ConvLSTM whose step sees the hidden states of all last K steps (3.2), DenseNet in time.

    The abstract says dense, not how; the later README credits are DenseNet and ConvLSTM.
    """

    def __init__(self, dim: int, lags: int) -> None:
        super().__init__()
        self.lags = lags
        self.wx = nn.Conv2d(dim, 4 * dim, 3, padding=1)
        # No bias in these two: zero states must contribute exactly nothing, so that the first step
        # is no special case (one would leave both without gradient at T = 1 and upset DDP).
        self.mix = nn.Conv2d(lags * dim, dim, 1, bias=False)
        self.wh = nn.Conv2d(dim, 4 * dim, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C, h, w) to the hidden states, same shape; step t sees steps 1..t."""
        from_x = self.wx(x.flatten(0, 1)).unflatten(0, x.shape[:2])  # (B, T, 4C, h, w)
        c = torch.zeros_like(x[:, 0])
        past, states = [c] * self.lags, []  # past: h_{t-1}, h_{t-2}, ... h_{t-K}
        for gates in from_x.unbind(1):
            i, f, o, u = (gates + self.wh(self.mix(torch.cat(past, 1)))).chunk(4, 1)
            c = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(u)
            h = torch.sigmoid(o) * torch.tanh(c)
            past = [h, *past[:-1]]
            states.append(h)
        return torch.stack(states, 1)


class BiPropagation(nn.Module):
    """Forward and backward cells side by side, added to their input (3.2).

    Parallel, not cascaded: reversing the clip and exchanging the cells reverses the result.
    """

    def __init__(self, dim: int, lags: int) -> None:
        super().__init__()
        self.fwd = DenseConvLSTM(dim, lags)
        self.bwd = DenseConvLSTM(dim, lags)
        self.out_f = nn.Conv2d(dim, dim, 1)
        self.out_b = nn.Conv2d(dim, dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C, h, w) to the same shape."""
        h_f = self.fwd(x).flatten(0, 1)
        h_b = self.bwd(x.flip(1)).flip(1).flatten(0, 1)
        return x + (self.out_f(h_f) + self.out_b(h_b)).unflatten(0, x.shape[:2])


class RefineBlock(nn.Module):
    """Pre-norm Transformer block over all pixels of all frames of a clip (3.3).

    No temporal encoding on purpose: order is in the recurrent states already, and the block stays
    indifferent to the number and order of frames. Zero padding of the depthwise convolution tells
    pixels where they are.
    """

    def __init__(self, dim: int, heads: int, pool: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.pool = nn.AvgPool2d(pool, ceil_mode=True, count_include_pad=False)
        self.out = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, 2 * dim)
        self.local = nn.Conv2d(2 * dim, 2 * dim, 3, padding=1, groups=2 * dim)
        self.shrink = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, h, w, C) to the same shape."""
        x = x + self._attend(self.norm1(x))
        f = self.expand(self.norm2(x))
        around = self.local(f.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.shrink(F.gelu(f + around.unflatten(0, x.shape[:2])))

    def _attend(self, x: Tensor) -> Tensor:
        pooled = self.pool(x.flatten(0, 1).permute(0, 3, 1, 2))  # (B.T, C, h/r, w/r)
        pooled = pooled.unflatten(0, x.shape[:2]).permute(0, 1, 3, 4, 2).flatten(1, 3)
        q = self._split(self.q(x.flatten(1, 3)))
        k, v = (self._split(y) for y in self.kv(pooled).chunk(2, -1))
        # Fused attention: the score matrix, all pixels by all pooled pixels, is never stored.
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2)).view_as(x)

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, n, C/heads)


class Refinement(nn.Module):
    """`depth` blocks on maps (B, T, C, h, w)."""

    def __init__(self, dim: int, heads: int, depth: int, pool: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(RefineBlock(dim, heads, pool) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C, h, w) to the same shape."""
        refined: Tensor = self.blocks(x.permute(0, 1, 3, 4, 2))
        return refined.permute(0, 1, 4, 2, 3)


def axial_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend from each pixel to its row and to its column: three (N, C, h, w) -> (N, 2C, h, w).

    A row (or column) takes the place of an attention head: pixels of different rows do not meet.
    """
    messages = []
    for order, back in (((0, 2, 3, 1), (0, 3, 1, 2)), ((0, 3, 2, 1), (0, 3, 2, 1))):
        lines = F.scaled_dot_product_attention(q.permute(order), k.permute(order), v.permute(order))
        messages.append(lines.permute(back))
    return torch.cat(messages, 1)


class CoDGA(nn.Module):
    """Co-operative direction-aware graph attention between the two streams of a frame (3.4).

    Nodes are the pixels of both streams; a pixel is linked to its row and its column in the
    *other* stream. Lists of two modules hold appearance first, motion second.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = max(8, 2 * dim // 8)
        self.squeeze = nn.Conv2d(2 * dim, hidden, 1, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.gate_rows = nn.Conv2d(hidden, 2 * dim, 1)
        self.gate_columns = nn.Conv2d(hidden, 2 * dim, 1)
        self.qkv = nn.ModuleList(nn.Conv2d(dim, 3 * dim, 1) for _ in range(2))
        self.message = nn.ModuleList(nn.Conv2d(2 * dim, dim, 1) for _ in range(2))
        self.update = nn.ModuleList(nn.Conv2d(2 * dim, dim, 1) for _ in range(2))

    def forward(self, a: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """Update appearance and motion, each (N, C, h, w), from one another."""
        a, m = self.gated(a, m)
        heard_a, heard_m = self.messages(a, m)
        open_a = torch.sigmoid(self.update[0](torch.cat((a, heard_a), 1)))
        open_m = torch.sigmoid(self.update[1](torch.cat((m, heard_m), 1)))
        return a + open_a * heard_a, m + open_m * heard_m

    def gated(self, a: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """Weigh rows and columns of both streams by strips that saw both (Coordinate Attention)."""
        s = torch.cat((a, m), 1)
        strips = torch.cat((s.mean(3, keepdim=True), s.mean(2, keepdim=True).mT), 2)
        u = F.hardswish(self.norm(self.squeeze(strips)))  # (N, 16, h + w, 1)
        u_row, u_col = u.split((s.shape[2], s.shape[3]), 2)
        s = s * torch.sigmoid(self.gate_rows(u_row)) * torch.sigmoid(self.gate_columns(u_col.mT))
        a, m = s.chunk(2, 1)
        return a, m

    def messages(self, a: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """Return what each stream hears from the other, both (N, C, h, w)."""
        qa, ka, va = self.qkv[0](a).chunk(3, 1)
        qm, km, vm = self.qkv[1](m).chunk(3, 1)
        heard_a = self.message[0](axial_attention(qa, km, vm))
        heard_m = self.message[1](axial_attention(qm, ka, va))
        return heard_a, heard_m


class DBSNet(nn.Module):
    """Clips of frames and flow pictures to saliency logits."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        dim, lags = options.dim, max(1, options.num_frames - 1)
        count = 1 if options.shared_encoder else 2
        self.encoders = nn.ModuleList(mobilevit(options.backbone) for _ in range(count))
        if options.backbone_weights is not None:
            load_mobilevit(self.encoders, options.backbone, options.backbone_weights)
        widths = self.encoders[0].feature_info.channels()  # type: ignore[union-attr,operator]
        self.laterals = nn.ModuleList(
            nn.ModuleList(conv_bn_relu(width, dim, 1) for width in widths) for _ in range(2)
        )
        # One module per level serves both streams (stacked on the batch axis): the laterals map
        # both to a common space. Level 1 is not propagated: four times the cost, little context.
        self.propagate = nn.ModuleList(
            BiPropagation(dim, lags) if options.use_prop else nn.Identity() for _ in POOLS
        )
        self.refine = nn.ModuleList(
            Refinement(dim, options.heads, options.depth, pool)
            if options.use_refine
            else nn.Identity()
            for pool in POOLS
        )
        self.codga = nn.ModuleList(CoDGA(dim) for _ in POOLS if options.use_codga)
        self.fuse = nn.ModuleList(conv_bn_relu(2 * dim, dim, 3) for _ in range(4))
        self.decode = nn.ModuleList(
            nn.Sequential(conv_bn_relu(dim, dim, 3), conv_bn_relu(dim, dim, 3)) for _ in POOLS
        )
        self.heads = nn.ModuleList(nn.Conv2d(dim, 1, 3, padding=1) for _ in range(4))

    def forward(self, img: Tensor, flow: Tensor) -> dict[str, Tensor]:
        """Map `img` and `flow`, both (B, T, 3, H, W) in 0..1, to float32 logits (B, T, 1, H, W).

        `flow` is the colour picture of the flow. H and W are multiples of 32, T is free. Keys:
        `saliency`, and in training mode `side8`, `side16`, `side32`, all at input size.
        """
        _check_input(img, flow)
        levels = zip(self._encode(0, img), self._encode(1, flow), strict=True)
        fused = []
        for level, (a, m) in enumerate(levels):  # each (N, C, h, w)
            if level > 0:
                both = torch.cat((a, m)).unflatten(0, (-1, img.shape[1]))  # (2B, T, C, h, w)
                both = self.refine[level - 1](self.propagate[level - 1](both))
                a, m = both.flatten(0, 1).chunk(2)
            if level > 0 and len(self.codga) > 0:
                a, m = self.codga[level - 1](a, m)
            fused.append(self.fuse[level](torch.cat((a, m), 1)))
        maps = self._decode(fused)
        names = ("saliency", *SIDES) if self.training else ("saliency",)
        # Not strict: the heads of the side maps rest in eval mode.
        heads = zip(names, self.heads, maps, strict=False)
        return {name: self._logits(head, x, img) for name, head, x in heads}

    def _encode(self, stream: int, x: Tensor) -> list[Tensor]:
        maps = self.encoders[stream % len(self.encoders)](x.flatten(0, 1))
        laterals: Sequence[nn.Module] = self.laterals[stream]  # type: ignore[assignment]
        return [lateral(y) for lateral, y in zip(laterals, maps, strict=True)]

    def _decode(self, fused: list[Tensor]) -> list[Tensor]:
        """Top-down add and refine (3.5); maps in and out are at strides 4, 8, 16, 32."""
        maps = [fused[3]]
        for level in (2, 1, 0):
            up = F.interpolate(maps[0], size=fused[level].shape[-2:], mode="bilinear")
            maps.insert(0, self.decode[level](fused[level] + up))
        return maps

    def _logits(self, head: nn.Module, x: Tensor, img: Tensor) -> Tensor:
        logits = head(x).float()  # resized in float32 under mixed precision, too
        resized = F.interpolate(logits, size=img.shape[-2:], mode="bilinear")
        return resized.unflatten(0, img.shape[:2])


def _check_input(img: Tensor, flow: Tensor) -> None:
    if img.ndim != 5 or img.shape[2] != 3 or img.shape != flow.shape:
        raise UsageError(
            "dbsnet: expected img and flow of one shape (B, T, 3, H, W), "
            f"got {tuple(img.shape)} and {tuple(flow.shape)}."
        )
    if img.shape[-2] % 32 or img.shape[-1] % 32:
        raise UsageError(
            "dbsnet: expected height and width in multiples of 32 (best 64), "
            f"got {img.shape[-2]} x {img.shape[-1]}. Change the recipe key data.size."
        )


def build(options: Options) -> DBSNet:
    """Return the network; WeightsError if asked-for backbone weights cannot be had."""
    return DBSNet(options)


def loss(
    logits: dict[str, Tensor], sample: dict[str, Tensor], weights: Mapping[str, float] = {}
) -> Tensor:
    """Return the mean over annotated frames of BCE + soft IoU, side maps at 0.4 (section 4).

    `logits` as from forward, `sample["gt"]` (B, T, 1, H, W) in 0..1, `sample["valid"]` (B, T) bool.
    `weights` are factors of heads in place of these.
    A batch without any annotation gives a zero that is still connected to the network.
    """
    valid = sample["valid"]
    gt = sample["gt"][valid]  # (n, 1, H, W)
    total = weights.get("saliency", 1.0) * bce_soft_iou(logits["saliency"][valid], gt)
    for name in SIDES:
        if name in logits:
            total = total + weights.get(name, SIDE_WEIGHT) * bce_soft_iou(logits[name][valid], gt)
    return total.sum() / max(len(gt), 1)


LOSSES = ("saliency", *SIDES)
SAMPLING: Literal["clip"] = "clip"
CHAIN = ("pretrain", "finetune")

# The paper's README names data, stages, two GPUs and the stride of 5; optimiser, size and
# augmentation are those of the same author's later repositories (sections 5.7 and 6). A batch of 4
# is two clips on each GPU.
_AUGMENT = Augment(
    crop=60,
    flip=0.5,
    rotate=10.0,
    rotate_probability=0.5,
    brightness=(0.5, 1.5),
    contrast=(0.5, 1.5),
    saturation=(0.0, 2.0),
    sharpness=(0.0, 3.0),
)


# Steps of 1 to 3 for DAVIS only (5.7): YouTube-VOS is at 6 fps already, the masks of FBMS sparse.
_DATA = Data(
    datasets=("DAVIS_train", "FBMS_train"),
    size=(384, 640),
    clip=4,
    frame_steps={"DAVIS_train": (1, 2, 3)},
)

STAGES: tuple[Stage, ...] = (
    Stage(
        name="pretrain",
        network=Options(backbone_weights="imagenet"),
        data=replace(
            _DATA,
            datasets=("YouTubeVOS_train", *_DATA.datasets),
            anchor_stride={"YouTubeVOS_train": 5},
        ),
        augment=_AUGMENT,
        optim=Optim(lr=1e-4, min_lr=1e-6, weight_decay=1e-2, clip_norm=1.0),
        epochs=30,
        batch=4,
    ),
    Stage(
        name="finetune",
        network=Options(backbone_weights=None),  # all weights come from the stage before
        data=_DATA,
        augment=_AUGMENT,
        optim=Optim(lr=1e-5, min_lr=1e-6, weight_decay=1e-2, clip_norm=1.0),
        epochs=25,
        batch=4,
    ),
    Stage(
        name="debug",
        network=Options(backbone="mobilevit_xxs", dim=32, num_frames=3, depth=1),
        data=Data(datasets=_DATA.datasets, size=(64, 96), clip=3),
        augment=Augment(flip=0.5),
        optim=Optim(lr=1e-3, min_lr=1e-6, weight_decay=1e-2, clip_norm=1.0),
        epochs=1,
        batch=2,
        steps_per_epoch=80,
    ),
)
