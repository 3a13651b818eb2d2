"""File trees as nested dictionaries, of folders and of archives alike, and path patterns in them.

A folder is a dictionary of what it holds by name, a file is None. Hidden files are left out, and
so is what macOS adds to its archives.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vsodpipe import media
from vsodpipe.errors import DataError

Tree = dict[str, Any]
"""Name -> Tree for a folder, None for a file."""

MAX_DEPTH = 16
"""Folders deeper than any data set's are not looked into."""


def of_folder(folder: Path) -> Tree:
    """Return the tree below `folder`, through links. Raises DataError for what cannot be read."""
    return _listed(folder, 0, frozenset())


def _listed(folder: Path, depth: int, above: frozenset[str]) -> Tree:
    real = os.path.realpath(folder)
    if depth > MAX_DEPTH or real in above:  # a link to a folder above
        return {}
    found: Tree = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _ignored(entry.name):
                    continue
                below = None
                if _is_folder(entry):
                    below = _listed(Path(entry.path), depth + 1, above | {real})
                found[entry.name] = below
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}. Check the path.") from error
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself is as good as one to nothing
            return False
        raise DataError(f"{entry.path}: cannot be read: {error.strerror}. Check it.") from error


def of_names(names: Iterable[str]) -> Tree:
    """Return the tree of an archive's files, given by their paths with forward slashes."""
    found: Tree = {}
    for name in names:
        *folders, file = name.split("/")
        if any(map(_ignored, (*folders, file))):
            continue
        node = found
        for part in folders:
            below = node.setdefault(part, {})
            if below is None:
                raise DataError(f"{name}: {part} is a file and a folder. Get the archive anew.")
            node = below
        node[file] = None
    return found


def _ignored(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def folder_at(tree: Tree, path: str) -> Tree | None:
    """Return the folder at `path` (an empty one is the tree itself), None where there is none."""
    node: Any = tree
    for part in filter(None, path.split("/")):
        node = node.get(part) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else None


def match(tree: Tree, pattern: str, known: Mapping[str, str]) -> Iterator[tuple[Tree, str]]:
    """Yield the values of the placeholders and the path of every file that `pattern` fits.

    A placeholder that stands twice, or is `known`, has one value; `.*` at the end is any ending of
    a picture; `*` is any one folder.
    """
    yield from _below(tree, pattern.split("/"), dict(known), "")


def _below(tree: Tree, parts: list[str], bound: Tree, path: str) -> Iterator[tuple[Tree, str]]:
    part, rest = parts[0], parts[1:]
    if not set("{*") & set(part):
        names = [part] if part in tree else []
    else:
        names = sorted(tree, key=media.natural_key)
    regex = _regex(part, bound)
    for name in names:
        node = tree[name]
        if isinstance(node, dict) != bool(rest):
            continue
        found = regex.fullmatch(name)
        if not found or (part.endswith(".*") and not _is_picture(name)):
            continue
        values = {**bound, **found.groupdict()}
        if rest:
            yield from _below(node, rest, values, f"{path}{name}/")
        else:
            yield values, path + name


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in media.IMAGE_SUFFIXES


def _regex(part: str, bound: Mapping[str, str]) -> re.Pattern[str]:
    """Return the regular expression of one part of a pattern; endings in any case of letters."""
    stem, dot, suffix = part.rpartition(".")
    if part.endswith(".*"):
        ending = r"\.[^./]+"
    elif dot and "}" not in suffix:
        ending = rf"\.(?i:{re.escape(suffix)})"
    else:
        stem, ending = part, ""
    pieces = []
    for piece in re.split(r"(\{\w+\}|\*)", stem):
        name = piece[1:-1]
        if piece == "*":
            pieces.append("[^/]*")
        elif piece.startswith("{"):
            pieces.append(re.escape(bound[name]) if name in bound else f"(?P<{name}>[^/]+)")
        else:
            pieces.append(re.escape(piece))
    return re.compile("".join(pieces) + ending)
