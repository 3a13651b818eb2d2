"""What a training step changes: network, optimiser, scaler, average; into a checkpoint and back."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vsodpipe import optimisers
from vsodpipe.errors import UsageError
from vsodpipe.ranks import Ranks
from vsodpipe.recipe import Stage
from vsodpipe.relabel import Labels


@dataclass
class Learner:
    """The state of one stage in training; `start` makes it."""

    network: nn.Module
    """The bare network, whose weights are trained."""
    forward: nn.Module
    """The same network as a step calls it: compiled, its gradients shared by all processes."""
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    autocast: AbstractContextManager[Any]
    device: torch.device
    average: nn.Module | None
    """The network with the moving average of its weights, where the recipe asks for one."""
    stage: Stage
    labels: Labels | None = None
    """Refined labels, where the recipe asks for them."""
    best: float | None = None
    """The best validation score of the stage so far."""

    @property
    def delivered(self) -> nn.Module:
        """The network to validate, save and hand on: the averaged one where there is one."""
        return self.network if self.average is None else self.average

    def finish(self) -> None:
        """Clip the gradients, take the optimiser's step, move the average."""
        optim = self.stage.optim
        self.scaler.unscale_(self.optimiser)
        if optim.clip_value:
            nn.utils.clip_grad_value_(self.network.parameters(), optim.clip_value)
        if optim.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), optim.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.average is not None:
            _move(self.average, self.network, self.stage.ema)

    def alone(self, last: bool) -> AbstractContextManager[Any]:
        """Return a context in which gradients wait for the `last` part of a batch to be shared."""
        shared = self.forward
        if last or not isinstance(shared, DistributedDataParallel):
            return nullcontext()
        waiting: AbstractContextManager[Any] = shared.no_sync()
        return waiting

    def state(self) -> dict[str, Any]:
        """Return what continues the stage, beside the weights that are delivered."""
        return {
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "raw": None if self.average is None else self.network.state_dict(),
            "labels": None if self.labels is None else self.labels.state(),
            "best": self.best,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`; the network holds the delivered weights already."""
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.best = state["best"]
        if state["raw"] is not None:
            self.network.load_state_dict(state["raw"])
        if self.labels is not None:
            self.labels.restore(state["labels"])


def start(
    network: nn.Module, stage: Stage, device: str, ranks: Ranks, *, compiled: bool = False
) -> Learner:
    """Return the learner of a stage that begins with `network`.

    Raises UsageError for a precision, or a batch norm over processes, that the device lacks.
    """
    where = torch.device(device)
    autocast, scaler = _precision(stage, where)
    if stage.sync_bn and ranks.world > 1:
        if where.type != "cuda":
            raise UsageError("recipe key sync_bn: needs CUDA. Use --set sync_bn=false.")
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    network.to(where).train()
    optimiser = optimisers.make(network, stage.optim)
    average = deepcopy(network).eval().requires_grad_(False) if stage.ema else None
    forward = cast(nn.Module, torch.compile(network)) if compiled else network
    if ranks.world > 1:
        forward = DistributedDataParallel(
            forward,
            device_ids=[where] if where.type == "cuda" else None,
            find_unused_parameters=stage.unused,
        )
    labels = None if stage.relabel_from is None else Labels(stage.relabel_from)
    return Learner(network, forward, optimiser, scaler, autocast, where, average, stage, labels)


@torch.no_grad()
def _move(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average by 1 - `decay` towards the network; statistics and counters are copied."""
    trained = dict(network.named_parameters())
    for name, value in average.named_parameters():
        value.lerp_(trained[name].detach(), 1 - decay)
    measured = dict(network.named_buffers())
    for name, statistic in average.named_buffers():
        statistic.copy_(measured[name])


def _precision(
    stage: Stage, device: torch.device
) -> tuple[AbstractContextManager[Any], torch.amp.GradScaler]:
    kind = stage.precision
    if kind == "auto":
        kind = "fp32"
        if device.type == "cuda":
            kind = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if kind == "fp16" and device.type != "cuda":
        raise UsageError("precision fp16 needs CUDA. Use --set precision=bf16 or fp32.")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(kind)
    autocast = torch.autocast(device.type, dtype) if dtype else nullcontext()
    return autocast, torch.amp.GradScaler(device.type, enabled=kind == "fp16")
