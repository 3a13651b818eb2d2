"""Scores by the attributes of DAVIS (camera shake, occlusion...), from its official list.

The list is `db_info.yml` of the DAVIS download or of the DAVIS evaluation code: `sequences`, each
with a `name` and its `attributes`. It is not part of vsodpipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vsodpipe import media
from vsodpipe.errors import DataError

PLACES = ("db_info.yml", "db_info.yaml", "Annotations/db_info.yml", "data/db_info.yaml")
"""Where the list lies in the download and in the evaluation code."""
MAX_BYTES = 2**22
"""The official list has 20 kB."""


def read(path: Path) -> dict[str, tuple[str, ...]]:
    """Return video -> attributes from the list, or from the folder of a download that has it.

    Raises DataError for a file or folder without such a list.
    """
    file = path
    if path.is_dir():
        file = next((path / place for place in PLACES if (path / place).is_file()), path)
        if file == path:
            raise DataError(f"{path}: no {' or '.join(PLACES[:2])} in it. Name the file itself.")
    try:
        rows = yaml.safe_load(media.read_bytes(file, limit=MAX_BYTES))["sequences"]
        found = {_word(row["name"]): tuple(map(_word, row["attributes"])) for row in rows}
    except (yaml.YAMLError, TypeError, KeyError, ValueError, RecursionError) as error:
        raise DataError(
            f"{file}: expected the official list of DAVIS, `sequences` with `name` and "
            "`attributes`. Take db_info.yml of the download."
        ) from error
    return found


def _word(value: Any) -> str:
    """Return a scalar as text; a few lines of YAML may stand for a list of billions."""
    if not isinstance(value, str | int):
        raise TypeError("no word")
    return str(value)


def add(result: Mapping[str, Any], attributes: Mapping[str, Sequence[str]]) -> None:
    """Add to every data set of `result` that the list knows the means by attribute.

    Each is the mean over the videos that have the attribute. Raises DataError where the list knows
    some videos of a data set and not others, and where it knows none at all.
    """
    known = 0
    for method in result["methods"].values():
        for dataset, scored in method["datasets"].items():
            videos = scored["videos"]
            lacking = [video for video in videos if video not in attributes]
            if len(lacking) == len(videos):
                continue
            if lacking:
                raise DataError(f"attributes: the list has no {lacking[0]} of {dataset}.")
            known += 1
            names = sorted({name for video in videos for name in attributes[video]})
            scored["attributes"] = {
                name: _mean([row for v, row in videos.items() if name in attributes[v]])
                for name in names
            }
    if not known:
        raise DataError("attributes: the list has no video of these data sets.")


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {"videos": len(rows)}
    for key in rows[0]:
        values = [row[key] for row in rows if row.get(key) is not None]
        if key != "frames":
            made[key] = float(np.mean(values)) if values else None
    return made
