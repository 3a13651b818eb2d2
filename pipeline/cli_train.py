"""Commands that train networks and show their recipes."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from vsodpipe import cli_pseudo, completion
from vsodpipe.cli_app import (
    DeviceOption,
    JsonOption,
    ManifestOption,
    QuietOption,
    app,
    print_json,
)
from vsodpipe.errors import Interrupted, UsageError, VsodpipeError, unknown
from vsodpipe.progress import Reporter

ModelArgument = Annotated[
    str,
    typer.Argument(
        help="Network, such as dbsnet.", autocompletion=completion.of(completion.models)
    ),
]
RecipeOption = Annotated[
    Path | None, typer.Option("--recipe", help="TOML file, as vsodpipe recipe prints it.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Recipe key, repeatable, such as optim.lr=1e-4."),
]


@app.command(epilog="Example: vsodpipe recipe dbsnet --stage finetune > mine.toml")
def recipe(
    model: ModelArgument,
    stage: Annotated[
        list[str] | None,
        typer.Option(
            help="Stage to print, repeatable (default: all).",
            autocompletion=completion.of(completion.stages),
        ),
    ] = None,
    file: RecipeOption = None,
    assignments: SetOption = None,
) -> None:
    """Print the recipes of a network as TOML, every key explained; train --recipe reads it."""
    from vsodpipe import models, stages
    from vsodpipe.recipe import to_toml

    everything = [*models.stages(model)] if file is None else []
    found = stages.choose(model, stage or everything, assignments or [], None, file)
    typer.echo(to_toml({each.name: each for each in found}, explain=True), nl=False)


@app.command(epilog="Example: vsodpipe train dbsnet --manifest manifests/davis.json")
def train(
    model: Annotated[
        str,
        typer.Argument(
            help="Network, such as dbsnet; a2s-v2 runs both its stages.",
            autocompletion=completion.of(completion.trainable),
        ),
    ],
    manifest: ManifestOption,
    stage: Annotated[
        list[str] | None,
        typer.Option(
            help="Stage to run, repeatable (default: the whole chain).",
            autocompletion=completion.of(completion.stages),
        ),
    ] = None,
    file: RecipeOption = None,
    assignments: SetOption = None,
    backbone_weights: Annotated[
        str | None,
        typer.Option(
            help="Backbone's start: imagenet, a local FILE, or none (random).",
            autocompletion=completion.words("imagenet", "none"),
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="With a2s-v2: c, d, o or t, or several jointly: cdot.",
            autocompletion=completion.words("c", "d", "o", "t", "cdot"),
        ),
    ] = None,
    init: Annotated[
        list[Path] | None,
        typer.Option(
            help="Run or checkpoint whose weights the first stage takes; one a stage that it joins."
        ),
    ] = None,
    strict_data: Annotated[
        bool, typer.Option("--strict-data", help="Refuse a manifest that lacks data of the recipe.")
    ] = False,
    run: Annotated[
        Path | None, typer.Option(help="Folder of this run (default: runs/MODEL-TIME).")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue this run folder, with the recipe it has.")
    ] = None,
    log: Annotated[
        list[str] | None,
        typer.Option(
            help="tensorboard, wandb or mlflow, repeatable.",
            autocompletion=completion.words("tensorboard", "wandb", "mlflow"),
        ),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Run the network through torch.compile.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Threads that load data (default: 4 on CUDA, else 0)."),
    ] = None,
    cache_dir: Annotated[
        Path | None,
        typer.Option(help="Folder for the shards of a store on the network (default: none)."),
    ] = None,
    cache_size: Annotated[
        float, typer.Option(min=0.1, help="Most gigabytes that folder may hold.")
    ] = 16.0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a network on what a manifest holds, by its published recipe. Runs under torchrun."""
    from vsodpipe import cores, inputs, models, ranks, runs, stages
    from vsodpipe import train as training
    from vsodpipe.devices import resolve

    if model == "a2s-v2":
        if file or init or strict_data or compiled or cache_dir:
            raise UsageError(
                "a2s-v2 takes no --recipe, --init, --strict-data, --compile and --cache-dir; "
                "train its networks one by one with them: a2s, then cornet or midnet."
            )
        cli_pseudo.chain(
            manifest,
            task=task,
            stage=stage or [],
            assignments=assignments or [],
            backbone_weights=backbone_weights,
            run=run,
            resume=resume,
            logs=log or [],
            workers=workers,
            device=device,
            as_json=as_json,
            quiet=quiet,
        )
        return
    if model not in models.names():
        raise unknown("model", model, (*models.names(), "a2s-v2"))
    if task is not None:
        raise UsageError("--task belongs to a2s-v2. A network has its tasks as stages: --stage.")
    if resume and (stage or file or assignments or backbone_weights or init or run or strict_data):
        raise UsageError("--resume takes the recipe of the run: leave out its other options.")
    where = ranks.place(resolve(device))
    with ranks.joined(where) as joined:
        reporter = Reporter(quiet or not joined.first)
        source = inputs.open_manifest(manifest, reporter)
        if resume:
            chosen, folder = runs.resumed(resume, model, source), resume
        else:
            chosen = stages.choose(model, stage or [], assignments or [], backbone_weights, file)
            folder = run or Path("runs") / f"{model}-{time.strftime('%Y%m%d-%H%M%S')}"
        workers = cores.loaders(where) if workers is None else workers
        job = runs.Job(
            model,
            source,
            chosen,
            joined.shared(folder),
            where,
            workers,
            tuple(init or ()),
            ranks=joined,
            logs=tuple(log or ()),
            strict_data=strict_data,
            compiled=compiled,
            cache=cache_dir,
            cache_bytes=int(cache_size * 2**30),
        )
        words = ["vsodpipe", "train", model, "--manifest", manifest, "--resume", str(job.run)]
        again = shlex.join(words)
        try:
            last = training.train(job, reporter, resume=resume is not None)
        except KeyboardInterrupt:
            if not (job.run / "run.json").is_file():
                raise
            raise Interrupted(f"interrupted. Continue with: {again}") from None
        except RuntimeError as error:
            if not ranks.lost(error):
                raise
            died = "another process of this training has died. Continue with:"
            raise VsodpipeError(f"{died} {again}") from error
    reporter.say(f"weights: {last}")
    following = ["test", model, "--checkpoint", str(job.run), "--manifest", manifest]
    reporter.say(f"Next: vsodpipe {shlex.join(following)}")
    if as_json and joined.first:
        print_json({"run": str(job.run), "weights": str(last)})
