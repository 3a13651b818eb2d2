"""Training: stages run in order, each hands its weights to the next.

    data -> autocast -> loss -> backward -> clip -> step -> schedule -> log

Everything needed to continue is in `checkpoints/last.pt`. The samples of a step and its random
numbers depend only on seed, epoch and step, so that a resumed run sees what an uninterrupted one
would have seen, with any number of workers.
"""

from __future__ import annotations

import json
import math
import shlex
import time
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

from vsodpipe import (
    checkpoint,
    devices,
    feed,
    handover,
    learner,
    loggers,
    media,
    models,
    optimisers,
    recipe,
    runs,
    scales,
    validate,
)
from vsodpipe.errors import VsodpipeError
from vsodpipe.feed import Feed
from vsodpipe.learner import Learner
from vsodpipe.loggers import Log
from vsodpipe.meter import Meter
from vsodpipe.progress import Reporter
from vsodpipe.recipe import Stage
from vsodpipe.runs import Job, Position
from vsodpipe.signals import stopping
from vsodpipe.stream import Clips, Sample, State, loader

SAVE_SECONDS = 300.0
"""Longest time between two saves of last.pt."""


def train(job: Job, reporter: Reporter, *, resume: bool = False) -> Path:
    """Run the stages of `job` into its run folder; return the last checkpoint.

    With `resume` the run continues from `checkpoints/last.pt`. Raises UsageError for a run folder
    that is there already or in use, and VsodpipeError when the loss is no longer a number. A new
    run that fails before its first step leaves nothing behind.
    """
    if not resume:
        runs.check_new(job.run)
        handover.check(job)
    loggers.check(job.logs)
    feeds = [feed.choose(stage, job.source, strict=job.strict_data) for stage in job.stages]
    saved = checkpoint.read(job.last, job.model) if resume else None
    position = Position(**saved.training["position"]) if saved else Position()
    if position.stage >= len(job.stages):
        reporter.say(f"{job.run} is finished.")
        return job.last
    clips = [
        feed.clips(stage, data, job, job.ranks, reporter)
        for stage, data in zip(job.stages, feeds, strict=True)
    ]
    # built before anything is written: missing initial weights end here
    state = _begin(job, position, saved)
    if saved is not None and "stream" in saved.training:  # refuses another order than before
        clips[position.stage].resume(State(**saved.training["stream"]))
    origin = saved.provenance if saved else runs.provenance(job, feeds)
    config = {stage.name: recipe.to_dict(stage) for stage in job.stages}
    logs = job.logs if job.ranks.first else ()
    with ExitStack() as stack:
        stack.enter_context(runs.held(job))
        if job.ranks.first and not resume:  # so that even a run killed in its first step continues
            runs.check_new(job.run)  # another one may have begun meanwhile
            alone = loggers.Log(())
            first = _Run(job, feeds[0], clips[0], origin, reporter, alone, 0, job.stages[0])
            _save(first, Position(), state)
            runs.start(job, origin)
        job.ranks.wait()
        log = stack.enter_context(loggers.opened(logs, job.run, config))
        if resume and job.ranks.first:
            runs.cut_events(job.run, [stage.name for stage in job.stages], position)
        first_step = 0
        for number, stage in enumerate(job.stages):
            run = _Run(job, feeds[number], clips[number], origin, reporter, log, first_step, stage)
            first_step += clips[number].steps() * stage.epochs
            if number < position.stage:
                continue
            if number > position.stage:
                position = Position(number)
                state = _start(job, number, _following_network(job, number, state))
            for line in feed.describe(stage, feeds[number]):
                reporter.say(line)
            try:
                _run_stage(run, position, state)
            except VsodpipeError:
                if not resume and job.ranks.first and not _worth_keeping(job.run):
                    media.remove(job.run)
                raise
    return job.last


@dataclass(frozen=True)
class _Run:
    """What a stage runs with."""

    job: Job
    feed: Feed
    clips: Clips
    origin: dict[str, Any]
    reporter: Reporter
    log: Log
    first_step: int
    """Steps of the stages before it, so that the curves of a run go on."""
    stage: Stage


def _begin(job: Job, position: Position, saved: checkpoint.Checkpoint | None) -> Learner:
    """Return the learner at `position`: new, in the middle of a stage, or between two."""
    if saved is None:
        return _start(job, 0, handover.begin(job, 0, None))
    if saved.stage.name != job.stages[position.stage].name:
        network = handover.begin(job, position.stage, saved.state_dict)
        return _start(job, position.stage, network)
    state = _start(job, position.stage, handover.resumed(job, position.stage, saved))
    state.restore(saved.training)
    return state


def _start(job: Job, number: int, network: nn.Module) -> Learner:
    stage = job.stages[number]
    devices.use_threads(stage.batch * stage.data.clip * math.prod(stage.data.size))
    return learner.start(network, stage, job.device, job.ranks, compiled=job.compiled)


def _following_network(job: Job, number: int, state: Learner) -> nn.Module:
    job.ranks.wait()  # for the files of the stages that it may join
    return handover.begin(job, number, state.delivered.state_dict())


def _run_stage(run: _Run, position: Position, state: Learner) -> None:
    job, stage, steps = run.job, state.stage, run.clips.steps()
    total, done = steps * stage.epochs, position.epoch * steps + position.step
    shown = validate.fixed_samples(job, stage, run.feed, run.reporter) if run.log else []
    meter = Meter(stage.batch, state.device)
    with (
        run.reporter.task(f"train {job.model} {stage.name}", total, "step", done) as counter,
        open(job.events, "a", encoding="utf-8") as events,
        stopping(run.reporter.say) as stop,
    ):
        for epoch in range(position.epoch, stage.epochs):
            start = position.step if epoch == position.epoch else 0
            batches = meter.waiting(loader(run.clips, epoch, start, job.workers))
            for step, batch in enumerate(batches, start):
                at, place = epoch * steps + step, Position(position.stage, epoch, step)
                rate = optimisers.rate_of(stage.optim, at, total, epoch)
                optimisers.set_rate(state.optimiser, rate, epoch)
                mean = job.ranks.mean([_step(job, state, batch, place), stop.requested])
                loss, asked = mean[0], mean[1] > 0  # on every process the same
                _check_loss(job, state, batch, place, loss)
                row = {"loss": loss, "lr": rate, **meter.step()}
                _write(events, stage, epoch, step, row)
                run.log.numbers(run.first_step + at, row)
                counter.advance(note=f"loss {loss:.3f}, lr {rate:.2g}, {meter.describe()}")
                saved_below = step + 1 == steps and not _due(run, epoch)
                if asked or (meter.since_save() > SAVE_SECONDS and not saved_below):
                    _save(run, _following(run, place), state, events)
                    meter.saved()
                if asked:
                    raise KeyboardInterrupt
            if _due(run, epoch):
                found = _validate(run, state, epoch)
                _write(events, stage, epoch, steps, {"proxy": found})
            for name, sample in shown:
                at = run.first_step + (epoch + 1) * steps - 1
                run.log.picture(at, name, validate.picture(job.model, state, sample))
            _save(run, _next_epoch(stage, position.stage, epoch), state, events)
            meter.saved()


def _step(job: Job, state: Learner, batch: Sample, place: Position) -> float:
    """Take a step on `batch`, one at each of its sizes; return the mean loss of this process.

    A loss that is no number changes no weights.
    """
    _seed(job, state.stage, place)
    sizes, losses = scales.of_step(state.stage, place.epoch, place.step), []
    for size in sizes:
        parts, value = feed.parts(batch, state.stage.accumulate), 0.0
        state.optimiser.zero_grad(set_to_none=True)
        for number, (share, part) in enumerate(parts, 1):
            sample = scales.resized(
                feed.on_device(part, state.device, job.model, state.stage.data), size, state.stage
            )
            if state.labels is not None:
                sample = state.labels.put(sample)
            with state.alone(last=number == len(parts)):
                loss = share * _loss(job.model, state, sample, place.epoch)
                state.scaler.scale(loss).backward()
            value += float(loss.detach())
        losses.append(value)
        if math.isfinite(value):
            state.finish()
    if state.labels is not None:
        state.labels.keep(job.ranks)
    return sum(losses) / len(losses)


def _loss(model: str, state: Learner, sample: Sample, epoch: int) -> Tensor:
    """Return the loss of the network on a sample, by the model's `objective` where it has one."""
    module, stage = models.load(model), state.stage
    if objective := getattr(module, "objective", None):
        with state.autocast:
            found: Tensor = objective(state.forward, sample, stage, epoch)
        return found
    with state.autocast:
        logits = state.forward(*(sample[key] for key in stage.data.inputs))
    if state.labels is not None and epoch >= state.labels.start:
        state.labels.take(sample, logits["saliency"])
    return module.loss(logits, sample, stage.loss_weights)


def _seed(job: Job, stage: Stage, place: Position) -> None:
    """Dropout and the like draw by the step, so that nothing has to be saved to continue."""
    sequence = np.random.SeedSequence([stage.seed, place.epoch, place.step, job.ranks.rank])
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))


def _check_loss(job: Job, state: Learner, batch: Sample, place: Position, loss: float) -> None:
    """Raise VsodpipeError for a loss that is no number, with the keys of the batch on disk."""
    if math.isfinite(loss):
        return
    stage = state.stage
    keys = ["/".join(key) for found in job.ranks.gather(batch["key"]) for key in found]
    file = job.run / "bad_batch.json"
    note = {"stage": stage.name, "epoch": place.epoch, "step": place.step, "loss": str(loss)}
    if job.ranks.first:
        text = json.dumps({**note, "keys": keys}, indent=1)
        media.write_bytes(file, text.encode() + b"\n")
    raise VsodpipeError(
        f"stage {stage.name}: the loss is {loss} on {keys[0]} (the whole batch: {file}). "
        f"{_remedy(job, state, begun=place.epoch + place.step > 0)}"
    )


def _check_weights(job: Job, state: Learner) -> None:
    """Raise VsodpipeError for weights that are no numbers, as gradients of a good loss may be."""
    if not all(bool(value.isfinite().all()) for value in state.delivered.state_dict().values()):
        raise VsodpipeError(
            f"stage {state.stage.name}: its weights are no longer numbers, so they are not saved. "
            f"{_remedy(job, state, begun=True)}"
        )


def _remedy(job: Job, state: Learner, *, begun: bool) -> str:
    """Return what helps against a loss that is no number; a resumed run would meet it again."""
    exact = isinstance(state.autocast, nullcontext)
    if exact and not begun:  # the rate has done nothing yet
        return "No step was taken before: look at these frames, and at the initial weights."
    lower = f"Start again with a lower rate, such as --set optim.lr={state.stage.optim.lr / 3:.1g}"
    return (
        f"{lower}{'' if exact else ', or with --set precision=fp32'}; "
        f"--stage {state.stage.name} --init {shlex.quote(str(job.run))} goes on from its weights."
    )


def _write(events: IO[str], stage: Stage, epoch: int, step: int, row: dict[str, Any]) -> None:
    place = {"stage": stage.name, "epoch": epoch, "step": step}
    events.write(json.dumps({**place, **row, "time": time.time()}) + "\n")


def _worth_keeping(run: Path) -> bool:
    """Return whether a failed run tells anything: a step, or the batch that it failed on."""
    events = run / "events.jsonl"
    stepped = events.is_file() and events.stat().st_size > 0
    return stepped or (run / "bad_batch.json").is_file()


def _due(run: _Run, epoch: int) -> bool:
    """Return whether the epoch ends with a validation."""
    every, epochs = run.stage.validate.every, run.stage.epochs
    return bool(run.feed.validation) and ((epoch + 1) % every == 0 or epoch + 1 == epochs)


def _following(run: _Run, place: Position) -> Position:
    """Return what comes after a step: the next one, a validation, the next epoch or stage."""
    if place.step + 1 < run.clips.steps() or _due(run, place.epoch):
        return replace(place, step=place.step + 1)
    return _next_epoch(run.stage, place.stage, place.epoch)


def _next_epoch(stage: Stage, number: int, epoch: int) -> Position:
    return Position(number, epoch + 1) if epoch + 1 < stage.epochs else Position(number + 1)


def _validate(run: _Run, state: Learner, epoch: int) -> dict[str, float]:
    """Return the proxy scores after an epoch, and keep the weights when they are the best."""
    job, stage = run.job, state.stage
    splits, say = run.feed.validation, run.reporter.say
    found = validate.scores(job.model, state, job.source, splits, job.ranks, say)
    best = validate.better(stage, found, state.best)
    at = run.first_step + (epoch + 1) * run.clips.steps() - 1
    run.log.numbers(at, {f"proxy_{key}": value for key, value in found.items()})
    words = ", ".join(f"{key} {value:.3f}" for key, value in found.items())
    run.reporter.say(f"epoch {epoch + 1}: proxy {words}{' (best so far)' if best else ''}")
    if best:
        state.best = found[stage.validate.metric]
        if job.ranks.first:
            file = job.last.with_name(f"{stage.name}-best.pt")
            note = {"epoch": epoch, "proxy": found}
            checkpoint.save(file, job.model, stage, state.delivered, note, run.origin)
            media.write_bytes(job.last.with_name("best.pt"), file.read_bytes())
    return found


def _save(run: _Run, following: Position, state: Learner, events: IO[str] | None = None) -> None:
    """Write last.pt, and STAGE.pt when `following` is the start of the next stage."""
    if events is not None:
        events.flush()
    job, stage = run.job, state.stage
    if not job.ranks.first:
        return
    _check_weights(job, state)
    ended = following.stage > [each.name for each in job.stages].index(stage.name)
    training: dict[str, Any] = {"position": asdict(following)}
    if not ended:
        left = run.clips.state(following.epoch, following.step)
        training |= {"stream": left.as_dict(), **state.state()}
    # last.pt says that the stage has ended: it comes after all that belongs to that
    file = job.last.with_name(f"{stage.name}.pt") if ended else job.last
    checkpoint.save(file, job.model, stage, state.delivered, training, run.origin)
    if ended:
        media.write_bytes(job.last, file.read_bytes())
