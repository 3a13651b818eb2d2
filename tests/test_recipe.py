"""Recipes: unknown keys and wrong types are refused, and TOML gives back an equal recipe."""

import tomllib
from dataclasses import dataclass, fields, replace

import pytest

from vsodpipe import models, recipe
from vsodpipe.errors import UsageError
from vsodpipe.recipe import Augment, Data, Group, Maps, Optim, Stage, Validate
from vsodpipe.recipe_text import field_notes


@dataclass(frozen=True, kw_only=True)
class Net:
    width: int = 8
    weights: str | None = "imagenet"


STAGE = Stage(
    name="debug",
    network=Net(),
    data=Data(datasets=("A_train",), frame_steps={"A_train": (1, 2)}, anchor_stride={"A.b": 5}),
)


@pytest.mark.parametrize("weights", ["imagenet", None])
def test_toml_round_trip(weights: str | None) -> None:
    stage = recipe.override(STAGE, [f"network.weights={weights or 'none'}", "optim.lr=0.5"])
    values = tomllib.loads(recipe.to_toml(stage))
    assert recipe.stage_from_dict(values, Net) == stage
    assert stage.network.weights == weights


def published() -> list[tuple[str, Stage]]:
    return [(name, stage) for name in models.names() for stage in models.load(name).STAGES]


@pytest.mark.parametrize(("name", "stage"), published(), ids=lambda x: getattr(x, "name", x))
def test_every_published_recipe_comes_back_from_its_toml(name: str, stage: Stage) -> None:
    printed = recipe.to_toml({stage.name: stage}, explain=True)
    values = tomllib.loads(printed)
    assert set(values) == {stage.name}
    options = models.load(name).Options
    assert recipe.stage_from_dict(values[stage.name], options) == stage
    assert recipe.update(replace(stage, epochs=99), values[stage.name]) == stage


def test_every_key_is_explained() -> None:
    """Field by field, in the text that `vsodpipe recipe` prints above each key."""
    kinds: tuple[type, ...] = (Stage, Data, Augment, Optim, Group, Validate, Maps)
    for kind in (*kinds, *(models.load(name).Options for name in models.names())):
        notes = field_notes(kind)
        assert set(notes) == {each.name for each in fields(kind)}, kind
        assert all(note.endswith((".", ")")) for note in notes.values()), kind
    lines = recipe.to_toml({"debug": STAGE}, explain=True).splitlines()
    assert lines[lines.index("epochs = 1") - 1] == "# Passes over the data."
    assert lines[lines.index("[debug.optim]") - 1].startswith("# Optimiser, parameter groups")


def test_groups_of_parameters() -> None:
    keys = ["optim.groups.flow.resnet.lr=0.1", "optim.groups.flow.resnet.frozen=true"]
    stage = recipe.override(STAGE, [*keys, "optim.groups.head.weight_decay=0"])
    assert stage.optim.groups == {
        "flow.resnet": Group(lr=0.1, frozen=True),
        "head": Group(weight_decay=0.0),
    }
    assert recipe.stage_from_dict(tomllib.loads(recipe.to_toml(stage)), Net) == stage


def test_a_part_of_a_recipe_changes_that_part() -> None:
    values = {"epochs": 3, "optim": {"lr": 1}, "data": {"frame_steps": {"B": [2]}}}
    stage = recipe.update(STAGE, values)
    assert (stage.epochs, stage.optim.lr, stage.data.frame_steps) == (3, 1.0, {"B": (2,)})
    assert stage.data.datasets == STAGE.data.datasets
    with pytest.raises(UsageError, match="Did you mean data.size"):
        recipe.update(STAGE, {"data": {"siz": [1, 2]}})


def test_override_sets_nested_values() -> None:
    keys = ["data.size=[64, 96]", "data.frame_steps.B_train=[3]", "epochs=7", "optim.lr=1"]
    stage = recipe.override(STAGE, keys)
    assert stage.data.size == (64, 96)
    assert stage.data.frame_steps == {"A_train": (1, 2), "B_train": (3,)}
    assert (stage.epochs, stage.optim.lr) == (7, 1.0)
    assert STAGE.epochs == 1, "recipes are frozen"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optim.lrr=1", "Did you mean optim.lr?"),
        ("optin.lr=1", "Did you mean optim?"),
        ("optim.lr=fast", "expected float, got 'fast'"),
        ("optim=1", "is a group"),
        ("data.size=[1]", "recipe key data.size"),
        ("data.size=[0, 4]", "recipe key size"),
        ("data.frame_steps.A=[0]", "above 0"),
        ("data.anchor_stride.A=0", "above 0"),
        ("precision=fp64", "Known: auto, bf16, fp16, fp32"),
        ("epochs=1.5", "expected int, got 1.5"),
        ("epochs=true", "expected int, got True"),
        ("epochs=0", "above 0"),
        ("optim.lr.x=2", "unknown recipe key"),
        ("nonsense", "expected key=value"),
        ("optim.clip_norm=-1", "0 or more"),
        ("optim.weight_decay=-0.1", "0 or more"),
        ("augment.flip=7", "probability"),
        ("augment.crop=-5", "0 or more"),
        ("augment.brightness=[2, 1]", "low <= high"),
        ("seed=-1", "0 or more"),
        ("steps_per_epoch=-3", "0 or more"),
        ("optim.kind=sdg", "Did you mean sgd?"),
        ("optim.schedule=cosin", "Did you mean cosine?"),
        ("optim.groups.rgb.rl=1", "Did you mean optim.groups.rgb.lr?"),
        ("optim.groups.rgb.lr=-1", "0 or more"),
        ("scales=[]", "numbers above 0"),
        ("ema=1", "0..1"),
        ("accumulate=2", "equal parts of 1 samples"),
        ('joins=["a"]', "needs transfer"),
        ("validate.metric=jj", "Known: f_adaptive"),
        ("data.frame_steps.DAVIS_train=3", "recipe key data.frame_steps.DAVIS_train: expected tup"),
        ("validate.held_out=1", "between 0 and 1"),
        ("data.masks=grey", "Known: binary, soft"),
        ('data.inputs=["img", "ref_img"]', "recipe key references"),
    ],
)
def test_bad_assignments_are_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=".*") as error:
        recipe.override(STAGE, [text])
    assert words in str(error.value)
