"""DPA: dual prototype attention, between a frame and its flow and between frames of a video.

Cho, Lee, Lee, Lee, Choi, Kim, Lee: "Dual Prototype Attention for Unsupervised Video Object
Segmentation", CVPR 2024. The default is what the published code (github.com/Hydragon516/DPA)
runs: the inter-frame attention (IFA) alone, which sees reference frames of the same video.
`ima=True` adds the paper's inter-modality attention (IMA), whose calls the code holds switched off;
the weights are the same. The parts that still images train are in `dpa_pretrain`.

Legend: B frames, N reference frames, H W the input, h w a map, D = 2 `width` the common width of
maps, which is also the number K of a picture's prototypes. f4, f5 are features of levels 4 and 5
at strides 8 and 16.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsodpipe.errors import UsageError
from vsodpipe.models import dpa_pretrain
from vsodpipe.models._blocks import conv_bn_relu
from vsodpipe.models.dpa_pretrain import (
    Attention,
    Decoder,
    DPAPretrain,
    Residual,
    Stream,
    check_pictures,
    cosine_map,
    prototypes,
    start,
)
from vsodpipe.recipe import Stage, debug

References = dict[str, tuple[Tensor, Tensor]]
"""For `rgb` and `flow`, keys and values (B, N.K, D): all that is kept of a video's references."""


@dataclass(frozen=True, kw_only=True)
class Options(dpa_pretrain.Options):
    """Constructor options."""

    images: bool = False
    """True: the image network of `dpa_pretrain`, with which the chain of stages begins."""
    ima: bool = False
    """True: the paper's network, with the attention between frame and flow beside the released."""
    real_values: bool = False
    """True: IFA reads values of their own from the references; as released it reads the keys."""


class InterFrame(nn.Module):
    """IFA: prototypes of a frame attend to those of reference frames, in one modality."""

    def __init__(self, width: int, *, real_values: bool) -> None:
        super().__init__()
        deep, dim = 8 * width, 2 * width
        self.key = nn.Conv2d(deep, dim, 1)
        self.value = nn.Conv2d(deep, dim, 1).requires_grad_(real_values)
        self.real_values = real_values
        self.fuse = conv_bn_relu(deep + dim, deep, 1, bias=True)

    def remember(self, references: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Map f5 (B, 4D, h, w) of each reference to keys and values (B, N.K, D)."""
        keys = torch.cat([prototypes(self.key(f5)) for f5 in references], 1)
        if not self.real_values:
            return keys, keys
        return keys, torch.cat([prototypes(self.value(f5)) for f5 in references], 1)

    def forward(self, f5: Tensor, query: Tensor, references: tuple[Tensor, Tensor]) -> Tensor:
        """Add to f5 (B, 4D, h, w) what its `query` (B, D, h, w) finds in the references."""
        q = prototypes(query)
        k, v = (x.expand(len(q), -1, -1) for x in references)  # one set may serve a whole batch
        found = F.scaled_dot_product_attention(q, k, v)
        fused: Tensor = self.fuse(torch.cat((f5, cosine_map(found, query)), 1))
        return fused


class MutualRefinement(nn.Module):
    """The middle of IMA: pixels of a stream's cosine maps, grouped as the other stream sees them.

    Values and shortcut are the stream's own; the other one only shapes the weights (as released).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.rgb, self.flow = Attention(dim), Attention(dim)

    def forward(self, rgb: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Map two stacks of maps (B, K, h, w) to refined ones."""
        return _refined(self.rgb, rgb, flow), _refined(self.flow, flow, rgb)


def _refined(attention: Attention, own: Tensor, other: Tensor) -> Tensor:
    a, b = (attention.normed(maps.flatten(2).mT) for maps in (own, other))
    return (a + attention(a, b)).mT.unflatten(-1, own.shape[-2:])


class VideoStream(Stream):
    """A stream of the image network, and what it needs beside for videos."""

    def __init__(self, options: Options) -> None:
        super().__init__(options.width)
        deep = 8 * options.width
        self.ifa = InterFrame(options.width, real_values=options.real_values)
        self.join = nn.Conv2d(2 * deep, deep, 1)

    @torch.no_grad()
    def reference(self, picture: Tensor) -> Tensor:
        """Map a reference picture (B, 3, H, W) to f5, as plain VGG features without gradient."""
        f4 = self.vgg.stage(4, self.vgg.fine(picture)[-1])
        return self.vgg.stage(5, f4)


class DPA(nn.Module):
    """A frame, its flow picture and references of its video to saliency logits."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        dim = 2 * options.width
        self.ima = options.ima
        self.rgb, self.flow = VideoStream(options), VideoStream(options)
        self.mutual = nn.ModuleDict({level: MutualRefinement(dim) for level in "45"})
        self.merge = nn.ModuleDict({level: Residual(2 * dim, dim) for level in "456"})
        self.decoder = Decoder(options.width)
        start(self, [self.rgb.vgg, self.flow.vgg], options.backbone_weights)
        if not options.ima:  # published files hold them; they must not wait for a gradient
            for stream in (self.rgb, self.flow):
                stream.squeeze["4"].requires_grad_(False)
                stream.ima.requires_grad_(False)
                stream.join.requires_grad_(False)
            self.mutual.requires_grad_(False)

    def forward(
        self, img: Tensor, flow: Tensor, ref_img: Tensor, ref_flow: Tensor
    ) -> dict[str, Tensor]:
        """Map frames and their references to float32 logits of `dpa_pretrain.HEADS`.

        `img` (B, 3, H, W) is ImageNet-normalised RGB, `flow` its flow picture in 0..1; `ref_img`
        and `ref_flow` (B, N, 3, H, W) are alike, in any order and any number. `saliency` is
        (B, 1, H, W), the side maps are at 1/2, 1/4, 1/8 of it. H and W are free from 32 up.
        """
        return self.segment(img, flow, self.remember(ref_img, ref_flow))

    def remember(self, ref_img: Tensor, ref_flow: Tensor) -> References:
        """Return what `segment` needs of references (B, N, 3, H, W); a video's need it once."""
        if ref_img.ndim != 5 or ref_img.shape != ref_flow.shape or ref_img.shape[1] < 1:
            raise UsageError(
                "dpa: expected ref_img and ref_flow of one shape (B, N, 3, H, W), N above 0, "
                f"got {tuple(ref_img.shape)} and {tuple(ref_flow.shape)}."
            )
        check_pictures("dpa", ref_img=ref_img[:, 0], ref_flow=ref_flow[:, 0])
        kept = {}
        for name, stream, pictures in (("rgb", self.rgb, ref_img), ("flow", self.flow, ref_flow)):
            # one after the other: the finest features of all at once would fill the memory
            features = [stream.reference(picture) for picture in pictures.unbind(1)]
            kept[name] = stream.ifa.remember(features)
        return kept

    def segment(self, img: Tensor, flow: Tensor, references: References) -> dict[str, Tensor]:
        """Return the logits of frames whose references are known, as `forward` does.

        The references are those of every frame (B, ...) or one set for all (1, ...).
        """
        check_pictures("dpa", img=img, flow=flow)
        streams = {"rgb": self.rgb, "flow": self.flow}
        fine = self.rgb.vgg.fine(img)  # the decoder takes no fine level of flow
        f3 = {"rgb": fine[-1], "flow": self.flow.vgg.fine(flow)[-1]}
        f4 = {name: stream.vgg.stage(4, f3[name]) for name, stream in streams.items()}
        if self.ima:
            f4 = self._inter_modality("4", f4)
        plain = {name: stream.vgg.stage(5, f4[name]) for name, stream in streams.items()}
        f5 = {
            name: stream.ifa(plain[name], stream.squeeze["5"](plain[name]), references[name])
            for name, stream in streams.items()
        }
        if self.ima:
            beside = self._inter_modality("5", plain)
            f5 = {
                name: stream.join(torch.cat((beside[name], f5[name]), 1))
                for name, stream in streams.items()
            }
        pairs = zip(*(s.compressed(f4[n], f5[n]) for n, s in streams.items()), strict=True)
        coarse = [
            merge(torch.cat(pair, 1))
            for merge, pair in zip(self.merge.values(), pairs, strict=True)
        ]
        logits: dict[str, Tensor] = self.decoder(fine, coarse)
        return logits

    def _inter_modality(self, level: str, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """IMA: map f4 or f5 of both streams to the same shapes."""
        streams = {"rgb": self.rgb, "flow": self.flow}
        maps = [stream.maps(level, features[name]) for name, stream in streams.items()]
        refined = self.mutual[level](*maps)
        return {
            name: stream.ima[level](features[name], seen)
            for (name, stream), seen in zip(streams.items(), refined, strict=True)
        }


def build(options: Options) -> DPA | DPAPretrain:
    """Return the network; WeightsError if asked-for backbone weights cannot be had."""
    return DPAPretrain(options) if options.images else DPA(options)


def pretrained(
    states: Sequence[Mapping[str, Tensor]], initial: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the weights with which `finetune` begins: the image network's, where it has some.

    `states` holds that one state dict, `initial` is this network's own. Stream and decoder are
    taken as they are, statistics included, and the flow stream begins as a copy of RGB's. IFA, the
    mutual refinement and the joins of the streams keep their start.
    """
    (state,) = states
    twins = {
        f"flow.{key.removeprefix('rgb.')}": tensor
        for key, tensor in state.items()
        if key.startswith("rgb.")
    }
    return {**initial, **state, **twins}


loss = dpa_pretrain.loss
LOSSES = dpa_pretrain.LOSSES
SAMPLING: Literal["references"] = "references"
CHAIN = ("pretrain", "finetune")
TAKES = ("dpa_pretrain",)

_INPUTS = ("img", "flow", "ref_img", "ref_flow")
_PRETRAIN = dpa_pretrain.STAGES[0]

STAGES: tuple[Stage, ...] = (
    replace(_PRETRAIN, network=Options(images=True, backbone_weights="imagenet")),
    replace(
        _PRETRAIN,
        name="finetune",
        network=Options(),
        transfer="pretrained",
        data=replace(
            _PRETRAIN.data,
            datasets=("DAVIS_train", "YouTubeVOS_train"),
            inputs=_INPUTS,
            references=4,
            balanced={"YouTubeVOS_train": "DAVIS_train"},
        ),
    ),
    debug(
        Stage(name="debug", network=Options(), data=_PRETRAIN.data),
        Options(width=8),
        replace(_PRETRAIN.optim, lr=1e-3, clip_norm=1.0),
        inputs=_INPUTS,
        references=2,
    ),
)

# Our names in those of the published code, as far as the image network does not have them.
PUBLISHED: tuple[tuple[str, str], ...] = (
    (r"^(rgb|flow)\.ifa\.key\.", r"\1_TAM.K."),
    (r"^(rgb|flow)\.ifa\.value\.", r"\1_TAM.V."),
    (r"^(rgb|flow)\.ifa\.fuse\.", r"\1_TAM.fusion."),
    (r"^(rgb|flow)\.join\.", r"\1_fuse5.0."),
    (r"^mutual\.(\d)\.rgb\.", r"DAM\1.CCM.can1."),
    (r"^mutual\.(\d)\.flow\.", r"DAM\1.CCM.can2."),
    (r"^merge\.(\d)\.", r"total_fuse\1."),
    *dpa_pretrain.PUBLISHED,
)
PUBLISHED_UNDER = "model_state_dict"
