"""The order of an epoch: a pure function of the seed, the epoch and what there is to draw from.

It knows nothing of workers, threads, ranks or of what was read before. A step takes the next
`batch` samples of the order and the ranks share them out, so that a step is the same with any
number of ranks, and a place in the epoch is one number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vsodpipe.errors import DataError, UsageError

Indices = NDArray[np.int64]

REMOTE_WINDOW = 8
"""Shards of a remote store that are shuffled together where the recipe does not say."""


def length(counts: Sequence[int], weights: Sequence[float]) -> int:
    """Return the samples of an epoch over data sets of `counts` samples."""
    return sum(int(w) * n + _share(n, w) for n, w in zip(counts, weights, strict=True))


def _share(count: int, weight: float) -> int:
    return round((weight - int(weight)) * count)


def balanced(
    names: Sequence[str], counts: Sequence[int], weights: Sequence[float], to: Mapping[str, str]
) -> list[float]:
    """Return the weights, lowered where a data set would give more samples than the one in `to`."""
    given = {name: n * w for name, n, w in zip(names, counts, weights, strict=True)}
    most = [given.get(to.get(name, ""), math.inf) for name in names]
    return [
        weight if count * weight <= bound else bound / count
        for count, weight, bound in zip(counts, weights, most, strict=True)
    ]


def epoch_order(
    counts: Sequence[int],
    weights: Sequence[float],
    seed: int,
    epoch: int,
    *,
    blocks: Indices | None = None,
    window: int = 0,
) -> Indices:
    """Return the sample numbers of an epoch in order; data sets are numbered one after another.

    A data set of weight w gives every sample floor(w) times, and a random share w - floor(w) of
    them once more, drawn anew each epoch. Without a `window` all is shuffled together. With one,
    whole blocks (`blocks` holds the block of every sample: its shard) are shuffled, and samples
    only inside `window` blocks (up to twice as many where they do not divide evenly) that follow
    each other: a reader needs few shards at a time.
    """
    rng = np.random.default_rng([seed, epoch])
    total = sum(counts)
    if all(weight == 1 for weight in weights):
        numbers: Indices = np.arange(total)
    else:
        starts = np.cumsum([0, *counts[:-1]])
        parts = []
        for start, count, weight in zip(starts, counts, weights, strict=True):
            parts += [np.arange(start, start + count)] * int(weight)
            parts.append(start + rng.permutation(count)[: _share(count, weight)])
        numbers = np.concatenate(parts)
    if window == 0 or blocks is None:
        return numbers[rng.permutation(len(numbers))]
    present, block = np.unique(blocks[numbers], return_inverse=True)
    place = rng.permutation(len(present))  # of a block among the blocks
    # windows of equal size: a small last one would be shuffled worse than all others
    windows = max(1, len(present) // window)
    number = place * windows // max(1, len(present))
    return numbers[np.lexsort((rng.random(len(numbers)), number[block]))]


def steps(samples: int, batch: int, cap: int = 0) -> int:
    """Return the steps of an epoch: what does not fill a batch is left out, another part each time.

    A set smaller than a batch is one small batch. `cap` limits the steps; 0 is no limit.
    """
    most = max(1, samples // batch)
    return min(most, cap or most)


def check_ranks(samples: int, batch: int, rank: int, world: int) -> None:
    """Raise UsageError where the ranks cannot have equal parts of every batch."""
    if not 0 <= rank < world:
        raise UsageError(f"rank {rank}: expected 0 to {world - 1}.")
    if batch % world:
        raise UsageError(
            f"recipe key batch: {batch} samples a step cannot be shared by {world} ranks. "
            f"Use --set batch={-(-batch // world) * world}."
        )
    if world > 1 and samples < batch:
        raise DataError(f"{samples} samples are fewer than one batch of {batch} for {world} ranks.")


def positions(step: int, batch: int, samples: int, rank: int = 0, world: int = 1) -> range:
    """Return the places in the order that `rank` takes in a step: its slice of the batch."""
    part = batch // world
    start = step * batch + rank * part
    return range(start, min(start + part, samples))


def distinct_share(groups: Indices, batch: int) -> float:
    """Return how mixed batches are: their mean number of distinct groups (videos) over `batch`."""
    rows = groups[: len(groups) // batch * batch].reshape(-1, batch)
    return float(np.mean([len(set(row)) for row in rows.tolist()])) / batch
