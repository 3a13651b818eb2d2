"""RAFT over a clip: torchvision's network, with nothing computed twice and nothing unused.

    network = StreamingRaft(torchvision_network, torch.float32)
    before, after = network.encode(picture0), network.encode(picture1)  # each frame once
    volume = network.volume(1, before)
    volume.fill([(before, after)])
    flow = network.flow([before], volume, updates=20)

What differs from `torchvision.models.optical_flow.RAFT`, and by rounding only: a frame's features
serve every pair it is in; levels 1 to 3 of the correlation pyramid are products with pooled
features (pooling is linear) instead of a pooled volume; the share of the context in the recurrent
block, which no update changes, is computed once; only the last flow is upsampled.

Letters in shapes: B pairs, C channels, h w rows and columns of the features (an eighth of the
picture's), n = h * w, k a window's 2 * radius + 1. Coordinates and flow are (x, y) in pixels of
the features, up to the last step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.optical_flow import RAFT
from torchvision.models.optical_flow.raft import ConvGRU, FeatureEncoder

from vsodpipe.flows.raft_compile import compiled
from vsodpipe.flows.raft_memory import give_back
from vsodpipe.flows.raft_volume import Correlation, made
from vsodpipe.flows.winograd import Convolution, convolution, quicken

SCALE = 8
"""Pixels of the picture in one of the features."""

_LARGE = 2**20
"""Pixels of a frame from which memory counts more than the time to give it back: 0.04 s a pair."""


@dataclass
class Context:
    """What a frame brings to the flow that starts from it."""

    hidden: Tensor
    """First state of the recurrent block, (1, C, h, w)."""
    shares: list[Tensor]
    """The context's part of each recurrent unit's z, r and q before activation, (1, 3C, h, w)."""


@dataclass
class Encoded:
    """A frame as the network sees it. Built by `StreamingRaft.encode`."""

    picture: Tensor | None
    """(H, W, 3), uint8, until it is known whether the context is needed, and computed."""
    size: tuple[int, int]
    """h and w."""
    levels: list[Tensor]
    """Features in float32, then pooled by 2, 4 and 8: (n, C), (n / 4, C), ..."""
    context: Context | None = None
    lock: Lock = field(default_factory=Lock)
    """For the context: two threads may want it at once, for the pairs before and after."""


class StreamingRaft:
    """The network's parts, rearranged. Takes the `network` over: it is of no use after.

    `dtype` is that of the convolutions; correlation, coordinates and flow are float32. `winograd`
    replaces them by those of that module (where it is available, in float32).
    """

    def __init__(self, network: RAFT, dtype: torch.dtype, winograd: bool = False) -> None:
        # direct convolutions are fastest in channels_last, Winograd's need the other layout
        self._format = torch.contiguous_format if winograd else torch.channels_last
        _rearrange_norms(network.feature_encoder)
        _fold_norms(network.context_encoder)
        network.requires_grad_(False).to(dtype=dtype, memory_format=self._format)
        self._network = network
        self._dtype = dtype
        block = network.update_block
        self._hidden_size: int = block.hidden_state_size
        context_size = network.context_encoder.output_dim - self._hidden_size
        units = [unit for unit in block.recurrent_block.children() if isinstance(unit, ConvGRU)]
        kind = convolution if winograd else _direct
        self._units = [_Unit(unit, self._hidden_size, context_size, kind) for unit in units]
        if winograd:
            for part in (network.feature_encoder, network.context_encoder):
                quicken(part)
            quicken(block.motion_encoder)
            quicken(block.flow_head)

    def encode(self, picture: Tensor) -> Encoded:
        """Return the features of a `picture`, (H, W, 3), uint8, RGB; H and W divide by 8."""
        features = _features(self._network.feature_encoder, self._scaled(picture)).float()
        # Half of the product's 1 / sqrt(C), on either side.
        features *= features.shape[1] ** -0.25
        size = (features.shape[2], features.shape[3])
        levels = [features]
        for _ in range(self._network.corr_block.num_levels - 1):
            levels.append(F.avg_pool2d(levels[-1], 2))
        return Encoded(picture, size, [level[0].flatten(1).t() for level in levels])

    def volume(self, pairs: int, like: Encoded, kind: str = "full") -> Correlation:
        """Return room for the correlation of that many pairs of frames of one size.

        `kind` is one of `raft_volume.KINDS`.
        """
        corr_block = self._network.corr_block
        levels, radius = corr_block.num_levels, corr_block.radius
        return made(kind, pairs, like.size, levels, radius, like.levels[0])

    def flow(self, sources: Sequence[Encoded], volume: Correlation, updates: int) -> Tensor:
        """Return the flow that starts from `sources`, (B, 2, H, W) in pixels, float32.

        `volume` is filled with their pairs.
        """
        contexts = [self._context(source) for source in sources]
        # In the layout that updates return, so that each size is compiled once.
        hidden = self._laid(_cat([context.hidden for context in contexts]))
        shares = [_cat(list(unit)) for unit in zip(*(c.shares for c in contexts), strict=True)]
        start = _grid(sources[0].size, hidden.device).expand(len(sources), -1, -1, -1)
        flow = self._laid(torch.zeros_like(start))
        for _ in range(updates):
            # without a name, which would keep it for the upsampling
            flow, hidden = self._update(
                flow, hidden, volume.lookup(start + flow).to(self._dtype), shares
            )
        return self._upsampled(flow, hidden)

    def compile(self) -> None:
        """Compile the update, at the first call for each size; what fails then raises there."""
        self._update = compiled(self._update)  # type: ignore[method-assign]

    def _update(
        self, flow: Tensor, hidden: Tensor, correlation: Tensor, shares: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return flow and hidden state after one update."""
        block = self._network.update_block
        motion = block.motion_encoder(self._laid(flow.to(self._dtype)), correlation)
        for unit, share in zip(self._units, shares, strict=True):
            hidden = unit(hidden, motion, share)
        return flow + block.flow_head(hidden).float(), hidden

    def _laid(self, tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=self._format)

    def _scaled(self, picture: Tensor) -> Tensor:
        """Return the `picture` in -1..1, as torchvision's and princeton's networks expect it."""
        _tidied(picture.shape[0] * picture.shape[1], picture.device)
        scaled = picture.permute(2, 0, 1)[None].float().div_(255).mul_(2).sub_(1)
        return self._laid(scaled.to(self._dtype))

    def _context(self, frame: Encoded) -> Context:
        with frame.lock:
            if frame.context is None:
                assert frame.picture is not None
                out = _features(self._network.context_encoder, self._scaled(frame.picture))
                hidden = torch.tanh(out[:, : self._hidden_size])
                context = F.relu(out[:, self._hidden_size :])
                frame.context = Context(hidden, [unit.share(context) for unit in self._units])
                frame.picture = None
            return frame.context

    def _upsampled(self, flow: Tensor, hidden: Tensor) -> Tensor:
        """Return `flow` in pixels of the picture: by the learned mask (large) or bilinear."""
        flow = flow * SCALE
        batch, _, h, w = flow.shape
        predictor = self._network.mask_predictor
        if predictor is None:
            size = (h * SCALE, w * SCALE)
            return F.interpolate(flow, size=size, mode="bilinear", align_corners=True)
        _tidied(h * w * SCALE * SCALE, flow.device)
        mask = predictor.conv(predictor.convrelu(hidden)).float()
        # Channel by channel as in torchvision's upsample_flow: (9, 8, 8) weights for a pixel. One
        # large tensor after the other, and x after y: this is where memory peaks.
        mask = mask.reshape(batch, 9, SCALE * SCALE, h * w)
        mask = mask.mul_(predictor.multiplier).softmax(1)
        window = F.unfold(flow.contiguous(), 3, padding=1).view(batch, 2, 9, 1, h * w)
        fine = torch.stack([(mask * weighted).sum(1) for weighted in window.unbind(1)], 1)
        fine = fine.view(batch, 2, SCALE, SCALE, h, w)
        return fine.permute(0, 1, 4, 2, 5, 3).reshape(batch, 2, h * SCALE, w * SCALE)


class _Unit:
    """A ConvGRU whose convolutions are split by input: state and motion, and the context apart."""

    def __init__(
        self,
        unit: ConvGRU,
        hidden_size: int,
        context_size: int,
        kind: Callable[[Tensor, Tensor | None, tuple[int, ...]], Convolution],
    ) -> None:
        gates = (unit.convz, unit.convr, unit.convq)
        # The input's channels are the state, the context, the motion.
        context = slice(hidden_size, hidden_size + context_size)
        moving = [
            torch.cat([gate.weight[:, : context.start], gate.weight[:, context.stop :]], 1)
            for gate in gates
        ]
        padding = unit.convz.padding
        bias = torch.cat([gate.bias for gate in gates])
        self._share = kind(torch.cat([gate.weight[:, context] for gate in gates]), bias, padding)
        self._zr = kind(torch.cat(moving[:2]), None, padding)
        self._q = kind(moving[2], None, padding)
        self._hidden_size = hidden_size

    def share(self, context: Tensor) -> Tensor:
        """Return what `context` adds to z, r and q, (1, 3C, h, w)."""
        return self._share(context)

    def __call__(self, hidden: Tensor, motion: Tensor, share: Tensor) -> Tensor:
        both = 2 * self._hidden_size
        zr = self._zr(torch.cat([hidden, motion], 1))
        z, r = zr.add_(share[:, :both]).sigmoid_().chunk(2, 1)
        q = self._q(torch.cat([r * hidden, motion], 1))
        return torch.lerp(hidden, q.add_(share[:, both:]).tanh_(), z)


class _FrameNorm(nn.Module):
    """Instance norm of a batch of one, without parameters. Writes into its input on a CPU.

    torch's own passes over contiguous channels once more for the variance, five times as slow as
    all of this; in channels_last it is fast as batch norm with the batch's statistics.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self._eps = eps

    def forward(self, x: Tensor) -> Tensor:
        assert len(x) == 1
        if not x.is_contiguous():
            return F.batch_norm(x, None, None, training=True, eps=self._eps)
        channels = x.flatten(2)[0]
        channels -= channels.mean(1, keepdim=True)
        length = torch.linalg.vector_norm(channels, dim=1, keepdim=True)
        channels *= (length.square() / channels.shape[1] + self._eps).rsqrt()
        return x


def _tidied(pixels: int, device: torch.device) -> None:
    """Give free memory back before the steps that take the most, for frames of so many pixels."""
    if pixels >= _LARGE and device.type == "cpu":
        give_back()


def _features(encoder: FeatureEncoder, x: Tensor) -> Tensor:
    """Return what `encoder` makes of the picture `x`: its forward, in little memory.

    That keeps the input of each layer and block until the layer ends; these are the largest tensors
    of all, and here there are three of them at most.
    """
    x = encoder.convnormrelu(x)
    for block in (*encoder.layer1, *encoder.layer2, *encoder.layer3):
        y = x
        for name, steps in block.named_children():
            if name.startswith("convnormrelu"):
                for step in steps:
                    y = step(y)
        x = block.relu(y.add_(block.downsample(x)))
    return encoder.conv(x)


def _rearrange_norms(encoder: FeatureEncoder) -> None:
    for module in list(encoder.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.InstanceNorm2d):
                setattr(module, name, _FrameNorm(child.eps))


def _fold_norms(encoder: FeatureEncoder) -> None:
    """Fold batch norm into the convolutions before it (raft_small's context has none)."""
    for module in list(encoder.modules()):
        if isinstance(module, nn.Sequential):
            for first in range(len(module) - 1):
                convolution, norm = module[first], module[first + 1]
                if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    module[first] = fuse_conv_bn_eval(convolution, norm)
                    module[first + 1] = nn.Identity()


def _grid(size: tuple[int, int], device: torch.device) -> Tensor:
    """Return each pixel's (x, y), (1, 2, h, w)."""
    rows, columns = (torch.arange(side, dtype=torch.float32, device=device) for side in size)
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"))[None]


def _cat(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _direct(weight: Tensor, bias: Tensor | None, padding: tuple[int, ...]) -> Convolution:
    weight = weight.contiguous(memory_format=torch.channels_last)
    return lambda x: F.conv2d(x, weight, bias, padding=padding)
