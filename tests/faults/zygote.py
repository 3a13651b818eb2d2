"""A process that has imported everything and forks one child a command, with a fault inside.

Run as a script, it obeys JSON lines on stdin (see `Zygote`, its other end):

    {"op": "start", "argv": [...], "cwd": ..., "log": ..., "fault": {...}}    -> {"pid": ...}
    {"op": "wait", "pid": ..., "timeout": ...}                                -> {"status": ...}
    {"op": "mount", "place": ..., "data": "size=1m", "flags": ...}             -> {"error": ...}

Where the system allows it, it has mounts of its own, which end with it: small and read-only disks.

A fault is told to the child as the events that Python audits, so that nothing is patched: the
opening of a file for writing, renames, removals, new folders and links below a root are counted,
and at one of them the child is killed, or is told of an error such as a full disk.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MS_RDONLY, MS_REMOUNT = 1, 32
EXTRA = Path(__file__).resolve().parents[1] / "extra_models"
_NAMES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "os.truncate")


@dataclass(frozen=True)
class Fault:
    """What happens to a child at event number `at` below `root`; -1: the events are counted."""

    root: str
    at: int = -1
    act: str = "kill"
    """`kill` (its whole group), `stop` (until SIGCONT), `remove` or `shorten` the file `target`,
    `fail` (that event and all after it, with number `error`), `clock` (goes by `error` seconds)."""
    error: int = 0
    target: str = ""
    read: str = ""
    """Count the openings of this file, for reading, and nothing else."""
    seed: int = 0
    """Where `kill` cuts off the file that was being written; 0: it is whole."""


def arm(fault: Fault, counted: str) -> None:
    """Have the fault happen in this process; the number of events is kept in file `counted`."""
    count, written, kept = 0, "", 0
    root = os.path.join(os.path.realpath(fault.root), "")

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count, written, kept, root
        if event == "open":
            path, _, flags = arguments
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if isinstance(path, int) or writes == bool(fault.read):
                return
        elif event in _NAMES and not fault.read:
            path = arguments[1] if event in ("os.symlink", "os.link") else arguments[0]
        else:
            return
        if isinstance(path, int):
            return
        name = os.fsdecode(path)
        if event in ("os.remove", "os.rmdir") and arguments[1] > 0:  # relative to a folder
            name = os.path.join(os.readlink(f"/proc/self/fd/{arguments[1]}"), name)
        name = os.path.abspath(name)
        if not name.startswith(root) or fault.read not in ("", name):
            return
        number, count = count, count + 1
        if fault.at < 0 or number < fault.at:
            written = name if event == "open" else ""
            # what a file held before it was opened to be continued, a kill does not take away
            longer = written and arguments[2] & os.O_APPEND and os.path.exists(name)
            kept = os.path.getsize(name) if longer else 0
            return
        if fault.act == "fail":
            raise OSError(fault.error, os.strerror(fault.error), name)
        root = "\0"  # what follows is ours
        if fault.act == "kill":
            half = name if event == "os.rename" else written
            if fault.seed and os.path.isfile(half) and not os.path.islink(half):
                share, start = random.Random(fault.seed).random(), kept if half == written else 0
                os.truncate(half, start + int(share * (os.path.getsize(half) - start)))
            os.killpg(0, signal.SIGKILL)
        elif fault.act == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif fault.act == "remove":
            os.remove(fault.target)
        elif fault.act == "clock":
            real = time.time
            time.time = lambda: real() + fault.error
        else:
            os.truncate(fault.target, os.path.getsize(fault.target) - 1)

    sys.addaudithook(hear)
    import atexit

    def keep() -> None:
        nonlocal root
        root = "\0"
        Path(counted).write_text(str(count))

    atexit.register(keep)


def _run(argv: list[str], cwd: str, log: str, fault: dict[str, Any] | None) -> None:
    """Run the command line in this process, a new session, and end it."""
    import atexit

    from vsodpipe import cli

    os.setsid()
    os.chdir(cwd)
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(f"{log}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["vsodpipe", *argv]
    code: Any = 1
    if fault is not None:
        arm(Fault(**fault), f"{log}.count")
    try:
        cli.main()
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        atexit._run_exitfuncs()
        os._exit(code)


def serve() -> None:
    """Obey the lines of stdin until there are no more."""
    import cv2
    import torch
    from PIL import Image

    import vsodpipe
    from vsodpipe import flows, models, store, train

    found = pkgutil.iter_modules(vsodpipe.__path__)
    for name in ["h5py", "vsodpipe.flows.dis", *(f"vsodpipe.{each.name}" for each in found)]:
        if not name.endswith("__main__"):
            with suppress(ImportError):  # an optional package
                importlib.import_module(name)
    Image.init()
    flows.names()
    # one thread: a fork leaves the others behind, and whoever waits for them waits for ever
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    models.__path__.append(str(EXTRA))
    store.SHARD_BYTES = 4 * 3 * 32 * 40
    train.SAVE_SECONDS = 0.0
    gc.freeze()  # or the first collection of each child copies all that it shares
    running: set[int] = set()
    for line in sys.stdin:
        asked = json.loads(line)
        if asked.pop("op") == "start":
            pid = os.fork()
            if not pid:
                _run(**asked)
            running.add(pid)
            answer: dict[str, Any] = {"pid": pid}
        elif "place" in asked:
            answer = {"error": _mount(**asked)}
        else:
            answer = {"status": _wait(asked["pid"], asked["timeout"])}
            running.discard(asked["pid"])
        print(json.dumps(answer), flush=True)
    for pid in running:  # stopped, and never waited for
        os.kill(pid, signal.SIGKILL)


def _mount(place: str, data: str, flags: int) -> int:
    """Mount a disk in memory at `place`; return the number of the error, or 0."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    done = library.mount(b"tmpfs", os.fsencode(place), b"tmpfs", flags, data.encode())
    return ctypes.get_errno() if done else 0


def _wait(pid: int, timeout: float) -> int:
    """Return the exit code of a child, negative for a signal, 1000 for one that took too long."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 1000


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """Negative for a signal."""
    out: str
    err: str
    events: int
    """Counted below the root of its fault."""


class Zygote:
    """The other end: starts commands in folder `cwd`, and waits for them."""

    def __init__(self, cwd: Path, logs: Path) -> None:
        self.cwd, self.logs = cwd, logs
        logs.mkdir(parents=True, exist_ok=True)
        environment = {k: v for k, v in os.environ.items() if k != "VSODPIPE_DATA"}
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        private = shutil.which("unshare") and os.geteuid() == 0
        self._process = subprocess.Popen(
            [*(("unshare", "-m") if private else ()), sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._logs: dict[int, str] = {}

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, **asked: Any) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def disk(self, place: Path, size: str, *, again: bool = False, only_read: bool = False) -> bool:
        """Have a disk of `size` at `place`, or change it; return whether the system allows it."""
        flags = MS_REMOUNT * again + MS_RDONLY * only_read
        return not self._ask(op="mount", place=str(place), data=f"size={size}", flags=flags)[
            "error"
        ]

    def seen(self, place: Path) -> Path:
        """Return the path by which this process sees what the commands see at `place`."""
        return Path(f"/proc/{self._process.pid}/root{place}")

    def start(self, *argv: object, fault: Fault | None = None, cwd: Path | None = None) -> int:
        """Start a command; return its process, which leads a group of its own."""
        log = str(self.logs / f"{len(self._logs)}")
        told = None if fault is None else asdict(fault)
        call = [str(word) for word in argv]
        answer = self._ask(op="start", argv=call, cwd=str(cwd or self.cwd), log=log, fault=told)
        self._logs[answer["pid"]] = log
        return int(answer["pid"])

    def said(self, pid: int) -> str:
        """Return what a command has said for people, so far."""
        file = Path(f"{self._logs[pid]}.err")
        return file.read_text() if file.is_file() else ""

    def wait(self, pid: int, timeout: float = 60) -> Ended:
        """Wait for a command; one that takes longer is killed, and has exit code 1000."""
        code = self._ask(op="wait", pid=pid, timeout=timeout)["status"]
        log = self._logs[pid]
        counted = Path(f"{log}.count")
        events = int(counted.read_text()) if counted.is_file() else 0
        counted.unlink(missing_ok=True)
        out, err = (Path(f"{log}.{name}").read_text() for name in ("out", "err"))
        return Ended(code, out, err, events)

    def run(self, *argv: object, fault: Fault | None = None, cwd: Path | None = None) -> Ended:
        """Run a command to its end."""
        return self.wait(self.start(*argv, fault=fault, cwd=cwd))


if __name__ == "__main__":
    serve()
