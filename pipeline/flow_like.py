"""Which flow a trained network is to be shown: that of its training, as far as its checkpoint says.

A checkpoint of `vsodpipe train` holds the record of the flow it was trained on; published weights
and checkpoints of older versions do not, and get what `vsodpipe flow` makes unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vsodpipe.checkpoint import Checkpoint
from vsodpipe.errors import UsageError, WeightsError
from vsodpipe.flow_forms import FORMS
from vsodpipe.flow_video import Options

ENGINE = "raft_large"
"""That of `vsodpipe flow`."""
SETTINGS = ("preset", "updates", "precision", "max_side")
"""Options of engines that stand in a record under their own names."""


def record(saved: Checkpoint) -> dict[str, Any]:
    """Return the record of the first flow that `saved` was trained on, empty where it has none.

    Raises WeightsError for what is no record.
    """
    records = saved.provenance.get("flow_records") or {}
    found: Any = next(iter(records.values()), {}) if isinstance(records, dict) else None
    if not isinstance(found, dict) or not isinstance(found.get("engine", {}), dict):
        raise _damaged(saved)
    return found


def options(saved: Checkpoint, colour: str | None, tail: str | None) -> Options:
    """Return how the flow of `saved` is made and coloured; `colour` and `tail` replace its own.

    Raises UsageError for flow that cannot be made on the way.
    """
    known, default = record(saved), Options()
    if known.get("direction", default.direction) != default.direction:
        raise UsageError(
            f"{saved.file}: was trained on {known['direction']} flow, which is not made on the "
            "way. Use vsodpipe flow --direction, manifest and test."
        )
    if tail == "none":
        raise UsageError("--tail none: every frame needs flow. Use backward, repeat or zero.")
    own = known.get("tail", default.tail)
    forms = {form.words: name for name, form in FORMS.items() if form.is_picture}
    try:
        return Options(
            tail=tail or (default.tail if own == "none" else own),  # type: ignore[arg-type]
            colour=colour or known.get("colour", default.colour),
            formats=(forms.get(known.get("format", ""), default.formats[0]),),
            gap=known.get("gap", default.gap),
        )
    except (TypeError, AttributeError) as error:
        raise _damaged(saved) from error


def engine(
    saved: Sequence[Checkpoint], name: str | None, chosen: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return the name of the flow engine for these checkpoints, and its options.

    A `name` that is given counts, with the options `chosen`; else it is the engine of the first
    checkpoint that records one, with its options where none is `chosen`. Raises UsageError where
    its weights are a file that has to be named.
    """
    recorded = [(one.file, known) for one in saved if (known := record(one).get("engine"))]
    if name is not None or not recorded:
        return name or ENGINE, dict(chosen)
    file, known = recorded[0]
    found = str(known.get("engine", ENGINE))
    own = {key: known[key] for key in SETTINGS if key in known}
    if (weights := known.get("weights")) is not None and "weights" not in chosen:
        if not _is_record(found, str(weights)):
            raise UsageError(
                f"{file}: was trained on flow of {found} with the weights {weights}. "
                "Name that file with --weights, or another engine with --engine."
            )
        own["weights"] = weights
    return found, {**own, **chosen}


def _is_record(name: str, weights: str) -> bool:
    from vsodpipe.flows.raft_weights import RECORDS

    return name in RECORDS and weights in type(RECORDS[name]).__members__


def _damaged(saved: Checkpoint) -> WeightsError:
    return WeightsError(f"{saved.file}: its record of flow is damaged. Train it anew.")
