import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from vsodpipe.errors import DataError
from vsodpipe.flows import Flow
from vsodpipe.flows.files import read_flo, write_flo


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
