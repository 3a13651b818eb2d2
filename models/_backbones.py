"""Image encoders, and the strict way in for their weights, by file or download.

encoder = mobilevit("mobilevit_s")                      # of timm, random weights
load_mobilevit([encoder], "mobilevit_s", "imagenet")    # or a .safetensors or .pth file

encoder = ResNet("resnet34")                            # with torchvision's keys
load_resnet([encoder], "resnet34", "imagenet")
"""

import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.utils
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vsodpipe import weight_file
from vsodpipe.errors import WeightsError

log = logging.getLogger(__name__)

MOBILEVITS = ("mobilevit_xxs", "mobilevit_xs", "mobilevit_s")
# timm publishes Apple's weights (ml-cvnets licence: not to be redistributed) under this tag.
# They expect RGB in 0..1 as it is: mean 0, standard deviation 1.
MOBILEVIT_TAG = "cvnets_in1k"
HUB_FILE = "model.safetensors"
HUB_TIMEOUT = 5.0  # seconds for the first answer of the hub; its own default is ten, six times over


def mobilevit(name: str) -> nn.Module:
    """Return a MobileViT that maps (N, 3, H, W) in 0..1 to four maps at strides 4, 8, 16, 32.

    `encoder.feature_info.channels()` are their widths. The weights are random.
    """
    return timm.create_model(name, pretrained=False, features_only=True, out_indices=(1, 2, 3, 4))


def load_mobilevit(encoders: Iterable[nn.Module], name: str, source: str) -> None:
    """Load `source` ("imagenet" or a file) into every encoder made by `mobilevit(name)`."""
    hub_id = f"timm/{name}.{MOBILEVIT_TAG}"
    path = fetch_timm(hub_id) if source == "imagenet" else Path(source).expanduser()
    # A classifier numbers its stages `stages.0.`, the same network as feature maps `stages_0.`.
    state = {
        re.sub(r"^stages\.(\d+)\.", r"stages_\1.", key): tensor
        for key, tensor in read_state_dict(path).items()
        if not key.startswith("head.")
    }
    for encoder in encoders:
        load_strictly(encoder, state, f"{path} as weights of {name}")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., CVPR 2016, figure 5 left)."""

    expansion = 1

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(c_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, c_in, h, w) to (N, width, h/stride, w/stride)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1 (figure 5 right; the stride's place is torchvision's)."""

    expansion = 4

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _shortcut(c_in, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, c_in, h, w) to (N, 4 width, h/stride, w/stride)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def _shortcut(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    if stride == 1 and c_in == c_out:
        return nn.Sequential()  # the identity
    return nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))


RESNETS: dict[str, type[BasicBlock | Bottleneck]] = {
    "resnet34": BasicBlock,
    "resnet50": Bottleneck,
}


class ResNet(nn.Module):
    """ResNet-34 or -50 without its classifier; `width` 64 is the published one.

    The parts are public because the networks here take features between them: `stem` gives stride
    2, `pool` stride 4, `stages` the four layers at strides 4, 8, 16, 32 (`channels` wide). With
    `last_stride` 1 the fourth stays at 16.
    """

    def __init__(self, name: str, width: int = 64, last_stride: int = 2) -> None:
        super().__init__()
        block = RESNETS[name]
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        c_in, self.channels = width, []
        strides = (1, 2, 2, last_stride)
        for level, (depth, stride) in enumerate(zip((3, 4, 6, 3), strides, strict=True)):
            blocks = []
            for number in range(depth):
                blocks.append(block(c_in, width << level, stride if number == 0 else 1))
                c_in = (width << level) * block.expansion
            self.add_module(f"layer{level + 1}", nn.Sequential(*blocks))
            self.channels.append(c_in)

    def stem(self, x: Tensor) -> Tensor:
        """Map (N, 3, H, W) to (N, width, H/2, W/2)."""
        return torch.relu(self.bn1(self.conv1(x)))

    @property
    def stages(self) -> list[nn.Module]:
        """`layer1` to `layer4`."""
        return [self.get_submodule(f"layer{level}") for level in range(1, 5)]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (N, 3, H, W) to the outputs of the four stages."""
        x, maps = self.pool(self.stem(x)), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def load_resnet(encoders: Iterable[nn.Module], name: str, source: str) -> None:
    """Load `source` into every `ResNet(name)`: a file, or "imagenet".

    That is torchvision's IMAGENET1K_V1, which timm publishes as `NAME.tv_in1k`.
    """
    path = fetch_timm(f"timm/{name}.tv_in1k") if source == "imagenet" else Path(source).expanduser()
    state = {k: v for k, v in read_state_dict(path).items() if not k.startswith("fc.")}
    for encoder in encoders:
        load_strictly(encoder, state, f"{path} as weights of {name}")


class VGG16(nn.ModuleList):
    """VGG-16 (Simonyan & Zisserman, 2015) without batch norm, last pooling and classifier.

    Modules are numbered as torchvision's `features`; `width` 64 is the published one. A stage
    begins with its pooling, so that stages 1 to 5 end at strides 1, 2, 4, 8, 16.
    """

    STARTS = (0, 4, 9, 16, 23, 30)

    def __init__(self, width: int = 64) -> None:
        layers: list[nn.Module] = []
        c_in = 3
        for multiple, depth in ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3)):
            if layers:
                layers.append(nn.MaxPool2d(2))
            for _ in range(depth):
                layers += [nn.Conv2d(c_in, multiple * width, 3, padding=1), nn.ReLU(inplace=True)]
                c_in = multiple * width
        super().__init__(layers)

    def stage(self, number: int, x: Tensor) -> Tensor:
        """Return the map of stage `number` (1 to 5) from that of the stage before."""
        for index in range(*self.STARTS[number - 1 : number + 1]):
            x = self[index](x)
        return x

    def fine(self, x: Tensor) -> list[Tensor]:
        """Map (N, 3, H, W) to the maps of stages 1, 2 and 3."""
        maps = []
        for number in (1, 2, 3):
            x = self.stage(number, x)
            maps.append(x)
        return maps


def load_vgg16(encoders: Iterable[nn.Module], source: str) -> None:
    """Load `source` into every `VGG16`: a file, or "imagenet".

    That is torchvision's IMAGENET1K_V1, which timm publishes as `vgg16.tv_in1k`. A file may hold
    the classifier, too, or the features alone (`0.weight`).
    """
    path = fetch_timm("timm/vgg16.tv_in1k") if source == "imagenet" else Path(source).expanduser()
    classifier = ("classifier.", "pre_logits.", "head.")
    state = {
        key.removeprefix("features."): tensor
        for key, tensor in read_state_dict(path).items()
        if not key.startswith(classifier)
    }
    for encoder in encoders:
        load_strictly(encoder, state, f"{path} as weights of vgg16")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors or torch file by name; the file is data, never code."""
    state = read_file(path)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(
            f"backbone weights: expected a dictionary of name -> tensor, got {_outline(state)} "
            f"({path}). Save the state_dict() of the backbone alone."
        )
    return state


def read_file(path: Path) -> Any:
    """Return what a .safetensors or torch file holds, tensors and plain values only."""
    if not path.is_file():
        raise WeightsError(
            f"backbone weights: expected a .safetensors or .pth file, got no file at {path}. "
            "Pass another --backbone-weights FILE, imagenet or none."
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return weight_file.load(path)
    except Exception as error:  # a broken pickle raises anything, down to IndexError
        reason = str(error).strip().partition("\n")[0]
        raise WeightsError(
            f"backbone weights: expected a .safetensors or .pth file of tensors, got {path}, "
            f"which does not read as one ({reason}). Fetch or save it again."
        ) from error


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load `state` into `module`, or raise WeightsError with the counts and leave it as it was."""
    own = module.state_dict()
    # Step counters of batch norm are not used here, and files of old exporters lack them.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    reshaped = [k for k in state if k in own and state[k].shape != own[k].shape]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    if any(problems.values()):
        counts = "; ".join(f"{len(k)} {what} (first: {k[0]})" for what, k in problems.items() if k)
        raise WeightsError(
            f"cannot load {where}: expected {len(own)} tensors, got {len(state)}: {counts}. "
            "Check that the file belongs to this backbone."
        )
    module.load_state_dict(dict(state), strict=False)


def fetch_timm(hub_id: str) -> Path:
    """Return the local path of the weights of a timm model, downloaded on first use.

    The hub's own retries take most of a minute without a network and say so line by line; one HEAD
    request first finds out in seconds. Raises WeightsError with the ways out.
    """
    cached = huggingface_hub.try_to_load_from_cache(hub_id, HUB_FILE)
    if isinstance(cached, str):  # not asking the hub again keeps a second run free of the network
        return Path(cached)
    url = huggingface_hub.hf_hub_url(hub_id, HUB_FILE)
    try:
        with _quiet_hub():
            huggingface_hub.get_hf_file_metadata(url, timeout=HUB_TIMEOUT)
            log.info("fetching %s", url)
            return Path(huggingface_hub.hf_hub_download(hub_id, HUB_FILE))
    except Exception as error:  # the hub passes on what its HTTP library of the day raises
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WeightsError(
            f"cannot fetch ImageNet weights: expected {HUB_FILE} of the timm model "
            f"{hub_id.removeprefix('timm/')}, got: {reason} ({url}). "
            "Fetch that file elsewhere and pass --backbone-weights FILE, or ask for random "
            "weights with --backbone-weights none."
        ) from error


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep the hub's log lines, progress bars and warnings off stderr, and restore them."""
    logger = logging.getLogger("huggingface_hub")
    level, no_bars = logger.level, huggingface_hub.utils.are_progress_bars_disabled()
    logger.setLevel(logging.CRITICAL)
    huggingface_hub.utils.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        if not no_bars:
            huggingface_hub.utils.enable_progress_bars()


def _outline(state: object) -> str:
    if not isinstance(state, dict):
        return f"a {type(state).__name__}"
    return f"one with {', '.join(map(str, list(state)[:4])) or 'nothing'}"
