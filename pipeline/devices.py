"""Where tensors live: `auto`, `cpu`, `cuda` or `cuda:1`, and nothing in place of what was named."""

from __future__ import annotations

import torch

from vsodpipe.errors import UsageError

SMALL = 2**17
"""Pixels of a step below which one thread does: two are at most a fifth faster, and up to 25 times
slower (measured on two cores) when another process takes one of the cores."""

_THREADS = torch.get_num_threads()


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


def resolve_all(names: str) -> str:
    """Return the torch devices of comma-separated names, comma-separated, as `resolve` does."""
    return ",".join(resolve(name.strip()) for name in names.split(","))


def use_threads(pixels: int) -> None:
    """Let torch use one thread on the CPU for a step of few `pixels`, else all that it has."""
    torch.set_num_threads(1 if pixels < SMALL else _THREADS)
