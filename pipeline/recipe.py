"""Recipes: one stage of training as a frozen dataclass that a model's own file fills in.

Legend: H W are rows and columns, T the frames of a clip. A recipe is complete and runnable;
variants are made with `dataclasses.replace` or `override(stage, ["optim.lr=1e-4"])`, which refuses
unknown keys and values of another type.
"""

from __future__ import annotations

import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

from vsodpipe.errors import UsageError, unknown

R = TypeVar("R")


def _positive(owner: object, *names: str) -> None:
    for name in names:
        if not getattr(owner, name) > 0:
            value = getattr(owner, name)
            raise UsageError(f"recipe key {name}: expected a number above 0, got {value!r}.")


def _at_least_0(owner: object, *names: str) -> None:
    for name in names:
        if not getattr(owner, name) >= 0:
            value = getattr(owner, name)
            raise UsageError(f"recipe key {name}: expected 0 or more, got {value!r}.")


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which frames make a sample and how large they are."""

    datasets: tuple[str, ...]
    """Data sets of the published recipe (DAVIS_train); those the manifest holds are used."""
    inputs: tuple[str, ...] = ("img", "flow")
    """Sample keys the network is fed, in the order of its arguments; a key may come twice."""
    source: Literal["files", "store"] = "files"
    """Read the manifest's files, or the chunked stores that `vsodpipe pack` made of them."""
    size: tuple[int, int] = (384, 384)
    """Height and width in pixels to which a sample is resized."""
    sample: Literal["clip", "frame", "group"] = "clip"
    """clip: T frames around an anchor; frame: one frame, without the T axis; group: T neighbours,
    so that the groups of a video cover it once an epoch."""
    clip: int = 1
    """Frames in a sample (T)."""
    references: int = 0
    """Other frames of the same video beside a sample, as ref_img and ref_flow."""
    flow: Literal["picture", "vectors"] = "picture"
    """Flow as a colour picture, or as (u, v) in pixels, which only a store holds."""
    predict_frames: int = 0
    """Frames predicted at once; 0: as many as a training sample has."""
    frame_steps: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Data set -> distances in frames between neighbours of a clip, one drawn a clip (else 1)."""
    anchor_stride: dict[str, int] = field(default_factory=dict)
    """Data set -> every how many-th frame may start a clip (1 where it is not named)."""
    window: int | None = None
    """Shards that are shuffled together; 0: everything; none: 0 on disk, 8 for a remote store."""
    uint8: bool = False
    """Hand out img, gt and flow pictures as uint8; they become the same floats on the device."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Subtracted from the RGB frame in 0..1."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """The RGB frame is divided by it after the mean is subtracted."""
    normalise_flow: bool = False
    """Flow pictures are normalised like RGB frames; else they stay in 0..1."""
    without_flow: Literal["refuse", "zero"] = "refuse"
    """What a data set without any flow (still images) is: an error, or flow 0 once normalised."""

    def __post_init__(self) -> None:
        _positive(self, "clip")
        _at_least_0(self, "references", "predict_frames")
        if self.window is not None:
            _at_least_0(self, "window")
        if self.uint8 and self.without_flow == "zero":
            raise UsageError(
                "recipe key uint8: flow that is 0 once normalised is no uint8 picture."
            )
        if self.sample == "frame" and self.clip != 1:
            raise UsageError(f"recipe key clip: a frame is 1 frame, got {self.clip}.")
        if len(self.size) != 2 or min(self.size) < 1:
            raise UsageError(
                f"recipe key size: expected [height, width] > 0, got {list(self.size)}."
            )
        for dataset, steps in self.frame_steps.items():
            if not steps or min(steps) < 1:
                raise UsageError(f"recipe key frame_steps.{dataset}: expected numbers above 0.")
        for dataset, stride in self.anchor_stride.items():
            if stride < 1:
                raise UsageError(f"recipe key anchor_stride.{dataset}: expected a number above 0.")


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes, one draw for a whole clip, applied in the order of the fields."""

    crop: int = 0
    """A centre crop takes up to this many pixels (of the native frame) from each side."""
    flip: float = 0.0
    """Probability of a left-right flip."""
    rotate: float = 0.0
    """Largest rotation in degrees, either way."""
    rotate_probability: float = 0.5
    """Probability of a rotation."""
    brightness: tuple[float, float] = (1.0, 1.0)
    """Range of the factor on the RGB frame (not on flow)."""
    contrast: tuple[float, float] = (1.0, 1.0)
    """Range of the factor about the mean grey of the frame."""
    saturation: tuple[float, float] = (1.0, 1.0)
    """Range of the factor about the grey picture; 0 is grey."""
    sharpness: tuple[float, float] = (1.0, 1.0)
    """Range of the factor about the smoothed picture; 0 is smoothed."""

    def __post_init__(self) -> None:
        _at_least_0(self, "crop", "rotate")
        for name in ("flip", "rotate_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"recipe key {name}: expected a probability in 0..1.")
        for name in ("brightness", "contrast", "saturation", "sharpness"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise UsageError(f"recipe key {name}: expected [low, high] with 0 <= low <= high.")


@dataclass(frozen=True, kw_only=True)
class Optim:
    """The optimiser, and how its learning rate falls over the stage."""

    kind: Literal["adamw", "adam", "sgd"] = "adamw"
    """Optimiser; weight decay is decoupled in adamw alone."""
    lr: float = 1e-4
    """Learning rate of the first step."""
    lr_factors: dict[str, float] = field(default_factory=dict)
    """Module of the network (rgb, flow.resnet) -> factor on the rate of all parameters in it."""
    schedule: Literal["cosine", "step"] = "cosine"
    """cosine: from `lr` to `min_lr` over all steps; step: times `step_factor` at `step_epochs`."""
    min_lr: float = 1e-6
    """Learning rate of the last step of a cosine."""
    step_epochs: tuple[int, ...] = ()
    """Epochs, counted from 0, with which the rate falls."""
    step_factor: float = 0.1
    """What the rate is multiplied by there."""
    momentum: float = 0.9
    """Momentum of sgd."""
    nesterov: bool = False
    """Nesterov's momentum in sgd."""
    weight_decay: float = 1e-2
    """Decay of the weights."""
    decay_all: bool = False
    """True: the decay is on biases and norm weights, too."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 switches it off."""

    def __post_init__(self) -> None:
        _positive(self, "lr", "step_factor")
        _at_least_0(self, "min_lr", "weight_decay", "clip_norm", "momentum")
        for name, factor in self.lr_factors.items():
            if not factor > 0:
                raise UsageError(f"recipe key lr_factors.{name}: expected a number above 0.")
        if self.nesterov and not self.momentum:
            raise UsageError("recipe key nesterov: expected a momentum above 0.")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of training, complete: `vsodpipe train MODEL --stage NAME` runs exactly this."""

    name: str
    """Name on the command line."""
    network: Any
    """Constructor options of the network: a frozen dataclass of the model's file."""
    data: Data
    augment: Augment = Augment()
    optim: Optim = Optim()
    epochs: int = 1
    """Passes over the data."""
    batch: int = 1
    """Samples (clips) in a step."""
    scales: tuple[float, ...] = (1.0,)
    """A batch takes one step at each of these sizes: factors on data.size, in multiples of 32."""
    fresh: bool = False
    """Starts from its own initial weights, not from those of the stage before."""
    joins: tuple[str, ...] = ()
    """Stages of the run whose weights the network's file joins into the initial ones."""
    transfer: str = ""
    """How they are joined: a name that file knows."""
    loss_weights: dict[str, float] = field(default_factory=dict)
    """Head of the network -> factor of its loss, where it is not the network's own."""
    steps_per_epoch: int = 0
    """Cap on the steps of an epoch, a seeded random part of the samples; 0 takes all."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: mixed precision on CUDA (bf16, or fp16 where bf16 is missing), float32 on CPU."""
    seed: int = 0
    """Decides initial weights, order and augmentation."""

    def __post_init__(self) -> None:
        _positive(self, "epochs", "batch")
        if not self.scales or min(self.scales) <= 0:
            raise UsageError("recipe key scales: expected numbers above 0, such as [0.75, 1.0].")
        _at_least_0(self, "steps_per_epoch", "seed")


def to_dict(recipe: Any) -> dict[str, Any]:
    """Return `recipe` as nested dictionaries, lists and numbers, ready for TOML or JSON."""

    def plain(value: Any) -> Any:
        if is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return list(value) if isinstance(value, tuple) else value

    result: dict[str, Any] = plain(recipe)
    return result


def from_dict(kind: type[R], values: Mapping[str, Any], where: str = "") -> R:
    """Build dataclass `kind` from nested dictionaries, as `to_dict` wrote them.

    Raises UsageError for an unknown key (with the nearest one) and for a value of another type.
    """
    hints = typing.get_type_hints(kind)
    known = {f.name: hints[f.name] for f in fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise unknown("recipe key", where + key, (where + k for k in known))
    return kind(**{k: _convert(known[k], v, where + k) for k, v in values.items()})


def stage_from_dict(values: Mapping[str, Any], options: type) -> Stage:
    """Build a Stage whose `network` is the dataclass `options`, as `to_dict` wrote both."""
    network: Any = from_dict(options, values["network"], "network.")
    return from_dict(Stage, {**values, "network": network})


def override(recipe: R, assignments: Iterable[str]) -> R:
    """Return `recipe` with `key.sub=value` applied; values are TOML (`[384, 640]`) or a bare word.

    Raises UsageError for an unknown key (with the nearest one) and for a value of another type.
    """
    for text in assignments:
        key, sep, raw = text.partition("=")
        if not sep:
            raise UsageError(f"--set {text!r}: expected key=value, for example optim.lr=1e-4.")
        recipe = _assign(recipe, key.strip().split("."), _parse(raw.strip()), key.strip())
    return recipe


def to_toml(recipe: Any) -> str:
    """Return `recipe` as TOML text; `tomllib` and `from_dict` read it back to an equal recipe."""
    return "\n".join(_toml_lines(to_dict(recipe), "")).strip() + "\n"


def _toml_lines(table: Mapping[str, Any], prefix: str) -> list[str]:
    scalars = {k: v for k, v in table.items() if not isinstance(v, dict)}
    lines = [f"{_toml_key(k)} = {_toml_value(v)}" for k, v in scalars.items()]
    for key, value in table.items():
        if isinstance(value, dict):
            name = f"{prefix}{_toml_key(key)}"
            lines += ["", f"[{name}]", *_toml_lines(value, f"{name}.")]
    return lines


def _toml_key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() else _toml_value(key)


def _toml_value(value: Any) -> str:
    if value is None:
        return '"none"'  # TOML has no null; _convert reads it back
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    return repr(value)


def _parse(raw: str) -> Any:
    try:
        return tomllib.loads(f"x = {raw}")["x"]
    except tomllib.TOMLDecodeError:
        return raw  # a bare word is a string; _convert refuses it where a number is expected


def _assign(recipe: Any, path: list[str], value: Any, key: str) -> Any:
    head, *rest = path
    known = typing.get_type_hints(type(recipe))
    names = [f.name for f in fields(recipe)]
    prefix = key[: len(key) - len(".".join(path))]
    if head not in names:
        raise unknown("recipe key", key, (prefix + n for n in names))
    current = getattr(recipe, head)
    if rest and isinstance(current, dict):
        value, rest = {**current, ".".join(rest): value}, []
    if rest and is_dataclass(current):
        return replace(recipe, **{head: _assign(current, rest, value, key)})
    if rest:
        raise unknown("recipe key", key, [prefix + head])
    if is_dataclass(current):
        inner = (f"{key}.{f.name}" for f in fields(current))
        raise UsageError(f"recipe key {key} is a group. Its keys: {', '.join(inner)}.")
    return replace(recipe, **{head: _convert(known[head], value, key)})


def _convert(kind: Any, value: Any, key: str) -> Any:
    """Return `value` as `kind` or raise UsageError; integers pass as floats, lists as tuples."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if is_dataclass(kind) and isinstance(value, Mapping):
        return from_dict(typing.cast(type, kind), value, f"{key}.")
    if origin is Literal:
        if value in args:
            return value
        raise unknown(f"value of recipe key {key}:", str(value), map(str, args))
    if origin is types.UnionType and type(None) in args and value in (None, "none"):
        return None
    if origin is types.UnionType:
        return _convert(next(a for a in args if a is not type(None)), value, key)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) == len(value):
            return tuple(_convert(k, v, key) for k, v in zip(kinds, value, strict=True))
    if origin is dict and isinstance(value, Mapping):
        return {str(k): _convert(args[1], v, f"{key}.{k}") for k, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is bool or not isinstance(value, bool):  # True is an int to Python, not to a user
        if isinstance(kind, type) and isinstance(value, kind):
            return value
    name = getattr(kind, "__name__", None) if origin is None else str(kind)
    raise UsageError(f"recipe key {key}: expected {name}, got {value!r}.")
