"""Training: stages run in order, each hands its weights to the next.

    data -> autocast -> loss -> backward -> clip -> step -> schedule -> log

Everything needed to continue is in `checkpoints/last.pt`; the samples of a step depend only on
seed, epoch and step, so that a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import tomllib
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vsodpipe import __version__, checkpoint, devices, media, models, recipe
from vsodpipe.errors import DataError, UsageError, VsodpipeError, unknown
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter
from vsodpipe.recipe import Optim, Stage
from vsodpipe.stream import Clips, Sample, loader, open_reader

SAVE_SECONDS = 300.0
"""Longest time between two saves of last.pt."""


@dataclass(frozen=True)
class Job:
    """What one call of `vsodpipe train` does."""

    model: str
    source: Source
    stages: tuple[Stage, ...]
    run: Path
    device: str
    workers: int
    init: Path | None = None
    """Checkpoint whose weights the first stage starts from."""


@dataclass(frozen=True)
class Position:
    """Where a run stands: the next step to take."""

    stage: int = 0
    epoch: int = 0
    step: int = 0


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


def resumed(run: Path, model: str, source: Source) -> tuple[Stage, ...]:
    """Return the stages of a run folder, as they were started.

    Raises DataError when `run` is no run folder or was started with another model or manifest.
    """
    note, file = run / "run.json", run / "recipe.toml"
    if not note.is_file() or not file.is_file():
        raise DataError(f"{run}: no run folder (no run.json). Start one with vsodpipe train.")
    started = json.loads(note.read_text(encoding="utf-8"))
    if started["manifest_sha256"] != _sha256(source.file):
        raise DataError(f"{source.file}: is not the manifest that {run} was started with.")
    if started["model"] != model:
        raise DataError(f"{run}: is a run of {started['model']}, expected {model}.")
    options = models.load(model).Options
    stages = tomllib.loads(file.read_text(encoding="utf-8"))
    return tuple(recipe.stage_from_dict(stages[n], options) for n in started["stages"])


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
        if "flow" in stage.data.inputs and source.split(name).flow is None:
            raise DataError(
                f"{name} has no flow in {source.file}. "
                f"Run: vsodpipe flow {name}, then vsodpipe manifest."
            )
    return here, lacking


def train(job: Job, reporter: Reporter, *, resume: bool = False) -> Path:
    """Run the stages of `job` into its run folder; return the last checkpoint.

    With `resume` the run continues from `checkpoints/last.pt`. Raises VsodpipeError when the loss
    is no longer a number.
    """
    used = [datasets_of(stage, job.source) for stage in job.stages]
    last = job.run / "checkpoints" / "last.pt"
    saved = checkpoint.read(last, job.model) if resume and last.is_file() else None
    position = Position(**saved.training["position"]) if saved else Position()
    if position.stage >= len(job.stages):
        reporter.say(f"{job.run} is finished.")
        return last
    clips = [_clips(stage, job, here) for stage, (here, _) in zip(job.stages, used, strict=True)]
    # built before anything is written: missing initial weights end here
    network = _network(job, position, saved)
    provenance = _provenance(job, used)
    if not resume:
        _start_run(job, provenance)
    for number in range(position.stage, len(job.stages)):
        stage, (here, lacking) = job.stages[number], used[number]
        beside = f"; the published recipe has beside them: {', '.join(lacking)}" if lacking else ""
        reporter.say(f"stage {stage.name}: trains on {', '.join(here)}{beside}")
        state = _State.start(network, stage, job)
        if saved is not None and not _starts_stage(position):
            state.restore(saved.training)
        _run_stage(job, number, clips[number], position, state, provenance, reporter)
        media.write_bytes(last.with_name(f"{stage.name}.pt"), last.read_bytes())
        position = Position(number + 1)
    return last


def _starts_stage(position: Position) -> bool:
    """A stage that begins has a fresh optimiser."""
    return position.epoch == 0 and position.step == 0


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

    @classmethod
    def start(cls, network: nn.Module, stage: Stage, job: Job) -> _State:
        device = torch.device(job.device)
        devices.use_threads(stage.batch * stage.data.clip * math.prod(stage.data.size))
        network.to(device).train()
        autocast, scaler = _precision(stage, device)
        return cls(network, make_optimiser(network, stage.optim), scaler, autocast, device)

    def restore(self, training: dict[str, Any]) -> None:
        self.optimiser.load_state_dict(training["optimiser"])
        self.scaler.load_state_dict(training["scaler"])

    def training(self, position: Position) -> dict[str, Any]:
        return {
            "position": asdict(position),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
        }


def _run_stage(
    job: Job,
    number: int,
    clips: Clips,
    position: Position,
    state: _State,
    provenance: dict[str, Any],
    reporter: Reporter,
) -> None:
    stage, steps = job.stages[number], clips.steps()
    total, done = steps * stage.epochs, position.epoch * steps + position.step
    last, saved_at = job.run / "checkpoints" / "last.pt", time.monotonic()
    with (
        reporter.task(f"train {job.model} {stage.name}", total, "step", done) as counter,
        open(job.run / "events.jsonl", "a", encoding="utf-8") as events,
    ):
        for epoch in range(position.epoch, stage.epochs):
            start = position.step if epoch == position.epoch else 0
            for step, batch in enumerate(loader(clips, epoch, start, job.workers), start):
                lr = learning_rate(stage.optim, epoch * steps + step, total)
                loss = _step(job.model, stage, state, batch, lr)
                row = {"stage": stage.name, "epoch": epoch, "step": step, "loss": loss, "lr": lr}
                events.write(json.dumps({**row, "time": time.time()}) + "\n")
                counter.advance(note=f"loss {loss:.3f}, lr {lr:.2g}")
                following = Position(number, epoch, step + 1)
                if step + 1 == steps:
                    last_epoch = epoch + 1 == stage.epochs
                    following = Position(number + 1) if last_epoch else Position(number, epoch + 1)
                if step + 1 == steps or time.monotonic() - saved_at > SAVE_SECONDS:
                    events.flush()
                    training = state.training(following)
                    checkpoint.save(last, job.model, stage, state.network, training, provenance)
                    saved_at = time.monotonic()


def _step(model: str, stage: Stage, state: _State, batch: Sample, lr: float) -> float:
    """Take one step on `batch` and return its loss."""
    for group in state.optimiser.param_groups:
        group["lr"] = lr
    sample = _to_device(batch, state.device)
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


def _clips(stage: Stage, job: Job, datasets: list[str]) -> Clips:
    return Clips([open_reader(job.source, name, stage.data.source) for name in datasets], stage)


def _to_device(batch: Sample, device: torch.device) -> Sample:
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
    }


def _provenance(job: Job, used: list[tuple[list[str], list[str]]]) -> dict[str, Any]:
    flows = {s.dataset: s.flow["fingerprint"] for s in job.source.manifest.datasets if s.flow}
    return {
        "manifest": str(job.source.file),
        "manifest_sha256": _sha256(job.source.file),
        "flow": flows,
        "trained_on": {s.name: here for s, (here, _) in zip(job.stages, used, strict=True)},
        "recipe_also_names": {s.name: more for s, (_, more) in zip(job.stages, used, strict=True)},
    }


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _start_run(job: Job, provenance: dict[str, Any]) -> None:
    text = {stage.name: recipe.to_dict(stage) for stage in job.stages}
    media.write_bytes(job.run / "recipe.toml", recipe.to_toml(text).encode())
    note = {
        "model": job.model,
        "stages": [stage.name for stage in job.stages],
        "device": job.device,
        "vsodpipe": __version__,
        "torch": str(torch.__version__),
        **provenance,
    }
    media.write_bytes(job.run / "run.json", json.dumps(note, indent=1).encode() + b"\n")
