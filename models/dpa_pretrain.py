"""DPA's image network: what the two streams of `dpa` learn from still images first.

Cho, Lee, Lee, Lee, Choi, Kim, Lee: "Dual Prototype Attention for Unsupervised Video Object
Segmentation", CVPR 2024. What is computed is what the published code (github.com/Hydragon516/DPA,
pretrain.py) trains: one stream and the decoder of the video network; `dpa` takes both over.

Legend: B images, H W the input, h w a map, D = 2 `width` the common width of maps, which is also
the number K of prototypes. Levels 1 to 5 are the stages of VGG-16 at strides 1, 2, 4, 8, 16,
level 6 is at 32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsodpipe.errors import UsageError
from vsodpipe.models._backbones import VGG16, load_vgg16
from vsodpipe.models._blocks import ASPP, conv_bn_relu, resized, start_small
from vsodpipe.recipe import Augment, Data, Maps, Optim, Stage, Validate, debug

HEADS = ("saliency", "side2", "side3", "side4")
"""The four outputs at strides 1, 2, 4, 8; the published order is the reverse."""
NEIGHBOURS = 10


@dataclass(frozen=True, kw_only=True)
class Options:
    """Constructor options."""

    backbone_weights: str | None = None
    """imagenet (downloaded on first use), a VGG-16 file with torchvision's keys, or none."""
    width: int = 64
    """Channels of level 1, in whose multiples all others are; published weights have 64."""

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2:
            raise UsageError(
                f"dpa option width: expected an even number above 0, got {self.width}."
            )


def prototypes(x: Tensor) -> Tensor:
    """Map (B, D, h, w) to the mean feature under each channel's own attention, (B, K, D).

    The attention is no part of the gradient.
    """
    pixels = x.flatten(2)
    return pixels.softmax(-1).detach() @ pixels.mT


def cosine_map(p: Tensor, x: Tensor) -> Tensor:
    """Return the cosines of prototypes (B, K, D) and the pixels of (B, D, h, w): (B, K, h, w).

    The published code divides by zero where a pixel is all zeros; here its cosine is 0.
    """
    cosines = _unit(p, -1) @ _unit(x.flatten(2), 1)
    return cosines.unflatten(-1, x.shape[-2:])


def _unit(x: Tensor, dim: int) -> Tensor:
    """Return x by its length along `dim`; what has none stays 0, with a gradient in proportion."""
    length = x.norm(dim=dim, keepdim=True)
    return x / length.where(length > 1e-12, 1.0)


class Attention(nn.Module):
    """What one set of tokens (B, n, D) hears, weighed by its likeness to another set. Unscaled."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim)
        self.query = nn.Linear(dim, dim // 2)
        self.key = nn.Linear(dim, dim // 2)
        self.value = nn.Linear(dim, dim // 2)
        self.out = nn.Linear(dim // 2, dim)

    def normed(self, tokens: Tensor) -> Tensor:
        """Return batch norm and ReLU of tokens, same shape."""
        return torch.relu(self.norm(tokens.mT)).mT

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Map normed a and b, both (B, n, D), to a message for a. Its values are a's own."""
        heard = F.scaled_dot_product_attention(self.query(a), self.key(b), self.value(a), scale=1.0)
        message: Tensor = self.out(heard)
        return message


class EdgeConv(nn.Module):
    """Prototypes from their nearest prototypes (Wang et al., Dynamic Graph CNN, 2019)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * dim, dim, 1, bias=False)
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, p: Tensor) -> Tensor:
        """Map (B, K, D) to the same shape."""
        # Rounding decides between neighbours at nearly one distance, so that this is computed in
        # the published order: the chosen set is then the published one on most machines.
        square = p.square().sum(-1, keepdim=True)
        nearness = -square + 2 * (p @ p.mT) - square.mT
        chosen = nearness.topk(min(NEIGHBOURS, p.shape[1]), -1).indices  # (B, K, k), itself is one
        batch = torch.arange(len(p), device=p.device).view(-1, 1, 1)
        own = p[:, :, None]
        near = p[batch, chosen]  # (B, K, k, D)
        edges = torch.cat((near - own, own.expand_as(near)), -1).permute(0, 3, 1, 2)
        return F.leaky_relu(self.norm(self.conv(edges)), 0.2).amax(-1).mT


class PrototypeGraph(nn.Module):
    """Prototypes attend to each other, pass a graph of three layers, and return to the pixels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attention = Attention(dim)
        self.edges = nn.Sequential(*(EdgeConv(dim) for _ in range(3)))
        # Part of the published files, of nothing else.
        unused = {"fc": nn.Linear(dim, 1), "out": conv_bn_relu(2 * dim, dim, 1, bias=True)}
        self.unused = nn.ModuleDict(unused).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, h, w) to cosine maps (B, K, h, w)."""
        p = prototypes(x)
        z = self.attention.normed(p)
        return cosine_map(self.edges(p + self.attention(z, z)), x)


class InterModality(nn.Module):
    """One stream's half of IMA, the inter-modality attention: maps of its own prototypes.

    With still images there is one stream, and nothing between `maps` and `fuse`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.maps = PrototypeGraph(2 * width)
        self.fuse = conv_bn_relu(10 * width, 8 * width, 1, bias=True)

    def forward(self, x: Tensor, maps: Tensor) -> Tensor:
        """Add maps (B, K, h, w) to x (B, 4D, h, w); the shape stays."""
        fused: Tensor = self.fuse(torch.cat((x, maps), 1))
        return fused


class Stream(nn.Module):
    """All that belongs to one modality, from its picture to what the decoder takes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        deep, dim = 8 * width, 2 * width
        self.vgg = VGG16(width)
        self.squeeze = nn.ModuleDict({level: nn.Conv2d(deep, dim, 1) for level in "45"})
        self.ima = nn.ModuleDict({level: InterModality(width) for level in "45"})
        self.compress = nn.ModuleDict({level: nn.Conv2d(deep, dim, 1) for level in "45"})
        self.coarser = nn.Sequential(
            nn.MaxPool2d(2),
            nn.Conv2d(deep, dim, 1),
            *conv_bn_relu(dim, dim, 3, bias=True),
            *conv_bn_relu(dim, dim, 3, bias=True),
        )
        self.aspp = ASPP(dim, dim, bias=True)

    def maps(self, level: str, x: Tensor) -> Tensor:
        """Map level 4 or 5 (B, 4D, h, w) to cosine maps of its prototypes (B, K, h, w)."""
        graph: PrototypeGraph = self.ima[level].maps  # type: ignore[assignment]
        maps: Tensor = graph(self.squeeze[level](x))
        return maps

    def compressed(self, f4: Tensor, f5: Tensor) -> list[Tensor]:
        """Map levels 4 and 5 (B, 4D, h, w) to levels 4, 5 and 6 (B, D, h, w)."""
        c6 = self.aspp(self.coarser(f5))
        return [self.compress["4"](f4), self.compress["5"](f5), c6]


class Residual(nn.Module):
    """Two convolutions and a shortcut, then one to another width."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        last = nn.Conv2d(c_in, c_in, 3, padding=1)
        self.inner = nn.Sequential(*conv_bn_relu(c_in, c_in, 3, bias=True), last)
        self.outer = conv_bn_relu(c_in, c_out, 3, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c_in, h, w) to (B, c_out, h, w)."""
        y: Tensor = self.outer(torch.relu(x + self.inner(x)))
        return y


class Refine(nn.Module):
    """One level of the decoder: fine features, gated by a coarse map, join what came from below."""

    def __init__(self, c_in: int, width: int) -> None:
        super().__init__()
        self.compress = nn.Conv2d(c_in, width, 1)
        self.merge = nn.Sequential(
            *conv_bn_relu(width + width // 2, width + width // 2, 3, bias=True),
            *conv_bn_relu(width + width // 2, width // 2, 3, bias=True),
        )
        self.head = nn.Conv2d(width // 2, 1, 1)

    def forward(self, fine: Tensor, gate: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
        """Map fine (B, c_in, h, w), a gate in 0..1 and below to features and logits at (h, w)."""
        gated = self.compress(fine) * resized(gate, fine)
        features = self.merge(torch.cat((gated, resized(below, fine)), 1))
        return features, self.head(features)


class Decoder(nn.Module):
    """From levels 4 to 6 and the RGB frame's fine levels to logits. Every gate is level 4's map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.merge56 = Residual(4 * width, 2 * width)
        merged = Residual(4 * width, 2 * width)
        self.merge45 = nn.Sequential(merged, nn.Conv2d(2 * width, width // 2, 1))
        self.head = nn.Conv2d(width // 2, 1, 1)
        channels = {"3": 4 * width, "2": 2 * width, "1": width}
        self.refine = nn.ModuleDict({level: Refine(c, width) for level, c in channels.items()})

    def forward(self, fine: Sequence[Tensor], coarse: Sequence[Tensor]) -> dict[str, Tensor]:
        """Map levels 1, 2, 3 and 4, 5, 6 to float32 logits of `HEADS` at levels 1, 2, 3, 4."""
        c4, c5, c6 = coarse
        below = self.merge56(torch.cat((c5, resized(c6, c5)), 1))
        below = self.merge45(torch.cat((c4, resized(below, c4)), 1))
        maps = [self.head(below)]
        gate = torch.sigmoid(maps[0])
        for level in (3, 2, 1):
            below, logits = self.refine[str(level)](fine[level - 1], gate, below)
            maps.insert(0, logits)
        return {name: x.float() for name, x in zip(HEADS, maps, strict=True)}


class DPAPretrain(nn.Module):
    """Images to saliency logits."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.rgb = Stream(options.width)
        self.decoder = Decoder(options.width)
        start(self, [self.rgb.vgg], options.backbone_weights)

    def forward(self, img: Tensor) -> dict[str, Tensor]:
        """Map `img` (B, 3, H, W), ImageNet-normalised RGB, to float32 logits of `HEADS`.

        `saliency` is (B, 1, H, W), the side maps are at 1/2, 1/4, 1/8 of it. H and W are free from
        32 up.
        """
        check_pictures("dpa_pretrain", img=img)
        rgb = self.rgb
        fine = rgb.vgg.fine(img)
        f4 = rgb.vgg.stage(4, fine[-1])
        f4 = rgb.ima["4"](f4, rgb.maps("4", f4))  # and level 5 is made of that
        f5 = rgb.vgg.stage(5, f4)
        f5 = rgb.ima["5"](f5, rgb.maps("5", f5))
        logits: dict[str, Tensor] = self.decoder(fine, rgb.compressed(f4, f5))
        return logits


def start(network: nn.Module, encoders: list[VGG16], backbone_weights: str | None) -> None:
    """Give the network its published initial weights, and the encoders those that are named.

    Encoders without any start by He et al. (2015): thirteen small layers would pass nothing on.
    """
    start_small(network)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
    if backbone_weights is not None:
        load_vgg16(encoders, backbone_weights)
        return
    for encoder in encoders:
        for module in encoder:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def check_pictures(name: str, **pictures: Tensor) -> None:
    """Raise UsageError unless all are (B, 3, H, W) of one shape, 32 pixels or more a side."""
    shapes = {tuple(x.shape) for x in pictures.values()}
    (first, *_) = pictures.values()
    if len(shapes) > 1 or first.ndim != 4 or first.shape[1] != 3:
        found = " and ".join(str(tuple(x.shape)) for x in pictures.values())
        raise UsageError(
            f"{name}: expected {' and '.join(pictures)} of one shape (B, 3, H, W), got {found}."
        )
    if min(first.shape[-2:]) < 32:
        raise UsageError(
            f"{name}: expected 32 pixels a side or more, got {first.shape[-2]} x "
            f"{first.shape[-1]}. Change the recipe key data.size."
        )


def build(options: Options) -> DPAPretrain:
    """Return the network; WeightsError if asked-for backbone weights cannot be had."""
    return DPAPretrain(options)


def soft_iou(p: Tensor, gt: Tensor) -> Tensor:
    """Return sum of minima / sum of maxima of p and gt, both (B, 1, H, W), of each sample: (B,)."""
    p, g = p.flatten(1), gt.float().flatten(1)
    # torch.minimum would share the gradient of a tie, which here goes to the mask: none is left.
    # What is no number stays in the union: a loss that left it out would be 0.
    both = torch.where(p < g, p, g).sum(1)
    return both / torch.where(p <= g, g, p).sum(1).clamp_min(1e-12)


def loss(
    logits: dict[str, Tensor], sample: dict[str, Tensor], weights: Mapping[str, float] = {}
) -> Tensor:
    """Return 1 - IoU, mean over the four heads and the annotated samples (specification, 6.4).

    Side maps are enlarged to the mask as probabilities. `sample["gt"]` is (B, 1, H, W) in 0..1,
    `sample["valid"]` (B,) bool. `weights` are factors of heads, 1 where none is named.
    """
    valid = sample["valid"]
    gt = sample["gt"][valid]
    total = torch.stack(
        [
            weights.get(name, 1.0)
            * (1 - soft_iou(resized(torch.sigmoid(logits[name][valid]), gt), gt))
            for name in HEADS
        ]
    )
    return total.sum() / (len(HEADS) * max(len(gt), 1))


LOSSES = HEADS
SAMPLING: Literal["frame"] = "frame"
CHAIN = ("pretrain",)

_PRETRAIN = Stage(
    name="pretrain",
    network=Options(backbone_weights="imagenet"),
    data=Data(
        datasets=("DUTS_train",),
        inputs=("img",),
        sample="frame",
        size=(512, 512),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        masks="soft",
    ),
    augment=Augment(
        crop=30,
        flip=0.5,
        rotate=15.0,
        rotate_probability=0.2,
        brightness=(0.5, 1.5),
        contrast=(0.5, 1.5),
        saturation=(0.0, 2.0),
        sharpness=(0.0, 3.0),
    ),
    optim=Optim(kind="adam", lr=1e-4, min_lr=1e-5, weight_decay=0.0, clip_norm=0.0),
    # As published: the test videos decide which weights are kept.
    validate=Validate(split="DAVIS_test", metric="j"),
    maps=Maps(steps=("sigmoid", "resize", "min-max")),
    epochs=200,
    batch=12,
    scales=(0.75, 0.8125, 0.875, 0.9375, 1.0),  # 384 to 512 pixels
    scale_rule="draw",
    scale_filter="bicubic",
    precision="fp32",
)

STAGES: tuple[Stage, ...] = (
    _PRETRAIN,
    debug(
        Stage(name="debug", network=Options(), data=_PRETRAIN.data),
        Options(width=8),
        replace(_PRETRAIN.optim, lr=1e-3, clip_norm=1.0),
    ),
)

# Our names in those of the published code; each rule applies to what those before have made. They
# serve the streams and decoder of `dpa`, too.
PUBLISHED: tuple[tuple[str, str], ...] = (
    (r"^(rgb|flow)\.vgg\.", r"\1_encoder.vgg."),
    (r"^(rgb|flow)\.squeeze\.(\d)\.", r"\1_sq\2.0."),
    (r"^(rgb|flow)\.compress\.(\d)\.", r"\1_COMP\2.0."),
    (r"^(rgb|flow)\.coarser\.", r"\1_COMP6."),
    (r"^(rgb|flow)\.ima\.(\d)\.maps\.", r"DAM\2.\1_OCR."),
    (r"^(rgb|flow)\.ima\.(\d)\.fuse\.", r"DAM\2.\1_fusion."),
    (r"OCR\.unused\.fc\.", "OCR.GAN.fc."),
    (r"OCR\.unused\.out\.", "OCR.out."),
    (r"OCR\.attention\.", "OCR.GAN.TF."),
    (r"OCR\.edges\.0\.", "OCR.GAN.conv1."),
    (r"OCR\.edges\.1\.", "OCR.GAN.conv2."),
    (r"OCR\.edges\.2\.", "OCR.GAN.conv3."),
    (r"(GAN\.conv\d)\.conv\.", r"\1.0."),
    (r"(GAN\.conv\d)\.norm\.", r"\1.1."),
    (r"\.(TF|can\d)\.norm\.", r".\1.bn_relu.0."),
    (r"\.(TF|can\d)\.query\.", r".\1.theta."),
    (r"\.(TF|can\d)\.key\.", r".\1.phi."),
    (r"\.(TF|can\d)\.value\.", r".\1.g."),
    (r"\.(TF|can\d)\.out\.", r".\1.W."),
    (r"^(rgb|flow)\.aspp\.branches\.1\.", r"\1_aspp.conv_1x1_1."),
    (r"^(rgb|flow)\.aspp\.branches\.2\.", r"\1_aspp.conv_3x3_1."),
    (r"^(rgb|flow)\.aspp\.branches\.3\.", r"\1_aspp.conv_3x3_2."),
    (r"^(rgb|flow)\.aspp\.branches\.4\.", r"\1_aspp.conv_3x3_3."),
    (r"^(rgb|flow)\.aspp\.pooled\.", r"\1_aspp.conv_1x1_2."),
    (r"^(rgb|flow)\.aspp\.merge\.", r"\1_aspp.conv_1x1_3."),
    (r"_aspp\.(conv_\dx\d_\d)\.0\.", r"_aspp.\1."),
    (r"_aspp\.(conv_\dx\d_\d)\.1\.", r"_aspp.bn_\1."),
    (r"^decoder\.merge(\d\d)\.", r"rgb_merge_co_\1."),
    (r"^decoder\.head\.", "rgb_get_pred_4.pred.0."),
    (r"^decoder\.refine\.(\d)\.compress\.", r"rgb_refine_\1.cmprs."),
    (r"^decoder\.refine\.(\d)\.merge\.", r"rgb_refine_\1.merge_conv."),
    (r"^decoder\.refine\.(\d)\.head\.", r"rgb_refine_\1.pred.pred.0."),
    (r"\.inner\.", ".conv1."),
    (r"\.outer\.", ".conv2."),
    (r"^", "module."),
)
PUBLISHED_UNDER = "model_state_dict"
