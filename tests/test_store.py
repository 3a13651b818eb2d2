"""Packing: the same frames come out, whole or not at all, and a killed pack continues."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import zarr

from helpers import files_below
from vsodpipe import media, pack, store
from vsodpipe.errors import DataError, UsageError
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter
from vsodpipe.stream import Files

SIZE = (32, 40)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SHARD_BYTES", 4 * 3 * SIZE[0] * SIZE[1])


def pack_train(source: Source, target: Path, quiet: Reporter, **options: object) -> pack.Packed:
    split = source.split("TINY_train")
    return pack.pack(split, source.root, target, SIZE, quiet, **options)  # type: ignore[arg-type]


def test_the_store_holds_the_resized_files(source: Source, tmp_path: Path, quiet: Reporter) -> None:
    done = pack_train(source, tmp_path / "t.zarr", quiet)
    assert (done.frames, done.shards, done.kept) == (9, 3, False)
    opened, files = store.Store(str(done.path)), Files(source, source.split("TINY_train"))
    assert opened.videos == files.videos == ["ball", "cube"]
    assert (opened.dataset, opened.size(1)) == ("TINY_train", (48, 64))
    for video in range(2):
        assert opened.frames(video) == files.frames(video)
        assert opened.annotated(video) == files.annotated(video)
        for frame in range(len(files.frames(video))):
            for key in ("img", "flow"):
                picture = files.read(video, frame, key)
                expected = cv2.resize(picture, SIZE[::-1], interpolation=cv2.INTER_AREA)
                np.testing.assert_array_equal(opened.read(video, frame, key), expected)
            assert set(np.unique(opened.read(video, frame, "gt"))) <= {0, 1}
    assert opened.attributes["flow"] == source.split("TINY_train").flow


def test_any_zarr_reader_opens_it(source: Source, tmp_path: Path, quiet: Reporter) -> None:
    done = pack_train(source, tmp_path / "t.zarr", quiet)
    group = zarr.open_group(done.path, mode="r")
    img = group["img"]
    assert isinstance(img, zarr.Array)
    assert (img.shape, img.chunks, img.shards) == ((9, *SIZE, 3), (1, *SIZE, 3), (4, *SIZE, 3))
    assert img.metadata.dimension_names == ("frame", "y", "x", "channel")  # type: ignore[union-attr]
    assert group.attrs["schema"] == {"name": "vsodpipe-store", "version": 1}


def test_dask_workers_give_the_same_store(source: Source, tmp_path: Path, quiet: Reporter) -> None:
    one = pack_train(source, tmp_path / "one.zarr", quiet).path
    two = pack_train(source, tmp_path / "two.zarr", quiet, where="local:2").path
    assert files_below(one) == files_below(two)
    for name in files_below(one):
        if (one / name).is_file():
            assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_an_interrupted_pack_is_no_store_and_continues(
    source: Source, tmp_path: Path, quiet: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pack_train(source, tmp_path / "whole.zarr", quiet).path
    real, calls = store.write_shard, []

    def killed(path: Path, number: int, *rest: object) -> None:
        if number == 2 and len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(number)
        real(path, number, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        pack_train(source, tmp_path / "t.zarr", quiet)
    assert not (tmp_path / "t.zarr").exists()
    calls.append(-1)
    again = pack_train(source, tmp_path / "t.zarr", quiet).path
    assert calls == [0, 1, -1, 2], "only the shard that was left is written"
    assert files_below(again) == files_below(whole)
    for name in files_below(whole):
        if (whole / name).is_file():
            assert (whole / name).read_bytes() == (again / name).read_bytes(), name


def test_a_damaged_file_leaves_nothing(source: Source, tmp_path: Path, quiet: Reporter) -> None:
    frame = Path(source.root) / "TINY_train/cube/RGB/00003.jpg"
    frame.write_bytes(frame.read_bytes()[:-40])
    before = files_below(tmp_path)
    with pytest.raises(DataError, match="damaged picture"):
        pack_train(source, tmp_path / "t.zarr", quiet)
    assert files_below(tmp_path) == before


def test_a_store_of_other_files_is_not_replaced_unasked(
    source: Source, tmp_path: Path, quiet: Reporter
) -> None:
    target = tmp_path / "t.zarr"
    pack_train(source, target, quiet)
    assert pack_train(source, target, quiet).kept
    split = source.split("TINY_test")
    with pytest.raises(DataError, match="Use --force"):
        pack.pack(split, source.root, target, SIZE, quiet)
    pack.pack(split, source.root, target, SIZE, quiet, force=True)
    assert store.Store(str(target)).dataset == "TINY_test"


def test_changed_files_are_noticed(source: Source, tmp_path: Path, quiet: Reporter) -> None:
    target = tmp_path / "t.zarr"
    pack_train(source, target, quiet)
    mask = Path(source.root) / "TINY_train/ball/GT/00001.png"
    mask.write_bytes(media.encode_png(np.full((48, 64), 255, np.uint8)))
    with pytest.raises(DataError, match="from other files than there are now"):
        pack_train(source, target, quiet)
    pack_train(source, target, quiet, force=True)
    assert store.Store(str(target)).read(0, 1, "gt").all()


def test_what_is_no_store_is_never_replaced(
    source: Source, tmp_path: Path, quiet: Reporter
) -> None:
    media.write_bytes(tmp_path / "mine" / "file", b"x")
    with pytest.raises(DataError, match="is no store"):
        pack_train(source, tmp_path / "mine", quiet, force=True)
    assert (tmp_path / "mine" / "file").read_bytes() == b"x"


@pytest.mark.parametrize("name", ["img/c/1", "gt", "video_offset", "flow_picture/c"])
def test_missing_shards_are_noticed(
    source: Source, tmp_path: Path, quiet: Reporter, name: str
) -> None:
    path = pack_train(source, tmp_path / "t.zarr", quiet).path
    media.remove(path / name)
    with pytest.raises(DataError, match="Pack it anew"):
        store.Store(str(path))


def test_frames_without_mask_or_flow(source: Source, tmp_path: Path, quiet: Reporter) -> None:
    split = source.split("TINY_test")
    video = split.videos[0]
    frames = tuple(
        replace(f, flow=None, **({"gt": None} if f.name == "00001" else {})) for f in video.frames
    )
    bare = split.model_copy(
        update={"flow": None, "videos": (video.model_copy(update={"frames": frames}),)}
    )
    pack.pack(bare, source.root, tmp_path / "t.zarr", SIZE, quiet)
    opened = store.Store(str(tmp_path / "t.zarr"))
    assert opened.annotated(0) == [True, False, True, True, True]
    assert not opened.read(0, 1, "gt").any()
    with pytest.raises(DataError, match="no flow_picture"):
        opened.read(0, 0, "flow")


def test_sizes(source: Source) -> None:
    split = source.split("TINY_train")
    assert pack.parse_size("384", split) == (384, 384)
    assert pack.parse_size("48x64", split) == (48, 64)
    assert pack.parse_size("native", split) == (48, 64)
    for text in ("0", "x", "3x4x5", "-1", "1e3", ""):
        with pytest.raises(UsageError, match="expected N"):
            pack.parse_size(text, split)
    videos = (split.videos[0], split.videos[1].model_copy(update={"size": (1, 2)}))
    with pytest.raises(DataError, match="2 sizes"):
        pack.parse_size("native", split.model_copy(update={"videos": videos}))


def test_shards_are_near_64_mb(monkeypatch: pytest.MonkeyPatch, source: Source) -> None:
    monkeypatch.undo()
    split = source.split("TINY_train")
    shards = {size: store.plan(split, size).shard for size in ((384, 384), (512, 512), (480, 854))}
    assert shards == {(384, 384): 128, (512, 512): 64, (480, 854): 64}


@pytest.mark.parametrize("make", ["nothing", "folder", "group"])
def test_what_is_no_store(tmp_path: Path, make: str) -> None:
    path = tmp_path / "x.zarr"
    if make == "folder":
        media.write_bytes(path / "file", b"x")
    if make == "group":
        zarr.create_group(path)
    with pytest.raises(DataError, match=r"x\.zarr"):
        store.Store(str(path))
