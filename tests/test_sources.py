"""Names on the command line: data sets, paths and globs, each video once and under one name."""

import shutil
from pathlib import Path

import pytest

from vsodpipe import flow_record, media, sources
from vsodpipe.errors import UsageError


def clips(root: Path, *names: str) -> None:
    for name in names:
        media.write_bytes(root / name, b"no video: it is not opened")


def found(names: list[str], root: Path) -> list[tuple[str, str]]:
    dataset = sources.find(names, root)
    return [(v.name, v.flow_folder.name) for v in dataset.videos]


def test_a_glob_of_video_files_in_natural_order(tmp_path: Path) -> None:
    clips(tmp_path, "c/v10.mp4", "c/v9.mp4", "c/v9.avi", "c/notes.txt")
    videos = found([f"{tmp_path}/c/*.mp4"], tmp_path)
    assert videos == [("v9", "v9.mp4_FLOW"), ("v10", "v10.mp4_FLOW")]
    videos = found([f"{tmp_path}/c/v*"], tmp_path)
    assert videos == [
        ("v9.avi", "v9.avi_FLOW"),
        ("v9.mp4", "v9.mp4_FLOW"),
        ("v10", "v10.mp4_FLOW"),
    ]


def test_a_folder_of_video_files(tmp_path: Path) -> None:
    clips(tmp_path, "c d [x]/v10.mp4", "c d [x]/v9.avi", "c d [x]/notes.txt")
    videos = found([f"{tmp_path}/c d [x]"], tmp_path)
    assert videos == [("v9", "v9.avi_FLOW"), ("v10", "v10.mp4_FLOW")]
    clips(tmp_path, "e/1.jpg", "e/v.mp4")
    assert found([f"{tmp_path}/e"], tmp_path) == [("e", "e_FLOW")], "frames come first"


def test_equal_names_get_more_of_their_path(tmp_path: Path) -> None:
    clips(tmp_path, "a/clip.mp4", "b/clip.mp4", "b/other.mp4")
    videos = found([f"{tmp_path}/*/*.mp4", f"{tmp_path}/a/clip.mp4"], tmp_path)
    assert [name for name, _ in videos] == ["a-clip.mp4", "b-clip.mp4", "other"]


def test_globs_of_folders_and_data_sets(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["ball", "cube", "dice"]
    assert [n for n, _ in found(["TINY_train", "TINY_test"], data_root)] == names
    assert {n for n, _ in found(["TINY_*"], data_root)} == set(names), "a glob of the data root"
    monkeypatch.chdir(data_root / "TINY_train")
    assert found(["*/RGB"], data_root) == [("ball-RGB", "RGB_FLOW"), ("cube-RGB", "RGB_FLOW")]
    shutil.copytree(data_root / "TINY_test/dice", data_root / "TINY_train/dice")
    videos = found(["TINY_train", "TINY_test"], data_root)
    assert [n for n, _ in videos] == ["ball", "cube", "TINY_train-dice", "TINY_test-dice"]


def test_flow_is_no_source(tmp_path: Path) -> None:
    clips(tmp_path, "v/1.jpg", "v_FLOW/1.jpg", f"v_FLOW/{flow_record.FILE}")
    assert found([f"{tmp_path}/v*"], tmp_path) == [("v", "v_FLOW")]


def test_nothing_matches(tmp_path: Path, data_root: Path) -> None:
    with pytest.raises(UsageError, match="none/\\*.mp4: no video or folder matches"):
        sources.find(["none/*.mp4"], tmp_path)
    with pytest.raises(UsageError, match="Did you mean ball?"):
        sources.only(sources.find(["TINY_train"], data_root), ["bal"])
    only = sources.only(sources.find(["TINY_train"], data_root), ["cube"])
    assert [v.name for v in only.videos] == ["cube"]
