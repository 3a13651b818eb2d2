"""The order of an epoch: every sample as often as its weight says, ranks even, well shuffled."""

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsodpipe import order
from vsodpipe.errors import DataError, UsageError

FULL = [4, 2, 5, 6, 0, 3, 9, 8, 11, 1, 10, 7]
WEIGHTED = [7, 8, 11, 5, 8, 10, 4, 9, 0]
WINDOWED = [2, 5, 4, 3, 0, 1, 7, 6, 10, 9, 8, 11]
COUNTS = st.lists(st.integers(1, 30), min_size=1, max_size=3)


@given(
    counts=COUNTS,
    weights=st.lists(st.floats(0.01, 4), min_size=3, max_size=3),
    seed=st.integers(0, 99),
    window=st.integers(0, 3),
    width=st.integers(1, 7),
)
def test_every_sample_stands_as_often_as_its_weight_says(
    counts: list[int], weights: list[float], seed: int, window: int, width: int
) -> None:
    weights = weights[: len(counts)]
    blocks = np.arange(sum(counts)) // width
    found = order.epoch_order(counts, weights, seed, 1, blocks=blocks, window=window)
    assert len(found) == order.length(counts, weights)
    often, first = Counter(found.tolist()), 0
    for count, weight in zip(counts, weights, strict=True):
        each = [often.pop(n, 0) for n in range(first, first + count)]
        assert set(each) <= {int(weight), int(weight) + 1}
        assert sum(each) == int(weight) * count + round((weight - int(weight)) * count)
        first += count
    assert not often


def test_a_balanced_data_set_gives_no_more_than_the_other() -> None:
    names, counts, to = ["A", "B", "C"], [300, 100, 7], {"A": "B", "B": "C", "C": "D"}

    def shares(weights: list[float]) -> list[int]:
        made = order.balanced(names, counts, weights, to)
        return [order.length([n], [w]) for n, w in zip(counts, made, strict=True)]

    assert order.balanced(names, counts, [1, 1, 1], {"A": "B"}) == [1 / 3, 1, 1]
    assert shares([1, 1, 1]) == [100, 7, 7], "by what the other would give itself; D is not there"
    assert shares([1, 2, 20]) == [200, 140, 140]
    assert shares([0.2, 1, 1]) == [60, 7, 7], "a smaller weight stays"
    assert order.balanced(["A", "B"], [0, 5], [1, 1], {"A": "B", "B": "A"}) == [1, 0]


def test_the_share_above_a_whole_number_is_drawn_anew_every_epoch() -> None:
    counts, weights = [40, 10], [0.5, 2.0]
    epochs = [order.epoch_order(counts, weights, 0, epoch) for epoch in range(30)]
    drawn = [frozenset(int(n) for n in e if n < 40) for e in epochs]
    assert all(len(d) == 20 for d in drawn) and len(set(drawn)) == 30
    assert frozenset.union(*drawn) == frozenset(range(40))


def test_the_order_is_pinned() -> None:
    """Stored values: another NumPy must not change what a seed means."""
    assert order.epoch_order([12], [1], 5, 2).tolist() == FULL
    assert order.epoch_order([8, 4], [0.5, 1.25], 5, 2).tolist() == WEIGHTED
    blocks = np.arange(12) // 3
    assert order.epoch_order([12], [1], 5, 2, blocks=blocks, window=2).tolist() == WINDOWED


@given(
    samples=st.integers(1, 90),
    part=st.integers(1, 4),
    world=st.sampled_from([1, 2, 3, 4]),
    cap=st.integers(0, 5),
)
def test_ranks_take_disjoint_parts_of_equal_size(
    samples: int, part: int, world: int, cap: int
) -> None:
    batch = part * world
    if world > 1 and samples < batch:
        with pytest.raises(DataError, match="fewer than one batch"):
            order.check_ranks(samples, batch, 0, world)
        return
    order.check_ranks(samples, batch, world - 1, world)
    steps = order.steps(samples, batch, cap)
    for step in range(steps):
        parts = [list(order.positions(step, batch, samples, r, world)) for r in range(world)]
        assert len({len(p) for p in parts}) == 1
        alone = list(order.positions(step, batch, samples))
        assert [p for part in parts for p in part] == alone, "a step is the same for all worlds"
    if not cap and samples >= batch:
        assert samples - steps * batch < batch, "less than a batch is left out"


def test_a_batch_that_ranks_cannot_share() -> None:
    with pytest.raises(UsageError, match="Use --set batch=6"):
        order.check_ranks(100, 4, 0, 3)


def test_a_window_of_shards_is_read_at_a_time() -> None:
    blocks = np.arange(960) // 10  # 96 shards
    found = order.epoch_order([960], [1], 0, 0, blocks=blocks, window=8)
    for start in range(0, 960, 80):
        assert len(set(blocks[found[start : start + 80]])) == 8
    other = order.epoch_order([960], [1], 0, 1, blocks=blocks, window=8)
    assert set(blocks[found[:80]]) != set(blocks[other[:80]]), "other shards meet every epoch"


def test_a_window_shuffles_nearly_as_well_as_a_full_shuffle() -> None:
    """As DAVIS: 30 videos of about 70 frames, shards of 128; docs/streaming.md has the figures."""
    lengths = np.random.default_rng(0).integers(40, 105, 30)
    video = np.repeat(np.arange(30), lengths)
    total = len(video)

    def mixed(window: int) -> float:
        blocks = np.arange(total) // 128
        orders = [
            order.epoch_order([total], [1], 0, e, blocks=blocks, window=window) for e in range(20)
        ]
        return float(np.mean([order.distinct_share(video[o], 16) for o in orders]))

    full, eight, one = mixed(0), mixed(8), mixed(1)
    assert 0.75 < full < 0.85
    assert eight > 0.8 * full, f"{eight:.3f} of {full:.3f}"
    assert one < 0.35 * full, "a single shard is visibly worse: the measure sees it"


def test_a_million_samples_in_less_than_a_second() -> None:
    blocks = np.arange(10**6) // 128
    start = time.perf_counter()
    found = order.epoch_order([10**6], [1], 0, 0, blocks=blocks, window=8)
    assert time.perf_counter() - start < 5, "0.2 s on a free core"
    assert len(np.unique(found)) == 10**6
