"""The networks: one file per published network, with its losses and its recipe.

A new network is one new file here; its name is the name on the command line, and nothing else has
to be edited. Files whose name starts with `_` are shared helpers. The file of a network holds

    Options     frozen, keyword-only dataclass: the constructor options, each documented under it
    build       build(options) -> the network (nn.Module). Its forward takes tensors named like the
                sample keys of `Data.inputs` and returns a dict of logits, `saliency` first
    STAGES      tuple of vsodpipe.recipe.Stage: every recipe, complete; `network` is an Options; one
                is named `debug` and takes seconds on a CPU
    CHAIN       names of the stages that a plain `vsodpipe train NAME` runs, in order; weights pass
                from one to the next
    SAMPLING    how the network is fed: "frame" (B,3,H,W), "clip" (B,T,3,H,W), "references" (a frame
                and its reference frames)
    loss        loss(logits, sample, weights={}) -> the number to minimise: what forward returned in
                training mode, the batch (`gt` in 0..1, `valid` where frames may lack an
                annotation) and the factors of its parts, by name, where the recipe has others
    LOSSES      names of those parts: heads of the network that have a loss, or terms of one
    TAKES       only where `--init` may name weights of other networks, too: their names
    objective   only where a step is more than forward and loss: objective(network, sample, stage,
                epoch) -> the number to minimise; random numbers come from torch's generator
    PUBLISHED   only where the authors published weights: (pattern, replacement) rules that turn the
                keys of our state dict into those of the published file
    PUBLISHED_UNDER  only where that file is a dictionary around the state dict: the key it is under

and the functions that its stages name in `transfer`: (states, initial) -> the state dict a stage
begins with, from those of the stages it joins and that of its network with initial weights.

`Model` below says it in types. tests/test_models.py holds every file here to it.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from vsodpipe.errors import unknown
from vsodpipe.recipe import Stage, from_dict

if TYPE_CHECKING:  # listing names must stay instant: it is part of the shell completion
    from torch import Tensor, nn

__all__ = ["Model", "Sampling", "create", "load", "names", "published_keys", "stages"]

Sampling = Literal["frame", "clip", "references"]


class Model(Protocol):
    """The file of a network, seen from outside."""

    Options: type[Any]
    STAGES: tuple[Stage, ...]
    CHAIN: tuple[str, ...]
    LOSSES: tuple[str, ...]
    SAMPLING: Sampling

    def build(self, options: Any) -> nn.Module:
        """Return the network with these options, on the CPU, in training mode."""

    def loss(
        self,
        logits: dict[str, Tensor],
        sample: dict[str, Tensor],
        weights: Mapping[str, float] = {},
    ) -> Tensor:
        """Return the scalar to minimise, float32."""


def names() -> tuple[str, ...]:
    """Return the names of all networks, sorted; none of them is imported."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if not name.startswith("_")))


def load(name: str) -> Model:
    """Return the file of network `name` as a module; UsageError if there is none."""
    if name not in names():
        raise unknown("model", name, names())
    return cast(Model, importlib.import_module(f"{__name__}.{name}"))


def create(name: str, **options: Any) -> nn.Module:
    """Return network `name`, built with `options`; UsageError for an unknown option or value.

    Example: `create("dbsnet", num_frames=6, backbone_weights="imagenet")`.
    """
    model = load(name)
    return model.build(from_dict(model.Options, options))


def stages(name: str) -> dict[str, Stage]:
    """Return every training stage of network `name` by its own name."""
    return {stage.name: stage for stage in load(name).STAGES}


def published_keys(name: str, keys: Iterable[str]) -> dict[str, str] | None:
    """Return our `keys` of network `name` -> those of its published weights; None without any."""
    rules = getattr(load(name), "PUBLISHED", ())
    if not rules:
        return None

    def renamed(key: str) -> str:
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        return key

    return {key: renamed(key) for key in keys}
