"""Cards: what is known of a data set that has a name, one TOML file each in `vsodpipe.cards`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from vsodpipe.errors import DataError

KINDS = ("video", "image")
RULES = ("objects", "soft", "half", "maximum", "union", "lossy", "fbms")
"""The mask rules; `masks.py` says what each does."""


@dataclass(frozen=True, slots=True)
class Raw:
    """One layout of the official download: patterns of paths below a split's folder.

    `{frame}` is the stem of a picture, `{object}` the folder of one of its objects; every other
    placeholder is a part of the video's name, `{root}` the name of the split's folder. `.*` is any
    ending of a picture, `*` any one folder.
    """

    img: str
    gt: tuple[str, ...] = ()
    depth: str | None = None
    thermal: str | None = None
    mask: str = "objects"


@dataclass(frozen=True, slots=True)
class Split:
    """A split: where it lies in the download, and what is expected of it where that is known."""

    lists: tuple[str, ...] = ()
    """Files of the download that list its videos; the first that is there counts."""
    roots: tuple[str, ...] = ("",)
    """Folders that hold the split; an empty one is the base, shared by all splits."""
    videos: Mapping[str, int | None] = field(default_factory=dict)
    """The videos by name, with their frames where these are known."""
    count: int | None = None
    """Number of videos, or of pictures for a set of still pictures."""
    frames: int | None = None
    masks: int | None = None
    exclude: tuple[str, ...] = ()
    unsure: bool = False
    """Whether `count` is a figure in circulation that other packages may differ from."""


@dataclass(frozen=True, slots=True)
class Card:
    """What is known of a data set; what is None or empty is not known to us."""

    key: str
    name: str
    title: str
    home: str
    layouts: tuple[Raw, ...]
    splits: dict[str, Split]
    download: str | None = None
    terms: str | None = None
    citation: str | None = None
    kind: str = "video"
    annotation: str = "dense"
    """`dense`, or in words which frames have a mask."""
    protocol: str | None = None
    step: int = 1
    """Distance of the frame numbers that are imported unless another stride is asked for."""
    folders: tuple[str, ...] = ()
    """Other names of the folder that the download unpacks to."""
    pattern: str | None = None
    """What names of videos look like, for sets whose names are not listed."""
    masked_only: bool = False
    """Whether videos without any mask are no part of the data set."""
    rename: Mapping[str, str] = field(default_factory=dict)
    """Regular expressions of video names in re-packed copies, and the official names."""

    def dataset(self, split: str) -> str:
        """Return the name of the folder in the data root, such as DAVIS_train."""
        return f"{self.name}_{split}"

    def official(self, video: str) -> str:
        """Return the official name of a video of a re-packed copy."""
        for pattern, name in self.rename.items():
            if found := re.fullmatch(pattern, video):
                return found.expand(name)
        return video

    def names(self) -> set[str]:
        """Return the videos of all splits, as far as they are listed."""
        return {video for split in self.splits.values() for video in split.videos}

    @property
    def auxiliary(self) -> tuple[str, ...]:
        """The inputs beside the pictures: depth, thermal."""
        kinds = ("depth", "thermal")
        return tuple(k for k in kinds if any(getattr(raw, k) for raw in self.layouts))


def parse(key: str, text: str, place: str) -> Card:
    """Return the card in the TOML `text`. Raises DataError, naming `place`, for one that is none.

    A split's `videos` are a table of names with their frames, or a list of names alone.
    """
    try:
        values: dict[str, Any] = tomllib.loads(text)
        layouts = tuple(_raw(raw) for raw in values.pop("layouts"))
        splits = {name: _split(split) for name, split in values.pop("splits").items()}
        values["folders"] = tuple(values.get("folders", ()))
        made = Card(key=key, layouts=layouts, splits=splits, **values)
    except (tomllib.TOMLDecodeError, TypeError, KeyError, AttributeError, ValueError) as error:
        raise DataError(f"{place}: not a card of a data set ({error}). Mend the file.") from error
    if made.kind not in KINDS or not layouts or not splits or made.step < 1:
        raise DataError(f"{place}: expected a kind of {KINDS}, layouts, splits and a step of 1 up.")
    for raw in layouts:
        if raw.mask not in RULES:
            raise DataError(f"{place}: mask rule {raw.mask!r} is none of {', '.join(RULES)}.")
    return made


def _raw(values: dict[str, Any]) -> Raw:
    gt = values.pop("gt", ())
    return Raw(gt=(gt,) if isinstance(gt, str) else tuple(gt), **values)


def _split(values: dict[str, Any]) -> Split:
    videos = values.pop("videos", {})
    if isinstance(videos, list):
        videos = dict.fromkeys(videos)
    count = values.pop("count", len(videos) or None)
    frames = values.pop("frames", None)
    if frames is None and videos and None not in videos.values():
        frames = sum(videos.values())
    tuples: dict[str, Any] = {
        k: tuple(values.pop(k)) for k in ("lists", "roots", "exclude") if k in values
    }
    return Split(videos=videos, count=count, frames=frames, **tuples, **values)


@cache
def cards() -> dict[str, Card]:
    """Return every known card by its key (the name of its file)."""
    found = {}
    for entry in resources.files("vsodpipe.cards").iterdir():
        key, dot, suffix = entry.name.rpartition(".")
        if suffix == "toml" and dot:
            found[key] = parse(key, entry.read_text(encoding="utf-8"), entry.name)
    return dict(sorted(found.items()))


def card_of(dataset: str) -> tuple[Card, str] | None:
    """Return the card and the split behind a data set's name, None for one without a card."""
    named = ((card, split) for card in cards().values() for split in card.splits)
    return next(((c, s) for c, s in named if c.dataset(s) == dataset), None)


def facts(card: Card) -> dict[str, Any]:
    """Return the card for a script, without what is not known."""
    return {key: value for key, value in asdict(card).items() if value not in (None, (), {})}
