"""Scores for a page: those a run has saved where nothing changed since, the others anew."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vsodpipe import evaluate, maps, media, tables
from vsodpipe.errors import DataError
from vsodpipe.evaluate import Options
from vsodpipe.maps import Folder
from vsodpipe.progress import Reporter, printable
from vsodpipe.protocols import METRICS, Protocol

VIDEOS = 400
"""Rows of a data set's table of videos; of more, those with the best and the worst values."""
CURVES = ("precision", "recall", "f_curve")


def run_of(folder: Folder) -> Path | None:
    """Return the run whose own maps a folder holds, None for maps that lie elsewhere."""
    is_run = folder.root.name == "maps" and (folder.root.parent / "run.json").is_file()
    return near(folder.root.parent) if is_run else None


def near(path: Path) -> Path:
    """Return a path as seen from here where it is below, else the whole one."""
    whole = Path(os.path.abspath(path))
    return whole.relative_to(Path.cwd()) if whole.is_relative_to(Path.cwd()) else whole


def scores(folders: Sequence[Folder], options: Options, reporter: Reporter) -> dict[str, Any]:
    """Return the result of `evaluate.evaluate` for all `folders`, in their order.

    What `scores.json` of a run says is taken where protocol and manifest are the same and neither
    the maps nor the manifest are newer. Raises what `evaluate.evaluate` raises.
    """
    saved = {
        (folder.method, folder.split.dataset): _saved(folder, options.of(folder))
        for folder in folders
    }
    todo = [folder for folder in folders if saved[folder.method, folder.split.dataset] is None]
    fresh = evaluate.evaluate(todo, options, reporter)["methods"] if todo else {}
    result: dict[str, Any] = {
        "manifests": list(dict.fromkeys(str(folder.source.file) for folder in folders)),
        "methods": {},
    }
    for folder in folders:
        method, dataset = folder.method, folder.split.dataset
        of_method = result["methods"].setdefault(method, {"maps": str(folder.root), "datasets": {}})
        found = saved[method, dataset]
        if found is None:
            found = fresh[method]["datasets"][dataset]
        of_method["datasets"][dataset] = found
    return result


def _saved(folder: Folder, protocol: Protocol) -> dict[str, Any] | None:
    """Return what the run has saved of this folder, None where it is not there or may be old."""
    run = run_of(folder)
    file = run / "scores.json" if run else None
    if file is None or not file.is_file() or not isinstance(folder.source.file, Path):
        return None
    try:
        saved = media.read_json(file)
        (of_method,) = saved["methods"].values()
        found: dict[str, Any] = of_method["datasets"][folder.split.dataset]
        known = {os.path.abspath(name) for name in saved["manifests"]}
        same = found["protocol"] == json.loads(json.dumps(protocol.facts()))
        keys = found["total"], found["videos"], found["curves"]
        json.dumps(found, allow_nan=False)
    except (DataError, KeyError, TypeError, ValueError, AttributeError):
        return None
    if not same or not all(keys) or os.path.abspath(folder.source.file) not in known:
        return None
    files = [
        folder.source.file,
        *maps.match(folder.path, folder.split, folder.cards).files.values(),
    ]
    newest = max(os.stat(file).st_mtime_ns for file in files)
    return found if os.stat(file).st_mtime_ns >= newest else None


def described(result: Mapping[str, Any], folders: Sequence[Folder]) -> list[dict[str, Any]]:
    """Return what the page shows of every data set: its protocol, and every method's numbers.

    Names are printable, so that nothing in them moves the cursor or turns the text around; scores
    are those of the result, curves rounded to 5 digits.
    """
    made = []
    for dataset, methods in tables.datasets(result).items():
        first = next(iter(methods.values()))
        headline = first["protocol"]["headline"]
        split = next(folder.split for folder in folders if folder.split.dataset == dataset)
        still = all(len(video.frames) == 1 for video in split.videos)
        shown, left_out = ([], 0) if still else _videos(methods, headline[0])
        made.append(
            {
                "name": printable(dataset),
                "protocol": first["protocol"],
                "headline": headline,
                "still": still,
                "left_out": left_out,
                "methods": [
                    {
                        "name": printable(method),
                        "total": scored["total"],
                        "means": {k: v for k, v in scored.items() if k.endswith("_mean")},
                        "classes": _printable(scored.get("classes", {})),
                        "videos": {printable(v): scored["videos"].get(v) for v in shown},
                        "skipped": list(map(printable, scored["skipped_videos"])),
                        "empty_masks": scored["empty_masks"],
                        "resized_maps": scored["resized_maps"],
                        "curves": {
                            name: [round(value, 5) for value in scored["curves"][name]]
                            for name in CURVES
                        },
                    }
                    for method, scored in methods.items()
                ],
            }
        )
    return made


def mean_of(methods: Mapping[str, Any], video: str, key: str) -> float | None:
    """Return the mean of the methods' values of a video, None where none has one."""
    values = (scored["videos"].get(video, {}).get(key) for scored in methods.values())
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def ranked(methods: Mapping[str, Any], key: str) -> list[str]:
    """Return the videos that have a value of metric `key`, best first."""
    names = dict.fromkeys(video for scored in methods.values() for video in scored["videos"])
    means = {video: mean_of(methods, video, key) for video in names}
    known = [(value, video) for video, value in means.items() if value is not None]
    known.sort(key=lambda pair: pair[0], reverse=not METRICS[key].less)
    return [video for _, video in known]


def _videos(methods: Mapping[str, Any], key: str) -> tuple[list[str], int]:
    """Return the videos of the table, in the order of the result, and how many it leaves out."""
    names = dict.fromkeys(video for scored in methods.values() for video in scored["videos"])
    if len(names) <= VIDEOS:
        return list(names), 0
    order = ranked(methods, key)
    kept = {*order[: VIDEOS // 2], *order[-(VIDEOS // 2) :]}
    return [name for name in names if name in kept], len(names) - len(kept)


def _printable(rows: Mapping[str, Any]) -> dict[str, Any]:
    return {printable(name): row for name, row in rows.items()}
