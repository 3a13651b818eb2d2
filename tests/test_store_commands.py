"""pack, store and unpack on the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stores import add_vectors, pack_train
from vsodpipe import manifest, media, reader
from vsodpipe.manifest import Source

Command = Callable[..., tuple[int, str, str]]


def test_pack_show_check_unpack(vsodpipe: Command, source: Source, tmp_path: Path) -> None:
    root = Path(source.root)
    add_vectors(root)
    options = ("--data", root, "--size", "32x40", "--flow", "both")
    code, out, _ = vsodpipe("pack", "TINY_train", *options, "--dry-run", "--json")
    assert code == 0 and json.loads(out)["frames"] == 9
    assert not (root / "TINY_train.zarr").exists()
    code, out, _ = vsodpipe("pack", "TINY_train", *options, "--tier", "lossless", "--json")
    assert code == 0
    path = json.loads(out)["path"]
    code, out, err = vsodpipe("store", path, "--check", "--data", root, "--json")
    about = json.loads(out)
    assert code == 0 and about["check"] == {"chunks": 36, "sources": 36, "faults": []}
    assert about["arrays"]["flow"] == {"frames": 9, "codec": "lz4hc-shuffle"}
    assert "9 frames (height x width): 9 of 32x40" in err
    assert vsodpipe("unpack", path, "--out", "again")[0] == 0
    assert vsodpipe("manifest", "--data", "again", "--out", "m", "-q")[0] == 0
    split = manifest.read(tmp_path / "m" / "tiny.json").split("TINY_train")
    assert [v.size for v in split.videos] == [(32, 40)] * 2 and split.flow is not None
    opened = reader.open_store(path)
    folder = tmp_path / "again" / "TINY_train" / "cube"
    np.testing.assert_array_equal(
        media.read_image(folder / "RGB" / "00003.png"), opened.read(1, 3, "img")
    )
    np.testing.assert_array_equal(
        media.read_mask(folder / "GT" / "00003.png"), opened.read(1, 3, "gt") == 1
    )
    code, _, err = vsodpipe("unpack", path, "--out", "again")
    assert code == 0 and "is there already, of the same store" in err
    (tmp_path / "again" / "TINY_train" / ".store.json").unlink()
    code, _, err = vsodpipe("unpack", path, "--out", "again")
    assert code == 2 and "is there already" in err
    # and back: the same pixels, from the files that were unpacked
    code, out, _ = vsodpipe(
        "pack", "m/tiny.json", "--size", "native", "--flow", "both", "--to", "b.zarr", "-q"
    )
    assert code == 0
    back = reader.open_store("b.zarr")
    for key in opened.arrays:
        np.testing.assert_array_equal(
            back.read_clip(0, range(5), key), opened.read_clip(0, range(5), key)
        )


def test_a_check_names_what_has_changed(vsodpipe: Command, source: Source, tmp_path: Path) -> None:
    root, path = Path(source.root), pack_train(source, tmp_path / "t.zarr").path
    frame = root / "TINY_train/cube/RGB/00003.jpg"
    frame.write_bytes((root / "TINY_train/cube/RGB/00002.jpg").read_bytes())
    code, _, err = vsodpipe("store", path, "--check", "--data", root, "-q")
    assert code == 2 and "TINY_train/cube/00003: img has changed since it was packed" in err
    shard = tmp_path / "t.zarr/img/c/0/0/0/0"
    data = bytearray(shard.read_bytes())
    data[3] ^= 1
    shard.write_bytes(data)
    code, _, err = vsodpipe("store", path, "--check", "--data", tmp_path / "none", "-q")
    assert code == 2 and "frame 00000 has another checksum" in err
    assert "the files are not compared" in err and "1 faults" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--tier", "gzip"), "--tier gzip: expected one of raw, lossless, jpeg"),
        (("--format", "tar"), "--format tar: expected one of zarr, hdf5"),
        (("--flow", "none"), "--flow none: expected one of"),
        (("--format", "hdf5", "--to", "x.zarr"), "HDF5 is written to a local file"),
        (("--to", "x.h5"), "the ending of HDF5"),
        (("--to", "nosuch://x/y.zarr"), "Protocol not known: nosuch"),
    ],
)
def test_wrong_options_are_one_line(
    vsodpipe: Command, data_root: Path, arguments: tuple[str, ...], said: str
) -> None:
    code, _, err = vsodpipe("pack", "TINY_test", "--data", data_root, "-q", *arguments)
    assert code == 2 and said in err and err.count("\n") == 1
