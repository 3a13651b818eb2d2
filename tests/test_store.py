"""The schema: other tools read it, and what is not a store is refused in one line."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from stores import add_vectors, pack_train, small_shards
from vsodpipe import jpeg_codec, media, reader, shards, store, zarr_files
from vsodpipe.errors import DataError
from vsodpipe.manifest import Source


@pytest.mark.parametrize("tier", ["raw", "lossless", "jpeg", "small"])
def test_zarr_reads_the_same_frames(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tier: str
) -> None:
    small_shards(monkeypatch)
    zarr.registry.register_codec(zarr_files.JPEG, jpeg_codec.JpegCodec)
    add_vectors(Path(source.root))
    path = pack_train(source, tmp_path / "t.zarr", tier=tier, flow="both").path
    ours, group = reader.open_store(path), zarr.open_group(path, mode="r")
    assert ours.arrays == ("img", "gt", "flow", "flow_picture")
    for key in ours.arrays:
        theirs = group[key]
        assert isinstance(theirs, zarr.Array)
        shape, dtype = ours.frame_shape(key)
        assert theirs.shards == (4, *shape)
        out = np.empty((9, *shape), dtype)
        ours.read_into(range(9), key, out)
        np.testing.assert_array_equal(out, np.asarray(theirs[:]))
        assert out.any()
    for name, (dtype, _) in store.SMALL.items():
        values = group[name]
        assert isinstance(values, zarr.Array) and values.dtype == np.dtype(dtype)


def test_the_codec_writes_what_it_reads(tmp_path: Path) -> None:
    zarr.registry.register_codec(zarr_files.JPEG, jpeg_codec.JpegCodec)
    frame = np.full((1, 16, 24, 3), (200, 100, 50), np.uint8)
    made = zarr.create_array(
        tmp_path / "a.zarr", data=frame, serializer=jpeg_codec.JpegCodec(), compressors=None
    )
    assert np.abs(np.asarray(made[:]).astype(int) - frame).max() <= 2
    assert isinstance(zarr.open_array(tmp_path / "a.zarr", mode="r")[:], np.ndarray)


def test_xarray_names_dimensions_and_scales_flow(source: Source, tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    add_vectors(Path(source.root))
    path = pack_train(source, tmp_path / "t.zarr", flow="raw").path
    with xarray.open_zarr(path, chunks=None) as opened:
        assert opened["img"].dims == ("frame", "y", "x", "channel")
        assert opened["flow"].dims == ("frame", "component", "y", "x")
        assert opened["flow"].attrs["units"] == "px"
        steps = reader.open_store(path).read(0, 1, "flow")
        np.testing.assert_allclose(opened["flow"][1].values, steps / 64.0)


def test_shards_are_near_64_mb() -> None:
    found = {s: store.shard_frames(("img", "gt"), s) for s in ((384, 384), (512, 512), (480, 854))}
    assert found == {(384, 384): 128, (512, 512): 64, (480, 854): 64}


def test_overhead_of_a_store_is_small() -> None:
    overhead = shards.index_bytes(128) / (128 * 3 * 384 * 384)
    assert overhead < 0.002


@pytest.mark.parametrize("make", ["nothing", "folder", "group", "no json", "list"])
def test_what_is_no_store(tmp_path: Path, make: str) -> None:
    path = tmp_path / "x.zarr"
    if make == "folder":
        media.write_bytes(path / "file", b"x")
    if make == "group":
        zarr.create_group(path)
    if make in ("no json", "list"):
        media.write_bytes(path / "zarr.json", b"{" if make == "no json" else b"[]")
    with pytest.raises(DataError, match=r"x\.zarr"):
        reader.open_store(str(path))


def _set(place: list[Any], value: Any) -> Callable[[dict[str, Any]], None]:
    def change(root: dict[str, Any]) -> None:
        node: Any = root
        for step in place[:-1]:
            node = node[step]
        node[place[-1]] = value

    return change


_IMG = ["consolidated_metadata", "metadata", "img"]
_INNER = [*_IMG, "codecs", 0, "configuration"]


@pytest.mark.parametrize(
    "change",
    [
        _set(["attributes", "groups"], []),
        _set(["attributes", "groups", 0, "frames"], 10**9),
        _set(["attributes", "groups", 0, "shard"], -1),
        _set(["attributes", "groups", 0, "size"], ["a", 2]),
        _set(["attributes", "groups", 0, "path"], "../../etc"),
        _set(["attributes", "groups", 0, "bytes"], {}),
        _set(["attributes", "groups", 0, "bytes", "img"], [-5]),
        _set(["attributes", "videos"], ["one"]),
        _set(["attributes", "arrays"], ["img", "../gt"]),
        _set(["attributes", "tier"], "gzip"),
        _set([*_IMG, "shape"], [1, 2, 3, 4]),
        _set([*_IMG, "data_type"], "float64"),
        _set([*_IMG, "fill_value"], 7),
        _set([*_INNER, "index_location"], "start"),
        _set([*_INNER, "index_codecs"], []),
        _set([*_INNER, "codecs"], [{"name": "gzip"}]),
        _set(["consolidated_metadata", "metadata", "video_offset", "shape"], [2**50]),
        _set(["consolidated_metadata", "metadata", "gt"], None),
        _set(["consolidated_metadata"], {}),
    ],
)
def test_hostile_metadata_are_one_line(
    packed: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    root = json.loads((packed / "zarr.json").read_bytes())
    change(root)
    (packed / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(DataError, match=r"t\.zarr.*(Pack it anew|pack it anew)") as caught:
        reader.open_store(str(packed))
    assert "\n" not in str(caught.value)


def test_a_store_of_the_first_version(packed: Path) -> None:
    root = json.loads((packed / "zarr.json").read_bytes())
    root["attributes"]["schema"]["version"] = 1
    (packed / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(DataError, match="version 1, expected 2. Pack it anew"):
        reader.open_store(str(packed))


def test_a_store_of_earlier_codecs_is_read(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_vectors(Path(source.root))
    now = pack_train(source, tmp_path / "now.zarr", tier="lossless", flow="both").path
    with monkeypatch.context() as before:
        kinds = {
            name: replace(kind, codecs=(*kind.codecs[:1], store.EARLIER.get(name, "raw")) * 2)
            for name, kind in store.KINDS.items()
        }
        before.setattr(store, "KINDS", kinds)
        before.setitem(kinds, "gt", replace(kinds["gt"], codecs=("zstd",) * 4))
        then = pack_train(source, tmp_path / "then.zarr", tier="lossless", flow="both").path
    one, two = reader.open_store(now), reader.open_store(then)
    assert [two.codec(a) for a in two.arrays] == ["raw", "zstd", "lz4-shuffle", "lz4"]
    assert [one.codec(a) for a in one.arrays] == ["raw", "lz4hc", "lz4hc-shuffle", "lz4hc"]
    for array in one.arrays:
        shape, dtype = one.frame_shape(array)
        found = [np.empty((9, *shape), dtype) for _ in range(2)]
        for opened, out in zip((one, two), found, strict=True):
            opened.read_into(range(9), array, out)
        np.testing.assert_array_equal(*found)
    kept = pack_train(source, tmp_path / "then.zarr", tier="lossless", flow="both")
    assert kept.kept, "it is not packed anew for that"
