"""Runs the jobs of the queue, each as a child process, and tells its followers how far it is."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from vsodpipe.errors import UsageError, VsodpipeError
from vsodpipe.service import places, processes, requests
from vsodpipe.service.hub import Hub
from vsodpipe.service.queue import OPEN, Queue
from vsodpipe.service.settings import Settings

LOG = logging.getLogger("vsodpipe.service")
TRIES = 3
"""How often a job is started whose process was killed from outside."""
LOG_BYTES = 8 * 2**20
"""The most bytes of a job's log; what it says after that is not kept."""
AGAIN_SECONDS = 2.0
"""After which a queue that could not be written is tried again."""
SUMMARY_BYTES = 256 * 2**10
"""The largest result that is part of a job's record; /output has any."""


class Runner:
    """Submits, starts, follows and stops jobs; everything on the server's event loop."""

    def __init__(self, settings: Settings, hub: Hub) -> None:
        self.settings, self.hub = settings, hub
        self.progress: dict[int, dict[str, Any]] = {}
        """Where each running job stands, as its process last said."""
        self.finished: dict[int, dict[str, Any]] = {}
        """The end of the task before that one: nobody's bar shall stop short of it."""
        self._active: dict[int, processes.Process | None] = {}
        """The process of each job that runs; None while it is being started."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._cancelled: set[int] = set()
        self._stopping = False
        self._due = asyncio.Event()
        self.folder = settings.state / "jobs"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.queue = Queue(settings.state / "jobs.sqlite")

    # what requests ask for

    def submit(self, kind: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the job of a request, new or the same that is open. Raises UsageError."""
        return self.submitted(kind, arguments)[0]

    def submitted(self, kind: str, arguments: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """Return the job of a request, and whether it is new."""
        job, new = self.queue.submit(requests.check(kind, arguments, self.settings))
        if new:
            LOG.info("job", extra={"job": job["id"], "state": "queued", "kind": kind})
            self.hub.changed(job["id"])
            self._due.set()
        return self.shown(job), new

    def shown(self, job: dict[str, Any]) -> dict[str, Any]:
        """Return a job of the queue with its progress up to date."""
        return job | ({"progress": p} if (p := self.progress.get(job["id"])) else {})

    def get(self, job: int) -> dict[str, Any]:
        """Return a job with its progress. Raises KeyError where there is none."""
        return self.shown(self.queue.get(job))

    def cancel(self, job: int) -> dict[str, Any]:
        """Cancel a job: one that runs is interrupted as by Ctrl-C. Raises UsageError once ended."""
        state = self.queue.get(job)["state"]
        if state not in OPEN:
            raise UsageError(f"job {job}: has ended already ({state}).")
        if job in self._active:
            self.queue.cancel(job)
            process = self._active[job]
            if process is not None and job not in self._cancelled:
                self._background(processes.stop(process))
            self._cancelled.add(job)
        else:
            self._end(job, "cancelled", 130, "cancelled before it began")
        return self.get(job)

    def log(self, job: int) -> Path:
        """Return the file of what a job's process said."""
        return self.folder / f"{job}.log"

    def output(self, job: int) -> Path:
        """Return the file of what a job's process printed on stdout."""
        return self.folder / f"{job}.out"

    # the loop

    async def run(self) -> None:
        """Start jobs as their turn comes, until cancelled; then stop them, to continue later."""
        left = await asyncio.to_thread(processes.end_orphans, self.settings.state)
        try:
            await self._written(lambda: self._take_up(left))
            while True:
                self._due.clear()
                await self._written(self._start_due)
                await self._due.wait()
        finally:
            await self._stop()

    def _take_up(self, orphans: int) -> None:
        for job, cancelled in self.queue.unfinished().items():
            if cancelled:
                self._end(job, "cancelled", 130, "cancelled")
                continue
            self.queue.requeue(job, "continues after a restart of the server", counts=False)
            self.hub.changed(job)
            LOG.info("job", extra={"job": job, "state": "queued", "orphans": orphans})

    async def _written(self, work: Callable[[], None]) -> None:
        """Do `work` on the queue, as often as the disk is full: what happened is not forgotten."""
        while True:
            try:
                return work()
            except sqlite3.Error as error:
                LOG.error("queue", extra={"problem": str(error)})
                if self._stopping:  # the next server finds the job as one that a kill left
                    return
                await asyncio.sleep(AGAIN_SECONDS)

    def _start_due(self) -> None:
        free = self.settings.jobs - len(self._active)
        if free <= 0:
            return
        start, waiting = self.queue.turn(free)
        for job in waiting:
            self.hub.changed(job)
        for job in start:
            self.queue.begin(job)
            self._active[job] = None
            self._background(self._run(job))

    def _background(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stop(self) -> None:
        self._stopping = True
        running = [process for process in self._active.values() if process is not None]
        await asyncio.gather(*(processes.stop(process) for process in running))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.queue.close()

    # one job

    async def _run(self, job: int) -> None:
        """Run a job to its end, and note how it ended."""
        said: deque[str] = deque(maxlen=1)
        code: int | None = None
        process = None
        try:
            process = self._active[job] = await self._start(job)
            self.hub.changed(job)
            LOG.info("job", extra={"job": job, "state": "running", "pid": process.pid})
            if self._stopping or job in self._cancelled:  # asked while it was being started
                self._background(processes.stop(process))
            await self._listen(job, process, said)
            code = await process.wait()
        except (VsodpipeError, OSError) as error:
            said.append(str(error))
        except Exception as error:
            LOG.exception("job", extra={"job": job})
            said.append(f"{type(error).__name__}: {error}")
        if process is not None:
            processes.kill_group(process.pid)  # its workers, or itself where following it failed
        await self._written(lambda: self._ended(job, code, said[0] if said else None))
        self._active.pop(job, None)
        self._cancelled.discard(job)
        self._due.set()

    async def _start(self, job: int) -> processes.Process:
        record = self.queue.get(job)
        words = places.words(record, self.settings)
        empty = self.settings.state / "empty"  # where no relative path leads anywhere
        empty.mkdir(exist_ok=True, mode=0o555)
        env = processes.environment(self.settings.data, self.settings.state)
        return await processes.start(words, empty, self.output(job), env)

    async def _listen(self, job: int, process: processes.Process, said: deque[str]) -> None:
        """Take progress from the process, and keep its other lines as the job's log."""
        assert process.stderr is not None
        with open(self.log(job), "ab", buffering=0) as log:
            while True:
                try:
                    line = await process.stderr.readline()
                except ValueError:  # longer than any line of ours
                    continue
                if not line:
                    return
                if line.startswith(b'{"progress":'):
                    self._moved(job, line)
                    continue
                text = line.decode(errors="replace").rstrip().rpartition("\r")[2]
                if text:
                    if not text.startswith("Next: "):
                        said.append(text)
                    if log.tell() < LOG_BYTES:
                        with suppress(OSError):  # a full disk: the job may still come to its end
                            log.write(text.encode() + b"\n")
                    self.hub.moved(job)

    def _moved(self, job: int, line: bytes) -> None:
        before = self.progress.get(job)
        try:
            now = self.progress[job] = {"job": job, **json.loads(line)["progress"]}
        except (ValueError, KeyError, TypeError):  # half a line, of a process that was killed
            return
        if before is not None and before["label"] != now["label"]:
            self.finished[job] = before
        self.hub.moved(job)

    def _ended(self, job: int, code: int | None, said: str | None) -> None:
        cancelled = job in self._cancelled
        if self._stopping and code not in (0, 2) and not cancelled:
            self.queue.requeue(job, "continues when the server is started again", counts=False)
            self.progress.pop(job, None)
        elif code is not None and code < 0 and not cancelled and self.queue.tries(job) < TRIES:
            self.queue.requeue(job, f"was killed (signal {-code}), starts again", counts=True)
            self.progress.pop(job, None)
            LOG.warning("job", extra={"job": job, "state": "queued", "signal": -code})
            self.hub.changed(job)
        elif code == 0:
            self._end(job, "done", 0, said)
        elif cancelled:
            self._end(job, "cancelled", 130, "cancelled")
        else:
            number = 1 if code is None else code if code > 0 else 128 - code
            self._end(job, "failed", number, (said or "").removeprefix("error: "))

    def _end(self, job: int, state: str, code: int | None, message: str | None) -> None:
        last = self.progress.get(job)
        self.queue.end(job, state, code, message, last, self._summary(job))
        self.progress.pop(job, None)
        self.finished.pop(job, None)
        LOG.info("job", extra={"job": job, "state": state, "code": code})
        self.hub.changed(job)
        self._due.set()

    def _summary(self, job: int) -> Any:
        """Return what the command printed with --json, None where it printed none."""
        try:
            if self.output(job).stat().st_size > SUMMARY_BYTES:
                return None
            # NaN is no JSON: one answer with it would be none to a browser
            return json.loads(self.output(job).read_bytes(), parse_constant=lambda _: None)
        except (OSError, ValueError):
            return None
