"""The whole of A2S-v2 for one task, or jointly: from pictures without labels to scores.

    RUN/stage1/        a2s, trained on the data of all tasks of the code (`o`, `cdot`)
    RUN/pseudo-o/      its pseudo labels of the training sets of a task
    RUN/stage2-o/      cornet (c) or midnet (d, o, t), trained on them, with its maps
    RUN/scores.json    pseudo labels and stage 2 against the masks, where there are any
    RUN/chain.json     what the chain was started with

Each part is what its own command makes (train, pseudo, pack, test, eval), and keeps what is done:
the same call continues a chain that was killed.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vsodpipe import (
    a2s_tasks,
    checkpoint,
    evaluate,
    maps,
    media,
    models,
    pack,
    predict,
    protocols,
    pseudo,
    recipe,
    runs,
    stages,
    train,
)
from vsodpipe.a2s_tasks import TASKS
from vsodpipe.checkpoint import Checkpoint
from vsodpipe.errors import DataError, UsageError, VsodpipeError
from vsodpipe.frames import open_reader
from vsodpipe.manifest import Source, require_flow
from vsodpipe.progress import Reporter
from vsodpipe.reader import Store
from vsodpipe.recipe import Stage

NAME = "a2s-v2"
RECORD, SCORES = "chain.json", "scores.json"
OF_LABELS = "relabel_from"
"""Recipe key of stage 2 alone: stage 1 has no labels."""


@dataclass(frozen=True)
class Options:
    """What decides a chain, beside the manifest."""

    task: str
    """Letters of the tasks; more than one train stage 1 jointly."""
    stage: str | None = None
    """Stage of a2s, cornet and midnet in place of the task's: msra or debug."""
    assignments: tuple[str, ...] = ()
    """Recipe keys of both stages, as --set takes them."""
    backbone_weights: str | None = None
    """Where both stages begin: a file of MoCo-v2."""


@dataclass(frozen=True)
class Chain:
    """One run of the chain."""

    options: Options
    source: Source
    run: Path
    device: str
    workers: int
    logs: tuple[str, ...] = ()


def started(run: Path) -> Options:
    """Return the options of a run folder. Raises DataError where it is none of a chain."""
    try:
        values = dict(media.read_json(run / RECORD)["options"])
        return Options(**{**values, "assignments": tuple(values["assignments"])})
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(f"{run / RECORD}: is damaged. Start anew with --run.") from error


def execute(chain: Chain, reporter: Reporter) -> dict[str, Any]:
    """Run what is missing of a chain; return its scores by task, method and data set.

    A new one that fails before its first step leaves nothing behind. Raises UsageError for a run
    folder that holds something else, and DataError for a manifest without training data of the
    task, or without the second picture that stage 2 takes.
    """
    letters = _letters(chain)
    first = _stage1(chain.options, letters)
    second = {letter: _stage2(chain.options, letter) for letter in letters}
    stages.check_losses("a2s", [first])
    for letter, stage in second.items():
        stages.check_losses(TASKS[letter].network, [stage])
    if first.network.backbone_weights is None:
        reporter.warn(
            "both stages begin with random weights; the published ones begin with MoCo-v2: "
            "--backbone-weights moco_v2_200ep_pretrain.pth.tar"
        )
    for letter in letters:
        _check_second(chain, letter)
    new = _open(chain)
    try:
        teacher = _trained(chain, "a2s", first, chain.source, chain.run / "stage1", reporter)
    except VsodpipeError:
        if new and not (chain.run / "stage1").exists():
            media.remove(chain.run)
        raise
    found: dict[str, Any] = {}
    for letter in letters:
        here = [n for n in _sets(chain.options, letter) if n in chain.source.names()]
        out = chain.run / f"pseudo-{letter}"
        labelled = pseudo.write(teacher, chain.source, here, out, chain.device, reporter)
        stage = second[letter]
        stage = replace(stage, data=replace(stage.data, datasets=tuple(labelled.names())))
        if stage.data.source == "store":
            for name, trained in zip(labelled.names(), here, strict=True):
                _pack(chain.source, trained, labelled, name, out / f"{name}.zarr", reporter)
        model, run = TASKS[letter].network, chain.run / f"stage2-{letter}"
        student = _trained(chain, model, stage, labelled, run, reporter)
        found[letter] = _scores(chain, letter, student, out, run, reporter)
    media.write_bytes(chain.run / SCORES, json.dumps(found, indent=1).encode() + b"\n")
    return found


def _letters(chain: Chain) -> list[str]:
    """Return the tasks whose training data the manifest holds."""
    tasks = a2s_tasks.tasks(chain.options.task)
    asked = [letter for letter, task in TASKS.items() if task in tasks]
    known = set(chain.source.names())
    letters = [x for x in asked if known.intersection(_sets(chain.options, x))]
    if not letters:
        wanted = ", ".join(name for x in asked for name in _sets(chain.options, x))
        raise DataError(
            f"{chain.source.file}: task {chain.options.task} trains on {wanted}; the manifest "
            f"holds {', '.join(chain.source.names())}."
        )
    return letters


def _sets(options: Options, letter: str) -> tuple[str, ...]:
    if options.stage == "msra":
        return models.stages("a2s")["msra"].data.datasets
    return TASKS[letter].train


def _stage1(options: Options, letters: list[str]) -> Stage:
    (stage,) = stages.choose(
        "a2s",
        [options.stage or ("cdot" if len(options.task) > 1 else options.task)],
        [],
        options.backbone_weights,
    )
    sets = tuple(name for letter in letters for name in _sets(options, letter))
    seconds = tuple(key for letter in letters if (key := TASKS[letter].second))
    order = models.stages("a2s")["cdot"].data.beside
    beside = tuple(key for key in order if key in seconds)
    stage = replace(stage, data=replace(stage.data, datasets=sets, beside=beside, labels=False))
    kept = [each for each in options.assignments if each.partition("=")[0].strip() != OF_LABELS]
    return recipe.override(stage, kept)


def _stage2(options: Options, letter: str) -> Stage:
    task = TASKS[letter]
    (stage,) = stages.choose(task.network, [options.stage or letter], [], options.backbone_weights)
    inputs = ("img", task.second) if task.second else ("img",)
    stage = replace(stage, data=replace(stage.data, inputs=inputs))
    return recipe.override(stage, list(options.assignments))


def _check_second(chain: Chain, letter: str) -> None:
    """Raise DataError for a frame without the second picture: stage 2 would end at it, hours on."""
    task, source = TASKS[letter], chain.source
    if task.second is None:
        return
    wanted = (*_sets(chain.options, letter), *task.test)
    for split in (source.split(name) for name in wanted if name in source.names()):
        if task.second == "flow":
            require_flow(split)
        frames = ((video.name, frame) for video in split.videos for frame in video.frames)
        if lacking := next((f"{v}/{f.name}" for v, f in frames if not getattr(f, task.second)), ""):
            raise DataError(
                f"{source.file}: {split.dataset}/{lacking} has no {task.second}, which "
                f"{task.network} takes. Bring it, and write the manifest anew."
            )


def _open(chain: Chain) -> bool:
    """Write the record of a new chain, or find that it is the one of this run folder.

    Returns whether it is new.
    """
    note = chain.run / RECORD
    record = {"options": asdict(chain.options), "manifest_sha256": chain.source.sha256()}
    text = json.dumps(record, indent=1).encode() + b"\n"
    if note.is_file():
        if media.read_bytes(note) != text:
            raise UsageError(
                f"{chain.run}: holds a chain with other options or another manifest. "
                "Name another folder with --run, or continue it with: --resume "
                f"{shlex.quote(str(chain.run))}"
            )
        return False
    runs.check_new(chain.run)
    media.write_bytes(note, text)
    return True


def _trained(
    chain: Chain, model: str, stage: Stage, source: Source, run: Path, reporter: Reporter
) -> Checkpoint:
    """Return the result of a stage, which is trained, or continued, where it is missing."""
    resume = (run / "run.json").is_file()
    if not resume:
        media.remove(run)  # a run that was killed before its first step
    chosen = runs.resumed(run, model, source) if resume else (stage,)
    job = runs.Job(model, source, chosen, run, chain.device, chain.workers, logs=chain.logs)
    train.train(job, reporter, resume=resume)
    return checkpoint.read(run, model)


def _pack(
    source: Source, trained: str, labelled: Source, name: str, store: Path, reporter: Reporter
) -> None:
    """Pack a training set with pseudo labels as the store of that set is packed: size and tier."""
    opened = open_reader(source, trained, "store")
    assert isinstance(opened, Store)
    videos = range(len(opened.videos))
    sizes = {opened.stored_size(int(opened.offsets[video])) for video in videos}
    own = all(opened.stored_size(int(opened.offsets[v])) == opened.size(v) for v in videos)
    size = None if own or len(sizes) > 1 else sizes.pop()
    tier = opened.attributes["tier"]
    pack.pack(labelled.split(name), labelled.root, store, size, reporter, tier=tier)


def _scores(
    chain: Chain, letter: str, student: Checkpoint, labels: Path, run: Path, reporter: Reporter
) -> dict[str, Any]:
    """Return the scores of the pseudo labels and of stage 2, by protocol a2s, of what has masks."""
    source, record = chain.source, run / "scores-a2s.json"
    digest = runs.sha256(student.file)
    if record.is_file() and (known := media.read_json(record)).get("weights_sha256") == digest:
        reporter.say(f"{record} is finished.")
        return dict(known["scores"])
    folders = {"pseudo labels": labels / pseudo.LABELS}
    tests = [name for name in TASKS[letter].test if name in source.names()]
    if tests:
        folders["stage 2"] = run / "maps"
        predict.predict(student, source, tests, run / "maps", chain.device, reporter, force=True)
    else:
        reporter.warn(f"{source.file}: holds no test set of task {letter}, so stage 2 has no maps")
    options = evaluate.Options(protocol=protocols.get("a2s"))
    found: dict[str, Any] = {}
    for method, folder in folders.items():
        named = [replace(f, method=method) for f in maps.find([folder], [source]) if _masks(f)]
        result = evaluate.evaluate(named, options, reporter) if named else {"methods": {}}
        for row in result["methods"].values():
            found[method] = {name: one["total"] for name, one in row["datasets"].items()}
    note = {"weights_sha256": digest, "scores": found}
    media.write_bytes(record, json.dumps(note, indent=1).encode() + b"\n")
    return found


def _masks(folder: maps.Folder) -> bool:
    return any(frame.gt for video in folder.split.videos for frame in video.frames)


def describe(found: dict[str, Any]) -> list[str]:
    """Return the scores of a chain as lines for people."""
    keys = {"a2s_mean_f": "F", "a2s_e": "E", "a2s_mae": "MAE", "s_measure": "S"}
    return [
        f"task {letter}, {method} on {name}: "
        + ", ".join(f"{title} {total[key]:.3f}" for key, title in keys.items() if key in total)
        for letter, methods in found.items()
        for method, sets in methods.items()
        for name, total in sets.items()
    ]
