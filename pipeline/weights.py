"""What a file of weights is: which network it belongs to, whose keys it has, whether it loads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vsodpipe import checkpoint
from vsodpipe.errors import WeightsError
from vsodpipe.flows import raft_weights


@dataclass(frozen=True)
class Report:
    """What was found in a file."""

    file: Path
    sha256: str
    kind: str
    """`flow` (an engine's weights), `checkpoint` (of vsodpipe train), `published` or `unknown`."""
    network: str | None
    """The engine or network whose weights these are."""
    origin: str
    """Whose keys: torchvision's record, princeton, a paper's code, a stage of training."""
    tensors: int
    parameters: int
    problems: tuple[str, ...]
    """What keeps the weights from loading, one line each; empty if they load."""
    details: dict[str, Any]

    @property
    def loads(self) -> bool:
        """Whether vsodpipe takes the file as it is."""
        return self.network is not None and not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        return {**asdict(self), "file": str(self.file), "loads": self.loads}


def examine(path: Path) -> Report:
    """Return what the file or run folder `path` holds.

    Only tensors and plain values are loaded, never code. Raises WeightsError for a file that
    torch.load does not read that way, and for one that holds no tensors.
    """
    file = checkpoint.locate(path)
    content = checkpoint.load(file)
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    if isinstance(content, Mapping) and content.get("format") == checkpoint.FORMAT:
        return _own(file, sha256, content)
    state = checkpoint.plain_state(content)
    if state is None:
        raise WeightsError(
            f"{file}: {checkpoint.what(content)}, expected a state dict or a checkpoint of "
            "vsodpipe train."
        )
    counts = len(state), _parameters(state)
    if (published := checkpoint.examine_published(state)) is not None:
        name, origin = published.model, f"the published keys of {published.model}"
        return Report(file, sha256, "published", name, origin, *counts, published.problems, {})
    plain = raft_weights.plain_state(content)  # engines see through fewer wrappings
    found = raft_weights.examine(plain) if plain is not None else None
    if found is None:
        examples = ", ".join(list(state)[:3])
        problem = f"no network here has tensors such as {examples}"
        return Report(file, sha256, "unknown", None, "unknown keys", *counts, (problem,), {})
    record = raft_weights.record_of(found.engine, sha256)
    origin = f"torchvision's record {record}" if record else f"{found.keys}'s keys"
    problems = (
        *checkpoint.some("missing", found.missing),
        *checkpoint.some("unexpected", found.unexpected),
        *checkpoint.some("of another shape", found.misshapen),
    )
    return Report(file, sha256, "flow", found.engine, origin, *counts, problems, {})


def _own(file: Path, sha256: str, content: Mapping[str, Any]) -> Report:
    name, state = str(content.get("model")), content.get("state_dict")
    problems: tuple[str, ...] = ()
    origin = "vsodpipe train"
    details: dict[str, Any] = {}
    try:
        saved = checkpoint.read(file, name)
        origin = f"vsodpipe train, stage {saved.stage.name}"
        details = {"stage": saved.stage.name, "provenance": saved.provenance}
        checkpoint.build(saved)
    except WeightsError as error:
        problems = (str(error).removeprefix(f"{file}: "),)
    tensors = state if isinstance(state, Mapping) else {}
    counts = len(tensors), _parameters(tensors)
    return Report(file, sha256, "checkpoint", name, origin, *counts, problems, details)


def _parameters(state: Mapping[str, Any]) -> int:
    return sum(t.numel() for t in state.values() if isinstance(t, torch.Tensor))
