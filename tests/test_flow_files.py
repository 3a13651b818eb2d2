import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from vsodpipe.errors import DataError
from vsodpipe.flows import Flow
from vsodpipe.flows.files import read_flo, read_kitti, to_steps, write_flo, write_kitti


def made_flow(height: int = 5, width: int = 7) -> Flow:
    return np.random.default_rng(0).normal(size=(height, width, 2)).astype(np.float32)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (48, 3)])
def test_what_is_written_is_read(tmp_path: Path, size: tuple[int, int]) -> None:
    flow = made_flow(*size)
    write_flo(tmp_path / "a.flo", flow)
    found = read_flo(str(tmp_path / "a.flo"))
    assert found.dtype == np.float32 and found.flags.writeable
    np.testing.assert_array_equal(found, flow)


def test_bytes_are_middleburys(tmp_path: Path) -> None:
    file = tmp_path / "a.flo"
    write_flo(file, np.array([[(1, 2), (3, 4)]], np.float32))
    assert file.read_bytes() == struct.pack("<fii4f", 202021.25, 2, 1, 1, 2, 3, 4)
    flow = made_flow()
    write_flo(file, flow)
    np.testing.assert_array_equal(cv2.readOpticalFlow(str(file)), flow)  # a foreign reader


def test_views_and_other_floats_are_written_as_float32(tmp_path: Path) -> None:
    flow = made_flow(6, 8)
    write_flo(tmp_path / "a.flo", flow[::2, ::-1].astype(np.float64))
    np.testing.assert_array_equal(read_flo(tmp_path / "a.flo"), flow[::2, ::-1])


def test_a_file_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.flo"
    write_flo(file, made_flow())
    before = file.read_bytes()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", interrupted)
        write_flo(file, made_flow() + 1)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected Middlebury's header"),
        (b"PIEH\x01", "expected Middlebury's header"),
        (struct.pack("<fii2f", 202021.0, 1, 1, 0, 0), "expected Middlebury's header"),
        (struct.pack(">fii2f", 202021.25, 1, 1, 0, 0), "expected Middlebury's header"),
        (struct.pack("<4sii", b"PIEH", 0, 5), "got 0x5"),
        (struct.pack("<4sii", b"PIEH", 3, -1), "got 3x-1"),
        (struct.pack("<4sii", b"PIEH", 2**31 - 1, 2**31 - 1), "expected sides of 1 to 99999 px"),
        (struct.pack("<4sii", b"PIEH", 90_000, 90_000), "expected 64800000012 bytes"),
        (struct.pack("<4sii3f", b"PIEH", 1, 2, 0, 0, 0), "expected 28 bytes for 1x2, got 24"),
        (struct.pack("<4sii5f", b"PIEH", 1, 2, *range(5)), "expected 28 bytes for 1x2, got 32"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "broken.flo"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_flo(file)
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.flo", tmp_path):
        with pytest.raises(DataError, match="could not be read") as caught:
            read_flo(path)
        assert str(path) in str(caught.value)


def test_what_is_not_a_flow_is_not_written(tmp_path: Path) -> None:
    for shape in ((5, 7), (2, 5, 7), (0, 7, 2), (1, 100_000, 2)):
        with pytest.raises(DataError, match=r"expected a flow \(H, W, 2\)"):
            write_flo(tmp_path / "a.flo", np.zeros(shape, np.float32))
    assert not list(tmp_path.iterdir())


def test_kitti_is_read_back_within_a_128th(tmp_path: Path) -> None:
    flow = made_flow(48, 31) * 100
    write_kitti(tmp_path / "a.png", flow)
    found, valid = read_kitti(tmp_path / "a.png")
    assert found.dtype == np.float32 and valid.dtype == bool and valid.all()
    assert np.abs(found - flow).max() <= 1 / 128
    write_kitti(tmp_path / "b.png", found)
    np.testing.assert_array_equal(read_kitti(tmp_path / "b.png")[0], found)


def test_kitti_channels_are_in_the_devkits_order(tmp_path: Path) -> None:
    """u = (R - 2^15) / 64, v = (G - 2^15) / 64, B says whether it is valid."""
    file = tmp_path / "a.png"
    write_kitti(file, np.array([[(1, -2), (-512, 511 + 63 / 64)]], np.float32))
    bgr = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)  # type: ignore[union-attr]
    assert bgr.dtype == np.uint16
    assert bgr[0].tolist() == [[1, 2**15 - 128, 2**15 + 64], [1, 2**16 - 1, 0]]
    cv2.imwrite(str(file), np.array([[(0, 7, 7), (1, 2**15, 2**15 + 32)]], np.uint16))
    flow, valid = read_kitti(file)
    assert valid.tolist() == [[False, True]] and flow.tolist() == [[[0, 0], [0.5, 0]]]


def test_what_is_no_kitti_png_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    for image in (np.zeros((2, 3, 3), np.uint8), np.zeros((2, 3), np.uint16)):
        cv2.imwrite(str(file), image)
        with pytest.raises(DataError, match=r"3 channels of 16 bits.*a\.png"):
            read_kitti(file)
    for content in (b"", b"text"):
        file.write_bytes(content)
        with pytest.raises(DataError, match="got no picture"):
            read_kitti(file)
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(DataError, match="could not be read"):
            read_kitti(path)


@pytest.mark.parametrize("motion", [512, -512.01, 1e9, np.nan, np.inf])
def test_motion_beyond_16_bits_is_refused(tmp_path: Path, motion: float) -> None:
    flow = made_flow()
    flow[1, 2, 0] = motion
    with pytest.raises(DataError, match="±512 px.*frame 7"):
        write_kitti(tmp_path / "a.png", flow, "frame 7")
    with pytest.raises(DataError, match=r"±512 px.*a\.png"):
        write_kitti(tmp_path / "a.png", flow)
    with pytest.raises(DataError, match=r"expected a flow \(H, W, 2\)"):
        to_steps(flow[0], "frame 7")
    assert not list(tmp_path.iterdir())
