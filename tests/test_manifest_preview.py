"""`vsodpipe manifest --preview`: a sheet with the masks of every data set."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vsodpipe import manifest_preview, media
from vsodpipe.manifest import Source

Run = Callable[..., tuple[int, str, str]]


def test_sheet_beside_the_manifest(vsodpipe: Run, with_flow: Path, tmp_path: Path) -> None:
    code, out, _ = vsodpipe("manifest", "tiny", "--preview", 2, "--json", "-q")
    assert code == 0 and json.loads(out)["tiny"][-1] == "manifests/tiny.jpg"
    sheet = media.read_image(tmp_path / "manifests" / "tiny.jpg")
    rows = 2 + 2  # of either data set
    assert rows * 120 < sheet.shape[0] < rows * 120 + 150
    assert 4 * 160 < sheet.shape[1] < 4 * 160 + 300, "frame, mask, both, flow at 64:48"
    code, _, err = vsodpipe("manifest", "--check", "--preview", 2)
    assert code == 2 and "--check writes nothing" in err


def test_frames_are_evenly_spaced(source: Source) -> None:
    split = source.split("TINY_train")  # videos of 5 and 4 frames
    chosen = manifest_preview._chosen(split, 3)
    assert [(video, frame.name) for video, frame in chosen] == [
        ("ball", "00001"),
        ("ball", "00004"),
        ("cube", "00002"),
    ]
    assert len(manifest_preview._chosen(split, 50)) == 9


def test_mask_is_painted() -> None:
    image = np.full((30, 30, 3), 100, np.uint8)
    mask = np.zeros((30, 30), bool)
    mask[10:20, 10:20] = True
    painted = manifest_preview.painted(image, mask)
    assert (painted[0, 0] == 100).all() and (painted[10, 10] == 255).all(), "outlined"
    assert painted[15, 15, 0] > 150 > painted[15, 15, 1], "tinted"


def test_mask_of_another_size_is_an_error(vsodpipe: Run, source: Source, tmp_path: Path) -> None:
    frame = source.manifest.datasets[0].videos[0].frames[1]
    media.write_bytes(
        Path(source.path(str(frame.gt))), media.encode_png(np.zeros((5, 6), np.uint8))
    )
    code, _, err = vsodpipe("manifest", "tiny", "--preview", 3, "--out", "other", "-q")
    assert code == 2 and "00001.png" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "other" / "tiny.jpg").exists()
