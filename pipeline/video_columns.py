"""The networks that are predicted with, side by side, and the flow that each is shown."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsodpipe import checkpoint, flow_like, flow_video, infer
from vsodpipe.catalogue import Video
from vsodpipe.checkpoint import Checkpoint
from vsodpipe.errors import UsageError
from vsodpipe.flow_video import Options, Output
from vsodpipe.flows import Engine
from vsodpipe.infer import Predictor
from vsodpipe.progress import Reporter


@dataclass(frozen=True)
class Column:
    """A network, and what its panel is called."""

    label: str
    saved: Checkpoint
    predictor: Predictor
    look: Options | None
    """The flow that it is shown; None for a network of frames alone."""
    decided: Mapping[str, Any]
    """What of it decides its maps."""


def columns(
    named: Sequence[str],
    device: str,
    reporter: Reporter,
    *,
    batch: int = 0,
    crf: str | None = None,
    colour: str | None = None,
    tail: str | None = None,
) -> list[Column]:
    """Return the networks of `named`, each the path of a checkpoint or run, or NAME=PATH.

    `batch` and `crf` are as in `predict.predict`; `colour` and `tail` replace what the checkpoints
    say of their flow. Raises WeightsError for what is no checkpoint, and UsageError for a network
    of other inputs than frame and flow picture, and for names that are no names or are there twice.
    """
    found: dict[str, Column] = {}
    for label, path in map(_label, named):
        saved = checkpoint.read(path, None)
        data = saved.stage.data
        if other := [k for k in data.inputs if k.removeprefix("ref_") not in ("img", "flow")]:
            raise UsageError(
                f"{saved.file}: {saved.model} also takes {other[0]}, which videos lack. "
                "Use vsodpipe test."
            )
        flow = any(key.endswith("flow") for key in data.inputs)
        if flow and data.flow == "vectors":
            raise UsageError(f"{saved.file}: takes flow as vectors, which only a store holds.")
        title = label or saved.model
        if not label and title in found:
            title = saved.file.parent.parent.name if path.is_dir() else saved.file.stem
        if title in found:
            raise UsageError(f"two checkpoints are called {title}. Name them: NAME={path}.")
        network = checkpoint.build(saved).to(device)
        predictor = Predictor(
            *(saved.model, network, saved.stage, device, batch, crf),
            stop=threading.Event(),
            say=reporter.warn,
        )
        look = flow_like.options(saved, colour, tail) if flow else None
        found[title] = Column(title, saved, predictor, look, infer.decided_by(saved, crf))
    kinds = {(c.look.gap, c.look.tail): c.saved.file for c in found.values() if c.look}
    if len(kinds) > 1:
        files = " and ".join(map(str, kinds.values()))
        raise UsageError(
            f"{files}: their training's flow has other gaps or tails. Predict one by one."
        )
    return list(found.values())


def _label(text: str) -> tuple[str, Path]:
    """Return the name, empty where none is given, and the path in NAME=PATH."""
    name, sign, rest = text.partition("=")
    if not sign or Path(text).exists():
        return "", Path(text)
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(
            f"--checkpoint {text}: expected a name of letters, digits, dots and dashes before =."
        )
    return name, Path(rest)


def warn_of_flow(
    columns: Sequence[Column], video: Video, engine: Engine, reporter: Reporter
) -> None:
    """Warn of networks that were trained on flow of another kind than they will be shown."""
    for column in columns:
        trained = set(column.saved.provenance.get("flow", {}).values())
        if column.look is None or not trained:
            continue
        if flow_of(video, engine, column.look).record["fingerprint"] not in trained:
            reporter.warn(f"{column.label}: its flow is of another kind than that of the training.")


def flow_of(video: Video, engine: Engine, look: Options) -> Output:
    """Return the folder of flow pictures that `vsodpipe flow` would write, and its record."""
    return flow_video.outputs(video, engine.fingerprint, look)[0]
