"""The weights a stage begins with: initial ones, `--init`'s, or those of the stages before it.

A stage's `transfer` names a function of the model's file,

    function(states, initial) -> state dict of the stage's network

that is given the state dicts of the stages it joins (else of the one before) and that of its own
network with initial weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from vsodpipe import checkpoint, models
from vsodpipe.checkpoint import Checkpoint
from vsodpipe.errors import UsageError, WeightsError, unknown
from vsodpipe.recipe import Stage
from vsodpipe.runs import Job

State = Mapping[str, Tensor]
Transfer = Callable[[Sequence[State], State], State]


def check(job: Job) -> None:
    """Raise UsageError where a stage's weights cannot follow from the stages before it."""
    for number, stage in enumerate(job.stages):
        before = job.stages[number - 1]
        if stage.transfer:
            _transfer(job.model, stage)
        elif number and not stage.fresh and _built(stage) != _built(before):
            raise UsageError(
                f"stage {stage.name} builds another network than stage {before.name}: the "
                "weights cannot be handed on. Run them one by one."
            )


def begin(job: Job, number: int, before: State | None) -> nn.Module:
    """Return the network of stage `number` as it begins; `before` are the weights of the last one.

    Raises UsageError for a stage that needs weights where there are none, and WeightsError for
    weights of another network.
    """
    stage = job.stages[number]
    states = _given(job, number, before)
    if states is None and not stage.fresh:
        _check_start(job.model, stage)
    network = _build(job.model, stage, initial=states is None)
    if states is not None:
        found: State = states[0]
        if stage.transfer and not _own(job, number):
            found = _transfer(job.model, stage)(states, network.state_dict())
        load(network, found, f"the weights for stage {stage.name}")
    return network


def resumed(job: Job, number: int, saved: Checkpoint) -> nn.Module:
    """Return the network of stage `number` in the middle of which `saved` was written."""
    network = _build(job.model, job.stages[number], initial=False)
    checkpoint.load_into(network, saved)
    return network


def load(network: nn.Module, state: State, what: str) -> None:
    """Load a state dict whose every key must fit. Raises WeightsError."""
    own = {key: value.shape for key, value in network.state_dict().items()}
    if {key: value.shape for key, value in state.items()} != own:
        missing, more = len(own.keys() - state.keys()), len(state.keys() - own.keys())
        raise WeightsError(
            f"{what}: do not fit its network: {missing} tensors missing, {more} not known, others "
            "of another shape. Use the recipe they were trained with."
        )
    network.load_state_dict(dict(state))


def _given(job: Job, number: int, before: State | None) -> list[State] | None:
    stage, here = job.stages[number], job.last.parent
    earlier = {each.name for each in job.stages[:number]}
    if stage.joins and earlier.issuperset(stage.joins):
        return [_read(here / f"{name}.pt", job.model) for name in stage.joins]
    if number == 0 and job.init is not None:
        if not _own(job, number) and stage.joins:
            return [_read(_folder(job) / f"{name}.pt", job.model) for name in stage.joins]
        return [_named(job).state_dict]
    return None if stage.fresh or before is None else [before]


def _own(job: Job, number: int) -> bool:
    """Whether `--init` names weights of this very stage, or of one that it does not build on."""
    if number or job.init is None:
        return False
    stage = job.stages[0]
    if job.init.is_dir() and stage.joins:
        return False
    saved = _named(job)
    return (saved.model, saved.stage.name) == (job.model, stage.name)


def _named(job: Job) -> Checkpoint:
    """Return the file behind `--init`: of this network, or of one whose weights it takes."""
    assert job.init is not None
    others = getattr(models.load(job.model), "TAKES", ())
    return checkpoint.read(job.init, job.model, others)


def _folder(job: Job) -> Path:
    assert job.init is not None
    if not job.init.is_dir():
        raise UsageError(
            f"stage {job.stages[0].name} joins the weights of {', '.join(job.stages[0].joins)}: "
            f"name the run folder that has them with --init, not {job.init}."
        )
    return job.init / "checkpoints"


def _read(path: Path, model: str) -> State:
    return checkpoint.read(path, model).state_dict


def _build(model: str, stage: Stage, *, initial: bool) -> nn.Module:
    options = stage.network
    if not initial:  # trained weights follow: the backbone's are not fetched for nothing
        options = replace(options, backbone_weights=None)
    torch.manual_seed(stage.seed)
    network = models.load(model).build(options)
    takes = tuple(inspect.signature(network.forward).parameters)
    if len(takes) != len(stage.data.inputs):
        raise UsageError(f"recipe key inputs: {model} takes {', '.join(takes)}.")
    return network


def _check_start(model: str, stage: Stage) -> None:
    chain = models.load(model).CHAIN
    if stage.name in chain[1:] and stage.network.backbone_weights is None:
        before = chain[chain.index(stage.name) - 1]
        raise UsageError(
            f"stage {stage.name} continues from the weights of stage {before}. Name them with "
            "--init RUN, or start from --backbone-weights imagenet."
        )


def _built(stage: Stage) -> object:
    return replace(stage.network, backbone_weights=None)


def _transfer(model: str, stage: Stage) -> Transfer:
    module = models.load(model)
    found = getattr(module, stage.transfer, None)
    if not inspect.isfunction(found):
        functions = [n for n, f in vars(module).items() if inspect.isfunction(f) and n[0] != "_"]
        raise unknown(f"function of {model} for recipe key transfer:", stage.transfer, functions)
    transfer: Transfer = found
    return transfer
