"""Commands that list what there is: manifests, and layouts of other repositories."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vsodpipe import cli_check, completion
from vsodpipe.cli_app import DataOption, JsonOption, QuietOption, app, print_json
from vsodpipe.errors import UsageError
from vsodpipe.progress import Reporter

if TYPE_CHECKING:
    from vsodpipe.manifest import Manifest
    from vsodpipe.subsets import Choice


@app.command(epilog="Example: vsodpipe manifest DAVIS_train DAVIS_test")
def manifest(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Data sets, groups, .json or .txt manifests (default: all data sets).",
            autocompletion=completion.of(completion.present),
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="One manifest of this name, of a choice or of several manifests."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Only the data sets of this split: train, val or test.",
            autocompletion=completion.words("train", "val", "test"),
        ),
    ] = None,
    videos: Annotated[
        list[str] | None,
        typer.Option(help="Only videos of this name or quoted glob; may be repeated."),
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Only so many videos of every data set, by --seed.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Another seed, another sample (default: 0).")
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(help="DATASET=NUMBER: how often its samples stand in an epoch; repeatable."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read every file of manifests; write nothing.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="--check: only headers, and not every picture.")
    ] = False,
    start: Annotated[
        Path | None, typer.Option("--root", help="Folder that relative paths of a txt start from.")
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="Read a folder of dpa, tmo, ianet, a2s, smcf or davsod as it is.",
            autocompletion=completion.of(completion.layouts),
        ),
    ] = None,
    preview: Annotated[
        int | None,
        typer.Option(min=1, max=50, help="Also a sheet of so many frames of every data set."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the manifests.")] = Path("manifests"),
    data: DataOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write manifests (JSON and txt) of data sets, after checking them; of parts and mixtures."""
    from vsodpipe import catalogue, layouts, subsets
    from vsodpipe import manifest as manifests

    reporter = Reporter(quiet)
    root = catalogue.data_root(data)
    weights = subsets.parse_weights(weight or [])
    if check and preview is not None:
        raise UsageError("--check writes nothing. Leave out --preview.")
    if seed is not None and sample is None:
        raise UsageError("--seed: only with --sample. Say how many videos with --sample N.")
    choice = subsets.Choice(split, tuple(videos or ()), sample, seed or 0, weights)
    if check:
        if choice != subsets.Choice() or name is not None or layout is not None:
            raise UsageError("--check takes whole manifests. Leave out the other options.")
        return cli_check.check(names or [], out, start, quick, as_json, root, reporter)
    if quick:
        raise UsageError("--quick: only with --check.")
    all_made: dict[str, tuple[Manifest, Path | str]]
    folder = None if name is not None else layouts.named(names or [], root, layout)
    if name is not None:
        if layout is not None:
            raise UsageError("--layout: not with --name. Write the manifest of the folder first.")
        all_made = {name: _mixed(names or [], name, choice, root, start, out, reporter)}
    elif choice != subsets.Choice() or any(file.endswith(".json") for file in names or []):
        raise UsageError("a part or a mixture needs a name of its own. Add --name NAME.")
    elif rows := cli_check.of_rows(names or [], start, out, root, reporter):
        if layout is not None:
            raise UsageError("--layout: for a folder, and these are txt files. Leave it out.")
        all_made = {rows[0].name: rows}
    elif folder:
        read = layouts.manifest_of(folder, layout, reporter, root)
        all_made = {read.name: (read, folder)}
    else:
        built = manifests.build(names or [], root, out, reporter)
        all_made = {group: (made, root) for group, made in built.items()}
    written: dict[str, list[Path]] = {}
    for made, base in all_made.values():
        written[made.name] = manifests.write(made, out, base)
        if preview is not None:
            from vsodpipe import manifest_preview

            written[made.name].append(out / f"{made.name}.jpg")
            manifest_preview.write(written[made.name][-1], made, base, preview)
        _say(made, written[made.name], reporter, computable=folder is None)
    if as_json:
        print_json(written)


def _mixed(
    names: list[str],
    name: str,
    choice: Choice,
    root: Path,
    start: Path | None,
    out: Path,
    reporter: Reporter,
) -> tuple[Manifest, Path | str]:
    """Return the manifest `name` of a choice of data sets and manifests, and its root.

    Manifests are .json and .txt files and folders in a published layout.
    """
    from vsodpipe import inputs, layouts, subsets
    from vsodpipe import manifest as manifests

    subsets.check_free(name, out)
    rows = [file for file in names if file.lower().endswith(".txt")]
    if start is not None and not rows:
        raise UsageError("--root: only for txt files. Leave it out, or name a txt.")
    files = [
        file
        for file in names
        if file in rows or file.endswith(".json") or layouts.named([file], root, None)
    ]
    datasets = [dataset for dataset in names if dataset not in files]
    parts = []
    if datasets or not files:
        built = manifests.build(datasets, root, out, reporter, name=name)[name]
        parts.append(subsets.Part(built, str(root.resolve()), f"data root {root}"))
    for file in files:
        read = inputs.open_manifest(file, reporter, start, root)
        parts.append(subsets.Part(read.manifest, read.root, file))
    joined, base = subsets.join(parts, name)
    made = subsets.chosen(joined, choice)
    subsets.check_name(made, root)
    manifests.warn_of_lost(out / f"{name}.json", [s.dataset for s in made.datasets], reporter)
    subsets.remove_lost(made, out)
    call = _call(names, name, choice)
    if "://" in base:
        return made.model_copy(update={"root": base, "made_by": call}), base
    place = manifests.relative_root(Path(base), out)
    made = made.model_copy(update={"root": place, "made_by": call})
    return made, root if base == str(root.resolve()) else Path(base)


def _call(names: list[str], name: str, choice: Choice) -> str:
    """Return the command that makes such a manifest again."""
    words = ["vsodpipe", "manifest", *names, "--name", name]
    words += [] if choice.split is None else ["--split", choice.split]
    words += [word for video in choice.videos for word in ("--videos", video)]
    if choice.sample is not None:
        words += ["--sample", str(choice.sample), "--seed", str(choice.seed)]
    words += [w for n, value in choice.weights.items() for w in ("--weight", f"{n}={value:g}")]
    return shlex.join(words)


def _say(made: Manifest, files: list[Path], reporter: Reporter, *, computable: bool) -> None:
    from vsodpipe import subsets

    for split in made.datasets:
        kind = "no flow" if split.flow is None else f"flow {split.flow['fingerprint']}"
        weight = "" if split.weight is None else f", weight {split.weight:g}"
        count = f"{len(split.videos)} videos, {split.frames} frames"
        reporter.say(f"{split.dataset}: {count}, {kind}{weight}")
    reporter.say(f"wrote {', '.join(map(str, files))}")
    videos = [s for s in made.datasets if any(len(v.frames) > 1 for v in s.videos)]  # no stills
    lacking = next((split.dataset for split in videos if split.flow is None), None)
    if lacking and computable:  # a published layout's flow is its own
        reporter.warn(f"{lacking} has no flow yet. Run: vsodpipe flow {lacking}")
    if problem := subsets.kinds_of_flow(made):
        reporter.warn(problem)
    if not lacking:
        step = "train" if any(split.split == "train" for split in made.datasets) else "test"
        more = " --checkpoint RUN" if step == "test" else ""
        reporter.say(f"Next: vsodpipe {step} MODEL{more} --manifest {files[0]}")


@app.command(epilog="Example: vsodpipe export DAVIS_train DAVIS_test --layout dpa --out dpa")
def export(
    names: Annotated[
        list[str],
        typer.Argument(
            help="Data sets or groups of the data root, manifest .json files",
            autocompletion=completion.of(completion.present),
        ),
    ],
    layout: Annotated[
        str,
        typer.Option(
            help="Whose layout: dpa, tmo, ianet, a2s, smcf or davsod.",
            autocompletion=completion.of(completion.layouts),
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to, new or of this export.")],
    data: DataOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write data sets, by links, in the layout that a published repository's loader reads."""
    from dataclasses import asdict

    from vsodpipe import catalogue, layout_export

    reporter = Reporter(quiet)
    done = layout_export.run(names, layout, out, catalogue.data_root(data), reporter)
    for line in layout_export.lines(done, out):
        reporter.say(line)
    reporter.say(f"Next: name {out} to the published code; vsodpipe eval scores its maps")
    if as_json:
        print_json(asdict(done))
