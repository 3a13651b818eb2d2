"""Videos of one's own without a card, and cards of one's own beside the data."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers import files_below, write_video
from vsodpipe import card, catalogue, importer, inventory, media, own_data, synth, video_file
from vsodpipe.errors import DataError, UsageError
from vsodpipe.progress import Reporter

Run = Callable[..., tuple[int, str, str]]
SIZE = (48, 64)


def write_file(path: Path, seed: int, frames: int) -> synth.Clip:
    """Write a made clip as a video file and return it."""
    clip = synth.make_clip(seed, frames, size=SIZE)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, SIZE[::-1])
    for image in clip.img:
        writer.write(np.ascontiguousarray(image[..., ::-1]))
    writer.release()
    return clip


def write_masks(folder: Path, clip: synth.Clip, frames: list[int]) -> None:
    for t in frames:
        mask = clip.gt[t].astype(np.uint8) * 255
        media.write_bytes(folder / f"{t:03d}.png", media.encode_png(mask))


def own(root: Path, *sources: object, **options: object) -> importer.Imported:
    quiet = Reporter(quiet=True)
    return own_data.import_own("mine", [str(s) for s in sources], root, quiet, **options)  # type: ignore[arg-type]


def held(root: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Video -> names of its frames, names of those with a mask."""
    return {
        v.name: ([f.name for f in v.frames], [f.name for f in v.frames if f.gt])
        for v in catalogue.find("mine", root).videos
    }


def test_video_files_of_a_folder(tmp_path: Path) -> None:
    clip = write_file(tmp_path / "in/a.avi", 1, 5)
    write_file(tmp_path / "in/b.avi", 2, 3)
    write_masks(tmp_path / "in/masks/a", clip, [0, 4])
    root = tmp_path / "data"
    done = own(root, tmp_path / "in")
    assert (done.videos, done.frames) == (2, 8)
    assert done.notes == ("2 of 8 frames have a mask", "without any mask: b")
    assert held(root)["a"] == ([f"{t:05d}" for t in range(5)], ["00000", "00004"])
    video = catalogue.find("mine", root).videos[0]
    for t, (frame, decoded) in enumerate(
        zip(video.frames, video_file.frames(tmp_path / "in/a.avi"), strict=True)
    ):
        error = np.abs(media.read_image(frame.img).astype(int) - decoded).mean()
        assert error < 1.5, "JPEG of quality 95 keeps what the file holds"
        if frame.gt:
            assert (media.read_mask(frame.gt) == clip.gt[t]).all()


def test_a_second_import_keeps_what_stands(tmp_path: Path) -> None:
    clip = write_file(tmp_path / "in/a.avi", 1, 4)
    root = tmp_path / "data"
    own(root, tmp_path / "in/a.avi")
    before = {f: f.stat().st_mtime_ns for f in root.rglob("*.jpg")}
    write_masks(tmp_path / "m", clip, [1])
    own(root, tmp_path / "in/a.avi", masks=tmp_path / "m")
    assert held(root)["a"][1] == ["00001"], "masks that come later are added"
    own(root, tmp_path / "in/a.avi")
    assert held(root)["a"][1] == ["00001"], "and stay when they are not named again"
    assert {f: f.stat().st_mtime_ns for f in root.rglob("*.jpg")} == before
    (root / "mine/a/RGB/00002.jpg").unlink()
    with pytest.raises(UsageError, match="is there already, of other frames"):
        own(root, tmp_path / "in/a.avi")
    write_file(tmp_path / "other/a.avi", 7, 3)
    with pytest.raises(UsageError, match=r"other/a\.avi\. Import under another name"):
        own(root, tmp_path / "other/a.avi")
    own(root, tmp_path / "other/a.avi", force=True)
    assert held(root) == {"a": (["00000", "00001", "00002"], [])}


def test_every_third_frame(tmp_path: Path) -> None:
    clip = write_file(tmp_path / "a.avi", 1, 8)
    write_masks(tmp_path / "masks/a", clip, list(range(8)))
    assert own(tmp_path / "data", tmp_path / "a.avi", stride=3).frames == 3
    assert held(tmp_path / "data")["a"] == (["00000", "00003", "00006"],) * 2
    write_video(tmp_path / "b", 2, 5)
    own(tmp_path / "data", tmp_path / "b", stride=2)
    assert held(tmp_path / "data")["b"] == (["00000", "00002", "00004"],) * 2


@pytest.mark.parametrize("frames", ["set/x/{}", "set/RGB/{}", "set/frames/{}"])
@pytest.mark.parametrize("masks", ["GT", "masks", "Annotations"])
def test_folders_of_frames_with_masks_beside_them(tmp_path: Path, frames: str, masks: str) -> None:
    clip = synth.make_clip(3, 2, size=SIZE)
    for t in range(2):
        media.write_bytes(tmp_path / frames.format(f"f{t}.jpg"), media.encode_jpeg(clip.img[t]))
    write_masks(tmp_path / "set" / masks, clip, [1])
    done = own(tmp_path / "data", tmp_path / "set")
    assert (done.videos, done.frames, done.notes) == (1, 2, ("1 of 2 frames have a mask",))
    (name,) = held(tmp_path / "data")
    assert name == ("x" if "/x/" in frames else "set")
    video = catalogue.find("mine", tmp_path / "data").videos[0]
    assert video.frames[0].img.is_symlink() and video.frames[1].gt.is_symlink()  # type: ignore[union-attr]


def test_known_layouts_globs_and_several_sources(tmp_path: Path) -> None:
    write_video(tmp_path / "lab/one", 1, 2)
    write_video(tmp_path / "lab/two", 2, 3)
    write_video(tmp_path / "clips/three", 3, 2)
    write_file(tmp_path / "clips/four.avi", 4, 2)
    done = own(tmp_path / "data", tmp_path / "lab", tmp_path / "clips/*")
    assert (done.videos, done.notes[0]) == (4, "7 of 9 frames have a mask")
    assert list(held(tmp_path / "data")) == ["four", "one", "three", "two"]


def test_a_folder_of_videos_with_frames_inside(tmp_path: Path) -> None:
    for n, name in enumerate(("one", "two [2] ä")):
        clip = synth.make_clip(n, 2, size=SIZE)
        for t in range(2):
            file = tmp_path / "lab" / name / f"frames/{t}.jpg"
            media.write_bytes(file, media.encode_jpeg(clip.img[t]))
        write_masks(tmp_path / "lab" / name / "masks", clip, [0, 1])
    done = own(tmp_path / "data", tmp_path / "lab")
    assert (done.videos, done.notes) == (2, ("4 of 4 frames have a mask",))
    assert list(held(tmp_path / "data")) == ["one", "two [2] ä"]


def test_flow_beside_the_videos_is_no_video(tmp_path: Path) -> None:
    write_file(tmp_path / "in/a.avi", 1, 2)
    media.write_bytes(tmp_path / "in/a.avi_FLOW/flow.json", b"{}")
    media.write_bytes(tmp_path / "in/a.avi_FLOW/00000.jpg", b"")
    assert own(tmp_path / "data", tmp_path / "in").videos == 1
    assert own(tmp_path / "data", tmp_path / "in/*").videos == 1


def test_faults_are_named_and_leave_nothing(tmp_path: Path) -> None:
    root = tmp_path / "data"
    clip = write_file(tmp_path / "in/a.avi", 1, 3)
    write_masks(tmp_path / "m/a", clip, [0, 2])
    (tmp_path / "m/a/002.png").rename(tmp_path / "m/a/003.png")
    file = tmp_path / "in/a.avi"
    with pytest.raises(DataError, match=r"1 masks have no frame .*003\.png.* numbered from 0"):
        own(root, file, masks=tmp_path / "m")
    media.write_bytes(tmp_path / "m/a/003.png", b"x")
    (tmp_path / "m/a/003.png").rename(tmp_path / "m/a/001.png")
    with pytest.raises(DataError, match=r"001\.png"):
        own(root, file, masks=tmp_path / "m")
    (tmp_path / "m/a/001.png").write_bytes(media.encode_png(np.zeros((48, 63), np.uint8)))
    with pytest.raises(DataError, match="mask of 63x48 on a frame of 64x48"):
        own(root, file, masks=tmp_path / "m")
    with pytest.raises(DataError, match="no masks found.*a folder of pictures for each video"):
        own(root, file, masks=tmp_path / "in")
    for source, words in (
        (tmp_path / "none", "no such file or folder"),
        (tmp_path / "m/a/000.png", "is one picture"),
        (tmp_path, "no videos found"),
    ):
        with pytest.raises(DataError, match=words):
            own(root, source)
    write_video(tmp_path / "stills", 1, 2)
    media.write_bytes(
        tmp_path / "stills/RGB/00002.png", media.encode_png(np.zeros((9, 9, 3), "u1"))
    )
    with pytest.raises(DataError, match=r"00002\.png: expected 64x48 as the first frame of stills"):
        own(root, tmp_path / "stills")
    (tmp_path / "cut.avi").write_bytes(file.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"cut\.avi"):
        own(root, tmp_path / "cut.avi")
    write_file(tmp_path / "b/a.avi", 2, 2)
    with pytest.raises(UsageError, match="two videos are called a"):
        own(root, file, tmp_path / "b/a.avi")
    with pytest.raises(UsageError, match="nothing matches"):
        own(root, tmp_path / "*.mp4")
    assert files_below(root) == set()


@pytest.mark.parametrize("name", ["../x", "", ".x", "a/b", "cards"])
def test_names_of_folders_only(tmp_path: Path, quiet: Reporter, name: str) -> None:
    with pytest.raises(UsageError, match="expected a name of letters"):
        own_data.import_own(name, ["x"], tmp_path, quiet)


def test_the_commands(vsodpipe: Run, tmp_path: Path) -> None:
    clip = write_file(tmp_path / "holiday.avi", 1, 4)
    write_masks(tmp_path / "m", clip, [0, 1, 2, 3])
    code, out, err = vsodpipe("import", "mine_test", "holiday.avi")
    assert code == 2 and "import --own mine_test holiday.avi" in err
    code, _, err = vsodpipe("import", "davs", "holiday.avi")
    assert code == 2 and "Did you mean davis?" in err
    code, _, err = vsodpipe("import", "--own", "davis", "holiday.avi")
    assert code == 2 and "davis is a known data set" in err
    code, _, err = vsodpipe("import", "davis", "holiday.avi", "--masks", "m")
    assert code == 2 and "Add --own" in err
    code, _, err = vsodpipe("import", "davis", "a.zip", "b.zip")
    assert code == 2 and "expected one folder or archive, got 2" in err
    code, _, err = vsodpipe("manifest", "holiday.avi")
    assert code == 2 and "vsodpipe import --own NAME holiday.avi" in err
    assert not (tmp_path / "datasets").exists()
    call = ("import", "--own", "mine_test", "holiday.avi", "--masks", "m")
    code, out, err = vsodpipe(*call, "--json")
    assert code == 0 and json.loads(out) == {"mine_test": {"videos": 1, "frames": 4}}
    assert "4 of 4 frames have a mask" in err and "Next: vsodpipe flow mine_test" in err
    assert vsodpipe("flow", "mine_test", "--engine", "dis", "-q")[0] == 0
    assert vsodpipe("manifest", "mine", "-q")[0] == 0
    assert len((tmp_path / "manifests/mine_test.txt").read_text().splitlines()) == 4
    code, out, _ = vsodpipe("datasets", "--json")
    assert json.loads(out)["datasets"]["mine_test"]["state"] == "present"
    code, out, _ = vsodpipe("datasets", "mine_test")
    assert out == "datasets/mine_test: no card, present: 1 videos, 4 frames, 4 masks\n"
    code, out, _ = vsodpipe("datasets", "mine_test", "--json")
    assert list(json.loads(out)["datasets"]) == ["mine_test"]


CARD = """
name = "Lab"
title = "Videos of the lab"
home = "https://lab.example"
[[layouts]]
img = "frames/{video}/{frame}.*"
gt = "masks/{video}/{frame}.png"
[splits.train]
videos = { one = 4 }
"""


def lab(root: Path, text: str = CARD, key: str = "lab") -> Path:
    """A data root with a private card, and a raw data set for it."""
    media.write_bytes(root / f"cards/{key}.toml", text.encode())
    raw = root.parent / "raw"
    clip = synth.make_clip(1, 4, size=SIZE)
    for t in range(4):
        media.write_bytes(raw / f"frames/one/{t}.jpg", media.encode_jpeg(clip.img[t]))
    write_masks(raw / "masks/one", clip, [0, 1, 2, 3])
    return raw


def test_a_private_card(vsodpipe: Run, tmp_path: Path) -> None:
    raw = lab(tmp_path / "datasets")
    code, out, err = vsodpipe("datasets")
    assert code == 0 and "Lab_train" in out
    code, _, err = vsodpipe("flow", "Lab_train", "--engine", "dis")
    assert code == 2 and "https://lab.example" in err and "vsodpipe import lab FOLDER" in err
    code, out, err = vsodpipe("import", "lab", raw, "--json")
    assert code == 0 and json.loads(out) == {"Lab_train": {"videos": 1, "frames": 4}}
    assert "note" not in err and "Videos of the lab" in err
    code, out, _ = vsodpipe("datasets", "lab")
    assert "datasets/cards/lab.toml" in out and "present: expected 1 videos, 4 frames" in out
    code, _, _ = vsodpipe("manifest", "lab", "-q")
    assert json.loads((tmp_path / "manifests/lab.json").read_text())["datasets"][0]["split"]
    assert "lab" not in card.cards(), "another data root does not know it"


def test_still_pictures_of_a_private_card(tmp_path: Path, quiet: Reporter) -> None:
    text = CARD.replace("[[layouts]]", 'kind = "image"\n[[layouts]]').replace("{video}/", "")
    root = tmp_path / "datasets"
    lab(root, text.replace("videos = { one = 4 }", ""))
    for k in range(2):
        grey = media.encode_png(np.full((6, 8), 255, np.uint8))
        media.write_bytes(tmp_path / f"lab/frames/cat{k}b.png", grey)
        media.write_bytes(tmp_path / f"lab/masks/cat{k}b.png", grey)
    (done,) = importer.import_dataset("lab", tmp_path / "lab", root, quiet)
    assert (done.videos, done.frames) == (0, 2)
    assert [v.name for v in catalogue.find("Lab_train", root).videos] == ["cat0b", "cat1b"]


def test_a_private_card_in_the_place_of_a_built_in_one(vsodpipe: Run, tmp_path: Path) -> None:
    raw = lab(tmp_path / "datasets", CARD.replace("Lab", "DAVIS"), "davis")
    for call in (("datasets",), ("import", "davis", raw)):
        code, _, err = vsodpipe(*call)
        assert code == 0
        assert "card davis is datasets/cards/davis.toml, in place of the built-in one" in err
    code, out, _ = vsodpipe("datasets", "davis")
    assert "in place of the built-in one" in out and "Videos of the lab" in out


def test_a_checkout_holds_the_built_in_cards(tmp_path: Path) -> None:
    folder = Path(__file__).parents[1] / "datasets"
    assert card.cards(folder) == card.cards() and len(card.cards()) > 20


H = 'name="A"\ntitle="A"\nhome="A"\n'
L = '[[layouts]]\nimg="a"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", "Invalid value"),
        ("", "name is missing"),
        (H + "[splits.train]\n", "layouts is missing"),
        (H + L, "splits is missing"),
        (H + "nam=1\n" + L, "at nam: unknown field 'nam'. Did you mean name?"),
        (H + L + 'msk="x"\n', "at layouts.0.msk: unknown field 'msk'. Did you mean mask?"),
        (H + L + 'mask="x"\n[splits.a]\n', "mask 'x' is none of objects"),
        (H + L + "[splits.a]\ncont=3\n", "at splits.a.cont: .*Did you mean count?"),
        (H + L + '[splits.a]\ncount="x"\n', "at splits.a.count: .*valid integer"),
        (H + L + '[splits.a]\nvideos={b="x"}\n', "at splits.a.videos.b"),
        (H + 'kind="film"\n' + L + "[splits.a]\n", "kind 'film' is none of video, image"),
        (H + 'pattern="("\n' + L + "[splits.a]\n", r"pattern '\(' is no regular expression"),
        (H + 'rename={a="../b"}\n' + L + "[splits.a]\n", "rename '../b' is no name"),
        (H + L + '[splits."../a"]\n', "'A_../a', of name and split, is no name of a folder"),
        (H + 'file="x"\n' + L, "file is no field"),
        (H.replace('"A"', '"DAVIS"') + L + "[splits.train]\n", "DAVIS_train is a data set of"),
    ],
)
def test_a_bad_private_card_is_named_with_its_field(
    vsodpipe: Run, tmp_path: Path, text: str, words: str
) -> None:
    file = Path("datasets/cards/mine.toml")
    media.write_bytes(tmp_path / file, text.encode())
    code, out, err = vsodpipe("datasets")
    assert code == 2 and out == "" and len(err.splitlines()) == 1
    assert err.startswith(f"error: {file}: ")
    assert re.search(words, err), err


def test_the_stride_of_an_import_is_remembered(tmp_path: Path, quiet: Reporter) -> None:
    root = tmp_path / "datasets"
    raw = lab(root)
    importer.import_dataset("lab", raw, root, quiet, stride=3)
    (state,) = inventory.states(root, "lab")
    assert (state.state, state.frames, state.expected_frames) == ("present", 2, 2)
    (root / "Lab_train/one/RGB/3.jpg").unlink()
    (root / "Lab_train/one/GT/3.png").unlink()
    (state,) = inventory.states(root, "lab")
    assert state.problem == "1 of 2 frames are missing"
    importer.import_dataset("lab", raw, root, quiet, force=True)
    (state,) = inventory.states(root, "lab")
    assert (state.state, state.frames, state.expected_frames) == ("present", 4, 4)
    (root / "Lab_train/import.json").write_text("[]")
    (state,) = inventory.states(root, "lab")
    assert "import.json: no record of an import" in str(state.problem)
