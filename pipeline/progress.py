"""One reporter: a bar with rate and ETA on a terminal, plain lines when piped, JSON lines.

Everything goes to stderr; data for machines is the command's own business and goes to stdout.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

PLAIN_SECONDS = 10.0
"""Time between two plain lines of one task when the output is piped."""
JSON_SECONDS = 0.2
"""Time between two JSON lines of one task, as VSODPIPE_PROGRESS=json asks for them."""


class Counter:
    """A running task: `advance` it by finished units, with a note such as the current loss."""

    def __init__(self, reporter: Reporter, title: str, total: int, unit: str, done: int) -> None:
        self.title, self.total, self.unit = printable(title), total, unit
        self.done = self.resumed_at = done
        self.note = ""
        self.started = self.printed = time.monotonic()
        self._reporter = reporter

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count `units` more as done."""
        self.done += units
        self.note = printable(note)
        self._reporter._show(self)

    @property
    def rate(self) -> float:
        """Units per second since the start of this run."""
        elapsed = time.monotonic() - self.started
        return (self.done - self.resumed_at) / elapsed if elapsed > 0 else 0.0

    def status(self) -> str:
        """Return rate and time left in words, such as `12.1 frame/s, 3 min left`."""
        rate = self.rate
        if rate <= 0:
            return "estimating the time"
        digits = max(0, 2 - int(math.log10(max(rate, 1 / rate))))
        fast = rate >= 1
        speed = f"{rate if fast else 1 / rate:.{digits}f} "
        speed += f"{self.unit}/s" if fast else f"s/{self.unit}"
        left = (self.total - self.done) / rate
        return f"{speed}, {duration(left)} left" if self.done < self.total else speed

    def record(self) -> dict[str, Any]:
        """Return where the task stands for a program; `eta` in seconds, None while unknown."""
        left = (self.total - self.done) / self.rate if self.rate > 0 else None
        return {
            "label": self.title,
            "done": self.done,
            "total": self.total,
            "rate": round(self.rate, 3),
            "unit": self.unit,
            "eta": None if left is None else round(left, 1),
            "note": self.note,
        }


class Reporter:
    """Says what happens, on stderr; `quiet` leaves only warnings."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._json = os.environ.get("VSODPIPE_PROGRESS") == "json"

    def say(self, text: str) -> None:
        """Print one line for a person."""
        if not self.quiet:
            self.console.print(escape(printable(text)))

    def warn(self, text: str) -> None:
        """Print one line that must be seen, even when quiet."""
        self.console.print(f"[yellow]warning:[/] {escape(printable(text))}")

    @contextmanager
    def task(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Counter]:
        """Yield a Counter of `total` units of which `done` are finished already."""
        counter = Counter(self, title, total, unit, done)
        if self.quiet:
            yield counter
        elif self._json:
            self._record(counter)
            try:
                yield counter
            finally:
                self._record(counter)
        elif self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                _Status(),
            )
            with Progress(*columns, console=self.console) as bar:
                bar.add_task(escape(counter.title), total=total, completed=done, counter=counter)
                self._bar = bar
                try:
                    yield counter
                finally:
                    self._bar = None
        else:
            yield counter
            if counter.done > counter.resumed_at:
                self._plain(counter)

    def _show(self, counter: Counter) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=counter.done)
        elif self._json and not self.quiet:
            if time.monotonic() - counter.printed >= JSON_SECONDS:
                self._record(counter)
        elif not self.quiet and not self.console.is_terminal:
            first = counter.printed == counter.started
            due = 2.0 if first else PLAIN_SECONDS
            if counter.done < counter.total and time.monotonic() - counter.printed >= due:
                self._plain(counter)

    def _record(self, counter: Counter) -> None:
        counter.printed = time.monotonic()
        print(json.dumps({"progress": counter.record()}), file=sys.stderr, flush=True)

    def _plain(self, counter: Counter) -> None:
        counter.printed = time.monotonic()
        note = f", {counter.note}" if counter.note else ""
        line = f"{counter.title}: {counter.done}/{counter.total} {counter.unit}s"
        print(f"{line} ({counter.status()}{note})", file=sys.stderr, flush=True)


class _Status(ProgressColumn):
    def render(self, task: Task) -> Text:
        counter: Counter = task.fields["counter"]
        return Text(f"{counter.status()}  {counter.note}")


def printable(text: str) -> str:
    """Return `text` with what a terminal would obey, not show, as escapes: it may be foreign."""
    if text.isprintable():
        return text
    kept = (c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
    return "".join(kept)


def duration(seconds: float) -> str:
    """Return seconds as people say them: `8 s`, `3 min`, `2 h 5 min`, `4 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
    return f"{seconds / 86400:.0f} days"
