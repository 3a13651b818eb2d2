"""Where the videos of a card lie in a download, and whether it is the data set its name says.

Works on names alone, so that an archive is judged before it is unpacked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from vsodpipe import media, tree
from vsodpipe.card import Card, Raw, Split
from vsodpipe.errors import DataError
from vsodpipe.tree import Tree

Files = dict[str, tuple[str, ...]]
"""Stem of a picture -> its files, relative to the source."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a download holds of one split: files by kind (img, gt, depth, thermal) and video."""

    base: str
    """The folder of the source that holds the data set."""
    raw: Raw
    videos: dict[str, dict[str, Files]]
    """Video -> kind -> files. A set of still pictures is one video without a name."""
    shared: bool
    """Whether the other splits lie in the same folder: then only listed videos are its own."""
    left: tuple[str, ...] = ()
    """Videos that are no part of the data set: excluded by the card, or without any mask."""
    named: bool = False
    """Whether a folder of the split's name holds it."""
    listed: str | None = None
    """The list of videos in the download, relative to the source."""

    def pictures(self) -> int:
        """Return the number of frames of all videos."""
        return sum(len(kinds["img"]) for kinds in self.videos.values())


def splits(card: Card, source: Tree, name: str) -> dict[str, Found]:
    """Return what `source`, a folder or archive called `name`, holds of every split of `card`."""
    for base in _bases(card, source):
        found = {key: _split(card, split, source, base, name) for key, split in card.splits.items()}
        held = {key: split for key, split in found.items() if split}
        # a split with a folder of its own says more than what merely lies in the base
        own = {key: split for key, split in held.items() if not split.shared}
        if held:
            return own or held
    return {}


def _bases(card: Card, source: Tree) -> Iterator[str]:
    """Yield the folders to look in: the source, one of the card's name, the one inside the other"""
    yield ""
    path, node = "", source
    for _ in range(4):
        folders = [name for name, below in node.items() if isinstance(below, dict)]
        known = {name.lower() for name in (card.name, *card.folders)}
        named = [name for name in folders if name.lower() in known]
        if not named and len(folders) != 1:
            return
        step = named[0] if named else folders[0]
        path, node = f"{path}{step}/", node[step]
        yield path


def _split(card: Card, split: Split, source: Tree, base: str, name: str) -> Found | None:
    listed = next((base + e for e in split.lists if _is_file(source, base + e)), None)
    for root in split.roots:
        last = root.rpartition("/")[2]
        # the split's own folder may be named itself
        own = root and last == (base.rstrip("/").rpartition("/")[2] or name)
        for path in (f"{base}{root}/" if root else base, *([base] if own else [])):
            if best := _best(card, split, source, path, last or card.name):
                raw, whole = best
                videos = {v: kinds for v, kinds in whole.items() if _counts(card, split, v, kinds)}
                left = tuple(video for video in whole if video not in videos)
                shared = not root and len(card.splits) > 1 and card.kind == "video"
                return Found(base, raw, videos, shared, left, bool(root), listed)
    return None


def _best(
    card: Card, split: Split, source: Tree, path: str, root: str
) -> tuple[Raw, dict[str, dict[str, Files]]] | None:
    """Return the first layout in the folder at `path` that has frames and masks, else frames."""
    folder = tree.folder_at(source, path)
    bare = None
    for raw in card.layouts if folder else ():
        videos = _videos(card, raw, folder or {}, path, root)
        own = [kinds for video, kinds in videos.items() if _counts(card, split, video, kinds)]
        if any(kinds["gt"] for kinds in own):
            return raw, videos
        if own and bare is None:
            bare = raw, videos
    return bare


def _is_file(source: Tree, path: str) -> bool:
    folder, _, file = path.rpartition("/")
    return (tree.folder_at(source, folder) or {}).get(file, {}) is None


def _videos(
    card: Card, raw: Raw, folder: Tree, path: str, root: str
) -> dict[str, dict[str, Files]]:
    patterns = {"img": (raw.img,), "gt": raw.gt}
    patterns |= {k: (p,) for k in ("depth", "thermal") if (p := getattr(raw, k))}
    found: dict[str, dict[str, Files]] = {}
    for kind, several in patterns.items():
        for pattern in several:
            for values, file in tree.match(folder, pattern, {"root": root}):
                parts = [v for k, v in values.items() if k not in ("frame", "object", "root")]
                video = card.official("_".join(parts))
                if kind != "img" and video not in found:
                    continue
                files = found.setdefault(video, {k: {} for k in patterns})[kind]
                stem = values.get("frame", "")
                files[stem] = (*files.get(stem, ()), path + file)
    return found


def _counts(card: Card, split: Split, video: str, kinds: dict[str, Files]) -> bool:
    """Return whether a video is a part of the split; still pictures without masks are none."""
    masked = card.masked_only or card.kind == "image"
    return video not in split.exclude and bool(kinds["gt"] or not masked)


def chosen(card: Card, key: str, found: Found, names: list[str] | None) -> Found:
    """Return `found` with the videos that are the split's own: those of the list of `names`, else
    those of the card where its splits share a folder, else all."""
    if names is None:
        if not found.shared:
            return found
        names = list(card.splits[key].videos)
    return replace(found, videos={v: found.videos[v] for v in names if v in found.videos})


def check(
    card: Card,
    found: dict[str, Found],
    source: Tree,
    name: str,
    place: str,
    cards: Iterable[Card],
) -> None:
    """Raise DataError where the download is another data set than `card`, naming which of `cards`
    it fits.

    Listed names decide, else what names of the card look like, else the number of pictures. A
    download without the lists of its splits is held against the names of all of them.
    """
    others = [other for other in cards if other is not card]
    if not any(found.values()):
        fits = fitting(source, name, others)
        got = f"Unpack {card.download} from {card.home}" if card.download else f"See {card.home}"
        hint = f"It fits {_either(fits, place)}." if fits else f"{got} and name its folder."
        wanted = [e for s in card.splits.values() for e in s.lists] or [
            f"{root}/{raw.img}".lstrip("/") for raw in card.layouts for root in _roots(card)
        ]
        more = f" and {len(wanted) - 4} more" if len(wanted) > 4 else ""
        raise DataError(
            f"{place}: not the official {card.name} folder: none of {', '.join(wanted[:4])}{more} "
            f"is there. {hint}"
        )
    for key, split in found.items():
        label = split.base.rstrip("/").rpartition("/")[2] or name
        if problem := _other(card, key, split, others) or _named_otherwise(card, label, others):
            words, fits = problem
            hint = f"They fit {_either(fits, place)}." if fits else "Check what was downloaded."
            raise DataError(f"{place}: not {card.dataset(key)}: {words}. {hint}")


def _named_otherwise(
    card: Card, label: str, others: Sequence[Card]
) -> tuple[str, list[str]] | None:
    """Return what still pictures, which have no names to go by, are by the name of their folder."""
    if card.kind != "image" or label.lower() in _labels(card):
        return None
    fits = [c.key for c in others if c.kind == "image" and label.lower() in _labels(c)]
    return (f"its folder is called {label}", fits) if fits else None


def _labels(card: Card) -> set[str]:
    roots = (root.rpartition("/")[2] for root in _roots(card) if root)
    return {name.lower() for name in (card.name, *card.folders, *roots)}


def _roots(card: Card) -> list[str]:
    return list(dict.fromkeys(root for split in card.splits.values() for root in split.roots))


def _either(fits: list[str], place: str) -> str:
    return f"{' or '.join(fits)}: vsodpipe import {fits[0].split(' ')[0]} {place}"


def fitting(source: Tree, name: str, cards: Iterable[Card]) -> list[str]:
    """Return the keys of the `cards` whose download a folder called `name` may be."""
    return [card.key for card in cards if _is_it(card, source, name)]


def _is_it(card: Card, source: Tree, name: str) -> bool:
    found = splits(card, source, name)
    if card.kind == "video":
        return bool(found) and not any(_other(card, k, f, None) for k, f in found.items())
    # folders of pictures are called alike everywhere: only name and number tell them apart
    return any(f.named or f.pictures() == card.splits[k].count for k, f in found.items())


def _other(
    card: Card, key: str, found: Found, others: Sequence[Card] | None
) -> tuple[str, list[str]] | None:
    """Return why `found` is not this split, in words, and what fits; None where it may be it.

    Without `others` only this card's own names judge.
    """
    split = card.splits[key]
    if card.kind == "image":
        return _other_pictures(card, key, found.pictures(), others) if others else None
    names = set(found.videos)
    known = card.names() if found.shared or found.listed else set(split.videos)
    if known:
        own = len(names & known) / len(names)
    elif card.pattern:
        own = sum(bool(re.fullmatch(card.pattern, name)) for name in names) / len(names)
    else:
        own = 1.0
    if others is None:
        return ("", []) if own < 0.5 else None
    shares = {
        (other.key, k): len(names & s.videos.keys()) / len(names)
        for other in (card, *others)
        for k, s in other.splits.items()
        if s.videos and not (other is card and (found.shared or found.listed or k == key))
    }
    best = max(shares.values(), default=0.0)
    # listed names outweigh what a name merely looks like
    if best >= 0.5 and (best > own or not known):
        fits = [f"{other} (split {k})" for (other, k), share in shares.items() if share == best]
        return f"{round(best * len(names))} of its {len(names)} videos are another's", fits
    if own == 0:
        like = {
            c.key
            for c in others
            if c.pattern and not c.names() and all(re.fullmatch(c.pattern, n) for n in names)
        }
        few = ", ".join(sorted(names, key=media.natural_key)[:3])
        return f"none of its {len(names)} videos ({few}) is one of the data set's", sorted(like)
    return None


def _other_pictures(
    card: Card, key: str, count: int, others: Sequence[Card]
) -> tuple[str, list[str]] | None:
    if count == card.splits[key].count or card.splits[key].unsure:
        return None
    fits = [
        f"{other.key} (split {k})"
        for other in (card, *others)
        for k, split in other.splits.items()
        if other.kind == "image"
        and split.count == count
        and not split.unsure
        and other.auxiliary == card.auxiliary
    ]
    return (
        (f"it holds {count} pictures instead of {card.splits[key].count}", fits) if fits else None
    )
