"""Decoding is strict, masks follow the file's mode, and files appear whole."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from vsodpipe import media
from vsodpipe.errors import DataError

GRID = np.arange(60 * 80 * 3, dtype=np.uint32).reshape(60, 80, 3).astype(np.uint8)


def save(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    picture = Image.fromarray(array)
    if mode == "P":
        picture = Image.fromarray(array, mode="L").convert("P")
        picture.putdata(array.reshape(-1).tolist())
    picture.save(path)
    return path


def test_images_decode_as_opencv_does(tmp_path: Path) -> None:
    smooth = cv2.GaussianBlur(GRID, (9, 9), 3)
    for suffix in (".jpg", ".png", ".bmp"):
        file = tmp_path / f"a{suffix}"
        cv2.imwrite(str(file), smooth)
        expected = cv2.imread(str(file))
        assert expected is not None
        np.testing.assert_array_equal(media.read_image(file), expected[..., ::-1])
        assert media.image_size(file) == (60, 80)


def test_grey_jpeg_becomes_rgb(tmp_path: Path) -> None:
    file = save(tmp_path / "grey.jpg", GRID[..., 0])
    assert media.read_image(file).shape == (60, 80, 3)


@pytest.mark.parametrize("keep", [0.3, 0.9])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_damaged_pictures_are_named(tmp_path: Path, suffix: str, keep: float) -> None:
    file = tmp_path / f"a{suffix}"
    cv2.imwrite(str(file), GRID)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DataError, match="damaged picture") as error:
        media.read_image(file)
    assert str(file) in str(error.value)


def test_a_jpeg_damaged_in_the_middle_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(
        media.encode_jpeg(np.random.default_rng(0).integers(0, 255, (99, 99, 3), "u1"))
    )
    data = bytearray(file.read_bytes())
    data[2000:2400] = b"\x13\x37" * 200
    file.write_bytes(bytes(data))
    with pytest.raises(DataError, match="damaged picture"):
        media.read_image(file)


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        media.read_image(tmp_path / "none.jpg")
    (tmp_path / "text.png").write_text("hello")
    for read in (media.read_image, media.read_mask, media.read_map, media.image_size):
        with pytest.raises(DataError, match="not a picture"):
            read(tmp_path / "text.png")


def test_palette_mask_is_the_union_without_void(tmp_path: Path) -> None:
    index = np.array([[0, 1, 2, 255]], np.uint8)
    picture = Image.frombytes("P", (4, 1), index.tobytes())
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 750 + [224, 224, 192])
    picture.save(tmp_path / "m.png")
    np.testing.assert_array_equal(media.read_mask(tmp_path / "m.png"), [[False, True, True, False]])


def test_grey_mask_is_cut_above_128(tmp_path: Path) -> None:
    file = save(tmp_path / "m.png", np.array([[0, 127, 128, 129, 255]], np.uint8))
    np.testing.assert_array_equal(media.read_mask(file), [[False, False, False, True, True]])


def test_grey_mask_of_zeros_and_ones(tmp_path: Path) -> None:
    file = save(tmp_path / "m.png", np.array([[0, 1]], np.uint8))
    np.testing.assert_array_equal(media.read_mask(file), [[False, True]])
    empty = save(tmp_path / "e.png", np.zeros((2, 2), np.uint8))
    assert not media.read_mask(empty).any()


def test_sixteen_bit_files_are_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "m.png"), np.full((4, 4), 40000, np.uint16))
    for read in (media.read_mask, media.read_map):
        with pytest.raises(DataError):
            read(tmp_path / "m.png")


def test_map_round_trip(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(media.encode_png(GRID[..., 1]))
    np.testing.assert_array_equal(media.read_map(tmp_path / "m.png"), GRID[..., 1])


def test_huge_pictures_are_refused_before_decoding(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    (tmp_path / "bomb.png").write_bytes(bytes(data))
    with pytest.raises(DataError):
        media.read_mask(tmp_path / "bomb.png")


def test_video_frames(tmp_path: Path) -> None:
    file = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 10, (80, 60))
    for level in (0, 120, 240):
        writer.write(np.full((60, 80, 3), level, np.uint8))
    writer.release()
    frames = list(media.video_frames(file))
    assert [round(float(f.mean()), -1) for f in frames] == [0, 120, 240]
    assert media.video_length(file) == 3
    (tmp_path / "text.mp4").write_text("hello")
    for bad in ("text.mp4", "none.mp4"):
        with pytest.raises(DataError, match=bad):
            list(media.video_frames(tmp_path / bad))


def test_replacing_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "a" / "file"
    with pytest.raises(KeyboardInterrupt), media.replacing(target) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert not list(target.parent.iterdir())
    with media.replacing(target) as partial:
        partial.write_text("whole")
    assert target.read_text() == "whole"
    assert [p.name for p in target.parent.iterdir()] == ["file"]


def test_natural_order_and_numbers() -> None:
    assert sorted(["f10", "f2", "a"], key=media.natural_key) == ["a", "f2", "f10"]
    assert media.frame_number("select0616-1_0745") == 745
    assert media.frame_number("frame") is None
