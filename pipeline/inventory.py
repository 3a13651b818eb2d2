"""The data root held against the cards: what is present, missing, incomplete; cards as a table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vsodpipe import card as known
from vsodpipe import catalogue, import_record
from vsodpipe.card import Card, Split
from vsodpipe.errors import DataError


@dataclass(frozen=True)
class State:
    """One split of a card, or a data set without a card, in the data root."""

    dataset: str
    card: str | None
    state: str
    """present, missing or incomplete."""
    videos: int
    """Videos found; 0 for still pictures."""
    frames: int
    masks: int
    expected_videos: int | None
    expected_frames: int | None
    problem: str | None = None
    """What is incomplete, in words."""


def states(root: Path, only: str | None = None) -> list[State]:
    """Return the state of every split of every card (or of card `only`), then of other data sets
    (or of data set `only`).

    Folders are listed and no file is opened; the first frame of every video must exist.
    """
    cards = known.cards(root)
    found = [
        _state(root, card.dataset(name), card, split)
        for card in cards.values()
        if only in (None, card.key)
        for name, split in card.splits.items()
    ]
    names = {state.dataset for state in found} | {card.name for card in cards.values()}
    if only not in cards:
        own = [name for name in catalogue.present(root) if name not in names]
        found += [_state(root, name, None, Split()) for name in own if only in (None, name)]
    return found


def _state(root: Path, dataset: str, card: Card | None, split: Split) -> State:
    key = card.key if card else None
    is_image = card is not None and card.kind == "image"
    videos = None if is_image else split.count
    frames, masks_of_all = split.count if is_image else split.frames, split.masks
    if not (root / dataset).is_dir():
        return State(dataset, key, "missing", 0, 0, 0, videos, frames)
    try:
        stride = import_record.stride(root / dataset)
        if card is not None and stride not in (None, card.step):
            frames, masks_of_all = _frames_of(split, card, stride or 1), None
        held = catalogue.find(dataset, root).videos
    except DataError as error:
        return State(dataset, key, "incomplete", 0, 0, 0, videos, frames, str(error))
    there = [frame for video in held for frame in video.frames]
    masks = sum(frame.gt is not None for frame in there)
    count = 0 if is_image else len(held)
    problem = None
    if gone := [v.name for v in held if not v.frames[0].img.exists()]:
        problem = f"{len(gone)} links lead nowhere (first: {gone[0]})"
    elif lacking := [name for name in split.videos if name not in {v.name for v in held}]:
        problem = f"{len(lacking)} of {len(split.videos)} videos are missing"
    elif videos is not None and count < videos:
        problem = f"{videos - count} of {videos} videos are missing"
    elif frames is not None and len(there) < frames:
        problem = f"{frames - len(there)} of {frames} frames are missing"
    elif masks_of_all is not None and masks < masks_of_all:
        problem = f"{masks_of_all - masks} of {masks_of_all} masks are missing"
    state = "incomplete" if problem else "present"
    return State(dataset, key, state, count, len(there), masks, videos, frames, problem)


def _frames_of(split: Split, card: Card, stride: int) -> int | None:
    """Return the frames to expect of videos whose every `stride`-th frame was imported."""
    counts = [n for n in split.videos.values() if n is not None]
    are_known = card.step == 1 and counts and len(counts) == len(split.videos)
    return sum(-(-n // stride) for n in counts) if are_known else None


def describe_own(name: str, root: Path) -> str:
    """Return what was found of a data set without a card, for a person to read."""
    state = _state(root, name, None, Split())
    problem = f" ({state.problem})" if state.problem else ""
    return (
        f"{root / name}: no card, {state.state}: {state.videos} videos, {state.frames} frames, "
        f"{state.masks} masks{problem}"
    )


def describe(card: Card, root: Path) -> str:
    """Return all that is known of a card and what was found of it, for a person to read."""
    lines = [f"{card.key}: {card.title}", f"  home        {card.home}"]
    rows = {
        "download": card.download,
        "terms": card.terms or "not known here: see its home",
        "cite": card.citation or "not known here: see its home",
        "kind": ", ".join((f"{card.kind}s", *card.auxiliary)),
        "masks": card.annotation,
        "mask rule": ", ".join(dict.fromkeys(raw.mask for raw in card.layouts)),
        "card": _private(card),
        "frame step": None if card.step == 1 else f"{card.step} (import --stride)",
        "protocol": card.protocol,
    }
    lines += [f"  {name:<11} {text}" for name, text in rows.items() if text]
    lines.append(f"  import      vsodpipe import {card.key} FOLDER_OR_ARCHIVE")
    lines.append("  folders understood, each below the split's own folder where it has one:")
    for raw in card.layouts:
        lines.append("    " + "  ".join(p for p in (raw.img, *raw.gt, raw.depth, raw.thermal) if p))
    lines.append(f"  in {root}:")
    for state in states(root, card.key):
        expected = _count(card.kind, state.expected_videos, state.expected_frames)
        found = _count(card.kind, state.videos, state.frames)
        text = "" if state.state == "missing" else f", found {found}, {state.masks} masks"
        problem = f" ({state.problem})" if state.problem else ""
        lines.append(f"    {state.dataset}: {state.state}: expected {expected}{text}{problem}")
    return "\n".join(lines)


def _private(card: Card) -> str | None:
    if card.file is None:
        return None
    return f"{card.file}{', in place of the built-in one' if card.shadows else ''}"


def _count(kind: str, videos: int | None, frames: int | None) -> str:
    if kind == "image":
        return f"{frames} pictures" if frames is not None else "a number not known here"
    if videos is None:
        return "a number not known here"
    return f"{videos} videos" + (f", {frames} frames" if frames is not None else "")


def markdown() -> str:
    """Return the table of cards in docs/datasets.md; `python -m vsodpipe.inventory` prints it."""
    lines = [
        "| card | data set | splits | masks | mask rule | terms | home |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for card in known.cards().values():
        is_image = card.kind == "image"
        splits = "<br>".join(
            f"{card.dataset(name)}: "
            + _count(card.kind, None if is_image else s.count, s.count if is_image else s.frames)
            for name, s in card.splits.items()
        )
        rules = ", ".join(dict.fromkeys(raw.mask for raw in card.layouts))
        inputs = "".join(f" + {kind}" for kind in card.auxiliary)
        cells = (card.key, card.title + inputs, splits, card.annotation, rules)
        lines.append("| " + " | ".join((*cells, card.terms or "", card.home)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
