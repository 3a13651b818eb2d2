"""What the server tells about itself: /metrics as Prometheus reads it, a log of JSON lines."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vsodpipe.service.runner import Runner

_FACTS = (
    *("url", "data", "job", "kind", "state", "code", "pid", "signal", "orphans"),
    *("drop", "problem", "method", "path", "status", "bytes", "seconds", "client"),
)
"""What a record of the log may carry beside its event."""
_DEVICES_SECONDS = 10.0
"""How long what nvidia-smi said is taken for true."""


REQUEST, FOLLOWER, GUEST = "request", "follower", "guest"
"""As what a request counts while it is answered: a guest has not given the token."""


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, event and its facts. Tokens are in none of them."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= {key: getattr(record, key) for key in _FACTS if hasattr(record, key)}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


class Meters:
    """Counts requests."""

    def __init__(self) -> None:
        self.there: Counter[str] = Counter()
        """Requests that are being answered, by what they count as."""
        self.answers: Counter[int] = Counter()
        self.sent = self.taken = 0

    @contextmanager
    def request(self, who: str) -> Iterator[None]:
        """Count one request while it lasts."""
        self.there[who] += 1
        try:
            yield
        finally:
            self.there[who] -= 1

    def answered(self, status: int, sent: int, taken: int) -> None:
        """Count an answer and its bytes."""
        self.answers[status] += 1
        self.sent += sent
        self.taken += taken


class Devices:
    """Memory of the GPUs, as nvidia-smi tells it; nothing where there is none."""

    def __init__(self) -> None:
        self._tool = shutil.which("nvidia-smi")
        self._asked = -_DEVICES_SECONDS
        self._rows: list[tuple[str, int, int]] = []

    async def rows(self) -> list[tuple[str, int, int]]:
        """Return (number, bytes in use, bytes in all) of every device."""
        if self._tool is None or time.monotonic() - self._asked < _DEVICES_SECONDS:
            return self._rows
        self._asked = time.monotonic()
        query = "--query-gpu=index,memory.used,memory.total"
        process = await asyncio.create_subprocess_exec(
            *(self._tool, query, "--format=csv,noheader,nounits"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            out, _ = await asyncio.wait_for(process.communicate(), 5)
        except TimeoutError:
            process.kill()
            return self._rows
        cells = [line.split(",") for line in out.decode().splitlines() if line.count(",") == 2]
        self._rows = [(n.strip(), int(u) * 2**20, int(t) * 2**20) for n, u, t in cells]
        return self._rows


async def text(runner: Runner, meters: Meters, devices: Devices) -> str:
    """Return all metrics in the text format of Prometheus."""
    counts = runner.queue.counts()
    disk = shutil.disk_usage(runner.settings.data)
    frames = sum(p["rate"] for p in runner.progress.values() if p["unit"] == "frame")
    found = await devices.rows()
    tables = [
        ("jobs", "gauge", "Jobs by state.", {f'state="{k}"': v for k, v in counts.items()}),
        ("queue_length", "gauge", "Jobs not begun.", counts["queued"] + counts["waiting"]),
        ("frames_per_second", "gauge", "Frames per second of all running jobs.", round(frames, 3)),
        ("requests_in_flight", "gauge", "Requests being answered.",
         meters.there[REQUEST] + meters.there[GUEST]),
        ("followers", "gauge", "Open streams of progress.", meters.there[FOLLOWER]),
        ("responses_total", "counter", "Answers by status.",
         {f'status="{k}"': v for k, v in sorted(meters.answers.items())}),
        ("sent_bytes_total", "counter", "Bytes of answers.", meters.sent),
        ("received_bytes_total", "counter", "Bytes of requests.", meters.taken),
        ("disk_free_bytes", "gauge", "Free bytes on the disk of the data root.", disk.free),
        ("disk_total_bytes", "gauge", "Bytes of the disk of the data root.", disk.total),
        ("device_memory_used_bytes", "gauge", "Memory in use by device.",
         {f'device="cuda:{n}"': used for n, used, _ in found}),
        ("device_memory_total_bytes", "gauge", "Memory by device.",
         {f'device="cuda:{n}"': total for n, _, total in found}),
    ]  # fmt: skip
    lines = []
    for name, kind, said, value in tables:
        lines += [f"# HELP vsodpipe_{name} {said}", f"# TYPE vsodpipe_{name} {kind}"]
        rows = value if isinstance(value, dict) else {"": value}
        lines += [
            f"vsodpipe_{name}{f'{{{label}}}' if label else ''} {number}"
            for label, number in rows.items()
        ]
    return "\n".join(lines) + "\n"
