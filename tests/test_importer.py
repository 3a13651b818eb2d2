"""Official DAVIS folders into the data root: links, merged palette masks, counts compared."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import files_below
from vsodpipe import catalogue, importer, media
from vsodpipe.errors import DataError, UsageError
from vsodpipe.progress import Reporter

FRAME = media.encode_jpeg(np.zeros((6, 8, 3), np.uint8))


def palette_png(index: np.ndarray) -> bytes:
    import io

    picture = Image.frombytes("P", index.shape[::-1], index.astype(np.uint8).tobytes())
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 759)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A 2017 package with `bear` (palette masks) and `bus` (grey masks) of 2 frames each."""
    base = tmp_path / "DAVIS"
    index = np.zeros((6, 8))
    index[0, :3] = (1, 2, 255)
    grey = media.encode_png((index > 0).astype(np.uint8) * 255)
    for t in range(2):
        for video, mask in (("bear", palette_png(index)), ("bus", grey)):
            media.write_bytes(base / f"JPEGImages/480p/{video}/{t:05d}.jpg", FRAME)
            media.write_bytes(base / f"Annotations/480p/{video}/{t:05d}.png", mask)
    media.write_bytes(base / "ImageSets/2016/train.txt", b"bear\nbus\nelephant\n")
    return base


def test_import_links_frames_and_merges_palette_masks(official: Path, quiet: Reporter) -> None:
    root = official.parent / "datasets"
    (done,) = importer.import_dataset("davis", official, root, quiet)
    assert (done.dataset, done.videos, done.frames) == ("DAVIS_train", 2, 4)
    assert "28 of the 30 official videos are missing" in done.notes
    assert "bear has 2 frames instead of 82" in done.notes
    bear, bus = catalogue.find("DAVIS_train", root).videos
    assert bear.frames[0].img.is_symlink() and bus.frames[0].gt.is_symlink()  # type: ignore[union-attr]
    values = np.asarray(Image.open(str(bear.frames[1].gt)))
    assert values[0, :4].tolist() == [255, 255, 0, 0], "objects merged, void (255) left out"


def test_rows_of_the_2016_package_are_read(official: Path, quiet: Reporter) -> None:
    (official / "ImageSets/2016/train.txt").unlink()
    rows = "/JPEGImages/480p/bus/00000.jpg /Annotations/480p/bus/00000.png \n"
    media.write_bytes(official / "ImageSets/480p/train.txt", rows.encode())
    (done,) = importer.import_dataset("davis", official.parent, official.parent / "data", quiet)
    assert (done.videos, done.frames) == (1, 2)


def test_a_second_import_keeps_flow_and_restores_what_is_missing(
    official: Path, quiet: Reporter
) -> None:
    root = official.parent / "datasets"
    importer.import_dataset("davis", official, root, quiet)
    flow = root / "DAVIS_train/bear/FLOW/flow.json"
    media.write_bytes(flow, b"{}")
    (root / "DAVIS_train/bear/RGB/00001.jpg").unlink()
    before = files_below(root / "DAVIS_train/bus")
    importer.import_dataset("davis", official, root, quiet)
    assert (root / "DAVIS_train/bear/RGB/00001.jpg").exists() and flow.exists()
    assert files_below(root / "DAVIS_train/bus") == before


def test_a_second_import_follows_a_moved_download(official: Path, quiet: Reporter) -> None:
    root = official.parent / "datasets"
    importer.import_dataset("davis", official, root, quiet)
    moved = official.rename(official.with_name("moved"))
    importer.import_dataset("davis", moved, root, quiet)
    for video in catalogue.find("DAVIS_train", root).videos:
        for frame in video.frames:
            assert frame.img.exists() and frame.gt is not None and frame.gt.exists()


def test_a_merged_mask_that_is_gone_comes_back(official: Path, quiet: Reporter) -> None:
    root = official.parent / "datasets"
    importer.import_dataset("davis", official, root, quiet)
    mask = root / "DAVIS_train/bear/GT/00001.png"
    mask.rename(mask.with_name("other.png"))
    importer.import_dataset("davis", official, root, quiet)
    assert {path.name for path in mask.parent.iterdir()} == {"00000.png", "00001.png"}


def test_frames_are_read_as_the_catalogue_reads_them(official: Path, quiet: Reporter) -> None:
    root, bus = official.parent / "datasets", official / "JPEGImages/480p/bus"
    (bus / "00001.jpg").rename(bus / "00001.JPG")
    (bus / "._00000.jpg").write_bytes(b"mac")
    (done,) = importer.import_dataset("davis", official, root, quiet)
    assert (done.videos, done.frames) == (2, 4)
    (bus / "1.jpg").write_bytes(FRAME)
    with pytest.raises(DataError, match="frame 1 is there twice"):
        importer.import_dataset("davis", official, root, quiet)


def test_a_split_without_videos_is_left_out_with_a_note(
    official: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = official.parent / "datasets"
    (official / "ImageSets/2016/val.txt").write_text("blackswan\n")
    (done,) = importer.import_dataset("davis", official, root, Reporter())
    assert done.dataset == "DAVIS_train"
    assert "DAVIS_test is left out" in capsys.readouterr().err
    (official / "ImageSets/2016/train.txt").write_text("elephant\n")
    with pytest.raises(DataError, match="no frames of them"):
        importer.import_dataset("davis", official, root, Reporter())


def test_a_list_that_is_not_utf8(official: Path, quiet: Reporter) -> None:
    (official / "ImageSets/2016/train.txt").write_bytes("b\u00e4r\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"train\.txt: not UTF-8 text"):
        importer.import_dataset("davis", official, official.parent / "datasets", quiet)


@pytest.mark.parametrize("row", ["../../etc", ".."])
def test_a_list_cannot_reach_outside(official: Path, quiet: Reporter, row: str) -> None:
    (official / "ImageSets/2016/train.txt").write_text(row + "\n")
    with pytest.raises(DataError):
        importer.import_dataset("davis", official, official.parent / "datasets", quiet)
    assert not (official.parent / "datasets").exists()


def test_faults_are_named_and_leave_nothing(official: Path, quiet: Reporter) -> None:
    root = official.parent / "datasets"
    mask = official / "Annotations/480p/bus/00001.png"
    mask.write_bytes(media.encode_png(np.zeros((6, 7), np.uint8)))
    with pytest.raises(DataError, match="mask of 7x6 on a frame of 8x6") as error:
        importer.import_dataset("davis", official, root, quiet)
    assert str(mask) in str(error.value)
    with pytest.raises(DataError, match="not the official DAVIS folder"):
        importer.import_dataset("davis", official / "JPEGImages", root, quiet)
    with pytest.raises(UsageError, match="Did you mean davis"):
        importer.import_dataset("davs", official, root, quiet)
    assert not root.exists()


def test_a_damaged_mask_leaves_no_empty_folder(official: Path, quiet: Reporter) -> None:
    root = official.parent / "datasets"
    mask = official / "Annotations/480p/bus/00001.png"
    whole = palette_png(np.ones((6, 8)))
    mask.write_bytes(whole[:-28])
    with pytest.raises(DataError, match=r"bus/00001\.png"):
        importer.import_dataset("davis", official, root, quiet)
    assert [path.name for path in (root / "DAVIS_train").iterdir()] == ["bear"]
    mask.write_bytes(whole)
    importer.import_dataset("davis", official, root, quiet)
    assert [v.name for v in catalogue.find("DAVIS_train", root).videos] == ["bear", "bus"]


def test_real_davis(davis: Path, tmp_path: Path, quiet: Reporter) -> None:
    done = importer.import_dataset("davis", davis, tmp_path / "datasets", quiet)
    counts = {d.dataset: (d.videos, d.frames) for d in done}
    assert counts == {"DAVIS_train": (4, 210), "DAVIS_test": (2, 110)}
    dog = catalogue.find("DAVIS_test", tmp_path / "datasets").videos[1]
    share = np.mean([media.read_mask(str(f.gt)).mean() for f in dog.frames[:5]])
    assert 0.05 < share < 0.15
