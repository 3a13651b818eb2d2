"""The run folder of a training: what it was started with, and where it stands.

recipe.toml      the effective recipe of every stage
run.json         model, stages, data sets, fingerprints of manifest, flow and initial weights
events.jsonl     one row a step, and one a validation
checkpoints/     last.pt; STAGE.pt at the end of each stage, STAGE-best.pt by the recipe's rule;
                 best.pt is that of the newest stage
bad_batch.json   the samples of a batch whose loss was no number
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vsodpipe import __version__, checkpoint, locks, media, models, recipe
from vsodpipe.errors import DataError, UsageError
from vsodpipe.feed import Feed
from vsodpipe.manifest import Source
from vsodpipe.ranks import Ranks
from vsodpipe.reader import CACHE_BYTES
from vsodpipe.recipe import Stage


@dataclass(frozen=True, order=True)
class Position:
    """Where a run stands: the next step to take."""

    stage: int = 0
    epoch: int = 0
    step: int = 0


@dataclass(frozen=True)
class Job:
    """What one call of `vsodpipe train` does."""

    model: str
    source: Source
    stages: tuple[Stage, ...]
    run: Path
    device: str
    workers: int
    init: tuple[Path, ...] = ()
    """Run or checkpoint whose weights the first stage starts from; of a stage that joins others,
    one of each."""
    ranks: Ranks = Ranks()
    """The processes that train together."""
    logs: tuple[str, ...] = ()
    """Loggers beside `events.jsonl`."""
    strict_data: bool = False
    """A data set of the recipe that the manifest lacks is an error."""
    compiled: bool = False
    """The network goes through torch.compile."""
    cache: Path | None = None
    """Folder for the shards of stores on the network."""
    cache_bytes: int = CACHE_BYTES

    @property
    def last(self) -> Path:
        """The checkpoint that continues the run."""
        return self.run / "checkpoints" / "last.pt"

    @property
    def events(self) -> Path:
        """The rows of the run; those of other processes than the first are not kept."""
        return self.run / "events.jsonl" if self.ranks.first else Path(os.devnull)


def check_new(run: Path) -> None:
    """Raise UsageError for a folder that holds something: two runs never mix.

    What a run leaves that was killed before it was one is nothing.
    """
    if run.exists() and (not run.is_dir() or _holds(run)):
        again = f" Continue it with --resume {shlex.quote(str(run))}."
        again = again if (run / "run.json").is_file() else ""
        raise UsageError(f"{run}: is there already. Name another folder with --run.{again}")


_BEGINNING = ("checkpoints", "checkpoints/last.pt", "recipe.toml")
"""What `train` writes before run.json makes the folder a run."""


def _holds(run: Path) -> bool:
    """Return whether a folder holds more than the beginning of a run that was killed."""
    below = [path for path in run.rglob("*") if not media.is_leftover(path.name)]
    found = {path.relative_to(run).as_posix() for path in below}
    return bool(found) and ("checkpoints" not in found or not found.issubset(_BEGINNING))


def initial_files(job: Job) -> list[Path]:
    """Return the checkpoints that `--init` names for the first stage.

    Of a stage that joins others they are those of `joins`, in that order; one file alone is of the
    stage itself. Raises UsageError for any other number, and WeightsError for a missing file.
    """
    joins = job.stages[0].joins
    paths = job.init
    if len(paths) == 1 and paths[0].is_dir():
        paths *= max(1, len(joins))
    if len(paths) > 1 and len(paths) != len(joins):
        needs = f"joins {', '.join(joins)}" if joins else "takes the weights of one run"
        raise UsageError(
            f"--init: named {len(paths)} times, but stage {job.stages[0].name} {needs}."
        )
    if len(paths) == 1:
        return [checkpoint.locate(paths[0])]
    named = [path / "checkpoints" / f"{name}.pt" for path, name in zip(paths, joins, strict=True)]
    return [
        checkpoint.locate(file if path.is_dir() else path)
        for path, file in zip(paths, named, strict=True)
    ]


def provenance(job: Job, feeds: Sequence[Feed]) -> dict[str, Any]:
    """Return what a result can be traced back to: manifest, flow, data sets, initial weights."""
    flows = {s.dataset: s.flow["fingerprint"] for s in job.source.manifest.datasets if s.flow}
    init: Any = recipe.to_dict(job.stages[0].network).get("backbone_weights") or "random"
    if job.init:
        files = [{"file": str(f), "sha256": sha256(f)} for f in initial_files(job)]
        init = files[0] if len(files) == 1 else files
    return {
        "manifest": str(job.source.file),
        "manifest_sha256": job.source.sha256(),
        "flow": flows,
        "flow_records": {s.dataset: s.flow for s in job.source.manifest.datasets if s.flow},
        "initial_weights": init,
        "trained_on": {s.name: list(f.datasets) for s, f in zip(job.stages, feeds, strict=True)},
        "recipe_also_names": {
            s.name: list(f.lacking) for s, f in zip(job.stages, feeds, strict=True)
        },
        "best_chosen_on": {
            s.name: {split.dataset: [v.name for v in split.videos] for split in f.validation}
            for s, f in zip(job.stages, feeds, strict=True)
        },
    }


def start(job: Job, origin: dict[str, Any]) -> None:
    """Write `recipe.toml` and `run.json`; with the second the folder is a run."""
    text = {stage.name: recipe.to_dict(stage) for stage in job.stages}
    media.write_bytes(job.run / "recipe.toml", recipe.to_toml(text).encode())
    note = {
        "model": job.model,
        "stages": [stage.name for stage in job.stages],
        "device": job.device,
        "processes": job.ranks.world,
        "vsodpipe": __version__,
        "torch": str(torch.__version__),
        **origin,
    }
    media.write_bytes(job.run / "run.json", json.dumps(note, indent=1).encode() + b"\n")


def resumed(run: Path, model: str, source: Source) -> tuple[Stage, ...]:
    """Return the stages of a run folder, as they were started.

    Raises DataError when `run` is no run folder, was started with another model or manifest, or is
    damaged.
    """
    note, file = run / "run.json", run / "recipe.toml"
    if not note.is_file() or not file.is_file():
        raise DataError(f"{run}: no run folder (no run.json). Start one with vsodpipe train.")
    started = media.read_json(note)
    try:
        found, names, digest = started["model"], started["stages"], started["manifest_sha256"]
        recipes = tomllib.loads(media.read_bytes(file).decode())
        chosen = [recipes[name] for name in names]
    except (TypeError, KeyError, ValueError, RecursionError) as error:
        raise DataError(f"{run}: its run.json or recipe.toml is damaged. Start anew.") from error
    if found != model:
        raise DataError(f"{run}: is a run of {found}, expected {model}.")
    if digest != source.sha256():
        raise DataError(f"{source.file}: is not the manifest that {run} was started with.")
    return tuple(recipe.stage_from_dict(s, models.load(model).Options) for s in chosen)


@contextmanager
def held(job: Job) -> Iterator[None]:
    """Keep other processes from training in the run folder meanwhile, which is there after.

    The lock ends with the process, however it ends. Raises UsageError where another one has it.
    """
    if not job.ranks.first:
        yield
        return

    def in_use(holder: str) -> UsageError:
        return UsageError(f"{job.run}: {holder} is training in it. Wait for its end, or end it.")

    job.run.mkdir(parents=True, exist_ok=True)
    with locks.alone_or(job.run, in_use):
        yield


def cut_events(run: Path, stages: list[str], position: Position) -> None:
    """Drop the rows of `events.jsonl` that a resumed run will write again."""
    file = run / "events.jsonl"
    kept = []
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    for line in text.splitlines():
        try:
            row = json.loads(line)
            at = Position(stages.index(row["stage"]), row["epoch"], row["step"])
        except (ValueError, KeyError, TypeError, RecursionError):  # half a row, after a kill
            continue
        if at < position:
            kept.append(line + "\n")
    media.write_bytes(file, "".join(kept).encode())


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
