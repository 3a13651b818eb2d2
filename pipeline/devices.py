"""Where tensors live: `auto`, `cpu`, `cuda` or `cuda:1`, and nothing in place of what was named."""

from __future__ import annotations

import torch

from vsodpipe.errors import UsageError


def resolve(name: str) -> str:
    """Return the torch device of that name; `auto` is CUDA where there is one, else the CPU.

    Raises UsageError for a device that this machine does not have.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}. Known: auto, cpu, cuda, cuda:1.") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"unknown device {name!r}. Known: auto, cpu, cuda, cuda:1.")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UsageError(f"device {name}: this machine has {count} CUDA devices. Use --device cpu.")
    return name
