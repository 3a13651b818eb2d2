"""Two methods compared video by video: is the difference of their means more than chance?

A paired permutation test: if the methods were alike, each video's difference could as well have the
other sign. p is the share of sign patterns whose mean difference is as large as the one found, in
either direction: all patterns up to 20 videos, 100 000 random ones (fixed seed) beyond.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from vsodpipe import tables
from vsodpipe.errors import UsageError
from vsodpipe.protocols import Metric

EXACT = 20
"""Videos up to which every pattern of signs is tried (a million)."""
DRAWS = 100_000


def compare(result: Mapping[str, Any], chosen: Sequence[Metric] = ()) -> dict[str, Any]:
    """Return, for each data set, the first method against every other one.

    Each row has the metric, both means over the videos that both have, their difference (first
    minus other), on how many videos the first is better and worse, and p. Raises UsageError where
    no data set has two methods.
    """
    found: dict[str, Any] = {}
    for dataset, methods in tables.datasets(result).items():
        (first, scored), *others = methods.items()
        for other, rival in others:
            rows = [
                row
                for metric in tables.columns(scored, chosen)
                if (row := _row(metric, scored["videos"], rival["videos"]))
            ]
            found.setdefault(dataset, []).append({"first": first, "other": other, "rows": rows})
    if not found:
        raise UsageError("--compare needs the maps of two methods for one data set.")
    return found


def sign_flip(differences: NDArray[np.float64]) -> float:
    """Return p of the paired permutation test for `differences` (n,), 0 < p <= 1."""
    n = differences.size
    observed = abs(differences.sum())
    # sums of equal terms in another order differ in the last bits
    limit = observed - 1e-12 * max(1.0, float(np.abs(differences).sum()))
    if n <= EXACT:
        halves = (_sums(differences[: n // 2]), _sums(differences[n // 2 :]))
        return float(np.mean(np.abs(np.add.outer(*halves)) >= limit))
    rng = np.random.default_rng(0)
    hits = 1  # the pattern that was found is one of the draws
    for _ in range(100):
        signs = rng.integers(0, 2, (DRAWS // 100, n)) * 2.0 - 1.0
        hits += int(np.count_nonzero(np.abs(signs @ differences) >= limit))
    return hits / (DRAWS + 1)


def terminal(comparison: Mapping[str, Any]) -> list[Table]:
    """Return a table for every pair of methods."""
    made = []
    for dataset, pairs in comparison.items():
        for pair in pairs:
            first, other = (escape(tables.printable(pair[key])) for key in ("first", "other"))
            name = escape(tables.printable(dataset))
            table = Table(title=f"{name}: {first} against {other}, per video", title_justify="left")
            headings = ("metric", "first", "other", "difference", "better", "worse", "p")
            for heading in headings:
                table.add_column(heading, justify="left" if heading == "metric" else "right")
            for row in pair["rows"]:
                numbers = (tables.number(row[key]) for key in ("first", "other", "difference"))
                counts = (str(row["better"]), str(row["worse"]))
                table.add_row(row["heading"], *numbers, *counts, f"{row['p']:.4f}")
            made.append(table)
    return made


def _row(
    metric: Metric, first: Mapping[str, Any], other: Mapping[str, Any]
) -> dict[str, Any] | None:
    pairs = [
        (first[video][metric.key], other[video][metric.key])
        for video in first
        if video in other
        and first[video].get(metric.key) is not None
        and other[video].get(metric.key) is not None
    ]
    if not pairs:
        return None
    ours, theirs = np.array(pairs).T
    gain = theirs - ours if metric.less else ours - theirs
    return {
        "metric": metric.key,
        "heading": metric.heading,
        "videos": len(pairs),
        "first": float(ours.mean()),
        "other": float(theirs.mean()),
        "difference": float(ours.mean() - theirs.mean()),
        "better": int((gain > 0).sum()),
        "worse": int((gain < 0).sum()),
        "p": sign_flip(ours - theirs),
    }


def _sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of `values` (n,) under each of the 2^n patterns of signs."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums
