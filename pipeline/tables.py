"""Results of `evaluate` as tables: for the terminal, CSV, Markdown and LaTeX.

Methods are rows and metrics columns, one table a data set; the best value of a column is bold, in
LaTeX the second best is underlined. The protocol's headline metrics are the columns unless others
are chosen; CSV has every number of every video.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from vsodpipe import progress
from vsodpipe.protocols import METRICS, Metric

FORMATS = ("table", "json", "csv", "markdown", "latex")
DIGITS = 3
Row = Mapping[str, Any]
Scored = dict[str, dict[str, Any]]
"""Method -> what its result says of one data set."""


def datasets(result: Row) -> dict[str, Scored]:
    """Return data set -> method -> scores, in the order of the result."""
    found: dict[str, Scored] = {}
    for method, of_method in result["methods"].items():
        for dataset, scored in of_method["datasets"].items():
            found.setdefault(dataset, {})[method] = scored
    return found


def columns(scored: Row, chosen: Sequence[Metric] = ()) -> list[Metric]:
    """Return the columns of a data set's tables: the chosen metrics, else the protocol's own."""
    keys = [metric.key for metric in chosen] or scored["protocol"]["headline"]
    return [METRICS[key] for key in keys]


def terminal(result: Row, chosen: Sequence[Metric] = ()) -> list[Table]:
    """Return the tables for people: per video and in total, methods side by side."""
    made = []
    for dataset, methods in datasets(result).items():
        first = next(iter(methods.values()))
        shown, title = columns(first, chosen), _title(dataset, first)
        rows = {method: scored["total"] for method, scored in methods.items()}
        if len(methods) > 1:
            made.append(table(title, rows, shown, "method", best=True))
            if _has_videos(first):
                made.append(_side_by_side(shown[0], methods))
        else:
            parts = first["videos"] if _has_videos(first) else {}
            parts = {**parts, **{f"class {c}": row for c, row in first.get("classes", {}).items()}}
            made.append(table(title, {**parts, "total": first["total"]}, shown))
        if "attributes" in first:
            made += _by_attribute(dataset, methods, shown)
    return made


def table(
    title: str,
    rows: Mapping[str, Row],
    shown: Sequence[Metric],
    first: str = "video",
    best: bool = False,
) -> Table:
    """Return a table for people, one row a name; the last row is set apart when it is `total`."""
    made = Table(title=escape(printable(title)), title_justify="left")
    made.add_column(first)
    for metric in shown:
        made.add_column(metric.heading, justify="right")
    leaders = {metric.key: _ranked(rows, metric)[0] for metric in shown} if best else {}
    for name, row in rows.items():
        if name == "total":
            made.add_section()
        texts = ((metric.key, number(row.get(metric.key))) for metric in shown)
        cells = (f"[bold]{t}[/]" if t == leaders.get(k) else t for k, t in texts)
        made.add_row(escape(printable(name)), *cells)
    return made


def as_csv(result: Row) -> str:
    """Return every number of every method, data set and video; `total` is the data set's row."""
    found = datasets(result)
    every = [row for scored in found.values() for s in scored.values() for row in _rows(s).values()]
    keys = [key for key in METRICS if any(key in row for row in every)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", "dataset", "protocol", "video", "frames", *keys])
    for dataset, methods in found.items():
        for method, scored in methods.items():
            start = [*map(progress.printable, (method, dataset)), scored["protocol"]["name"]]
            for video, row in _rows(scored).items():
                numbers = ["" if row.get(key) is None else f"{row[key]:.6f}" for key in keys]
                writer.writerow([*start, progress.printable(video), row["frames"], *numbers])
    return out.getvalue()


def as_markdown(result: Row, chosen: Sequence[Metric] = ()) -> str:
    """Return a Markdown table a data set, the best value of each column bold."""
    blocks = []
    for dataset, methods in datasets(result).items():
        first = next(iter(methods.values()))
        shown = columns(first, chosen)
        rows = {method: scored["total"] for method, scored in methods.items()}
        best = {metric.key: _ranked(rows, metric)[0] for metric in shown}
        lines = [
            f"**{_title(dataset, first)}**",
            "",
            "| " + " | ".join(["method", *(metric.heading for metric in shown)]) + " |",
            "| --- |" + " ---: |" * len(shown),
        ]
        for method, row in rows.items():
            texts = ((metric.key, number(row.get(metric.key))) for metric in shown)
            cells = [f"**{t}**" if t == best[key] else t for key, t in texts]
            lines.append("| " + " | ".join([printable(method).replace("|", "\\|"), *cells]) + " |")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def as_latex(result: Row, chosen: Sequence[Metric] = ()) -> str:
    """Return a `booktabs` tabular a data set: best values bold, the second best underlined."""
    blocks = []
    for dataset, methods in datasets(result).items():
        first = next(iter(methods.values()))
        shown = columns(first, chosen)
        rows = {method: scored["total"] for method, scored in methods.items()}
        ranks = {metric.key: _ranked(rows, metric) for metric in shown}
        head = (_arrow(metric) for metric in shown)
        lines = [
            f"% {_title(dataset, first)}; \\usepackage{{booktabs}}",
            f"\\begin{{tabular}}{{l{'c' * len(shown)}}}",
            "\\toprule",
            " & ".join(["Method", *head]) + r" \\",
            "\\midrule",
        ]
        for method, row in rows.items():
            cells = [_latex(number(row.get(m.key)), ranks[m.key]) for m in shown]
            lines.append(" & ".join([_escaped(method), *cells]) + r" \\")
        blocks.append("\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n")
    return "\n".join(blocks)


def printable(name: str) -> str:
    """Return the name of a folder on one line, without what a terminal would obey."""
    return " ".join(progress.printable(name).split())


def number(value: float | None) -> str:
    """Return a score as tables show it; a dash for none."""
    return "-" if value is None else f"{value:.{DIGITS}f}"


def _title(dataset: str, scored: Row) -> str:
    protocol = scored["protocol"]
    return f"{printable(dataset)}, protocol {protocol['name']}, frames: {protocol['frames']}"


def _has_videos(scored: Row) -> bool:
    """Return whether there are videos to show: still pictures are videos of one frame."""
    return any(row["frames"] > 1 for row in scored["videos"].values())


def _side_by_side(metric: Metric, methods: Scored) -> Table:
    """Return one metric per video, a column a method."""
    made = Table(title=f"{metric.heading} per video", title_justify="left")
    made.add_column("video")
    for method in methods:
        made.add_column(escape(printable(method)), justify="right")
    videos = dict.fromkeys(video for scored in methods.values() for video in scored["videos"])
    for video in videos:
        row = {m: {metric.key: _of(scored, video, metric.key)} for m, scored in methods.items()}
        best = _ranked(row, metric)[0]
        texts = [number(values[metric.key]) for values in row.values()]
        cells = (f"[bold]{t}[/]" if t == best else t for t in texts)
        made.add_row(escape(printable(video)), *cells)
    return made


def _by_attribute(dataset: str, methods: Scored, shown: Sequence[Metric]) -> list[Table]:
    """Return a table a method: the means over the videos that have an attribute."""
    return [
        table(
            f"{dataset} by attribute, {printable(method)}",
            {f"{name} ({row['videos']})": row for name, row in scored["attributes"].items()},
            shown,
            "attribute (videos)",
        )
        for method, scored in methods.items()
    ]


def _of(scored: Row, video: str, key: str) -> float | None:
    value: float | None = scored["videos"].get(video, {}).get(key)
    return value


def _rows(scored: Row) -> dict[str, Row]:
    return {**scored["videos"], "total": scored["total"]}


def _ranked(rows: Mapping[str, Row], metric: Metric) -> list[str]:
    """Return the two best values as they are shown, so that equal numbers share their rank."""
    known = {row[metric.key] for row in rows.values() if row.get(metric.key) is not None}
    shown = list(dict.fromkeys(map(number, sorted(known, reverse=not metric.less))))
    return [*shown, "", ""][:2] if len(rows) > 1 else ["", ""]


def _latex(text: str, ranks: Sequence[str]) -> str:
    if text == ranks[0]:
        return f"\\textbf{{{text}}}"
    return f"\\underline{{{text}}}" if text == ranks[1] else text


def _arrow(metric: Metric) -> str:
    arrow = r"$\downarrow$" if metric.less else r"$\uparrow$"
    return f"{metric.latex or metric.heading}~{arrow}"


def _escaped(text: str) -> str:
    names = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    plain = printable(text)
    return "".join(names.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in plain)
