"""IANet: local-global interaction of a frame and its flow picture, progressive aggregation.

Min, Zhang, Lu, Fu, Zhao: "Local-Global Interaction and Progressive Aggregation for Video Salient
Object Detection", ICONIP 2022. What is computed is what the published weights (github.com/
mindingyao/IANet, model_changed_6.pth) were trained with; where that differs from the paper a
comment says so. A frame is predicted from itself and its flow alone.

Legend: N frames, H W the input, C the channels of a level. r and f are RGB and flow features of
one shape. Levels 1 to 4 are the stages of ResNet-34 at strides 4, 8, 16, 16, level 5 its ASPP.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vsodpipe.errors import UsageError
from vsodpipe.models._backbones import ResNet, load_resnet
from vsodpipe.models._blocks import ASPP, conv_bn_relu, numbered, resized, start_small
from vsodpipe.models._losses import bce_soft_iou
from vsodpipe.recipe import Data, Group, Maps, Optim, Stage

HEADS = ("saliency", "coarse_rgb", "coarse_flow", "side5", "side4", "side3", "side2")
"""The seven outputs, in the published order."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Constructor options."""

    backbone_weights: str | None = None
    """imagenet (downloaded on first use), a ResNet-34 file with torchvision's keys, or none."""
    width: int = 64
    """Channels of level 1, in whose multiples all others are; published weights have 64."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UsageError(f"ianet option width: expected at least 1, got {self.width}.")


def conv3(c_in: int, c_out: int) -> nn.Sequential:
    """Return 3x3 convolution with bias, batch norm, ReLU: the unit of everything but the trunks."""
    return conv_bn_relu(c_in, c_out, 3, bias=True)


def coarse_head(dim: int) -> nn.Sequential:
    """Return the head of a stream: (N, dim, h, w) to logits (N, 1, h, w)."""
    return nn.Sequential(
        *conv_bn_relu(dim, dim, 3), *conv_bn_relu(dim, dim, 3), nn.Conv2d(dim, 1, 1)
    )


class Stream(nn.Module):
    """ResNet-34 at output stride 16, and its ASPP; one for the frame, one for the flow."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.resnet = ResNet("resnet34", width, last_stride=1)
        # Only this convolution is dilated; the five after it keep dilation 1. No shape tells.
        first = self.resnet.get_submodule("layer4.0.conv1")
        assert isinstance(first, nn.Conv2d)
        first.dilation = first.padding = (2, 2)
        self.aspp = ASPP(8 * width, 4 * width)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (N, 3, H, W) to the features of levels 1 to 5."""
        maps = self.resnet(x)
        return [*maps, self.aspp(maps[-1])]


class LocalMutualEnhancement(nn.Module):
    """LME, the local half of the interaction: what both see, and what each sees alone.

    Equation 2 of the paper multiplies r and f themselves, the published code their r1 and r2.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        kernels = (3, 3, 3, 3, 1, 1)
        self.unit = numbered(conv_bn_relu(dim, dim, kernel, bias=True) for kernel in kernels)

    def forward(self, r: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
        """Map r and f, both (N, C, h, w), to their enhanced selves."""
        unit = self.unit
        common = unit["1"](r) * unit["2"](f)
        detail_r, detail_f = unit["3"](f - r), unit["4"](r - f)
        return r + unit["5"](common + detail_r), f + unit["6"](common + detail_f)


class GlobalWeightGeneration(nn.Module):
    """GWG, the global half: how much each channel of each level is worth in RGB against flow.

    Fully connected layers of the paper are 1x1 convolutions with batch norm here.
    """

    def __init__(self, channels: list[int], width: int) -> None:
        super().__init__()
        self.squeeze_rgb = numbered(conv3(c, width) for c in channels)
        self.squeeze_flow = numbered(conv3(c, width) for c in channels)
        dim = 2 * len(channels) * width
        self.fc = conv_bn_relu(dim, dim, 1, bias=True)
        self.att = numbered(
            nn.Sequential(nn.Conv2d(dim, c, 1), nn.BatchNorm2d(c), nn.Sigmoid()) for c in channels
        )

    def forward(self, rgb: list[Tensor], flow: list[Tensor]) -> list[Tensor]:
        """Map the features of five levels to RGB's weights (N, C, 1, 1) per level, in 0..1."""
        seen = []
        for squeeze, features in ((self.squeeze_rgb, rgb), (self.squeeze_flow, flow)):
            for conv, x in zip(squeeze.values(), features, strict=True):
                # resized first: the mean over an enlarged map is another one
                seen.append(resized(conv(x), rgb[0]).mean((2, 3), keepdim=True))
        descriptor = self.fc(torch.cat(seen, 1))
        return [weigh(descriptor) for weigh in self.att.values()]


class ChannelScaling(nn.Module):
    """The last step of PA: inputs compete channel by channel in a softmax. No activation inside."""

    def __init__(self, dim: int, inputs: int, hidden: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(inputs * dim, hidden, 1)
        self.score = numbered(nn.Conv2d(hidden, dim, 1) for _ in range(inputs))

    def forward(self, *maps: Tensor) -> Tensor:
        """Map `inputs` maps (N, dim, h, w) to their weighted sum."""
        g = self.fc(torch.cat(maps, 1).mean((2, 3), keepdim=True))
        shares = torch.stack([score(g) for score in self.score.values()]).softmax(0)
        return (shares * torch.stack(maps)).sum(0)


class ProgressiveAggregation(nn.Module):
    """PA: RGB and flow meet the coarser fused level (pre-fusion), then channel scaling."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.rgb_in, self.flow_in = conv3(dim, dim), conv3(dim, dim)
        self.prior_rgb, self.prior_flow = conv3(dim, dim), conv3(dim, dim)
        self.rgb_out, self.flow_out = conv3(2 * dim, dim), conv3(2 * dim, dim)
        self.scale = ChannelScaling(dim, inputs=3, hidden=dim)

    def forward(self, r: Tensor, f: Tensor, prior: Tensor) -> Tensor:
        """Map r, f (N, C, h, w) and the coarser `prior` (N, C, h', w') to (N, C, h, w)."""
        a, x = self.rgb_in(r), resized(self.prior_rgb(prior), r)
        b, y = self.flow_in(f), resized(self.prior_flow(prior), r)
        rgb = self.rgb_out(torch.cat((a * x, torch.maximum(a, x)), 1))
        flow = self.flow_out(torch.cat((b * y, torch.maximum(b, y)), 1))
        scaled: Tensor = self.scale(rgb, flow, resized(prior, r))
        return scaled


class IANet(nn.Module):
    """A frame and its flow picture to saliency logits."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        width = options.width
        channels = [width, 2 * width, 4 * width, 8 * width, 4 * width]
        self.rgb, self.flow = Stream(width), Stream(width)
        self.rgb_head, self.flow_head = coarse_head(channels[4]), coarse_head(channels[4])
        self.lme = numbered(LocalMutualEnhancement(c) for c in channels)
        self.gwg = GlobalWeightGeneration(channels, width)
        self.pa = numbered(ProgressiveAggregation(c) for c in channels[:4])
        self.pa_last = ChannelScaling(channels[4], inputs=2, hidden=2 * channels[4])
        finer = [width, *channels[:4]]  # a block leaves what the next finer level takes
        widths = zip(channels, finer, strict=True)
        self.block = numbered(nn.Sequential(*conv3(c, c), *conv3(c, d)) for c, d in widths)
        self.head = numbered(nn.Conv2d(c, 1, 1) for c in channels)
        # Part of the published files, of nothing else.
        self.unused = nn.ModuleDict(
            {
                "rgb_head": coarse_head(channels[4]),
                "squeeze_rgb": conv3(5 * width, 5),
                "squeeze_flow": conv3(5 * width, 5),
            }
        ).requires_grad_(False)
        start_small(self)
        if options.backbone_weights is not None:
            trunks = (self.rgb.resnet, self.flow.resnet)
            load_resnet(trunks, "resnet34", options.backbone_weights)

    def forward(self, img: Tensor, flow: Tensor) -> dict[str, Tensor]:
        """Map `img` and `flow`, both (N, 3, H, W), to float32 logits (N, 1, H, W) of `HEADS`.

        Both are ImageNet-normalised RGB, the flow as its colour picture; of a still image it is
        all zeros. H and W are free.
        """
        if img.ndim != 4 or img.shape[1] != 3 or img.shape != flow.shape:
            raise UsageError(
                "ianet: expected img and flow of one shape (N, 3, H, W), "
                f"got {tuple(img.shape)} and {tuple(flow.shape)}."
            )
        rgb, motion = self.rgb(img), self.flow(flow)
        coarse_flow = resized(self.flow_head(motion[4]), img)
        # To the input's size and back is not the identity, and what gates are logits, not
        # probabilities. RGB's level 5 is the one before LME.
        gate = resized(coarse_flow, rgb[4])
        coarse_rgb = self.rgb_head(rgb[4] * gate + rgb[4])
        pairs = [lme(r, f) for lme, r, f in zip(self.lme.values(), rgb, motion, strict=True)]
        rgb, motion = [r for r, _ in pairs], [f for _, f in pairs]
        weights = self.gwg(rgb, motion)
        rgb = [w * r for w, r in zip(weights, rgb, strict=True)]
        motion = [(1 - w) * f for w, f in zip(weights, motion, strict=True)]

        e = self.pa_last(rgb[4], motion[4])
        e = e + e * torch.sigmoid(coarse_rgb)  # not in the paper
        sides = {"side5": self.head["5"](e)}
        prior = self.block["5"](e)
        for level in (4, 3, 2):
            e = self.pa[str(level)](rgb[level - 1], motion[level - 1], prior)
            sides[f"side{level}"] = self.head[str(level)](e)
            prior = self.block[str(level)](e)
        e = self.block["1"](self.pa["1"](rgb[0], motion[0], prior))
        # The third output is the gate, enlarged once more.
        maps = {"saliency": self.head["1"](e), "coarse_rgb": coarse_rgb, "coarse_flow": gate}
        return {name: resized(x.float(), img) for name, x in (maps | sides).items()}


def build(options: Options) -> IANet:
    """Return the network; WeightsError if asked-for backbone weights cannot be had."""
    return IANet(options)


def loss(
    logits: dict[str, Tensor], sample: dict[str, Tensor], weights: Mapping[str, float] = {}
) -> Tensor:
    """Return BCE + IoU of all seven heads against the mask, mean over annotated frames.

    `sample["gt"]` is (N, 1, H, W) in 0..1, `sample["valid"]` (N,) bool. `weights` are factors of
    heads, 1 where none is named, as the published code has it; the paper's are `PAPER_WEIGHTS`.
    """
    valid = sample["valid"]
    gt = sample["gt"][valid]
    total = torch.stack(
        [weights.get(name, 1.0) * bce_soft_iou(logits[name][valid], gt, 0.0) for name in HEADS]
    )
    return total.sum() / max(len(gt), 1)


PAPER_WEIGHTS = {"side5": 0.4, "side4": 0.4, "side3": 0.8, "side2": 0.8}
"""Weights of the side outputs in the paper; the published code has them, switched off."""

LOSSES = HEADS
SAMPLING: Literal["frame"] = "frame"
CHAIN = ("train",)

# One stage on frames and still images, mixed as they come. The paper has Adam and weights on the
# side outputs instead: --set optim.kind=adam, --set loss_weights.side5=0.4 and so on.
STAGES: tuple[Stage, ...] = (
    Stage(
        name="train",
        maps=Maps(steps=("sigmoid", "min-max", "resize")),
        network=Options(backbone_weights="imagenet"),
        data=Data(
            datasets=("DAVIS_train", "DAVSOD_train", "DUTS_train"),
            size=(512, 512),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            normalise_flow=True,
            masks="soft",
            without_flow="zero",
        ),
        optim=Optim(
            kind="sgd",
            lr=5e-3,
            groups={name: Group(lr=0.1) for name in ("rgb", "flow", "flow_head")},
            schedule="step",
            step_epochs=(15,),
            momentum=0.9,
            nesterov=True,
            weight_decay=5e-4,
            decay_all=True,
            clip_norm=0.0,
        ),
        epochs=20,
        batch=8,
        precision="fp32",
    ),
    Stage(
        name="debug",
        maps=Maps(steps=("sigmoid", "min-max", "resize")),
        network=Options(width=8),
        data=Data(
            datasets=("DAVIS_train",),
            size=(64, 96),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            normalise_flow=True,
            masks="soft",
            without_flow="zero",
        ),
        optim=Optim(kind="adam", lr=2e-3, weight_decay=5e-4),
        epochs=1,
        batch=4,
        steps_per_epoch=40,
    ),
)

# Our names in the words of model_changed_6.pth; each rule applies to what those before have made.
PUBLISHED: tuple[tuple[str, str], ...] = (
    (r"^unused\.rgb_head\.", "ImageBone.last_conv."),
    (r"^unused\.squeeze_rgb\.", "convp_i."),
    (r"^unused\.squeeze_flow\.", "convp_f."),
    (r"^rgb_head\.", "last_conv_rgb."),
    (r"^flow_head\.", "FlowBone.last_conv."),
    (r"^rgb\.", "ImageBone."),
    (r"^flow\.", "FlowBone."),
    (r"Bone\.resnet\.", "Bone.backbone_features."),
    (r"\.aspp\.branches\.(\d)\.0\.", r".aspp.aspp\1.atrous_convolution."),
    (r"\.aspp\.branches\.(\d)\.1\.", r".aspp.aspp\1.bn."),
    (r"\.aspp\.pooled\.0\.", ".aspp.global_avg_pool.1."),
    (r"\.aspp\.pooled\.1\.", ".aspp.global_avg_pool.2."),
    (r"\.aspp\.merge\.0\.", ".aspp.conv1."),
    (r"\.aspp\.merge\.1\.", ".aspp.bn1."),
    (r"^lme\.(\d)\.unit\.(\d)\.0\.", r"lme\1.conv\2."),
    (r"^lme\.(\d)\.unit\.(\d)\.1\.", r"lme\1.bn\2."),
    (r"^gwg\.squeeze_(rgb|flow)\.5\.", r"gwg.squeeze_\1.aspp."),
    (r"^gwg\.squeeze_rgb\.(\w+)\.", r"conv\1_i."),
    (r"^gwg\.squeeze_flow\.(\w+)\.", r"conv\1_f."),
    (r"^gwg\.fc\.", "GWG.FC."),
    (r"^gwg\.att\.(\d)\.", r"GWG.att_\1."),
    (r"^pa_last\.", "pa5.scale."),
    (r"^pa\.(\d)\.", r"pa\1."),
    (r"^(pa\d)\.rgb_in\.", r"\1.layer_11."),
    (r"^(pa\d)\.flow_in\.", r"\1.layer_21."),
    (r"^(pa\d)\.prior_rgb\.", r"\1.layer_31."),
    (r"^(pa\d)\.prior_flow\.", r"\1.layer_41."),
    (r"^(pa\d)\.(rgb|flow)_out\.", r"\1.layer_final_\2."),
    (r"^(pa\d)\.scale\.fc\.", r"\1.cs.fc1."),
    (r"^(pa\d)\.scale\.score\.", r"\1.cs.att"),
    (r"^block\.5\.", "blockaspp."),
    (r"^block\.", "block"),
    (r"^head\.", "pred_head"),
)
