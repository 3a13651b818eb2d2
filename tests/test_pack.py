"""Packing: the same frames come out, whole or not at all, and a killed pack continues."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import fsspec
import numpy as np
import pytest

from helpers import files_below
from stores import SIZE, add_vectors, pack_train, same_bytes, small_shards
from vsodpipe import flow_raw, media, pack, pack_plan, pack_shard, reader, store, zarr_files
from vsodpipe.errors import DataError, UsageError
from vsodpipe.flows.files import read_flo
from vsodpipe.frames import Files
from vsodpipe.manifest import Source


@pytest.fixture(autouse=True)
def shards_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    small_shards(monkeypatch)


def test_the_store_holds_the_resized_files(source: Source, tmp_path: Path) -> None:
    done = pack_train(source, tmp_path / "t.zarr")
    assert (done.frames, done.shards, done.kept) == (9, 3, False)
    opened, files = reader.open_store(done.path), Files(source, source.split("TINY_train"))
    assert opened.videos == files.videos == ["ball", "cube"]
    assert (opened.dataset, opened.size(1), opened.stored) == ("TINY_train", (48, 64), SIZE)
    for video in range(2):
        assert opened.frames(video) == files.frames(video)
        assert opened.annotated(video) == files.annotated(video)
        assert opened.numbers(video) == list(range(len(files.frames(video))))
        for frame in range(len(files.frames(video))):
            for key, array in (("img", "img"), ("flow", "flow_picture")):
                picture = files.read(video, frame, key)
                expected = cv2.resize(picture, SIZE[::-1], interpolation=cv2.INTER_AREA)
                np.testing.assert_array_equal(opened.read(video, frame, array), expected)
            assert set(np.unique(opened.read(video, frame, "gt"))) <= {0, 1}
    assert opened.attributes["flow"] == source.split("TINY_train").flow


@pytest.mark.parametrize("form", ["raw", "flo"])
def test_flow_vectors_are_in_stored_pixels(source: Source, tmp_path: Path, form: str) -> None:
    add_vectors(Path(source.root), form)
    video = Path(source.root) / "TINY_train" / "cube"
    if form == "flo":
        expected = read_flo(video / "FLOW_FLO" / "00002.flo")
    else:
        names, array = flow_raw.read(video / "FLOW_RAW")
        steps = np.asarray(array[names.index("00002")])
        expected = (steps.transpose(1, 2, 0) / 64).astype(np.float32)
    whole = reader.open_store(
        pack_train(source, tmp_path / "n.zarr", flow="raw", size=(48, 64)).path
    )
    assert "flow_picture" not in whole.arrays
    found = whole.read(1, 2, "flow").transpose(1, 2, 0) / 64
    np.testing.assert_allclose(found, expected, atol=1 / 128)
    half = reader.open_store(
        pack_train(source, tmp_path / "h.zarr", flow="raw", size=(24, 16)).path
    )
    found = half.read(1, 2, "flow").transpose(1, 2, 0) / 64
    smaller = cv2.resize(expected, (16, 24), interpolation=cv2.INTER_AREA) * (0.25, 0.5)
    np.testing.assert_allclose(found, smaller, atol=1 / 127)
    assert np.abs(expected).max() > 0.5


def test_hdf5_holds_the_same(source: Source, tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="h5py is not installed")
    add_vectors(Path(source.root))
    zarr = reader.open_store(pack_train(source, tmp_path / "t.zarr", flow="both").path)
    done = pack_train(source, tmp_path / "t.h5", flow="both", container="hdf5")
    hdf5 = reader.open_store(done.path)
    assert pack_train(source, tmp_path / "t.h5", flow="both", container="hdf5").kept
    assert not [name for name in files_below(tmp_path) if "partial" in name]
    assert (hdf5.arrays, hdf5.videos, len(hdf5)) == (zarr.arrays, zarr.videos, 9)
    for key in zarr.arrays:
        for video, frames in enumerate([5, 4]):
            clip = zarr.read_clip(video, range(frames), key)
            np.testing.assert_array_equal(hdf5.read_clip(video, range(frames), key), clip)
    fsspec.filesystem("memory").put(done.path, "/hdf5/t.h5")
    remote = reader.open_store("memory://hdf5/t.h5")
    np.testing.assert_array_equal(remote.read(1, 2, "flow"), zarr.read(1, 2, "flow"))
    with pytest.raises(UsageError, match="no JPEG chunks"):
        pack_train(source, tmp_path / "j.h5", tier="jpeg", container="hdf5")
    with pytest.raises(UsageError, match=r"NAME\.h5"):
        pack_train(source, "memory://t.h5", container="hdf5")


def test_jpeg_keeps_the_bytes_of_frames_that_fit(source: Source, tmp_path: Path) -> None:
    opened = reader.open_store(pack_train(source, tmp_path / "n.zarr", tier="jpeg", size=None).path)
    file = Path(source.root) / "TINY_train/cube/RGB/00003.jpg"
    assert opened.chunk(8, "img") == file.read_bytes()
    np.testing.assert_array_equal(opened.read(1, 3, "img"), media.read_image(file))
    raw = reader.open_store(pack_train(source, tmp_path / "r.zarr").path)
    bytes_, errors = [], []
    for tier in ("jpeg", "small"):
        lossy = reader.open_store(pack_train(source, tmp_path / f"{tier}.zarr", tier=tier).path)
        bytes_.append(len(lossy.chunk(8, "img") or b""))
        errors.append(np.abs(lossy.read(1, 3, "img").astype(int) - raw.read(1, 3, "img")).mean())
        np.testing.assert_array_equal(lossy.read(1, 3, "gt"), raw.read(1, 3, "gt"))
    assert 0 < errors[0] < 3 and errors[0] < errors[1] < 10
    assert bytes_[1] < 0.8 * bytes_[0]


def test_frames_of_several_sizes(source: Source, tmp_path: Path) -> None:
    split, video = source.split("TINY_train"), Path(source.root) / "TINY_train" / "ball"
    for file in [*video.glob("*/*.jpg"), *video.glob("*/*.png")]:
        picture = cv2.resize(cv2.imread(str(file), cv2.IMREAD_UNCHANGED), (36, 20))
        assert cv2.imwrite(str(file), picture)
    ball = split.videos[0].model_copy(update={"size": (20, 36)})
    mixed = split.model_copy(update={"videos": (split.videos[1], ball)})
    opened = reader.open_store(pack_train(source, tmp_path / "n.zarr", size=None, split=mixed).path)
    assert sorted(files_below(tmp_path / "n.zarr") & {"size_48x64", "size_20x36"}) == [
        "size_20x36",
        "size_48x64",
    ]
    assert [opened.stored_size(i) for i in (0, 4)] == [(48, 64), (20, 36)]
    assert (opened.size(1), opened.stored, opened.shard_of(8)) == ((20, 36), (20, 36), (1, 0))
    path = video / "RGB" / "00004.jpg"
    np.testing.assert_array_equal(opened.read(1, 4, "img"), media.read_image(path))
    with pytest.raises(DataError, match="frames of 2 sizes"):
        opened.read_into([0, 4], "img", np.empty((2, 48, 64, 3), np.uint8))
    whole = reader.open_store(pack_train(source, tmp_path / "s.zarr", split=mixed).path)
    assert whole.stored == SIZE and whole.read(1, 4, "gt").shape == SIZE


def test_dask_workers_give_the_same_store(source: Source, tmp_path: Path) -> None:
    pack_train(source, tmp_path / "one.zarr")
    pack_train(source, tmp_path / "two.zarr", where="local:2")
    assert same_bytes(tmp_path / "one.zarr", tmp_path / "two.zarr")


def test_a_killed_pack_continues(source: Source, tmp_path: Path) -> None:
    pack_train(source, tmp_path / "whole.zarr")
    code = (
        "import sys, time\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from stores import *\n"
        "from vsodpipe import manifest, pack_shard\n"
        "store.SHARD_BYTES = 4 * 3 * SIZE[0] * SIZE[1]\n"
        "real = pack_shard.encode\n"
        "def slow(task, entry, array):\n"
        "    if task.number == 2 and array == 'gt': print('half', flush=True); time.sleep(60)\n"
        "    return real(task, entry, array)\n"
        "pack_shard.encode = slow\n"
        "pack_train(manifest.read(Path(sys.argv[2])), Path(sys.argv[3]))\n"
    )
    arguments = [str(Path(__file__).parent), str(source.file), str(tmp_path / "t.zarr")]
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None and running.stdout.readline() == "half\n"
        running.send_signal(signal.SIGKILL)
    assert not (tmp_path / "t.zarr").exists()
    there = tmp_path / ".t.zarr.partial" / "img/c/0/0/0/0"
    before = there.stat().st_mtime_ns
    pack_train(source, tmp_path / "t.zarr")
    assert (tmp_path / "t.zarr/img/c/0/0/0/0").stat().st_mtime_ns == before, "written again"
    assert same_bytes(tmp_path / "t.zarr", tmp_path / "whole.zarr")
    media.write_bytes(there, b"killed after the commit")
    assert pack_train(source, tmp_path / "t.zarr").kept
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_a_pack_that_encoded_otherwise_is_not_continued(source: Source, tmp_path: Path) -> None:
    plan = pack_plan.make(source.split("TINY_train"), source.root, pack_plan.Options(SIZE))
    left = tmp_path / ".t.zarr.partial"
    media.write_bytes(left / ".plan", plan.fingerprint.encode())  # as version 0.1 did
    media.write_bytes(left / ".done/all-0.json", b"{}")
    pack_train(source, tmp_path / "t.zarr")
    pack_train(source, tmp_path / "whole.zarr")
    assert same_bytes(tmp_path / "t.zarr", tmp_path / "whole.zarr")


def test_a_remote_pack_is_committed_last_and_continues(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"memory://test-{time.time_ns()}/t.zarr"
    real, calls = pack_shard.encode, []

    def stops(task: Any, *rest: Any) -> Any:
        if task.number == 2 and not calls:
            calls.append(task)
            raise KeyboardInterrupt
        return real(task, *rest)

    monkeypatch.setattr(pack_shard, "encode", stops)
    with pytest.raises(KeyboardInterrupt):
        pack_train(source, url)
    system = fsspec.filesystem("memory")
    shard = f"{url}/img/c/0/0/0/0"
    before = system.info(shard)["created"]
    assert system.exists(shard) and not system.exists(f"{url}/zarr.json")
    with pytest.raises(DataError, match="no store"):
        reader.open_store(url)
    assert not pack_train(source, url).kept
    assert system.info(shard)["created"] == before, "written again"
    assert pack_train(source, url).kept
    assert not [name for name in system.find(url) if "/." in name]
    with pytest.raises(DataError, match="Use --force"):
        pack_train(source, url, tier="lossless")
    pack_train(source, url, tier="lossless", force=True)
    assert reader.open_store(url).codec("flow_picture") == "lz4hc"
    system.pipe_file("memory://mine/file", b"x")
    with pytest.raises(DataError, match="is no store"):
        pack_train(source, "memory://mine", force=True)


def test_a_damaged_file_leaves_nothing(source: Source, tmp_path: Path) -> None:
    frame = Path(source.root) / "TINY_train/cube/RGB/00003.jpg"
    frame.write_bytes(frame.read_bytes()[:-40])
    before = files_below(tmp_path)
    for tier, size in (("raw", SIZE), ("jpeg", None)):
        with pytest.raises(DataError, match="damaged picture"):
            pack_train(source, tmp_path / "t.zarr", tier=tier, size=size)
        assert files_below(tmp_path) == before


def test_other_files_are_noticed(source: Source, tmp_path: Path) -> None:
    target = tmp_path / "t.zarr"
    first = reader.open_store(pack_train(source, target).path).fingerprint
    assert pack_train(source, target).kept
    mask = Path(source.root) / "TINY_train/ball/GT/00001.png"
    mask.write_bytes(media.encode_png(np.full((48, 64), 255, np.uint8)))
    with pytest.raises(DataError, match="from other files than there are now"):
        pack_train(source, target)
    pack_train(source, target, force=True)
    opened = reader.open_store(str(target))
    assert opened.read(0, 1, "gt").all() and opened.fingerprint != first
    with pytest.raises(DataError, match="Use --force"):
        pack_train(source, target, split=source.split("TINY_test"))


def test_what_is_no_store_is_never_replaced(source: Source, tmp_path: Path) -> None:
    media.write_bytes(tmp_path / "mine" / "file", b"x")
    with pytest.raises(DataError, match="is no store"):
        pack_train(source, tmp_path / "mine", force=True)
    assert (tmp_path / "mine" / "file").read_bytes() == b"x"


def test_sparse_masks_depth_and_thermal(source: Source, tmp_path: Path) -> None:
    split = source.split("TINY_test")
    video = split.videos[0]
    changes: dict[str, dict[str, Any]] = {"00001": {"gt": None}}
    frames = tuple(
        replace(f, **{"flow": None, "depth": f.gt, "thermal": f.img, **changes.get(f.name, {})})
        for f in video.frames
    )
    bare = split.model_copy(
        update={"flow": None, "videos": (video.model_copy(update={"frames": frames}),)}
    )
    done = pack_train(source, tmp_path / "t.zarr", split=bare, size=None)
    opened = reader.open_store(done.path)
    assert opened.arrays == ("img", "gt", "depth", "thermal")
    assert opened.annotated(0) == [True, False, True, True, True]
    out = np.full((2, 48, 64), 9, np.uint8)
    opened.read_into([1, 2], "gt", out)
    assert not out[0].any() and out[1].any()
    assert opened.chunk(1, "gt") is None
    with pytest.raises(DataError, match="TINY_test/dice/00001 has no gt"):
        opened.read(0, 1, "gt")
    with pytest.raises(DataError, match="has no flow_picture"):
        opened.read(0, 0, "flow_picture")
    np.testing.assert_array_equal(opened.read(0, 2, "depth"), opened.read(0, 2, "gt") * 255)
    np.testing.assert_array_equal(opened.read(0, 2, "thermal"), opened.read(0, 2, "img"))


def test_an_estimate_is_near(source: Source, tmp_path: Path) -> None:
    found = pack.estimate(source.split("TINY_train"), source.root, pack_plan.Options(SIZE))
    done = pack_train(source, tmp_path / "t.zarr")
    assert found.frames == done.frames
    assert abs(found.bytes - done.bytes) < 0.05 * done.bytes
    shard = zarr_files.shard_file("img", 2)
    assert (tmp_path / "t.zarr" / shard).is_file()
    assert found.seconds > 0 and found.measured == 4


def test_missing_vectors_name_the_command(source: Source, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="vsodpipe flow TINY_train --format raw"):
        pack_train(source, tmp_path / "t.zarr", flow="raw")
    assert not (tmp_path / "t.zarr").exists()


def test_sizes() -> None:
    assert pack_plan.parse_size("384") == (384, 384)
    assert pack_plan.parse_size("48x64") == (48, 64)
    assert pack_plan.parse_size("480p") == (480, 854)
    assert pack_plan.parse_size("native") is None
    for text in ("0", "x", "3x4x5", "-1", "1e3", ""):
        with pytest.raises(UsageError, match="expected N"):
            pack_plan.parse_size(text)
    assert store.TIERS == ("raw", "lossless", "jpeg", "small")
