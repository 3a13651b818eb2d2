"""The application that the commands are registered with, and the options that they share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vsodpipe import __version__, completion
from vsodpipe.progress import printable

ORDER = (
    *("datasets", "import", "flow", "manifest", "export", "pack", "store", "unpack"),
    *("recipe", "train", "pseudo", "test", "predict", "eval", "report", "serve", "weights"),
    *("doctor", "demo"),
)
"""Commands in the way of the data, as --help lists them; one that is not here comes last."""


class _Commands(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


app = typer.Typer(
    name="vsodpipe",
    cls=_Commands,
    help="From raw videos to scores: flow, manifests, stores, training, saliency maps, evaluation.",
    epilog="First time here? Run: vsodpipe demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="Data root (default: $VSODPIPE_DATA or ./datasets)."),
]
ManifestOption = Annotated[
    str, typer.Option("--manifest", help="Manifest: .json here or at a URL, .txt rows, a folder.")
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        help="auto, cpu, cuda or cuda:1.",
        autocompletion=completion.words("auto", "cpu", "cuda"),
    ),
]
ProtocolOption = Annotated[
    str | None,
    typer.Option(
        help="davis16, davsod, pysod, a2s, fbms, ytobj or tmo (default: the card's).",
        autocompletion=completion.of(completion.protocols),
    ),
]
FramesOption = Annotated[
    str | None,
    typer.Option(
        help="trim, all or non-empty masks, instead of the protocol's rule.",
        autocompletion=completion.words("trim", "all", "non-empty"),
    ),
]
ResizeOption = Annotated[
    bool, typer.Option("--resize", help="Bring maps of another size to that of their masks.")
]
ScorersOption = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes that score (default: one a core)."),
]
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


def show(text: str) -> None:
    """Print the result of a command for people, on stdout, with foreign names in it."""
    typer.echo(printable(text))


def print_json(value: dict[str, Any]) -> None:
    """Print the result of a command for a script, on stdout."""
    typer.echo(json.dumps(value, indent=1, default=str))
