"""How much memory RAFT takes, how much there is, and what it does when that is not enough.

    for step in steps(batch=4):             # (batch, volume), from the fastest to the smallest
        if needed("raft_large", 1088, 1920, *step, ...) <= budget("cpu", None): ...

The order: the batch as wished, half of it, ..., 1 pair; then its volume in float16; then no
volume at all (see `raft_volume`).
"""

import ctypes
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vsodpipe.errors import UsageError, VsodpipeError
from vsodpipe.flows import Plan
from vsodpipe.flows.raft_volume import KINDS, block_bytes

GIB = 2**30


@dataclass(frozen=True)
class _Sizes:
    """Bytes of one network's working memory, with convolutions in float32."""

    encoder: int
    """Of its activations, for a pixel of the padded frame. Measured on a CPU, rounded up."""
    update: int
    """Of the updates and the upsampling, for a pixel of the features. Measured the same way."""
    features: int
    """Channels of the features."""
    context: int
    """Channels of a frame's context: the hidden state and what each unit keeps of the rest."""


_NETWORKS = {
    "raft_large": _Sizes(encoder=230, update=10_000, features=256, context=128 + 2 * 3 * 128),
    "raft_small": _Sizes(encoder=120, update=6_000, features=128, context=96 + 3 * 96),
}

# What allocators and NNPACK keep for each thread at most, measured on a CPU.
_KEPT = 100_000_000

# Of what is free: other programs live on, and no allocator is without waste.
_SHARE = 0.9

# What an allocation that fails says, by CPU, CUDA, cuBLAS and cuDNN; only the first two have a
# type of their own, and the CPU's is RuntimeError.
_FAILURES = (
    "can't allocate memory",
    "DefaultCPUAllocator",
    "out of memory",
    "STATUS_ALLOC_FAILED",
)


def steps(batch: int) -> list[tuple[int, str]]:
    """Return (batch, volume) in the order in which they are tried."""
    found = [(batch, KINDS[0])]
    while batch > 1:
        batch //= 2
        found.append((batch, KINDS[0]))
    return found + [(1, kind) for kind in KINDS[1:]]


def needed(
    name: str,
    height: int,
    width: int,
    batch: int,
    volume: str,
    *,
    gap: int = 1,
    device: str = "cpu",
    item: int = 4,
    threads: int = 1,
) -> int:
    """Return the peak of RAFT's working memory in bytes.

    `height` and `width` are the padded frame's, `item` the bytes of a number in a convolution,
    `threads` those that encode a frame each.
    The direction does not matter: all flow of a pair is computed in one volume, way by way.
    """
    sizes = _NETWORKS[name]
    pixels = height * width
    cells = pixels // 64
    # Features and their three pooled levels, in float32; the picture goes when the context comes,
    # which is larger.
    frame = cells * (sizes.features * 4 * 4 // 3 + sizes.context * item)
    frames = (batch + gap) * frame
    correlation = {"full": 4, "half": 2, "on demand": 0}[volume] * batch * cells * cells * 4 // 3
    work = max(threads * pixels * sizes.encoder, batch * cells * sizes.update) * item // 4
    # Blocks of a half volume's products; of a lookup's windows, with their indices.
    blocks = {"full": 0, "half": 10, "on demand": 3}[volume] * block_bytes(torch.device(device))
    kept = min(threads * _KEPT, 2 * work)
    return frames + correlation + work + blocks + kept


def chosen(
    options: list[tuple[int, str]], cost: Callable[[int, str], int], limit: int, size: str
) -> Plan:
    """Return the first of the `options`, (batch, volume), whose `cost` is within `limit` bytes.

    `size` is the frames', for the VsodpipeError where there is none.
    """
    for batch, volume in options:
        least = cost(batch, volume)
        if least <= limit:
            return Plan(batch, volume, least)
    raise VsodpipeError(
        f"optical flow of {size} frames: expected {least / GIB:.2g} GiB of memory at least, got "
        f"{limit / GIB:.2g}. Make the frames smaller (--max-side N), free memory, or take an "
        "engine that needs little: --engine dis."
    )


def budget(device: str, memory: float | None) -> int:
    """Return how many bytes may be used on `device`: a share of what is free, `memory` at most.

    `memory` is in GiB.
    """
    where = torch.device(device)
    free = _free_cuda(where) if where.type == "cuda" else _free_host()
    limit = int(free * _SHARE)
    return limit if memory is None else min(limit, int(memory * GIB))


def check_memory(memory: object) -> None:
    """Raise UsageError unless `memory` is None or a number above 0."""
    number = isinstance(memory, int | float) and not isinstance(memory, bool)
    if memory is not None and not (number and 0 < float(str(memory)) < float("inf")):
        raise UsageError(f"raft memory: expected a number of GiB above 0, got {memory!r}.")


def give_back() -> None:
    """Return to the system what the host's allocator keeps of the memory that has been freed.

    With blocks of up to 32 MB, that of glibc keeps 0.2 to 0.3 GB of 1080p frames.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Any:
    try:
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # no such library: not Linux
        return None


class Exhausted(Exception):
    """There is no memory left for what was tried."""


@contextmanager
def noticed() -> Iterator[None]:
    """Raise Exhausted for the errors that say that there is no memory left."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_exhausted(error):
            raise
        failure = Exhausted(str(error))
    else:
        return
    raise failure  # not above, where it would hold the tensors of what has failed


def _is_exhausted(error: BaseException) -> bool:
    """Tell whether `error` says that there is no memory left, on a GPU or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _FAILURES)


def _free_cuda(device: torch.device) -> int:
    """Return what the device has free, with what torch keeps for itself but does not use."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def _free_host() -> int:
    """Return what the machine can still give, or the container if that is less."""
    limits = [_free_machine()]
    root = Path("/sys/fs/cgroup")
    for folder, most, used, stat, cache in (
        (root, "memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            root / "memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "memory.stat",
            "total_inactive_file",
        ),
    ):
        limit = _text(folder / most).strip()
        if limit.isdigit():
            # Pages of files count as used, but go when memory is asked for.
            files = _named(_text(folder / stat), cache)
            limits.append(int(limit) - int(_text(folder / used) or 0) + files)
    return max(0, min(limits))


def _free_machine() -> int:
    available = _named(_text(Path("/proc/meminfo")), "MemAvailable:")
    if available:
        return available * 1024
    # Elsewhere than on Linux: half of the memory, as what is free is not told in one way.
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" in names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 4 * GIB


def _named(text: str, name: str) -> int:
    """Return the number after `name` at the start of one of the lines, 0 if there is none."""
    for line in text.splitlines():
        words = line.split()
        if words[:1] == [name]:
            return int(words[1])
    return 0


def _text(file: Path) -> str:
    """Return what is in `file`, nothing if it cannot be read: each system has its own."""
    try:
        return file.read_text()
    except OSError:
        return ""
