"""The queue: every job and where it stands, in one SQLite file. A kill loses nothing.

A job is queued (its turn will come), waiting (for another job on the same data set or device),
running, done, failed or cancelled. One request is one job until that has ended.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vsodpipe.errors import VsodpipeError
from vsodpipe.service.requests import Request

OPEN = ("queued", "waiting", "running")
ENDED = ("done", "failed", "cancelled")
STATES = (*OPEN, *ENDED)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    arguments TEXT NOT NULL,
    command TEXT NOT NULL,
    locks TEXT NOT NULL,
    digest TEXT NOT NULL,
    state TEXT NOT NULL,
    code INTEGER,
    tries INTEGER NOT NULL DEFAULT 0,
    cancelled INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL,
    started REAL,
    ended REAL,
    progress TEXT,
    message TEXT,
    summary TEXT
);
CREATE INDEX IF NOT EXISTS by_state ON jobs (state, id);
CREATE UNIQUE INDEX IF NOT EXISTS one_open ON jobs (digest)
    WHERE state IN ('queued', 'waiting', 'running');
"""
_VERSION = 1
_PUBLIC = "id, kind, arguments, command, locks, state, code, created, started, ended, progress"
_PUBLIC += ", message, summary"
_JSON = ("arguments", "locks", "progress", "summary")


class Queue:
    """The jobs of one data root. Used by one thread."""

    def __init__(self, file: Path) -> None:
        """Open the queue in `file`. Raises VsodpipeError for one that cannot be used."""
        self._db = sqlite3.connect(file, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        try:
            self._prepare(file)
        except sqlite3.Error as error:
            self.close()
            raise VsodpipeError(
                f"{file}: the queue cannot be used ({error}). Free the disk or mend its rights; "
                "moved away, it is begun anew without the jobs of before."
            ) from error

    def _prepare(self, file: Path) -> None:
        # WAL: a killed process loses nothing, and a submission does not wait for the disk
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (found,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        if version not in (0, _VERSION):
            self.close()
            raise VsodpipeError(f"{file}: is of another version of vsodpipe. Move it away.")
        self._db.executescript(_SCHEMA)
        self._db.execute(f"PRAGMA user_version={_VERSION}")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def submit(self, request: Request) -> tuple[dict[str, Any], bool]:
        """Return the job of a request, and whether it is new: the same open request is one job."""
        row = (
            request.kind,
            json.dumps(request.arguments),
            request.command,
            json.dumps(request.locks),
            request.digest,
            time.time(),
        )
        made = self._db.execute(
            "INSERT INTO jobs (kind, arguments, command, locks, digest, state, created) "
            "VALUES (?, ?, ?, ?, ?, 'queued', ?) ON CONFLICT DO NOTHING RETURNING id",
            row,
        ).fetchall()
        if made:
            return self.get(made[0]["id"]), True
        (same,) = self._db.execute(
            "SELECT id FROM jobs WHERE digest = ? AND state IN ('queued', 'waiting', 'running')",
            (request.digest,),
        ).fetchone()
        return self.get(same), False

    def get(self, job: int) -> dict[str, Any]:
        """Return a job. Raises KeyError where there is none."""
        row = self._db.execute(f"SELECT {_PUBLIC} FROM jobs WHERE id = ?", (job,)).fetchone()
        if row is None:
            raise KeyError(job)
        return _public(row)

    def page(self, state: str | None, limit: int, before: int | None) -> list[dict[str, Any]]:
        """Return up to `limit` jobs, newest first, older than the job `before`."""
        where, values = ["id < ?"], [before if before is not None else 2**62]
        if state is not None:
            where.append("state = ?")
            values.append(state)  # type: ignore[arg-type]
        call = f"SELECT {_PUBLIC} FROM jobs WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ?"
        return [_public(row) for row in self._db.execute(call, (*values, limit))]

    def counts(self) -> dict[str, int]:
        """Return how many jobs are in each state."""
        rows = self._db.execute("SELECT state, COUNT(*) AS jobs FROM jobs GROUP BY state")
        return dict.fromkeys(STATES, 0) | {row["state"]: row["jobs"] for row in rows}

    def turn(self, free: int) -> tuple[list[int], list[int]]:
        """Return the next jobs to start, at most `free`, and those whose state changed to wait.

        A job waits for every open job before it on the same data set or device.
        """
        held: set[tuple[str, bool]] = set()
        start: list[int] = []
        changed: list[int] = []
        with self._transaction():
            rows = self._db.execute(
                "SELECT id, locks, state FROM jobs WHERE state = 'running' UNION ALL "
                "SELECT * FROM (SELECT id, locks, state FROM jobs "
                "WHERE state IN ('queued', 'waiting') ORDER BY id)"
            )
            for row in rows:
                locks = json.loads(row["locks"])
                if row["state"] != "running":
                    if len(start) >= free:
                        break
                    if not _conflict(locks, held):
                        start.append(row["id"])
                    elif row["state"] == "queued":
                        changed.append(row["id"])
                held.update(locks.items())
            self._db.executemany(
                "UPDATE jobs SET state = 'waiting' WHERE id = ?", [(job,) for job in changed]
            )
        return start, changed

    def begin(self, job: int) -> None:
        """Note that a job runs, for one more time."""
        self._db.execute(
            "UPDATE jobs SET state = 'running', started = COALESCE(started, MAX(created, ?)), "
            "tries = tries + 1 "
            "WHERE id = ?",
            (time.time(), job),
        )

    def tries(self, job: int) -> int:
        """Return how often a job was started."""
        row = self._db.execute("SELECT tries FROM jobs WHERE id = ?", (job,)).fetchone()
        return int(row["tries"])

    def requeue(self, job: int, message: str | None, *, counts: bool) -> None:
        """Put a job back; `counts` says whether the try counts against it."""
        self._db.execute(
            "UPDATE jobs SET state = 'queued', message = ?, tries = tries - ? WHERE id = ?",
            (message, 0 if counts else 1, job),
        )

    def end(
        self,
        job: int,
        state: str,
        code: int | None,
        message: str | None = None,
        progress: dict[str, Any] | None = None,
        summary: Any = None,
    ) -> None:
        """Note how a job ended."""
        self._db.execute(
            "UPDATE jobs SET state = ?, code = ?, ended = MAX(COALESCE(started, created), ?), "
            "message = ?, progress = ?, "
            "summary = ? WHERE id = ?",
            (state, code, time.time(), message, _text(progress), _text(summary), job),
        )

    def cancel(self, job: int) -> None:
        """Note that a job that runs is to be cancelled, should its server not see its end."""
        self._db.execute("UPDATE jobs SET cancelled = 1 WHERE id = ?", (job,))

    def unfinished(self) -> dict[int, bool]:
        """Return the jobs that a killed server left running, and whether they were cancelled."""
        rows = self._db.execute("SELECT id, cancelled FROM jobs WHERE state = 'running'")
        return {row["id"]: bool(row["cancelled"]) for row in rows}

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def _conflict(locks: dict[str, bool], held: set[tuple[str, bool]]) -> bool:
    """Return whether one of the `locks` (name -> alone) may not be taken beside the `held` ones."""
    for name, alone in locks.items():
        if (name, True) in held or (alone and (name, False) in held):
            return True
        if name.startswith("device "):
            continue
        if ("*", True) in held or (alone and ("*", False) in held):
            return True
        others = [one for one in held if not one[0].startswith("device ")] if name == "*" else []
        if any(alone or other for _, other in others):
            return True
    return False


def _text(value: Any) -> str | None:
    return None if value is None else json.dumps(value)


def _public(row: sqlite3.Row) -> dict[str, Any]:
    job = dict(row)
    for key in _JSON:
        job[key] = None if job[key] is None else json.loads(job[key])
    locks = job.pop("locks")
    job["data_set"] = next((name for name in locks if not name.startswith("device ")), None)
    return job
