"""Commands that bring videos in and compute their flow."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vsodpipe import completion
from vsodpipe.cli_app import (
    DataOption,
    DeviceOption,
    ForceOption,
    JsonOption,
    QuietOption,
    app,
    print_json,
)
from vsodpipe.cli_engine import (
    MaxSideOption,
    PrecisionOption,
    PresetOption,
    UpdatesOption,
    WeightsOption,
    engine_settings,
)
from vsodpipe.errors import UsageError
from vsodpipe.progress import Reporter


@app.command("import", epilog="Example: vsodpipe import davis ~/Downloads/DAVIS")
def import_(
    name: Annotated[
        str,
        typer.Argument(
            help="Card of the data set, such as davis; with --own, a new name.",
            autocompletion=completion.of(completion.cards),
        ),
    ],
    source: Annotated[
        list[str],
        typer.Argument(help="The official download, a folder or archive; with --own, your videos."),
    ],
    own: Annotated[
        bool,
        typer.Option("--own", help="Videos of your own: folders of frames, video files, globs."),
    ] = False,
    masks: Annotated[
        Path | None,
        typer.Option(help="With --own: folder of the masks (default: GT or masks beside them)."),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(min=1, help="Take frames whose numbers are so far apart (default: the card)."),
    ] = None,
    data: DataOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Bring an official download, or your own videos, into the data root, checked, by links."""
    from vsodpipe import catalogue, importer, own_data

    reporter = Reporter(quiet)
    root = catalogue.data_root(data)
    if own:
        card = None
        made = own_data.import_own(
            name, source, root, reporter, masks=masks, force=force, stride=stride
        )
        done = [made]
    else:
        _check_official(name, source, masks)
        path = Path(source[0])
        done = importer.import_dataset(name, path, root, reporter, force=force, stride=stride)
        card = catalogue.cards(root)[name]
    for split in done:
        count = f"{split.videos} videos, {split.frames} frames"
        reporter.say(f"{split.folder}: {count if split.videos else f'{split.frames} pictures'}")
        for note in split.notes:
            reporter.say(f"  note: {note}")
    if card is not None:
        terms = f" ({card.terms})" if card.terms else ""
        cite = f"Please cite: {card.citation}" if card.citation else f"How to cite: {card.home}"
        reporter.say(f"{card.title}{terms}. {cite}.")
    step = "manifest" if card is not None and card.kind == "image" else "flow"
    reporter.say(f"Next: vsodpipe {step} {' '.join(split.dataset for split in done)}")
    if as_json:
        print_json({s.dataset: {"videos": s.videos, "frames": s.frames} for s in done})


def _check_official(name: str, source: list[str], masks: Path | None) -> None:
    if len(source) > 1:
        raise UsageError(
            f"import {name}: expected one folder or archive, got {len(source)}. Name the folder "
            "that holds them, or bring in videos of your own with --own."
        )
    if not source[0]:
        raise UsageError(f"import {name}: expected a folder or archive, got an empty name.")
    if masks is not None:
        raise UsageError("--masks: only for videos of your own. Add --own, or leave it out.")


@app.command(epilog="Example: vsodpipe flow DAVIS_train --engine dis")
def flow(
    names: Annotated[
        list[str],
        typer.Argument(
            help="Data sets, folders of frames, video files, quoted globs.",
            autocompletion=completion.of(completion.present),
        ),
    ],
    engine: Annotated[
        str,
        typer.Option(
            help="raft_large, raft_small (RAFT) or dis (OpenCV, no weights).",
            autocompletion=completion.of(completion.engines),
        ),
    ] = "raft_large",
    weights: WeightsOption = None,
    updates: UpdatesOption = None,
    preset: PresetOption = None,
    precision: PrecisionOption = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="RAFT pairs at once (default: what suits the device).")
    ] = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="RAFT: torch.compile, slow to start.")
    ] = False,
    memory: Annotated[
        float | None, typer.Option(help="RAFT working memory in GiB (default: what is free).")
    ] = None,
    max_side: MaxSideOption = None,
    direction: Annotated[
        str,
        typer.Option(
            help="forward (t to t+gap), backward (t to t-gap) or both.",
            autocompletion=completion.words("forward", "backward", "both"),
        ),
    ] = "forward",
    gap: Annotated[int, typer.Option(min=1, help="Frames from one of a pair to the other.")] = 1,
    tail: Annotated[
        str,
        typer.Option(
            help="Last frame's flow: backward (to the one before it), repeat, zero, none.",
            autocompletion=completion.words("backward", "repeat", "zero", "none"),
        ),
    ] = "backward",
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="jpg or png picture, flo, kitti, raw; may be repeated.",
            autocompletion=completion.words("jpg", "png", "flo", "kitti", "raw"),
        ),
    ] = None,
    colour: Annotated[
        str,
        typer.Option(
            help="Full colour: the largest motion of the frame or video, or radius:N px.",
            autocompletion=completion.words("frame", "video", "radius:"),
        ),
    ] = "frame",
    out: Annotated[
        Path | None, typer.Option(help="Write here instead of beside the frames.")
    ] = None,
    video: Annotated[
        list[str] | None, typer.Option(help="Only the video of this name; may be repeated.")
    ] = None,
    preview: Annotated[
        Path | None, typer.Option(help="Frames beside flow as .png or .jpg sheet, or .mp4.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say files, bytes, memory, time.")
    ] = False,
    cluster: Annotated[
        str | None, typer.Option(help="local:N processes, or tcp://... of a dask scheduler.")
    ] = None,
    device: DeviceOption = "auto",
    data: DataOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compute optical flow for every frame, as colour pictures with a record of how."""
    from vsodpipe import catalogue, flow_job, flow_plan, flows, sources
    from vsodpipe import cluster as clusters
    from vsodpipe import preview as previews

    reporter = Reporter(quiet)
    options = flow_job.Options(
        tail=tail,  # type: ignore[arg-type]
        colour=colour,
        formats=tuple(formats or ["jpg"]),
        direction=direction,
        gap=gap,
    )
    clusters.check(cluster)
    if preview is not None:
        previews.check(preview, options.formats)
    root = catalogue.data_root(data)
    dataset = sources.find(names, root)
    if out is not None:
        several = len(options.formats) * len(options.ways) > 1
        dataset = flow_job.elsewhere(dataset, out, several)
    if video:  # after --out, where a video's place does not depend on the others
        dataset = sources.only(dataset, video)
    chosen = {
        "weights": weights,
        "updates": updates,
        "preset": preset,
        "precision": precision,
        "batch": batch,
        "compile": compile_ or None,
        "memory": memory,
        "max_side": max_side,
    }
    given = {key: value for key, value in chosen.items() if value is not None}
    settings, remote = engine_settings(engine, given, device)
    made = flows.create(engine, **settings)
    if dry_run:
        plan = flow_plan.estimate(dataset, made, options, force=force)
        for line in flow_plan.lines(plan):
            reporter.say(line)
        if as_json:
            print_json({"dataset": dataset.name, **asdict(plan)})
        return
    spec = None if cluster is None else flow_job.Spec(engine, remote, *clusters.shares(cluster))
    summary = flow_job.compute(
        dataset, made, options, reporter, force=force, where=cluster, spec=spec
    )
    for line in flow_job.lines(summary):
        reporter.say(line)
    if preview is not None:
        shown = flow_job.pictures(dataset, made, options)
        previews.write(preview, shown)
        reporter.say(f"Preview: {preview}")
    if set(names) & set(catalogue.present(root)) and out is None:
        reporter.say("Next: vsodpipe manifest")
    if as_json:
        print_json({"dataset": dataset.name, **vars(summary)})
