"""Which frames make a sample: groups of neighbours, references for training and for testing."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsodpipe import sampling


@given(count=st.integers(1, 40), length=st.integers(1, 7))
def test_groups_cover_a_video_and_the_last_overlaps(count: int, length: int) -> None:
    annotated = [True] * count
    groups = [
        sampling.group(annotated, start, length)
        for start in sampling.group_starts(annotated, length)
    ]
    frames = [f for g in groups for f, ok in zip(g.frames, g.valid, strict=True) if ok]
    assert set(frames) == set(range(count))
    assert all(len(g.frames) == length for g in groups)
    assert len(groups) == -(-count // length)
    if count >= length:
        assert all(np.diff(g.frames).tolist() == [1] * (length - 1) for g in groups)
    else:
        assert groups[0].valid == (True,) * count + (False,) * (length - count)


def test_a_group_of_seven_frames_in_fives() -> None:
    assert sampling.group_starts([True] * 7, 5) == [0, 2], "the last one moves left"
    assert sampling.group_starts([False] * 5 + [True] * 2, 5) == [2], "no mask, nothing to learn"
    sparse = sampling.group([False, True, False], 0, 5)
    assert sparse.frames == (0, 1, 2, 2, 2)
    assert sparse.valid == (False, True, False, False, False)


@given(count=st.integers(1, 30), number=st.integers(1, 8), seed=st.integers(0, 99))
def test_training_references_are_distinct_frames(count: int, number: int, seed: int) -> None:
    found = sampling.random_references(count, number, np.random.default_rng(seed))
    assert len(found) == number and all(0 <= f < count for f in found)
    often = Counter(found)
    assert len(often) == min(count, number)
    assert max(often.values()) - min(often.values()) <= 1, "a short video repeats evenly"


def test_training_references_are_drawn_uniformly() -> None:
    rng = np.random.default_rng(0)
    often = Counter(f for _ in range(3000) for f in sampling.random_references(6, 2, rng))
    assert all(abs(often[f] / 1000 - 1) < 0.1 for f in range(6))


@pytest.mark.parametrize(
    ("count", "expected"),
    [(50, (0, 12, 24, 36)), (80, (0, 20, 40, 60)), (4, (0, 1, 2, 3)), (3, (0, 0, 0, 0))],
)
def test_references_for_testing_as_in_the_release_of_dpa(
    count: int, expected: tuple[int, ...]
) -> None:
    assert sampling.even_references(count, 4) == expected


def test_a_draw_starts_where_its_seed_says() -> None:
    """What needs no choice takes nothing from it, so that orders of earlier versions hold."""
    draw, rng = sampling.Draw(3, 1, 4), np.random.default_rng([3, 1, 4])
    assert draw.below(1) == 0 and draw() is draw()
    assert [draw.below(9) for _ in range(5)] == [int(rng.integers(9)) for _ in range(5)]
