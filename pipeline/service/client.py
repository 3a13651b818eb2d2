"""`--at URL`: the other end of the service. The standard library alone, as anyone may call it.

What the job says is said here, its progress is the same bar, and its end is this command's end.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

from vsodpipe.errors import Interrupted, UsageError, VsodpipeError
from vsodpipe.progress import Counter, Reporter

PATIENCE = 300.0
"""Seconds for which a server that does not answer is tried again: it may be restarted."""
_SILENCE = 60.0
"""Seconds without a word after which a connection counts as lost; streams speak oftener."""


class Ended(VsodpipeError):
    """A job failed on its server, with the exit code that the command had there."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code


class Server:
    """A server's address, and how to speak to it."""

    def __init__(self, url: str, token: str | None) -> None:
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port
            (parts.hostname or "").encode("idna")
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"--at {url}: expected http://HOST:PORT of a vsodpipe serve.")
        if parts.username or parts.query:
            raise UsageError("--at: the token belongs in VSODPIPE_TOKEN, not in the address.")
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._connection = lambda: kind(parts.hostname or "", port, timeout=_SILENCE)
        self._base = parts.path.rstrip("/")
        self.url = f"{parts.scheme}://{parts.netloc}{self._base}"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.header = '-H "Authorization: Bearer $VSODPIPE_TOKEN" ' if token else ""
        """The option of curl that gives the token, without telling it."""

    @contextmanager
    def open(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> Iterator[http.client.HTTPResponse]:
        """Yield the answer to a request. Raises OSError where none comes, else what it says."""
        data = None if body is None else json.dumps(body)
        try:
            with closing(self._connection()) as connection:
                connection.request(method, self._base + path, data, self._headers | headers)
                with connection.getresponse() as answer:
                    if answer.status >= 300:
                        raise self._error(answer)
                    yield answer
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error

    def _error(self, answer: http.client.HTTPResponse) -> Exception:
        try:
            reason = str(json.loads(answer.read(10_000))["error"])
        except (ValueError, KeyError, TypeError):
            reason = f"answered {answer.status} {answer.reason}"
        if answer.status in (429, 502, 503, 504):
            return ConnectionError(reason)
        if answer.status == 401:
            return UsageError(f"{self.url}: {reason} Set VSODPIPE_TOKEN.")
        return UsageError(reason)

    def job(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Return the number of the job of an answer, as `id`. Raises UsageError for another."""
        with self.open(method, path, body) as answer:
            said = answer.read()
        try:
            return {"id": int(json.loads(said)["id"])}
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{self.url}: what answers there is no vsodpipe serve.") from None

    def events(self, job: int, after: str) -> Iterator[tuple[str, dict[str, Any], str]]:
        """Yield (event, data, id) of a job until its stream ends. Raises OSError when cut off."""
        with self.open("GET", f"/api/events?job={job}", **{"Last-Event-ID": after}) as answer:
            fields: dict[str, str] = {}
            while line := answer.readline():
                key, _, value = line.decode().rstrip("\r\n").partition(": ")
                if key:
                    fields[key] = value
                elif "event" in fields:
                    yield fields["event"], json.loads(fields["data"]), fields.get("id", "")
                    fields = {}
                else:
                    fields = {}


def run(
    kind: str,
    arguments: dict[str, Any],
    at: str,
    token: str | None,
    *,
    quiet: bool,
    show: bool,
) -> None:
    """Run a command as a job of the server `at`, and follow it to its end.

    With `show`, what it printed on stdout is printed here. Raises Ended with its error and exit
    code, Interrupted when the user leaves it.
    """
    reporter = Reporter(quiet)
    server = Server(at, token)
    try:
        job = server.job("POST", "/api/jobs", {"kind": kind, "arguments": arguments})
    except OSError as error:
        raise VsodpipeError(
            f"--at {at}: no vsodpipe serve answers there ({error}). Check the address."
        ) from error
    try:
        ended = _follow(server, job, reporter)
    except KeyboardInterrupt:
        ended = _interrupted(server, job, reporter)
    if show:
        with server.open("GET", f"/api/jobs/{job['id']}/output") as answer:
            while chunk := answer.read(2**16):
                sys.stdout.buffer.write(chunk)
        sys.stdout.flush()
    if ended["state"] != "done":
        raise Ended(ended["message"] or f"job {job['id']} {ended['state']}.", ended["code"] or 1)


def _follow(server: Server, job: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Show a job until it has ended; return it. A server that is away for a while is waited for."""
    view = _View(reporter)
    after, lost = "0", None
    with view:
        while True:
            try:
                for event, data, place in server.events(job["id"], after):
                    after, lost = place or after, None
                    view.show(event, data)
                    if event == "job" and data["ended"] is not None:
                        return data
                problem = "the stream ended"
            except OSError as error:
                problem = str(error)
            except (ValueError, KeyError, TypeError) as error:
                raise VsodpipeError(
                    f"{server.url}: speaks another version of vsodpipe "
                    f"({type(error).__name__} {error}). Job {job['id']} goes on there."
                ) from error
            if lost is None:
                lost = time.monotonic()
                reporter.warn(f"{server.url}: {problem}; trying again")
            if time.monotonic() - lost > PATIENCE:
                raise VsodpipeError(
                    f"{server.url}: gone for {PATIENCE:.0f} s. Job {job['id']} continues when it "
                    "is back; the same command follows it again."
                )
            time.sleep(1)


class _View:
    """Events on the terminal: lines as they are, progress as the bar of a Reporter."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._task = ExitStack()
        self._counter: Counter | None = None
        self._waits = ""

    def __enter__(self) -> _View:
        return self

    def __exit__(self, *_: object) -> None:
        self._task.close()

    def show(self, event: str, data: dict[str, Any]) -> None:
        """Show one event."""
        if event == "line":
            self._line(data["text"])
        elif event == "progress":
            self._progress(data)
        elif event == "job":
            if data["state"] in ("queued", "waiting") and data["state"] != self._waits:
                self._waits = data["state"]
                why = "for its turn" if data["state"] == "queued" else "for another job's end"
                self._reporter.say(f"job {data['id']} waits {why}")

    def _line(self, text: str) -> None:
        if self._counter is not None and self._counter.done >= self._counter.total:
            self._task.close()  # the bar stays where it ended, what is said comes below
        if text.startswith("warning: "):
            self._reporter.warn(text.removeprefix("warning: "))
        elif not text.startswith("error: "):  # it comes back as the job's message
            self._reporter.say(text)

    def _progress(self, data: dict[str, Any]) -> None:
        counter = self._counter
        label, total, unit = data["label"], data["total"], data["unit"]
        same = counter is not None and (counter.title, counter.total) == (label, total)
        if counter is None or not same or data["done"] < counter.done:  # less: it began again
            self._task.close()
            task = self._reporter.task(label, total, unit, data["done"])
            counter = self._counter = self._task.enter_context(task)
        if data["done"] != counter.done or data["note"] != counter.note:
            counter.advance(data["done"] - counter.done, data["note"])


def _interrupted(server: Server, job: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Ask whether the job goes on; return it when it was cancelled. Raises Interrupted else."""
    number = job["id"]
    here = sys.stdin.isatty() and sys.stderr.isatty()
    if here:
        sys.stderr.write(f"\nLeave job {number} running on {server.url}? [Y/n] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() in ("n", "no"):
            server.job("POST", f"/api/jobs/{number}/cancel")
            reporter.say("cancelling; it stops with everything saved")
            return _follow(server, job, reporter)
    raise Interrupted(
        f"left job {number} running. The same command follows it again; end it with: "
        f"curl -X POST {server.header}{server.url}/api/jobs/{number}/cancel"
    )
