"""Object stores that fail: S3 (moto's server in this process) behind a proxy that disturbs."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from faults.proxy import Proxy, proxy
from stores import pack_train, same_bytes, small_shards
from vsodpipe import reader, shard_cache
from vsodpipe.errors import DataError, VsodpipeError
from vsodpipe.manifest import Source

pytest.importorskip("s3fs", reason="s3fs is not installed (pip install s3fs)")
moto = pytest.importorskip("moto.server", reason="moto is not installed (pip install moto[server])")

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
URL = "s3://bucket/t.zarr"


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, int]]:
    started = moto.ThreadedMotoServer(port=0, verbose=False)
    started.start()
    yield started.get_host_and_port()
    started.stop()


@pytest.fixture
def between(server: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before an empty bucket."""
    import s3fs

    small_shards(monkeypatch)
    monkeypatch.setattr(shard_cache, "FIRST_WAIT", 0.01)
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with proxy(*server) as started:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{started.port}")
        s3fs.S3FileSystem.clear_instance_cache()
        system = s3fs.S3FileSystem()
        if system.exists("bucket"):
            system.rm("bucket", recursive=True)
        system.mkdir("bucket")
        yield started
        started.plan = lambda _: "pass"
        s3fs.S3FileSystem.clear_instance_cache()


def sometimes(what: str, share: float, seed: int = 0) -> dict[int, str]:
    rng = random.Random(seed)
    return {n: what for n in range(2000) if rng.random() < share}


def copied(target: Path) -> Path:
    import s3fs

    s3fs.S3FileSystem().get("bucket/t.zarr", str(target), recursive=True)
    return target


LONG = os.environ.get("FAULTS") == "long"


@pytest.mark.parametrize("what", ["truncate", "drop", "delay", "refuse"][: None if LONG else 1])
def test_a_store_comes_through_a_bad_network(
    source: Source, tmp_path: Path, between: Proxy, what: str
) -> None:
    plain = pack_train(source, tmp_path / "t.zarr").path
    bad = sometimes(what, 0.2)
    between.plan = lambda number: bad.get(number, "pass")
    between.done.clear()
    pack_train(source, URL)
    opened, local = reader.open_store(URL), reader.open_store(plain)
    cached = reader.open_store(URL, cache=tmp_path / "cache")
    for one in (opened, cached):
        for key in ("img", "gt"):
            for frame in range(5):
                np.testing.assert_array_equal(one.read(0, frame, key), local.read(0, frame, key))
    assert between.done.count(what) > 3, "the network was bad"
    assert not [*(tmp_path / "cache").glob("*.partial")]
    between.plan = lambda _: "pass"
    assert same_bytes(copied(tmp_path / "copy"), Path(plain))


def test_a_pack_that_loses_its_store_continues(
    source: Source, tmp_path: Path, between: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network ends after a number of requests, for good; then it is there again."""
    plain = pack_train(source, tmp_path / "t.zarr").path
    quick_to_give_up(monkeypatch)
    for last in (4, 9, 16, 30) if LONG else (20,):
        between.done.clear()
        between.plan = lambda number, last=last: "pass" if number < last else "drop"
        with pytest.raises(VsodpipeError, match="cannot be (written|read)") as error:
            pack_train(source, URL)
        assert URL in str(error.value) and "\n" not in str(error.value)
    between.plan = lambda _: "pass"
    import s3fs

    assert s3fs.S3FileSystem().find("bucket/t.zarr/img"), "what was written is kept"
    pack_train(source, URL)
    assert same_bytes(copied(tmp_path / "copy"), Path(plain))


def test_a_forced_pack_that_loses_its_store_continues(
    source: Source, tmp_path: Path, between: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = pack_train(source, tmp_path / "t.zarr").path
    pack_train(source, URL, tier="lossless")
    quick_to_give_up(monkeypatch)
    for last in (2, 5, 8, 11) if LONG else (5,):
        between.done.clear()
        between.plan = lambda number, last=last: "pass" if number < last else "drop"
        with pytest.raises(VsodpipeError):
            pack_train(source, URL, force=True)
    between.plan = lambda _: "pass"
    pack_train(source, URL, force=True)
    assert same_bytes(copied(tmp_path / "copy"), Path(plain))


def test_a_store_that_does_not_answer_is_one_line(
    source: Source, tmp_path: Path, between: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack_train(source, URL)
    quick_to_give_up(monkeypatch)
    opened = reader.open_store(URL)
    between.plan = lambda _: "drop"
    with pytest.raises(DataError, match="cannot be read after 5 attempts.*Check the connection"):
        opened.read(0, 0, "img")


def quick_to_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
