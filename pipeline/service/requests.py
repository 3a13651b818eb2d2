"""The typed request of each kind, made from the signature of its command: nothing is said twice.

A request becomes the words of the command line, so that the child process is the same command that
a user types.
"""

from __future__ import annotations

import inspect
import json
import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from vsodpipe.cli_app import app
from vsodpipe.errors import UsageError, unknown
from vsodpipe.service import confine
from vsodpipe.service.kinds import KINDS, json_name
from vsodpipe.service.settings import Settings

_MANY = 1000
"""The most values of one option."""
_READ = 16 * 2**20
"""The most bytes of a manifest that are read for the names of its data sets."""


@dataclass(frozen=True)
class Option:
    """A parameter of a command: its name in Python, flag (None for an argument), pydantic field."""

    name: str
    flag: str | None
    field: tuple[Any, Any]


@dataclass(frozen=True)
class Request:
    """A checked request: what it asks for, the words of its command, what it works on."""

    kind: str
    arguments: dict[str, Any]
    words: tuple[str, ...]
    """Of the child process, after `vsodpipe`."""
    command: str
    """The same as a user would type it."""
    locks: dict[str, bool]
    """What it works on -> whether it must have it alone."""

    @property
    def digest(self) -> str:
        """Two requests for the same work have the same one."""
        return json.dumps([self.kind, self.arguments], sort_keys=True)


def check(kind: str, arguments: dict[str, Any], settings: Settings) -> Request:
    """Return the request for `kind` with these `arguments`.

    Raises UsageError for an unknown kind, an argument that is wrong or not possible from afar, and
    a path outside the folders that the server opens.
    """
    if kind not in KINDS:
        raise unknown("kind of job", kind, KINDS)
    rules = KINDS[kind].options
    for name in arguments:
        if name in KINDS[kind].here:
            raise UsageError(f"{kind}: {_flag(name)} is not possible from afar.")
        if name not in rules:
            raise unknown(f"argument of {kind}", str(name), rules)
    try:
        checked = model(kind).model_validate(arguments)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{kind}: {place}: {first['msg'].lower()}.") from None
    given = checked.model_dump(by_alias=True, exclude_unset=True, exclude_none=True)
    made = {name: confined(kind, name, value, settings) for name, value in given.items()}
    return Request(
        kind,
        given,
        tuple(_words(kind, made)),
        shlex.join(["vsodpipe", kind, *_typed(kind, given)]),
        _locks(kind, made, settings.data),
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def confined(kind: str, name: str, value: Any, settings: Settings) -> Any:
    """Return the value of an option as the command is to get it. Raises UsageError."""
    if isinstance(value, list):
        return [confined(kind, name, each, settings) for each in value]
    if not isinstance(value, str):
        return value
    try:
        return confine.value(value, KINDS[kind].options[name], settings)
    except UsageError as error:
        raise UsageError(f"{kind}: {name}: {error}") from None


@cache
def options(kind: str) -> dict[str, Option]:
    """Return every parameter of the command, by its name in JSON."""
    command = _commands()[kind]
    function = inspect.unwrap(command.callback)
    hints = get_type_hints(function, include_extras=True)
    signature = inspect.signature(function).parameters
    found = {}
    for parameter in command.params:
        if parameter.name not in signature:  # --help, --at
            continue
        base, info = get_args(hints[parameter.name])
        said = json_name(parameter)
        flag = _flag(said) if parameter.param_type_name == "option" else None
        default = signature[parameter.name].default
        limits = {"alias": said, "ge": info.min, "le": info.max, "description": info.help}
        if _of(base) is list:
            limits |= {"max_length": _MANY, "min_length": 1}
        given = {key: value for key, value in limits.items() if value is not None}
        field = Field(... if default is inspect.Parameter.empty else default, **given)
        found[said] = Option(parameter.name, flag, (_plain(base), field))
    return found


@cache
def _commands() -> dict[str, Any]:
    group = typer.main.get_command(app)
    commands: dict[str, Any] = group.commands  # type: ignore[attr-defined]
    return commands


def _of(base: Any) -> Any:
    """Return list for `list[X]` and `list[X] | None`, else None."""
    parts = [part for part in get_args(base) or (base,) if part is not type(None)]
    return list if list in (get_origin(base), get_origin(parts[0])) else None


def _plain(base: Any) -> Any:
    """Return the type as JSON has it: a path is a string."""
    text = {Path: str, Path | None: str | None, list[Path]: list[str]}
    return text.get(base, list[str] | None if base == list[Path] | None else base)


@cache
def model(kind: str) -> type[BaseModel]:
    """Return the pydantic model of what `kind` takes from afar."""
    allowed = KINDS[kind].options
    found = options(kind).items()
    fields: dict[str, Any] = {option.name: option.field for n, option in found if n in allowed}
    config = ConfigDict(extra="forbid", strict=True)
    made: type[BaseModel] = create_model(
        f"{kind.capitalize()}Arguments", __config__=config, **fields
    )
    return made


def _words(kind: str, values: dict[str, Any]) -> list[str]:
    """Return the words of the child: `--name=value`, and arguments after `--`."""
    words, rest = [kind], []
    for name, option in options(kind).items():
        value = values.get(name)
        many = value if isinstance(value, list) else [value]
        if value is None or value is False:
            continue
        if option.flag is None:
            rest += [str(each) for each in many]
        elif value is True:
            words.append(option.flag)
        else:
            words += [f"{option.flag}={each}" for each in many]
    return [*words, "--", *rest]


def for_child(request: Request, own: dict[str, Any]) -> tuple[str, ...]:
    """Return the words of the child with what the server decides: places, workers."""
    flags = options(request.kind)
    said = [
        str(flags[name].flag) if value is True else f"{flags[name].flag}={value}"
        for name, value in own.items()
    ]
    return (request.words[0], *said, *request.words[1:])


def _typed(kind: str, values: dict[str, Any]) -> list[str]:
    words = []
    for name, option in options(kind).items():
        value = values.get(name)
        many = value if isinstance(value, list) else [value]
        for each in [] if value in (None, False) else many:
            flag = [] if option.flag is None else [option.flag]
            words += flag if each is True else [*flag, str(each)]
    return words


def _locks(kind: str, values: dict[str, Any], data: Path) -> dict[str, bool]:
    """Return what the job works on: groups of data sets, and devices."""
    locks: dict[str, bool] = {}
    for option, alone in ((KINDS[kind].writes, True), (KINDS[kind].reads, False)):
        if option is None:
            continue
        named = values.get(option) or ["*"]
        for each in [named] if isinstance(named, str) else named:
            locks |= dict.fromkeys(_groups(each, data), alone)
    if kind == "manifest" and "name" in values:
        locks[_group(values["name"])] = True
    # flow of DIS alone needs none
    if "device" in options(kind) and (kind != "flow" or values.get("engine") != "dis"):
        locks |= {f"device {name}": True for name in _devices(values.get("device", "auto"))}
    return locks


def _groups(name: str, data: Path) -> set[str]:
    """Return the groups of what a job names: a data set, a path or glob inside it, a manifest."""
    if name.endswith(".json"):
        return {_group(Path(name).stem), *_held(Path(name))}
    inside = Path(name).relative_to(data).parts[:1] if name.startswith("/") else (name,)
    # without a part it is the data root itself
    return {"*"} if set("*?[") & set("".join(inside) or "*") else {_group(inside[0])}


def _held(manifest: Path) -> set[str]:
    """Return the groups of the data sets in a manifest; `*` stands for all of a huge one."""
    try:
        if manifest.stat().st_size > _READ:
            return {"*"}
        return {_group(split["dataset"]) for split in json.loads(manifest.read_bytes())["datasets"]}
    except (OSError, ValueError, KeyError, TypeError):  # not made yet, or for the command to say
        return set()


def _group(dataset: str) -> str:
    """Return davis for DAVIS_train, as manifests are named."""
    return re.sub("_(train|val|test)$", "", dataset).lower()


def _devices(names: str) -> list[str]:
    gpu = Path("/dev/nvidia0").exists()
    known = {"auto": "cuda:0" if gpu else "cpu", "cuda": "cuda:0"}
    return [known.get(name.strip(), name.strip()) for name in names.split(",")]
