"""The command that writes pseudo labels, and the chain of A2S-v2 behind `train a2s-v2`."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from vsodpipe import completion
from vsodpipe.cli_app import (
    DeviceOption,
    ForceOption,
    JsonOption,
    ManifestOption,
    QuietOption,
    app,
    print_json,
)
from vsodpipe.errors import Interrupted, UsageError
from vsodpipe.progress import Reporter


@app.command(
    epilog="Example: vsodpipe pseudo --checkpoint RUN --manifest manifests/davis.json "
    "--task o --out davis_pseudo"
)
def pseudo(
    checkpoint: Annotated[Path, typer.Option(help="Run folder or checkpoint file of a2s.")],
    manifest: ManifestOption,
    out: Annotated[Path, typer.Option(help="Folder for the labels, their data sets, a manifest.")],
    task: Annotated[
        str | None,
        typer.Option(
            help="c, d, o or t: label the training sets of this task.",
            autocompletion=completion.words("c", "d", "o", "t"),
        ),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            help="Data set of the manifest to label, repeatable.",
            autocompletion=completion.of(completion.of_manifest),
        ),
    ] = None,
    crf: Annotated[
        str,
        typer.Option(
            help="Parameters of the dense CRF: a2s or dss.",
            autocompletion=completion.words("a2s", "dss"),
        ),
    ] = "a2s",
    batch: Annotated[int, typer.Option(min=0, help="Frames at once; 0: 8 on CUDA, else 1.")] = 0,
    device: DeviceOption = "auto",
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write what stage 1 of A2S-v2 says of its training data as a data set with labels."""
    from vsodpipe import a2s_tasks, inputs
    from vsodpipe import checkpoint as checkpoints
    from vsodpipe import pseudo as labels
    from vsodpipe.devices import resolve

    if (task is None) == (not dataset):
        raise UsageError("name what to label: either --task or --dataset.")
    reporter = Reporter(quiet)
    saved = checkpoints.read(checkpoint, "a2s")
    source = inputs.open_manifest(manifest, reporter)
    names = [source.split(name).dataset for name in dataset or []]
    if task is not None:
        wanted = [name for one in a2s_tasks.tasks(task) for name in one.train]
        names = [name for name in wanted if name in source.names()]
        if not names:
            raise UsageError(f"{source.file}: holds none of {', '.join(wanted)}. Use --dataset.")
    where = resolve(device)
    made = labels.write(
        saved, source, names, out, where, reporter, parameters=crf, batch=batch, force=force
    )
    network = a2s_tasks.TASKS[task].network if task in a2s_tasks.TASKS else "midnet"
    reporter.say(f"manifest: {made.file}")
    following = shlex.join(["vsodpipe", "train", network, "--manifest", str(made.file)])
    reporter.say(f"Next: {following}")
    if as_json:
        print_json(
            {
                "manifest": str(made.file),
                "frames": {split.dataset: split.frames for split in made.manifest.datasets},
            }
        )


def chain(
    manifest: str,
    *,
    task: str | None,
    stage: list[str],
    assignments: list[str],
    backbone_weights: str | None,
    run: Path | None,
    resume: Path | None,
    logs: list[str],
    workers: int | None,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run `vsodpipe train a2s-v2`."""
    from vsodpipe import a2s_chain, cores, inputs
    from vsodpipe.devices import resolve

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("a2s-v2 runs in one process; under torchrun train a2s, then its network.")
    if len(stage) > 1:
        raise UsageError(f"--stage: a2s-v2 takes one, msra or debug, got {', '.join(stage)}.")
    if resume is not None:
        if task or stage or assignments or backbone_weights or run:
            raise UsageError("--resume takes the options of the run: leave out its other options.")
        options, folder = a2s_chain.started(resume), resume
    elif task is None:
        raise UsageError("a2s-v2 needs --task: c RGB, d RGB-D, o video, t RGB-T, or cdot jointly.")
    else:
        if backbone_weights and (file := Path(backbone_weights).expanduser()).is_file():
            backbone_weights = str(file.absolute())  # --resume may come from another folder
        options = a2s_chain.Options(
            task, stage[0] if stage else None, tuple(assignments), backbone_weights
        )
        folder = run or Path("runs") / f"a2s-v2-{task}-{time.strftime('%Y%m%d-%H%M%S')}"
    reporter = Reporter(quiet)
    source = inputs.open_manifest(manifest, reporter)
    where = resolve(device)
    workers = cores.loaders(where) if workers is None else workers
    made = a2s_chain.Chain(options, source, folder, where, workers, tuple(logs))
    try:
        found = a2s_chain.execute(made, reporter)
    except KeyboardInterrupt:
        if not (folder / a2s_chain.RECORD).is_file():
            raise
        again = ["vsodpipe", "train", "a2s-v2", "--manifest", manifest, "--resume", str(folder)]
        raise Interrupted(f"interrupted. Continue with: {shlex.join(again)}") from None
    for line in a2s_chain.describe(found):
        reporter.say(line)
    reporter.say(f"scores: {folder / a2s_chain.SCORES}")
    runs = shlex.join(map(str, sorted(folder.glob("stage2-*"))))
    reporter.say(f"Next: vsodpipe report {runs} --manifest {shlex.quote(manifest)}")
    if as_json:
        print_json({"run": str(folder), "scores": found})
