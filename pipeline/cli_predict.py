"""The command that shows what trained networks see in a video."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from vsodpipe.catalogue import Dataset
    from vsodpipe.flows import Engine
    from vsodpipe.video_columns import Column


@app.command(epilog="Example: vsodpipe predict holiday.mp4 --checkpoint runs/RUN")
def predict(
    names: Annotated[
        list[str], typer.Argument(help="Video files, folders of frames or of videos, quoted globs.")
    ],
    checkpoint: Annotated[
        list[str],
        typer.Option(
            help="Run folder or checkpoint; repeat it to compare several, NAME=PATH names one."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write into this folder instead of beside the videos.")
    ] = None,
    no_overlay: Annotated[
        bool, typer.Option("--no-overlay", help="Maps alone, without the video side by side.")
    ] = False,
    audio: Annotated[
        bool, typer.Option("--audio", help="Copy the sound of the video into the overlay.")
    ] = False,
    fps: Annotated[
        float | None,
        typer.Option(min=0.1, max=240, help="Frames a second of folders of frames (default: 24)."),
    ] = None,
    keep_flow: Annotated[
        bool, typer.Option("--keep-flow", help="Keep the flow, as vsodpipe flow writes it.")
    ] = False,
    crf: Annotated[
        str | None, typer.Option(help="Refine the maps with a dense CRF: dss or a2s.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="Flow engine (default: that of the training if known, or raft_large).",
            autocompletion=completion.of(completion.engines),
        ),
    ] = None,
    weights: WeightsOption = None,
    updates: UpdatesOption = None,
    preset: PresetOption = None,
    precision: PrecisionOption = None,
    max_side: MaxSideOption = None,
    colour: Annotated[
        str | None,
        typer.Option(help="Flow colours: frame, video or radius:N (default: as in training)."),
    ] = None,
    tail: Annotated[
        str | None,
        typer.Option(help="Last frame's flow: backward, repeat, zero (default: as in training)."),
    ] = None,
    batch: Annotated[
        int, typer.Option(min=0, help="Clips or frames at once; 0: 8 frames on CUDA, else 1 clip.")
    ] = 0,
    device: DeviceOption = "auto",
    data: DataOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write saliency maps of videos, and a video of frame, flow and maps side by side."""
    from vsodpipe import catalogue, devices, film_file, flow_job, sources, video_columns, video_maps
    from vsodpipe import crf as refinement

    reporter = Reporter(quiet)
    if not no_overlay:
        film_file.codec()
    elif audio:
        raise UsageError("--audio: goes into the overlay. Leave out --no-overlay.")
    if crf is not None:
        refinement.find(crf)
    where = devices.resolve(device)
    dataset = sources.find(names, catalogue.data_root(data))
    if fps is not None and all(video.file is not None for video in dataset.videos):
        raise UsageError("--fps: is for folders of frames; video files say it themselves.")
    columns = video_columns.columns(
        checkpoint, where, reporter, batch=batch, crf=crf, colour=colour, tail=tail
    )
    if keep_flow and out is not None:
        dataset = _flow_in(dataset, out)
    labels = [column.label for column in columns]
    places = video_maps.places(dataset.videos, labels, out, not no_overlay)
    chosen = {
        "weights": weights,
        "updates": updates,
        "preset": preset,
        "precision": precision,
        "max_side": max_side,
    }
    given = {key: value for key, value in chosen.items() if value is not None}
    made = _engine(columns, engine, given, device)
    looks = list({column.look for column in columns if column.look is not None})
    if made is not None:
        made.say = reporter.say
        video_columns.warn_of_flow(columns, dataset.videos[0], made, reporter)
    settings = video_maps.Settings(audio=audio, fps=fps, force=force)
    if keep_flow:
        if made is None or len(looks) != 1:
            what = "no network here takes flow" if not looks else "the networks differ in colours"
            raise UsageError(f"--keep-flow: {what}. Leave it out, or name one --colour.")
        video_maps.survey(places, columns, made, settings)  # what it refuses, before hours of flow
        kept = flow_job.compute(dataset, made, looks[0], reporter, force=force)
        reporter.say(f"flow: {kept.folders[0]}")
    results = video_maps.predict(places, columns, made, settings, reporter)
    for result in results:
        before = "" if result.computed else " (done before)"
        for folder in result.place.folders:
            reporter.say(f"maps: {folder}, {result.frames} frames{before}")
        if result.place.overlay is not None:
            reporter.say(f"overlay: {result.place.overlay}")
    if no_overlay:
        reporter.say("Next: the same without --no-overlay makes a video to look at")
    else:
        reporter.say(f"Next: play {results[0].place.overlay}")
    if as_json:
        print_json({"videos": [video_maps.as_dict(result, labels) for result in results]})


def _flow_in(dataset: Dataset, out: Path) -> Dataset:
    """Return `dataset` with its flow in folder `out`, named as it would be beside the videos."""
    videos = (
        replace(v, flow_base=out / f"{v.name}_FLOW", flow_inner="", flow_is_here=False)
        for v in dataset.videos
    )
    return replace(dataset, videos=tuple(videos))


def _engine(
    columns: list[Column], name: str | None, chosen: dict[str, Any], device: str
) -> Engine | None:
    """Return the flow engine that the networks need, None where they take frames alone."""
    from vsodpipe import flow_like, flows

    shown = [column.saved for column in columns if column.look is not None]
    if not shown:
        if name is not None or chosen:
            raise UsageError("no network here takes flow. Leave out the options of flow.")
        return None
    engine, options = flow_like.engine(shown, name, chosen)
    # the network may run on CUDA where the engine cannot
    known = "device" in flows.options(engine)
    settings, _ = engine_settings(engine, options, device if known else "cpu")
    if "memory" in flows.options(engine):
        from vsodpipe.flows.raft_memory import GIB, budget

        # the network that works beside it takes its share
        settings["memory"] = budget(settings["device"], None) / GIB / 2
    return flows.create(engine, **settings)
