"""Packing to S3 and reading from it, over the wire: moto's server in this process."""

from pathlib import Path

import numpy as np
import pytest

from stores import pack_train, small_shards
from vsodpipe import reader
from vsodpipe.errors import DataError
from vsodpipe.manifest import Source

pytest.importorskip("s3fs", reason="s3fs is not installed (pip install s3fs)")
moto = pytest.importorskip("moto.server", reason="moto is not installed (pip install moto[server])")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_store_on_s3(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    small_shards(monkeypatch)
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("stores")
        url = "s3://stores/sets/t.zarr"
        with pytest.raises(DataError, match="no store"):
            reader.open_store(url)
        assert not pack_train(source, url).kept
        assert pack_train(source, url).kept
        local = reader.open_store(pack_train(source, tmp_path / "t.zarr").path)
        remote = reader.open_store(url)
        for key in local.arrays:
            shape, dtype = local.frame_shape(key)
            one, two = (np.empty((9, *shape), dtype) for _ in range(2))
            local.read_into(range(9), key, one)
            remote.read_into(range(9), key, two)
            np.testing.assert_array_equal(one, two)
        cached = reader.open_store(url, cache=tmp_path / "cache")
        np.testing.assert_array_equal(cached.read(1, 3, "img"), local.read(1, 3, "img"))
        s3fs.S3FileSystem().rm("stores/sets/t.zarr/img/c/1/0/0/0")
        with pytest.raises(DataError, match="is not there"):
            reader.open_store(url).read(1, 0, "img")
    finally:
        server.stop()
        s3fs.S3FileSystem.clear_instance_cache()
