"""The cache of remote shards: bounded, shared, tried again, and the same samples through it."""

import os
import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from vsodpipe import pack, shard_cache, stream
from vsodpipe.errors import DataError
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter
from vsodpipe.recipe import Data, Stage
from vsodpipe.shard_cache import ShardCache

URL = "memory://bucket/file{}"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Five remote files of 1000 bytes; the list grows by the path of every request for bytes."""
    system, asked = fsspec.filesystem("memory"), []
    for number in range(5):
        system.pipe(URL.format(number), bytes([number]) * 1000)
    real = MemoryFileSystem.cat_file

    def counted(self: MemoryFileSystem, path: str, **options: int) -> bytes:
        asked.append(path)
        data: bytes = real(self, path, **options)
        return data

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    monkeypatch.setattr(shard_cache, "FIRST_WAIT", 0.0)
    yield asked
    system.rm("memory://bucket", recursive=True)


def test_a_file_is_fetched_once_in_parts(
    bucket: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_cache, "PART_BYTES", 300)
    cache = ShardCache(tmp_path / "c", 10_000)
    threads = [threading.Thread(target=cache.local, args=(URL.format(3),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.local(URL.format(3)).read_bytes() == bytes([3]) * 1000
    assert len(bucket) == 4, "four parts, whoever asks"
    again = pickle.loads(pickle.dumps(cache))
    assert again.local(URL.format(3)).stat().st_size == 1000 and len(bucket) == 4
    cache.local(URL.format(3), "another store under this name")
    assert len(bucket) == 8


def test_the_longest_unused_goes_and_an_open_one_stays_readable(
    bucket: list[str], tmp_path: Path
) -> None:
    cache = ShardCache(tmp_path, 3000)
    paths = [cache.local(URL.format(n)) for n in range(3)]
    for age, path in zip((30, 10, 20), paths, strict=True):
        os.utime(path, (0, path.stat().st_mtime - age))
    with open(paths[0], "rb") as opened:
        cache.local(URL.format(3))
        assert [p.exists() for p in paths] == [False, True, True]
        assert opened.read() == bytes(1000)
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) == 3000
    assert cache.local(URL.format(0)).read_bytes() == bytes(1000)
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) == 3000


def test_a_failure_is_tried_again_and_the_last_one_is_told(
    bucket: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = MemoryFileSystem.cat_file, [4]

    def flaky(self: MemoryFileSystem, path: str, **options: int) -> bytes:
        failures[0] -= 1
        if failures[0] >= 0:
            raise ConnectionResetError("reset by peer")
        data: bytes = real(self, path, **options)
        return data

    monkeypatch.setattr(MemoryFileSystem, "cat_file", flaky)
    cache = ShardCache(tmp_path, 3000)
    assert cache.local(URL.format(1)).read_bytes() == bytes([1]) * 1000
    failures[0] = 99
    with pytest.raises(DataError, match="file2: cannot be read after 5 attempts: reset by peer"):
        cache.local(URL.format(2))
    assert failures[0] == 99 - 5
    with pytest.raises(DataError, match="is not there"):
        cache.local(URL.format(7))
    assert [f.suffix for f in tmp_path.iterdir()] == [".shard"], "nothing half-written"


@pytest.mark.parametrize("cached", [True, False])
def test_a_remote_store_gives_the_samples_of_the_local_one(
    source: Source,
    tmp_path: Path,
    quiet: Reporter,
    cached: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    target = Path(source.root) / "TINY_train.zarr"
    pack.pack(source.split("TINY_train"), source.root, target, (48, 64), quiet)
    system = fsspec.filesystem("memory")
    system.put(str(target), "memory://far/TINY_train.zarr", recursive=True)
    data = Data(datasets=("TINY_train",), source="store", size=(48, 64), clip=2, window=1)
    stage = Stage(name="t", network=None, data=data, batch=2)
    folder = tmp_path / "cache"
    far = replace(source, root="memory://far")
    try:
        reader = stream.open_reader(far, "TINY_train", "store", cache=folder if cached else None)
        remote = stream.Clips([reader], stage)
        near = stream.Clips([stream.open_reader(source, "TINY_train", "store")], stage)
        found = list(stream.loader(remote, 1, 0, 2))
        for a, b in zip(stream.loader(near, 1, 0, 0), found, strict=True):
            assert all(torch.equal(a[key], b[key]) for key in ("img", "gt", "flow"))
            assert a["key"] == b["key"]
        assert folder.is_dir() == cached and not caplog.records
        small = {"cache": folder if cached else None, "cache_bytes": 1000}
        stream.Clips([stream.open_reader(far, "TINY_train", "store", **small)], stage)
        said = ["less than two windows" in record.getMessage() for record in caplog.records]
        assert said == [True] * cached
    finally:
        system.rm("memory://far", recursive=True)
    unset = stream.Clips([reader], replace(stage, data=replace(data, window=None)))
    assert unset._window == 8 and near._window == 1
