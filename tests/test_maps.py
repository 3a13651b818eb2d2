"""Maps in the layouts that people publish, found and matched by name."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from map_sets import columns, make_source, write, write_maps
from vsodpipe import maps
from vsodpipe.errors import DataError

DATA = {"DAVIS_test": {"car-shadow": [1, 2], "dog": [3]}, "DAVIS_train": {"bear": [1]}}
FRAMES = {("car-shadow", "00000"), ("car-shadow", "00001"), ("dog", "00000")}


@pytest.mark.parametrize(
    "pattern",
    [
        "{v}/{f}.png",
        "{v}/{f}.jpg",
        "{v}/{v}_{f}.png",
        "{v}_{f}.png",
        "{v}-{f}.PNG",
        "Car_Shadow|Dog/{f}.png",
    ],
)
def test_layouts_below_a_data_set(tmp_path: Path, pattern: str) -> None:
    source = make_source(tmp_path, DATA)
    other = dict(zip(("car-shadow", "dog"), pattern.partition("/")[0].split("|"), strict=False))
    for video, frame in FRAMES:
        name = f"{other[video]}/{{f}}.png" if "|" in pattern else pattern
        write(tmp_path / "maps" / name.format(v=video, f=frame), columns(1))
    write(tmp_path / "maps" / "readme" / "stray.png", columns(1))
    found = maps.match(tmp_path / "maps", source.split("DAVIS_test"))
    assert found.files.keys() == FRAMES
    assert found.extra == ("readme/stray.png",)
    for (video, frame), file in found.files.items():
        assert frame in file.name and video[:3] in str(file).lower()


def test_bare_names_of_one_video_and_of_stills(tmp_path: Path) -> None:
    source = make_source(tmp_path, {"A_test": {"one": [1, 2]}, "B_test": {"x": [1], "y": [2]}})
    for frame in ("00000", "00001"):
        write(tmp_path / "maps" / f"{frame}.png", columns(1))
    found = maps.match(tmp_path / "maps", source.split("A_test"))
    assert found.files.keys() == {("one", "00000"), ("one", "00001")}
    assert not maps.match(tmp_path / "maps", source.split("B_test")).files, "x or y?"


def test_classes_as_folders_and_official_names(tmp_path: Path) -> None:
    source = make_source(
        tmp_path,
        {"YouTube-Objects_test": {"cat_0001_002": [1]}, "DAVSOD_easy35": {"select_0616_1": [1]}},
    )
    write(tmp_path / "y" / "cat" / "0001" / "002" / "00000.png", columns(1))
    found = maps.match(tmp_path / "y", source.split("YouTube-Objects_test"))
    assert ("cat_0001_002", "00000") in found.files
    for number, name in enumerate(
        ("select0616-1/select0616-1_00000.png", "select0616-1/00000.png")
    ):
        write(tmp_path / f"d{number}" / name, columns(1))
        found = maps.match(tmp_path / f"d{number}", source.split("DAVSOD_easy35"))
        assert ("select_0616_1", "00000") in found.files


def test_the_name_of_the_mask_and_of_the_picture(tmp_path: Path) -> None:
    source = make_source(tmp_path, {"A_test": {"one": [1, 2]}})
    split = source.split("A_test")
    video = split.videos[0]
    frames = tuple(
        replace(frame, gt=f"gt/mask{t}.png", img=f"img/picture{t}.jpg")
        for t, frame in enumerate(video.frames)
    )
    split = split.model_copy(update={"videos": (video.model_copy(update={"frames": frames}),)})
    write(tmp_path / "m" / "one" / "mask0.png", columns(1))
    write(tmp_path / "m" / "one" / "picture1.png", columns(1))
    assert {file.name for file in maps.match(tmp_path / "m", split).files.values()} == {
        "mask0.png",
        "picture1.png",
    }


def test_two_maps_of_one_frame_and_one_map_of_two(tmp_path: Path) -> None:
    source = make_source(tmp_path, {"A_test": {"a": [1], "a_b": [1]}})
    split = source.split("A_test")
    write(tmp_path / "m" / "a" / "00000.png", columns(1))
    write(tmp_path / "m" / "a" / "00000.jpg", columns(1))
    with pytest.raises(DataError, match="are both the map of a/00000"):
        maps.match(tmp_path / "m", split)
    write(tmp_path / "n" / "a" / "00000.png", columns(1))
    write(tmp_path / "n" / "a_00000.png", columns(1))
    with pytest.raises(DataError, match="are both the map of a/00000"):
        maps.match(tmp_path / "n", split)
    # nested folders say which video it is even where the flat names are the same
    frame = replace(split.videos[0].frames[0], name="b_00000")
    video = split.videos[0].model_copy(update={"frames": (frame,)})
    split = split.model_copy(update={"videos": (video, split.videos[1])})
    write(tmp_path / "o" / "a" / "b_00000.png", columns(1))
    write(tmp_path / "o" / "a_b" / "00000.png", columns(2))
    found = {
        title: file.parent.name for title, file in maps.match(tmp_path / "o", split).files.items()
    }
    assert found == {("a", "b_00000"): "a", ("a_b", "00000"): "a_b"}
    write(tmp_path / "p" / "a_b_00000.png", columns(1))
    with pytest.raises(DataError, match="may be the map of a/b_00000 and of a_b/00000"):
        maps.match(tmp_path / "p", split)


def test_what_is_missing_is_listed(tmp_path: Path) -> None:
    wanted = {"a": ["0", "1"], "b": ["0"], "c": ["0", "1"]}
    there = maps.Matched({("c", "0"): tmp_path}, ())
    assert maps.missing(there, wanted) == "4 of 5 maps are missing: a (all 2), b/0, c/1"
    assert maps.missing(there, {"c": ["0"]}) == ""
    assert maps.listed([str(n) for n in range(8)]) == "0, 1, 2, 3, 4 and 3 more"


@pytest.mark.parametrize(
    "name", ["DAVIS_test", "DAVIS", "davis", "Davis-TE", "DAVIS16", "davis_val"]
)
def test_names_of_a_data_set(tmp_path: Path, name: str) -> None:
    source = make_source(tmp_path, DATA)
    write(tmp_path / "mine" / name / "dog" / "00000.png", columns(1))
    for path in (tmp_path / "mine", tmp_path / "mine" / name):
        (found,) = maps.find([path], [source])
        assert (found.method, found.split.dataset) == ("mine", "DAVIS_test")
        assert found.path == tmp_path / "mine" / name


def test_methods_and_runs(tmp_path: Path) -> None:
    source = make_source(tmp_path, DATA)
    for place in ("r/A/DAVIS", "r/B/davis_test", "r/B/DAVIS_train", "run1/maps/DAVIS_test"):
        write(tmp_path / place / "dog" / "00000.png", columns(1))
    write(tmp_path / "r" / "notes" / "x.png", columns(1))
    (tmp_path / "run1" / "run.json").write_text("{}")
    found = maps.find([tmp_path / "r", tmp_path / "run1" / "maps"], [source])
    assert [(f.method, f.split.dataset) for f in found] == [
        ("A", "DAVIS_test"),
        ("B", "DAVIS_train"),
        ("B", "DAVIS_test"),
        ("run1", "DAVIS_test"),
    ]
    write(tmp_path / "s" / "A" / "DAVIS" / "dog" / "00000.png", columns(1))
    alike = maps.find([tmp_path / "r" / "A", tmp_path / "s" / "A"], [source])
    assert [f.method for f in alike] == ["r/A", "s/A"]


def test_a_folder_of_videos_and_no_folder(tmp_path: Path) -> None:
    source = make_source(tmp_path, DATA)
    write(tmp_path / "results" / "dog" / "00000.png", columns(1))
    (found,) = maps.find([tmp_path / "results"], [source])
    assert (found.method, found.split.dataset) == ("results", "DAVIS_test")
    with pytest.raises(DataError, match="DAVIS_test is in 2 manifests"):
        maps.find([tmp_path / "results"], [source, source])
    with pytest.raises(DataError, match="no such folder of maps"):
        maps.find([tmp_path / "none"], [source])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected a folder of one of the data sets DAVIS_test"):
        maps.find([tmp_path / "empty"], [source])
    write(tmp_path / "m" / "DAVIS" / "dog" / "00000.png", columns(1))
    write(tmp_path / "m" / "DAVIS_test" / "dog" / "00000.png", columns(1))
    with pytest.raises(DataError, match="DAVIS and DAVIS_test are both DAVIS_test"):
        maps.find([tmp_path / "m"], [source])


def test_davsod_is_easy35(tmp_path: Path) -> None:
    videos = {"select_0606": [1]}
    source = make_source(
        tmp_path, {f"DAVSOD_{s}": videos for s in ("val", "easy35", "difficult20")}
    )
    for name, split in (("DAVSOD", "easy35"), ("DAVSOD-Difficult-20", "difficult20")):
        write(tmp_path / split / name / "select_0606" / "00000.png", columns(1))
        (found,) = maps.find([tmp_path / split], [source])
        assert found.split.dataset == f"DAVSOD_{split}"


def test_links_in_circles_pipes_and_links_to_nothing(tmp_path: Path) -> None:
    source = make_source(tmp_path / "data", {"DAVIS_test": {"camel": [4, 4, 4]}})
    folder = tmp_path / "m" / "DAVIS"
    write_maps(folder, {"camel": [4]})
    (folder / "again").symlink_to(folder)
    os.mkfifo(folder / "camel" / "00001.png")
    (folder / "camel" / "00002.png").symlink_to("nowhere.png")
    matched = maps.match(folder, source.manifest.datasets[0])
    assert list(matched.files) == [("camel", "00000")] and matched.extra == ()
