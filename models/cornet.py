"""CORNet of A2S-v2, stage 2 for RGB: regions and local detail multiply to saliency.

Zhou, Qiao, Yang, Lai, Xie: "Texture-guided Saliency Distilling for Unsupervised Salient Object
Detection", CVPR 2023 (github.com/moothes/A2S-v2); the network is that of their earlier "Activation
to Saliency", TCSVT 2023. Trained on the pseudo labels that `a2s` gave.

Legend: N pictures, H W the input, C the common width. a0 to a4 are maps of the encoder at strides
2, 4, 8, 16, 32, brought to C channels. All resizes are bilinear without aligned corners.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsodpipe.errors import UsageError
from vsodpipe.models._a2s_losses import soft_iou
from vsodpipe.models._backbones import ResNet
from vsodpipe.models._moco import classifier, encode, load_moco
from vsodpipe.recipe import Augment, Data, Group, Optim, Stage, debug


@dataclass(frozen=True, kw_only=True)
class Options:
    """Constructor options."""

    backbone_weights: str | None = None
    """A file of MoCo-v2 (moco_v2_200ep_pretrain.pth.tar), imagenet, or none: random."""
    width: int = 64
    """Channels of the decoder, in whose multiples the encoder is; published weights have 64."""

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2:
            raise UsageError(f"cornet option width: expected an even number > 0, got {self.width}.")


def conv_gn_relu(c_in: int, c_out: int) -> nn.Sequential:
    """Return 3x3 convolution, group norm over pairs of channels, ReLU."""
    conv = nn.Conv2d(c_in, c_out, 3, padding=1)
    return nn.Sequential(conv, nn.GroupNorm(c_out // 2, c_out), nn.ReLU(inplace=True))


def resized(x: Tensor, like: Tensor) -> Tensor:
    """Return `x` at the size of `like`."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


class Complement(nn.Module):
    """Two neighbouring maps, each weighed by how it differs from a guide, and the guide."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.guide = conv_gn_relu(dim, dim)
        self.gate_fine, self.gate_coarse = (nn.Conv2d(dim, dim, 3, padding=1) for _ in range(2))
        self.fuse = nn.Conv2d(3 * dim, dim, 3, padding=1)

    def forward(self, fine: Tensor, coarse: Tensor, guide: Tensor) -> Tensor:
        """Map three (N, C, ., .) of any sizes to (N, C, h, w), the size of `fine`."""
        guide, coarse = resized(self.guide(guide), fine), resized(coarse, fine)
        fine = fine * torch.sigmoid(self.gate_fine(fine - guide))
        coarse = coarse * torch.sigmoid(self.gate_coarse(coarse - guide))
        fused: Tensor = self.fuse(torch.cat((fine, coarse, guide), 1))
        return fused


class CORNet(nn.Module):
    """A picture to saliency logits."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        dim = options.width
        self.encoder = ResNet("resnet50", dim)
        widths = (dim, *self.encoder.channels)
        self.adapters = nn.ModuleList(conv_gn_relu(width, dim) for width in widths)
        self.region, self.local = Complement(dim), Complement(dim)
        double = nn.Upsample(scale_factor=2, mode="bilinear")
        self.guide = nn.Sequential(
            *conv_gn_relu(dim, 2 * dim), double, *conv_gn_relu(2 * dim, dim), double
        )
        # Part of the published files, of nothing else.
        self.unused = nn.ModuleDict({"fc": classifier(self.encoder)})
        if options.backbone_weights is not None:
            load_moco([self.encoder], options.backbone_weights)

    def forward(self, img: Tensor) -> dict[str, Tensor]:
        """Map `img` (N, 3, H, W), ImageNet-normalised, to float32 logits `saliency` (N, 1, H, W).

        H and W are free.
        """
        if img.ndim != 4 or img.shape[1] != 3:
            raise UsageError(f"cornet: expected img (N, 3, H, W), got {tuple(img.shape)}.")
        maps = zip(self.adapters, encode(self.encoder, img), strict=True)
        a0, a1, a2, a3, a4 = (adapt(x) for adapt, x in maps)
        region = self.region(a2, a3, a4)
        local = self.local(a0, a1, self.guide(a4))
        # no convolution predicts: the sum over channels does
        p = (local * resized(region, a0)).float().sum(1, keepdim=True)
        return {"saliency": resized(p, img)}


def build(options: Options) -> CORNet:
    """Return the network; WeightsError if asked-for backbone weights cannot be had."""
    return CORNet(options)


def loss(
    logits: dict[str, Tensor], sample: dict[str, Tensor], weights: Mapping[str, float] = {}
) -> Tensor:
    """Return one minus the soft IoU, mean over pictures with a (pseudo) label.

    `sample["gt"]` is (N, 1, H, W) in 0..1, above one half the object, `sample["valid"]` (N,) bool;
    `weights` may hold a factor of `saliency`.
    """
    valid = sample["valid"]
    gt = sample["gt"][valid]
    each = weights.get("saliency", 1.0) * soft_iou(logits["saliency"][valid], gt)
    return each.sum() / max(len(gt), 1)


LOSSES = ("saliency",)
SAMPLING: Literal["frame"] = "frame"
CHAIN = ("c",)

# Named like the published task. DUTS_pseudo is the training set with pseudo labels for masks.
_STAGE = Stage(
    name="c",
    network=Options(),
    data=Data(
        datasets=("DUTS_pseudo",),
        inputs=("img",),
        size=(320, 320),
        resize="bicubic",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    augment=Augment(flip=0.5),
    optim=Optim(
        kind="sgd",
        lr=5e-3,
        groups={"encoder": Group(lr=0.1)},
        schedule="linear",
        min_lr=1e-3,
        momentum=0.9,
        weight_decay=5e-4,
        decay_all=True,
        clip_norm=0.0,
    ),
    epochs=10,
    batch=8,
    precision="fp32",
)

STAGES: tuple[Stage, ...] = (
    _STAGE,
    replace(_STAGE, name="msra", data=replace(_STAGE.data, datasets=("MSRA-B_pseudo",))),
    debug(_STAGE, Options(width=8), replace(_STAGE.optim, lr=0.05, min_lr=0.01)),
)

# Our names in those of the published files; each rule applies to what those before have made.
PUBLISHED: tuple[tuple[str, str], ...] = (
    (r"^unused\.fc\.", "encoder.fc."),
    (r"^adapters\.", "decoder.adapter"),
    (r"^guide\.", "decoder.gb_conv."),
    (r"^(region|local)\.guide\.", r"decoder.\1.gconv."),
    (r"^(region|local)\.gate_fine\.", r"decoder.\1.res_conv1."),
    (r"^(region|local)\.gate_coarse\.", r"decoder.\1.res_conv2."),
    (r"^(region|local)\.", r"decoder.\1."),
)
