"""Which stages a training runs: the model's chain, those named, or those of a recipe file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vsodpipe import media, models, recipe
from vsodpipe.errors import DataError, UsageError, unknown
from vsodpipe.recipe import Stage


def choose(
    model: str,
    names: list[str],
    assignments: list[str],
    backbone_weights: str | None,
    file: Path | None = None,
) -> tuple[Stage, ...]:
    """Return the stages to run, with `--set` applied to each.

    Without names they are the model's chain, or all stages of the recipe `file`. `backbone_weights`
    replaces the initial weights of the first one, and of those that begin anew. Raises UsageError
    for an unknown stage, key or part of the loss, and DataError for a file that is no recipe.
    """
    known = models.stages(model)
    if file is not None:
        known = _read(file, model, known)
    for name in names:
        if name not in known:
            raise unknown(f"stage of {file or model}", name, known)
    default = list(known) if file is not None else models.load(model).CHAIN
    stages = [recipe.override(known[name], assignments) for name in names or default]
    check_losses(model, stages)
    _check_datasets(stages, [*models.stages(model).values(), *known.values(), *stages])
    if backbone_weights is not None:
        weights = None if backbone_weights == "none" else backbone_weights
        for number, stage in enumerate(stages):
            if number == 0 or stage.fresh:
                network = replace(stage.network, backbone_weights=weights)
                stages[number] = replace(stage, network=network)
    return tuple(stages)


def check_losses(model: str, stages: Sequence[Stage]) -> None:
    """Raise UsageError where a factor is that of no part of the model's loss."""
    known = models.load(model).LOSSES
    for name in {name for stage in stages for name in stage.loss_weights} - set(known):
        raise unknown("recipe key", f"loss_weights.{name}", (f"loss_weights.{k}" for k in known))


def _check_datasets(stages: Sequence[Stage], known: Sequence[Stage]) -> None:
    """Raise UsageError where a key is about a data set that no stage of the model has.

    Those of other stages may stay: `--set` changes all that run, and `data.datasets` with them.
    """
    datasets = {name for stage in known for name in stage.data.datasets}
    for data in (stage.data for stage in stages):
        for key in ("frame_steps", "anchor_stride"):
            for name in getattr(data, key).keys() - datasets:
                raise unknown(
                    "recipe key", f"data.{key}.{name}", (f"data.{key}.{n}" for n in datasets)
                )


def _read(file: Path, model: str, published: Mapping[str, Stage]) -> dict[str, Stage]:
    """Return the stages of a TOML file: one table a stage.

    A table named like a stage of the model says what is different from it; any other one is whole.
    """
    try:
        tables = tomllib.loads(media.read_bytes(file).decode())
    except (ValueError, RecursionError) as error:  # also an int of 5000 digits
        raise DataError(f"{file}: no TOML file: {error}.") from error
    if not tables or not all(isinstance(table, dict) for table in tables.values()):
        raise DataError(
            f"{file}: expected one table a stage, such as [finetune]. "
            f"Print one: vsodpipe recipe {model}."
        )
    try:
        return {name: _stage(model, name, table, published) for name, table in tables.items()}
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error


def _stage(model: str, name: str, table: dict[str, Any], published: Mapping[str, Stage]) -> Stage:
    values = {**table, "name": name}
    if name in published:
        return recipe.update(published[name], values)
    return recipe.stage_from_dict({"network": {}, **values}, models.load(model).Options)
