"""Decoding is strict, masks follow the file's mode, and files appear whole."""

import io
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from vsodpipe import media, video_file
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
    for read in (media.read_mask, media.read_map, media.read_image):
        with pytest.raises(DataError, match="expected"):
            read(tmp_path / "m.png")


def test_map_round_trip(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(media.encode_png(GRID[..., 1]))
    np.testing.assert_array_equal(media.read_map(tmp_path / "m.png"), GRID[..., 1])


def test_published_maps(tmp_path: Path) -> None:
    grey = GRID[..., 1]
    for channels in (1, 3, 4):
        cv2.imwrite(str(tmp_path / "m.png"), np.dstack([grey] * channels))
        np.testing.assert_array_equal(media.read_prediction(tmp_path / "m.png"), grey)
    cv2.imwrite(str(tmp_path / "grey.jpg"), cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))
    assert media.read_prediction(tmp_path / "grey.jpg").shape == grey.shape
    objects = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    objects.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    objects.save(tmp_path / "ids.png")
    np.testing.assert_array_equal(media.read_prediction(tmp_path / "ids.png"), [[0, 255, 255]])
    objects.putpalette([0, 0, 0, 90, 90, 90, 200, 200, 200])
    objects.save(tmp_path / "levels.png")
    np.testing.assert_array_equal(media.read_prediction(tmp_path / "levels.png"), [[0, 90, 200]])
    overlay = np.zeros((4, 5, 3), np.uint8)
    overlay[..., 2] = 200
    cv2.imwrite(str(tmp_path / "overlay.png"), overlay)
    with pytest.raises(DataError, match=r"overlay.png: a picture in colours"):
        media.read_prediction(tmp_path / "overlay.png")


def test_huge_pictures_are_refused_before_decoding(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(bytes(data))
    for read in (media.read_mask, media.read_image, media.image_size):
        with pytest.raises(DataError, match=r"bomb\.png"):
            read(tmp_path / "bomb.png")


def write_clip(file: Path, code: str = "MJPG", frames: int = 3, noise: int = 1) -> Path:
    writer = cv2.VideoWriter(str(file), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*code), 10, (80, 60))
    rng = np.random.default_rng(0)
    for t in range(frames):
        level = 120 * (t % 3)
        writer.write(rng.integers(level, level + noise, (60, 80, 3)).clip(0, 255).astype(np.uint8))
    writer.release()
    return file


def test_video_frames(tmp_path: Path) -> None:
    file = write_clip(tmp_path / "clip.avi")
    frames = list(video_file.frames(file))
    assert [round(float(f.mean()), -1) for f in frames] == [0, 120, 240]
    assert video_file.length(file) == 3
    (tmp_path / "text.mp4").write_text("hello")
    for bad in ("text.mp4", "none.mp4"):
        with pytest.raises(DataError, match=bad):
            list(video_file.frames(tmp_path / bad))


@pytest.mark.parametrize(
    ("name", "code"),
    [("a.ts", "mp4v"), ("a.flv", "FLV1"), ("a.3gp", "mp4v"), ("a", "MJPG"), ("10:30.mkv", "mp4v")],
)
def test_any_container_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: str
) -> None:
    suffix = Path(name).suffix or ".avi"
    write_clip(tmp_path / f"made{suffix}", code, noise=200).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(list(video_file.frames(name))) == 3


def test_a_video_that_ends_early_is_refused(tmp_path: Path) -> None:
    file = write_clip(tmp_path / "clip.avi", frames=60)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DataError, match=r"expected 60 frames, only \d+ could.*ffmpeg -i"):
        list(video_file.frames(file))


def test_broken_videos_print_nothing_of_their_own(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "clip.avi", frames=60)
    (tmp_path / "half.avi").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "text.mp4").write_text("hello")
    code = (
        "import sys\nfrom vsodpipe import media, video_file\nfor file in sys.argv[1:]:\n"
        "    try:\n        video_file.length(file), list(video_file.frames(file))\n"
        "    except media.DataError:\n        pass\n"
    )
    files = [str(tmp_path / name) for name in ("half.avi", "text.mp4")]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("foo://x", "foo://x: cannot be read: Protocol not known"),
        ("memory://nothing", "memory://nothing: cannot be read"),
        ("a\0b", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_paths_that_lead_nowhere(path: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        media.read_bytes(path)


def test_a_protocol_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(media.fsspec, "open", refuse)
    with pytest.raises(DataError, match="s3://a/b: cannot be read: Install s3fs to access S3."):
        media.read_bytes("s3://a/b")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe\xfd", b"[" * 100_000, b"9" * 9999])
def test_files_that_are_no_json(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.json: not a JSON file .*Restore") as error:
        media.read_json(file)
    assert "\n" not in str(error.value)
    file.write_text('{"a": [1]}')
    assert media.read_json(file) == {"a": [1]}


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
