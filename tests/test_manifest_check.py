"""`manifest --check`: every kind of fault is planted alone and found, a clean manifest has none."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vsodpipe import flow_record, manifest, manifest_check, media
from vsodpipe.manifest import Frame, Source
from vsodpipe.manifest_check import Verdict
from vsodpipe.manifest_faults import PROBLEMS, WARNINGS
from vsodpipe.progress import Reporter

QUIET = Reporter(quiet=True)


def checked(*sources: Source, quick: bool = False) -> Verdict:
    return manifest_check.check(sources, QUIET, quick=quick, threads=2)


def changed(source: Source, number: int, change: Callable[[Frame], Frame | None]) -> Source:
    """Return the manifest with frame `number` of its first video changed, or left out for None."""
    split = source.manifest.datasets[0]
    video = split.videos[0]
    frame = change(video.frames[number])
    made = [*video.frames[:number], *([frame] if frame else []), *video.frames[number + 1 :]]
    video = video.model_copy(update={"frames": tuple(made)})
    split = split.model_copy(update={"videos": (video, *split.videos[1:])})
    datasets = (split, *source.manifest.datasets[1:])
    return replace(source, manifest=source.manifest.model_copy(update={"datasets": datasets}))


def the_one(verdict: Verdict, kind: str, count: int = 1) -> str:
    """Return the words of the only kind of fault there is."""
    assert {**verdict.problems, **verdict.warnings} == {kind: count}
    assert verdict.ok == (kind in WARNINGS)
    line = next(verdict.lines())
    assert line.startswith(f"{kind}: ") and line.endswith({**PROBLEMS, **WARNINGS}[kind])
    return line


@pytest.mark.parametrize("quick", [False, True])
def test_a_clean_manifest_has_no_fault(source: Source, quick: bool) -> None:
    verdict = checked(source, quick=quick)
    assert verdict.ok and not verdict.first and not list(verdict.lines())
    assert verdict.frames == {"TINY_train": 9, "TINY_test": 5}
    assert verdict.as_dict()["ok"] is True


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("key", ["img", "gt", "flow"])
def test_missing(source: Source, key: str, quick: bool) -> None:
    frame = source.manifest.datasets[0].videos[1].frames[2]
    file = Path(source.path(getattr(frame, key)))
    file.unlink()
    line = the_one(checked(source, quick=quick), "missing")
    assert f"TINY_train/cube/00002: {file}: No such file" in line


def test_pipes_and_links_that_go_round_are_not_files(source: Source) -> None:
    frames = source.manifest.datasets[0].videos[0].frames
    for number, make in ((0, os.mkfifo), (1, lambda place: os.symlink(place, place))):
        file = Path(source.path(frames[number].img))
        file.unlink()
        make(file)
    verdict = checked(source)
    assert "not a file" in the_one(verdict, "missing", 2)
    assert "Too many levels of symbolic links" in list(verdict.lines())[1]


@pytest.mark.parametrize("key", ["img", "gt", "flow"])
def test_damaged_is_found_by_decoding(source: Source, key: str) -> None:
    file = Path(source.path(getattr(source.manifest.datasets[0].videos[1].frames[2], key)))
    file.write_bytes(file.read_bytes()[:-60])
    assert str(file) in the_one(checked(source), "damaged")
    assert checked(source, quick=True).ok
    file.write_bytes(b"GIF?")
    the_one(checked(source, quick=True), "damaged")


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("key", ["gt", "flow"])
def test_size(source: Source, key: str, quick: bool) -> None:
    file = Path(source.path(getattr(source.manifest.datasets[0].videos[0].frames[1], key)))
    file.write_bytes(media.encode_png(np.zeros((48, 63), np.uint8)))
    assert "expected 64x48, got 63x48" in the_one(checked(source, quick=quick), "size")


def plant_mask(source: Source, levels: list[int]) -> None:
    values = np.zeros((48, 64), np.uint8)
    values[0, : len(levels)] = levels
    file = source.path(str(source.manifest.datasets[0].videos[0].frames[0].gt))
    Path(file).write_bytes(media.encode_png(values))


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ([255, 128], "1 of 3072 pixels are grey"),
        ([200, 17, 180], "2 of 3072 pixels are grey"),
        ([100], "largest grey level is 100"),
        ([2], "largest grey level is 2"),
    ],
)
def test_masks_that_are_not_binary(source: Source, levels: list[int], words: str) -> None:
    plant_mask(source, levels)
    assert words in the_one(checked(source), "mask")


@pytest.mark.parametrize("levels", [[], [1], [255, 240, 15], [200, 190, 3]])
def test_masks_that_are_binary_or_nearly(source: Source, levels: list[int]) -> None:
    plant_mask(source, levels)
    assert not checked(source).first


def test_grey_masks_where_the_card_allows_them(tmp_path: Path) -> None:
    root = tmp_path / "datasets"
    for name in ("a1", "b1"):
        img = np.full((6, 8, 3), ord(name[0]), np.uint8)
        media.write_bytes(root / f"DUTS_train/RGB/{name}.jpg", media.encode_jpeg(img))
        grey = np.array([[0, 90, 255]], np.uint8).repeat(6, 0).repeat(3, 1)[:, :8]
        media.write_bytes(root / f"DUTS_train/GT/{name}.png", media.encode_png(grey))
    made = manifest.build(["DUTS_train"], root, tmp_path, QUIET)["duts"]
    read = manifest.read(manifest.write(made, tmp_path, root)[0])
    verdict = checked(read)
    the_one(verdict, "grey", 2)
    assert verdict.ok


def test_gt_of_another_frame(source: Source) -> None:
    wrong = changed(source, 1, lambda f: replace(f, gt=f.gt.replace("00001", "00002")))
    wrong = changed(wrong, 2, lambda f: replace(f, gt=f.gt.replace("00002", "00001")))
    assert "its gt is TINY_train/ball/GT/00002.png" in the_one(checked(wrong), "alignment", 2)


def test_flow_of_another_video(source: Source) -> None:
    def other(frame: Frame) -> Frame:
        return replace(frame, flow=str(frame.flow).replace("TINY_train/ball", "TINY_test/dice"))

    assert "of another video" in the_one(checked(changed(source, 1, other)), "alignment")


def test_a_hole_in_the_numbers(source: Source) -> None:
    wrong = changed(source, 1, lambda frame: None)
    line = the_one(checked(wrong), "gap")
    assert "TINY_train/ball: frame 00002 comes after 00000, 1 gaps" in line
    part = wrong.manifest.model_copy(update={"made_by": "vsodpipe manifest --sample 1"})
    assert checked(replace(wrong, manifest=part)).ok


def test_every_other_frame_is_a_warning(source: Source) -> None:
    wrong = changed(changed(source, 3, lambda frame: None), 1, lambda frame: None)
    assert "its frames are 2 apart, expected 1" in the_one(checked(wrong), "step")


def test_frames_out_of_order(source: Source) -> None:
    split = source.manifest.datasets[0]
    frames = split.videos[0].frames
    wrong = changed(source, 0, lambda frame: frames[1])
    wrong = changed(wrong, 1, lambda frame: frames[0])
    assert "frame 00000 comes after 00001" in the_one(checked(wrong), "order")


def test_the_same_path_twice(source: Source) -> None:
    for folder in ("GT", "./GT", "/GT"):
        path = f"TINY_train/ball/{folder}/00001.png"
        same = changed(source, 2, lambda f, path=path: replace(f, gt=path))  # type: ignore[misc]
        assert checked(same, quick=True).problems == {"alignment": 1, "duplicate": 1}
    same = changed(source, 2, lambda f: replace(f, name="1", img=f.img.replace("2.", "1.")))
    assert checked(same).problems["duplicate"] == 1


def test_the_same_picture_twice_in_a_video_is_a_warning(source: Source) -> None:
    frames = source.manifest.datasets[0].videos[0].frames
    file = Path(source.path(frames[3].img))
    file.write_bytes(Path(source.path(frames[0].img)).read_bytes())
    assert "TINY_train/ball/00000" in the_one(checked(source), "repeat")


def test_flow_of_another_kind(source: Source) -> None:
    file = Path(source.path("TINY_train/cube/FLOW/flow.json"))
    settings = {k: v for k, v in json.loads(file.read_text()).items() if k != "fingerprint"}
    file.write_bytes(flow_record.dump(flow_record.make({**settings, "gap": 2})))
    assert "gap=2" in the_one(checked(source, quick=True), "flow")
    file.unlink()
    assert str(file) in the_one(checked(source), "record")


def test_flow_on_some_frames(source: Source) -> None:
    wrong = changed(source, 1, lambda frame: replace(frame, flow=None))
    assert "has no flow, others have" in the_one(checked(wrong), "flow")


def test_a_picture_of_train_in_test(source: Source) -> None:
    train, test = source.manifest.datasets
    copied = Path(source.path(test.videos[0].frames[4].img))
    copied.write_bytes(Path(source.path(train.videos[0].frames[0].img)).read_bytes())
    line = the_one(checked(source), "leak")
    assert line.startswith("leak: TINY_test/dice/00004: ") and "as TINY_train/ball/00000" in line
    assert checked(source, quick=True).ok
    # in manifests of their own, in the other order
    apart = [
        replace(source, manifest=source.manifest.model_copy(update={"datasets": (split,)}))
        for split in (test, train)
    ]
    the_one(checked(*apart), "leak")
    assert checked(apart[0]).ok and checked(apart[1]).ok


def test_splits_that_overlap_on_purpose_do_not_leak(source: Source) -> None:
    # RGBD-TR has train and train2985, MSRA-B has all, train and test
    train = source.manifest.datasets[0]
    for end, kinds in (("train2985", {}), ("all", {}), ("val", {"leak": train.frames})):
        other = train.model_copy(update={"dataset": f"TINY_{end}", "split": end})
        made = source.manifest.model_copy(update={"datasets": (train, other)})
        assert checked(replace(source, manifest=made)).problems == kinds, end


def test_the_record_of_flow_behind_links(source: Source, tmp_path: Path) -> None:
    split = source.manifest.datasets[0]
    flows = [frame.flow for frame in split.videos[0].frames if frame.flow]
    for path in flows:
        link = tmp_path / "export/FLOW" / Path(path).name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source.path(path))
    assert flow_record.beside(tmp_path / "export/FLOW" / Path(flows[0]).name) == flow_record.read(
        Path(source.path(flows[0])).parent
    )
    folder = Path(source.path(flows[0])).parent
    moved = folder.rename(tmp_path / "elsewhere")
    folder.mkdir()
    for path in flows:
        (folder / Path(path).name).symlink_to(moved / Path(path).name)
    assert not checked(source).warnings, "the record lies where the links lead"
    first = folder / Path(flows[0]).name
    first.unlink()
    first.symlink_to(first.name)
    assert set(checked(source).problems) == {"missing"}, "a link that goes round is no crash"


def test_the_same_path_in_train_and_test_without_reading(source: Source) -> None:
    train, test = source.manifest.datasets
    wrong = test.model_copy(update={"videos": (*test.videos, train.videos[0])})
    made = source.manifest.model_copy(update={"datasets": (train, wrong)})
    the_one(checked(replace(source, manifest=made), quick=True), "leak", 5)


def test_the_first_faults_in_words_the_others_counted(source: Source) -> None:
    for video in source.manifest.datasets[0].videos:
        for frame in video.frames:
            Path(source.path(str(frame.gt))).unlink()
    verdict = checked(source)
    lines = list(verdict.lines())
    assert len(lines) == 6 and lines[-1] == "missing: 4 more"
    assert "9 missing" in verdict.summary()


def test_the_command(source: Source, vsodpipe: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = vsodpipe("manifest", "--check")
    assert (code, out) == (0, "") and "14 frames of TINY_train, TINY_test" in err
    assert "14 frames" in vsodpipe("manifest", "tiny", "--check")[2]
    Path(source.path("TINY_train/cube/GT/00001.png")).unlink()
    code, out, err = vsodpipe("manifest", source.file, "--check", "--quick", "--json")
    verdict = json.loads(out)
    assert code == 2 and verdict["ok"] is False and verdict["problems"] == {"missing": 1}
    assert verdict["first"][0]["file"].endswith("cube/GT/00001.png")
    assert verdict["first"][0]["remedy"] == PROBLEMS["missing"]
    assert err.splitlines()[-1].startswith(f"error: {source.file}: 14 frames")
    assert vsodpipe("manifest", "--quick")[0] == 2
    assert vsodpipe("manifest", "--check", "--name", "x")[0] == 2
    assert vsodpipe("manifest", "--check", "--out", "none")[0] == 2


def test_real_frames(davis: Path, tmp_path: Path) -> None:
    videos = davis / "JPEGImages" / "480p"
    name = sorted(path.name for path in videos.iterdir())[0]
    for kind in ("JPEGImages", "Annotations"):
        (tmp_path / "datasets/REAL_test" / kind / "480p").mkdir(parents=True)
        link = tmp_path / "datasets/REAL_test" / kind / "480p" / name
        link.symlink_to(davis / kind / "480p" / name)
    made = manifest.build(["REAL_test"], tmp_path / "datasets", tmp_path, QUIET)["real"]
    short = made.datasets[0].videos[0]
    short = short.model_copy(update={"frames": short.frames[:8]})
    split = made.datasets[0].model_copy(update={"videos": (short,)})
    made = made.model_copy(update={"datasets": (split,)})
    source = Source(made, tmp_path / "real.json", str(tmp_path / "datasets"))
    assert not checked(source).first
