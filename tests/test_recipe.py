"""Recipes: unknown keys and wrong types are refused, and TOML gives back an equal recipe."""

import tomllib
from dataclasses import dataclass

import pytest

from vsodpipe import recipe
from vsodpipe.errors import UsageError
from vsodpipe.recipe import Data, Stage


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
    ],
)
def test_bad_assignments_are_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=".*") as error:
        recipe.override(STAGE, [text])
    assert words in str(error.value)
