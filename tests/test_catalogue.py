"""Known cards, layouts, pairing by number, and what is said when a data set is missing."""

from pathlib import Path

import numpy as np
import pytest

from vsodpipe import catalogue, flow_record, media
from vsodpipe.errors import DataError, UsageError

PICTURE = media.encode_jpeg(np.zeros((8, 8, 3), np.uint8))


def touch(root: Path, *names: str) -> None:
    for name in names:
        media.write_bytes(root / name, PICTURE)


def test_davis_card_has_the_official_counts() -> None:
    card = catalogue.cards()["davis"]
    counts = {split: (len(s.videos), sum(s.videos.values())) for split, s in card.splits.items()}
    assert counts == {"train": (30, 2079), "test": (20, 1376)}
    assert catalogue.card_of("DAVIS_test") == (card, "test")
    assert catalogue.card_of("OTHER_test") is None


@pytest.mark.parametrize(
    ("img", "gt"),
    [
        ("{v}/RGB/{f}", "{v}/GT/{f}"),
        ("{v}/Imgs/{v}_{f}", "{v}/ground-truth/{v}_{f}"),
        ("{v}/Frame/{f}", "{v}/GT/{f}"),
        ("JPEGImages/480p/{v}/{f}", "Annotations/480p/{v}/{f}"),
        ("JPEGImages/{v}/{f}", "Annotations/{v}/{f}"),
    ],
)
def test_layouts_are_told_apart(tmp_path: Path, img: str, gt: str) -> None:
    for video, frames in (("b10", ("0009", "0010")), ("b9", ("0001",))):
        for f in frames:
            touch(tmp_path, f"SET/{img.format(v=video, f=f)}.jpg")
        touch(tmp_path, f"SET/{gt.format(v=video, f=frames[-1])}.png")
    found = catalogue.find("SET", tmp_path)
    assert [v.name for v in found.videos] == ["b9", "b10"]
    frames = found.videos[1].frames
    assert [f.name[-4:] for f in frames] == ["0009", "0010"]
    assert [f.gt is None for f in frames] == [True, False], "paired by number, not by place"
    assert catalogue.present(tmp_path) == ["SET"]


def test_unpadded_numbers_are_in_order(tmp_path: Path) -> None:
    touch(tmp_path, *(f"S/v/RGB/f{n}.jpg" for n in (10, 2, 1)))
    assert [f.name for f in catalogue.find("S", tmp_path).videos[0].frames] == ["f1", "f2", "f10"]


def test_flow_counts_only_with_its_record(tmp_path: Path) -> None:
    touch(tmp_path, "S/v/RGB/1.jpg", "S/v/FLOW/1.jpg")
    assert catalogue.find("S", tmp_path).videos[0].frames[0].flow is None
    media.write_bytes(tmp_path / "S/v/FLOW" / flow_record.FILE, b"{}")
    assert catalogue.find("S", tmp_path).videos[0].frames[0].flow is not None


def test_a_folder_of_frames_and_a_video_file_need_no_card(tmp_path: Path) -> None:
    touch(tmp_path, "my/1.jpg", "my/2.jpg")
    folder = catalogue.find(str(tmp_path / "my"), tmp_path / "data")
    assert len(folder.videos[0].frames) == 2
    assert folder.videos[0].flow_folder == tmp_path / "my_FLOW"
    (tmp_path / "clip.mp4").write_bytes(b"x")
    video = catalogue.find(str(tmp_path / "clip.mp4"), tmp_path / "data").videos[0]
    assert (video.file, video.flow_folder) == (tmp_path / "clip.mp4", tmp_path / "clip_FLOW")


def test_missing_data_sets_are_explained(tmp_path: Path) -> None:
    touch(tmp_path, "MINE_train/v/RGB/1.jpg")
    with pytest.raises(UsageError) as error:
        catalogue.find("DAVIS_trian", tmp_path)
    for words in (
        "Did you mean DAVIS_train?",
        "Known:",
        "DAVIS_test",
        f"In {tmp_path}: MINE_train",
    ):
        assert words in str(error.value)
    with pytest.raises(UsageError, match="vsodpipe import davis"):
        catalogue.find("DAVIS_train", tmp_path)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["S/v/RGB/a.jpg"], "expected a frame number"),
        (["S/v/RGB/1.jpg", "S/v/RGB/01.jpg"], "is there twice"),
        (["S/v/RGB/1.jpg", "S/v/GT/2.png"], "1 masks have no frame"),
        (["S/v/RGB/note.txt"], "found no picture"),
        (["S/note.txt"], "no frames found"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path: Path, files: list[str], words: str) -> None:
    touch(tmp_path, *files)
    with pytest.raises(DataError) as error:
        catalogue.find("S", tmp_path)
    assert words in str(error.value)
    assert str(tmp_path / "S") in str(error.value)
