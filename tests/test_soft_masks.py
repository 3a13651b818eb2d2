"""Masks in training: binary, or grey as the published code of IANet, SMCF and DPA takes them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from helpers import write_video
from vsodpipe import feed, manifest, media, models, runs, stream, transforms
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter
from vsodpipe.recipe import Augment, Data, Stage

SOFT = Data(datasets=("TINY_train",), inputs=("img",), size=(32, 40), masks="soft")
STAGE = Stage(name="t", network=None, data=SOFT, batch=5)
CODED = np.array([[0, 1, 2], [0, 255, 0]], np.uint8)


@pytest.fixture
def grey(tmp_path: Path) -> Source:
    """A manifest of a video of 48x64 whose masks have grey edges, as those of DUTS."""
    root = tmp_path / "grey"
    write_video(root / "TINY_train" / "ball", 1, 5)
    for file in (root / "TINY_train" / "ball" / "GT").iterdir():
        mask = Image.open(file)
        mask.resize((16, 12), Image.Resampling.BILINEAR).resize((64, 48)).save(file)
        assert len(np.unique(np.asarray(Image.open(file)))) > 10
    return source_of(root, tmp_path)


def source_of(root: Path, out: Path) -> Source:
    made = manifest.build([], root, out, Reporter(quiet=True))["tiny"]
    return manifest.read(manifest.write(made, out, root)[0])


def taken(source: Source, stage: Stage) -> stream.Sample:
    """Return the first batch, its samples in the order of their frames."""
    reader = stream.open_reader(source, "TINY_train", stage.data.source)
    batch = next(stream.loader(stream.Clips([reader], stage), 0, 0, 0))
    order = np.argsort([key[2] for key in batch["key"]])
    return {k: v[order] if torch.is_tensor(v) else v for k, v in batch.items()}


def by_pillow(source: Source, folder: str, mode: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the files of a folder as the published loaders resize them, (frames, H, W[, 3])."""
    files = sorted(Path(source.root, "TINY_train", "ball", folder).iterdir())
    pictures = [Image.open(f).convert(mode).resize(size[::-1], Image.Resampling.BILINEAR)
                for f in files]  # fmt: skip
    return np.stack([np.asarray(picture) for picture in pictures])


@pytest.mark.parametrize("size", [(32, 40), (24, 96), (48, 64)])
def test_soft_masks_and_frames_are_what_pillow_makes(grey: Source, size: tuple[int, int]) -> None:
    """Within one grey level, smaller, larger and as they are, also as uint8 on the way."""
    stage = replace(STAGE, data=replace(SOFT, size=size))
    batch = taken(grey, stage)
    gt = by_pillow(grey, "GT", "L", size).astype(int)
    img = by_pillow(grey, "RGB", "RGB", size).astype(int).transpose(0, 3, 1, 2)
    assert np.abs(batch["gt"][:, 0, 0].numpy() * 255 - gt).max() < 1.01
    assert np.abs(batch["img"][:, 0].numpy() * 255 - img).max() < 1.01
    assert ((gt > 0) & (gt < 255)).mean() > 0.02 and batch["gt"].max() == 1
    small = taken(grey, replace(stage, data=replace(stage.data, uint8=True)))
    assert small["gt"].dtype == torch.uint8
    tensors = {"gt": small["gt"], "img": small["img"]}
    assert torch.equal(transforms.to_float(tensors, stage.data)["gt"], batch["gt"])
    hard = taken(grey, replace(stage, data=replace(stage.data, masks="binary")))
    assert hard["gt"].unique().tolist() == [0, 1]


def test_soft_masks_turn_and_flip_with_the_frame(grey: Source) -> None:
    plain = taken(grey, STAGE)
    flipped = taken(grey, replace(STAGE, augment=Augment(flip=1.0)))
    assert torch.equal(flipped["gt"], plain["gt"].flip(-1))
    mask = torch.zeros(1, 1, 40, 40, dtype=torch.uint8)
    mask[..., 10:30, 10:30] = 255
    clip = {"img": mask.expand(1, 3, -1, -1), "gt": mask}
    turn = Augment(rotate=15, rotate_probability=1)
    for soft, levels in ((True, 10), (False, 2)):
        rng = np.random.default_rng(1)
        gt = transforms.augment(clip, transforms.draw(turn, rng), (40, 40), soft=soft)["gt"]
        assert gt.unique().numel() >= levels and (levels > 2 or gt.unique().numel() == 2)


def test_files_of_numbers_have_no_grey_levels(tmp_path: Path) -> None:
    def saved(values: NDArray[np.uint8], mode: str) -> NDArray[np.uint8]:
        picture = Image.fromarray(values)
        if mode == "P":
            picture = Image.frombytes("P", values.shape[::-1], values.tobytes())
            picture.putpalette(list(range(256)) * 3)
        picture.save(tmp_path / "mask.png")
        return media.read_soft_mask(tmp_path / "mask.png")

    assert saved(CODED, "P").tolist() == [[0, 255, 255], [0, 0, 0]], "objects; 255 is void"
    assert saved(np.minimum(CODED, 1), "L").tolist() == [[0, 255, 255], [0, 255, 0]]
    assert saved(CODED, "L").tolist() == CODED.tolist(), "grey stays grey"


def test_a_store_says_that_it_has_no_grey_levels(
    one_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = source_of(one_store, tmp_path)
    stage = replace(STAGE, data=replace(SOFT, source="store"))

    def warned(stage: Stage) -> bool:
        job = runs.Job("ianet", source, (stage,), tmp_path / "run", "cpu", 0)
        feed.clips(stage, feed.choose(stage, source), job, job.ranks, Reporter())
        return "without the grey edges" in " ".join(capsys.readouterr().err.split())

    assert warned(stage)
    assert not warned(replace(stage, data=replace(stage.data, masks="binary")))
    assert taken(source, stage)["gt"].unique().tolist() == [0, 1]
    resized = taken(source, replace(stage, data=replace(stage.data, size=(20, 30))))
    assert resized["gt"].unique().numel() > 5, "resizing makes some"


def test_the_recipes_take_masks_as_the_published_code_does() -> None:
    for name in models.names():
        wanted = "soft" if name in ("ianet", "smcf", "dpa", "dpa_pretrain") else "binary"
        assert {stage.data.masks for stage in models.stages(name).values()} == {wanted}, name
