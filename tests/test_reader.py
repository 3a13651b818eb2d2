"""The reader: the same frames from every place, and no damage goes unseen."""

import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest

from stores import ORDER, batch, server
from vsodpipe import reader, shard_cache, shards
from vsodpipe.errors import DataError


def in_child(method: str, opened: reader.Store) -> np.ndarray:
    """Read a batch in a process that is forked or spawned."""
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(batch, opened).result(timeout=240)


def test_a_batch_is_its_frames(packed: Path) -> None:
    opened = reader.open_store(str(packed))
    for key in opened.arrays:
        expected = [opened.read(int(i >= 5), i - 5 * int(i >= 5), key) for i in ORDER]
        np.testing.assert_array_equal(batch(opened, key), np.stack(expected))


def test_slots_may_be_views_of_a_larger_batch(packed: Path) -> None:
    opened = reader.open_store(str(packed))
    large = np.zeros((2 * len(ORDER), 32, 40, 3), np.uint8)
    opened.read_into(ORDER, "img", large[::2])
    np.testing.assert_array_equal(large[::2], batch(opened))
    assert not large[1::2].any()
    with pytest.raises(ValueError, match="expected uint8"):
        opened.read_into([0], "img", np.empty((1, 32, 40), np.uint8))
    with pytest.raises(IndexError, match="frames 0 to 8"):
        opened.read_into([9], "img", large[:1])
    with pytest.raises(IndexError, match="ball has 5 frames"):
        opened.read(0, 5, "img")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_it_pickles_and_forks(packed: Path, method: str) -> None:
    opened = reader.open_store(str(packed))
    expected = batch(opened).tobytes()
    assert batch(pickle.loads(pickle.dumps(opened))).tobytes() == expected
    assert in_child(method, opened).tobytes() == expected


def test_frames_that_adjoin_are_read_at_once(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, calls = reader.open_store(str(packed)), []
    real = os.preadv

    def counted(file: int, slots: list[memoryview], start: int) -> int:
        calls.append(len(slots))
        return real(file, slots, start)

    monkeypatch.setattr(os, "preadv", counted)
    opened.read_clip(0, [0, 1, 2, 3], "img")
    assert calls == [4]
    batch(opened)
    assert sorted(calls[1:]) == [1, 1, 1, 1, 1, 2]


@pytest.mark.parametrize("most", [1, 1000, 3 * 32 * 40, 5000])
def test_a_read_may_be_short(packed: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    opened = reader.open_store(str(packed))
    want = opened.read_clip(0, [0, 1, 2, 3, 4], "img")
    real = os.preadv

    def short(file: int, slots: list[memoryview], start: int) -> int:
        flat = slots[0].cast("B")
        if len(flat) > most:
            return real(file, [flat[:most]], start)
        return real(file, [flat, *(slot.cast("B")[:1] for slot in slots[1:2])], start)

    monkeypatch.setattr(os, "preadv", short)
    np.testing.assert_array_equal(opened.read_clip(0, [0, 1, 2, 3, 4], "img"), want)


@pytest.mark.parametrize(
    "name", ["img/c/1/0/0/0", "gt/c/0/0/0", "video_offset/c/0", "img/c/2/0/0/0"]
)
@pytest.mark.parametrize("damage", ["missing", "short", "flipped", "index"])
def test_damage_is_noticed(packed: Path, name: str, damage: str) -> None:
    file = packed / name
    data = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "short":
        file.write_bytes(data[:-30])
    else:
        data[-10 if damage == "index" else 5] ^= 4
        file.write_bytes(data)
    with pytest.raises(DataError, match=r"t\.zarr/.*([Cc]opy|cannot be read)") as caught:
        opened = reader.open_store(str(packed))
        for key in opened.arrays:
            opened.read_clip(0, range(5), key)
            opened.read_clip(1, range(4), key)
    assert "\n" not in str(caught.value)


def test_a_file_that_goes_away_while_reading(packed: Path) -> None:
    opened = reader.open_store(str(packed))
    (packed / "img/c/0/0/0/0").unlink()
    with pytest.raises(DataError, match="cannot be read: No such file"):
        opened.read(0, 0, "img")


def test_memory(packed: Path) -> None:
    system = fsspec.filesystem("memory")
    system.put(str(packed), "/reader/t.zarr", recursive=True)
    opened = reader.open_store("memory://reader/t.zarr")
    local = reader.open_store(str(packed))
    for key in local.arrays:
        np.testing.assert_array_equal(batch(opened, key), batch(local, key))
    system.rm("/reader/t.zarr/img/c/0/0/0/0")
    with pytest.raises(DataError, match="is not there"):
        reader.open_store("memory://reader/t.zarr").read(0, 0, "img")


def test_http_fetches_what_it_needs(packed: Path) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    local = reader.open_store(str(packed))
    with server(packed.parent) as (url, asked):
        opened = reader.open_store(f"{url}/t.zarr")
        assert len(asked) == 5 + len(opened.arrays), "8 for img, gt and a flow"
        asked.clear()
        np.testing.assert_array_equal(batch(opened), batch(local))
        assert all(wanted for _, wanted in asked)
        assert len(asked) == 3 + 6, "an index a shard, then a range a run of frames"
        again = pickle.loads(pickle.dumps(opened))
        np.testing.assert_array_equal(batch(again, "gt"), batch(local, "gt"))
        np.testing.assert_array_equal(in_child("fork", opened), batch(local))
        (packed / "img/c/0/0/0/0").unlink()
        with pytest.raises(DataError, match=r"img/c/0/0/0/0: is not there"):
            opened.read(0, 1, "img")
        with pytest.raises(DataError, match="no store"):
            reader.open_store(f"{url}/none.zarr")


def test_all_arrays_of_a_batch_are_asked_for_at_once(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = fsspec.filesystem("memory")
    target.put(str(packed), "/at_once/t.zarr", recursive=True)
    opened, local = reader.open_store("memory://at_once/t.zarr"), reader.open_store(str(packed))
    calls = []
    real = type(target).cat_ranges

    def counted(self: object, paths: list[str], *args: object, **options: object) -> list[bytes]:
        calls.append(len(paths))
        return real(self, paths, *args, **options)

    monkeypatch.setattr(type(target), "cat_ranges", counted)
    outs = {}
    for key in ("img", "gt"):
        shape, dtype = opened.frame_shape(key)
        outs[key] = np.empty((len(ORDER), *shape), dtype)
    opened.read_arrays(ORDER, outs)
    assert calls == [2 * 3, 2 * 6], "indices of three shards, then runs of frames"
    for key, out in outs.items():
        np.testing.assert_array_equal(out, batch(local, key))


def test_a_cache_keeps_whole_shards_and_its_limit(packed: Path, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    local, cache = reader.open_store(str(packed)), tmp_path / "cache"
    shard = (packed / "img/c/0/0/0/0").stat().st_size
    with server(packed.parent) as (url, asked):
        opened = reader.open_store(f"{url}/t.zarr", cache=cache, cache_bytes=2 * shard)
        asked.clear()
        opened.prefetch([0, 1, 5], ["img"])
        found = opened.read_clip(0, [0, 4], "img")
        np.testing.assert_array_equal(found, local.read_clip(0, [0, 4], "img"))
        files = [path.split("/c/")[1] for path, _ in asked]
        assert sorted(files) == ["0/0/0/0", "1/0/0/0"], "each fetched once"
        np.testing.assert_array_equal(batch(opened), batch(local))
        kept = sum(file.stat().st_size for file in cache.iterdir())
        assert kept <= 2 * shard
        assert not [file for file in cache.iterdir() if "partial" in file.name]


def test_indices() -> None:
    data = shards.build([b"abc", None, b"de"], 4)
    index = shards.parse_index(data[-shards.index_bytes(4) :], "x", len(data))
    assert index.tolist() == [[0, 3], [2**64 - 1] * 2, [3, 2], [2**64 - 1] * 2]
    wrong = bytearray(data[-shards.index_bytes(4) :])
    wrong[0] = 200
    wrong[-4:] = shards.crc32c(bytes(wrong[:-4])).to_bytes(4, "little")
    with pytest.raises(DataError, match="points outside"):
        shards.parse_index(bytes(wrong), "x", len(data))


def test_a_request_that_fails_is_sent_again(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, failures = fsspec.filesystem("memory"), [3]
    system.put(str(packed), "/again/t.zarr", recursive=True)
    opened = reader.open_store("memory://again/t.zarr")
    monkeypatch.setattr(shard_cache, "FIRST_WAIT", 0.001)
    real = type(system).cat_file

    def fails(*arguments: object, **options: object) -> bytes:
        if failures[0]:
            failures[0] -= 1
            raise OSError("503 busy")
        return bytes(real(*arguments, **options))

    monkeypatch.setattr(type(system), "cat_file", fails)
    np.testing.assert_array_equal(batch(opened), batch(reader.open_store(str(packed))))
    assert failures == [0]
    failures[0] = 10**6
    with pytest.raises(DataError, match="after 5 attempts: 503 busy"):
        opened.read(0, 0, "img")
