"""The command line: parse, call one function, print.

Heavy packages are imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from vsodpipe import __version__
from vsodpipe.errors import Interrupted, UsageError, VsodpipeError, unknown
from vsodpipe.progress import Reporter

app = typer.Typer(
    name="vsodpipe",
    help="From raw videos to scores: flow, manifests, stores, training, saliency maps, evaluation.",
    epilog="First time here? Run: vsodpipe demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="Data root [default: $VSODPIPE_DATA or ./datasets]."),
]
ManifestOption = Annotated[
    Path, typer.Option("--manifest", help="Manifest written by `vsodpipe manifest`.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:1.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is there already.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only warnings.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, indent=1, default=str))


@app.command("import", epilog="Example: vsodpipe import davis ~/Downloads/DAVIS")
def import_(
    name: Annotated[str, typer.Argument(help="Card of the data set, such as davis.")],
    source: Annotated[Path, typer.Argument(help="Folder of the unpacked official download.")],
    data: DataOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Bring an official download into the data root, checked, by links where possible."""
    from vsodpipe import catalogue, importer

    reporter = Reporter(quiet)
    root = catalogue.data_root(data)
    done = importer.import_dataset(name, source, root, reporter, force=force)
    for split in done:
        reporter.say(f"{split.folder}: {split.videos} videos, {split.frames} frames")
        for note in split.notes:
            reporter.say(f"  note: {note}")
    card = catalogue.cards()[name]
    reporter.say(f"{card.title} ({card.terms}). Please cite: {card.citation}.")
    reporter.say(f"Next: vsodpipe flow {done[0].dataset}")
    if as_json:
        _print_json({s.dataset: {"videos": s.videos, "frames": s.frames} for s in done})


@app.command(epilog="Example: vsodpipe flow DAVIS_train --engine dis")
def flow(
    name: Annotated[str, typer.Argument(help="Data set, folder of frames or video file.")],
    engine: Annotated[
        str, typer.Option(help="raft_large, raft_small (RAFT) or dis (OpenCV, no weights).")
    ] = "raft_large",
    weights: Annotated[
        str | None,
        typer.Option(help="RAFT weights: a file, or a torchvision record such as C_T_V1."),
    ] = None,
    updates: Annotated[
        int | None, typer.Option(min=1, help="RAFT updates of every pair [default: 20].")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="dis: ultrafast, fast or medium [default: medium].")
    ] = None,
    tail: Annotated[
        str,
        typer.Option(
            help="Last frame's flow: backward (to the one before it), repeat, zero, none."
        ),
    ] = "backward",
    colour: Annotated[
        str, typer.Option(help="Colour wheel: frame (each frame's largest motion) or radius:N px.")
    ] = "frame",
    out: Annotated[
        Path | None, typer.Option(help="Write here instead of beside the frames.")
    ] = None,
    device: DeviceOption = "auto",
    data: DataOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compute optical flow for every frame, as colour pictures with a record of how."""
    from vsodpipe import catalogue, flow_job, flows

    reporter = Reporter(quiet)
    options = flow_job.Options(tail=tail, colour=colour)  # type: ignore[arg-type]
    dataset = catalogue.find(name, catalogue.data_root(data))
    if out is not None:
        dataset = flow_job.elsewhere(dataset, out)
    chosen = {"weights": weights, "updates": updates, "preset": preset}
    settings: dict[str, Any] = {key: value for key, value in chosen.items() if value is not None}
    if "device" in flows.options(engine):
        from vsodpipe.devices import resolve  # imports torch, which `dis` does without

        settings["device"] = resolve(device)
    elif device not in ("auto", "cpu"):
        raise UsageError(f"engine {engine} runs on the CPU only. Leave out --device {device}.")
    summary = flow_job.compute(
        dataset, flows.create(engine, **settings), options, reporter, force=force
    )
    kept = f", {summary.kept} videos were done before" if summary.kept else ""
    reporter.say(f"{summary.frames} frames of {summary.videos} videos{kept}")
    reporter.say(f"Flow is in {summary.folders[0]}" + (" ..." if summary.videos > 1 else ""))
    if dataset.name in catalogue.present(catalogue.data_root(data)):
        reporter.say("Next: vsodpipe manifest")
    if as_json:
        _print_json({"dataset": dataset.name, **vars(summary)})


@app.command(epilog="Example: vsodpipe manifest DAVIS_train DAVIS_test")
def manifest(
    names: Annotated[
        list[str] | None, typer.Argument(help="Data sets or groups [default: all that are there].")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the manifests.")] = Path("manifests"),
    data: DataOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write manifests (JSON and txt) of the data sets in the data root, after checking them."""
    from vsodpipe import catalogue
    from vsodpipe import manifest as manifests

    reporter = Reporter(quiet)
    root = catalogue.data_root(data)
    written: dict[str, list[Path]] = {}
    for made in manifests.build(names or [], root, out, reporter).values():
        written[made.name] = manifests.write(made, out, root)
        for split in made.datasets:
            kind = "no flow" if split.flow is None else f"flow {split.flow['fingerprint']}"
            count = f"{len(split.videos)} videos, {split.frames} frames"
            reporter.say(f"{split.dataset}: {count}, {kind}")
        reporter.say(f"wrote {', '.join(map(str, written[made.name]))}")
        if any(split.flow is None for split in made.datasets):
            lacking = next(split.dataset for split in made.datasets if split.flow is None)
            reporter.warn(f"{lacking} has no flow yet. Run: vsodpipe flow {lacking}")
    if as_json:
        _print_json(written)


@app.command(epilog="Example: vsodpipe pack DAVIS_train --size 384x640")
def pack(
    name: Annotated[str, typer.Argument(help="Data set of the data root.")],
    size: Annotated[
        str, typer.Option(help="Stored size in pixels: N, HEIGHTxWIDTH or native.")
    ] = "384",
    out: Annotated[
        Path | None, typer.Option(help="Store [default: DATA/NAME.zarr, which training finds].")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="local:N processes, or tcp://... of a dask scheduler.")
    ] = None,
    data: DataOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Pack frames, masks and flow of a data set into a chunked zarr store at training size."""
    from vsodpipe import catalogue
    from vsodpipe import manifest as manifests
    from vsodpipe import pack as packer

    reporter = Reporter(quiet)
    root = catalogue.data_root(data)
    split = manifests.split_of(catalogue.find(name, root), root, reporter)
    target = out if out is not None else root / f"{split.dataset}.zarr"
    stored = packer.parse_size(size, split)
    done = packer.pack(
        split, str(root.resolve()), target, stored, reporter, where=cluster, force=force
    )
    if split.flow is None:
        reporter.warn(f"{name} has no flow, and so has its store. Run: vsodpipe flow {name}")
    megabytes = done.bytes / 2**20
    kept = " (there already, of the same files)" if done.kept else ""
    reporter.say(
        f"{done.path}: {done.frames} frames at {stored[1]}x{stored[0]}, {megabytes:.0f} MB in "
        f"{done.shards} shards an array{kept}"
    )
    reporter.say("Next: vsodpipe train dbsnet --manifest MANIFEST --set data.source=store")
    if as_json:
        _print_json(vars(done))


@app.command(epilog="Example: vsodpipe train dbsnet --manifest manifests/davis.json")
def train(
    model: Annotated[str, typer.Argument(help="Network, such as dbsnet.")],
    manifest: ManifestOption,
    stage: Annotated[
        list[str] | None, typer.Option(help="Stage to run, repeatable [default: the whole chain].")
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
        Path | None, typer.Option(help="Folder of this run [default: runs/MODEL-TIME].")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue this run folder, with the recipe it has.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that load data [default: 4 on CUDA, else 0]."),
    ] = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Train a network on what a manifest holds, by its published recipe."""
    from vsodpipe import manifest as manifests
    from vsodpipe import runs
    from vsodpipe import train as training
    from vsodpipe.devices import resolve

    reporter = Reporter(quiet)
    if resume and (stage or assignments or backbone_weights or init or run):
        raise UsageError("--resume takes the recipe of the run: leave out its other options.")
    training.models.load(model)
    source = manifests.read(manifest)
    if resume:
        stages, folder = runs.resumed(resume, model, source), resume
    else:
        stages = training.choose_stages(model, stage or [], assignments or [], backbone_weights)
        folder = run or Path("runs") / f"{model}-{time.strftime('%Y%m%d-%H%M%S')}"
    where = resolve(device)
    if workers is None:  # on CPU the network needs every core: loaders would only disturb it
        workers = min(4, os.cpu_count() or 1) if where.startswith("cuda") else 0
    job = runs.Job(model, source, stages, folder, where, workers, init)
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
        typer.Option(help="Data set of the manifest, repeatable [default: all but train]."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the maps [default: maps in the run folder].")
    ] = None,
    device: DeviceOption = "auto",
    force: ForceOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write the saliency maps of a trained network, at the size of the frames."""
    from vsodpipe import checkpoint as checkpoints
    from vsodpipe import manifest as manifests
    from vsodpipe import predict
    from vsodpipe.devices import resolve

    reporter = Reporter(quiet)
    saved = checkpoints.read(checkpoint, model)
    source = manifests.read(manifest)
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


@app.command("eval", epilog="Example: vsodpipe eval runs/RUN/maps --manifest manifests/davis.json")
def eval_(
    maps: Annotated[Path, typer.Argument(help="Folder of maps: MAPS/DATASET/video/frame.png.")],
    manifest: ManifestOption,
    frames: Annotated[
        str, typer.Option(help="trim (without the first and last mask of a video) or all.")
    ] = "trim",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score saliency maps: J, boundary F, S-measure, max F and MAE, per video and in total."""
    from rich.console import Console

    from vsodpipe import evaluate
    from vsodpipe import manifest as manifests

    if frames not in ("trim", "all"):
        raise unknown("value of --frames:", frames, ("trim", "all"))
    reporter = Reporter(quiet)
    protocol = evaluate.Protocol(frames=frames)  # type: ignore[arg-type]
    result = evaluate.evaluate(maps, manifests.read(manifest), protocol, reporter)
    if scores := evaluate.save(result, maps):
        reporter.say(f"wrote {scores}")
    if as_json:
        _print_json(result)
    else:
        Console().print(*evaluate.tables(result))


@app.command(epilog="Example: vsodpipe demo --out /tmp/demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the tour writes.")] = Path(
        "vsodpipe-demo"
    ),
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Take the whole tour on clips made here: flow, store, training, maps, scores. Offline."""
    from rich.console import Console

    from vsodpipe import demo as tour
    from vsodpipe import evaluate

    reporter = Reporter(quiet)
    started = time.monotonic()
    result = tour.run(out, reporter)
    if as_json:
        _print_json(vars(result))
        return
    Console().print(evaluate.table("DEMO_test (made clips)", result.scores, "method"))
    typer.echo(tour.describe(result))
    reporter.say(f"Done in {time.monotonic() - started:.0f} s. Next: vsodpipe import --help")


def main() -> None:
    """Run the command line; a known error is one line on stderr and its exit code."""
    try:
        app(standalone_mode=True)
    except VsodpipeError as error:
        _fail(str(error), error.exit_code)
    except SystemExit as ended:
        if ended.code == 130:  # typer turns Ctrl-C into this exit code, without a word
            _fail("interrupted. Run the same command again to continue.", 130)
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE)
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}.", 1 if full else 2)
    except Exception as error:
        if os.environ.get("VSODPIPE_DEBUG"):
            traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
        _fail(f"unexpected {reason} (VSODPIPE_DEBUG=1 shows where). Please report it.", 1)


def _fail(message: str, code: int) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
