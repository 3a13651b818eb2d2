"""Checkpoints: saved whole or not at all, loaded as data only, and never into another network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vsodpipe import __version__, media, models, recipe, weight_file
from vsodpipe.errors import UsageError, WeightsError
from vsodpipe.recipe import Stage

FORMAT = "vsodpipe-checkpoint"
VERSION = 1
WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "network", "weights", "params")
"""Names under which training scripts put the state dict into their files."""
PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every key."""
INSIDE = "model."
"""What a network that is part of another module has before every key."""
UNUSED = "unused."
"""How our keys begin for tensors that published files hold and nothing uses."""


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
        "provenance": {**provenance, "vsodpipe": __version__, "torch": str(torch.__version__)},
    }
    _write(content, file)


def _write(content: dict[str, Any], file: Path) -> None:
    with media.replacing(file) as partial, open(partial, "wb") as opened:
        try:
            torch.save(content, opened)
        except RuntimeError as error:  # a full disk, which torch does not call by its name
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def locate(path: Path) -> Path:
    """Return the checkpoint file of `path`: a file, or that of a run folder.

    Of a run it is the best one of its last stage where that was validated, else the newest.
    """
    if path.is_dir():
        folder = path / "checkpoints"
        note = path / "run.json"
        started = media.read_json(note) if note.is_file() else {}
        stages = started.get("stages") if isinstance(started, dict) else None
        names = ["last.pt"]
        if isinstance(stages, list) and stages:
            names.insert(0, f"{Path(str(stages[-1])).name[:200]}-best.pt")
        for name in names:
            if (folder / name).is_file():
                return folder / name
        expected = folder / "last.pt"
        raise WeightsError(
            f"{path}: no run folder: expected {expected}. Name a run or a checkpoint."
        )
    if not path.is_file():
        raise WeightsError(f"{path}: no such checkpoint. Name a run folder or a .pt file.")
    return path


def load(file: Path) -> Any:
    """Return what torch saved in `file`: tensors and plain values only, no code is run.

    Raises WeightsError for anything else, and for an archive that unpacks to more than it is.
    """
    try:
        return weight_file.load(file)
    except Exception as error:  # a damaged file fails anywhere inside the unpickler
        if code := re.search(r"(?:GLOBAL|global:?) ([\w.]+)", str(error)):
            raise WeightsError(
                f"{file}: not only tensors: it asks for {code[1]} to be run, which is never done. "
                "If you trust it, load it with torch yourself and save its state dict alone."
            ) from error
        if isinstance(error, weight_file.PackedError):
            raise WeightsError(f"{file}: {error}.") from error
        raise WeightsError(
            f"{file}: not a checkpoint of plain tensors, or damaged. Name a run folder or a file "
            "that torch.save wrote."
        ) from error


def read(path: Path, model: str | None, others: Sequence[str] = ()) -> Checkpoint:
    """Return the checkpoint of network `model`, or of one of `others`, behind a file or run folder.

    Without a `model` it is that of whichever network the file is of.

    Published weights come with the recipe of the last stage, whose result they are. Only tensors
    and plain values are loaded. Raises WeightsError for any other file, and for one of another
    network.
    """
    file = locate(path)
    content = load(file)
    own = isinstance(content, dict) and content.get("format") == FORMAT
    state = None if own else plain_state(content)
    if model is None or others:
        owner = _owner(content, state)
        if model is None and owner not in models.names():
            raise WeightsError(
                f"{file}: {what(content)}, expected a checkpoint of vsodpipe train or published "
                f"weights. vsodpipe weights {file} says more."
            )
        model = owner if model is None or owner in others else model
    module = models.load(model)
    if not own:
        if state is None or published_names(model) is None:
            raise WeightsError(f"{file}: {what(content)}, expected a checkpoint of vsodpipe train.")
        stage = models.stages(model)[module.CHAIN[-1]]
        stage = replace(stage, network=replace(stage.network, backbone_weights=None))
        return Checkpoint(file, model, stage, _translated(model, state, str(file))[0], {}, {})
    found = content.get("version")
    if not isinstance(found, int) or found != VERSION:
        raise WeightsError(f"{file}: checkpoint version {found}, this vsodpipe reads {VERSION}.")
    found = str(content.get("model"))
    if found != model:
        raise WeightsError(
            f"{file}: holds weights of {found}, expected {model}. "
            f"Run it as {found}, or name another checkpoint."
        )
    try:
        values = dict(content["stage"])
        # trained weights follow, so that the backbone's initial ones are not fetched again
        values["network"] = {**values["network"], "backbone_weights": None}
        stage = recipe.stage_from_dict(values, module.Options)
        state = {key: value.detach() for key, value in content["state_dict"].items()}
        return Checkpoint(
            file, model, stage, state, dict(content["training"]), dict(content["provenance"])
        )
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, UsageError) as error:
        raise WeightsError(
            f"{file}: its recipe or weights are not as vsodpipe train of this version writes them "
            f"({error})."
        ) from error


def _owner(content: Any, state: Mapping[str, torch.Tensor] | None) -> str:
    """Return the network that a file of ours names, or whose published weights it seems to be."""
    if state is None:
        return str(content.get("model")) if isinstance(content, Mapping) else ""
    report = examine_published(state)
    return report.model if report else ""


def load_into(network: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy the weights of `checkpoint` into `network`; every key must fit. Raises WeightsError."""
    _check_fit(network, checkpoint)
    network.load_state_dict(checkpoint.state_dict)


def _check_fit(network: nn.Module, checkpoint: Checkpoint) -> None:
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in checkpoint.state_dict.items()}
    if expected != found:
        missing, extra = len(expected.keys() - found.keys()), len(found.keys() - expected.keys())
        shapes = sum(found[k] != expected[k] for k in expected.keys() & found.keys())
        raise WeightsError(
            f"{checkpoint.file}: does not fit {checkpoint.model} as built here: {missing} tensors "
            f"missing, {extra} not known, {shapes} of another shape. Use its own recipe."
        )


def build(checkpoint: Checkpoint) -> nn.Module:
    """Return the network of `checkpoint` with its weights, ready for inference.

    Raises WeightsError for weights that are not those of the network that its recipe asks for.
    """
    make = models.load(checkpoint.model).build
    with torch.device("meta"):  # a recipe may ask for a network of terabytes
        _check_fit(make(checkpoint.stage.network), checkpoint)
    network = make(checkpoint.stage.network)
    load_into(network, checkpoint)
    return network.eval()


@dataclass(frozen=True)
class LoadReport:
    """How a state dict fits the published keys of a network."""

    model: str
    tensors: int
    """Those of the network that are there, in the right shape."""
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]
    """Such as `key: expected (64, 3, 7, 7), got (64, 4, 7, 7)`."""

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps the weights from loading, one line each; empty if they load."""
        return (
            *some("missing", self.missing),
            *some("unexpected", self.unexpected),
            *some("of another shape", self.misshapen),
        )


def some(kind: str, keys: tuple[str, ...]) -> tuple[str, ...]:
    """Return one line that counts `keys` and names the first three; nothing for none."""
    if not keys:
        return ()
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return (f"{len(keys)} tensors {kind}: {', '.join(keys[:3])}{more}",)


def load_published(
    model: str, source: str | Path | Mapping[str, torch.Tensor], **options: Any
) -> tuple[nn.Module, LoadReport]:
    """Return network `model` with published weights, ready for inference, and what was found.

    `source` is the authors' file, or its state dict; `module.` before the keys and a dictionary
    around them are seen through. `options` are the network's. Raises WeightsError when a tensor
    is missing, unknown or of another shape: no weight is ever left random.
    """
    if isinstance(source, Mapping):
        content, where = source, "state dict"
    else:
        content, where = load(locate(Path(source))), str(source)
    state = plain_state(content)
    if state is None:
        raise WeightsError(f"{where}: {what(content)}, expected published weights of {model}.")
    translated, report = _translated(model, state, where, **options)
    with torch.device("meta"):  # no time is lost on initial weights
        network = models.create(model, **options)
    network.load_state_dict(translated, assign=True)
    network.float()  # some files are halved
    return network.eval(), report


def save_published(network: nn.Module, path: Path) -> None:
    """Write the weights of `network` under the keys of the authors' file, by atomic rename.

    Raises WeightsError for a network of which no weights were published.
    """
    model = type(network).__module__.rpartition(".")[2]
    state = network.state_dict()
    keys = models.published_keys(model, state)
    if keys is None:
        raise WeightsError(f"{path}: no weights of {model} were published: there are no keys.")
    published: dict[str, Any] = {keys[key]: tensor for key, tensor in state.items()}
    if (under := getattr(models.load(model), "PUBLISHED_UNDER", None)) is not None:
        published = {under: published}
    _write(published, Path(path))


def plain_state(content: object) -> dict[str, torch.Tensor] | None:
    """Return the state dict that `content` is or wraps, without `module.`; None without one."""
    for _ in range(3):  # of wrappings in each other, none has more
        inner = content if isinstance(content, Mapping) else {}
        content = next((inner[n] for n in WRAPPERS if isinstance(inner.get(n), Mapping)), content)
    if not isinstance(content, Mapping) or not content:
        return None
    if not all(isinstance(tensor, torch.Tensor) for tensor in content.values()):
        return None
    state = {_bare(str(key)): tensor for key, tensor in content.items()}
    if all(key.startswith(INSIDE) for key in state):
        return {key.removeprefix(INSIDE): tensor for key, tensor in state.items()}
    return state


def _bare(key: str) -> str:
    """Return `key` without what wrappers of networks put before it."""
    while prefix := next((p for p in PREFIXES if key.startswith(p)), None):
        key = key.removeprefix(prefix)
    return key


def examine_published(state: Mapping[str, torch.Tensor]) -> LoadReport | None:
    """Return how `state` (of `plain_state`) fits the published network that it resembles most.

    None if fewer than half of any network's tensors are there, of whatever shape.
    """
    names = [name for name in models.names() if published_names(name) is not None]
    reports = [_fit(name, state) for name in names]
    # all tensors of an image network may be in that for videos, too: the smaller one it is
    best = max(reports, key=lambda r: (r.tensors, len(r.misshapen), -len(r.missing)), default=None)
    if best is None or best.tensors + len(best.misshapen) <= len(best.missing):
        return None
    return best


def published_names(model: str, **options: Any) -> dict[str, tuple[str, tuple[int, ...]]] | None:
    """Return published key (without `module.`) -> our key and shape; None without published keys.

    `options` are those of the network.
    """
    return _published_names(model, tuple(sorted(options.items())))


@cache
def _published_names(
    model: str, options: tuple[tuple[str, Any], ...]
) -> dict[str, tuple[str, tuple[int, ...]]] | None:
    if models.published_keys(model, ()) is None:
        return None
    with torch.device("meta"):
        state = models.create(model, **dict(options)).state_dict()
    keys = models.published_keys(model, state) or {}
    return {_bare(keys[key]): (key, tuple(tensor.shape)) for key, tensor in state.items()}


def _fit(model: str, state: Mapping[str, torch.Tensor], **options: Any) -> LoadReport:
    expected = published_names(model, **options) or {}
    # Files of old PyTorch lack the step counters of batch norm, cleaned ones what nothing uses.
    needed = [k for k, (own, _) in expected.items() if not (_is_counter(k) or _is_unused(own))]
    missing = [k for k in needed if k not in state]
    shapes = {k: (expected[k][1], tuple(state[k].shape)) for k in expected if k in state}
    wrong = [f"{k}: expected {a}, got {b}" for k, (a, b) in shapes.items() if a != b]
    unexpected = [k for k in state if k not in expected]
    tensors = len(shapes) - len(wrong)
    return LoadReport(model, tensors, tuple(missing), tuple(unexpected), tuple(wrong))


def _is_counter(key: str) -> bool:
    return key.endswith(".num_batches_tracked")


def _is_unused(key: str) -> bool:
    return key.startswith(UNUSED)


def _translated(
    model: str, state: Mapping[str, torch.Tensor], where: str, **options: Any
) -> tuple[dict[str, torch.Tensor], LoadReport]:
    """Return `state` under our keys, copied. Raises WeightsError if it does not fit `model`."""
    expected = published_names(model, **options)
    if expected is None:
        raise WeightsError(f"{where}: no weights of {model} were published, expected a run of it.")
    report = _fit(model, state, **options)
    if report.problems:
        other = examine_published(state)
        if other is not None and other.model != model:
            raise WeightsError(
                f"{where}: holds weights of {other.model}, expected {model}. "
                f"Run it as {other.model}, or name another checkpoint."
            )
        raise WeightsError(
            f"{where}: does not fit {model} as published: {'; '.join(report.problems)}. "
            "Fetch the file again, or name another one."
        )
    translated = {}
    for name, (key, shape) in expected.items():
        kind = torch.int64 if _is_counter(key) else torch.float32
        translated[key] = state[name].clone() if name in state else torch.zeros(shape, dtype=kind)
    return translated, report


def what(content: object) -> str:
    """Return in words what a file holds that is no checkpoint of ours."""
    if isinstance(content, dict):
        tensors = [k for k, v in content.items() if isinstance(v, torch.Tensor)]
        if tensors:
            return f"a bare state dict of {len(tensors)} tensors such as {tensors[0]}"
        return f"a dictionary of {', '.join(map(str, list(content)[:5]))}"
    return f"a {type(content).__name__}"
