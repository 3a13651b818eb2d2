"""Frozen dataclasses as nested values and TOML, both ways; `key=value` assignments.

Unknown keys and values of another type are refused, with the nearest name. Nothing here knows what
the keys mean: those are the fields of `recipe.Stage` and of a network's Options.
"""

from __future__ import annotations

import ast
import inspect
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

from vsodpipe.errors import UsageError, unknown

R = TypeVar("R")


def to_dict(recipe: Any) -> dict[str, Any]:
    """Return `recipe` as nested dictionaries, lists and numbers, ready for TOML or JSON."""

    def plain(value: Any) -> Any:
        if is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return list(value) if isinstance(value, tuple) else value

    result: dict[str, Any] = plain(recipe)
    return result


def from_dict(kind: type[R], values: Mapping[str, Any], where: str = "") -> R:
    """Build dataclass `kind` from nested dictionaries, as `to_dict` wrote them.

    Raises UsageError for an unknown key (with the nearest one) and for a value of another type.
    """
    hints = typing.get_type_hints(kind)
    known = {f.name: hints[f.name] for f in fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise unknown("recipe key", where + key, (where + k for k in known))
    for each in fields(kind):  # type: ignore[arg-type]
        required = each.default is MISSING and each.default_factory is MISSING
        if required and each.name not in values:
            raise UsageError(f"recipe key {where}{each.name} is missing.")
    return kind(**{k: _convert(known[k], v, where + k) for k, v in values.items()})


def update(recipe: R, values: Mapping[str, Any], where: str = "") -> R:
    """Return `recipe` with the nested `values` of a TOML file; what they leave out stays.

    Raises UsageError for an unknown key (with the nearest one) and for a value of another type.
    """
    hints = typing.get_type_hints(type(recipe))
    changed = {}
    for key, value in values.items():
        if key not in hints:
            raise unknown("recipe key", where + key, (where + k for k in hints))
        current = getattr(recipe, key)
        if is_dataclass(current) and isinstance(value, Mapping):
            changed[key] = update(current, value, f"{where}{key}.")
        else:
            changed[key] = _convert(hints[key], value, where + key)
    return replace(recipe, **changed)  # type: ignore[type-var]


def override(recipe: R, assignments: Iterable[str]) -> R:
    """Return `recipe` with `key.sub=value` applied; values are TOML (`[384, 640]`) or a bare word.

    Raises UsageError for an unknown key (with the nearest one) and for a value of another type.
    """
    for text in assignments:
        key, sep, raw = text.partition("=")
        if not sep:
            raise UsageError(f"--set {text!r}: expected key=value, for example optim.lr=1e-4.")
        recipe = _assign(recipe, key.strip().split("."), _parse(raw.strip()), key.strip())
    return recipe


def to_toml(recipe: Any, *, explain: bool = False) -> str:
    """Return `recipe` as TOML text; `tomllib` and `from_dict` read it back to an equal recipe.

    `recipe` is a dataclass or a dictionary of some. `explain` puts what a key means above it.
    """
    return "\n".join(_toml_lines(recipe, "", explain)).strip() + "\n"


def _toml_lines(table: Any, prefix: str, explain: bool) -> list[str]:
    notes = field_notes(type(table)) if explain and is_dataclass(table) else {}
    if is_dataclass(table):
        table = {each.name: getattr(table, each.name) for each in fields(table)}
    lines, groups = [], []
    for key, value in table.items():
        note = [f"# {notes[key]}"] if key in notes else []
        if is_dataclass(value) or isinstance(value, dict):
            name = f"{prefix}{_toml_key(key)}"
            groups += ["", *note, f"[{name}]", *_toml_lines(value, f"{name}.", explain)]
        else:
            lines += [*note, f"{_toml_key(key)} = {_toml_value(value)}"]
    return lines + groups


def field_notes(kind: type) -> dict[str, str]:
    """Return the text below each field of a dataclass; it is written there and nowhere else."""
    parent = kind.__mro__[1]
    notes = {} if parent is object else field_notes(parent)
    body = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(body, ast.ClassDef)
    for before, node in zip(body.body, body.body[1:], strict=False):
        text = node.value if isinstance(node, ast.Expr) else None
        if isinstance(before, ast.AnnAssign) and isinstance(text, ast.Constant):
            assert isinstance(before.target, ast.Name)
            notes[before.target.id] = " ".join(str(text.value).split())
    return notes


def _toml_key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() else _toml_value(key)


def _toml_value(value: Any) -> str:
    if value is None:
        return '"none"'  # TOML has no null; _convert reads it back
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    return repr(value)


def _parse(raw: str) -> Any:
    try:
        return tomllib.loads(f"x = {raw}")["x"]
    except (ValueError, RecursionError):
        return raw  # a bare word is a string; _convert refuses it where a number is expected


def _assign(recipe: Any, path: list[str], value: Any, key: str) -> Any:
    head, *rest = path
    known = typing.get_type_hints(type(recipe))
    names = [f.name for f in fields(recipe)]
    prefix = key[: len(key) - len(".".join(path))]
    if head not in names:
        raise unknown("recipe key", key, (prefix + n for n in names))
    current = getattr(recipe, head)
    inside = typing.get_args(known[head])[-1:]
    if len(rest) > 1 and isinstance(current, dict) and is_dataclass(inside[0]):
        *names, last = rest  # the name of a module holds dots itself
        old = current.get(".".join(names)) or typing.cast(type, inside[0])()
        value, rest = {**current, ".".join(names): _assign(old, [last], value, key)}, []
        return replace(recipe, **{head: value})
    if rest and isinstance(current, dict):
        name = ".".join(rest)
        value, rest, key = {**current, name: value}, [], key.removesuffix(f".{name}")
    if rest and is_dataclass(current):
        return replace(recipe, **{head: _assign(current, rest, value, key)})
    if rest:
        raise unknown("recipe key", key, [prefix + head])
    if is_dataclass(current):
        inner = (f"{key}.{f.name}" for f in fields(current))
        raise UsageError(f"recipe key {key} is a group. Its keys: {', '.join(inner)}.")
    return replace(recipe, **{head: _convert(known[head], value, key)})


def _convert(kind: Any, value: Any, key: str) -> Any:
    """Return `value` as `kind` or raise UsageError; integers pass as floats, lists as tuples."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if is_dataclass(kind) and isinstance(value, Mapping):
        return from_dict(typing.cast(type, kind), value, f"{key}.")
    if is_dataclass(kind) and isinstance(value, typing.cast(type, kind)):
        return value
    if origin is Literal:
        if value in args:
            return value
        raise unknown(f"value of recipe key {key}:", str(value), map(str, args))
    if origin is types.UnionType and type(None) in args and value in (None, "none"):
        return None
    if origin is types.UnionType:
        return _convert(next(a for a in args if a is not type(None)), value, key)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) == len(value):
            return tuple(_convert(k, v, key) for k, v in zip(kinds, value, strict=True))
    if origin is dict and isinstance(value, Mapping):
        return {str(k): _convert(args[1], v, f"{key}.{k}") for k, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is bool or not isinstance(value, bool):  # True is an int to Python, not to a user
        if isinstance(kind, type) and isinstance(value, kind):
            return value
    name = getattr(kind, "__name__", None) if origin is None else str(kind)
    raise UsageError(f"recipe key {key}: expected {name}, got {value!r}.")
