"""Optimiser, parameter groups and learning rate, as a recipe's `optim` describes them."""

from __future__ import annotations

import math

import torch
from torch import nn

from vsodpipe.errors import UsageError, unknown
from vsodpipe.recipe import Group, Optim


def make(network: nn.Module, options: Optim) -> torch.optim.Optimizer:
    """Return the optimiser; its groups hold the `factor` and the `from_epoch` of their rate.

    Biases and norm weights, which have one dimension, decay only where the recipe says so. The
    parameters of a frozen group stop asking for gradients. Raises UsageError for a group of a
    module that the network does not have.
    """
    names = [name for name, _ in network.named_parameters()]
    for module in options.groups:
        if not any(_inside(name, module) for name in names):
            tops = sorted({f"optim.groups.{name.partition('.')[0]}" for name in names})
            raise unknown("recipe key", f"optim.groups.{module}", tops)
    groups: dict[tuple[float, int, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        group = group_of(name, options)
        parameter.requires_grad_(parameter.requires_grad and not group.frozen)
        if parameter.requires_grad:
            decay = options.weight_decay if group.weight_decay is None else group.weight_decay
            decay = decay if options.decay_all or parameter.ndim > 1 else 0.0
            groups.setdefault((group.lr, group.from_epoch, decay), []).append(parameter)
    if not groups:
        raise UsageError("recipe key optim.groups: every parameter is frozen, nothing can learn.")
    described = [
        {"params": found, "factor": factor, "from_epoch": epoch, "weight_decay": decay}
        for (factor, epoch, decay), found in groups.items()
    ]
    if options.kind == "sgd":
        return torch.optim.SGD(
            described, lr=options.lr, momentum=options.momentum, nesterov=options.nesterov
        )
    kind = torch.optim.Adam if options.kind == "adam" else torch.optim.AdamW
    return kind(described, lr=options.lr)


def group_of(name: str, options: Optim) -> Group:
    """Return the group of a parameter: that of the innermost module it is in, else a plain one."""
    holders = [module for module in options.groups if _inside(name, module)]
    return options.groups[max(holders, key=len)] if holders else Group()


def _inside(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def set_rate(optimiser: torch.optim.Optimizer, rate: float, epoch: int) -> None:
    """Give every group its share of `rate`; nothing before the epoch it begins with."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["factor"] if epoch >= group["from_epoch"] else 0.0


def rate_of(options: Optim, step: int, total: int, epoch: int) -> float:
    """Return the rate of `step` of `total`, which is in `epoch`, all counted from 0.

    The first step of cosine and poly has `lr`, the last one `min_lr`. Linear gives the first step
    one share of the way already, as A2S-v2 does (a2s.md, section 7).
    """
    warm = min(1.0, (step + 1) / (options.warmup_steps + 1))
    if options.schedule == "constant":
        return warm * options.lr
    if options.schedule == "step":
        falls = sum(epoch >= fall for fall in options.step_epochs)
        return warm * options.lr * options.step_factor**falls
    share = step / max(1, total - 1)
    left = {
        "cosine": (1 + math.cos(math.pi * share)) / 2,
        "poly": (1 - share) ** options.power,
        "linear": 1 - (step + 1) / total,
    }[options.schedule]
    return warm * (options.min_lr + (options.lr - options.min_lr) * left)
