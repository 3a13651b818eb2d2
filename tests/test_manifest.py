"""Manifests: written, read back equal, checked, and never outside their root."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vsodpipe import catalogue, flow_job, flow_record, flows, manifest, media
from vsodpipe.errors import DataError, UsageError
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter

ROOT = Path(__file__).resolve().parents[1]


def test_splits_of_a_data_set_share_a_manifest(source: Source, with_flow: Path) -> None:
    assert source.manifest.name == "tiny"
    assert [(s.dataset, s.split, s.frames) for s in source.manifest.datasets] == [
        ("TINY_train", "train", 9),
        ("TINY_test", "test", 5),
    ]
    assert Path(source.root) == with_flow.resolve()
    frame = source.split("TINY_test").videos[0].frames[2]
    assert frame.img == "TINY_test/dice/RGB/00002.jpg"
    assert media.read_image(source.path(frame.img)).shape == (48, 64, 3)
    assert source.split("TINY_train").videos[0].size == (48, 64)


def test_written_manifests_read_back_equal(source: Source, with_flow: Path, tmp_path: Path) -> None:
    files = manifest.write(source.manifest, tmp_path / "again", with_flow)
    assert [f.name for f in files] == ["tiny.json", "tiny_train.txt", "tiny_test.txt"]
    assert manifest.read(files[0]).manifest == source.manifest


def test_root_is_relative_so_that_both_can_move(source: Source, tmp_path: Path) -> None:
    assert source.manifest.root == "../datasets"
    moved = tmp_path / "moved"
    moved.mkdir()
    (tmp_path / "manifests").rename(moved / "manifests")
    assert manifest.read(moved / "manifests/tiny.json").root == str((moved / "datasets").resolve())


def test_txt_rows(source: Source, with_flow: Path) -> None:
    rows = (source.file.parent / "tiny_test.txt").read_text().splitlines()
    assert len(rows) == 5
    paths = [Path(word) for word in rows[4].split(" ")]
    assert [p.relative_to(with_flow / "TINY_test" / "dice").as_posix() for p in paths] == [
        "RGB/00004.jpg",
        "GT/00004.png",
        "FLOW/00004.jpg",
    ]


def test_txt_with_blanks_and_gaps(data_root: Path, tmp_path: Path, quiet: Reporter) -> None:
    (data_root / "TINY_test" / "dice").rename(data_root / "TINY_test" / "two dice")
    (data_root / "TINY_test" / "two dice" / "GT" / "00001.png").unlink()
    made = manifest.build(["TINY_test"], data_root, tmp_path, quiet)["tiny"]
    rows = manifest.write(made, tmp_path, data_root)[1].read_text().splitlines()
    assert rows[1].split("\t")[1:] == ["-", "-"]
    assert rows[0].split("\t")[1].endswith("two dice/GT/00000.png")


def test_chosen_data_sets_only(with_flow: Path, tmp_path: Path, quiet: Reporter) -> None:
    made = manifest.build(["TINY_test"], with_flow, tmp_path, quiet)
    assert [s.dataset for s in made["tiny"].datasets] == ["TINY_test"]
    assert len(manifest.build(["tiny"], with_flow, tmp_path, quiet)["tiny"].datasets) == 2
    with pytest.raises(UsageError, match="Did you mean TINY_test"):
        manifest.build(["TINY_tst"], with_flow, tmp_path, quiet)
    with pytest.raises(UsageError, match="no data set in"):
        manifest.build([], tmp_path / "nowhere", tmp_path, quiet)


@pytest.mark.parametrize(
    "names", [["tiny", "TINY_train"], ["TINY_train", "tiny"], ["TINY_test", "tiny", "TINY_test/"]]
)
def test_a_data_set_is_listed_once(
    with_flow: Path, tmp_path: Path, quiet: Reporter, names: list[str]
) -> None:
    (made,) = manifest.build(names, with_flow, tmp_path, quiet).values()
    assert [s.dataset for s in made.datasets] == ["TINY_train", "TINY_test"]


def test_what_a_new_manifest_no_longer_holds_is_said(
    source: Source, with_flow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = source.file.parent
    manifest.build(["tiny"], with_flow, out, Reporter(quiet=True))
    assert "no longer holds" not in capsys.readouterr().err
    manifest.build(["TINY_test"], with_flow, out, Reporter(quiet=True))
    assert "tiny.json no longer holds TINY_train" in capsys.readouterr().err
    source.file.write_text("{")
    manifest.build(["TINY_test"], with_flow, out, Reporter(quiet=True))


def test_an_unpacked_download_is_left_out(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move(data_root / "TINY_train", data_root / "DAVIS_train")
    shutil.copytree(data_root / "TINY_test/dice/RGB", data_root / "DAVIS/JPEGImages/480p/dice")
    made = manifest.build([], data_root, tmp_path, Reporter())
    assert [s.dataset for s in made["davis"].datasets] == ["DAVIS_train"]
    assert f"vsodpipe import davis {data_root / 'DAVIS'}" in capsys.readouterr().err
    assert len(manifest.build(["davis"], data_root, tmp_path, Reporter())["davis"].datasets) == 1
    (named,) = manifest.build(["DAVIS"], data_root, tmp_path, Reporter())["davis"].datasets
    assert named.dataset == "DAVIS"


def test_without_flow_of_the_last_frame(data_root: Path, tmp_path: Path, quiet: Reporter) -> None:
    engine = flows.create("dis", preset="ultrafast")
    options = flow_job.Options(tail="none")
    flow_job.compute(catalogue.find("TINY_train", data_root), engine, options, quiet)
    (split,) = manifest.build(["TINY_train"], data_root, tmp_path, quiet)["tiny"].datasets
    for video in split.videos:
        assert [f.flow is None for f in video.frames] == [False] * (len(video.frames) - 1) + [True]
    assert split.flow is not None and split.flow["tail"] == "none"
    (data_root / "TINY_train/cube/FLOW/00002.jpg").unlink()
    with pytest.raises(DataError, match="cube: frame 00002 has no flow"):
        manifest.build(["TINY_train"], data_root, tmp_path, quiet)


def test_data_sets_outside_the_root_have_no_manifest(
    data_root: Path, tmp_path: Path, quiet: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"x")
    shutil.copytree(data_root / "TINY_test", tmp_path / "elsewhere")
    for place in ("clip.mp4", "elsewhere"):
        dataset = catalogue.find(str(tmp_path / place), data_root)
        with pytest.raises(UsageError, match=f"{place}: expected a data set inside the data root"):
            manifest.split_of(dataset, data_root, quiet)
    monkeypatch.chdir(tmp_path)
    inside = catalogue.find(str(data_root / "TINY_test"), Path("datasets"))
    split = manifest.split_of(inside, Path("datasets"), quiet)
    assert split.videos[0].frames[0].img == "TINY_test/dice/RGB/00000.jpg"


def test_names_that_are_not_utf8(data_root: Path, tmp_path: Path, quiet: Reporter) -> None:
    video = data_root / "TINY_test" / "dice"
    try:
        video.rename(data_root / "TINY_test" / os.fsdecode(b"d\xefce"))
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    with pytest.raises(DataError, match="Rename the files"):
        manifest.build(["TINY_test"], data_root, tmp_path, quiet)
    root = data_root.rename(data_root.with_name(os.fsdecode(b"d\xefta")))
    with pytest.raises(DataError, match="at root: .* is not UTF-8 text"):
        manifest.build(["TINY_train"], root, tmp_path, quiet)


def test_mask_of_another_size(with_flow: Path, tmp_path: Path, quiet: Reporter) -> None:
    mask = with_flow / "TINY_train/cube/GT/00002.png"
    mask.write_bytes(media.encode_png(np.zeros((48, 63), np.uint8)))
    with pytest.raises(DataError, match="expected 64x48.*got 63x48") as error:
        manifest.build([], with_flow, tmp_path, quiet)
    assert str(mask) in str(error.value)


def test_missing_flow_is_named(with_flow: Path, tmp_path: Path, quiet: Reporter) -> None:
    (with_flow / "TINY_train/cube/FLOW/00002.jpg").unlink()
    with pytest.raises(DataError, match="cube: frame 00002 has no flow"):
        manifest.build([], with_flow, tmp_path, quiet)
    (with_flow / "TINY_train/cube/FLOW/flow.json").unlink()
    with pytest.raises(DataError, match=r"1 of 2 videos have no flow \(first: cube\)"):
        manifest.build([], with_flow, tmp_path, quiet)


def test_two_kinds_of_flow_in_a_split(with_flow: Path, tmp_path: Path, quiet: Reporter) -> None:
    file = with_flow / "TINY_train/cube/FLOW/flow.json"
    settings = {k: v for k, v in json.loads(file.read_text()).items() if k != "fingerprint"}
    file.write_bytes(flow_record.dump(flow_record.make({**settings, "tail": "zero"})))
    with pytest.raises(DataError, match="two kinds of flow") as error:
        manifest.build([], with_flow, tmp_path, quiet)
    assert "tail=backward" in str(error.value) and "tail=zero" in str(error.value)


OUTSIDE = [
    "../x.jpg",
    "/etc/passwd",
    "a/../../x.jpg",
    "C:/x.jpg",
    "..\\x.jpg",
    "file:///etc/passwd",
]


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("key", ["img", "gt", "flow"])
def test_paths_cannot_leave_the_root(source: Source, key: str, path: str) -> None:
    values = json.loads(source.file.read_text())
    values["datasets"][0]["videos"][0]["frames"][1][key] = path
    source.file.write_text(json.dumps(values))
    with pytest.raises(DataError, match=f"videos.0.frames.1.{key}.*leaves the manifest's root"):
        manifest.read(source.file)


NAMES = ["a/b", "a\\b", "..", ".", "", "/", "a\0", "\ud800"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", ["dataset", "video", "frame"])
def test_names_are_one_part_of_a_path(source: Source, level: str, name: str) -> None:
    values = json.loads(source.file.read_text())
    split = values["datasets"][0]
    items = {
        "dataset": split,
        "video": split["videos"][0],
        "frame": split["videos"][0]["frames"][0],
    }
    items[level]["dataset" if level == "dataset" else "name"] = name
    source.file.write_text(json.dumps(values))
    with pytest.raises(DataError, match="is not (one part of a path|UTF-8 text)"):
        manifest.read(source.file)


@pytest.mark.parametrize("level", ["dataset", "video", "frame"])
def test_names_are_there_once(source: Source, level: str) -> None:
    values = json.loads(source.file.read_text())
    splits: list[Any] = values["datasets"]
    lists = {
        "dataset": splits,
        "video": splits[0]["videos"],
        "frame": splits[0]["videos"][1]["frames"],
    }
    lists[level].append(lists[level][0])
    source.file.write_text(json.dumps(values))
    with pytest.raises(DataError, match="is there 2 times"):
        manifest.read(source.file)


@pytest.mark.parametrize(
    "flow", [{"engine": {}}, {"fingerprint": 1}, {"fingerprint": "x", "engine": "dis"}, "x", []]
)
def test_flow_is_a_record_with_a_fingerprint(source: Source, flow: object) -> None:
    values = json.loads(source.file.read_text())
    assert isinstance(source.manifest.datasets[0].flow, dict)
    values["datasets"][0]["flow"] = flow
    source.file.write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"at datasets\.0\.flow"):
        manifest.read(source.file)


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"engine": {}}', '{"fingerprint": "x", "engine": "dis"}', "[" * 100_000]
)
def test_flow_records_edited_by_hand(
    with_flow: Path, tmp_path: Path, quiet: Reporter, text: str
) -> None:
    file = with_flow / "TINY_train/cube/FLOW/flow.json"
    file.write_text(text)
    with pytest.raises(DataError, match=r"flow\.json: not a .*Delete") as error:
        manifest.build([], with_flow, tmp_path, quiet)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "at version"),
        ({"datasets": []}, "at datasets"),
        ({"datasets": "x"}, "at datasets"),
        ({"more": 1}, "at more"),
        ({"root": None}, "at root"),
        ({"root": "a\0"}, "at root"),
    ],
)
def test_faults_are_one_line_with_their_place(source: Source, change: dict, words: str) -> None:
    values = {**json.loads(source.file.read_text()), **change}
    source.file.write_text(json.dumps(values))
    with pytest.raises(DataError, match=words) as error:
        manifest.read(source.file)
    assert "\n" not in str(error.value) and str(source.file) in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "\ud800".encode("utf-8", "surrogatepass"), "1"])
def test_files_that_are_no_manifest(tmp_path: Path, text: str | bytes) -> None:
    file = tmp_path / "m.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=r"m\.json: not a"):
        manifest.read(file)


def test_schema_file_is_that_of_the_model() -> None:
    """`python -m vsodpipe.manifest > manifests/manifest.schema.json` renews it."""
    assert (ROOT / "manifests" / "manifest.schema.json").read_text() == manifest.schema()


def test_the_example_is_valid() -> None:
    example = manifest.read(ROOT / "manifests" / "example.json")
    assert example.manifest.datasets[0].dataset == "DAVIS_train"


def test_depth_and_thermal_of_still_pictures(tmp_path: Path, quiet: Reporter) -> None:
    root = tmp_path / "datasets"
    for folder in ("RGB", "GT", "DEPTH", "THERMAL"):
        for name in ("a", "b"):
            grey = media.encode_png(np.full((6, 8), 255, np.uint8))
            media.write_bytes(root / "VT5000_train" / folder / f"{name}.png", grey)
    made = manifest.build(["VT5000_train"], root, tmp_path, quiet)["vt5000"]
    read = manifest.read(manifest.write(made, tmp_path, root)[0]).manifest
    frame = read.datasets[0].videos[1].frames[0]
    assert frame.depth == "VT5000_train/DEPTH/b.png"
    assert frame.thermal == "VT5000_train/THERMAL/b.png"


@pytest.mark.parametrize("weight", [0, -1, float("inf"), "much"])
def test_weights_are_positive_numbers(source: Source, weight: object) -> None:
    values = source.manifest.model_dump(mode="json")
    values["datasets"][0]["weight"] = weight
    source.file.write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"weight"):
        manifest.read(source.file)


def test_still_pictures_are_not_asked_for_flow(
    vsodpipe: Callable[..., tuple[int, str, str]], tmp_path: Path, data_root: Path
) -> None:
    for folder in ("RGB", "GT"):
        grey = media.encode_png(np.full((6, 8), 255, np.uint8))
        media.write_bytes(data_root / "DUTS_train" / folder / "a.png", grey)
    code, _, err = vsodpipe("manifest", "DUTS_train", "--data", data_root)
    assert code == 0 and "has no flow yet" not in err
    assert "TINY_train has no flow yet" in vsodpipe("manifest", "TINY_train")[2]
