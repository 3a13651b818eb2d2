"""Recipes: one stage of training as a frozen dataclass that a model's own file fills in.

Legend: H W are rows and columns, T the frames of a clip. A recipe is complete and runnable;
variants are made with `dataclasses.replace` or `override(stage, ["optim.lr=1e-4"])`, which refuses
unknown keys and values of another type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from vsodpipe.errors import UsageError
from vsodpipe.recipe_text import from_dict, override, to_dict, to_toml, update

__all__ = [
    "Augment",
    "Data",
    "Group",
    "Maps",
    "Optim",
    "Stage",
    "Validate",
    "from_dict",
    "override",
    "stage_from_dict",
    "to_dict",
    "to_toml",
    "update",
]


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
    beside: tuple[str, ...] = ()
    """Pictures read for the loss alone (depth, flow, thermal); zeros in a data set without them."""
    labels: bool = True
    """False: ground truth is neither needed nor read."""
    masks: Literal["binary", "soft"] = "binary"
    """binary: 0 or 1, resized to the nearest pixel; soft: the grey levels of the file in 0..1,
    resized like pictures."""
    source: Literal["files", "store"] = "files"
    """Read the manifest's files, or the chunked stores that `vsodpipe pack` made of them."""
    size: tuple[int, int] = (384, 384)
    """Height and width in pixels to which a sample is resized."""
    resize: Literal["bilinear", "bicubic"] = "bilinear"
    """How pictures are resized, antialiased: bilinear, or by Pillow's bicubic filter and before
    they are augmented; masks to the nearest pixel."""
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
    balanced: dict[str, str] = field(default_factory=dict)
    """Data set -> another one: no more samples an epoch than that one gives (all of them where the
    manifest lacks it), drawn anew each epoch."""
    window: int | None = None
    """Shards that are shuffled together; 0: everything; none: 0 on disk, 8 for a remote store."""
    uint8: bool = False
    """Hand out img, gt and flow pictures as uint8; they become the same floats on the device. A
    training on a GPU does so by itself, unless flow is 0 once normalised (`without_flow`)."""
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
        for key in self.beside:
            if key not in ("depth", "flow", "thermal") or key in self.inputs:
                raise UsageError(
                    "recipe key beside: expected depth, flow or thermal, none of them an input, "
                    f"got {key}."
                )
        if not self.references and any(key.startswith("ref_") for key in self.inputs):
            raise UsageError(
                "recipe key references: the inputs hold references; expected 1 or more."
            )
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
class Group:
    """What is different for the parameters of one module of the network."""

    lr: float = 1.0
    """Factor on the learning rate."""
    weight_decay: float | None = None
    """Decay in place of the stage's; none: the stage's."""
    frozen: bool = False
    """The parameters never change; batch norm keeps measuring its statistics."""
    from_epoch: int = 0
    """Rate 0 before this epoch, counted from 0."""

    def __post_init__(self) -> None:
        _at_least_0(self, "lr", "from_epoch")
        if self.weight_decay is not None:
            _at_least_0(self, "weight_decay")


@dataclass(frozen=True, kw_only=True)
class Optim:
    """The optimiser, its parameter groups, and how the learning rate moves over the stage."""

    kind: Literal["adamw", "adam", "sgd"] = "adamw"
    """Optimiser; weight decay is decoupled from the gradient in adamw alone."""
    lr: float = 1e-4
    """Learning rate that the schedule starts from."""
    schedule: Literal["cosine", "poly", "linear", "step", "constant"] = "cosine"
    """cosine, poly and linear fall from `lr` to `min_lr` over all steps; step falls at
    `step_epochs`; constant stays."""
    min_lr: float = 1e-6
    """Learning rate at the end of cosine, poly and linear."""
    power: float = 0.9
    """Exponent of poly."""
    step_epochs: tuple[int, ...] = ()
    """Epochs, counted from 0, with which the rate of schedule step falls."""
    step_factor: float = 0.1
    """What the rate is multiplied by there."""
    warmup_steps: int = 0
    """Steps over which the rate grows linearly to that of the schedule."""
    momentum: float = 0.9
    """Momentum of sgd."""
    nesterov: bool = False
    """Nesterov's momentum in sgd; like momentum of no meaning elsewhere."""
    weight_decay: float = 1e-2
    """Decay of the weights."""
    decay_all: bool = False
    """True: biases and norm weights decay, too."""
    groups: dict[str, Group] = field(default_factory=dict)
    """Module of the network (rgb, flow.resnet) -> what is different there; the longest name that
    fits counts."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 switches it off."""
    clip_value: float = 0.0
    """Each number of a gradient is cut to this size; 0 switches it off."""

    def __post_init__(self) -> None:
        _positive(self, "lr", "power", "step_factor")
        _at_least_0(
            self, "min_lr", "weight_decay", "clip_norm", "clip_value", "momentum", "warmup_steps"
        )
        if any(epoch < 0 for epoch in self.step_epochs):
            raise UsageError("recipe key step_epochs: expected epochs from 0 on.")
        if self.nesterov and self.kind == "sgd" and not self.momentum:
            raise UsageError("recipe key nesterov: needs momentum above 0.")


@dataclass(frozen=True, kw_only=True)
class Validate:
    """How the weights of `best.pt` are chosen. Its scores are proxies: eval gives the figures."""

    split: str = "val"
    """val: what the manifest calls so; a data set by name; train: `held_out` training videos;
    none. The test split is taken only where it is named here."""
    held_out: float = 0.1
    """Share of the training videos, at least one a data set, that split train keeps for it."""
    metric: Literal["j", "f_boundary", "s", "f_adaptive", "mae"] = "j"
    """What is compared: the highest counts, of mae the lowest."""
    every: int = 1
    """Epochs between two validations; the last epoch always has one."""

    def __post_init__(self) -> None:
        _positive(self, "every")
        if not 0 < self.held_out < 1:
            raise UsageError("recipe key held_out: expected a share between 0 and 1.")


@dataclass(frozen=True, kw_only=True)
class Maps:
    """How `vsodpipe test` makes maps of the logits of a trained network."""

    twice: Literal["mean", "first"] = "mean"
    """Frames predicted twice, as the last group is moved left to be full: mean, or the first."""
    steps: tuple[Literal["sigmoid", "min-max", "resize"], ...] = ("sigmoid", "resize")
    """What is done to the logits, in the paper's order; resize: bilinear, to the frame's size;
    min-max: each map is stretched to 0..1."""
    aligned: bool = False
    """Corners are aligned where a map is resized."""

    def __post_init__(self) -> None:
        if "".join(step[0] for step in self.steps) not in ("sr", "rs", "smr", "srm", "rsm"):
            raise UsageError(
                "recipe key steps: expected sigmoid and resize, each once, and min-max anywhere "
                f"after sigmoid, got {', '.join(self.steps) or 'none'}."
            )


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of training, complete: `vsodpipe train MODEL --stage NAME` runs exactly this."""

    name: str
    """Name on the command line."""
    network: Any
    """Constructor options of the network: a frozen dataclass of the model's file."""
    data: Data
    """Which frames make a sample and how large they are."""
    augment: Augment = Augment()
    """Random changes of a sample, in the order of the keys."""
    optim: Optim = Optim()
    """Optimiser, parameter groups, schedule, clipping."""
    validate: Validate = Validate()
    """What decides which weights are the best."""
    maps: Maps = Maps()
    """How the trained network is tested."""
    epochs: int = 1
    """Passes over the data."""
    batch: int = 1
    """Samples (clips) in a step, over all processes together."""
    accumulate: int = 1
    """Parts of a batch that go through the network one after another, to save memory."""
    steps_per_epoch: int = 0
    """Cap on the steps of an epoch, a seeded random part of the samples; 0 takes all."""
    scales: tuple[float, ...] = (1.0,)
    """Factors on `data.size`, rounded to multiples of 32."""
    scale_rule: Literal["each", "draw"] = "each"
    """each: a batch takes an optimiser step at every scale, in this order; draw: at one of them."""
    scale_filter: Literal["bilinear", "aligned", "bicubic"] = "bilinear"
    """How a batch is resized; aligned: bilinear with aligned corners. None is antialiased."""
    relabel_from: int | None = None
    """Epoch, counted from 0, from which the label of a frame is replaced, after each step, by what
    the network said of it; none: never. The files stay as they are."""
    loss_weights: dict[str, float] = field(default_factory=dict)
    """Head of the network -> factor of its loss, where it is not the network's own."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: mixed precision on CUDA (bf16, or fp16 where bf16 is missing), float32 on CPU."""
    sync_bn: bool = False
    """Batch norm measures over all processes (CUDA)."""
    unused: bool = False
    """Some parameters get no gradient: several processes have to look for them."""
    ema: float = 0.0
    """Decay a step of the averaged weights that are validated and saved; 0: no average."""
    fresh: bool = False
    """Begins from initial weights, not from those of the stage before."""
    joins: tuple[str, ...] = ()
    """Stages whose weights it begins with (else those of the stage before)."""
    transfer: str = ""
    """Function of the model's file that makes its first weights of theirs; else as they are."""
    seed: int = 0
    """Decides initial weights, order, augmentation and dropout."""

    def __post_init__(self) -> None:
        _positive(self, "epochs", "batch", "accumulate")
        _at_least_0(self, "steps_per_epoch", "seed")
        if not self.scales or min(self.scales) <= 0:
            raise UsageError("recipe key scales: expected numbers above 0, such as [0.75, 1.0].")
        if not 0 <= self.ema < 1:
            raise UsageError(f"recipe key ema: expected a decay in 0..1, got {self.ema}.")
        if self.relabel_from is not None:
            _at_least_0(self, "relabel_from")
            moved = self.augment.crop or self.augment.rotate
            if not self.data.labels or self.data.clip != 1 or moved:
                raise UsageError(
                    "recipe key relabel_from: needs labels, single frames (data.clip=1) and no "
                    "other change of place than a flip (augment.crop=0, augment.rotate=0)."
                )
        if self.joins and not self.transfer:
            raise UsageError("recipe key joins: needs transfer, which says how they are joined.")
        if self.batch % self.accumulate:
            raise UsageError(
                f"recipe key accumulate: {self.accumulate} equal parts of {self.batch} samples are "
                "not possible."
            )


def debug(stage: Stage, network: Any, optim: Optim, **data: Any) -> Stage:
    """Return a small stage made of `stage`: 40 steps on frames of DAVIS_train, to try the wiring.

    `data` are other values of its keys `data`.
    """
    small = {"datasets": ("DAVIS_train",), "size": (64, 96), **data}
    return replace(
        stage,
        name="debug",
        network=network,
        data=replace(stage.data, **small),
        optim=optim,
        epochs=1,
        batch=2,
        steps_per_epoch=40,
    )


def stage_from_dict(values: Mapping[str, Any], options: type) -> Stage:
    """Build a Stage whose `network` is the dataclass `options`, as `to_dict` wrote both."""
    network: Any = from_dict(options, values["network"], "network.")
    return from_dict(Stage, {**values, "network": network})
