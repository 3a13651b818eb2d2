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

from vsodpipe import checkpoint, devices, media, models, recipe, runs, stream, transforms
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

    `backbone_weights` replaces the initial weights of the first one, and of those that start anew.
    """
    known = models.stages(model)
    for name in names:
        if name not in known:
            raise unknown(f"stage of {model}", name, known)
    chosen = [known[name] for name in names or models.load(model).CHAIN]
    stages = [recipe.override(stage, assignments) for stage in chosen]
    if backbone_weights is not None:
        for number, stage in enumerate(stages):
            if number == 0 or stage.fresh:
                network = replace(stage.network, backbone_weights=_none(backbone_weights))
                stages[number] = replace(stage, network=network)
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
        if stream.needs_flow(stage, source.split(name)):
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
        _check_stages(job)
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
    if saved is None or (position.stage and position == Position(position.stage)):
        _hand_over(network, job, position.stage)
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
            _hand_over(network, job, number)
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


def _check_stages(job: Job) -> None:
    """Weights are handed on as they are, so that all stages must build the same network."""
    built = [replace(stage.network, backbone_weights=None) for stage in job.stages]
    for stage, network in zip(job.stages[1:], built[1:], strict=True):
        if network != built[0]:
            raise UsageError(
                f"stage {stage.name} builds another network than stage {job.stages[0].name}: the "
                "weights cannot be handed on. Run them one by one."
            )
    for stage in job.stages:
        if stage.joins:  # of nothing: an unknown way is told now, not after days of training
            _joined(job.model, [{} for _ in stage.joins], stage.transfer)


def _joined(
    model: str, states: list[dict[str, torch.Tensor]], transfer: str
) -> dict[str, torch.Tensor]:
    join = getattr(models.load(model), "join", None)
    if join is None:
        raise UsageError(f"recipe key joins: {model} joins no weights.")
    joined: dict[str, torch.Tensor] = join(states, transfer)
    return joined


def _hand_over(network: nn.Module, job: Job, number: int) -> None:
    """Give `network` the weights with which stage `number` begins, where they are not the last."""
    stage = job.stages[number]
    if stage.fresh and number > 0:
        torch.manual_seed(stage.seed)
        network.load_state_dict(models.load(job.model).build(stage.network).state_dict())
    earlier = {s.name for s in job.stages[:number]}
    if stage.joins and earlier.issuperset(stage.joins):
        folder = job.last.parent
    elif stage.joins and job.init is not None and job.init.is_dir():
        folder = job.init / "checkpoints"
    else:  # one file that --init names is taken as it is
        return
    saved = [checkpoint.read(folder / f"{name}.pt", job.model) for name in stage.joins]
    network.load_state_dict(_joined(job.model, [s.state_dict for s in saved], stage.transfer))


def _network(job: Job, position: Position, saved: checkpoint.Checkpoint | None) -> nn.Module:
    """Return the network with its initial weights: random, `--init`'s or the resumed run's."""
    stage, chain = job.stages[position.stage], models.load(job.model).CHAIN
    weights = saved or (checkpoint.read(job.init, job.model) if job.init else None)
    options = stage.network
    if weights is not None:  # trained weights follow: the backbone's are not fetched for nothing
        options = replace(options, backbone_weights=None)
    elif stage.name in chain[1:] and not stage.fresh and options.backbone_weights is None:
        before = chain[chain.index(stage.name) - 1]
        raise UsageError(
            f"stage {stage.name} continues from the weights of stage {before}. Name them with "
            "--init RUN, or start from --backbone-weights imagenet."
        )
    torch.manual_seed(stage.seed)
    network = models.load(job.model).build(options)
    takes = tuple(inspect.signature(network.forward).parameters)
    if len(takes) != len(stage.data.inputs):
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
    left: State | None = None,
) -> None:
    """Write last.pt, and STAGE.pt when `position` is the start of the stage after `stage`."""
    begins = position.epoch == 0 and position.step == 0
    optimiser = make_optimiser(state.network, stage.optim) if begins else state.optimiser
    training = {
        "position": asdict(position),
        "optimiser": optimiser.state_dict(),
        "scaler": state.scaler.state_dict(),
        "stream": left.as_dict() if left else None,
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
                lr = learning_rate(stage.optim, epoch * steps + step, total, epoch)
                sizes = [scaled_size(stage.data.size, scale) for scale in stage.scales]
                losses = [_step(job.model, stage, state, batch, lr, size) for size in sizes]
                loss = sum(losses) / len(losses)
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


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return (height, width) times `scale` in multiples of 32; at scale 1 as it is."""
    if scale == 1:
        return size
    height, width = (max(1, round(side * scale / 32)) * 32 for side in size)
    return height, width


def _step(
    model: str, stage: Stage, state: _State, batch: Sample, lr: float, size: tuple[int, int]
) -> float:
    """Take one step on `batch` at `size` and return its loss."""
    for group in state.optimiser.param_groups:
        group["lr"] = lr * group["factor"]
    sample = stream.fed(model, _to_device(batch, state.device, stage))
    for key in {*stage.data.inputs, "gt"}:
        sample[key] = transforms.rescale(sample[key], size)
    with state.autocast:
        logits = state.network(*(sample[key] for key in stage.data.inputs))
    for head in stage.loss_weights:
        if head not in logits:
            raise unknown(
                "recipe key", f"loss_weights.{head}", (f"loss_weights.{h}" for h in logits)
            )
    loss = models.load(model).loss(logits, sample, stage.loss_weights)
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


def make_optimiser(network: nn.Module, options: Optim) -> torch.optim.Optimizer:
    """Return the optimiser; each group holds the `factor` of its learning rate.

    Biases and norm weights, which have one dimension, decay only if the recipe says so. Raises
    UsageError for a factor on a module that the network does not have.
    """
    names = [name for name, _ in network.named_parameters()]
    for module in options.lr_factors:
        if not any(name.startswith(f"{module}.") for name in names):
            tops = sorted({f"lr_factors.{name.partition('.')[0]}" for name in names})
            raise unknown("recipe key", f"lr_factors.{module}", tops)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decayed = options.decay_all or parameter.ndim > 1
            key = _factor(name, options.lr_factors), options.weight_decay if decayed else 0.0
            groups.setdefault(key, []).append(parameter)
    described = [
        {"params": group, "factor": factor, "lr": options.lr * factor, "weight_decay": decay}
        for (factor, decay), group in sorted(groups.items(), reverse=True)
    ]
    if options.kind == "sgd":
        return torch.optim.SGD(
            described, lr=options.lr, momentum=options.momentum, nesterov=options.nesterov
        )
    kind = torch.optim.Adam if options.kind == "adam" else torch.optim.AdamW
    return kind(described, lr=options.lr)


def _factor(name: str, factors: dict[str, float]) -> float:
    """Return the factor of the innermost module named that parameter `name` is in, else 1."""
    holders = [module for module in factors if name.startswith(f"{module}.")]
    return factors[max(holders, key=len)] if holders else 1.0


def learning_rate(options: Optim, step: int, total: int, epoch: int = 0) -> float:
    """Return the rate of `step` of `total`, which is in `epoch`, all counted from 0."""
    if options.schedule == "step":
        falls = sum(epoch >= fall for fall in options.step_epochs)
        return options.lr * options.step_factor**falls
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
    return {**batch, **transforms.to_float(tensors, stage.data)}
