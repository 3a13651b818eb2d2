"""Every card against a miniature of its download: pairing, mask rules, counts, foreign sets."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import raw_sets
from helpers import DAVIS, files_below
from raw_sets import RAW, SIZE, TWO, Raw, box, grey, saved
from vsodpipe import card, catalogue, importer, inventory, media
from vsodpipe.errors import DataError, UsageError
from vsodpipe.progress import Reporter

SHARED = DAVIS.parent
Run = Callable[..., tuple[int, str, str]]


def name(raw: Raw) -> str:
    return f"{raw.dataset}-{raw.video}"


def mask(path: Path | None) -> list[int]:
    """Return the first row of a mask file, whose values must be 0 and 255."""
    values = media.read_map(str(path))
    assert set(np.unique(values)) <= {0, 255} and values.shape == SIZE
    return (values[0] > 0).astype(int).tolist()


def test_every_card_has_a_miniature() -> None:
    assert {raw.card for raw in RAW} == set(card.cards())


@pytest.mark.parametrize("raw", RAW, ids=name)
def test_miniatures(raw: Raw, tmp_path: Path, quiet: Reporter) -> None:
    raw.write(tmp_path / "raw")
    root = tmp_path / "datasets"
    done = importer.import_dataset(raw.card, tmp_path / "raw", root, quiet)
    assert [d.dataset for d in done] == [raw.dataset]
    assert done[0].frames == len(raw.frames)
    found = catalogue.find(raw.dataset, root)
    frames = [frame for video in found.videos for frame in video.frames]
    assert [frame.name for frame in frames] == [Path(raw.img.format(f)).stem for f in raw.frames]
    assert all(frame.img.is_symlink() for frame in frames)
    is_image = card.cards()[raw.card].kind == "image"
    assert found.videos[0].name == raw.video and (is_image or len(found.videos) == 1)
    masked = [media.frame_number(m) for m in raw.masked or raw.frames]
    there = [f for f in frames if f.gt is not None]
    assert [media.frame_number(f.name) for f in there] == masked
    for frame in there:
        assert frame.gt is not None and frame.gt.name == f"{frame.name}.png"
        assert mask(frame.gt) == [0, 1, 1, 1, 0, 0, 0, 0]
    for kind in card.cards()[raw.card].auxiliary:
        assert all(getattr(frame, kind) is not None for frame in frames)
    (state,) = [s for s in inventory.states(root) if s.dataset == raw.dataset]
    assert (state.state, state.frames) == (
        "incomplete" if state.problem else "present",
        len(frames),
    )
    before = files_below(root)
    again = importer.import_dataset(raw.card, tmp_path / "raw", root, quiet)
    assert (again, files_below(root)) == (done, before)


@pytest.mark.parametrize(
    ("video", "suffix", "regions", "row"),
    [
        ("camel01", "PPM", [0xFFFFFF, 0xFF0000, 0x0000FF], [0, 1, 1]),
        ("cars1", "PGM", [255, 0, 120], [0, 1, 1]),
        ("tennis", "PGM", [1020, 300, 0], [0, 1, 1]),
        ("marple2", "PGM", [255, 1, 2, 3, 4], [0, 1, 0, 1, 0]),
        ("marple7", "PPM", [0xFFFFFF, 5, 6, 7], [0, 1, 0, 1]),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_fbms_regions(
    tmp_path: Path, quiet: Reporter, video: str, suffix: str, regions: list[int], row: list[int],
    newline: str,
) -> None:  # fmt: skip
    raw_sets.fbms(tmp_path / "Testset", video, suffix, regions, newline)
    (done,) = importer.import_dataset("fbms", tmp_path, tmp_path / "data", quiet)
    (found,) = catalogue.find("FBMS_test", tmp_path / "data").videos
    assert done.frames == 22 and found.name == video
    there = [place for place, frame in enumerate(found.frames) if frame.gt]
    assert there == [0, 20]
    expected = row + [0] * (8 - len(row))
    if 0 in regions and 77 not in regions:
        assert mask(found.frames[20].gt) == expected
    else:
        assert mask(found.frames[0].gt) == expected


def test_fbms_faults_are_named(tmp_path: Path, quiet: Reporter) -> None:
    raw_sets.fbms(tmp_path / "Testset", "cars1", "PGM", [255, 0, 120])
    truth = tmp_path / "Testset/cars1/GroundTruth"
    dat = truth / "cars1Def.dat"
    text = dat.read_text()
    for bad, words in (
        (text.replace("\n20\n", "\n22\n"), "not one of the video's 22"),
        (text.replace("shot:\n2\n", "shot:\n3\n"), "expected 3 labelled frames"),
        (text.replace("cars1_021.pgm", "../../x.pgm"), "names the mask x.pgm"),
        (text.replace("Scale", "Skale"), "scales of its regions"),
    ):
        dat.write_text(bad)
        with pytest.raises(DataError, match=words) as error:
            importer.import_dataset("fbms", tmp_path, tmp_path / "data", quiet)
        assert str(dat) in str(error.value)
        assert not (tmp_path / "data/FBMS_test/cars1").exists() or words.startswith("scales")


def test_objects_of_segtrack_are_united(tmp_path: Path, quiet: Reporter) -> None:
    base = tmp_path / "SegTrackv2"
    soft = np.zeros((*SIZE, 3), np.uint8)
    soft[:, 0], soft[:, 1], soft[:, 2] = 255, 129, 128
    second = np.repeat(box(1, 3)[..., None].astype(np.uint8) * 255, 3, 2)
    for video in ("cheetah", "penguin"):
        media.write_bytes(base / f"JPEGImages/{video}/{video}_7.png", raw_sets.picture(".png"))
        media.write_bytes(base / f"GroundTruth/{video}/1/{video}_7.bmp", saved(soft, "BMP"))
        media.write_bytes(base / f"GroundTruth/{video}/2/{video}_7.png", saved(second, "PNG"))
    media.write_bytes(base / "JPEGImages/CSI_NY.jpg", raw_sets.FRAME)
    (done,) = importer.import_dataset("segtrack2", base, tmp_path / "data", quiet)
    (video,) = catalogue.find("SegTrack-V2_test", tmp_path / "data").videos
    assert video.name == "cheetah"
    assert "left out, as the card says or without masks: penguin" in done.notes
    assert mask(video.frames[0].gt) == [1, 1, 1, 0, 0, 0, 0, 0], "129 is on, 255 + 255 is 255"


def test_masks_of_youtube_objects_are_half_as_large(tmp_path: Path, quiet: Reporter) -> None:
    shot = "cow/data/0019/shots/001"
    media.write_bytes(tmp_path / f"all/{shot}/images/frame0001.jpg", raw_sets.FRAME)
    media.write_bytes(tmp_path / f"all/{shot[:-1]}2/images/frame0001.jpg", raw_sets.FRAME)
    values = np.tile(np.array([3, 254, 128, 127], np.uint8), (3, 1))
    label = media.encode_jpeg(np.repeat(values[..., None], 3, 2), 100)
    media.write_bytes(tmp_path / f"youtube_masks/{shot}/labels/00001.jpg", label)
    importer.import_dataset("ytobj", tmp_path, tmp_path / "data", quiet)
    (video,) = catalogue.find("YouTube-Objects_test", tmp_path / "data").videos
    decoded = media.read_image(tmp_path / f"youtube_masks/{shot}/labels/00001.jpg")[0, :, 0]
    assert decoded[1] >= 250
    expected = np.repeat(decoded >= 128, 2).astype(int).tolist()
    assert mask(video.frames[0].gt) == expected and expected[:4] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("key", "top", "values", "expected"),
    [
        ("visal", 180, [0, 90, 91, 180], [0, 0, 1, 1]),
        ("pascals", 255, [0, 127, 128, 255], [0, 0, 1, 1]),
    ],
)
def test_grey_levels(
    tmp_path: Path, quiet: Reporter, key: str, top: int, values: list[int], expected: list[int]
) -> None:
    row = np.tile(np.array(values + [0] * 4, np.uint8), (6, 1))
    places = {
        "visal": ("ViSal/cat/00002.jpg", "ViSal/cat/ground-truth/00002.png"),
        "pascals": ("datasets/imgs/pascal/1.jpg", "datasets/masks/pascal/1.png"),
    }
    img, gt = places[key]
    media.write_bytes(tmp_path / img, raw_sets.FRAME)
    media.write_bytes(tmp_path / gt, media.encode_png(row))
    (done,) = importer.import_dataset(key, tmp_path, tmp_path / "data", quiet)
    frame = catalogue.find(done.dataset, tmp_path / "data").videos[0].frames[0]
    assert mask(frame.gt)[:4] == expected


def test_stride(tmp_path: Path, quiet: Reporter) -> None:
    ident = "003234408d"
    for n in range(12):
        for folder, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
            file = tmp_path / f"train_all_frames/{folder}/{ident}/{n:05d}.{suffix}"
            media.write_bytes(
                file, raw_sets.picture(suffix) if suffix == "jpg" else grey(box(0, 1))
            )
    for stride, frames in ((None, [0, 5, 10]), (1, list(range(12))), (10, [0, 10])):
        root = tmp_path / f"data{stride}"
        importer.import_dataset("youtubevos", tmp_path, root, quiet, stride=stride)
        (video,) = catalogue.find("YouTubeVOS_train", root).videos
        assert [int(f.name) for f in video.frames if f.gt] == frames
    with pytest.raises(UsageError, match="--stride 2"):
        importer.import_dataset("ecssd", tmp_path, tmp_path / "x", quiet, stride=2)


def test_names_of_the_benchmark_copy_become_official(tmp_path: Path, quiet: Reporter) -> None:
    for video in ("select0606", "select0616-1"):
        for folder, suffix in (("Imgs", "jpg"), ("ground-truth", "png")):
            file = tmp_path / f"DAVSOD/{video}/{folder}/{video}_0745.{suffix}"
            media.write_bytes(
                file, raw_sets.picture(suffix) if suffix == "jpg" else grey(box(0, 1))
            )
    (done,) = importer.import_dataset("davsod", tmp_path, tmp_path / "data", quiet)
    assert done.dataset == "DAVSOD_easy35"
    videos = catalogue.find("DAVSOD_easy35", tmp_path / "data").videos
    assert [v.name for v in videos] == ["select_0606", "select_0616_1"]


def test_pictures_of_two_sizes_are_left_out_and_counted(tmp_path: Path, quiet: Reporter) -> None:
    raw = next(r for r in RAW if r.dataset == "DUTS_train")
    raw.write(tmp_path)
    other = grey(box(0, 1, (4, 4)))
    media.write_bytes(tmp_path / "DUTS-TR/DUTS-TR-Image/003.jpg", raw_sets.FRAME)
    media.write_bytes(tmp_path / "DUTS-TR/DUTS-TR-Mask/003.png", other)
    (done,) = importer.import_dataset("duts", tmp_path, tmp_path / "data", quiet)
    assert done.frames == 2
    assert any("1 pictures are left out" in n and "003.png" in n for n in done.notes)


@pytest.mark.parametrize(
    ("raw", "key", "fits"),
    [
        ("ViSal_test", "mcl", "fits visal"),
        ("MCL_test", "visal", "fit mcl (split test)"),
        ("DAVIS_train", "vos", "fits davis"),
        ("VOS_test", "longvideos", "vos (split test)"),
        ("Long-Videos_test", "vos", "fit longvideos"),
        ("DUTS_train", "hkuis", "fits duts"),
        ("LFSD_test", "sip", "fits lfsd"),
        ("YouTubeVOS_train", "longvideos", "fit youtubevos"),
        ("DAVSOD_val", "fbms", "fit davsod (split val)"),
    ],
)
def test_foreign_downloads_are_noticed(
    tmp_path: Path, quiet: Reporter, raw: str, key: str, fits: str
) -> None:
    next(r for r in RAW if r.dataset == raw).write(tmp_path / "raw")
    with pytest.raises(DataError) as error:
        importer.import_dataset(key, tmp_path / "raw", tmp_path / "data", quiet)
    assert fits in str(error.value) and "vsodpipe import" in str(error.value)
    assert not (tmp_path / "data").exists()


def test_a_split_that_is_called_like_another(tmp_path: Path, quiet: Reporter) -> None:
    next(r for r in RAW if r.dataset == "DAVSOD_easy35").write(tmp_path)
    (tmp_path / "DAVSOD/Testing Set/Easy-35").rename(tmp_path / "Normal-25")
    with pytest.raises(DataError, match=r"not DAVSOD_normal25: .* davsod \(split easy35\)"):
        importer.import_dataset("davsod", tmp_path / "Normal-25", tmp_path / "data", quiet)


def test_still_pictures_are_told_by_name_and_number(tmp_path: Path, quiet: Reporter) -> None:
    for k in range(100):
        for folder in ("image", "mask", "depth"):
            file = tmp_path / f"SSD/{folder}/{k:03d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"x")
    with pytest.raises(DataError, match=r"100 pictures instead of 80. They fit lfsd"):
        importer.import_dataset("ssd", tmp_path, tmp_path / "data", quiet)
    next(r for r in RAW if r.dataset == "HKU-IS_test").write(tmp_path / "a")
    (tmp_path / "a/HKU-IS/imgs").rename(tmp_path / "a/HKU-IS/images")
    (tmp_path / "a/HKU-IS/gt").rename(tmp_path / "a/HKU-IS/segmentations")
    with pytest.raises(DataError, match="its folder is called HKU-IS"):
        importer.import_dataset("ecssd", tmp_path / "a/HKU-IS", tmp_path / "data", quiet)


def test_videos_of_no_split_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for video in ("3", "276", "277"):
        for folder, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
            file = tmp_path / f"VOS/{folder}/{video}/00000.{suffix}"
            media.write_bytes(file, raw_sets.FRAME if suffix == "jpg" else grey(box(0, 1)))
    done = importer.import_dataset("vos", tmp_path, tmp_path / "data", Reporter())
    assert [d.dataset for d in done] == ["VOS_train", "VOS_test"]
    printed = capsys.readouterr().err
    assert "1 videos are in no split: 277" in printed and "VOS_val is left out" in printed


def test_a_folder_of_still_pictures_may_have_any_name(tmp_path: Path, quiet: Reporter) -> None:
    for k in TWO:
        media.write_bytes(tmp_path / f"mine/{k}.jpg", raw_sets.FRAME)
        media.write_bytes(tmp_path / f"mine/{k}.png", grey(box(0, 1)))
    (done,) = importer.import_dataset("msrab", tmp_path / "mine", tmp_path / "data", quiet)
    assert (done.dataset, done.frames) == ("MSRA-B_all", 2)


def test_links_that_turn_in_circles_end(tmp_path: Path, quiet: Reporter) -> None:
    raw = RAW[0]
    raw.write(tmp_path / "raw")
    os.symlink(tmp_path / "raw", tmp_path / "raw/DAVIS/JPEGImages/again")
    (done,) = importer.import_dataset("davis", tmp_path / "raw", tmp_path / "data", quiet)
    assert done.videos == 1


def test_states_of_the_data_root(tmp_path: Path, data_root: Path, quiet: Reporter) -> None:
    for raw in RAW:
        if raw.dataset in ("DUTS_train", "DAVIS_train"):
            raw.write(tmp_path / "raw" / raw.card)
            importer.import_dataset(raw.card, tmp_path / "raw" / raw.card, data_root, quiet)
    states = {s.dataset: s for s in inventory.states(data_root)}
    assert states["TINY_train"].card is None and states["TINY_train"].state == "present"
    assert states["DUTS_test"].state == "missing"
    assert states["DUTS_train"].problem == "10551 of 10553 frames are missing"
    assert states["DAVIS_train"].problem == "29 of 30 videos are missing"
    (tmp_path / "raw").rename(tmp_path / "moved")
    states = {s.dataset: s for s in inventory.states(data_root)}
    assert "links lead nowhere" in str(states["DAVIS_train"].problem)


def test_the_command(vsodpipe: Run, data_root: Path, tmp_path: Path) -> None:
    code, out, _ = vsodpipe("datasets")
    assert code == 0 and "DAVSOD_difficult20" in out and "TINY_train" in out
    code, out, _ = vsodpipe("datasets", "--json")
    assert code == 0
    assert json.loads(out)["datasets"]["TINY_test"]["frames"] == 5
    code, out, _ = vsodpipe("datasets", "FBMS_test")
    assert code == 0 and "vsodpipe import fbms" in out and "FBMS_test: missing" in out
    for key, one in card.cards().items():
        out = inventory.describe(one, data_root)
        assert f"vsodpipe import {key}" in out and "missing" in out
        assert one.citation and f"cite        {one.citation}" in out
    code, out, _ = vsodpipe("datasets", "FBMS_test", "--json")
    assert json.loads(out)["card"]["terms"] == "research only, no commercial use"
    code, out, err = vsodpipe("datasets", "fmbs")
    assert code == 2 and "Did you mean fbms?" in err and out == ""


def test_cards_hold_what_is_known() -> None:
    totals = {"davsod": {"train": 61, "val": 46, "easy35": 35, "normal25": 25, "difficult20": 20}}
    totals |= {"fbms": {"train": 29, "test": 30}, "vos": {"train": 119, "val": 40, "test": 40}}
    for key, counts in totals.items():
        assert {n: s.count for n, s in card.cards()[key].splits.items()} == counts
    frames = {"fbms": 7306, "visal": 963, "mcl": 3689, "segtrack2": 1025}
    for key, count in frames.items():
        assert card.cards()[key].splits["test"].frames == count
    assert card.cards()["davsod"].splits["easy35"].frames == 5332
    names = [c.dataset(s) for c in card.cards().values() for s in c.splits]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "text",
    ["", "name = 1", "[layouts]\nimg = 1", "x = [", 'name="A"\ntitle="A"\nhome="A"\nlayouts=[]'],
)
def test_a_card_that_is_none(text: str) -> None:
    with pytest.raises(DataError, match="mine.toml: not a card"):
        card.parse("mine", text, "mine.toml")


def test_the_table_of_cards_is_up_to_date() -> None:
    text = (Path(__file__).parents[1] / "docs/datasets.md").read_text(encoding="utf-8")
    assert text[text.index("| card |") :] == inventory.markdown(), "python -m vsodpipe.inventory"


def test_real_samples(tmp_path: Path, quiet: Reporter) -> None:
    if not SHARED.is_dir():
        pytest.skip(f"no real samples in {SHARED}")
    (done,) = importer.import_dataset("duts", SHARED / "duts_sample", tmp_path, quiet)
    assert (done.dataset, done.videos, done.frames) == ("DUTS_train", 0, 24)
    assert all(v.frames[0].gt for v in catalogue.find("DUTS_train", tmp_path).videos)
    (done,) = importer.import_dataset("davis", SHARED / "davsod_layout_sample", tmp_path, quiet)
    assert (done.dataset, done.videos, done.frames) == ("DAVIS_test", 2, 10)
