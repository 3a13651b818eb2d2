"""The options of commands that compute flow, and what the engine makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vsodpipe import completion
from vsodpipe.errors import UsageError

WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="RAFT weights: a file, or a torchvision record such as C_T_V1.",
        autocompletion=completion.of(completion.records),
    ),
]
UpdatesOption = Annotated[
    int | None,
    typer.Option("--updates", min=1, help="RAFT updates of every pair (default: 20)."),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="dis: ultrafast, fast or medium (default: medium).",
        autocompletion=completion.words("ultrafast", "fast", "medium"),
    ),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        "--precision",
        help="RAFT: fp32, tf32, bf16, fp16 or auto (default: fp32).",
        autocompletion=completion.words("fp32", "tf32", "bf16", "fp16", "auto"),
    ),
]
MaxSideOption = Annotated[
    int | None,
    typer.Option(
        "--max-side", min=1, help="Compute flow on smaller frames, at most so many pixels."
    ),
]


def engine_settings(
    engine: str, chosen: dict[str, Any], device: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of `engine` for this process, and for workers that resolve their own."""
    from vsodpipe import flows

    here, remote = dict(chosen), dict(chosen)
    if "weights" in chosen and Path(chosen["weights"]).is_file():
        remote["weights"] = str(Path(chosen["weights"]).absolute())  # they may be elsewhere
    if "device" in flows.options(engine):
        from vsodpipe.devices import resolve  # imports torch, which `dis` does without

        here["device"], remote["device"] = resolve(device), device
    elif device not in ("auto", "cpu"):
        raise UsageError(f"engine {engine} runs on the CPU only. Leave out --device {device}.")
    return here, remote
