"""MIDNet of A2S-v2, stage 2 for RGB-D, RGB-T and video: two streams, an interactive dual decoder.

Zhou, Qiao, Yang, Lai, Xie: "Texture-guided Saliency Distilling for Unsupervised Salient Object
Detection", CVPR 2023 (github.com/moothes/A2S-v2; `midd` there before 2023-04-12). The decoder is
that of Tu, Li, Li, Lang, Tang: "Multi-interactive Dual-decoder for RGB-thermal Salient Object
Detection", TIP 2021. Trained on the pseudo labels that `a2s` gave, one set of weights a task.

Legend: N pictures, H W the input, C the width of a stem (64). r and t are features of RGB and of
the second picture, levels 0 to 4 at strides 2, 4, 8, 16, 32; g is the global context.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsodpipe.errors import UsageError
from vsodpipe.models._a2s_losses import soft_iou
from vsodpipe.models._backbones import ResNet
from vsodpipe.models._blocks import conv_bn_relu, resized, start_small
from vsodpipe.models._moco import classifier, encode, load_moco
from vsodpipe.recipe import Augment, Data, Group, Optim, Stage, debug

HEAD_WEIGHTS = {"saliency": 1.0, "score1": 0.2}
"""The heads that are trained. score2 and score_global keep their first weights, as published."""
CELLS = (13, 9, 5, 1)
"""Cells a side of the global pooling; a map smaller than that is repeated."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Constructor options."""

    backbone_weights: str | None = None
    """A file of MoCo-v2 (moco_v2_200ep_pretrain.pth.tar), imagenet, or none: random."""
    width: int = 64
    """Channels of the stems, in whose multiples all others are; published weights have 64."""

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2:
            raise UsageError(f"midnet option width: expected an even number > 0, got {self.width}.")


def conv(c_in: int, c_out: int, kernel: int = 3) -> nn.Sequential:
    """Return convolution with bias, batch norm, ReLU: the unit of everything but the encoders."""
    return conv_bn_relu(c_in, c_out, kernel, bias=True)


class ChannelAttention(nn.Module):
    """Channels weighed by what the mean and the maximum of the map say."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        squeeze, expand = nn.Conv2d(dim, dim // 2, 1), nn.Conv2d(dim // 2, dim, 1)
        self.mlp = nn.Sequential(squeeze, nn.ReLU(inplace=True), expand)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, dim, h, w) to the same shape."""
        mean, peak = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        return x * torch.sigmoid(self.mlp(mean) + self.mlp(peak))


class GlobalContext(nn.Module):
    """What the coarsest maps of both streams say about the whole picture."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attend = ChannelAttention(16 * width)
        self.reduce = conv(16 * width, 4 * width)
        self.pooled = nn.ModuleList(nn.Conv2d(4 * width, 2 * width, 1, bias=False) for _ in CELLS)
        self.fuse = conv(12 * width, 8 * width, 1)

    def forward(self, r: Tensor, t: Tensor) -> Tensor:
        """Map two (N, 8 C, h, w) to (N, 8 C, h, w)."""
        x = self.reduce(self.attend(torch.cat((r, t), 1)))
        pooled = [
            resized(torch.relu(squeeze(F.adaptive_max_pool2d(x, cells))), x)
            for squeeze, cells in zip(self.pooled, CELLS, strict=True)
        ]
        fused: Tensor = self.fuse(torch.cat((*pooled, x), 1))
        return fused


class Fusion(nn.Module):
    """One step of a decoder: both decoders' coarser maps, the stream's own map, the context."""

    def __init__(self, coarse: int, dim: int, width: int) -> None:
        super().__init__()
        self.attend_coarse, self.attend_own = ChannelAttention(2 * coarse), ChannelAttention(dim)
        self.coarse = conv(2 * coarse, 2 * width)
        self.context = conv(8 * width, 2 * width)
        self.own = conv(dim, 2 * width)
        self.out = conv(2 * width, dim)

    def forward(self, this: Tensor, other: Tensor, own: Tensor, g: Tensor) -> Tensor:
        """Map two (N, coarse, h/2, w/2), `own` (N, dim, h, w) and g to (N, dim, h, w)."""
        u = self.coarse(resized(self.attend_coarse(torch.cat((this, other), 1)), own))
        v = self.own(self.attend_own(own))
        out: Tensor = self.out(u + v + self.context(resized(g, own)))
        return out


class MIDNet(nn.Module):
    """A picture and a second one to saliency logits."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        width = options.width
        self.encoder, self.encoder_aux = ResNet("resnet50", width), ResNet("resnet50", width)
        dims = (width, 2 * width, 4 * width, 8 * width, 8 * width)  # of levels 0 to 4
        pairs = list(zip(self.encoder.channels, dims[1:], strict=True))
        self.reduce = nn.ModuleList(conv(c, dim, 1) for c, dim in pairs)
        self.reduce_aux = nn.ModuleList(conv(c, dim, 1) for c, dim in pairs)
        self.context = GlobalContext(width)
        # both lists from fine to coarse, like the levels
        self.fuse, self.fuse_aux = (
            nn.ModuleList(Fusion(dims[k + 1], dims[k], width) for k in range(4)) for _ in range(2)
        )
        self.attend = ChannelAttention(2 * width)
        self.score = nn.Conv2d(2 * width, 1, 1)
        self.score1, self.score2 = nn.Conv2d(width, 1, 1), nn.Conv2d(width, 1, 1)
        self.score_global = nn.Conv2d(8 * width, 1, 1)
        for head in (self.score2, self.score_global):
            head.requires_grad_(False)
        # Part of the published files, of nothing else.
        self.unused = nn.ModuleDict(
            {"fc": classifier(self.encoder), "fc_aux": classifier(self.encoder_aux)}
        )
        for name, module in self.named_children():
            if not name.startswith("encoder"):
                start_small(module)
        if options.backbone_weights is not None:
            load_moco([self.encoder, self.encoder_aux], options.backbone_weights)

    def forward(self, img: Tensor, aux: Tensor) -> dict[str, Tensor]:
        """Map `img` and `aux`, both (N, 3, H, W), to float32 logits.

        `img` is ImageNet-normalised RGB, `aux` a depth, flow or thermal picture in 0..1. H and W
        are free. Keys: `saliency`, `score1`, `score2` (N, 1, H/2, W/2), `score_global`
        (N, 1, H/32, W/32). The last two are untrained in published weights.
        """
        if img.ndim != 4 or img.shape[1] != 3 or img.shape != aux.shape:
            raise UsageError(
                "midnet: expected img and aux of one shape (N, 3, H, W), "
                f"got {tuple(img.shape)} and {tuple(aux.shape)}."
            )
        r = _levels(self.encoder, self.reduce, img)
        t = _levels(self.encoder_aux, self.reduce_aux, aux)
        g = self.context(r[4], t[4])
        # The decoders begin crossed: that of RGB with the other stream's coarsest map.
        d, e = self.fuse[3](g, t[4], r[3], g), self.fuse_aux[3](g, r[4], t[3], g)
        for k in (2, 1, 0):
            d, e = self.fuse[k](d, e, r[k], g), self.fuse_aux[k](e, d, t[k], g)
        logits = {
            "saliency": self.score(self.attend(torch.cat((d, e), 1))),
            "score1": self.score1(d),
            "score2": self.score2(e),
            "score_global": self.score_global(g),
        }
        return {name: x.float() for name, x in logits.items()}


def _levels(encoder: ResNet, reduce: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    stem, *maps = encode(encoder, x)
    return [stem, *(squeeze(y) for squeeze, y in zip(reduce, maps, strict=True))]


def build(options: Options) -> MIDNet:
    """Return the network; WeightsError if asked-for backbone weights cannot be had."""
    return MIDNet(options)


def loss(
    logits: dict[str, Tensor], sample: dict[str, Tensor], weights: Mapping[str, float] = {}
) -> Tensor:
    """Return one minus the soft IoU of two heads, mean over pictures with a (pseudo) label.

    `sample["gt"]` is (N, 1, H, W) in 0..1, above one half the object, `sample["valid"]` (N,) bool;
    the maps are enlarged to its size. `weights` are factors in place of `HEAD_WEIGHTS`.
    """
    valid = sample["valid"]
    gt = sample["gt"][valid]
    factors = HEAD_WEIGHTS | dict(weights)
    each = torch.stack([w * soft_iou(logits[name][valid], gt) for name, w in factors.items()])
    return each.sum() / max(len(gt), 1)


LOSSES = tuple(HEAD_WEIGHTS)
SAMPLING: Literal["frame"] = "frame"
CHAIN = ("o",)

# The stages are the published tasks: d RGB-D, o video, t RGB-T. NAME_pseudo is a training set with
# pseudo labels for masks.
_SECOND = {"d": "depth", "o": "flow", "t": "thermal"}
_SETS = {
    "d": ("RGBD-TR_pseudo",),
    "o": ("DAVIS_pseudo", "DAVSOD_pseudo"),
    "t": ("VT5000_pseudo",),
}
_STAGE = Stage(
    name="o",
    network=Options(),
    data=Data(
        datasets=_SETS["o"],
        inputs=("img", "flow"),
        size=(320, 320),
        resize="bicubic",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    augment=Augment(flip=0.5),
    optim=Optim(
        kind="sgd",
        lr=5e-3,
        groups={"encoder": Group(lr=0.1), "encoder_aux": Group(lr=0.1)},
        schedule="linear",
        min_lr=1e-3,
        momentum=0.9,
        weight_decay=0.0,
        clip_norm=0.0,
    ),
    epochs=10,
    batch=8,
    precision="fp32",
)

STAGES: tuple[Stage, ...] = (
    *(
        replace(
            _STAGE,
            name=task,
            data=replace(_STAGE.data, datasets=names, inputs=("img", _SECOND[task])),
        )
        for task, names in _SETS.items()
    ),
    debug(_STAGE, Options(width=8), replace(_STAGE.optim, lr=0.05, min_lr=0.01)),
)

# Our names in those of the published files; each rule applies to what those before have made.
PUBLISHED: tuple[tuple[str, str], ...] = (
    (r"^unused\.fc\.", "encoder.fc."),
    (r"^unused\.fc_aux\.", "t_net.fc."),
    (r"^encoder_aux\.", "t_net."),
    (r"^reduce\.", "trans_rgb."),
    (r"^reduce_aux\.", "trans_t."),
    (r"^context\.attend\.mlp\.", "decoder.global_info.ca.fus."),
    (r"^context\.reduce\.", "decoder.global_info.de_chan."),
    (r"^context\.pooled\.(\d)\.", r"decoder.global_info.b\1.1."),
    (r"^context\.fuse\.", "decoder.global_info.fus."),
    (r"^fuse(_aux)?\.0\.", r"decoder.gfb1\1."),
    (r"^fuse(_aux)?\.1\.", r"decoder.gfb2\1."),
    (r"^fuse(_aux)?\.2\.", r"decoder.gfb3\1."),
    (r"^fuse(_aux)?\.3\.", r"decoder.gfb4\1."),
    (r"^decoder\.gfb(\d)\.", r"decoder.gfb\1_1."),
    (r"^decoder\.gfb(\d)_aux\.", r"decoder.gfb\1_2."),
    (r"\.attend_coarse\.mlp\.", ".ca1.fus."),
    (r"\.attend_own\.mlp\.", ".ca2.fus."),
    (r"\.coarse\.", ".conv1."),
    (r"\.context\.", ".conv_globalinfo."),
    (r"\.own\.", ".conv_curfeat."),
    (r"\.out\.", ".conv_out."),
    (r"^attend\.mlp\.", "decoder.refine.ca.fus."),
    (r"^score\.", "decoder.refine.score."),
    (r"^score(\d)\.", r"decoder.score_\1."),
    (r"^score_global\.", "decoder.score_global."),
)
