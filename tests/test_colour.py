import cv2
import numpy as np
import pytest
import torch
from torchvision.utils import flow_to_image

from vsodpipe.errors import DataError, UsageError
from vsodpipe.flows import Flow, colour
from vsodpipe.flows.colour import flow_to_picture, longest_motion


def made_flow(height: int = 90, width: int = 120, smooth: float = 4, seed: int = 0) -> Flow:
    noise = np.random.default_rng(seed).normal(size=(height, width, 2)).astype(np.float32) * 40
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), smooth), np.float32) if smooth else noise


def distance(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def exact(flow: Flow, radius: float | None = None) -> np.ndarray:
    """The rule as a formula, pixel by pixel."""
    u, v = flow.transpose(2, 0, 1)
    length = np.hypot(u, v)
    if radius is None:
        length /= length.max() + np.finfo(np.float32).eps
    else:
        length = np.minimum(length / np.float32(radius), 1)
    position = (np.arctan2(-v, -u) / np.float32(np.pi) + 1) / 2 * 54
    hue = position.astype(np.intp)
    wheel = colour._wheel()
    ink = 255 - wheel[hue]
    ink += (position - hue)[..., None] * (wheel[hue] - wheel[(hue + 1) % 55])
    return (255 - length[..., None] * ink).astype(np.uint8)


@pytest.mark.parametrize("radius", [None, 0.7, 20.0, 500.0])
@pytest.mark.parametrize("smooth", [0, 1, 8])
def test_the_table_is_within_2_levels_of_the_formula(smooth: float, radius: float | None) -> None:
    for seed in range(3):
        flow = made_flow(480, 854, smooth, seed)
        assert distance(flow_to_picture(flow, radius), exact(flow, radius)) <= 2
        known = flow_to_picture(flow, radius, longest_motion(flow))
        np.testing.assert_array_equal(known, flow_to_picture(flow, radius))


def test_the_whole_disc_is_within_2_levels_of_the_formula() -> None:
    """Every motion in steps of a thousandth of the radius, among them both signs of zero."""
    axis = np.arange(-1000, 1001, dtype=np.float32)
    flow = np.stack(np.meshgrid(axis, np.concatenate([[-0.0], axis])), axis=-1).astype(np.float32)
    assert distance(flow_to_picture(flow, 1000), exact(flow, 1000)) <= 2


def test_frames_of_any_shape() -> None:
    """OpenCV's remap itself ends at 32766 px a side."""
    for shape in ((1, 1, 2), (2, 40_000, 2), (40_000, 1, 2)):
        flow = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        assert distance(flow_to_picture(flow), exact(flow)) <= 2
    parts = made_flow(40, 60)[::2, ::-1].astype(np.float64)
    np.testing.assert_array_equal(flow_to_picture(parts), flow_to_picture(np.float32(parts)))


@pytest.mark.parametrize("smooth", [0, 1, 8])
def test_agrees_with_torchvision(smooth: float) -> None:
    """torchvision 0.29 flow_to_image on a single frame, 2 levels of 255."""
    flow = made_flow(smooth=smooth)
    theirs = flow_to_image(torch.from_numpy(flow).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    assert distance(flow_to_picture(flow), theirs) <= 2


def test_every_angle_agrees_with_torchvision() -> None:
    """torchvision 0.29, 2 levels; whole turns and both signs of zero are where atan2 jumps."""
    angles = np.linspace(-2 * np.pi, 2 * np.pi, 3601, dtype=np.float32)
    flow = np.stack([np.cos(angles), np.sin(angles)], axis=-1)[None]
    flow = np.concatenate([flow, [[(1, 0.0), (1, -0.0), (-1, 0.0), (-1, -0.0)]]], axis=1)
    flow = flow.astype(np.float32)
    theirs = flow_to_image(torch.from_numpy(flow).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    assert distance(flow_to_picture(flow), theirs) <= 2


def test_no_motion_is_white() -> None:
    still = np.zeros((5, 7, 2), np.float32)
    for radius in (None, 3.0):
        picture = flow_to_picture(still, radius)
        assert picture.dtype == np.uint8 and picture.shape == (5, 7, 3)
        assert (picture == 255).all()


def test_the_largest_motion_of_the_frame_is_full_colour() -> None:
    flow = made_flow()
    np.testing.assert_array_equal(flow_to_picture(flow), flow_to_picture(flow * 4))
    row, column = np.unravel_index(np.linalg.norm(flow, axis=2).argmax(), flow.shape[:2])
    assert flow_to_picture(flow)[row, column].min() <= 1


def test_radius_is_full_colour_and_clips() -> None:
    right = np.array([[(0, 0), (2, 0), (4, 0), (8, 0), (1000, 0)]], np.float32)
    picture = flow_to_picture(right, radius=8)
    np.testing.assert_array_equal(picture[0, 3], picture[0, 4])
    np.testing.assert_array_equal(picture[0, 3], (255, 0, 0))
    np.testing.assert_array_equal(picture[0, :, 1], (255, 191, 127, 0, 0))
    # The frame's own rule, when the radius is the frame's largest motion.
    flow = made_flow()
    longest = float(np.hypot(flow[..., 0], flow[..., 1]).max())
    assert distance(flow_to_picture(flow, longest), flow_to_picture(flow)) <= 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    flow = made_flow()
    flow[3, 4, 1] = bad
    for radius in (None, 8.0):
        with pytest.raises(DataError, match="expected finite numbers"):
            flow_to_picture(flow, radius)


def test_other_arguments_are_refused() -> None:
    for shape in ((5, 7), (2, 5, 7), (0, 7, 2)):
        with pytest.raises(DataError, match=r"expected a flow \(H, W, 2\)"):
            flow_to_picture(np.zeros(shape, np.float32))
    for radius in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(UsageError, match="expected a radius above 0"):
            flow_to_picture(made_flow(), radius)


def test_the_flow_is_left_alone() -> None:
    flow = made_flow()
    before = flow.copy()
    flow_to_picture(flow)
    flow_to_picture(flow, 2.0)
    np.testing.assert_array_equal(flow, before)
