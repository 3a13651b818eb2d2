"""A real `vsodpipe serve` process for tests."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vsodpipe import locks


@dataclass
class Answer:
    """What the server answered."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """A server process and its address."""

    process: subprocess.Popen[str]
    url: str
    log: Path
    headers: dict[str, str] = field(default_factory=dict)
    """Of every request."""

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        call = urllib.request.Request(
            self.url + path, data, self.headers | (headers or {}), method=method
        )
        try:
            with urllib.request.urlopen(call, timeout=120) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read())

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return self.ask("POST", path, {} if body is None else body, headers)

    def submit(self, kind: str, **arguments: Any) -> dict[str, Any]:
        answer = self.post("/api/jobs", {"kind": kind, "arguments": arguments})
        assert answer.status in (200, 201), answer.body
        return answer.json

    def wait(self, job: int, *states: str, seconds: float = 120) -> dict[str, Any]:
        """Return the job once it is in one of the `states` [default: ended]."""
        until = time.monotonic() + seconds
        while True:
            now = self.get(f"/api/jobs/{job}").json
            if now["state"] in (states or ("done", "failed", "cancelled")):
                return now
            assert time.monotonic() < until, now
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


def start(root: Path, *options: str, log: Path, **environment: str) -> Server:
    """Start a server on a free port; `root` is its data root, the folder above its home."""
    words = ["serve", "--data", str(root), "--port", "0", *options]
    unset = {"VSODPIPE_TOKEN", "VSODPIPE_AT", "VSODPIPE_DATA"}
    kept = {key: value for key, value in os.environ.items() if key not in unset}
    with open(log, "a") as file:
        place = file.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "vsodpipe", *words],
            cwd=root.parent,
            stderr=file,
            env=kept | environment,
            text=True,
        )
    until = time.monotonic() + 60
    while True:
        said = log.read_text()[place:]
        for line in said.splitlines(keepends=True):
            if line.startswith("{") and line.endswith("\n"):
                event = json.loads(line)
                if event["event"] == "serving":
                    return Server(process, event["url"], log)
        assert process.poll() is None and time.monotonic() < until, said
        time.sleep(0.02)


class Stuck:
    """Makes a job wait before one video, as that is locked, until `release`: no test goes by time.

    The videos before it are done by then: their flow is committed.
    """

    def __init__(self, frames: Path) -> None:
        self._stack = ExitStack()
        self._stack.enter_context(locks.alone(frames))

    def wait(self, *folders: Path, seconds: float = 120) -> None:
        """Wait until the flow of the other videos is committed."""
        until = time.monotonic() + seconds
        while not all((folder / "flow.json").is_file() for folder in folders):
            assert time.monotonic() < until
            time.sleep(0.02)

    def release(self) -> None:
        """Let the job go on."""
        self._stack.close()


@contextmanager
def serving(root: Path, *options: str, log: Path, **environment: str) -> Iterator[Server]:
    """Start a server, and end it afterwards, however the test ended."""
    server = start(root, *options, log=log, **environment)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.terminate()
            try:
                server.process.wait(20)
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()
