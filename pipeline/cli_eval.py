"""The command that scores saliency maps."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from vsodpipe import completion
from vsodpipe.cli_app import (
    FramesOption,
    JsonOption,
    ProtocolOption,
    QuietOption,
    ResizeOption,
    ScorersOption,
    app,
    print_json,
)
from vsodpipe.errors import UsageError, unknown
from vsodpipe.progress import Reporter


@app.command("eval", epilog="Example: vsodpipe eval runs/RUN/maps --manifest manifests/davis.json")
def eval_(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="MAPS", help="Folders of maps: methods, data sets, or videos."),
    ],
    manifest: Annotated[
        list[str],
        typer.Option(help="Manifest written by `vsodpipe manifest`, repeatable."),
    ],
    protocol: ProtocolOption = None,
    frames: FramesOption = None,
    resize: ResizeOption = False,
    workers: ScorersOption = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="table, json, csv, markdown or latex.",
            autocompletion=completion.words("table", "json", "csv", "markdown", "latex"),
        ),
    ] = "table",
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="Column of the tables, repeatable, such as max_f (default: protocol).",
            autocompletion=completion.of(completion.metrics),
        ),
    ] = None,
    curves: Annotated[
        Path | None, typer.Option(help="Draw precision-recall and F curves: .png, .svg or .pdf.")
    ] = None,
    attributes: Annotated[
        Path | None, typer.Option(help="Official db_info.yml of DAVIS: scores by attribute.")
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Test the first method against the others, per video."),
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score saliency maps of one or more methods by a named protocol, per video and in total."""
    from rich.console import Console

    from vsodpipe import attributes as lists
    from vsodpipe import compare as comparing
    from vsodpipe import curves as drawing
    from vsodpipe import evaluate, inputs, maps, protocols, tables

    if form not in tables.FORMATS:
        raise unknown("value of --format:", form, tables.FORMATS)
    if as_json and form not in ("table", "json"):
        raise UsageError(f"--json and --format {form}: name one of the two.")
    if curves is not None:
        drawing.check(curves)
    chosen = [protocols.metric(name) for name in metric or []]
    options = evaluate.Options.named(protocol, frames, resize, workers)
    known = lists.read(attributes) if attributes else None
    reporter = Reporter(quiet)
    found = maps.find(folders, [inputs.open_manifest(place, reporter) for place in manifest])
    used = [options.of(folder) for folder in found]
    for column in chosen:
        if not any(one.defines(column) for one in used):
            names = ", ".join(dict.fromkeys(one.name for one in used))
            raise UsageError(f"--metric {column.key}: not defined by the protocol {names}.")
    since = time.time_ns()
    result = evaluate.evaluate(found, options, reporter)
    if known is not None:
        lists.add(result, known)
    if compare:
        result["comparison"] = comparing.compare(result, chosen)
    for file in evaluate.save(result, since):
        reporter.say(f"wrote {file}")
    if curves is not None:
        drawing.draw(result, curves)
        reporter.say(f"wrote {curves}")
    if as_json or form == "json":
        print_json(result)
    elif form == "csv":
        typer.echo(tables.as_csv(result), nl=False)
    elif form == "markdown":
        typer.echo(tables.as_markdown(result, chosen), nl=False)
    elif form == "latex":
        typer.echo(tables.as_latex(result, chosen), nl=False)
    else:
        made = tables.terminal(result, chosen)
        Console().print(*made, *(comparing.terminal(result["comparison"]) if compare else []))
        masks = [word for place in manifest for word in ("--manifest", place)]
        reporter.say(f"Next: vsodpipe report {shlex.join([*map(str, folders), *masks])}")
