"""The command that tells which data sets are known, and which of them are there."""

from __future__ import annotations

from typing import Annotated

import typer

from vsodpipe import completion
from vsodpipe.cli_app import DataOption, JsonOption, QuietOption, app, print_json, show
from vsodpipe.progress import Reporter, printable


@app.command(epilog="Example: vsodpipe datasets davsod")
def datasets(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Card or data set (default: a table of all).",
            autocompletion=completion.of(completion.known),
        ),
    ] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Tell what is known, present, missing or incomplete; of one data set, how to get it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from vsodpipe import card as known
    from vsodpipe import catalogue, inventory
    from vsodpipe.errors import unknown

    root = catalogue.data_root(data)
    cards = known.cards(root)
    if name is not None and name not in cards:
        owner = known.card_of(name, root)
        here = catalogue.present(root)
        if owner is None and name not in here:
            raise unknown("data set", name, {*cards, *here})
        name = owner[0].key if owner is not None else name
    if as_json:
        states = {s.dataset: vars(s) for s in inventory.states(root, name)}
        about = {"card": known.facts(cards[name])} if name in cards else {}
        print_json({"root": str(root), **about, "datasets": states})
        return
    if name is not None:
        if name in cards:
            show(inventory.describe(cards[name], root))
        else:
            show(inventory.describe_own(name, root))
        return
    table = Table("data set", "card", "state", "videos", "frames", "masks", title=escape(f"{root}"))
    table.columns[0].no_wrap = True
    for state in inventory.states(root):
        counts = (
            _of(state.videos, state.expected_videos),
            _of(state.frames, state.expected_frames),
            str(state.masks or ""),
        )
        names = (escape(printable(text)) for text in (state.dataset, state.card or "-"))
        table.add_row(*names, state.state, *counts)
    Console().print(table)
    reporter = Reporter(quiet)
    for card in cards.values():
        if card.shadows:
            reporter.say(f"note: card {card.key} is {card.file}, in place of the built-in one")
    reporter.say("How to get one: vsodpipe datasets CARD")


def _of(found: int, expected: int | None) -> str:
    return f"{found}/{expected}" if expected is not None else str(found or "")
