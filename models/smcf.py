"""SMCF: self-attention over groups of frames guides a multi-layer cross-stack fusion.

Yang, Mu, Guo, Hu, Wang: "Video salient object detection via self-attention-guided multilayer
cross-stack fusion", Multimedia Tools and Applications, 2024. Only the abstract and the published
code (github.com/NanMu-SICNU/SMCF, SMCF-19epoch.pth) could be consulted; what is computed is what
that file was trained with.

Legend: N frames, G frames of a group, H W the input, C channels. s are merged features, e those of
the flow trunk. Levels 1 to 4 are the stages of ResNet-50 at strides 4, 8, 16, 32.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsodpipe.errors import UsageError
from vsodpipe.models._backbones import ResNet, load_resnet
from vsodpipe.models._blocks import conv_bn, numbered, resized, start_small
from vsodpipe.models._losses import bce
from vsodpipe.recipe import Data, Maps, Optim, Stage

DIM = 32
"""Width of all maps after the trunks."""
HEADS = ("saliency", "pred_e")
"""The merged head (published as pred_s) and the motion head, both trained with the mask."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Constructor options."""

    backbone_weights: str | None = None
    """imagenet (downloaded on first use), a ResNet-50 file with torchvision's keys, or none."""
    group: int = 5
    """Frames that attend to one another: consecutive ones of the batch. Part of no weight."""
    width: int = 64
    """Channels of the stems, in whose multiples the trunks are; published weights have 64."""

    def __post_init__(self) -> None:
        for name in ("group", "width"):
            value = getattr(self, name)
            if value < 1:
                raise UsageError(f"smcf option {name}: expected at least 1, got {value}.")


class TransformerLayer(nn.Module):
    """Pre-norm self-attention and MLP over all positions of all frames of a group.

    No position or time embedding: only which frames are in a group matters, not their order.
    """

    heads = 4

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = 782  # as published, whatever the width
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim)
        self.expand, self.shrink = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, z: Tensor) -> Tensor:
        """Map tokens (groups, n, C) to the same shape."""
        parts = self.qkv(self.norm1(z)).chunk(3, -1)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in parts)
        # Published: scaled by the whole width, not by that of a head. No shape tells.
        y = F.scaled_dot_product_attention(q, k, v, scale=1 / math.sqrt(z.shape[-1]))
        z = z + self.out(y.transpose(1, 2).flatten(2))
        refined: Tensor = z + self.shrink(F.gelu(self.expand(self.norm2(z))))
        return refined


class GroupTransformer(nn.Module):
    """Four layers of joint attention within groups of frames; no norm after the last."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(TransformerLayer(dim) for _ in range(4)))

    def forward(self, x: Tensor, group: int) -> Tensor:
        """Map (N, C, h, w) to the same shape; `group` consecutive frames see each other."""
        tokens = x.unflatten(0, (-1, group)).permute(0, 1, 3, 4, 2)  # (N/G, G, h, w, C)
        seen = self.layers(tokens.flatten(1, 3)).view(tokens.shape)
        mixed: Tensor = seen.permute(0, 1, 4, 2, 3).flatten(0, 1)
        return mixed


def gate(channels: int) -> nn.Sequential:
    """Return the channel attention: (N, C, h, w) to (N, C, 1, 1) in 0..1, no reduction."""
    conv = nn.Conv2d(channels, channels, 1)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), conv, nn.Sigmoid())


class CrossStackFusion(nn.Module):
    """CSF: s takes in e of its own and coarser levels side by side, e takes in s by products.

    No ReLU from here on, as published: fusion and decoders are linear but for the products.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bring = numbered(conv_bn(DIM, DIM, 1) for _ in range(12))
        parts = (5, 4, 3, 2, 1, 1, 1, 1)
        self.mix = numbered(
            nn.Sequential(conv_bn(n * DIM, DIM, 3), conv_bn(DIM, DIM, 3)) for n in parts
        )

    def forward(self, s: list[Tensor], e: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Map s and e, four levels (N, 32, h, w) each, to their fused selves."""
        bring, mix = iter(self.bring.values()), iter(self.mix.values())

        def coarser(maps: list[Tensor], level: int) -> list[Tensor]:
            return [next(bring)(resized(x, maps[level])) for x in maps[level + 1 :]]

        # Both lists read the values that entered the unit.
        fused_s = [s[k] + next(mix)(torch.cat((s[k], e[k], *coarser(e, k)), 1)) for k in range(4)]
        fused_e = [e[k] + next(mix)(math.prod(coarser(s, k), start=e[k] * s[k])) for k in range(4)]
        return fused_s, fused_e


class PyramidPooling(nn.Module):
    """Pooling to 1, 2, 3 and 6 cells a side; a map smaller than that is repeated."""

    sides = (1, 2, 3, 6)

    def __init__(self) -> None:
        super().__init__()
        self.pooled = numbered(conv_bn(DIM, DIM // 4, 1) for _ in self.sides)
        self.merge = conv_bn(2 * DIM, DIM, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 32, h, w) to the same shape."""
        cells = zip(self.pooled.values(), self.sides, strict=True)
        pooled = [resized(conv(F.adaptive_avg_pool2d(x, side)), x) for conv, side in cells]
        merged: Tensor = self.merge(torch.cat((x, *pooled), 1))
        return merged


class Decoder(nn.Module):
    """Top-down pyramid pooling; what the transformers saw weighs the two coarse levels."""

    def __init__(self) -> None:
        super().__init__()
        self.ppm = numbered(PyramidPooling() for _ in range(4))
        self.up = numbered(conv_bn(DIM, DIM, 3) for _ in range(3))
        self.cat = numbered(
            nn.Sequential(conv_bn(2 * DIM, 2 * DIM, 3), conv_bn(2 * DIM, DIM, 1)) for _ in range(3)
        )
        self.head = nn.Sequential(conv_bn(DIM, DIM, 3), nn.Conv2d(DIM, 1, 1))

    def forward(self, maps: list[Tensor], t3: Tensor, t4: Tensor) -> Tensor:
        """Map four levels (N, 32, h, w) and t3, t4 of the size of levels 3, 4 to logits at 1/4."""
        p = self.ppm["4"](maps[3] * t4)
        for number, level in (("1", 3), ("2", 2), ("3", 1)):  # counted from coarse to fine
            x = maps[level - 1]
            x = self.cat[number](torch.cat((x, self.up[number](resized(p, x))), 1))
            p = self.ppm[str(level)](x * t3 if level == 3 else x)
        logits: Tensor = self.head(p)
        return logits


class SMCF(nn.Module):
    """Groups of frames and flow pictures to saliency logits."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.group = options.group
        trunks = {name: ResNet("resnet50", options.width) for name in ("rgb", "flow", "merge")}
        self.rgb, self.flow, self.merge = trunks.values()
        channels = self.rgb.channels
        stems = [options.width, *channels]
        self.gate_rgb = nn.ModuleList(gate(c) for c in stems)
        self.gate_flow = nn.ModuleList(gate(c) for c in stems)
        self.transformer3, self.transformer4 = map(GroupTransformer, channels[2:])
        self.reduce_s = numbered(map(reduction, channels))
        self.reduce_e = numbered(map(reduction, channels))
        self.reduce_t3, self.reduce_t4 = map(reduction, channels[2:])
        self.csf = numbered(CrossStackFusion() for _ in range(4))
        self.decoder_s, self.decoder_e = Decoder(), Decoder()
        # Part of the published files, of nothing else, like the stem of the merge trunk.
        self.unused = conv_bn(channels[3], channels[2], 3)
        for module in (self.unused, self.merge.conv1, self.merge.bn1):
            module.requires_grad_(False)
        start_small(self)
        if options.backbone_weights is not None:
            load_resnet(trunks.values(), "resnet50", options.backbone_weights)

    def forward(self, img: Tensor, flow: Tensor) -> dict[str, Tensor]:
        """Map `img` and `flow`, both (N, 3, H, W), to float32 logits (N, 1, H, W) of `HEADS`.

        Both are ImageNet-normalised RGB, the flow as its colour picture. H and W are multiples of
        32. N is a multiple of the group, or smaller: then all frames are one group.
        """
        group = self._check(img, flow)
        merged, motion = self._encode(img, flow)
        t3 = self.reduce_t3(self.transformer3(merged[2], group))
        t4 = self.reduce_t4(self.transformer4(merged[3], group))
        s = [reduce(x) for reduce, x in zip(self.reduce_s.values(), merged, strict=True)]
        e = [reduce(x) for reduce, x in zip(self.reduce_e.values(), motion, strict=True)]
        for csf in self.csf.values():
            s, e = csf(s, e)
        maps = self.decoder_s(s, t3, t4), self.decoder_e(e, t3, t4)
        return {name: resized(x.float(), img) for name, x in zip(HEADS, maps, strict=True)}

    def _encode(self, img: Tensor, flow: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the merged and the flow features of the four levels."""
        x, y = self.rgb.stem(img), self.flow.stem(flow)
        m = self._cross_gated(0, x, y)
        x, y, m = self.rgb.pool(x), self.flow.pool(y), self.merge.pool(m)
        merged, motion = [], []
        stages = zip(self.rgb.stages, self.flow.stages, self.merge.stages, strict=True)
        for level, (rgb, flow_stage, merge) in enumerate(stages, 1):
            x, y = rgb(x), flow_stage(y)
            m = merge(m) + self._cross_gated(level, x, y)
            merged.append(m)
            motion.append(y)
        return merged, motion

    def _cross_gated(self, level: int, x: Tensor, y: Tensor) -> Tensor:
        """Weigh RGB x by what flow y saw, and the other way round; return the sum."""
        gated: Tensor = x * self.gate_flow[level](y) + y * self.gate_rgb[level](x)
        return gated

    def _check(self, img: Tensor, flow: Tensor) -> int:
        """Return the size of a group in this batch."""
        if img.ndim != 4 or img.shape[1] != 3 or img.shape != flow.shape:
            raise UsageError(
                "smcf: expected img and flow of one shape (N, 3, H, W), "
                f"got {tuple(img.shape)} and {tuple(flow.shape)}."
            )
        if img.shape[-2] % 32 or img.shape[-1] % 32:
            raise UsageError(
                "smcf: expected height and width in multiples of 32, "
                f"got {img.shape[-2]} x {img.shape[-1]}. Change the recipe key data.size."
            )
        group = min(self.group, len(img))
        if len(img) % group:
            raise UsageError(
                f"smcf: expected a multiple of {group} frames (recipe key network.group), "
                f"got {len(img)}. Change the recipe key batch, data.clip or data.predict_frames."
            )
        return group


def reduction(channels: int) -> nn.Sequential:
    """Return the way from a trunk's width to 32 channels."""
    return nn.Sequential(conv_bn(channels, DIM, 1), conv_bn(DIM, DIM, 3), conv_bn(DIM, DIM, 3))


def build(options: Options) -> SMCF:
    """Return the network; WeightsError if asked-for backbone weights cannot be had."""
    return SMCF(options)


def loss(
    logits: dict[str, Tensor], sample: dict[str, Tensor], weights: Mapping[str, float] = {}
) -> Tensor:
    """Return the binary cross-entropy of both heads, mean over annotated frames and pixels.

    `sample["gt"]` is (N, 1, H, W) in 0..1, `sample["valid"]` (N,) bool; `weights` are factors of
    heads, 1 where none is named.
    """
    valid = sample["valid"]
    gt = sample["gt"][valid]
    total = torch.stack([weights.get(name, 1.0) * bce(logits[name][valid], gt) for name in HEADS])
    return total.sum() / max(len(gt), 1)


def intended(states: Sequence[Mapping[str, Tensor]], initial: object) -> dict[str, Tensor]:
    """Return the weights with which `finetune` begins, from those of the two pretrainings.

    Everything is that of pretrain_flow but the RGB trunk, with its batch norm statistics.
    """
    rgb, flow = states
    return {key: (rgb if key.startswith("rgb.") else flow)[key] for key in flow}


def published(states: Sequence[Mapping[str, Tensor]], initial: object) -> dict[str, Tensor]:
    """Return those of pretrain_rgb: the released code loads them over what it loaded of flow."""
    return dict(states[0])


LOSSES = HEADS
SAMPLING: Literal["frame"] = "frame"
CHAIN = ("pretrain_rgb", "pretrain_flow", "finetune")

# A group is five neighbours of one video, as in prediction; published are five frames of anywhere,
# which pretrain_rgb keeps, as still images have no neighbours. The members of the authors' training
# sets are not known; in their folder, videos of none of these data sets are TrainSet_Flow.
_VIDEO = ("DAVIS_train", "DAVSOD_train", "FBMS_train", "TrainSet_Flow")
_DATA = Data(
    datasets=_VIDEO,
    size=(352, 352),
    predict_frames=5,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    normalise_flow=True,
    masks="soft",
)
_GROUPS = replace(_DATA, sample="group", clip=5)

_STAGE = Stage(
    name="pretrain_rgb",
    maps=Maps(steps=("resize", "sigmoid", "min-max"), aligned=True, twice="first"),
    network=Options(backbone_weights="imagenet"),
    data=replace(_DATA, datasets=("DUTS_train", *_VIDEO), inputs=("img", "img")),
    optim=Optim(
        kind="sgd",
        lr=2e-3,
        schedule="step",
        step_epochs=(19,),
        momentum=0.9,
        weight_decay=5e-4,
        decay_all=True,
        clip_norm=0.0,
    ),
    epochs=20,
    batch=10,
    scales=(0.75, 1.0, 1.25),
    scale_filter="aligned",
    precision="fp32",  # products of up to five factors, four times over
)

STAGES: tuple[Stage, ...] = (
    _STAGE,
    replace(
        _STAGE,
        name="pretrain_flow",
        data=replace(_GROUPS, inputs=("flow", "flow")),
        batch=2,
        fresh=True,
    ),
    replace(
        _STAGE,
        name="finetune",
        network=Options(),
        data=_GROUPS,
        batch=2,
        joins=("pretrain_rgb", "pretrain_flow"),
        transfer="intended",
    ),
    Stage(
        name="debug",
        maps=Maps(steps=("resize", "sigmoid", "min-max"), aligned=True, twice="first"),
        network=Options(width=8, group=2),
        data=replace(
            _DATA, datasets=("DAVIS_train", "TrainSet_Flow"), size=(64, 96), predict_frames=2
        ),
        optim=Optim(kind="adam", lr=2e-3, weight_decay=5e-4),
        epochs=1,
        batch=4,
        steps_per_epoch=40,
    ),
)

# Our names in the words of SMCF-19epoch.pth; each rule applies to what those before have made.
PUBLISHED: tuple[tuple[str, str], ...] = (
    (r"^(rgb|flow)\.(\w+)\.", r"resnet.\2_\1."),
    (r"^merge\.", "resnet."),
    (r"^gate_(rgb|flow)\.(\d)\.", r"atten_\1_\2."),
    (r"^transformer3\.", "transformer_1."),
    (r"^transformer4\.", "transformer_2."),
    (r"\.layers\.(\d)\.norm1\.", r".layers.\1.0.fn.norm."),
    (r"\.layers\.(\d)\.qkv\.", r".layers.\1.0.fn.fn.to_qkv."),
    (r"\.layers\.(\d)\.out\.", r".layers.\1.0.fn.fn.to_out.0."),
    (r"\.layers\.(\d)\.norm2\.", r".layers.\1.1.fn.norm."),
    (r"\.layers\.(\d)\.expand\.", r".layers.\1.1.fn.fn.net.0."),
    (r"\.layers\.(\d)\.shrink\.", r".layers.\1.1.fn.fn.net.3."),
    (r"^reduce_s\.(\d)\.(\d)\.", r"reduce_a\1.reduce.\2.conv_bn."),
    (r"^reduce_e\.(\d)\.(\d)\.", r"reduce_m\1.reduce.\2.conv_bn."),
    (r"^reduce_t(\d)\.(\d)\.", r"reduce_trans\1.reduce.\2.conv_bn."),
    (r"^csf\.(\d)\.bring\.(\d+)\.", r"CSF\1.conv\2.conv.conv_bn."),
    (r"^csf\.(\d)\.mix\.(\d)\.(\d)\.", r"CSF\1.conv_f\2.\3.conv_bn."),
    (r"^decoder_([se])\.", r"output_\1."),
    (r"^(output_\w)\.ppm\.(\d)\.pooled\.(\d)\.", r"\1.ppm\2.conv\3.conv_bn."),
    (r"^(output_\w)\.ppm\.(\d)\.merge\.", r"\1.ppm\2.out.conv_bn."),
    (r"^(output_\w)\.up\.(\d)\.", r"\1.conv_upsample\2.conv_bn."),
    (r"^(output_\w)\.cat\.(\d)\.(\d)\.", r"\1.conv_cat\2.\3.conv_bn."),
    (r"^(output_\w)\.head\.0\.", r"\1.output.0.conv_bn."),
    (r"^(output_\w)\.head\.1\.", r"\1.output.1."),
    (r"^unused\.", "RGBF_conv3.conv_bn."),
    (r"^", "module."),
)
