"""A2S-v2's data: tasks and codes, and the arrays that the published loader makes of pictures."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fill import answers
from vsodpipe import a2s_data, a2s_tasks, models
from vsodpipe.errors import UsageError

SIZE = (64, 64)
SETS = {"c": ("DUTS-TR_rgb", "DUTS-TR_gt", None), "d": ("d_rgb", "d_gt", "d_dep")}


@pytest.fixture(scope="module")
def expected() -> dict[str, NDArray[Any]]:
    return answers("a2s_data")


def same(found: NDArray[np.float32], expected: dict[str, NDArray[Any]], name: str) -> None:
    flat = found.ravel()
    assert found.dtype == np.float32
    sample = flat[:: max(1, flat.size // 256)][:256]
    assert np.abs(sample - expected[f"{name}/sample"]).max() < 3e-7, name
    assert float(flat.mean(dtype=np.float64)) == pytest.approx(
        float(expected[f"{name}/mean"]), abs=3e-7
    )


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("task", ["c", "d"])
def test_training_arrays_as_published(
    task: str, flip: bool, expected: dict[str, NDArray[Any]]
) -> None:
    img, gt, depth = SETS[task]
    picture = None if depth is None else expected[f"in/{depth}"]
    made = {
        "image": a2s_data.img(expected[f"in/{img}"], SIZE),
        "gt": a2s_data.label(expected[f"in/{gt}"], SIZE),
        "dep": a2s_data.second(picture, SIZE),
    }
    for key, value in made.items():
        name = f"train/{task}/{'flip' if flip else 'noflip'}/{key}"
        if f"{name}/sample" in expected:
            same(np.ascontiguousarray(value[..., ::-1]) if flip else value, expected, name)


def test_test_arrays_as_published(expected: dict[str, NDArray[Any]]) -> None:
    for name, stem in (("c", "ECSSD"), ("d", "d")):
        same(a2s_data.img(expected[f"in/{stem}_rgb"], SIZE), expected, f"test/{name}/image")
        native = a2s_data.label(expected[f"in/{stem}_gt"], None)
        assert native.shape[1:] == expected[f"in/{stem}_gt"].shape
        same(native, expected, f"test/{name}/gt")
    same(a2s_data.second(expected["in/d_dep"], SIZE), expected, "test/d/dep")


def test_labels_stretch_any_two_levels() -> None:
    mask = np.array([[3, 3], [7, 5]], np.uint8)
    assert (a2s_data.label(mask, (2, 2)) > 0.5).tolist() == [[[False, False], [True, False]]]
    assert not a2s_data.label(np.full((2, 2), 255, np.uint8), None).any(), "of one level: empty"


def test_pseudo_labels_as_published(expected: dict[str, NDArray[Any]]) -> None:
    labels = np.unpackbits(expected["labels_median"])[: 96 * 128].reshape(96, 128)
    final = np.unpackbits(expected["final"])[: 75 * 110].reshape(75, 110)
    assert final.sum() == 1695
    made = a2s_data.mask(labels.astype(bool), (75, 110))
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
