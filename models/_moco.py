"""The encoder of A2S-v2: ResNet-50, all of whose five maps are used, and its start from MoCo-v2.

No human label may enter this method, not even those of ImageNet: its encoders begin with MoCo-v2
(Chen, Fan, Girshick, He, arXiv 2003.04297), 200 epochs, moco_v2_200ep_pretrain.pth.tar of
github.com/facebookresearch/moco.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn

from vsodpipe.errors import WeightsError
from vsodpipe.models._backbones import ResNet, load_resnet, load_strictly, read_file

QUERY = "module.encoder_q."
"""What MoCo's files put before the keys of the encoder that is kept."""


def encode(encoder: ResNet, x: Tensor) -> list[Tensor]:
    """Return the maps of a picture (N, 3, H, W) at strides 2 (before pooling), 4, 8, 16, 32."""
    stem = encoder.stem(x)
    x, maps = encoder.pool(stem), [stem]
    for stage in encoder.stages:
        x = stage(x)
        maps.append(x)
    return maps


def classifier(encoder: ResNet) -> nn.Module:
    """Return the classifier that published files hold and nothing uses, without gradient."""
    return nn.Linear(encoder.channels[-1], 1000).requires_grad_(False)


def load_moco(encoders: Iterable[ResNet], source: str) -> None:
    """Load `source` into every encoder: a file of MoCo-v2, or "imagenet" (supervised, for tests).

    The projection head is left out, everything else must fit. Raises WeightsError for any other
    file: the published code takes it silently and trains from random weights.
    """
    if source == "imagenet":
        load_resnet(encoders, "resnet50", source)
        return
    path = Path(source).expanduser()
    content = read_file(path)
    state = content.get("state_dict") if isinstance(content, dict) else None
    keys = [key for key in state if key.startswith(QUERY)] if isinstance(state, dict) else []
    if not isinstance(state, dict) or not keys:
        raise WeightsError(
            f"backbone weights: expected a file of MoCo-v2 (state_dict with {QUERY}*), got {path} "
            "without. Fetch moco_v2_200ep_pretrain.pth.tar of github.com/facebookresearch/moco, "
            "or pass --backbone-weights none."
        )
    kept = {key.removeprefix(QUERY): state[key] for key in keys if f"{QUERY}fc." not in key}
    for encoder in encoders:
        load_strictly(encoder, kept, f"{path} as MoCo-v2 weights of resnet50")
