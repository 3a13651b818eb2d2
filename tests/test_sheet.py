"""Contact sheets: size, content of the cells, the file."""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vsodpipe.errors import DataError
from vsodpipe.sheet import Cell, contact_sheet

RED, BLUE = (200, 30, 30), (20, 40, 220)


def _plain(height: int, width: int, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    return np.full((height, width, 3), colour, np.uint8)


def _box(sheet: NDArray[np.uint8], colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Return x, y, width and height of the pixels of one colour, which must fill that box."""
    found = (sheet == colour).all(axis=-1)
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    width, height = int(columns[-1]) - x + 1, int(rows[-1]) - y + 1
    assert found.sum() == width * height
    return x, y, width, height


def test_cells_hold_the_pictures_at_one_height() -> None:
    green = (10, 160, 60)
    rows: list[tuple[str, list[Cell]]] = [
        ("dog\n00000", [_plain(50, 80, RED), _plain(300, 300, BLUE)]),
        ("dog\n00001", [_plain(25, 40, green), None]),
    ]
    sheet = contact_sheet(rows, ["frame", "flow"], height=100)
    red, blue, below = _box(sheet, RED), _box(sheet, BLUE), _box(sheet, green)
    assert red[2:] == (160, 100) and blue[2:] == (100, 100) and below[2:] == (160, 100)
    assert red[1] == blue[1] and red[0] + 160 < blue[0]  # side by side
    assert below[0] == red[0] and below[1] >= red[1] + 100  # one under the other
    assert sheet.dtype == np.uint8
    assert sheet.shape[0] > below[1] + 100 and sheet.shape[1] > blue[0] + 100
    assert (sheet[0] == 255).all() and (sheet[:, 0] == 255).all()  # white around
    # labels at the left, titles above
    assert (sheet[red[1] : red[1] + 100, : red[0] - 1].min(axis=(0, 1)) < 150).all()
    assert (sheet[: red[1] - 1].min(axis=(0, 1)) < 100).all()


def test_a_picture_of_the_right_height_is_not_touched() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    sheet = contact_sheet([("", [picture])], ["frame"], height=40)
    corners = np.lib.stride_tricks.sliding_window_view(sheet, (40, 60, 3))[:, :, 0]
    assert (corners[:, :, 0, 0] == picture[0, 0]).all(axis=-1).any()
    assert any((window == picture).all() for window in corners.reshape(-1, 40, 60, 3))


def test_masks_and_grey_maps() -> None:
    mask = np.zeros((20, 30), bool)
    mask[:, :15] = True
    grey = np.full((20, 30), 77, np.uint8)
    sheet = contact_sheet([("a", [mask, grey])], ["mask", "map"], height=60)
    assert _box(sheet, (77, 77, 77))[2:] == (90, 60)
    assert _box(sheet, (0, 0, 0))[2] == pytest.approx(45, abs=2)  # the empty half of the mask


def test_long_titles_do_not_meet() -> None:
    rows = [("", [_plain(50, 10, RED), _plain(50, 10, BLUE)])]
    narrow = contact_sheet(rows, ["a", "b"])
    wide = contact_sheet(rows, ["a very long title", "another very long title"])
    assert wide.shape[1] > narrow.shape[1] + 200


def test_the_file_is_the_sheet_and_appears_by_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, seen = tmp_path / "new" / "sheet.png", []
    rename = os.replace

    def watched(source: Path, destination: Path) -> None:
        assert Path(destination) == target and not target.exists()
        with Image.open(source) as picture:  # complete before the rename, in the same folder
            picture.load()
        seen.append(Path(source).parent)
        rename(source, destination)

    monkeypatch.setattr(os, "replace", watched)
    sheet = contact_sheet([("a", [_plain(30, 40, RED)])], ["frame"], target)
    assert seen == [target.parent]
    with Image.open(target) as picture:
        assert picture.format == "PNG"
        assert (np.asarray(picture) == sheet).all()
    assert [p.name for p in target.parent.iterdir()] == ["sheet.png"]


def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "sheet.png"
    target.write_bytes(b"before")

    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DataError, match="sheet.png: cannot be written: "):
        contact_sheet([("a", [_plain(30, 40, RED)])], ["frame"], target)
    assert target.read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


def test_wrong_cells_are_refused() -> None:
    with pytest.raises(DataError, match="each of the 2 titles, got 1 .*'dog'"):
        contact_sheet([("dog", [_plain(3, 3, RED)])], ["frame", "mask"])
    wrong = np.zeros((3, 3, 2), np.float32)
    with pytest.raises(DataError, match=r"float32 \(3, 3, 2\) \(row 'dog', column 'flow'\)"):
        contact_sheet([("dog", [wrong])], ["flow"])  # type: ignore[list-item]
    with pytest.raises(DataError, match="at least one title"):
        contact_sheet([], [])
