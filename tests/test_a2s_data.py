"""A2S-v2's data: tasks and codes; files become the very tensors of the published loader."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fill import answers
from vsodpipe import a2s_tasks, crf, feed, infer, manifest, media, models, pack
from vsodpipe.errors import UsageError
from vsodpipe.frames import Files, open_reader
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter
from vsodpipe.recipe import Augment, Stage
from vsodpipe.stream import Clips

Expected = dict[str, NDArray[Any]]
SETS = {
    "DUTS_train": ("DUTS-TR", None),
    "RGBD-TR_train": ("d", "d_dep"),
    "ECSSD_test": ("ECSSD", None),
}
PICTURES = {"image": "img", "dep": "depth", "of": "flow", "th": "thermal"}
"""The published loader's names of what we call."""


@pytest.fixture(scope="module")
def expected() -> Expected:
    return answers("a2s_data")


@pytest.fixture(scope="module")
def files(expected: Expected, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """The pictures that the published loader was given, as files; packed, too."""
    root, quiet = tmp_path_factory.mktemp("a2s"), Reporter(quiet=True)
    for name, (stem, depth) in SETS.items():
        given = {"RGB": f"{stem}_rgb", "GT": f"{stem}_gt", "DEPTH": depth}
        for folder, key in given.items():
            if key is not None:
                picture = media.encode_png(expected[f"in/{key}"])
                media.write_bytes(root / name / folder / "p.png", picture)
    made = manifest.build([], root, root / "m", quiet, name="a2s")["a2s"]
    source = manifest.read(manifest.write(made, root / "m", root)[0])
    for name in ("DUTS_train", "RGBD-TR_train"):
        pack.pack(source.split(name), source.root, f"{root}/{name}.zarr", None, quiet)
    return source


def same(found: Tensor, expected: Expected, name: str) -> None:
    """Equal but for the rounding of a multiplication: less than a thousandth of a grey level."""
    flat = found.contiguous().numpy().ravel()
    sample = flat[:: max(1, flat.size // 256)][:256]
    assert found.dtype == torch.float32
    assert np.abs(sample - expected[f"{name}/sample"]).max() < 1e-6, name
    assert abs(float(flat.mean(dtype=np.float64)) - float(expected[f"{name}/mean"])) < 1e-6


def stage_of(stage: Stage, **data: Any) -> Stage:
    return replace(stage, data=replace(stage.data, size=(64, 64), **data), batch=1)


@pytest.mark.parametrize("kind", ["files", "store"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("dataset", ["DUTS_train", "RGBD-TR_train"])
def test_a_training_sample_as_published(
    dataset: str, flip: bool, kind: str, files: Source, expected: Expected
) -> None:
    stage = stage_of(models.stages("a2s")["cdot"], datasets=(dataset,), labels=True, source=kind)
    stage = replace(stage, augment=Augment(flip=float(flip)))
    clips = Clips([open_reader(files, dataset, kind)], stage)
    batch = feed.on_device(clips.batch([(0, 0, 0)]), torch.device("cpu"), "a2s", stage.data)
    start = f"train/{'c' if dataset == 'DUTS_train' else 'd'}/{'flip' if flip else 'noflip'}"
    for name, key in PICTURES.items():
        if f"{start}/{name}/sample" in expected:
            same(batch[key][0], expected, f"{start}/{name}")
    # masks are stretched there, and the object is where they are above one half
    gt = batch["gt"][0].numpy().ravel()
    stretched = expected[f"{start}/gt/sample"]
    assert np.array_equal(gt[:: max(1, gt.size // 256)][:256], stretched > 0.5)


@pytest.mark.parametrize("network", ["a2s", "cornet", "midnet"])
def test_a_test_sample_as_published(network: str, files: Source, expected: Expected) -> None:
    """By the recipe that published weights come with, and those that are trained here."""
    stage = models.stages(network)[models.load(network).CHAIN[-1]]
    keys = ("img", "depth") if network == "midnet" else ("img",)
    data = stage_of(stage, inputs=keys).data
    for task, dataset in (("c", "ECSSD_test"), ("d", "RGBD-TR_train")):
        if network == "midnet" and task == "c":
            continue
        read = Files(files, files.split(dataset))
        sample = infer._load(read, 0, [0], data)
        same(sample["img"], expected, f"test/{task}/image")
        if "depth" in keys:
            same(sample["depth"], expected, f"test/{task}/dep")
        gt = read.read(0, 0, "gt")
        stretched = expected[f"test/{task}/gt/sample"]
        assert np.array_equal(gt.ravel()[:: gt.size // 256][:256], stretched > 0.5)


def test_every_recipe_of_the_three_resizes_as_published() -> None:
    for network in ("a2s", "cornet", "midnet"):
        assert {s.data.resize for s in models.stages(network).values()} == {"bicubic"}
    assert models.stages("ianet")["train"].data.resize == "bilinear"


def test_pseudo_labels_as_published() -> None:
    fixture = answers("a2s_data")
    labels = np.unpackbits(fixture["labels_median"])[: 96 * 128].reshape(96, 128)
    final = np.unpackbits(fixture["final"])[: 75 * 110].reshape(75, 110)
    assert final.sum() == 1695
    made = crf.mask(labels.astype(np.float32), (75, 110))
    assert made.dtype == np.uint8 and np.array_equal(made, final * 255)


def test_the_codes_of_the_authors() -> None:
    assert [task.title for task in a2s_tasks.tasks("cdot")] == ["RGB", "RGB-D", "video", "RGB-T"]
    assert [task.second for task in a2s_tasks.tasks("to")] == ["flow", "thermal"]
    assert a2s_tasks.datasets("or") == ("DAVIS_train", "DAVSOD_train")
    assert a2s_tasks.datasets("de,te") == (
        "NJUD_test", "NLPR_test", "RGBD135_test", "SIP_test",
        "VT5000_test", "VT1000_test", "VT821_test",
    )  # fmt: skip
    for wrong in ("x", "", "oo", "co "):
        with pytest.raises(UsageError, match="unknown task"):
            a2s_tasks.tasks(wrong)
    for wrong in ("xr", "c", "cz", "cr,", "cre"):
        with pytest.raises(UsageError, match="unknown data code"):
            a2s_tasks.datasets(wrong)


def test_recipes_and_tasks_agree() -> None:
    stage1 = models.stages("a2s")
    joint = tuple(name for task in a2s_tasks.tasks("cdot") for name in task.train)
    assert stage1["cdot"].data.datasets == joint
    for letter, task in a2s_tasks.TASKS.items():
        assert stage1[letter].data.datasets == task.train
        stage2 = models.stages(task.network)[letter].data
        assert stage2.datasets == tuple(a2s_tasks.stage2_name(name) for name in task.train)
        assert stage2.inputs == ("img", *([task.second] if task.second else []))
