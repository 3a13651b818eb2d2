"""Checkpoints: saved whole or not at all, loaded as data only, and never into another network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vsodpipe import __version__, media, models, recipe
from vsodpipe.errors import WeightsError
from vsodpipe.recipe import Stage

FORMAT = "vsodpipe-checkpoint"
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read: whose it is, its recipe, weights and training state."""

    file: Path
    model: str
    stage: Stage
    state_dict: dict[str, torch.Tensor]
    training: dict[str, Any]
    """What continues the run: position, optimiser, scaler."""
    provenance: dict[str, Any]
    """Fingerprints of manifest, flow and initial weights, and the version that wrote it."""


def save(
    file: Path,
    model: str,
    stage: Stage,
    network: nn.Module,
    training: dict[str, Any],
    provenance: dict[str, Any],
) -> None:
    """Write a checkpoint by atomic rename."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "model": model,
        "stage": recipe.to_dict(stage),
        "state_dict": network.state_dict(),
        "training": training,
        "provenance": {**provenance, "vsodpipe": __version__},
    }
    with media.replacing(file) as partial:
        torch.save(content, partial)


def locate(path: Path) -> Path:
    """Return the checkpoint file of `path`: a file, or the newest one of a run folder."""
    if path.is_dir():
        file = path / "checkpoints" / "last.pt"
        if file.is_file():
            return file
        raise WeightsError(f"{path}: no run folder: expected {file}. Name a run or a checkpoint.")
    if not path.is_file():
        raise WeightsError(f"{path}: no such checkpoint. Name a run folder or a .pt file.")
    return path


def load(file: Path) -> Any:
    """Return what torch saved in `file`: tensors and plain values only, no code is run.

    Raises WeightsError for anything else.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails anywhere inside the unpickler
        raise WeightsError(
            f"{file}: not a checkpoint of plain tensors, or damaged. Name a run folder or a file "
            "that torch.save wrote."
        ) from error


def read(path: Path, model: str) -> Checkpoint:
    """Return the checkpoint of network `model` behind a file or a run folder.

    Only tensors and plain values are loaded. Raises WeightsError for a file that is no checkpoint
    of ours and for one of another network.
    """
    module = models.load(model)
    file = locate(path)
    content = load(file)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise WeightsError(f"{file}: {what(content)}, expected a checkpoint of vsodpipe train.")
    if content["version"] != VERSION:
        found = content["version"]
        raise WeightsError(f"{file}: checkpoint version {found}, this vsodpipe reads {VERSION}.")
    if content["model"] != model:
        raise WeightsError(
            f"{file}: holds weights of {content['model']}, expected {model}. "
            f"Run it as {content['model']}, or name another checkpoint."
        )
    values = dict(content["stage"])
    # trained weights follow, so that the backbone's initial ones are not fetched again
    values["network"] = {**values["network"], "backbone_weights": None}
    stage = recipe.stage_from_dict(values, module.Options)
    return Checkpoint(
        file,
        model,
        stage,
        content["state_dict"],
        content["training"],
        content["provenance"],
    )


def load_into(network: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy the weights of `checkpoint` into `network`; every key must fit. Raises WeightsError."""
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in checkpoint.state_dict.items()}
    if expected != found:
        missing, extra = len(expected.keys() - found.keys()), len(found.keys() - expected.keys())
        shapes = sum(found[k] != expected[k] for k in expected.keys() & found.keys())
        raise WeightsError(
            f"{checkpoint.file}: does not fit {checkpoint.model} as built here: {missing} tensors "
            f"missing, {extra} not known, {shapes} of another shape. Use its own recipe."
        )
    network.load_state_dict(checkpoint.state_dict)


def build(checkpoint: Checkpoint) -> nn.Module:
    """Return the network of `checkpoint` with its weights, ready for inference."""
    network = models.load(checkpoint.model).build(checkpoint.stage.network)
    load_into(network, checkpoint)
    return network.eval()


def what(content: object) -> str:
    """Return in words what a file holds that is no checkpoint of ours."""
    if isinstance(content, dict):
        tensors = [k for k, v in content.items() if isinstance(v, torch.Tensor)]
        if tensors:
            return f"a bare state dict of {len(tensors)} tensors such as {tensors[0]}"
        return f"a dictionary of {', '.join(map(str, list(content)[:5]))}"
    return f"a {type(content).__name__}"
