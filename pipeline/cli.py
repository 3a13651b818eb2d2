"""The command line: parse, call one function, print.

Heavy packages are imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from vsodpipe import (
    cli_at,
    cli_data,
    cli_datasets,
    cli_eval,
    cli_manifest,
    cli_models,
    cli_predict,
    cli_pseudo,
    cli_report,
    cli_serve,
    cli_store,
    cli_train,
)
from vsodpipe.cli_app import JsonOption, QuietOption, app, print_json
from vsodpipe.errors import VsodpipeError, unwritable
from vsodpipe.progress import Reporter, printable

__all__ = [
    "app",
    "cli_data",
    "cli_datasets",
    "cli_eval",
    "cli_manifest",
    "cli_models",
    "cli_predict",
    "cli_pseudo",
    "cli_report",
    "cli_serve",
    "cli_store",
    "cli_train",
    "main",
]


LONGEST = 5000
"""Characters of an error: a path has up to 4096."""

cli_at.add()


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
    from vsodpipe import tables

    reporter = Reporter(quiet)
    started = time.monotonic()
    result = tour.run(out, reporter)
    if as_json:
        print_json(vars(result))
        return
    title = "DEMO_test (made clips)"
    Console().print(tables.table(title, result.scores, tour.columns(), "method", best=True))
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
        code = unwritable("", error).exit_code
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}.", code)
    except Exception as error:
        if os.environ.get("VSODPIPE_DEBUG"):
            traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
        _fail(f"unexpected {reason} (VSODPIPE_DEBUG=1 shows where). Please report it.", 1)


def _fail(message: str, code: int) -> NoReturn:
    line = printable(" ".join(message.split()))
    if len(line) > LONGEST:  # a damaged file may be quoted
        line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
    print(f"error: {line}", file=sys.stderr)
    sys.exit(code)
