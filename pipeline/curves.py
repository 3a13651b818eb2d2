"""Precision over recall, and F over the threshold, as a picture: PNG, SVG or PDF.

Needs matplotlib, which comes with the extra `plots`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsodpipe import media, tables
from vsodpipe.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg", ".pdf")


def check(file: Path) -> None:
    """Raise UsageError for a file that `draw` cannot write: before the maps are scored."""
    if file.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--curves {file}: expected a file that ends in {', '.join(SUFFIXES)}.")
    if find_spec("matplotlib") is None:
        raise UsageError('--curves needs matplotlib. Install it: pip install "vsodpipe[plots]"')


def draw(result: Mapping[str, Any], file: Path) -> None:
    """Write the curves of all methods, one row of two pictures a data set."""
    check(file)
    from matplotlib.figure import Figure

    found = tables.datasets(result)
    figure = Figure(figsize=(9, 4.2 * len(found)), layout="constrained")
    rows = figure.subplots(len(found), 2, squeeze=False)
    for (dataset, methods), (left, right) in zip(found.items(), rows, strict=True):
        for name, scored in methods.items():
            method = _plain(name)
            curves, best = scored["curves"], max(scored["curves"]["f_curve"])
            left.plot(curves["recall"], curves["precision"], label=method)
            right.plot(range(256), curves["f_curve"], label=f"{method} (max {best:.3f})")
        title = _plain(dataset)
        _label(left, f"{title}: precision and recall", "recall", "precision", (0, 1))
        _label(right, f"{title}: F-measure", "threshold", "F", (0, 255))
    data = io.BytesIO()
    kind = file.suffix.lower()[1:]
    # without the time, so that equal results are equal files
    stamp = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    figure.savefig(data, format=kind, dpi=200, metadata=stamp)
    media.write_bytes(file, data.getvalue())


def _plain(name: str) -> str:
    """Return a name that matplotlib draws as it is: no formulas, and none that it keeps hidden."""
    text = tables.printable(name).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _label(axes: Axes, title: str, x: str, y: str, limits: tuple[float, float]) -> None:
    axes.set(title=title, xlabel=x, ylabel=y, xlim=limits, ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
