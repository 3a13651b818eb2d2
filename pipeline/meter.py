"""What a training costs: samples a second, the share of time it waits for data, memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

T = TypeVar("T")
KEPT = 0.95
"""Weight of the past in the running means of time a step."""


class Meter:
    """Times the steps of one stage."""

    def __init__(self, batch: int, device: torch.device) -> None:
        self._batch, self._device = batch, device
        self._began = self._saved = time.monotonic()
        self._waited = 0.0
        self._step_mean = self._wait_mean = 0.0

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches, and measure how long each one lets the network wait."""
        source = iter(batches)
        while True:
            self._began = time.monotonic()
            try:
                batch = next(source)
            except StopIteration:
                return
            self._waited = time.monotonic() - self._began
            yield batch

    def step(self) -> dict[str, float]:
        """Return the figures of the step that ends now: seconds, and memory in GB."""
        took = time.monotonic() - self._began
        first = self._step_mean == 0
        kept = 0.0 if first else KEPT
        self._step_mean = kept * self._step_mean + (1 - kept) * took
        self._wait_mean = kept * self._wait_mean + (1 - kept) * self._waited
        return {"seconds": took, "data_wait": self._waited, "memory_gb": self._memory()}

    def describe(self) -> str:
        """Return the running means in words."""
        rate = self._batch / max(self._step_mean, 1e-9)
        share = self._wait_mean / max(self._step_mean, 1e-9)
        return f"{rate:.3g} samples/s, {share:.0%} data wait, {self._memory():.1f} GB"

    def saved(self) -> None:
        """Note that the run was saved now."""
        self._saved = time.monotonic()

    def since_save(self) -> float:
        """Return the seconds since the last save."""
        return time.monotonic() - self._saved

    def _memory(self) -> float:
        """Return the most memory in use so far, in GB: of the GPU, or of this process."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 1e9
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
