"""What the shell completes: names of data sets, cards, networks, stages, engines, protocols...

    models: Annotated[str, typer.Argument(autocompletion=completion.of(completion.models))]

A Tab must answer at once and never speak up: nothing here imports torch, and whatever goes wrong
completes nothing.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path

import typer

Values = Callable[[typer.Context], Iterable[str]]

RECORDS = {
    "raft_large": (
        *("C_T_V1", "C_T_V2", "C_T_SKHT_V1", "C_T_SKHT_V2"),
        *("C_T_SKHT_K_V1", "C_T_SKHT_K_V2"),
    ),
    "raft_small": ("C_T_V1", "C_T_V2"),
}
"""torchvision's records of weights, by engine."""
LARGEST = 32 * 2**20
"""Bytes of a manifest that is read for its data sets."""


def of(values: Values) -> Callable[[typer.Context, str], list[str]]:
    """Return what typer calls at a Tab: the `values` that begin as the word does, or nothing."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            return [value for value in values(ctx) if value.startswith(incomplete)]
        except Exception:  # a message would end up in the line that is being typed
            return []

    return complete


def words(*values: str) -> Callable[[typer.Context, str], list[str]]:
    """Return what completes one of these words."""
    return of(lambda _: values)


def present(ctx: typer.Context) -> list[str]:
    """Return the folders of the data root (--data, if it stands before) that may be data sets."""
    folders = (entry.name for entry in os.scandir(_data_root(ctx)) if entry.is_dir())
    other = ("cards", "__pycache__")
    return sorted(n for n in folders if n[0] != "." and n not in other and n[-5:] != ".zarr")


def stores(ctx: typer.Context) -> list[str]:
    """Return the paths of the stores in the data root."""
    root = _data_root(ctx)
    return sorted(str(path) for suffix in ("zarr", "h5") for path in root.glob(f"*.{suffix}"))


def cards(ctx: typer.Context) -> list[str]:
    """Return the keys of the cards, built-in and private."""
    built_in = [entry.name for entry in resources.files("vsodpipe.cards").iterdir()]
    private = [path.name for path in _data_root(ctx).glob("cards/*.toml")]
    return sorted({name[:-5] for name in (*built_in, *private) if name.endswith(".toml")})


def known(ctx: typer.Context) -> list[str]:
    """Return cards and data sets."""
    here = present(ctx) if _data_root(ctx).is_dir() else []
    return [*cards(ctx), *here]


def of_manifest(ctx: typer.Context) -> list[str]:
    """Return the data sets of the manifest before the cursor, those of the data root without."""
    named = ctx.params.get("manifest")
    file = Path(named if isinstance(named, str) else "")
    if not (file.suffix == ".json" and file.is_file() and file.stat().st_size < LARGEST):
        return present(ctx)
    return [split["dataset"] for split in json.loads(file.read_bytes())["datasets"]]


def models(ctx: typer.Context) -> tuple[str, ...]:
    """Return the names of the networks."""
    from vsodpipe import models as networks

    return networks.names()


def trainable(ctx: typer.Context) -> tuple[str, ...]:
    """Return the networks, and the chain of two of them."""
    return (*models(ctx), "a2s-v2")


def stages(ctx: typer.Context) -> list[str]:
    """Return the stages of the network before the cursor."""
    known = trainable(ctx)
    # while an option waits for its value, the words before it are not taken apart yet
    given = (ctx.params.get("model"), *ctx.args)
    model = next(word for word in given if word in known)
    if model == "a2s-v2":
        return ["msra", "debug"]
    return stages_of(model)


def stages_of(model: str) -> list[str]:
    """Return the stages that the file of a network spells out; it is read, not imported.

    These are its `CHAIN`, every `name=` of a call, or the keys that one goes through, and `debug`.
    """
    text = resources.files("vsodpipe.models").joinpath(f"{model}.py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    literals: dict[str, ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            literals[node.targets[0].id] = node.value
    found: list[str] = list(ast.literal_eval(literals["CHAIN"]))
    for each in ast.walk(tree):
        match each:
            case ast.keyword(arg="name", value=ast.Constant(value=str(name))):
                found.append(name)
            # (replace(..., name=task, ...) for task, ... in TABLE.items())
            case ast.GeneratorExp(
                elt=ast.Call(keywords=keywords),
                generators=[ast.comprehension(iter=ast.Call(func=ast.Attribute(ast.Name(table))))],
            ) if any(keyword.arg == "name" for keyword in keywords):
                found += ast.literal_eval(literals[table])
    return list(dict.fromkeys([*found, "debug"]))


def engines(ctx: typer.Context) -> tuple[str, ...]:
    """Return the names of the flow engines."""
    from vsodpipe import flows

    return flows.names()


def records(ctx: typer.Context) -> tuple[str, ...]:
    """Return torchvision's weights of the engine before the cursor."""
    return RECORDS.get(ctx.params.get("engine") or "raft_large", ())


def protocols(ctx: typer.Context) -> list[str]:
    """Return the names of the protocols."""
    from vsodpipe.protocols import PROTOCOLS

    return list(PROTOCOLS)


def metrics(ctx: typer.Context) -> list[str]:
    """Return the names of the numbers that tables can show."""
    from vsodpipe.protocols import METRICS

    return list(METRICS)


def layouts(ctx: typer.Context) -> list[str]:
    """Return the published layouts."""
    from vsodpipe.layout_table import LAYOUTS

    return list(LAYOUTS)


def _data_root(ctx: typer.Context) -> Path:
    given = ctx.params.get("data")
    return Path(given or os.environ.get("VSODPIPE_DATA") or "datasets")
