"""Miniature downloads in their raw layouts, written down from the data sets' own documentation."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vsodpipe import media

SIZE = (6, 8)
FRAME = media.encode_jpeg(np.zeros((*SIZE, 3), np.uint8))


@dataclass(frozen=True)
class Raw:
    """One video, or a few still pictures, of a download; `{}` in a path is the frame."""

    card: str
    dataset: str
    video: str
    img: str
    gt: str
    frames: tuple[str, ...]
    masked: tuple[str, ...] = ()
    """The stems of the masks, where they differ from those of the frames."""
    extra: tuple[str, ...] = ()
    """Other pictures (depth, thermal, and what no import may take)."""

    def write(self, base: Path) -> None:
        mask = grey(box(1, 4))
        for frame in self.frames:
            media.write_bytes(base / self.img.format(frame), picture(self.img))
            for path in self.extra:
                media.write_bytes(base / path.format(frame), mask)
        for stem in self.masked or self.frames:
            path = self.gt.format(stem)
            media.write_bytes(base / path, mask if path.endswith(".png") else as_jpeg(box(1, 4)))


def box(left: int, right: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Return a mask, bool (H, W), of the columns from `left` to `right`."""
    mask = np.zeros(size, bool)
    mask[:, left:right] = True
    return mask


def grey(mask: np.ndarray) -> bytes:
    return media.encode_png(mask.astype(np.uint8) * 255)


def as_jpeg(mask: np.ndarray) -> bytes:
    return media.encode_jpeg(np.repeat(mask[..., None].astype(np.uint8) * 255, 3, 2))


def saved(array: np.ndarray, suffix: str) -> bytes:
    """Return `array` as a picture file of any kind that Pillow writes."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, suffix)
    return buffer.getvalue()


def picture(path: str) -> bytes:
    colours = np.zeros((*SIZE, 3), np.uint8)
    endings = {".png": "PNG", ".bmp": "BMP"}
    ending = endings.get(Path(path).suffix)
    return saved(colours, ending) if ending else FRAME


THREE = ("00000", "00001", "00002")
TWO = ("001", "002")
RGBD = ("RGBD-TR", "DUT", "LFSD", "NJUD", "NLPR", "RGBD135", "SIP", "SSD", "STERE1000")
CARDS = {"RGBD-TR": "rgbdtr", "DUT": "dutrgbd", "STERE1000": "stere"}


def _davsod(split: str, folder: str, video: str) -> Raw:
    top = f"DAVSOD/{folder}/{video}"
    other = (f"{top}/GT_instance_level/{{}}.png", f"{top}/Fixation_maps/{{}}.png")
    frames = ("0390", "0391", "0392")
    return Raw(
        "davsod", f"DAVSOD_{split}", video, f"{top}/Imgs/{{}}.png",
        f"{top}/GT_object_level/{{}}.png", frames, extra=other,
    )  # fmt: skip


def _rgbd(name: str) -> Raw:
    top = f"RGBD/{name}"
    dataset = {"RGBD-TR": "RGBD-TR_train", "STERE1000": "STERE_test"}.get(name, f"{name}_test")
    return Raw(
        CARDS.get(name, name.lower()), dataset, "001", f"{top}/image/{{}}.jpg",
        f"{top}/mask/{{}}.png", TWO, extra=(f"{top}/depth/{{}}.png",),
    )  # fmt: skip


def _rgbt(name: str, dataset: str) -> Raw:
    top = f"RGBT/{name}"
    return Raw(
        dataset.split("_")[0].lower(), dataset, "001", f"{top}/RGB/{{}}.jpg", f"{top}/GT/{{}}.png",
        TWO, extra=(f"{top}/T/{{}}.jpg",),
    )  # fmt: skip


def _still(card: str, dataset: str, img: str, gt: str) -> Raw:
    return Raw(card, dataset, "001", img, gt, TWO)


def _benchmark(card: str, dataset: str, folder: str, video: str) -> Raw:
    """The unified layout of the DAVSOD benchmark page: masks where the original has one."""
    top, frames = f"{folder}/{video}", tuple(f"{video}_{n:05d}" for n in range(3))
    return Raw(
        card, dataset, video, f"{top}/Imgs/{{}}.jpg", f"{top}/ground-truth/{{}}.png", frames,
        frames[:1] if card not in ("davis", "segtrack2") else (),
    )  # fmt: skip


YTO = "aeroplane/data/0001/shots/002"
RAW = [
    Raw("davis", "DAVIS_train", "bear", "DAVIS/JPEGImages/480p/bear/{}.jpg",
        "DAVIS/Annotations/480p/bear/{}.png", THREE),
    _benchmark("davis", "DAVIS_test", "DAVIS", "blackswan"),
    _davsod("train", "Training Set/Training Set", "select_0043"),
    _davsod("train", "Training Set", "select_0064_1"),
    _davsod("val", "Validation Set", "select_0051"),
    _davsod("easy35", "Testing Set/Easy-35", "select_0606"),
    _davsod("easy35", "Easy-35", "select_0616_1"),
    _davsod("normal25", "Normal-25", "select_0700"),
    _davsod("difficult20", "Difficult-20", "select_0701"),
    _benchmark("fbms", "FBMS_test", "FBMS", "camel01"),
    Raw("segtrack2", "SegTrack-V2_test", "birdfall", "SegTrackv2/JPEGImages/birdfall/{}.png",
        "SegTrackv2/GroundTruth/birdfall/{}.png", ("birdfall2_00018", "birdfall2_00019")),
    Raw("segtrack2", "SegTrack-V2_test", "girl", "SegTrackv2/JPEGImages/girl/{}.bmp",
        "SegTrackv2/Annotations/girl/{}.png", ("9", "10")),
    _benchmark("segtrack2", "SegTrack-V2_test", "SegTrack-V2", "bird_of_paradise"),
    Raw("visal", "ViSal_test", "cat", "ViSal/cat/{}.jpg", "ViSal/cat/ground-truth/{}.png",
        tuple(f"{n:05d}" for n in range(1, 8)), ("00002", "00007")),
    _benchmark("visal", "ViSal_test", "ViSal", "snow_leopards"),
    Raw("vos", "VOS_test", "108", "VOS/JPEGImages/108/{}.jpg", "VOS/Annotations/108/{}.png",
        THREE, THREE[:1]),
    Raw("vos", "VOS_train", "276", "VOS/JPEGImages/276/{}.jpg", "VOS/Annotations/276/{}.png",
        THREE, THREE[:1]),
    _benchmark("vos", "VOS_test", "VOS_test", "3"),
    _benchmark("mcl", "MCL_test", "MCL", "Hall2"),
    Raw("ytobj", "YouTube-Objects_test", "aeroplane_0001_002",
        f"full/{YTO}/images/frame{{}}.jpg", f"youtube_masks/{YTO}/labels/{{}}.jpg",
        ("0001", "0002", "0011"), ("00001", "00011")),
    Raw("ytobj", "YouTube-Objects_test", "cow_0019", "YTOBJ/JPEGImages/cow/0019/{}.jpg",
        "YTOBJ/Annotations/cow/0019/{}.png", THREE),
    Raw("youtubevos", "YouTubeVOS_train", "003234408d", "train/JPEGImages/003234408d/{}.jpg",
        "train/Annotations/003234408d/{}.png", ("00000", "00005", "00010")),
    Raw("youtubevos", "YouTubeVOS_valid", "0062f687f1", "valid/JPEGImages/0062f687f1/{}.jpg",
        "valid/Annotations/0062f687f1/{}.png", ("00000", "00005"), ("00000",)),
    Raw("longvideos", "Long-Videos_test", "rat", "JPEGImages/rat/{}.jpg", "Annotations/rat/{}.png",
        THREE, THREE[:1]),
    _still("duts", "DUTS_train", "DUTS-TR/DUTS-TR-Image/{}.jpg", "DUTS-TR/DUTS-TR-Mask/{}.png"),
    _still("duts", "DUTS_test", "DUTS-TE/DUTS-TE-Image/{}.jpg", "DUTS-TE/DUTS-TE-Mask/{}.png"),
    _still("msrab", "MSRA-B_all", "MSRA-B/{}.jpg", "MSRA-B/{}.png"),
    _still("msrab", "MSRA-B_all", "MSRA-B/Imgs/{}.jpg", "MSRA-B/Imgs/{}.png"),
    _still("msrab", "MSRA-B_train", "MSB_TR/images/{}.jpg", "MSB_TR/segmentations/{}.png"),
    _still("hkuis", "HKU-IS_test", "HKU-IS/imgs/{}.png", "HKU-IS/gt/{}.png"),
    _still("pascals", "PASCAL-S_test", "datasets/imgs/pascal/{}.jpg",
           "datasets/masks/pascal/{}.png"),
    _still("ecssd", "ECSSD_test", "ECSSD/images/{}.jpg", "ECSSD/ground_truth_mask/{}.png"),
    _still("ecssd", "ECSSD_test", "ECSSD/images/{}.jpg", "ECSSD/segmentations/{}.png"),
    _still("dutomron", "DUT-OMRON_test", "DUT-OMRON-image/{}.jpg", "pixelwiseGT-new-PNG/{}.png"),
    *map(_rgbd, RGBD),
    _rgbt("VT5000-TR", "VT5000_train"),
    _rgbt("VT5000-TE", "VT5000_test"),
    _rgbt("VT821", "VT821_test"),
    _rgbt("VT1000", "VT1000_test"),
]  # fmt: skip


def fbms(base: Path, video: str, suffix: str, regions: list[int], newline: str = "\n") -> None:
    """Write a video of 22 frames in the raw layout of FBMS-59, annotated at places 0 and 20.

    Region k is column k of the mask; `regions` are the numbers that the index gives them.
    """
    stem = video if video.startswith("tennis") else f"{video}_"
    for n in range(1, 23):
        media.write_bytes(base / video / f"{stem}{n:03d}.jpg", FRAME)
    truth = base / video / "GroundTruth"
    values = np.zeros(SIZE, np.int64)
    for k, number in enumerate(regions):
        values[:, k] = number
    values[:, len(regions) :] = 77  # of no region: background
    colours = np.stack([values >> 16, values >> 8 & 255, values & 255], -1).astype(np.uint8)
    rows = ["Do not change this file!", "", "Total number of regions:", str(len(regions)), ""]
    for k, number in enumerate(regions):
        rows += [f"Scale of region {k}:", str(number), ""]
    rows += ["Confusion penality matrix", *(["0 1"] * len(regions)), ""]
    rows += ["Total number of frames in this shot:", "22", ""]
    rows += ["Total number of labeled frames for this shot:", "2", ""]
    for place in (0, 20):
        name = f"{stem}{place + 1:04d}_gt.ppm" if suffix == "PPM" else f"{stem}{place + 1:03d}.pgm"
        if suffix == "PPM":
            data = saved(colours, "PPM")
        elif values.max() > 255:
            data = b"P5\n8 6\n65535\n" + values.astype(">u2").tobytes()
        else:
            data = saved(values.astype(np.uint8), "PPM")
        media.write_bytes(truth / name, data)
        media.write_bytes(truth / f"{stem}{place + 1:04d}_PROB_gt.ppm", FRAME)
        rows += ["Frame number:", str(place), "File name:", name]
        rows += ["Input file name:", f"{stem}{place + 1:03d}.ppm", ""]
    (truth / f"{video}Def.dat").write_bytes(newline.join(rows).encode())
