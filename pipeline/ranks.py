"""The processes of a training: this one alone, or those that torchrun started.

    torchrun --nproc-per-node 2 -- $(which vsodpipe) train dbsnet --manifest manifests/davis.json

Every process runs the same program on its share of a batch; only the first one writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from vsodpipe.errors import UsageError


@dataclass(frozen=True)
class Ranks:
    """How many processes train together, and which one this is; alone unless `joined` says so."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def mean(self, values: list[float]) -> list[float]:
        """Return the means of numbers over all processes."""
        if self.world == 1:
            return values
        cuda = distributed.get_backend() == "nccl"
        where = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
        tensor = torch.tensor(values, dtype=torch.float64, device=where)
        distributed.all_reduce(tensor)
        return [float(value) for value in (tensor / self.world).tolist()]

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in order."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        distributed.all_gather_object(found, value)
        return found

    def shared(self, value: Any) -> Any:
        """Return the value of the first process."""
        found = [value]
        if self.world > 1:
            distributed.broadcast_object_list(found)
        return found[0]

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.world > 1:
            distributed.barrier()


def place(device: str) -> str:
    """Return the device of this process: under torchrun, every one has a GPU of its own."""
    if "WORLD_SIZE" not in os.environ or not device.startswith("cuda"):
        return device
    if ":" in device:
        raise UsageError(f"device {device}: torchrun gives every process its own. Use cuda.")
    number, here = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if number >= here:
        raise UsageError(f"torchrun started more processes than the {here} CUDA devices here.")
    return f"cuda:{number}"


def lost(error: RuntimeError) -> bool:
    """Return whether this error says that another process of the training has died."""
    together = distributed.is_initialized() and distributed.get_world_size() > 1
    return together and (isinstance(error, distributed.DistError) or "gloo" in str(error).lower())


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Yield the processes that torchrun started, connected (nccl on GPUs, gloo on CPUs)."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
