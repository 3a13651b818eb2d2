"""The layouts of the published repositories: read as they are, written, and read back."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import DAVIS
from vsodpipe import catalogue, flow_record, layout_export, layouts, manifest, masks, media
from vsodpipe.errors import DataError, UsageError
from vsodpipe.layout_table import LAYOUTS
from vsodpipe.manifest import Manifest
from vsodpipe.progress import Reporter

SAMPLE = DAVIS.parent / "davsod_layout_sample"
Rows = dict[str, dict[tuple[str, str], tuple[int, ...]]]
"""Data set -> (video, frame) -> the grey level of img, share of foreground of gt, level of flow"""


def picture(file: Path, level: int, size: tuple[int, int] = (16, 16)) -> None:
    """Write a picture that its level tells from all others."""
    image = np.full((*size, 3), level, np.uint8)
    encode = media.encode_png if file.suffix == ".png" else media.encode_jpeg
    media.write_bytes(file, encode(image))


def mask(file: Path, pixels: int, size: tuple[int, int] = (16, 16)) -> None:
    """Write a mask with so many pixels of foreground."""
    values = np.zeros(size, np.uint8)
    values.reshape(-1)[:pixels] = 255
    media.write_bytes(file, media.encode_png(values))


def write_set(root: Path, name: str, videos: dict[str, list[str]], every: int = 1) -> None:
    """Write videos with flow, and a mask for every so many frames, into a data root."""
    level = 0
    for video, stems in videos.items():
        folder = root / name / video
        for place, stem in enumerate(stems):
            level += 5
            picture(folder / "RGB" / f"{stem}.jpg", level)
            picture(folder / "FLOW" / f"{stem}.jpg", level + 2)
            if place % every == 0:
                mask(folder / "GT" / f"{stem}.png", level)
        record = flow_record.make({"engine": {"engine": "dis"}, "tail": "backward"})
        media.write_bytes(folder / "FLOW" / "flow.json", flow_record.dump(record))


@pytest.fixture
def awkward(tmp_path: Path) -> Path:
    """A data root of two splits: underscores, numbers of other lengths, sparse masks, stills."""
    root = tmp_path / "datasets"
    train = {"bird_of_paradise": ["00000", "00001"], "a.b_2": ["0745", "0746", "0750"]}
    write_set(root, "ODD_train", train)
    write_set(root, "ODD_test", {"red_fox": [f"red_fox_{n}" for n in (8, 9, 10, 11)]}, every=3)
    for n, stem in enumerate(("ILSVRC2012_test_00000004", "sun_aaaa")):
        picture(root / "DUTS_train" / "RGB" / f"{stem}.jpg", 200 + n)
        mask(root / "DUTS_train" / "GT" / f"{stem}.png", 200 + n)
    return root


def read_back(made: Manifest) -> Rows:
    """Return what the pictures of a manifest show; frames by number, stills by name."""
    found: Rows = {}
    for split in made.datasets:
        rows = found.setdefault(split.dataset, {})
        for video in split.videos:
            for frame in video.frames:
                shown = []
                for path in (frame.img, frame.flow):
                    file = Path(made.root, path) if path else None
                    shown.append(int(media.read_image(file)[0, 0, 0]) if file else -1)
                gt = int(media.read_mask(Path(made.root, frame.gt)).sum()) if frame.gt else -1
                still = len(video.frames) == 1 and video.name == frame.name
                key = frame.name if still else str(media.frame_number(frame.name))
                rows[video.name, key] = (shown[0], gt, shown[1])
    return found


def rows_of(root: Path, names: list[str], quiet: Reporter) -> Rows:
    splits = tuple(manifest.split_of(catalogue.find(n, root), root, quiet) for n in names)
    return read_back(Manifest(name="x", root=str(root.resolve()), datasets=splits))


def renamed(rows: Rows, sets: dict[str, str], **videos: str) -> Rows:
    """Return the rows under the names of a layout; a video's new name by its first letter."""
    return {
        sets.get(name, name): {(videos.get(v[0], v), f): row for (v, f), row in held.items()}
        for name, held in rows.items()
    }


def masked(rows: Rows, *names: str) -> Rows:
    """Return the rows without those of no mask, of the data sets in `names`."""
    return {
        name: {key: row for key, row in held.items() if name not in names or row[1] >= 0}
        for name, held in rows.items()
    }


ODD = ["ODD_train", "ODD_test", "DUTS_train"]
HYPHENS = {"b": "bird-of-paradise", "a": "a-b-2", "r": "red-fox"}


def expected(layout: str, rows: Rows) -> Rows:
    """Return what is left of the rows after the way through a layout, by its own rules."""
    if layout == "dpa":
        return renamed(masked(rows, *ODD), {}, **HYPHENS)
    if layout in ("tmo", "ianet", "a2s"):
        return masked(rows, *ODD)
    if layout == "smcf":
        return renamed(rows, {"ODD_train": "TrainSet_Flow"})
    return {n: {k: (r[0], r[1], -1) for k, r in held.items()} for n, held in rows.items()}


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_there_and_back(layout: str, awkward: Path, tmp_path: Path, quiet: Reporter) -> None:
    names = [name for name in ODD if layout != "davsod" or name != "DUTS_train"]
    before = rows_of(awkward, names, quiet)
    assert sum(map(len, before.values())) >= 9
    out = tmp_path / layout
    done = layout_export.run(names, layout, out, awkward, quiet)
    made = layouts.manifest_of(out, None, quiet)
    assert read_back(made) == expected(layout, before)
    ours = {s.dataset: s.flow["fingerprint"] for s in made.datasets if s.flow}
    assert all(not value.startswith("published") for value in ours.values())
    again = layout_export.run(names, layout, out, awkward, quiet)
    assert (again.linked, again.converted, again.lists) == (0, 0, 0)
    assert again.kept == done.linked + done.converted + done.lists > 0
    if layout in ("dpa", "tmo", "ianet", "a2s"):
        assert any("2 frames without a mask are left out" in note for note in done.notes)
    if layout == "dpa":
        assert "a.b_2 is a-b-2" in "".join(note for note in done.notes if "2 videos have" in note)


def test_files_that_the_loaders_look_for(awkward: Path, tmp_path: Path, quiet: Reporter) -> None:
    files = {}
    for layout in ("dpa", "ianet", "smcf"):
        layout_export.run(ODD, layout, tmp_path / layout, awkward, quiet)
        found = (path for path in (tmp_path / layout).rglob("*") if path.is_file())
        files[layout] = {path.relative_to(tmp_path / layout).as_posix() for path in found}
    stem = "bird-of-paradise_00001"
    assert {f"ODD_train/{k}" for k in (f"RGB/{stem}.jpg", f"GT/{stem}.png", f"FLOW/{stem}.jpg")} < (
        files["dpa"]
    )
    assert "ODD_test/red-fox/RGB/red-fox_00008.jpg" in files["dpa"]
    assert "ODD_test/red-fox/RGB/red-fox_00009.jpg" not in files["dpa"], "has no mask"
    rows = (tmp_path / "ianet" / "dataset/train/ODD_train/train.txt").read_text().splitlines()
    assert len(rows) == 5 and all(len(row.split(" ")) == 3 for row in rows)
    assert {row.split()[0].split("/")[-3] for row in rows} == {"bird_of_paradise", "a.b_2"}
    stills = (tmp_path / "ianet" / "dataset/train/DUTS-TR/train.txt").read_text().splitlines()
    assert len(stills) == 2 and all(len(row.split(" ")) == 2 for row in stills)
    assert all((tmp_path / "ianet" / file).is_file() for row in rows for file in row.split())
    flat = sorted(f for f in files["smcf"] if f.startswith("TrainSet_Flow/Imgs"))
    flows = sorted(f for f in files["smcf"] if f.startswith("TrainSet_Flow/Flow"))
    gts = sorted(f for f in files["smcf"] if f.startswith("TrainSet_Flow/ground-truth"))
    assert [Path(f).stem for f in flat] == [Path(f).stem for f in flows]
    assert [Path(f).stem for f in flat] == [Path(f).stem for f in gts]
    first = sum(f.startswith("TrainSet_RGB/Imgs") for f in files["smcf"])
    assert first == 5 + 2, "stage 1 has the frames beside the still pictures"
    # text order is the order of the frames: 8, 9, 10 are padded
    test = sorted(f for f in files["smcf"] if f.startswith("TestSet/ODD_test/red_fox/Frame"))
    assert [media.frame_number(Path(f).stem) for f in test] == [8, 9, 10, 11]


def test_tmo_has_the_lists_of_davis(tmp_path: Path, quiet: Reporter) -> None:
    root = tmp_path / "datasets"
    write_set(root, "DAVIS_train", {"bear": ["00000"], "boat": ["00000"]})
    write_set(root, "DAVIS_test", {"blackswan": ["00000"]})
    layout_export.run(["davis"], "tmo", tmp_path / "tmo", root, quiet)
    lists = tmp_path / "tmo" / "DAVIS" / "ImageSets" / "2016"
    assert (lists / "train.txt").read_text() == "bear\nboat\n"
    assert (lists / "val.txt").read_text() == "blackswan\n"
    assert (tmp_path / "tmo" / "DAVIS" / "JPEGFlows" / "480p" / "bear" / "00000.jpg").is_file()


# what the repositories publish, written here by hand


def published(folder: Path, files: str) -> Path:
    """Write files by their paths; a `.png` below a mask's folder is a mask."""
    for number, name in enumerate(files.split()):
        file = folder / name
        if file.parent.name in ("GT", "GTs", "ground-truth", "segmentations", "mask"):
            mask(file, number + 1)
        elif "Annotations" in name:
            mask(file, number + 1)
        else:
            picture(file, number)
    return folder


def places(made: Manifest) -> dict[str, dict[str, list[str]]]:
    return {s.dataset: {v.name: [f.img for f in v.frames] for v in s.videos} for s in made.datasets}


def test_dpa_by_hand(tmp_path: Path, quiet: Reporter) -> None:
    folder = published(
        tmp_path / "DPA",
        "DAVIS_train/RGB/bear_00001.jpg DAVIS_train/RGB/bear_00000.jpg "
        "DAVIS_train/GT/bear_00000.png DAVIS_train/GT/bear_00001.png "
        "DAVIS_train/FLOW/bear_00000.jpg DAVIS_train/FLOW/bear_00001.jpg "
        "DUTS_train/RGB/n01_1.jpg DUTS_train/GT/n01_1.png "
        "YTobj_test/bird_1_2/RGB/bird_1_2_00010.jpg YTobj_test/bird_1_2/GT/bird_1_2_00010.png "
        "YTobj_test/bird_1_2/FLOW/bird_1_2_00010.png",
    )
    made = layouts.manifest_of(folder, None, quiet)
    assert places(made) == {
        "DAVIS_train": {
            "bear": ["DAVIS_train/RGB/bear_00000.jpg", "DAVIS_train/RGB/bear_00001.jpg"]
        },
        "DUTS_train": {"n01_1": ["DUTS_train/RGB/n01_1.jpg"]},
        "YouTube-Objects_test": {"bird_1_2": ["YTobj_test/bird_1_2/RGB/bird_1_2_00010.jpg"]},
    }
    train = made.datasets[0]
    assert train.split == "train" and train.videos[0].size == (16, 16)
    assert train.videos[0].frames[0].gt == "DAVIS_train/GT/bear_00000.png"
    assert train.flow == {
        "engine": {"engine": "unknown"},
        "layout": "dpa",
        "fingerprint": "published-dpa-" + train.flow["fingerprint"][-8:],
    }
    assert made.datasets[1].flow is None


def test_dpa_names_that_its_own_loader_cuts(tmp_path: Path, quiet: Reporter) -> None:
    folder = tmp_path / "DPA"
    for video in ("select_0043", "select-0056"):
        for n in (0, 1):
            for kind in ("RGB", "GT", "FLOW"):
                published(folder, f"DAVSOD_train/{kind}/{video}_{n:05d}.png")
    published(folder, "MINE/RGB/a_cat_1.jpg MINE/RGB/a_cat_2.jpg MINE/GT/a_cat_1.png")
    published(folder, "PICS/RGB/a_1.jpg PICS/RGB/house.jpg PICS/GT/a_1.png PICS/GT/house.png")
    made = places(layouts.manifest_of(folder, "dpa", quiet))
    assert set(made["DAVSOD_train"]) == {"select_0043", "select_0056"}, "the card knows it"
    assert set(made["MINE"]) == {"a_cat"}
    assert set(made["PICS"]) == {"a_1", "house"}, "one without a number: still pictures"


def test_tmo_by_hand(tmp_path: Path, quiet: Reporter, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "TMO"
    for kind, end in (("JPEGImages", "jpg"), ("Annotations", "png"), ("JPEGFlows", "jpg")):
        for video in ("bear", "dog", "extra"):
            published(folder, f"DAVIS/{kind}/480p/{video}/00000.{end}")
        published(folder, f"FBMS/TestSet/{kind}/camel01/camel01_0001.{end}")
        published(folder, f"YTOBJ/{kind}/bird/0001_002/00001.{end}")
        published(folder, f"LVID/{kind}/rat/00000.{end}")
        if kind != "JPEGFlows":
            published(folder, f"DUTS/{kind}/sun_a.{end}")
    media.write_bytes(folder / "DAVIS/ImageSets/2016/train.txt", b"bear\n")
    media.write_bytes(
        folder / "DAVIS/ImageSets/2016/val.txt",
        b"/JPEGImages/480p/dog/00000.jpg /Annotations/480p/dog/00000.png\n",
    )
    made = layouts.manifest_of(folder, None, Reporter())
    assert {name: sorted(videos) for name, videos in places(made).items()} == {
        "DAVIS_train": ["bear"],
        "DAVIS_test": ["dog"],
        "FBMS_test": ["camel01"],
        "YouTube-Objects_test": ["bird_0001_002"],
        "Long-Videos_test": ["rat"],
        "DUTS_train": ["sun_a"],
    }
    assert "1 videos are on no list (first: extra)" in capsys.readouterr().err
    assert made.datasets[0].videos[0].frames[0].flow == "DAVIS/JPEGFlows/480p/bear/00000.jpg"


def test_ianet_by_hand(tmp_path: Path, quiet: Reporter) -> None:
    folder = tmp_path / "IANet"
    rows = []
    for n in (1, 0):
        files = [f"d/DAVIS/bear/{k}/{n:05d}.png" for k in ("Imgs", "ground-truth", "Flow")]
        published(folder, " ".join(files))
        rows.append(" ".join(files))
    media.write_bytes(folder / "dataset/train/DAVIS/train.txt", "\n".join(rows).encode())
    published(folder, "dataset/train/DUTS-TR/I/x_1.jpg dataset/train/DUTS-TR/GT/x_1.png")
    media.write_bytes(
        folder / "dataset/train/DUTS-TR/train.txt",
        b"./dataset/train/DUTS-TR/I/x_1.jpg dataset/train/DUTS-TR/GT/x_1.png\n",
    )
    media.write_bytes(folder / "dataset/test/TOY/test.txt", rows[0].encode())
    media.write_bytes(folder / "dataset/train/TOY/train.txt", rows[1].encode())
    made = layouts.manifest_of(folder, None, quiet)
    assert places(made) == {
        "DAVIS_train": {"bear": ["d/DAVIS/bear/Imgs/00000.png", "d/DAVIS/bear/Imgs/00001.png"]},
        "DUTS_train": {"x_1": ["dataset/train/DUTS-TR/I/x_1.jpg"]},
        "TOY_train": {"bear": ["d/DAVIS/bear/Imgs/00000.png"]},
        "TOY_test": {"bear": ["d/DAVIS/bear/Imgs/00001.png"]},
    }
    media.write_bytes(folder / "dataset/test/BAD/test.txt", b"my video/a/b.jpg c\n")
    with pytest.raises(DataError, match=r"test\.txt: row 1: .*no blank"):
        layouts.manifest_of(folder, "ianet", quiet)


def test_a2s_by_hand(tmp_path: Path, quiet: Reporter) -> None:
    folder = published(
        tmp_path / "A2S",
        "DUTS-TR/images/a.jpg DUTS-TR/segmentations/a.png "
        "RGBD/RGBD-TR/image/1.jpg RGBD/RGBD-TR/depth/1.png RGBD/RGBD-TR/mask/1.png "
        "RGBT/VT5000-TE/RGB/7.jpg RGBT/VT5000-TE/T/7.jpg RGBT/VT5000-TE/GT/7.png "
        "vsod/VSOD-TR/JPEGImages/bear/00000.jpg vsod/VSOD-TR/JPEGImages/select_0043/0001.jpg "
        "vsod/VSOD-TR/Annotations/bear/00000.png vsod/VSOD-TR/Annotations/select_0043/0001.png "
        "vsod/VSOD-TR/optical/bear/00000.jpg vsod/VSOD-TR/optical/select_0043/0001.jpg",
    )
    made = layouts.manifest_of(folder, None, quiet)
    assert {name: sorted(videos) for name, videos in places(made).items()} == {
        "DAVIS_train": ["bear"],
        "DAVSOD_train": ["select_0043"],
        "RGBD-TR_train": ["1"],
        "VT5000_test": ["7"],
        "DUTS_train": ["a"],
    }
    frames = {s.dataset: s.videos[0].frames[0] for s in made.datasets}
    assert frames["RGBD-TR_train"].depth == "RGBD/RGBD-TR/depth/1.png"
    assert frames["RGBD-TR_train"].gt == "RGBD/RGBD-TR/mask/1.png"
    assert frames["VT5000_test"].thermal == "RGBT/VT5000-TE/T/7.jpg"
    assert frames["DAVSOD_train"].flow == "vsod/VSOD-TR/optical/select_0043/0001.jpg"


def test_smcf_by_hand_with_one_flow_fewer(tmp_path: Path, quiet: Reporter) -> None:
    folder = tmp_path / "data"
    for stem in ("bear_00000", "bear_00001", "boat_00000", "boat_00001"):
        published(folder, f"TrainSet_Video/Imgs/{stem}.jpg TrainSet_Video/ground-truth/{stem}.png")
        published(folder, f"TrainSet_RGB/Imgs/{stem}.jpg TrainSet_RGB/GTs/{stem}.png")
        if stem.endswith("0"):  # as in FSNet's packages
            published(folder, f"TrainSet_Video/Flow/{stem}.jpg")
    published(folder, "TrainSet_RGB/Imgs/sun_a.jpg TrainSet_RGB/GTs/sun_a.png")
    for kind, end in (("Frame", "jpg"), ("GT", "png"), ("OF_FlowNet2", "jpg")):
        published(folder, f"TestSet/SegTrack-V2/worm/{kind}/worm_00001.{end}")
        published(folder, f"TestSet/DAVSOD-Normal-25/select_0700/{kind}/0001.{end}")
    made = layouts.manifest_of(folder, None, quiet)
    assert {name: sorted(videos) for name, videos in places(made).items()} == {
        "DAVIS_train": ["bear", "boat"],
        "DUTS_train": ["sun_a"],
        "SegTrack-V2_test": ["worm"],
        "DAVSOD_normal25": ["select_0700"],
    }
    train = made.datasets[0]
    assert train.flow is not None and train.flow["tail"] == "none"
    assert [frame.flow is None for frame in train.videos[0].frames] == [False, True]
    (folder / "TrainSet_Video/Flow/bear_00000.jpg").unlink()
    with pytest.raises(DataError, match="DAVIS_train/bear: 2 frames have no flow"):
        layouts.manifest_of(folder, "smcf", quiet)


def test_smcf_says_what_it_leaves_out(
    tmp_path: Path, quiet: Reporter, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    for stem in ("bear_00000", "bear_00001", "frame", "bear-7"):
        published(folder, f"TrainSet_Flow/Imgs/{stem}.jpg TrainSet_Flow/ground-truth/{stem}.png")
    made = layouts.manifest_of(folder, "smcf", Reporter())
    assert places(made) == {
        "DAVIS_train": {
            "bear": [f"TrainSet_Flow/Imgs/bear_0000{n}.jpg" for n in (0, 1)],
        }
    }
    said = "2 pictures are left out: their names do not end in _NUMBER"
    assert said in (err := capsys.readouterr().err) and "Imgs/bear-7.jpg" in err
    published(folder, "TrainSet_Video/Imgs/x.jpg TrainSet_Video/ground-truth/x.png")
    layouts.manifest_of(folder, "smcf", Reporter())
    assert "1 pictures are left out: their names" in capsys.readouterr().err, "of all that is there"
    # stage 1 alone: DUTS and frames in one folder
    for stem in ("bear_00000", "pond_00001", "sun_a", "ILSVRC2012_test_00000004"):
        published(tmp_path / "one", f"TrainSet_RGB/Imgs/{stem}.jpg TrainSet_RGB/GTs/{stem}.png")
    made = layouts.manifest_of(tmp_path / "one", "smcf", Reporter())
    assert list(places(made)) == ["DUTS_train"]
    assert set(places(made)["DUTS_train"]) == {
        *("pond_00001", "sun_a", "ILSVRC2012_test_00000004")
    }, "no card knows a video called pond"
    err = capsys.readouterr().err
    assert "1 pictures are left out: by their names they are frames of videos" in err
    assert "bear_00000 of DAVIS_train" in err and "_NUMBER" not in err
    bare = published(tmp_path / "bare", "TrainSet_RGB/Imgs/bear_1.jpg TrainSet_RGB/GTs/bear_1.png")
    with pytest.raises(DataError, match="TrainSet_RGB holds nothing but frames of videos"):
        layouts.manifest_of(bare, "smcf", quiet)


def test_flow_of_two_folders_is_of_two_kinds(tmp_path: Path, quiet: Reporter) -> None:
    kinds = []
    for folder, name in (("a", "bear"), ("b", "bear"), ("c", "boat")):
        files = f"DAVIS_train/RGB/{name}_0.jpg DAVIS_train/GT/{name}_0.png "
        flow = f"DAVIS_train/FLOW/{name}_0.jpg "
        test = "S_test/v/RGB/v_1.jpg S_test/v/GT/v_1.png S_test/v/FLOW/v_1.jpg"
        made = layouts.manifest_of(published(tmp_path / folder, files + flow + test), "dpa", quiet)
        first, second = (split.flow for split in made.datasets)
        assert first is not None and first == second, "train and test of one folder"
        kinds.append(first["fingerprint"])
    assert kinds[0] == kinds[1] != kinds[2]


def test_private_cards_name_data_sets(tmp_path: Path, quiet: Reporter) -> None:
    text = (
        'name = "Lab"\ntitle = "t"\nhome = "h"\nkind = "image"\n[[layouts]]\n'
        'img = "i/{frame}.*"\n[splits.easy]\n'
    )
    root = tmp_path / "datasets"
    media.write_bytes(root / "cards/lab.toml", text.encode())
    files = "Lab/images/x_1.png Lab/segmentations/x_1.png Lab/images/x_2.png"
    folder = published(tmp_path / "a2s", f"{files} Lab/segmentations/x_2.png")
    assert list(places(layouts.manifest_of(folder, "a2s", quiet))) == ["Lab"]
    made = layouts.manifest_of(folder, "a2s", quiet, root)
    assert list(places(made)) == ["Lab_easy"] and made.datasets[0].split == "easy"
    for n, kind in enumerate(("RGB", "GT")):
        for stem in ("x_1", "x_2"):
            (mask if n else picture)(root / "Lab_easy" / kind / f"{stem}.png", 9)
    done = layout_export.run(["lab"], "a2s", tmp_path / "out", root, quiet)
    assert done.sets["Lab_easy"].folder == "Lab"


def test_the_real_sample_of_the_davsod_layout(quiet: Reporter) -> None:
    if not SAMPLE.is_dir():
        pytest.skip(f"no sample in {SAMPLE}")
    made = layouts.manifest_of(SAMPLE, None, quiet)
    (split,) = made.datasets
    assert (split.dataset, split.split, split.frames, split.flow) == (
        "DAVIS_test",
        "test",
        10,
        None,
    )
    assert [video.name for video in split.videos] == ["blackswan", "bmx-trees"]
    assert split.videos[0].size == (480, 854)
    inside = layouts.manifest_of(SAMPLE / "DAVIS", "davsod", quiet)
    assert inside.datasets[0].videos[0].frames[4].img == "blackswan/Imgs/blackswan_00004.jpg"
    assert inside.datasets[0].dataset == "DAVIS_test"


def test_pictures_of_other_sizes(
    tmp_path: Path, quiet: Reporter, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = published(tmp_path / "A2S", "E/images/a.jpg E/images/b.jpg E/segmentations/a.png")
    mask(folder / "E/segmentations/b.png", 1, (8, 16))
    made = layouts.manifest_of(folder, "a2s", Reporter())
    assert places(made) == {"E": {"a": ["E/images/a.jpg"]}}
    assert "E: 1 pictures whose mask has another size are left out" in capsys.readouterr().err
    published(folder, "vsod/V/JPEGImages/v/1.jpg")
    mask(folder / "vsod/V/Annotations/v/1.png", 1, (8, 16))
    with pytest.raises(DataError, match="expected 16x16 as the first frame of v, got 16x8"):
        layouts.manifest_of(folder, "a2s", quiet)


# masks, folders, words


def test_masks_are_what_the_loaders_expect(tmp_path: Path, quiet: Reporter) -> None:
    root = tmp_path / "datasets"
    write_set(root, "TOY_test", {"v": ["00000", "00001", "00002", "00003"]})
    gt = root / "TOY_test" / "v" / "GT"
    index = np.zeros((16, 16), np.uint8)
    index[:2], index[2:4], index[15] = 1, 2, 255
    palette = Image.fromarray(index, "P")
    palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [255] * 759)
    palette.save(gt / "00001.png")
    media.write_bytes(gt / "00002.png", media.encode_png((index == 1).astype(np.uint8)))
    out = tmp_path / "out"
    done = layout_export.run(["TOY_test"], "dpa", out, root, quiet)
    assert done.converted == 2
    written = [out / "TOY_test" / "v" / "GT" / f"v_{n:05d}.png" for n in range(4)]
    assert [file.is_symlink() for file in written] == [True, False, False, True]
    grey = [media.read_map(file) for file in written]
    assert [masks.mode(file) for file in written] == ["L"] * 4
    assert [int((g == 255).sum()) for g in grey[1:3]] == [64, 32]
    assert all(set(np.unique(g)) <= {0, 255} for g in grey)
    again = layout_export.run(["TOY_test"], "dpa", out, root, quiet)
    assert (again.kept, again.converted) == (12, 0)


def test_an_export_continues_and_refuses_other_things(
    awkward: Path, tmp_path: Path, quiet: Reporter
) -> None:
    out = tmp_path / "out"
    done = layout_export.run(ODD, "ianet", out, awkward, quiet)
    lost = [out / "dataset/train/ODD_train/train.txt", next(out.rglob("img/0745.jpg"))]
    for file in lost:
        file.unlink()
    (lost[1].parent / ".0745.jpg.partial").write_bytes(b"killed")
    again = layout_export.run(ODD, "ianet", out, awkward, quiet)
    assert (again.linked, again.lists, again.kept) == (1, 1, done.linked + done.lists - 2)
    assert not list(out.rglob("*.partial")) and all(file.is_file() for file in lost)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds something else: notes\.txt"):
        layout_export.run(ODD, "ianet", out, awkward, quiet)
    (out / "notes.txt").unlink()
    lost[1].unlink()
    picture(lost[1], 3)
    with pytest.raises(DataError, match="holds something else: .*0745.jpg"):
        layout_export.run(ODD, "ianet", out, awkward, quiet)


def test_file_systems_without_links(
    awkward: Path, tmp_path: Path, quiet: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "symlink", refuse)
    layout_export.run(["ODD_test"], "davsod", tmp_path / "hard", awkward, quiet)
    monkeypatch.setattr(os, "link", refuse)
    layout_export.run(["ODD_test"], "davsod", tmp_path / "copy", awkward, quiet)
    inner = "ODD_test/red_fox/Imgs/red_fox_00008.jpg"
    source = awkward / "ODD_test/red_fox/RGB/red_fox_8.jpg"
    assert (tmp_path / "hard" / inner).samefile(source)
    assert not (tmp_path / "copy" / inner).samefile(source)
    assert (tmp_path / "copy" / inner).read_bytes() == source.read_bytes()
    again = layout_export.run(["ODD_test"], "davsod", tmp_path / "copy", awkward, quiet)
    assert again.linked == 0


def test_what_no_layout_can_hold(awkward: Path, tmp_path: Path, quiet: Reporter) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="no place for this training set of still pictures"):
        layout_export.run(["DUTS_train"], "davsod", out, awkward, quiet)
    shutil.rmtree(awkward / "ODD_train" / "a.b_2" / "GT")
    shutil.rmtree(awkward / "ODD_train" / "bird_of_paradise" / "GT")
    with pytest.raises(DataError, match="ODD_train has no masks"):
        layout_export.run(["ODD_train"], "dpa", out, awkward, quiet)
    shutil.copytree(awkward / "ODD_test" / "red_fox", awkward / "ODD_test" / "red-fox")
    with pytest.raises(DataError, match="would both be"):
        layout_export.run(["ODD_test"], "dpa", out, awkward, quiet)
    for video in ("red_fox", "red-fox"):
        shutil.rmtree(awkward / "ODD_test" / video / "FLOW")
    with pytest.raises(DataError, match="ODD_test has no flow.*vsodpipe flow ODD_test"):
        layout_export.run(["ODD_test"], "dpa", out, awkward, quiet)
    assert not out.exists(), "nothing is half-written"


def test_folders_of_no_and_of_two_layouts(tmp_path: Path, quiet: Reporter) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match="in none of the layouts dpa, .* vsodpipe import --own NAME"
    ):
        layouts.manifest_of(tmp_path / "empty", None, quiet)
    with pytest.raises(DataError, match="nothing in the layout tmo"):
        layouts.manifest_of(tmp_path / "empty", "tmo", quiet)
    with pytest.raises(UsageError, match="unknown layout 'dba'. Did you mean dpa"):
        layouts.manifest_of(tmp_path / "empty", "dba", quiet)
    both = published(
        tmp_path / "both",
        "TrainSet_Video/Imgs/v_00001.jpg TrainSet_Video/ground-truth/v_00001.png",
    )
    with pytest.raises(DataError, match="smcf or davsod. Say which with --layout"):
        layouts.manifest_of(both, None, quiet)
    stray = published(tmp_path / "stray", "S/v/Imgs/1.jpg S/v/ground-truth/2.png")
    with pytest.raises(DataError, match="1 gt pictures of v have no frame of their number"):
        layouts.manifest_of(stray, None, quiet)
    inside = tmp_path / "data" / "dpa"
    with pytest.raises(UsageError, match="is in the data root"):
        layout_export.run(["X"], "dpa", inside, tmp_path / "data", quiet)


def test_commands(
    vsodpipe: Callable[..., tuple[int, str, str]], awkward: Path, tmp_path: Path
) -> None:
    code, out, err = vsodpipe("export", "odd", "--layout", "smcf", "--out", "smcf", "--json")
    assert code == 0 and '"linked"' in out and "TestSet/ODD_test" in err
    code, out, err = vsodpipe("manifest", "smcf")
    assert code == 0, err
    assert "layout of SMCF" in err and "Run: vsodpipe flow" not in err
    source = manifest.read(tmp_path / "manifests" / "smcf.json")
    assert source.root == str(tmp_path / "smcf")
    assert source.names() == ["TrainSet_Flow", "ODD_test"]
    row = (tmp_path / "manifests" / "odd_test.txt").read_text().split()
    assert all(Path(file).is_file() for file in row if file != "-")
    # a manifest goes on into another layout
    code, _, err = vsodpipe("export", "manifests/smcf.json", "--layout", "a2s", "--out", "a2s")
    assert code == 0, err
    assert (tmp_path / "a2s/vsod/ODD_test/optical/red_fox/00011.jpg").is_file()
    code, _, err = vsodpipe("manifest", "smcf", "--layout", "tmo")
    assert code == 2 and err.count("\n") == 1 and "nothing in the layout tmo" in err
    code, _, err = vsodpipe("manifest", "--layout", "tmo")
    assert code == 2 and "expected one folder" in err
