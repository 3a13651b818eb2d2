"""Made clips: flow carries frame t to t + 1, masks end where it jumps, no answer is trivial."""

import time

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from vsodpipe.errors import UsageError
from vsodpipe.metrics import end_point_error, frame_scores
from vsodpipe.synth import Clip, make_clip

SEEDS = range(6)
H, W, T = 120, 160, 24
Y, X = np.mgrid[:H, :W].astype(np.float32)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [make_clip(seed, T, size=(H, W)) for seed in SEEDS]


def _near_edges(gt: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """Return True within about size / 2 pixels of the mask's outline."""
    square = np.ones((size, size), np.uint8)
    return np.asarray(cv2.morphologyEx(gt.astype(np.uint8), cv2.MORPH_GRADIENT, square)) > 0


def _target(clip: Clip, t: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return where the surfaces of frame t lie in the frame that flow[t] points to."""
    return X + clip.flow[t, ..., 0], Y + clip.flow[t, ..., 1]


def _warped(image: NDArray[np.generic], x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray:
    return np.asarray(cv2.remap(image.astype(np.float32), x, y, cv2.INTER_CUBIC))


def _visible(clip: Clip, t: int, other: int) -> NDArray[np.bool_]:
    """Return True where a surface of frame t is surely seen in the other frame as well."""
    x, y = _target(clip, t)
    inside = (x >= 1) & (x <= W - 2) & (y >= 1) & (y <= H - 2)
    same = np.abs(_warped(clip.gt[other], x, y) - clip.gt[t]) < 0.01
    return inside & same & ~_near_edges(clip.gt[t], 7)


def test_shapes_and_types(clips: list[Clip]) -> None:
    clip = clips[0]
    assert (clip.img.shape, clip.img.dtype) == ((T, H, W, 3), np.uint8)
    assert (clip.gt.shape, clip.gt.dtype) == ((T, H, W), np.bool_)
    assert (clip.flow.shape, clip.flow.dtype) == ((T, H, W, 2), np.float32)


def test_flow_carries_every_frame_to_the_next_and_the_last_one_back(clips: list[Clip]) -> None:
    for clip in clips:
        for t in (0, T // 2, T - 2, T - 1):
            other = t + 1 if t < T - 1 else T - 2
            back = _warped(clip.img[other], *_target(clip, t))
            visible = _visible(clip, t, other)
            assert visible.mean() > 0.6
            error = np.abs(back - clip.img[t])[visible]
            # rounding to 8 bits twice and interpolation; standing still would give over 10 levels
            assert error.mean() < 1.2
            still = np.abs(clip.img[other].astype(int) - clip.img[t])[visible]
            assert still.mean() > 10 * error.mean()


def test_masks_move_with_the_flow(clips: list[Clip]) -> None:
    for clip in clips:
        for t in (0, T - 1):
            other = 1 if t == 0 else T - 2
            x, y = _target(clip, t)
            inside = (x >= 0) & (x <= W - 1) & (y >= 0) & (y <= H - 1)
            lost = clip.gt[t] & inside & (_warped(clip.gt[other], x, y) < 0.4)
            assert lost.sum() < 0.02 * clip.gt[t].sum()


def test_masks_end_where_the_flow_jumps(clips: list[Clip]) -> None:
    for clip in clips:
        flow, gt = clip.flow[3], clip.gt[3]
        jump = np.linalg.norm(np.diff(flow, axis=1), axis=-1)
        across = gt[:, 1:] != gt[:, :-1]
        assert jump[across].min() > 0.5
        # elsewhere the flow is smooth, but for the line where two objects overlap
        assert np.mean(jump[~across] > 0.3) < 0.005


def test_objects_are_5_to_20_percent_and_never_gone(clips: list[Clip]) -> None:
    share = np.concatenate([clip.gt.mean(axis=(1, 2)) for clip in clips])
    assert share.min() > 0.02 and share.max() < 0.35
    assert 0.05 < share.mean() < 0.2
    long = make_clip(3, 200, size=(32, 48))  # several rounds
    assert long.gt.mean(axis=(1, 2)).min() > 0.02


def test_the_same_seed_gives_the_same_clip_and_others_differ(clips: list[Clip]) -> None:
    again = make_clip(0, T, size=(H, W))
    for name in ("img", "gt", "flow"):
        assert (getattr(again, name) == getattr(clips[0], name)).all()
        assert (getattr(clips[0], name) != getattr(clips[1], name)).any()
    centres = np.array([np.argwhere(clip.gt[0]).mean(axis=0) for clip in clips])
    assert (centres.std(axis=0) > 8).all()


def test_number_of_objects() -> None:
    counts = set()
    for seed in range(4):
        drawn, _ = cv2.connectedComponents(make_clip(seed, 1).gt[0].astype(np.uint8))
        one, _ = cv2.connectedComponents(make_clip(seed, 1, objects=1).gt[0].astype(np.uint8))
        counts.add(drawn - 1)
        assert one - 1 == 1
    assert counts == {1, 2}


def test_flow_can_be_estimated(clips: list[Clip]) -> None:
    engine = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    for clip in clips:
        first, second = (cv2.cvtColor(i, cv2.COLOR_RGB2GRAY) for i in clip.img[:2])
        estimate = np.asarray(engine.calc(first, second, None))  # type: ignore[call-overload]
        assert end_point_error(estimate, clip.flow[0], _visible(clip, 0, 1)) < 0.3
        assert np.linalg.norm(clip.flow[0], axis=-1).mean() > 1.0


def _stretched(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    low, high = values.min(), values.max()
    return np.rint(255 * (values - low) / (high - low)).astype(np.uint8)


def test_trivial_answers_are_poor_and_the_odd_motion_is_a_good_one(clips: list[Clip]) -> None:
    place = np.exp(-((X - W / 2) ** 2 / (W / 4) ** 2 + (Y - H / 2) ** 2 / (H / 4) ** 2) / 2)
    answers: dict[str, list[float]] = {}
    for clip in clips:
        for t in (0, T // 2):
            flow = clip.flow[t]
            speed = np.linalg.norm(flow, axis=-1)
            odd = np.linalg.norm(flow - np.median(flow, axis=(0, 1)), axis=-1)
            maps = {"everything": place * 0, "centre": place, "fast": speed, "slow": -speed}
            for name, values in (maps | {"odd": odd}).items():
                made = _stretched(values) if np.ptp(values) else np.full((H, W), 255, np.uint8)
                answers.setdefault(name, []).append(frame_scores(made, clip.gt[t]).j)
    mean = {name: float(np.mean(values)) for name, values in answers.items()}
    assert mean.pop("odd") > 0.9
    assert max(mean.values()) < 0.35, mean


def test_speed() -> None:
    start = time.process_time()
    make_clip(9, 24, size=(120, 160))
    assert time.process_time() - start < 2.0  # 0.15 s on an idle core


def test_one_frame_stands_still() -> None:
    clip = make_clip(0, 1, size=(32, 48))
    assert clip.img.shape == (1, 32, 48, 3) and np.abs(clip.flow).max() < 1e-5


@pytest.mark.parametrize(
    ("frames", "size", "objects"), [(0, (120, 160), None), (2, (16, 160), 1), (2, (64, 64), 3)]
)
def test_impossible_clips_are_refused(
    frames: int, size: tuple[int, int], objects: int | None
) -> None:
    with pytest.raises(UsageError, match="made clip: expected"):
        make_clip(0, frames, size=size, objects=objects)
