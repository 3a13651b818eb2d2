"""The command that tells which data sets are known, and which of them are there."""

from __future__ import annotations

from typing import Annotated

import typer

from vsodpipe.cli_app import DataOption, JsonOption, QuietOption, app, print_json
from vsodpipe.progress import Reporter


@app.command(epilog="Example: vsodpipe datasets davsod")
def datasets(
    name: Annotated[
        str | None, typer.Argument(help="Card of a data set (default: a table of all).")
    ] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Tell what is known, present, missing or incomplete; of one data set, how to get it."""
    from rich.console import Console
    from rich.table import Table

    from vsodpipe import card as known
    from vsodpipe import catalogue, inventory
    from vsodpipe.errors import unknown

    root = catalogue.data_root(data)
    cards = known.cards()
    if name is not None and name not in cards:
        owner = known.card_of(name)
        if owner is None:
            raise unknown("data set card", name, cards)
        name = owner[0].key
    if as_json:
        states = {s.dataset: vars(s) for s in inventory.states(root, name)}
        about = {"card": known.facts(cards[name])} if name else {}
        print_json({"root": str(root), **about, "datasets": states})
        return
    if name is not None:
        typer.echo(inventory.describe(cards[name], root))
        return
    table = Table("data set", "card", "state", "videos", "frames", "masks", title=f"{root}")
    table.columns[0].no_wrap = True
    for state in inventory.states(root):
        counts = (
            _of(state.videos, state.expected_videos),
            _of(state.frames, state.expected_frames),
            str(state.masks or ""),
        )
        table.add_row(state.dataset, state.card or "-", state.state, *counts)
    Console().print(table)
    Reporter(quiet).say("How to get one: vsodpipe datasets CARD")


def _of(found: int, expected: int | None) -> str:
    return f"{found}/{expected}" if expected is not None else str(found or "")
