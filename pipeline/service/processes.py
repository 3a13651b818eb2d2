"""Child processes of the server: started alone in their group, asked to stop, never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

MARK = "VSODPIPE_JOB_OF"
"""In the environment of every process of a job: the folder of its server's state."""
GRACE = 30.0
"""Seconds that a job has to stop by itself, as after Ctrl-C, before it is killed."""


def environment(data: Path, state: Path) -> dict[str, str]:
    """Return the environment of a job: that of the server, without its token and address."""
    kept = {k: v for k, v in os.environ.items() if k not in ("VSODPIPE_AT", "VSODPIPE_TOKEN")}
    own = {"VSODPIPE_DATA": str(data), "VSODPIPE_PROGRESS": "json", MARK: str(state)}
    return kept | own | {"PYTHONUNBUFFERED": "1"}


async def start(words: tuple[str, ...], cwd: Path, out: Path, env: dict[str, str]) -> Process:
    """Start `vsodpipe WORDS` in `cwd`; its stdout goes to the file `out`, stderr is a pipe."""
    with open(out, "wb") as file:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "vsodpipe",
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=asyncio.subprocess.PIPE,
            cwd=cwd,
            env=env,
            start_new_session=True,  # Ctrl-C on the server's terminal is the server's alone
            limit=2**20,
        )


Process = asyncio.subprocess.Process


async def stop(process: Process) -> None:
    """Interrupt a job as Ctrl-C does, and kill what is left of it after its time of grace."""
    if process.returncode is None:
        process.send_signal(signal.SIGINT)
        try:
            await asyncio.wait_for(process.wait(), GRACE)
        except TimeoutError:
            pass
    kill_group(process.pid)


def kill_group(pid: int) -> None:
    """Kill what is left of the group of a job's process, such as its workers."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def orphans(state: Path) -> list[int]:
    """Return the processes that jobs of an earlier server with this `state` left behind.

    They are found by their environment, so that no process of another is ever meant. Without /proc
    (not Linux) there are none: a job ends there when it next writes to its server's closed pipe.
    """
    mark = f"{MARK}={state}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            values = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # of another user, or ended meanwhile
            continue
        if mark in values and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def end_orphans(state: Path, grace: float = 10.0) -> int:
    """End the processes that an earlier server left behind; return how many there were.

    They are interrupted as by Ctrl-C and killed after `grace` seconds: their jobs start anew, and a
    command continues where it stood.
    """
    first = orphans(state)
    for pid in first:
        _send(pid, signal.SIGINT)
    until = time.monotonic() + grace
    while left := orphans(state):
        if time.monotonic() > until:
            for pid in left:
                _send(pid, signal.SIGKILL)
        time.sleep(0.05)
    return len(first)


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
