"""A network with its loss learns two frames of a made clip by heart, in seconds, on the CPU.

What cannot learn these has a fault in its wiring: a sign, a gradient that is cut, a head that is
not trained, statistics of batch norm that evaluation does not see.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vsodpipe import models, optimisers, synth
from vsodpipe.flows import colour
from vsodpipe.recipe import Group, Optim, Stage

SIZE = (32, 64)
FRAMES = [0, 3]
OTHERS = [1, 2]
"""The reference frames."""


def shown(stage: Stage) -> tuple[list[Tensor], Tensor]:
    """Return the network's inputs, normalised as the recipe says, and the masks (2, 1, H, W)."""
    clip = synth.make_clip(3, 4, size=SIZE)
    pictures = {"img": clip.img, "flow": np.stack([*map(colour.flow_to_picture, clip.flow)])}
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (stage.data.mean, stage.data.std))
    values = {k: torch.from_numpy(v).permute(0, 3, 1, 2) / 255 for k, v in pictures.items()}
    values["img"] = (values["img"] - mean) / std
    if stage.data.normalise_flow:
        values["flow"] = (values["flow"] - mean) / std
    given = {key: value[FRAMES] for key, value in values.items()}
    given |= {f"ref_{k}": v[OTHERS].expand(2, -1, -1, -1, -1) for k, v in values.items()}
    gt = torch.from_numpy(clip.gt[FRAMES])[:, None].float()
    return [given[key] for key in stage.data.inputs], gt


def region(logits: dict[str, Tensor], gt: Tensor) -> float:
    """Return J, the mean over the frames."""
    found, wanted = logits["saliency"] > 0, gt > 0
    both, either = (found & wanted).flatten(1).sum(1), (found | wanted).flatten(1).sum(1)
    return float((both / either).mean())


SLOW = {"rgb.vgg": Group(lr=0.03), "flow.vgg": Group(lr=0.03)}
"""Thirteen layers without batch norm: at the rate of the rest they explode."""


@pytest.mark.parametrize(
    ("name", "options", "optim", "steps", "least"),
    [
        (
            "dpa_pretrain",
            {"width": 8},
            {"lr": 3e-2, "groups": {"rgb.vgg": SLOW["rgb.vgg"]}},
            45,
            1.5,
        ),
        ("dpa", {"width": 8}, {"lr": 3e-2, "groups": SLOW}, 45, 1.5),
        ("ianet", {"width": 8}, {"lr": 3e-3}, 45, 1.3),
        ("smcf", {"width": 2, "group": 2}, {"lr": 2e-2}, 25, 3),
    ],
)
def test_two_frames_are_learnt(
    name: str, options: dict[str, Any], optim: dict[str, Any], steps: int, least: float
) -> None:
    """The loss falls to a part, `least` says to which, and the object is found."""
    torch.manual_seed(0)
    model, stage = models.load(name), models.stages(name)["debug"]
    network = models.create(name, **options).train()
    rule = Optim(kind="adam", schedule="constant", weight_decay=0.0, **optim)
    optimiser = optimisers.make(network, rule)
    optimisers.set_rate(optimiser, rule.lr, 0)  # times that of each group
    given, gt = shown(stage)
    sample, losses = {"gt": gt, "valid": torch.ones(len(gt)).bool()}, []
    for _ in range(steps):
        logits = network(*given)
        loss = model.loss(logits, sample)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), rule.clip_norm)
        optimiser.step()
    assert losses[-1] * least < losses[0]
    assert region(logits, gt) > 0.65
