"""A network of two convolutions, to test the training loop in milliseconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsodpipe.recipe import Augment, Data, Optim, Stage, Validate


@dataclass(frozen=True, kw_only=True)
class Options:
    width: int = 4
    """Channels."""
    drop: float = 0.0
    """Probability of dropout."""
    backbone_weights: str | None = None
    """There is no backbone."""


class Plain(nn.Module):
    def __init__(self, options: Options) -> None:
        super().__init__()
        self.body = nn.Conv2d(6, options.width, 3, padding=1)
        self.drop = nn.Dropout(options.drop)
        self.head = nn.Conv2d(options.width, 1, 1)

    def forward(self, img: Tensor, flow: Tensor) -> dict[str, Tensor]:
        x = torch.cat((img, flow), 2).flatten(0, 1)
        y = self.head(self.drop(self.body(x).relu()))
        return {"saliency": y.unflatten(0, img.shape[:2])}


def build(options: Options) -> Plain:
    return Plain(options)


def loss(
    logits: dict[str, Tensor], sample: dict[str, Tensor], weights: Mapping[str, float] = {}
) -> Tensor:
    factor = weights.get("saliency", 1.0)
    return factor * F.binary_cross_entropy_with_logits(logits["saliency"], sample["gt"])


def widen(states: Sequence[Mapping[str, Tensor]], initial: Mapping[str, Tensor]) -> dict:
    """The head of the last state; a body that holds all of theirs, then the initial channels."""
    body = torch.cat([state["body.weight"] for state in states])
    rest = initial["body.weight"][len(body) :]
    return {**initial, "body.weight": torch.cat((body, rest))}


LOSSES = ("saliency",)
SAMPLING: Literal["clip"] = "clip"
CHAIN = ("debug",)
_DEBUG = Stage(
    name="debug",
    network=Options(),
    data=Data(datasets=("TINY_train",), size=(32, 32), clip=2),
    augment=Augment(flip=0.5),
    optim=Optim(lr=1e-2),
    validate=Validate(split="none"),
    epochs=2,
    batch=4,
)
STAGES = (
    _DEBUG,
    replace(_DEBUG, name="other", seed=1, fresh=True),
    replace(
        _DEBUG,
        name="wide",
        network=Options(width=10),
        joins=("debug", "other"),
        transfer="widen",
    ),
)
