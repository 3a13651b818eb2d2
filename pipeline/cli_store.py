"""Commands about stores: pack, look inside and check, unpack."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from vsodpipe import completion
from vsodpipe.cli_app import (
    DataOption,
    ForceOption,
    JsonOption,
    QuietOption,
    app,
    print_json,
)
from vsodpipe.errors import DataError, UsageError
from vsodpipe.progress import Reporter, duration

StoreArgument = Annotated[
    str,
    typer.Argument(
        metavar="STORE",
        help="Path or URL of a store, .zarr or .h5.",
        autocompletion=completion.of(completion.stores),
    ),
]


@app.command(epilog="Example: vsodpipe pack DAVIS_train --size 384x640")
def pack(
    name: Annotated[
        str,
        typer.Argument(
            help="Data set of the data root, or a manifest: all its data sets.",
            autocompletion=completion.of(completion.present),
        ),
    ],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="zarr, or hdf5 for one file.",
            autocompletion=completion.words("zarr", "hdf5"),
        ),
    ] = "zarr",
    size: Annotated[
        str, typer.Option(help="Stored size in pixels: N, HEIGHTxWIDTH, 480p or native.")
    ] = "384",
    tier: Annotated[
        str,
        typer.Option(
            help="raw (fastest), lossless (flow compressed), jpeg or small.",
            autocompletion=completion.words("raw", "lossless", "jpeg", "small"),
        ),
    ] = "raw",
    flow: Annotated[
        str,
        typer.Option(
            help="picture, raw (u, v as `vsodpipe flow --format raw` left), both.",
            autocompletion=completion.words("picture", "raw", "both"),
        ),
    ] = "picture",
    to: Annotated[
        str | None,
        typer.Option(help="Path or URL of the store (default: DATA/NAME.zarr, which train finds)."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say frames, bytes, files, time.")
    ] = False,
    cluster: Annotated[
        str | None, typer.Option(help="local:N processes, or tcp://... of a dask scheduler.")
    ] = None,
    data: DataOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Pack frames, masks and flow of a data set into a chunked store at training size."""
    from vsodpipe import cluster as clusters
    from vsodpipe import pack as packer
    from vsodpipe import pack_plan

    reporter = Reporter(quiet)
    clusters.check(cluster)
    splits, root = _splits(name, data, reporter)
    if to is not None and len(splits) > 1:
        raise UsageError(f"--to: {name} holds {len(splits)} data sets. Pack them one by one.")
    results: dict[str, Any] = {}
    for split in splits:
        options = pack_plan.Options(
            pack_plan.parse_size(size),
            tier,
            format_,  # type: ignore[arg-type]
            flow,  # type: ignore[arg-type]
        )
        suffix = "h5" if format_ == "hdf5" else "zarr"
        target = to or f"{root}/{split.dataset}.{suffix}"
        if dry_run:
            found = packer.estimate(split, root, options)
            reporter.say(
                f"{target}: {found.frames} frames of {', '.join(found.arrays)}, about "
                f"{found.bytes / 1e6:.0f} MB in {found.files} files, "
                f"{duration(found.seconds)} in one process (measured on {found.measured} frames)"
            )
            results[split.dataset] = asdict(found)
            continue
        done = packer.pack(
            split,
            root,
            target,
            options.size,
            reporter,
            tier=tier,
            container=options.container,
            flow=options.flow,
            where=cluster,
            force=force,
        )
        if split.flow is None and flow == "picture":
            lacking = f"{split.dataset} has no flow, and so has its store"
            reporter.warn(f"{lacking}. Run: vsodpipe flow {split.dataset}")
        kept = " (there already, of the same files)" if done.kept else ""
        reporter.say(
            f"{done.path}: {done.frames} frames at {size}, {done.bytes / 1e6:.0f} MB in "
            f"{done.shards} shards an array{kept}"
        )
        results[split.dataset] = asdict(done)
    if not dry_run:
        held = name if name.endswith((".json", ".txt")) else _manifest(splits[0].dataset, root)
        reporter.say(f"Next: vsodpipe train MODEL --manifest {held} --set data.source=store")
    if as_json:
        print_json(results if len(results) > 1 else next(iter(results.values())))


def _splits(name: str, data: Path | None, reporter: Reporter) -> tuple[list[Any], str]:
    """Return the data sets that `name` stands for, and the root of their files."""
    from vsodpipe import catalogue, inputs
    from vsodpipe import manifest as manifests

    if name.endswith((".json", ".txt")):
        source = inputs.open_manifest(name, reporter)
        return list(source.manifest.datasets), source.root
    root = catalogue.data_root(data)
    found = manifests.split_of(catalogue.find(name, root), root, reporter)
    return [found], str(root.resolve())


def _manifest(dataset: str, root: str) -> str:
    """Return where `vsodpipe manifest` puts the manifest of a data set."""
    from vsodpipe import manifest as manifests

    return f"manifests/{manifests.group_and_split(dataset, Path(root))[0]}.json"


@app.command(epilog="Example: vsodpipe store datasets/DAVIS_train.zarr --check")
def store(
    url: StoreArgument,
    check: Annotated[
        bool, typer.Option("--check", help="Compare all checksums, with the files' too.")
    ] = False,
    preview: Annotated[
        Path | None, typer.Option(help="Sheet of frames of its videos to write, .jpg or .png.")
    ] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show what is inside a store; --check compares every frame with its checksum."""
    from vsodpipe import catalogue, reader, store_check, store_preview

    reporter = Reporter(quiet)
    if preview is not None:
        store_preview.check(preview)
    opened = reader.open_store(url)
    about = store_check.describe(opened)
    for line in store_check.lines(about):
        reporter.say(line)
    if preview is not None:
        shown = store_preview.write(preview, opened)
        about["preview"] = str(preview)
        reporter.say(f"wrote {preview}: {shown} frames as they are stored")
    if check:
        checked = store_check.check(opened, catalogue.data_root(data), reporter)
        about["check"] = asdict(checked)
        found = f"{len(checked.faults)} faults" if checked.faults else "all as they were packed"
        reporter.say(f"{checked.chunks} chunks and {checked.sources} files compared: {found}")
    if as_json:
        print_json(about)
    if check and checked.faults:
        for fault in checked.faults[:10]:
            reporter.warn(fault)
        raise DataError(f"{url}: {len(checked.faults)} faults. Pack it anew with --force.")


@app.command(epilog="Example: vsodpipe unpack datasets/DAVIS_train.zarr --out datasets_384")
def unpack(
    url: StoreArgument,
    out: Annotated[Path, typer.Option(help="Data root to write the data set to.")],
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Turn a store back into files, which `vsodpipe manifest` reads."""
    from vsodpipe import reader, unpack_store

    reporter = Reporter(quiet)
    opened = reader.open_store(url)
    folder = unpack_store.unpack(opened, out, reporter, force=force)
    reporter.say(f"{folder}: {len(opened.videos)} videos, {len(opened)} frames")
    reporter.say(f"Next: vsodpipe manifest --data {out}")
    if as_json:
        print_json({"folder": folder, "videos": len(opened.videos), "frames": len(opened)})
