"""Cards: what is known of a data set that has a name, one TOML file each in `vsodpipe.cards`.

Private cards lie in the folder `cards` of the data root.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from vsodpipe.errors import DataError, unknown

KINDS = ("video", "image")
RULES = ("objects", "soft", "half", "maximum", "union", "lossy", "fbms")
"""The mask rules; `masks.py` says what each does."""
PRIVATE = "cards"
"""The folder of the data root that holds private cards."""


@with_config(ConfigDict(extra="forbid"))
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


@with_config(ConfigDict(extra="forbid"))
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


@with_config(ConfigDict(extra="forbid"))
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
    file: Path | None = None
    """Where a private card lies; None for a built-in one."""
    shadows: bool = False
    """Whether a private card stands in the place of a built-in one."""

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


_CARD = TypeAdapter(Card)


def parse(key: str, text: str, place: str, file: Path | None = None) -> Card:
    """Return the card in the TOML `text`. Raises DataError, naming `place` and the field.

    A split's `videos` are a table of names with their frames, or a list of names alone. `file` is
    where a private card lies.
    """
    try:
        values: dict[str, Any] = tomllib.loads(text)
        for reserved in values.keys() & {"key", "file", "shadows"}:
            raise DataError(f"{place}: not a card of a data set: {reserved} is no field of a card.")
        layouts, splits = values.get("layouts", []), values.get("splits", {})
        if isinstance(layouts, list):
            values["layouts"] = [_raw(raw) for raw in layouts]
        if isinstance(splits, dict):
            values["splits"] = {name: _split(split) for name, split in splits.items()}
        made = _CARD.validate_python({**values, "key": key, "file": file})
    except ValidationError as error:
        raise DataError(f"{place}: not a card of a data set: {_fault(error)}.") from error
    except (ValueError, RecursionError) as error:  # also an int of 5000 digits
        raise DataError(f"{place}: not a card of a data set ({error}). Mend the file.") from error
    if problem := _problem(made):
        raise DataError(f"{place}: not a card of a data set: {problem}. Mend the file.")
    return made


def _raw(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    gt = values.get("gt", ())
    return {**values, "gt": (gt,) if isinstance(gt, str) else gt}


def _split(values: Any) -> Any:
    videos = values.get("videos", {}) if isinstance(values, dict) else None
    if isinstance(videos, list) and all(isinstance(name, str) for name in videos):
        videos = dict.fromkeys(videos)
    if not isinstance(videos, dict):
        return values
    count = values.get("count", len(videos) or None)
    frames = values.get("frames")
    if frames is None and videos and all(isinstance(n, int) for n in videos.values()):
        frames = sum(videos.values())
    return {**values, "videos": videos, "count": count, "frames": frames}


def _fault(error: ValidationError) -> str:
    """Return the first thing that pydantic found, with the place in the file."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(step) for step in first["loc"])
    if first["type"] == "missing":
        return f"{where} is missing"
    if first["type"] == "unexpected_keyword_argument":
        *above, field = first["loc"]
        fields = Raw if "layouts" in above else Split if "splits" in above else Card
        hint = str(unknown("field", str(field), _fields(fields)))
        return f"at {where}: {hint.rstrip('.')}"
    return f"at {where}: {first['msg']}"


def _fields(kind: type) -> list[str]:
    return [field.name for field in fields(kind) if field.name not in ("key", "file", "shadows")]


def _problem(card: Card) -> str | None:
    """Return in words what is wrong with the values of a card."""
    if card.kind not in KINDS:
        return f"kind {card.kind!r} is none of {', '.join(KINDS)}"
    if not card.layouts:
        return "layouts is missing"
    if not card.splits:
        return "splits is missing"
    if card.step < 1:
        return f"step {card.step} is below 1"
    for raw in card.layouts:
        if raw.mask not in RULES:
            return f"mask {raw.mask!r} is none of {', '.join(RULES)}"
    for split in card.splits:
        if any(mark in card.dataset(split) for mark in "/\\\0") or card.name.startswith("."):
            return f"{card.dataset(split)!r}, of name and split, is no name of a folder"
    for name, pattern in (("pattern", card.pattern or ""), *(("rename", p) for p in card.rename)):
        try:
            re.compile(pattern)
        except re.error as error:
            return f"{name} {pattern!r} is no regular expression ({error})"
    if wrong := next((n for n in card.rename.values() if "/" in n or n.startswith(".")), None):
        return f"rename {wrong!r} is no name of a folder"
    return None


@cache
def _built_in() -> dict[str, tuple[Card, str]]:
    """Return the cards of the package, with their text."""
    found = {}
    for entry in resources.files("vsodpipe.cards").iterdir():
        key, dot, suffix = entry.name.rpartition(".")
        if suffix == "toml" and dot:
            text = entry.read_text(encoding="utf-8")
            found[key] = parse(key, text, entry.name), text
    return dict(sorted(found.items()))


def cards(root: Path | None = None) -> dict[str, Card]:
    """Return every known card by its key (the name of its file), private ones of `root` too.

    Private cards lie in `root`/cards. One of a built-in's name stands in its place and `shadows`
    it. Raises DataError for a file that is no card, and for two cards of one data set.
    """
    found = {key: card for key, (card, _) in _built_in().items()}
    private = []
    for file in sorted(root.glob(f"{PRIVATE}/*.toml")) if root is not None else ():
        text = _text(file)
        shadowed = _built_in().get(file.stem)
        if shadowed is None or shadowed[1] != text:  # a checkout's data root holds the built-in
            card = parse(file.stem, text, str(file), file)
            found[file.stem] = replace(card, shadows=shadowed is not None)
            private.append(found[file.stem])
    for card in private:
        own = {card.dataset(split) for split in card.splits}
        for other in found.values():
            if other is not card and (
                twice := own & {other.dataset(split) for split in other.splits}
            ):
                raise DataError(
                    f"{card.file}: {min(twice)} is a data set of card {other.key} too. "
                    "Choose another name."
                )
    return dict(sorted(found.items()))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise DataError(f"{file}: a card that cannot be read: {reason}. Mend the file.") from error


def card_of(dataset: str, root: Path | None = None) -> tuple[Card, str] | None:
    """Return the card and the split behind a data set's name, None for one without a card."""
    return owner(dataset, cards(root))


def owner(dataset: str, known: Mapping[str, Card]) -> tuple[Card, str] | None:
    """Return the card among the `known` ones, and the split, behind a data set's name."""
    named = ((card, split) for card in known.values() for split in card.splits)
    return next(((c, s) for c, s in named if c.dataset(s) == dataset), None)


def facts(card: Card) -> dict[str, Any]:
    """Return the card for a script, without what is not known."""
    return {key: value for key, value in asdict(card).items() if value not in (None, (), {})}
