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

from vsodpipe import checkpoint, models, runs
from vsodpipe.checkpoint import Checkpoint
from vsodpipe.errors import UsageError, WeightsError, unknown
from vsodpipe.recipe import Stage
from vsodpipe.runs import Job

State = Mapping[str, Tensor]
Transfer = Callable[[Sequence[State], State], State]


def check(job: Job) -> None:
    """Raise UsageError where a stage's weights cannot follow from the stages before it.

    And for labels that are to be refined where the network learns without any.
    """
    for number, stage in enumerate(job.stages):
        before = job.stages[number - 1]
        if stage.relabel_from is not None and hasattr(models.load(job.model), "objective"):
            raise UsageError(f"recipe key relabel_from: {job.model} does not learn from labels.")
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
    if number == 0 and job.init:
        files = runs.initial_files(job)
        saved = [_named(file, job.model) for file in files]
        _check_joined(stage, saved)
        return [each.state_dict for each in saved]
    return None if stage.fresh or before is None else [before]


def _own(job: Job, number: int) -> bool:
    """Whether `--init` names weights of this very stage, not of one that it builds on."""
    if number or len(files := runs.initial_files(job)) != 1:
        return False
    saved = _named(files[0], job.model)
    return (saved.model, saved.stage.name) == (job.model, job.stages[0].name)


def _named(file: Path, model: str) -> Checkpoint:
    """Return a file that `--init` names: of this network, or of one whose weights it takes."""
    return checkpoint.read(file, model, getattr(models.load(model), "TAKES", ()))


def _check_joined(stage: Stage, saved: Sequence[Checkpoint]) -> None:
    """Raise UsageError unless `saved` are of the stages that `stage` joins, or one of itself."""
    if not stage.joins or (len(saved) == 1 and saved[0].stage.name == stage.name):
        return
    wanted = stage.joins if len(saved) == len(stage.joins) else (stage.name,)
    for name, found in zip(wanted, saved, strict=True):
        # published files do not say of which stage they are
        if found.provenance and found.stage.name != name:
            raise UsageError(
                f"{found.file}: holds weights of stage {found.stage.name}, but stage {stage.name} "
                f"joins {', '.join(stage.joins)}: name their run with --init, or with one --init "
                "each, in this order."
            )


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
