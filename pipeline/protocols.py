"""Evaluation protocols by name: which frames count, how values are averaged, what heads the table.

    protocol = protocols.get("davsod")            # or protocols.of("DAVSOD_easy35"), from its card

Section numbers are those of the evaluation specification; docs/evaluation.md has the words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from vsodpipe import card
from vsodpipe.errors import UsageError, unknown

Frames = Literal["trim", "all", "non-empty"]
Average = Literal["frame", "video", "class"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a result: its key there, its heading in tables, and which way is better."""

    key: str
    heading: str
    less: bool = False
    """Whether less is better."""
    latex: str = ""
    """Heading in LaTeX, where it is not the plain one."""


METRICS: Mapping[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric("jf", "J&F", latex=r"$\mathcal{J}\&\mathcal{F}$"),
        Metric("j_mean", "J", latex=r"$\mathcal{J}$"),
        Metric("j_recall", "J rec", latex=r"$\mathcal{J}$ rec"),
        Metric("j_decay", "J dec", less=True, latex=r"$\mathcal{J}$ dec"),
        Metric("f_mean", "F", latex=r"$\mathcal{F}$"),
        Metric("f_recall", "F rec", latex=r"$\mathcal{F}$ rec"),
        Metric("f_decay", "F dec", less=True, latex=r"$\mathcal{F}$ dec"),
        Metric("t", "T", less=True, latex=r"$\mathcal{T}$"),
        Metric("s_measure", "S", latex=r"$S_\alpha$"),
        Metric("max_f", "max F", latex=r"$F_\beta^{\max}$"),
        Metric("mean_f", "mean F", latex=r"$F_\beta^{\mathrm{mean}}$"),
        Metric("adaptive_f", "adp F", latex=r"$F_\beta^{\mathrm{adp}}$"),
        Metric("max_e", "max E", latex=r"$E_\xi^{\max}$"),
        Metric("mean_e", "mean E", latex=r"$E_\xi^{\mathrm{mean}}$"),
        Metric("adaptive_e", "adp E", latex=r"$E_\xi^{\mathrm{adp}}$"),
        Metric("weighted_f", "wF", latex=r"$F_\beta^w$"),
        Metric("mae", "MAE", less=True, latex=r"$\mathcal{M}$"),
        Metric("a2s_mean_f", "mean F", latex=r"$F_\beta$"),
        Metric("a2s_max_f", "max F", latex=r"$F_\beta^{\max}$"),
        Metric("a2s_e", "E", latex=r"$E_\xi$"),
        Metric("a2s_s", "S", latex=r"$S_\alpha$"),
        Metric("a2s_weighted_f", "wF", latex=r"$F_\beta^w$"),
        Metric("a2s_mae", "MAE", less=True, latex=r"$\mathcal{M}$"),
    )
}
"""Every number of a result by its key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """Which frames count and how values are averaged; written into every result."""

    name: str
    used_by: str
    headline: tuple[str, ...]
    """Keys of METRICS in the order of its tables; a result holds the others as well."""
    frames: Frames
    """trim: without the first and last annotated frame of a video. non-empty: those whose mask has
    foreground; videos without any are skipped."""
    average: Average
    """frame: over all frames of the data set. video: per video, then over videos. class: per video,
    then over the videos of a class, then over classes."""
    saliency: str = "each map stretched to 0..1 by its own minimum and maximum"
    threshold: str = "J and boundary F: 8-bit value >= 128, not stretched"
    curves: str = "256 thresholds, >=; averaged first, then maximum and mean"
    sizes: Literal["refused", "bilinear"] = "refused"
    """What happens to a map of another size than its mask: an error, or resized in memory."""
    flavour: Literal["pysod", "a2s"] = "pysod"
    """a2s: the numbers `a2s_*`, as the published A2S-v2 script defines them, come on top."""
    stability: bool = False
    """Whether temporal stability T is defined."""
    unstable: tuple[str, ...] = ()
    """Videos that T leaves out."""

    def defines(self, metric: Metric) -> bool:
        """Return whether results have this number: T and those of A2S-v2 are not everywhere."""
        if metric.key.startswith("a2s_"):
            return self.flavour == "a2s"
        return self.stability or metric.key != "t"

    def facts(self) -> dict[str, Any]:
        """Return what a result says of its protocol."""
        return asdict(self)


# Occluded or complex, by the 2016 evaluation code (section 2.6): 13 of train, 10 of val.
_UNSTABLE = (
    "bmx-bumps",
    "bmx-trees",
    "breakdance",
    "breakdance-flare",
    "dance-twirl",
    "dog",
    "dog-agility",
    "drift-chicane",
    "goat",
    "horsejump-high",
    "horsejump-low",
    "libby",
    "lucia",
    "mallard-fly",
    "motocross-jump",
    "motorbike",
    "paragliding",
    "parkour",
    "rollerblade",
    "scooter-gray",
    "soccerball",
    "swing",
    "tennis",
)
_DAVIS = ("jf", "j_mean", "j_recall", "j_decay", "f_mean", "f_recall", "f_decay")
_SALIENCY = ("s_measure", "max_f", "mean_f", "adaptive_f", "max_e", "mean_e", "adaptive_e")

PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="davis16",
            used_by="DAVIS-2016 code; DBSNet, DPA and TMO on DAVIS",
            headline=(*_DAVIS, "t"),
            frames="trim",
            average="video",
            stability=True,
            unstable=_UNSTABLE,
        ),
        Protocol(
            name="davsod",
            used_by="DAVSOD toolbox; IANet, SMCF, FSNet; DBSNet on DAVSOD and MCL",
            headline=(*_SALIENCY, "mae"),
            frames="trim",
            average="video",
        ),
        Protocol(
            name="pysod",
            used_by="PySODMetrics fed with every frame",
            headline=(*_SALIENCY, "weighted_f", "mae"),
            frames="all",
            average="frame",
        ),
        Protocol(
            name="a2s",
            used_by="A2S-v2, stills and video",
            headline=(
                "a2s_mean_f",
                "a2s_e",
                "a2s_mae",
                "a2s_max_f",
                "a2s_s",
                "a2s_weighted_f",
            ),
            frames="all",
            average="frame",
            saliency="a2s_*: 8-bit value / 255 as it is; the others: each map stretched to 0..1",
            flavour="a2s",
        ),
        Protocol(
            name="fbms",
            used_by="DPA and DBSNet on FBMS: every labelled frame, an empty pair counts 1",
            headline=("j_mean", "f_mean", "jf"),
            frames="all",
            average="video",
        ),
        Protocol(
            name="ytobj",
            used_by="YouTube-Objects: mean over the classes",
            headline=("j_mean",),
            frames="non-empty",
            average="class",
        ),
        Protocol(
            name="tmo",
            used_by="TMO on FBMS, YouTube-Objects and Long-Videos",
            headline=("j_mean",),
            frames="non-empty",
            average="video",
        ),
    )
}
"""Every protocol by its name."""

WITHOUT_CARD = "davis16"
"""The protocol of data sets that no card describes."""


def get(name: str) -> Protocol:
    """Return the protocol of that name. Raises UsageError with the known ones."""
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def of(dataset: str, root: Path | None = None) -> Protocol:
    """Return the protocol that the data set's card names, `davis16` where there is no card.

    Private cards are those of `root`. Raises UsageError for a card of an unknown protocol.
    """
    found = card.card_of(dataset, root)
    name = found[0].protocol or WITHOUT_CARD if found else WITHOUT_CARD
    if found and name not in PROTOCOLS:
        raise unknown(f"protocol in {found[0].file}:", name, PROTOCOLS)
    return get(name)


def frames_rule(text: str) -> Frames:
    """Return `text` as a rule of frames. Raises UsageError for none."""
    rules: tuple[Frames, ...] = get_args(Frames)
    for rule in rules:
        if text == rule:
            return rule
    raise unknown("value of --frames:", text, get_args(Frames))


def metric(name: str) -> Metric:
    """Return the metric of a key or heading, such as `max_f` or `max F`. Raises UsageError."""
    wanted = name.lower()
    for key, found in METRICS.items():
        if wanted in (key, found.heading.lower()):
            return found
    raise unknown("metric", name, METRICS)


def class_of(video: str) -> str:
    """Return the class of a video of YouTube-Objects: what stands before the first underscore."""
    name = video.partition("_")[0]
    if not name:
        raise UsageError(f"{video}: names no class. Use a protocol that averages over videos.")
    return name
