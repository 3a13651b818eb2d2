"""Known cards, layouts, pairing by number, and what is said when a data set is missing."""

from pathlib import Path

import numpy as np
import pytest

from vsodpipe import catalogue, flow_record, media, tree
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
    assert (video.file, video.flow_folder) == (tmp_path / "clip.mp4", tmp_path / "clip.mp4_FLOW")


def test_inputs_side_by_side_have_flow_folders_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path, "clip/1.jpg")
    for name in ("clip.avi", "clip.mp4", "clip.ts", "clip"):
        if name != "clip":
            (tmp_path / name).write_bytes(b"x")
        (video,) = catalogue.find(str(tmp_path / name), tmp_path / "data").videos
        assert video.flow_folder == tmp_path / f"{name}_FLOW"


@pytest.mark.parametrize("name", [".", "./", "../my", "../my/", "sub/.."])
def test_a_folder_has_its_name_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    touch(tmp_path, "my/1.jpg", "my/sub/note.txt")
    monkeypatch.chdir(tmp_path / "my")
    found = catalogue.find(name, Path("datasets"))
    assert found.name == "my"
    assert found.videos[0].flow_folder.resolve() == (tmp_path / "my_FLOW").resolve()


def test_a_data_set_may_end_in_a_slash(tmp_path: Path) -> None:
    touch(tmp_path, "S/v/RGB/1.jpg")
    assert catalogue.find("S/", tmp_path) == catalogue.find("S", tmp_path)


@pytest.mark.parametrize(
    "img", ["{v}/RGB", "{v}/Imgs", "{v}/Frame", "JPEGImages/480p/{v}", "JPEGImages/{v}"]
)
def test_a_video_may_be_called_like_a_resolution(tmp_path: Path, img: str) -> None:
    touch(tmp_path, *(f"S/{img.format(v=v)}/1.jpg" for v in ("beach_480p", "bear")))
    assert [v.name for v in catalogue.find("S", tmp_path).videos] == ["beach_480p", "bear"]


@pytest.mark.parametrize(
    ("taken", "left"),
    [
        ("blackswan/RGB", "dog/Imgs"),
        ("blackswan/RGB", "JPEGImages/dog"),
        ("JPEGImages/480p/bear", "JPEGImages/dog"),
        ("JPEGImages/bear", "JPEGImages/480p"),
    ],
)
def test_pictures_of_another_layout_do_not_vanish(tmp_path: Path, taken: str, left: str) -> None:
    touch(tmp_path, f"S/{taken}/1.jpg", f"S/{left}/1.jpg")
    with pytest.raises(DataError, match=f"pictures in {left} too"):
        catalogue.find("S", tmp_path)
    (tmp_path / "S" / left / "1.jpg").rename(tmp_path / "S" / left / "note.txt")
    assert len(catalogue.find("S", tmp_path).videos) == 1


def test_folders_that_cannot_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "S/v/RGB/1.jpg", "T/v/RGB/1.jpg")
    below = Path.iterdir

    def refuse(folder: Path) -> object:
        if folder == tmp_path / "S":
            raise PermissionError(13, "Permission denied")
        return below(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match="S: cannot be read: Permission denied"):
        catalogue.find("S", tmp_path)
    assert catalogue.find("T", tmp_path).name == "T"
    assert catalogue.present(tmp_path) == ["S", "T"], "what uses it says that it cannot be read"


def test_hidden_files_are_no_frames(tmp_path: Path) -> None:
    touch(tmp_path, "v/00000.JPG", "v/._00000.JPG", "v/1.png")
    assert {n: f.name for n, f in catalogue.numbered(tmp_path / "v").items()} == {
        0: "00000.JPG",
        1: "1.png",
    }
    assert catalogue.numbered(tmp_path / "none") == {}


def test_still_pictures_are_told_by_their_card(tmp_path: Path) -> None:
    kinds = ("RGB/b.jpg", "RGB/a_10.jpg", "RGB/a_9.jpg", "GT/b.png", "DEPTH/b.png", "FLOW/b/b.jpg")
    touch(tmp_path, *(f"LFSD_test/{name}" for name in kinds))
    videos = catalogue.find("LFSD_test", tmp_path).videos
    assert [v.name for v in videos] == ["a_9", "a_10", "b"]
    (frame,) = videos[2].frames
    assert (frame.gt is None, frame.depth is None, frame.thermal, frame.flow) == (
        False,
        False,
        None,
        None,
    )
    media.write_bytes(tmp_path / "LFSD_test/FLOW/b" / flow_record.FILE, b"{}")
    (frame,) = catalogue.find("LFSD_test", tmp_path).videos[2].frames
    assert frame.flow == tmp_path / "LFSD_test/FLOW/b/b.jpg"
    assert catalogue.present(tmp_path) == ["LFSD_test"]
    touch(tmp_path, "LFSD_test/RGB/b.png")
    with pytest.raises(DataError, match="two pictures differ in their endings"):
        catalogue.find("LFSD_test", tmp_path)


def test_a_path_is_no_name_of_a_data_set(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="^clips/surf: no such file or folder. Check the path. In"):
        catalogue.find("clips/surf", tmp_path)
    with pytest.raises(UsageError, match="'': expected the name"):
        catalogue.find("", tmp_path)


def test_a_link_to_itself_hides_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.jpg").touch()
    (tmp_path / "a/round").symlink_to("round")
    (tmp_path / "a/up").symlink_to(tmp_path)
    assert tree.of_folder(tmp_path) == {"a": {"1.jpg": None, "round": None, "up": {}}}


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
