"""`--at`: commands that run as jobs of a `vsodpipe serve` elsewhere, whatever the command."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

from vsodpipe.cli_app import app
from vsodpipe.service.kinds import KINDS, json_name

AtOption = Annotated[
    str | None,
    typer.Option(
        "--at",
        envvar="VSODPIPE_AT",
        show_envvar=False,
        help="Run on the vsodpipe serve at http://HOST:PORT (default: $VSODPIPE_AT, else here).",
    ),
]


def add() -> None:
    """Give `--at` to every registered command that may run as a job."""
    for command in app.registered_commands:
        function = command.callback
        if function is not None and (command.name or function.__name__) in KINDS:
            command.callback = _here_or_there(function)


def _here_or_there(function: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(function)
    def called(ctx: typer.Context, at: str | None, **values: Any) -> None:
        if not at:
            return function(**values)
        from vsodpipe import remote
        from vsodpipe.service import client

        kind = str(ctx.info_name)
        given = _given(ctx, values)
        quiet, as_json = given.pop("quiet", False), given.get("json", False)
        if not KINDS[kind].prints:  # a job always has its result as JSON
            given.pop("json", None)
        client.run(kind, given, at, remote.token(), quiet=quiet, show=as_json or KINDS[kind].prints)

    hints = get_type_hints(function, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = inspect.signature(function).parameters.values()
    own = [one.replace(annotation=hints[one.name], kind=kind) for one in parameters]
    more = [
        inspect.Parameter("at", kind, default=None, annotation=AtOption),
        inspect.Parameter("ctx", kind, annotation=typer.Context),
    ]
    called.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]
    called.__annotations__ = {**hints, "at": AtOption, "ctx": typer.Context}
    return called


def _given(ctx: typer.Context, values: dict[str, Any]) -> dict[str, Any]:
    """Return what the user wrote on the command line, by its names in JSON."""
    found = {}
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if parameter.name in values and source is not None and source.name == "COMMANDLINE":
            value = values[parameter.name]
            many = isinstance(value, (list, tuple))
            found[json_name(parameter)] = [_plain(v) for v in value] if many else _plain(value)
    return found


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str)) else str(value)
