"""What a page says of runs: training curves, the recipe, fingerprints, and commands to copy."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vsodpipe import media, predict, validate
from vsodpipe.errors import DataError
from vsodpipe.manifest import Source, Split
from vsodpipe.maps import Folder
from vsodpipe.progress import printable
from vsodpipe.report_scores import near, run_of

POINTS = 400
"""Most points of a training curve; each is the mean of as many steps as it takes."""

Event = Mapping[str, Any]


def record(run: Path) -> dict[str, Any]:
    """Return what `run.json` of a run says. Raises DataError for one that cannot be read."""
    note = media.read_json(run / "run.json")
    if not isinstance(note, dict):
        raise DataError(f"{run / 'run.json'}: expected an object. Restore the file.")
    return note


def described(run: Path) -> dict[str, Any]:
    """Return the name, record, recipe and curves of a run folder.

    Raises DataError for a folder without a readable `run.json`.
    """
    recipe = run / "recipe.toml"
    text = media.read_bytes(recipe).decode(errors="replace") if recipe.is_file() else ""
    return {
        "name": printable(str(run)),
        "record": {printable(key): _lines(value) for key, value in record(run).items()},
        "recipe": printable(text),
        "stages": curves(run / "events.jsonl"),
    }


def curves(file: Path) -> list[dict[str, Any]]:
    """Return loss, learning rate and proxies of every stage in an `events.jsonl`, a few points.

    Proxies are the scores of validations, each with the `step` after which it was made. Rows that
    are neither, such as the last of a run that was killed, are left out.
    """
    stages: dict[str, list[Event]] = {}
    proxies: dict[str, list[Event]] = {}
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    for line in text.splitlines():
        try:
            row = json.loads(line)
            stage = str(row["stage"])
            steps = stages.setdefault(stage, [])
            if "proxy" in row:
                _add(proxies.setdefault(stage, []), {"step": len(steps), **row["proxy"]})
            else:
                _add(steps, {"loss": row["loss"], "lr": row["lr"]})
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
    made = []
    for stage, rows in stages.items():
        if not rows:
            continue
        found = {"name": printable(stage), "steps": len(rows), **_means(rows, ("loss", "lr"))}
        validated = proxies.get(stage, [])
        keys = [key for key in validate.SCORES if all(key in row for row in validated)]
        found["proxies"] = _means(validated, ("step", *keys)) if validated and keys else None
        made.append(found)
    return made


def _add(rows: list[Event], values: Event) -> None:
    """Add the numbers of a row; those of one that holds something else, not."""
    numbers = {key: float(value) for key, value in values.items()}
    if all(map(math.isfinite, numbers.values())):
        rows.append(numbers)


def _means(rows: Sequence[Event], keys: Sequence[str]) -> dict[str, Any]:
    """Return the means of successive rows, at most POINTS, and `every` how many rows they are."""
    every = -(-len(rows) // POINTS)
    groups = [rows[start : start + every] for start in range(0, len(rows), every)]
    means = {key: [sum(row[key] for row in group) / len(group) for group in groups] for key in keys}
    return {"every": every, **means}


def fingerprints(
    folders: Sequence[Folder], sources: Iterable[Source], runs: Iterable[Path]
) -> list[list[str]]:
    """Return (what, of which, fingerprint) of manifests, flow, weights and runs."""
    rows = []
    for source in sources:
        rows.append(["manifest, SHA-256", str(source.file), source.sha256()])
        for split in source.manifest.datasets:
            flow = split.flow["fingerprint"] if split.flow else "no flow"
            rows.append(["flow", split.dataset, flow])
    for run in runs:
        note = record(run)
        rows.append(["manifest of the training", str(run), str(note.get("manifest_sha256", "-"))])
        rows.append(["initial weights", str(run), _lines(note.get("initial_weights", "-"))])
    for folder in folders:
        file = folder.path / predict.RECORD
        written = media.read_json(file) if file.is_file() else None
        if isinstance(written, dict):
            digest = str(written.get("weights_sha256", "-"))
            rows.append(["weights of the maps, SHA-256", str(near(folder.path)), digest])
    return [list(map(printable, row)) for row in rows]


def commands(
    folders: Sequence[Folder],
    sources: Sequence[Source],
    runs: Sequence[Path],
    scoring: Sequence[str],
) -> list[dict[str, str]]:
    """Return (what, command) of every step to the numbers of the page, in order.

    `scoring` are the options that decide the scores, as words of the command line.
    """
    rows: list[tuple[str, list[str]]] = []
    for source in sources:
        for split in source.manifest.datasets:
            if split.flow and "engine" in split.flow:
                rows.append((f"flow of {split.dataset}", [*_flow(split), *_data(source)]))
        if isinstance(source.file, Path) and source.file.suffix == ".json":
            rows.append((f"manifest {source.file}", _manifest(source, source.file)))
    for run in runs:
        note = record(run)
        model, manifest = str(note.get("model")), str(note.get("manifest"))
        train = ["vsodpipe", "train", model, "--manifest", manifest]
        train += ["--recipe", str(run / "recipe.toml")]
        init = note.get("initial_weights")
        train += ["--init", str(init["file"])] if isinstance(init, dict) and "file" in init else []
        rows.append((f"training of {run}", train))
        for source in sources:
            test = ["vsodpipe", "test", model, "--checkpoint", str(run)]
            own = (f for f in folders if run_of(f) == run and f.source is source)
            here = [folder.split.dataset for folder in own]
            test += ["--manifest", str(source.file)]
            test += [word for dataset in here for word in ("--dataset", dataset)]
            rows += [(f"maps of {run}", test)] if here else []
    roots = list(dict.fromkeys(str(near(folder.root)) for folder in folders))
    if roots:
        score = ["vsodpipe", "eval", *roots]
        score += [word for source in sources for word in ("--manifest", str(source.file))]
        rows.append(("scores", [*score, *scoring]))
    return [{"what": printable(what), "command": shell(words)} for what, words in rows]


def shell(words: Iterable[str]) -> str:
    """Return a command to paste into bash; what does not print is written as escapes."""
    return " ".join(shlex.quote(word) if word.isprintable() else _escaped(word) for word in words)


def _escaped(word: str) -> str:
    bytes_ = os.fsencode(word)
    kept = (chr(b) if 32 <= b < 127 and b not in b"'\\" else f"\\x{b:02x}" for b in bytes_)
    return f"$'{''.join(kept)}'"


def _flow(split: Split) -> list[str]:
    about = split.flow or {}
    engine = about["engine"]
    words = ["vsodpipe", "flow", split.dataset, "--engine", str(engine.get("engine"))]
    for key in ("preset", "weights", "updates", "precision"):
        if engine.get(key) is not None:
            words += [f"--{key}", str(engine[key])]
    if "max_side" in engine:
        words += ["--max-side", str(engine["max_side"])]
    for key in ("direction", "gap", "tail", "colour"):
        if about.get(key) is not None:
            words += [f"--{key}", str(about[key])]
    return words


def _manifest(source: Source, file: Path) -> list[str]:
    try:
        words = shlex.split(source.manifest.made_by or "")
    except ValueError:
        words = []
    if words[:2] != ["vsodpipe", "manifest"]:  # a file may say anything
        words = ["vsodpipe", "manifest", source.manifest.name]
    return [*words, "--out", str(file.parent), *_data(source)]


def _data(source: Source) -> list[str]:
    """Return the option of the data root, none where it is the usual one or a URL."""
    usual = source.root == str(Path("datasets").resolve())
    return [] if usual or "://" in source.root else ["--data", str(near(Path(source.root)))]


def _lines(value: Any) -> str:
    """Return a value of a record as people read it."""
    return printable(value if isinstance(value, str) else json.dumps(value))
