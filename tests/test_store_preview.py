"""`vsodpipe store --preview`: a sheet of frames as they are stored, from a disk or a server."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stores import SIZE, add_vectors, pack_train, server
from vsodpipe import manifest_preview, media, reader, store_preview
from vsodpipe.manifest import Source

Run = Callable[..., tuple[int, str, str]]


def test_sheet_of_every_array(source: Source, tmp_path: Path) -> None:
    add_vectors(Path(source.root))
    opened = reader.open_store(pack_train(source, tmp_path / "t.zarr", flow="both").path)
    label, cells = store_preview._row(opened, 1, 2)
    assert label == "TINY_train\ncube\n00002"
    shapes = [None if cell is None else (cell.shape, str(cell.dtype)) for cell in cells]
    picture = ((*SIZE, 3), "uint8")
    assert shapes == [picture, (SIZE, "bool"), picture, picture, picture, None, None]
    np.testing.assert_array_equal(cells[1], opened.read(1, 2, "gt") == 1)
    np.testing.assert_array_equal(cells[3], opened.read(1, 2, "flow_picture"))
    stored, made = (np.asarray(cells[i], float) for i in (3, 4))
    assert np.abs(stored - made).mean() < 40, "the picture and the vectors are the same flow"
    assert store_preview.write(tmp_path / "sheet.png", opened) == 8
    sheet = media.read_image(tmp_path / "sheet.png")
    assert 8 * 120 < sheet.shape[0] < 8 * 120 + 200
    assert 5 * 150 < sheet.shape[1] < 5 * 150 + 300, "no column without a picture"


def test_frames_of_every_video_and_bounded(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = reader.open_store(pack_train(source, tmp_path / "t.zarr").path)
    assert store_preview._chosen(opened) == [
        *[(0, 0), (0, 1), (0, 3), (0, 4)],
        *[(1, 0), (1, 1), (1, 2), (1, 3)],
    ]
    monkeypatch.setattr(store_preview, "MOST", 3)
    assert {video for video, _ in store_preview._chosen(opened)} == {1}, "one of two videos"
    monkeypatch.setattr(opened, "annotated", lambda video: [False, True, True, False])
    assert {frame for _, frame in store_preview._chosen(opened)} == {1, 2}, "with a mask"


def test_from_a_server(vsodpipe: Run, source: Source, tmp_path: Path) -> None:
    pack_train(source, tmp_path / "served" / "t.zarr", tier="jpeg")
    with server(tmp_path / "served") as (url, asked):
        code, _, err = vsodpipe("store", f"{url}/t.zarr", "--preview", "sheet.jpg")
    assert code == 0 and "wrote sheet.jpg: 8 frames as they are stored" in err
    assert media.read_image(tmp_path / "sheet.jpg").shape[0] > 8 * manifest_preview.HEIGHT
    assert any(wanted for path, wanted in asked if "/img/" in path), "frames, not whole shards"


def test_other_files_are_refused(vsodpipe: Run, source: Source, tmp_path: Path) -> None:
    path = pack_train(source, tmp_path / "t.zarr").path
    code, _, err = vsodpipe("store", path, "--preview", "sheet.pdf")
    assert code == 2 and "expected a file that ends in .jpg, .jpeg, .png" in err
    shard = tmp_path / "t.zarr/img/c/0/0/0/0"
    data = bytearray(shard.read_bytes())
    data[3] ^= 1
    shard.write_bytes(data)
    code, _, err = vsodpipe("store", path, "--preview", "sheet.png", "-q")
    assert code == 2 and "another checksum" in err and not (tmp_path / "sheet.png").exists()
