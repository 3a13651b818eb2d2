"""Frames beside their flow: the sheet, the video, what is refused."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers import files_below
from vsodpipe import catalogue, media, preview, video_file
from vsodpipe.errors import DataError, UsageError

Run = Callable[..., tuple[int, str, str]]


def shown(root: Path) -> list[preview.Shown]:
    return [(v, v.flow_folder) for v in catalogue.find("TINY_train", root).videos]


@pytest.mark.parametrize("name", ["look.png", "deep/look.jpg"])
def test_a_sheet_has_eight_frames_over_all_videos(with_flow: Path, name: str) -> None:
    path = with_flow / name
    preview.write(path, shown(with_flow))
    sheet = media.read_image(path)
    assert sheet.shape[0] > 4 * preview.HEIGHT
    assert sheet.shape[1] > 4 * preview.HEIGHT * 64 / 48
    assert not [n for n in files_below(with_flow) if "partial" in n]


def test_a_frame_stands_above_its_own_flow(tmp_path: Path) -> None:
    for t in range(3):
        frame, flow = (np.full((180, 240, 3), level, np.uint8) for level in (20 * t, 20 * t + 100))
        media.write_bytes(tmp_path / f"v/f{t + 8}.png", media.encode_png(frame))
        media.write_bytes(tmp_path / f"v_FLOW/f{t + 8}.png", media.encode_png(flow))
    (video,) = catalogue.find(str(tmp_path / "v"), tmp_path).videos
    preview.write(tmp_path / "look.png", [(video, video.flow_folder)])
    sheet = media.read_image(tmp_path / "look.png")[..., 0].astype(int)
    for t in range(3):
        columns = np.flatnonzero((sheet == 20 * t + 100).sum(axis=0) >= 180)
        assert len(columns) == 240
        column = sheet[:, columns[120]]
        assert (column == 20 * t).sum() >= 180
        assert np.flatnonzero(column == 20 * t)[90] < np.flatnonzero(column == 20 * t + 100)[90]


def test_a_film_has_every_entry_at_one_size(with_flow: Path) -> None:
    path = with_flow / "look.mp4"
    preview.write(path, shown(with_flow))
    frames = list(video_file.frames(path))
    assert [f.shape for f in frames] == [(48, 128, 3)] * (5 + 4)
    video, folder = shown(with_flow)[0]
    for half, file in ((slice(64), video.frames[2].img), (slice(64, None), folder / "00002.jpg")):
        difference = frames[2][:, half].astype(float) - media.read_image(file)
        assert np.abs(difference).mean() < 12
    assert not [n for n in files_below(with_flow) if n.startswith(".")]


def test_a_video_file_and_sizes_that_differ(tmp_path: Path, vsodpipe: Run) -> None:
    rng = np.random.default_rng(0)
    for name, size in (("a.avi", (64, 48)), ("b.avi", (48, 64))):
        code = cv2.VideoWriter.fourcc(*"MJPG")
        writer = cv2.VideoWriter(str(tmp_path / name), code, 10, size)
        for _ in range(3):
            writer.write(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
        writer.release()
    call = ("flow", "*.avi", "--engine", "dis", "--preview", "look.mp4")
    code_, _, err = vsodpipe(*call)
    assert code_ == 0 and "Preview: look.mp4" in err, err
    assert [f.shape for f in video_file.frames(tmp_path / "look.mp4")] == [(48, 128, 3)] * 6
    capture = cv2.VideoCapture(str(tmp_path / "look.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == 10
    capture.release()


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"look.gif: expected a file that ends in .png, .jpg"):
        preview.check(Path("look.gif"), ("jpg",))
    with pytest.raises(UsageError, match="needs flow pictures. Add --format jpg"):
        preview.check(Path("look.png"), ("flo", "raw"))
    for name in ("look.png", "look.mp4"):
        with pytest.raises(DataError, match="no flow picture"):
            preview.write(tmp_path / name, [])
    assert not files_below(tmp_path)
