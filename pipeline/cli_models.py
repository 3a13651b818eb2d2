"""Commands that train and test networks, and tell what a file of weights is."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

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


@app.command(epilog="Example: vsodpipe train dbsnet --manifest manifests/davis.json")
def train(
    model: Annotated[str, typer.Argument(help="Network, such as dbsnet.")],
    manifest: ManifestOption,
    stage: Annotated[
        list[str] | None, typer.Option(help="Stage to run, repeatable (default: the whole chain).")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Recipe key, repeatable, such as optim.lr=1e-4."),
    ] = None,
    backbone_weights: Annotated[
        str | None,
        typer.Option(help="Backbone's start: imagenet, a local FILE, or none (random)."),
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="Run or checkpoint whose weights the first stage takes.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Folder of this run (default: runs/MODEL-TIME).")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue this run folder, with the recipe it has.")
    ] = None,
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
    quiet: QuietOption = False,
) -> None:
    """Train a network on what a manifest holds, by its published recipe."""
    from vsodpipe import inputs, runs
    from vsodpipe import train as training
    from vsodpipe.devices import resolve

    reporter = Reporter(quiet)
    if resume and (stage or assignments or backbone_weights or init or run):
        raise UsageError("--resume takes the recipe of the run: leave out its other options.")
    training.models.load(model)
    source = inputs.open_manifest(manifest, reporter)
    if resume:
        stages, folder = runs.resumed(resume, model, source), resume
    else:
        stages = training.choose_stages(model, stage or [], assignments or [], backbone_weights)
        folder = run or Path("runs") / f"{model}-{time.strftime('%Y%m%d-%H%M%S')}"
    where = resolve(device)
    if workers is None:  # on CPU the network needs every core: loaders would only disturb it
        workers = min(4, os.cpu_count() or 1) if where.startswith("cuda") else 0
    cache_bytes = int(cache_size * 2**30)
    job = runs.Job(model, source, stages, folder, where, workers, init, cache_dir, cache_bytes)
    try:
        last = training.train(job, reporter, resume=resume is not None)
    except KeyboardInterrupt:
        if not (folder / "run.json").is_file():
            raise
        again = f"vsodpipe train {model} --manifest {manifest} --resume {folder}"
        raise Interrupted(f"interrupted. Continue with: {again}") from None
    reporter.say(f"weights: {last}")
    reporter.say(f"Next: vsodpipe test {model} --checkpoint {folder} --manifest {manifest}")


@app.command(
    epilog="Example: vsodpipe test dbsnet --checkpoint runs/RUN --manifest manifests/davis.json"
)
def test(
    model: Annotated[str, typer.Argument(help="Network, such as dbsnet.")],
    checkpoint: Annotated[Path, typer.Option(help="Run folder or checkpoint file.")],
    manifest: ManifestOption,
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="Data set of the manifest, repeatable (default: all but train)."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the maps (default: maps in the run folder).")
    ] = None,
    device: DeviceOption = "auto",
    force: ForceOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write the saliency maps of a trained network, at the size of the frames."""
    from vsodpipe import checkpoint as checkpoints
    from vsodpipe import inputs, predict
    from vsodpipe.devices import resolve

    reporter = Reporter(quiet)
    saved = checkpoints.read(checkpoint, model)
    source = inputs.open_manifest(manifest, reporter)
    if out is None and not checkpoint.is_dir():
        raise UsageError("--checkpoint names a file: say where the maps go with --out FOLDER.")
    maps = out if out is not None else checkpoint / "maps"
    names = predict.choose_datasets(source, dataset or [])
    # a run's own maps follow its weights; maps elsewhere are replaced only when asked
    replace = force or out is None
    where = resolve(device)
    for folder in predict.predict(saved, source, names, maps, where, reporter, force=replace):
        reporter.say(f"maps: {folder}")
    reporter.say(f"Next: vsodpipe eval {maps} --manifest {manifest}")


@app.command(epilog="Example: vsodpipe weights raft-things.pth")
def weights(
    file: Annotated[Path, typer.Argument(help="File of weights, or a run folder.")],
    as_json: JsonOption = False,
) -> None:
    """Say what a file of weights is: which network, whose keys, whether it loads."""
    from vsodpipe import weights as files

    report = files.examine(file)
    if as_json:
        print_json(report.as_dict())
    else:
        typer.echo(f"{report.file}: {report.network or 'no network known here'} ({report.origin})")
        typer.echo(f"  {report.tensors} tensors, {report.parameters:,} numbers")
        typer.echo(f"  SHA-256 {report.sha256}")
        if report.loads and report.kind == "flow":
            use = f"vsodpipe flow NAME --engine {report.network} --weights {report.file}"
        else:
            use = f"vsodpipe test {report.network} --checkpoint {report.file} --manifest MANIFEST"
        typer.echo(f"  loads: {use}" if report.loads else "  does not load:")
        for problem in report.problems:
            typer.echo(f"    {problem}")
    if not report.loads:
        raise typer.Exit(2)
