"""Training: stages run in order, each hands its weights to the next.

    data -> autocast -> loss -> backward -> clip -> step -> schedule -> log

Everything needed to continue is in `checkpoints/last.pt`; the samples of a step depend only on
seed, epoch and step, so that a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import inspect
import json
import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vsodpipe import checkpoint, devices, media, models, recipe, runs, transforms
from vsodpipe.errors import DataError, UsageError, VsodpipeError, unknown
from vsodpipe.manifest import Source, require_flow
from vsodpipe.progress import Reporter
from vsodpipe.reader import Store
from vsodpipe.recipe import Optim, Stage
from vsodpipe.runs import Job, Position
from vsodpipe.signals import stopping
from vsodpipe.stream import Clips, Sample, State, loader, open_reader

SAVE_SECONDS = 300.0
"""Longest time between two saves of last.pt."""


def choose_stages(
    model: str, names: list[str], assignments: list[str], backbone_weights: str | None
) -> tuple[Stage, ...]:
    """Return the stages to run: the model's chain, or those named, with `--set` applied to each.

    `backbone_weights` replaces the initial weights of the first one.
    """
    known = models.stages(model)
    for name in names:
        if name not in known:
            raise unknown(f"stage of {model}", name, known)
    chosen = [known[name] for name in names or models.load(model).CHAIN]
    stages = [recipe.override(stage, assignments) for stage in chosen]
    if backbone_weights is not None:
        network = replace(stages[0].network, backbone_weights=_none(backbone_weights))
        stages[0] = replace(stages[0], network=network)
    return tuple(stages)


def _none(text: str) -> str | None:
    return None if text == "none" else text


def datasets_of(stage: Stage, source: Source) -> tuple[list[str], list[str]]:
    """Return the data sets of the stage's recipe that the manifest holds, and those it lacks.

    Raises DataError when it holds none of them, and for one whose flow is missing.
    """
    here = [name for name in stage.data.datasets if name in source.names()]
    lacking = [name for name in stage.data.datasets if name not in source.names()]
    if not here:
        raise DataError(
            f"{source.file}: stage {stage.name} needs one of {', '.join(stage.data.datasets)}; the "
            f"manifest holds {', '.join(source.names())}. See --set data.datasets=[...]."
        )
    for name in here:
        if "flow" in stage.data.inputs:
            require_flow(source.split(name))
    return here, lacking


def train(job: Job, reporter: Reporter, *, resume: bool = False) -> Path:
    """Run the stages of `job` into its run folder; return the last checkpoint.

    With `resume` the run continues from `checkpoints/last.pt`. Raises UsageError for a run folder
    that is in use, and VsodpipeError when the loss is no longer a number. A new run that fails
    before its first step leaves nothing behind.
    """
    if not resume:
        runs.check_new(job.run)
        _check_networks(job.stages)
    used = [datasets_of(stage, job.source) for stage in job.stages]
    saved = checkpoint.read(job.last, job.model) if resume else None
    position = Position(**saved.training["position"]) if saved else Position()
    if position.stage >= len(job.stages):
        reporter.say(f"{job.run} is finished.")
        return job.last
    clips = [
        _clips(stage, job, here, reporter)
        for stage, (here, _) in zip(job.stages, used, strict=True)
    ]
    # built before anything is written: missing initial weights end here
    network = _network(job, position, saved)
    origin = saved.provenance if saved else runs.provenance(job, used)
    state = _State.start(network, job.stages[position.stage], job)
    if saved is not None:
        state.restore(saved.training)
        runs.cut_events(job.run, [stage.name for stage in job.stages], position)
    else:  # the initial weights are kept, so that even a run killed in its first step continues
        _save(job, job.stages[0], Position(), state, origin)
        runs.start(job, origin)
    for number in range(position.stage, len(job.stages)):
        stage, (here, lacking) = job.stages[number], used[number]
        beside = f"; the published recipe has beside them: {', '.join(lacking)}" if lacking else ""
        reporter.say(f"stage {stage.name}: trains on {', '.join(here)}{beside}")
        if number > position.stage:
            position = Position(number)
            state = _State.start(network, stage, job)
        if saved is not None and (left := saved.training.get("stream")):
            clips[number].resume(State(**left))  # refuses another order than before
            saved = None
        try:
            _run_stage(job, clips[number], position, state, origin, reporter)
        except VsodpipeError:
            if not resume and state.steps == 0 and number == 0:
                media.remove(job.run)
            raise
    return job.last


def _check_networks(stages: tuple[Stage, ...]) -> None:
    """Weights are handed on as they are, so that all stages must build the same network."""
    built = [replace(stage.network, backbone_weights=None) for stage in stages]
    for stage, network in zip(stages[1:], built[1:], strict=True):
        if network != built[0]:
            raise UsageError(
                f"stage {stage.name} builds another network than stage {stages[0].name}: the "
                "weights cannot be handed on. Run them one by one."
            )


def _network(job: Job, position: Position, saved: checkpoint.Checkpoint | None) -> nn.Module:
    """Return the network with its initial weights: random, `--init`'s or the resumed run's."""
    stage, chain = job.stages[position.stage], models.load(job.model).CHAIN
    weights = saved or (checkpoint.read(job.init, job.model) if job.init else None)
    options = stage.network
    if weights is not None:  # trained weights follow: the backbone's are not fetched for nothing
        options = replace(options, backbone_weights=None)
    elif stage.name in chain[1:] and options.backbone_weights is None:
        before = chain[chain.index(stage.name) - 1]
        raise UsageError(
            f"stage {stage.name} continues from the weights of stage {before}. Name them with "
            "--init RUN, or start from --backbone-weights imagenet."
        )
    torch.manual_seed(stage.seed)
    network = models.load(job.model).build(options)
    takes = tuple(inspect.signature(network.forward).parameters)
    if takes != stage.data.inputs:
        raise UsageError(f"recipe key inputs: {job.model} takes {', '.join(takes)}.")
    if weights is not None:
        checkpoint.load_into(network, weights)
    return network


@dataclass
class _State:
    """What a step changes or needs, beside the data."""

    network: nn.Module
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    autocast: Any
    device: torch.device
    steps: int = 0
    """Steps taken in this call."""

    @classmethod
    def start(cls, network: nn.Module, stage: Stage, job: Job) -> _State:
        device = torch.device(job.device)
        devices.use_threads(stage.batch * stage.data.clip * math.prod(stage.data.size))
        network.to(device).train()
        autocast, scaler = _precision(stage, device)
        return cls(network, make_optimiser(network, stage.optim), scaler, autocast, device)

    def restore(self, training: dict[str, Any]) -> None:
        if training["optimiser"]["state"]:  # empty where a stage begins
            self.optimiser.load_state_dict(training["optimiser"])
            self.scaler.load_state_dict(training["scaler"])


def _save(
    job: Job,
    stage: Stage,
    position: Position,
    state: _State,
    origin: dict[str, Any],
    stream: State | None = None,
) -> None:
    """Write last.pt, and STAGE.pt when `position` is the start of the stage after `stage`."""
    begins = position.epoch == 0 and position.step == 0
    optimiser = make_optimiser(state.network, Optim()) if begins else state.optimiser
    training = {
        "position": asdict(position),
        "optimiser": optimiser.state_dict(),
        "scaler": state.scaler.state_dict(),
        "stream": stream.as_dict() if stream else None,
    }
    checkpoint.save(job.last, job.model, stage, state.network, training, origin)
    if position.stage > job.stages.index(stage):
        media.write_bytes(job.last.with_name(f"{stage.name}.pt"), job.last.read_bytes())


def _run_stage(
    job: Job,
    clips: Clips,
    position: Position,
    state: _State,
    origin: dict[str, Any],
    reporter: Reporter,
) -> None:
    stage, steps = job.stages[position.stage], clips.steps()
    total, done = steps * stage.epochs, position.epoch * steps + position.step
    saved_at = time.monotonic()
    with (
        reporter.task(f"train {job.model} {stage.name}", total, "step", done) as counter,
        open(job.run / "events.jsonl", "a", encoding="utf-8") as events,
        stopping(reporter.say) as stop,
    ):
        for epoch in range(position.epoch, stage.epochs):
            start = position.step if epoch == position.epoch else 0
            for step, batch in enumerate(loader(clips, epoch, start, job.workers), start):
                lr = learning_rate(stage.optim, epoch * steps + step, total)
                loss = _step(job.model, stage, state, batch, lr)
                row = {"stage": stage.name, "epoch": epoch, "step": step, "loss": loss, "lr": lr}
                events.write(json.dumps({**row, "time": time.time()}) + "\n")
                counter.advance(note=f"loss {loss:.3f}, lr {lr:.2g}")
                due = stop.requested or time.monotonic() - saved_at > SAVE_SECONDS
                if due or step + 1 == steps:
                    events.flush()
                    following = _following(position.stage, epoch, step, steps, stage)
                    same = following.stage == position.stage
                    left = clips.state(following.epoch, following.step) if same else None
                    _save(job, stage, following, state, origin, left)
                    saved_at = time.monotonic()
                if stop.requested:
                    raise KeyboardInterrupt


def _following(number: int, epoch: int, step: int, steps: int, stage: Stage) -> Position:
    """Return the position after a step."""
    if step + 1 < steps:
        return Position(number, epoch, step + 1)
    return Position(number, epoch + 1) if epoch + 1 < stage.epochs else Position(number + 1)


def _step(model: str, stage: Stage, state: _State, batch: Sample, lr: float) -> float:
    """Take one step on `batch` and return its loss."""
    for group in state.optimiser.param_groups:
        group["lr"] = lr
    sample = _to_device(batch, state.device, stage)
    with state.autocast:
        logits = state.network(*(sample[key] for key in stage.data.inputs))
    loss = models.load(model).loss(logits, sample)
    value = float(loss.detach())
    if not math.isfinite(value):
        keys = ", ".join("/".join(key) for key in batch["key"])
        raise VsodpipeError(
            f"stage {stage.name}: the loss is {value} on {keys}. "
            "Lower the rate with --set optim.lr, or use --set precision=fp32."
        )
    state.optimiser.zero_grad(set_to_none=True)
    state.scaler.scale(loss).backward()
    if stage.optim.clip_norm:
        state.scaler.unscale_(state.optimiser)
        nn.utils.clip_grad_norm_(state.network.parameters(), stage.optim.clip_norm)
    state.scaler.step(state.optimiser)
    state.scaler.update()
    state.steps += 1
    return value


def make_optimiser(network: nn.Module, options: Optim) -> torch.optim.AdamW:
    """Return AdamW without decay on biases and norm weights, which have one dimension."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.lr)


def learning_rate(options: Optim, step: int, total: int) -> float:
    """Return the rate of `step` on a cosine from `lr` (step 0) to `min_lr` (step total - 1)."""
    share = step / max(1, total - 1)
    return options.min_lr + (options.lr - options.min_lr) * (1 + math.cos(math.pi * share)) / 2


def _precision(stage: Stage, device: torch.device) -> tuple[Any, torch.amp.GradScaler]:
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


def _clips(stage: Stage, job: Job, datasets: list[str], reporter: Reporter) -> Clips:
    readers = [
        open_reader(
            job.source, name, stage.data.source, cache=job.cache, cache_bytes=job.cache_bytes
        )
        for name in datasets
    ]
    height, width = stage.data.size
    for reader in readers:
        if isinstance(reader, Store) and (reader.stored[0] < height or reader.stored[1] < width):
            reporter.warn(
                f"{reader.path} holds {reader.stored[1]}x{reader.stored[0]}, enlarged to "
                f"{width}x{height}. Pack it with --size {height}x{width}."
            )
    weights = [job.source.split(name).weight or 1.0 for name in datasets]
    return Clips(readers, stage, weights)


def _to_device(batch: Sample, device: torch.device, stage: Stage) -> Sample:
    """Return the batch on `device`; pictures that come as uint8 become floats there."""
    tensors = {k: v.to(device, non_blocking=True) for k, v in batch.items() if torch.is_tensor(v)}
    return {**batch, **transforms.to_float(tensors, stage.data.mean, stage.data.std)}
