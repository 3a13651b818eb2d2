"""flow.json: what a folder of flow was made with, so that two kinds never mix."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vsodpipe import media
from vsodpipe.errors import DataError

FILE = "flow.json"


def make(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return `settings` with their `fingerprint`: a hash over all that decides the result."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return {**settings, "fingerprint": hashlib.sha256(text.encode()).hexdigest()[:16]}


def read(folder: Path) -> dict[str, Any] | None:
    """Return the record of a flow folder, None where there is no flow."""
    file = folder / FILE
    if not file.is_file():
        return None
    record = media.read_json(file, f"Delete {folder}.")
    try:
        return check(record)
    except ValueError as error:
        raise DataError(f"{file}: not a flow record ({error}). Delete {folder}.") from error


def beside(picture: Path) -> dict[str, Any] | None:
    """Return the record of the folder that a flow picture lies in, through a link to elsewhere."""
    # not resolve(), which raises for links that go round
    return read(picture.parent) or read(Path(os.path.realpath(picture)).parent)


def check(record: Any) -> dict[str, Any]:
    """Return `record` if it is one of flow. Raises ValueError, in words, for one that is not."""
    if not isinstance(record, dict) or not isinstance(record.get("fingerprint"), str):
        raise ValueError("no fingerprint")
    if not isinstance(record.get("engine", {}), dict):
        raise ValueError("its engine is not an object")
    return record


def dump(record: Mapping[str, Any]) -> bytes:
    """Return the bytes of a record's file."""
    return json.dumps(record, indent=1).encode() + b"\n"


def common(dataset: str, records: Mapping[str, dict[str, Any] | None]) -> dict[str, Any] | None:
    """Return the one record of all videos, None when no video has flow.

    It is without `source`, which says for each video which frames its flow was made from.
    Raises DataError naming both when two kinds of flow lie in one data set, and when only some of
    its videos have flow.
    """
    found = {video: record for video, record in records.items() if record is not None}
    if not found:
        return None
    first, record = next(iter(found.items()))
    for video, other in found.items():
        if other["fingerprint"] != record["fingerprint"]:
            raise DataError(
                f"{dataset}: two kinds of flow: {describe(record)} ({first}) and "
                f"{describe(other)} ({video}). Run: vsodpipe flow {dataset} --force."
            )
    if lacking := [video for video in records if video not in found]:
        raise DataError(
            f"{dataset}: {len(lacking)} of {len(records)} videos have no flow (first: "
            f"{lacking[0]}). Run: vsodpipe flow {dataset}."
        )
    return {key: value for key, value in record.items() if key != "source"}


def describe(record: Mapping[str, Any]) -> str:
    """Return a record in words, such as `dis preset=medium tail=backward [3f2a...]`."""
    engine = dict(record.get("engine", {}))
    name = engine.pop("engine", "unknown engine")
    settings = {**engine, **{k: v for k, v in record.items() if k not in _NOT_SETTINGS}}
    words = " ".join(f"{k}={str(v)[:12]}" for k, v in settings.items())
    return f"{name} {words} [{record['fingerprint']}]"


_NOT_SETTINGS = frozenset({"engine", "fingerprint", "version", "source"})
