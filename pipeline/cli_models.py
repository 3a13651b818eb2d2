"""Commands that train and test networks, and tell what a file of weights is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vsodpipe import completion
from vsodpipe.cli_app import (
    ForceOption,
    JsonOption,
    ManifestOption,
    QuietOption,
    app,
    print_json,
    show,
)
from vsodpipe.errors import UsageError
from vsodpipe.progress import Reporter


@app.command(
    epilog="Example: vsodpipe test dbsnet --checkpoint runs/RUN --manifest manifests/davis.json"
)
def test(
    model: Annotated[
        str,
        typer.Argument(
            help="Network, such as dbsnet.", autocompletion=completion.of(completion.models)
        ),
    ],
    checkpoint: Annotated[Path, typer.Option(help="Run folder or checkpoint file.")],
    manifest: ManifestOption,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            help="Data set of the manifest, repeatable (default: all but train).",
            autocompletion=completion.of(completion.of_manifest),
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the maps (default: maps in the run folder).")
    ] = None,
    crf: Annotated[
        str | None,
        typer.Option(
            help="Refine with a dense CRF: dss or a2s (default folder: maps-NAME).",
            autocompletion=completion.words("dss", "a2s"),
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option(min=0, help="Clips or frames at once; 0: 8 frames on CUDA, else 1 clip.")
    ] = 0,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, or several that share the videos: cuda:0,cuda:1.")
    ] = "auto",
    force: ForceOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write the saliency maps of a trained network, at the size of the frames."""
    from vsodpipe import checkpoint as checkpoints
    from vsodpipe import crf as refinement
    from vsodpipe import inputs, predict
    from vsodpipe.devices import resolve_all

    reporter = Reporter(quiet)
    if crf is not None:
        refinement.find(crf)
    where = resolve_all(device)
    saved = checkpoints.read(checkpoint, model)
    source = inputs.open_manifest(manifest, reporter)
    if out is None and not checkpoint.is_dir():
        raise UsageError("--checkpoint names a file: say where the maps go with --out FOLDER.")
    maps = out if out is not None else checkpoint / (f"maps-{crf}" if crf else "maps")
    names = predict.choose_datasets(source, dataset or [])
    # a run's own maps follow its weights; maps elsewhere are replaced only when asked
    replace = force or out is None
    reporter.say(f"weights: {saved.file}")
    folders = predict.predict(
        saved, source, names, maps, where, reporter, batch=batch, crf=crf, force=replace
    )
    for folder in folders:
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
        show(f"{report.file}: {report.network or 'no network known here'} ({report.origin})")
        show(f"  {report.tensors} tensors, {report.parameters:,} numbers")
        show(f"  SHA-256 {report.sha256}")
        if report.loads and report.kind == "flow":
            use = f"vsodpipe flow NAME --engine {report.network} --weights {report.file}"
        else:
            use = f"vsodpipe test {report.network} --checkpoint {report.file} --manifest MANIFEST"
        show(f"  loads: {use}" if report.loads else "  does not load:")
        for problem in report.problems:
            show(f"    {problem}")
    if not report.loads:
        raise typer.Exit(2)
