"""One self-contained page about runs and maps: scores, curves, pictures, and how to get them again.

The page is report.html with its style and script inside, and everything it shows as JSON beside
them. It loads nothing: its content security policy forbids every request, and every script but its
own. The JSON holds no `<`, and the script shows text as text, so that no name becomes markup.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from vsodpipe import (
    __version__,
    compare,
    inputs,
    maps,
    media,
    report_runs,
    report_scores,
    report_strips,
    tables,
)
from vsodpipe.errors import DataError, UsageError, few
from vsodpipe.evaluate import Options
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter, printable
from vsodpipe.protocols import METRICS


@dataclass(frozen=True)
class Page:
    """A page, and what it holds."""

    data: dict[str, Any]
    """What the script shows."""
    pictures: list[list[list[str]]]
    """Strip -> frame -> layer, base64 WebP."""

    @property
    def summary(self) -> dict[str, Any]:
        """What `--json` prints of it."""
        return {
            "methods": self.data["methods"],
            "datasets": [dataset["name"] for dataset in self.data["datasets"]],
            "runs": [run["name"] for run in self.data["runs"]],
            "videos_shown": len(self.pictures),
            "notes": self.data["notes"],
        }


def make(
    places: Sequence[Path],
    manifests: Sequence[str],
    options: Options,
    scoring: Sequence[str],
    reporter: Reporter,
) -> Page:
    """Return the page about `places`: run folders, and folders of maps as `vsodpipe eval` takes.

    Without `manifests`, those of the runs are read. `scoring` are the words of the command line
    that became `options`. A run without maps has its curves and its recipe only. Raises UsageError
    and DataError for what is missing.
    """
    places = [report_scores.near(place) for place in places]
    runs = [place for place in places if (place / "run.json").is_file()]
    scored = [place / "maps" if place in runs else place for place in places]
    for place in [place for place in scored if place.parent in runs and not place.is_dir()]:
        reporter.warn(f"{place}: no maps yet, so no scores. Write them with vsodpipe test.")
        scored.remove(place)
    sources = _sources(runs, manifests, bool(scored), reporter)
    folders = maps.find(scored, sources) if scored else []
    result = report_scores.scores(folders, options, reporter) if folders else {"methods": {}}
    about, pictures, notes = report_strips.strips(result, folders, reporter)
    beside = (run for folder in folders if (run := report_scores.run_of(folder)))
    runs = list(dict.fromkeys([*runs, *beside]))
    used = [source for source in sources if any(f.source is source for f in folders)]
    datasets = report_scores.described(result, folders)
    names = [*result["methods"], *(str(run) for run in runs if not folders)]
    data = {
        "title": printable(few(names, 3)),
        "version": __version__,
        "methods": list(map(printable, result["methods"])),
        "metrics": {
            key: {"heading": metric.heading, "less": metric.less} for key, metric in METRICS.items()
        },
        "datasets": datasets,
        "comparison": _comparison(result),
        "strips": about,
        "notes": notes,
        "runs": [report_runs.described(run) for run in runs],
        "fingerprints": report_runs.fingerprints(folders, used or sources, runs),
        "commands": report_runs.commands(folders, used or sources, runs, scoring),
    }
    return Page(data, pictures)


def write(page: Page, out: Path) -> int:
    """Write the page to `out`, whole or not at all; return its bytes."""
    data = render(page)
    media.write_bytes(out, data)
    return len(data)


def check(out: Path) -> None:
    """Raise UsageError for a file that is no page: before anything is scored."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {out}: expected a file that ends in .html.")
    if out.is_dir():
        raise DataError(f"{out}: is a folder. Name another file with --out.")


def render(page: Page) -> bytes:
    """Return the bytes of the page."""
    style, script = _part("report.css"), _part("report.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    blocks = [_block("data", page.data)]
    blocks += [_block(f"strip-{number}", frames) for number, frames in enumerate(page.pictures)]
    parts = {
        "POLICY": policy,
        "TITLE": html.escape(f"{page.data['title']} - vsodpipe report"),
        "STYLE": style,
        "SCRIPT": script,
        "DATA": "\n".join(blocks),
    }
    # in one pass, so that nothing inside a part is taken for a mark
    text = re.sub(r"<!--(\w+)-->", lambda mark: parts[mark[1]], _part("report.html"))
    return text.encode()


def safe_json(value: Any) -> str:
    """Return JSON in ASCII without `<`, `>` and `&`: text that ends no script and opens no tag."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _block(name: str, value: Any) -> str:
    return f'<script type="application/json" id="{name}">{safe_json(value)}</script>'


def _part(name: str) -> str:
    return resources.files("vsodpipe").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the hash by which a policy allows an inline text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _sources(
    runs: Sequence[Path], manifests: Sequence[str], needed: bool, reporter: Reporter
) -> list[Source]:
    """Return the manifests named, else those that the runs were trained with."""
    if not manifests and needed:
        notes = (report_runs.record(run) for run in runs)
        manifests = list(dict.fromkeys(str(note.get("manifest")) for note in notes))
        if not manifests:
            raise UsageError("which masks? Name their manifest: --manifest manifests/davis.json")
    return [inputs.open_manifest(place, reporter) for place in manifests]


def _comparison(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the first method of each data set against the others, where there are others."""
    if all(len(methods) < 2 for methods in tables.datasets(result).values()):
        return []
    return [
        {
            "dataset": printable(dataset),
            **{key: printable(pair[key]) for key in ("first", "other")},
            "rows": pair["rows"],
        }
        for dataset, pairs in compare.compare(result).items()
        for pair in pairs
    ]
