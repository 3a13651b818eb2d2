"""Commands for looking: a page about runs and maps, and what this machine can do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vsodpipe.cli_app import (
    DataOption,
    FramesOption,
    JsonOption,
    ProtocolOption,
    QuietOption,
    ResizeOption,
    ScorersOption,
    app,
    print_json,
)
from vsodpipe.progress import Reporter, printable


@app.command(epilog="Example: vsodpipe report runs/RUN --manifest manifests/davis.json")
def report(
    places: Annotated[
        list[Path],
        typer.Argument(metavar="RUN|MAPS", help="Run folders, and folders of maps as of eval."),
    ],
    manifest: Annotated[
        list[str] | None,
        typer.Option(help="Manifest with the masks, repeatable (default: that of the run)."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    protocol: ProtocolOption = None,
    frames: FramesOption = None,
    resize: ResizeOption = False,
    workers: ScorersOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write one page that works from disk: scores, curves, frames, training, how to reproduce."""
    from vsodpipe import evaluate
    from vsodpipe import report as pages

    pages.check(out)
    options = evaluate.Options.named(protocol, frames, resize, workers)
    words = ["--protocol", protocol] if protocol else []
    words += ["--frames", frames] if frames else []
    words += ["--resize"] if resize else []
    reporter = Reporter(quiet)
    page = pages.make(places, manifest or [], options, words, reporter)
    size = pages.write(page, out)
    for note in page.data["notes"]:
        reporter.say(f"note: {note}")
    reporter.say(f"wrote {out} ({size / 1e6:.1f} MB). Open it in a browser.")
    if as_json:
        print_json({"page": str(out), "bytes": size, **page.summary})


@app.command(epilog="Example: vsodpipe doctor --json")
def doctor(data: DataOption = None, as_json: JsonOption = False) -> None:
    """Say what this machine can do: versions, devices, codecs, disk, what is missing for what."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from vsodpipe import doctor as examination

    found = examination.examine(data)
    if as_json:
        return print_json({"findings": [asdict(finding) for finding in found]})
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for group in dict.fromkeys(finding.group for finding in found):
        table.add_row(f"[bold]{group}[/]")
        for finding in (finding for finding in found if finding.group == group):
            mark = "[green]ok[/]" if finding.fine else "[yellow]--[/]"
            remedy = f"\n{escape(printable(finding.remedy))}" if finding.remedy else ""
            text = escape(printable(finding.found)) + remedy
            table.add_row(f"  {mark} {escape(finding.name)}", text)
    Console().print(table)
