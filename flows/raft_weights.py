"""RAFT's weights: torchvision's records by name, files with torchvision's keys or princeton's.

    report = raft_weights.examine(state_dict)  # which network, whose keys, does it load

Both networks have the same tensors, so a file is told by its keys alone.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import torch
from torchvision.models.optical_flow import (
    RAFT,
    Raft_Large_Weights,
    Raft_Small_Weights,
    raft_large,
    raft_small,
)

from vsodpipe import weight_file
from vsodpipe.errors import WeightsError
from vsodpipe.flows.princeton import translated

NETWORKS = {"raft_large": raft_large, "raft_small": raft_small}
# Named here and not by torchvision's DEFAULT, which may become another record.
RECORDS = {
    "raft_large": Raft_Large_Weights.C_T_SKHT_V2,
    "raft_small": Raft_Small_Weights.C_T_V2,
}

PATIENCE = 10.0
"""Seconds within which a download has to begin."""

Weights = str | Path | Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Report:
    """How a state dict fits the RAFT network that it resembles most."""

    engine: str
    """`raft_large` or `raft_small`."""
    keys: str
    """Whose names the tensors have: `torchvision` or `princeton`."""
    tensors: int
    """Those of the network that are there, in the right shape."""
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]
    """Such as `key: expected (2, 256, 3, 3), got (2, 128, 3, 3)`."""

    @property
    def loads(self) -> bool:
        """Whether the engine takes these weights."""
        return not (self.missing or self.unexpected or self.misshapen)


def examine(saved: Mapping[str, torch.Tensor]) -> Report | None:
    """Return how `saved` fits RAFT, under torchvision's keys or princeton's.

    None if fewer than half of either network's tensors are there.
    """
    state = unwrapped(saved)
    renamed = translated(state)
    found = state if renamed is None else renamed
    engine = max(NETWORKS, key=lambda name: len(_fitting(name, found)))
    expected, fitting = _shapes(engine), _fitting(engine, found)
    if 2 * len(fitting) < len(expected):
        return None
    shared = expected.keys() & found.keys()
    return Report(
        engine,
        "torchvision" if renamed is None else "princeton",
        len(fitting),
        tuple(sorted(expected.keys() - found.keys())),
        tuple(sorted(found.keys() - expected.keys())),
        tuple(
            f"{key}: expected {expected[key]}, got {tuple(found[key].shape)}"
            for key in sorted(shared - fitting)
        ),
    )


def plain_state(saved: object) -> dict[str, torch.Tensor] | None:
    """Return the state dict that `saved` is, or holds as `state_dict`; None if it is neither."""
    if isinstance(saved, Mapping) and isinstance(saved.get("state_dict"), Mapping):
        saved = saved["state_dict"]
    if not isinstance(saved, Mapping) or not saved:
        return None
    if not all(isinstance(tensor, torch.Tensor) for tensor in saved.values()):
        return None
    return {str(key): tensor for key, tensor in saved.items()}


def unwrapped(saved: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return `saved` without the name that DataParallel, as princeton used it, puts first."""
    return {str(key).removeprefix("module."): tensor for key, tensor in saved.items()}


def record_of(engine: str, sha256: str) -> str | None:
    """Return the name of torchvision's record with these bytes, None if it is none of them."""
    records = type(RECORDS[engine])
    return next((r.name for r in records if sha256.startswith(_hash(r))), None)


def _fitting(name: str, state: Mapping[str, torch.Tensor]) -> set[str]:
    expected = _shapes(name)
    return {key for key in expected.keys() & state.keys() if state[key].shape == expected[key]}


@cache
def _shapes(name: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {key: tuple(t.shape) for key, t in NETWORKS[name]().state_dict().items()}


def find(name: str, weights: Weights | None) -> tuple[dict[str, torch.Tensor], str, str, str]:
    """Return the state dict that `weights` mean, where it is from, its id and its SHA-256."""
    if isinstance(weights, Mapping):
        state = _state(name, weights, "a state dict")
        return state, "a state dict", "state dict", _digest(state)
    file, identity, digest = _file(name, weights)
    return _read(name, file), str(file), identity, digest


def _digest(state: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for key, tensor in sorted(state.items()):
        array = tensor.detach().cpu().float().contiguous().numpy()
        digest.update(f"{key} {array.shape};".encode() + array.tobytes())
    return digest.hexdigest()


def _file(name: str, weights: str | Path | None) -> tuple[Path, str, str]:
    """Return the file of the `weights`, their id and their SHA-256."""
    records = type(RECORDS[name])
    weights = RECORDS[name].name if weights is None else str(weights)
    record = records.__members__.get(weights)
    file = Path(weights).expanduser() if record is None else _fetched(name, record)
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(
            f"{name} weights: expected a file or one of {', '.join(r.name for r in records)}, "
            f"got {weights!r} ({error.strerror})."
        ) from error
    # By content: the same weights are the same weights, wherever the file lies.
    identity = record_of(name, digest) or file.name
    if record is not None and identity != record.name:
        raise WeightsError(
            f"{name} weights {record.name}: expected SHA-256 {_hash(record)}..., got "
            f"{digest[:16]}... ({file}). Remove the file to fetch it again, or, if it is what "
            f"you want, name it: --weights {file}."
        )
    return file, identity, digest


def _hash(record: Any) -> str:
    """Return the start of the SHA-256, which torchvision keeps in the file's name."""
    return Path(record.url).stem.rpartition("-")[2]


def _fetched(name: str, record: Any) -> Path:
    """Return the file of a torchvision `record`, downloaded first if it is not there."""
    # The folder and the name that torchvision uses; its own loader is not called because it
    # announces the download on stdout, which is for machines.
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(record.url).name
    if file.exists():
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _wait_for_answer(record.url)
        torch.hub.download_url_to_file(
            record.url, str(file), _hash(record), progress=sys.stderr.isatty()
        )
    except Exception as error:  # whatever it was, the way out is the same
        raise WeightsError(
            f"{name} weights {record.name}: the download failed ({error}). Fetch {record.url} "
            f"elsewhere and put it at {file}, or name a file of weights with --weights FILE, or "
            "take an engine that needs none: --engine dis."
        ) from error
    return file


def _wait_for_answer(url: str) -> None:
    """Return once `url` answers, or raise what prevents it within `PATIENCE` seconds.

    In a thread, because no timeout of urlopen covers the whole: behind a firewall that drops
    packets it waits for the name server and then for each of the host's addresses in turn.
    """
    failure: list[Exception] = [TimeoutError(f"no answer within {PATIENCE:g} seconds")]

    def ask() -> None:
        try:
            urlopen(url, timeout=PATIENCE).close()
            failure.clear()
        except Exception as error:
            failure[0] = error

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if failure:
        raise failure[0]


def network_of(name: str, state: dict[str, torch.Tensor], source: str) -> RAFT:
    """Return the network `name` with the `state` dict from `source`, ready to infer."""
    network = NETWORKS[name]()
    expected = network.state_dict()
    missing, unexpected = expected.keys() - state.keys(), state.keys() - expected.keys()
    if missing or unexpected:
        (other,) = NETWORKS.keys() - {name}
        fits = _shapes(other).keys() == state.keys()
        hint = f" They are weights of {other}: --engine {other}." if fits else ""
        examples = "; ".join(
            f"{kind}: {min(keys)}"
            for kind, keys in (("missing", missing), ("unexpected", unexpected))
            if keys
        )
        raise WeightsError(
            f"{name} weights: expected the {len(expected)} tensors of the network, under the keys "
            f"of torchvision or of princeton's RAFT, got {len(missing)} missing and "
            f"{len(unexpected)} unexpected ({examples}; {source}).{hint}"
        )
    for key, tensor in state.items():
        if tensor.shape != expected[key].shape:
            raise WeightsError(
                f"{name} weights: expected {key} of shape {tuple(expected[key].shape)}, got "
                f"{tuple(tensor.shape)} ({source})."
            )
    network.load_state_dict(state)
    return network.eval()


def _read(name: str, file: Path) -> dict[str, torch.Tensor]:
    try:
        saved = weight_file.load(file)
    except Exception as error:  # torch.load has no error of its own for a bad file
        raise WeightsError(
            f"{name} weights: expected a state dict saved by torch.save, got something that "
            f"torch.load does not read as plain tensors ({file}: {type(error).__name__})."
        ) from error
    return _state(name, saved, str(file))


def _state(name: str, saved: object, source: str) -> dict[str, torch.Tensor]:
    """Return the state dict in what was `saved`, under torchvision's keys as far as known."""
    plain = plain_state(saved)
    if plain is None:
        raise WeightsError(
            f"{name} weights: expected a state dict of tensors only, got {type(saved).__name__} "
            f"({source}). A training checkpoint holds it under a key such as 'model'."
        )
    state = unwrapped(plain)
    return translated(state) or state
