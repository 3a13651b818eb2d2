"""What the text of a manifest may hold: JSON without traps, names and paths safe to use and print.

A manifest may come from anyone. What is refused here is refused before anything of it is used.
"""

from __future__ import annotations

import json
import re
from typing import Any

MAX_BYTES = 2**29
"""Larger manifests are refused (about 2.5 million rows): write one for each data set."""
MAX_KEYS = 1000
"""Keys of one object; the objects of a manifest have five, a record of flow some twenty."""
MAX_NAME = 255
MAX_PATH = 4096
"""Characters, as file systems have it."""

# values lie at least so far apart: `[[],[],...` would take forty times its size in memory
_SIGNS_PER_VALUE = 6
_SMALL = 2**20


def shown(text: str, most: int = 80) -> str:
    """Return foreign text as it may be printed: quoted, escaped and no longer than `most`."""
    return repr(text if len(text) <= most else text[: most - 3] + "...")


def parse(text: str) -> Any:
    """Return the value of the JSON in `text`.

    Raises ValueError (or RecursionError) for text that is none, for keys that are there twice, for
    numbers that are none, and for what only looks like a manifest and would fill the memory.
    """
    if not text or text.isspace():
        raise ValueError("it is empty")
    values = sum(text.count(mark) for mark in ",[{")
    if len(text) > _SMALL and values * _SIGNS_PER_VALUE > len(text):
        raise ValueError(f"{values} values in {len(text)} characters are no list of files")
    return json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_KEYS:
        raise ValueError(f"an object of {len(pairs)} keys")
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"key {shown(twice)} is there twice in one object")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def plain(text: str) -> str:
    """Return `text` if it is UTF-8 on one line. Raises ValueError otherwise, or if it is long."""
    if len(text) > MAX_PATH:
        raise ValueError(f"{shown(text)} has {len(text)} characters, the limit is {MAX_PATH}")
    if not text.isprintable():
        # file names of other encodings arrive with surrogates, which no JSON can hold
        if re.search("[\0\ud800-\udfff]", text):
            raise ValueError(f"{shown(text)} is not UTF-8 text")
        if re.search("[\x01-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", text):
            raise ValueError(f"{shown(text)} holds control characters")
    return text


def inside(path: str) -> str:
    """Return `path` if, as text, it stays inside the root it starts from. Raises ValueError."""
    parts = path.split("/")
    nowhere = not parts[0] or not path.strip("./")
    if nowhere or ".." in parts or ":" in parts[0] or "\\" in path:
        raise ValueError(f"path {shown(path)} leaves the manifest's root")
    return path


def one_part(name: str) -> str:
    """Return `name` if it is one part of a path. Raises ValueError."""
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise ValueError(f"name {shown(name)} is not one part of a path")
    if len(name) > MAX_NAME:
        raise ValueError(f"name {shown(name)} has {len(name)} characters, the limit is {MAX_NAME}")
    return name
