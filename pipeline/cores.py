"""How much this machine does at once."""

from __future__ import annotations

import os


def count() -> int:
    """Return the processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def loaders(device: str) -> int:
    """Return how many threads load data for a network on `device` unless said otherwise.

    On a CPU the network needs every core: loaders would only disturb it.
    """
    return min(4, count()) if device.startswith("cuda") else 0
