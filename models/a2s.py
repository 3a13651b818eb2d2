"""A2S-v2, stage 1: saliency from the activations of a self-supervised encoder, without any label.

Zhou, Qiao, Yang, Lai, Xie: "Texture-guided Saliency Distilling for Unsupervised Salient Object
Detection", CVPR 2023 (github.com/moothes/A2S-v2). A small decoder sums the channels of a frozen
MoCo-v2 ResNet-50; its maps, cleaned by a CRF, are the pseudo labels on which `cornet` (RGB) or
`midnet` (RGB and depth, flow or thermal) is trained. Depth, flow and thermal pictures enter the
loss alone: the network sees RGB.

Legend: N pictures, H W the input, C the common width. x2 to x4 are stages of ResNet at strides 8,
16, 32.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from vsodpipe.errors import UsageError
from vsodpipe.models._a2s_losses import boundary_texture, confidence, consistency
from vsodpipe.models._backbones import ResNet
from vsodpipe.models._blocks import resized
from vsodpipe.models._moco import classifier, encode, load_moco
from vsodpipe.recipe import Augment, Data, Group, Optim, Stage, Validate, debug

TERMS = {"confidence": 1.0, "boundary": 0.05, "consistency": 1.0}
"""The three losses and their factors."""
BESIDE = ("depth", "flow", "thermal")
"""Sample keys of the pictures that the boundary loss compares beside RGB, where they are there."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Constructor options."""

    backbone_weights: str | None = None
    """A file of MoCo-v2 (moco_v2_200ep_pretrain.pth.tar), imagenet, or none: random."""
    view_scales: tuple[float, ...] = (0.6, 0.8, 1.2, 1.4)
    """Sizes of the second view in training, as parts of the first; one is drawn a batch."""
    width: int = 64
    """Channels of the decoder, in whose multiples the encoder is; published weights have 64."""

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2:
            raise UsageError(f"a2s option width: expected an even number > 0, got {self.width}.")
        if not self.view_scales or min(self.view_scales) <= 0:
            raise UsageError("a2s option view_scales: expected numbers above 0, such as [0.6].")


class Adapter(nn.Module):
    """3x3 convolution, one norm over all channels, and a gate per channel."""

    def __init__(self, c_in: int, dim: int) -> None:
        super().__init__()
        conv = nn.Conv2d(c_in, dim, 3, padding=1)
        self.conv = nn.Sequential(conv, nn.GroupNorm(1, dim), nn.ReLU(inplace=True))
        self.gate = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, c_in, h, w) to (N, C, h, w)."""
        y: Tensor = self.conv(x)
        return y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))


def side(p: Tensor) -> Tensor:
    """Return +1 or -1 for each map (N, 1, h, w), as (N, 1, 1, 1): the object keeps off the corners.

    Two or more corners above 0 turn a map over; exactly 0 is not above.
    """
    corners = p[..., [0, -1], :][..., [0, -1]]
    turned = (corners > 0).sum((1, 2, 3), keepdim=True) >= 2
    return 1.0 - 2.0 * turned.float()


class A2S(nn.Module):
    """A picture to saliency logits; in training, two views of it."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        width, self.view_scales = options.width, options.view_scales
        self.encoder = ResNet("resnet50", width)
        widths = dict(zip(("ad2", "ad3", "ad4"), self.encoder.channels[1:], strict=True))
        self.decoder = nn.ModuleDict(
            {name: Adapter(c, width) for name, c in (widths | {"fusion": 3 * width}).items()}
        )
        norms = {name: nn.GroupNorm(width // 2, width) for name in self.decoder}
        # Part of the published files, of nothing else.
        self.unused = nn.ModuleDict({"fc": classifier(self.encoder), **norms})
        self.unused.requires_grad_(False)
        if options.backbone_weights is not None:
            load_moco([self.encoder], options.backbone_weights)

    def forward(self, img: Tensor) -> dict[str, Tensor]:
        """Map `img` (N, 3, H, W), ImageNet-normalised, to float32 logits (N, 1, H, W).

        H and W are free. Keys: `saliency`, and in training mode `view`, the logits of the batch at
        another size, in that size. It is drawn from torch's generator on the CPU.
        """
        if img.ndim != 4 or img.shape[1] != 3:
            raise UsageError(f"a2s: expected img (N, 3, H, W), got {tuple(img.shape)}.")
        logits = {"saliency": self._logits(img)}
        if self.training:
            scale = self.view_scales[int(torch.randint(len(self.view_scales), ()))]
            height, width = (round(pixels * scale) for pixels in img.shape[-2:])
            logits["view"] = self._logits(resized(img, (height, width)))
        return logits

    def features(self, img: Tensor) -> Tensor:
        """Return the activations whose sum over channels is saliency, (N, C, H/2, W/2)."""
        stem, _, *maps = encode(self.encoder, img)
        adapters = [self.decoder[name] for name in ("ad2", "ad3", "ad4")]
        seen = [resized(adapt(x), stem) for adapt, x in zip(adapters, maps, strict=True)]
        fused: Tensor = self.decoder["fusion"](torch.cat(seen, 1))
        return fused - fused.mean((2, 3), keepdim=True)

    def _logits(self, img: Tensor) -> Tensor:
        p = self.features(img).float().sum(1, keepdim=True)
        return resized(side(p) * p, img)


def build(options: Options) -> A2S:
    """Return the network; WeightsError if asked-for backbone weights cannot be had."""
    return A2S(options)


def loss(
    logits: dict[str, Tensor],
    sample: dict[str, Tensor],
    weights: Mapping[str, float] = {},
    progress: float = 0.0,
) -> Tensor:
    """Return the three losses of both views, mean over the batch. No ground truth is looked at.

    `logits` as from forward in training mode. Of `sample` come `img` (N, 3, H, W), normalised, and
    `depth`, `flow` and `thermal` (N, 3, H, W) in 0..1 where they are there, all zeros where a
    sample has none. `weights` are factors in place of `TERMS`, `progress` is the part of the epochs
    that is over.
    """
    pictures = torch.cat([sample[key] for key in ("img", *BESIDE) if key in sample], 1)
    p, view = logits["saliency"].float().sigmoid(), logits["view"].float().sigmoid()
    terms = {
        "confidence": confidence(p, progress) + confidence(view, progress),
        "boundary": boundary_texture(p, pictures) + boundary_texture(view, resized(pictures, view)),
        "consistency": consistency(p, view),
    }
    return torch.stack([(TERMS | dict(weights))[name] * terms[name] for name in TERMS]).sum()


def objective(network: nn.Module, sample: dict[str, Tensor], stage: Stage, epoch: int) -> Tensor:
    """Return the loss of `network` on a batch in `epoch`, counted from 0, of `stage`."""
    logits = network(sample["img"])
    return loss(logits, sample, stage.loss_weights, progress=epoch / stage.epochs)


LOSSES = tuple(TERMS)
SAMPLING: Literal["frame"] = "frame"
CHAIN = ("cdot",)

# The stages are the published tasks: c RGB, d RGB-D, o video, t RGB-T, cdot all of them, mixed.
_SETS = {
    "c": ("DUTS_train",),
    "d": ("RGBD-TR_train",),
    "o": ("DAVIS_train", "DAVSOD_train"),
    "t": ("VT5000_train",),
}
_BESIDE = {"d": ("depth",), "o": ("flow",), "t": ("thermal",)}
_STAGE = Stage(
    name="cdot",
    network=Options(),
    data=Data(
        datasets=tuple(name for names in _SETS.values() for name in names),
        inputs=("img",),
        beside=BESIDE,
        labels=False,
        size=(320, 320),
        resize="bicubic",
        anchor_stride={"DAVSOD_train": 5},
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    augment=Augment(flip=0.5),
    validate=Validate(split="none"),
    optim=Optim(
        kind="sgd",
        lr=0.1,
        schedule="linear",
        min_lr=0.02,
        momentum=0.9,
        weight_decay=5e-4,
        decay_all=True,
        clip_norm=0.0,
        groups={"encoder": Group(frozen=True)},
    ),
    epochs=20,
    batch=8,
    precision="fp32",
)

STAGES: tuple[Stage, ...] = (
    _STAGE,
    *(
        replace(
            _STAGE,
            name=task,
            data=replace(_STAGE.data, datasets=names, beside=_BESIDE.get(task, ())),
        )
        for task, names in _SETS.items()
    ),
    # the one training set with which the encoder learns, too, from the third epoch on
    replace(
        _STAGE,
        name="msra",
        data=replace(_STAGE.data, datasets=("MSRA-B_train",), beside=()),
        optim=replace(_STAGE.optim, groups={"encoder": Group(lr=0.01, from_epoch=2)}),
    ),
    debug(
        _STAGE,
        Options(width=8, view_scales=(0.75, 1.25)),
        replace(_STAGE.optim, lr=0.01, min_lr=0.002),
        beside=(),
    ),
)

# Our names in those of the published files; each rule applies to what those before have made.
PUBLISHED: tuple[tuple[str, str], ...] = (
    (r"^unused\.fc\.", "encoder.fc."),
    (r"^unused\.(\w+)\.", r"decoder.\1.se.gn."),
    (r"^decoder\.(\w+)\.conv\.", r"decoder.\1.ad0."),
    (r"^decoder\.(\w+)\.gate\.", r"decoder.\1.se.conv."),
)
