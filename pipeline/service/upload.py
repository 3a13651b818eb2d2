"""Uploads: streamed to the disk, continued where they broke off, checked, then imported as a job.

    POST  /api/uploads      {"name": "surf.mp4", "bytes": 81234, "dataset": "holiday"} -> id, offset
    PATCH /api/uploads/ID   Upload-Offset: 0, and bytes from there on; again until all are there
    HEAD  /api/uploads/ID   -> Upload-Offset

With `crc32c` in the request the same file has the same id, so that whoever asks again goes on where
it broke off. What is uploaded lies in a folder of its own until its import is done.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import google_crc32c
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from vsodpipe import card, media
from vsodpipe.errors import DataError, UsageError
from vsodpipe.progress import printable
from vsodpipe.service import processes
from vsodpipe.service.settings import Settings

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz")
KEPT_SECONDS = 7 * 24 * 3600
"""An upload that nobody went on with, or whose import failed, is removed after this time."""
OPEN = 64
"""Uploads that may lie about unfinished."""
CHECK_SECONDS = 120
WRITTEN = 2**20
"""Bytes that are written at once."""
RECORD, PART = "upload.json", "part"

_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"


class Announced(BaseModel):
    """What is going to be uploaded: a video file or an archive, for a data set."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: str = Field(max_length=200)
    bytes: int = Field(gt=0)
    dataset: Annotated[str, Field(pattern=_NAME)]
    """A new name or one of your own; a card, such as davis, for the official archive."""
    crc32c: Annotated[str, Field(pattern="^[0-9a-f]{8}$")] | None = None
    """Of the whole file, in hexadecimal."""


class Uploads:
    """The uploads of one server."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._busy = settings, set[str]()
        self._folder = settings.state / "uploads"

    async def announce(self, request: Request) -> Response:
        """Announce an upload; the answer says its id and from which byte on to send."""
        about = _announced(await request.body())
        _check_name(about, self._settings)
        await self.tidy(request.app.state.jobs)
        found = await run_in_threadpool(self._begin, about)
        if _state_of(request.app.state.jobs, found["job"]) in ("failed", "cancelled"):
            with self._alone(found["id"]):  # it is here: what is asked for is its import, anew
                found = await self._finish(request, found["id"])
        return JSONResponse(found, 201)

    async def show(self, request: Request) -> Response:
        """Say how far an upload is, as JSON and in the header Upload-Offset."""
        found = await run_in_threadpool(self._state, request.path_params["id"])
        return JSONResponse(found, headers=_offsets(found))

    async def send(self, request: Request) -> Response:
        """Take bytes from Upload-Offset on; with the last ones the file is checked and imported."""
        number = request.path_params["id"]
        with self._alone(number):  # before the look: an offset holds only for whoever is alone
            found = await run_in_threadpool(self._state, number)
            if request.headers.get("upload-offset") != str(found["offset"]):
                raise HTTPException(
                    409, f"expected Upload-Offset: {found['offset']}.", headers=_offsets(found)
                )
            await self._take(request, number, found["bytes"] - found["offset"])
            found = await run_in_threadpool(self._state, number)
            if found["offset"] == found["bytes"] and found["job"] is None:
                found = await self._finish(request, number)
        return JSONResponse(found, headers=_offsets(found))

    async def drop(self, request: Request) -> Response:
        """Give an upload up and remove its bytes."""
        number = request.path_params["id"]
        with self._alone(number):
            await run_in_threadpool(self._state, number)
            await run_in_threadpool(media.remove, self._folder / number)
        return Response(status_code=204)

    @contextmanager
    def _alone(self, number: str) -> Iterator[None]:
        if number in self._busy:
            raise HTTPException(409, "bytes of it are arriving. Ask for its Upload-Offset later.")
        self._busy.add(number)
        try:
            yield
        finally:
            self._busy.discard(number)

    async def tidy(self, jobs: Any) -> None:
        """Remove what is imported, and what nobody went on with for a week."""
        for folder, job, age in await run_in_threadpool(self._lying):
            if folder.name not in self._busy and (
                age > KEPT_SECONDS or _state_of(jobs, job) == "done"
            ):
                with self._alone(folder.name):
                    await run_in_threadpool(media.remove, folder)

    def _lying(self) -> list[tuple[Path, int | None, float]]:
        """Return the folder of every upload, its job and the seconds since its last change."""
        found = []
        for folder in self._folder.glob("*"):
            try:
                newest = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
                job = _read(folder)["job"] if (folder / RECORD).is_file() else None
                found.append((folder, job, time.time() - newest))
            except (OSError, ValueError, DataError):  # it goes away just now
                continue
        return found

    def _begin(self, about: Announced) -> dict[str, Any]:
        number = secrets.token_hex(16)
        if about.crc32c is not None:
            number = hashlib.sha256(about.model_dump_json().encode()).hexdigest()[:32]
        folder = self._folder / number
        if not (folder / RECORD).is_file():
            if about.bytes > self._settings.upload_bytes:
                most = self._settings.upload_bytes
                raise HTTPException(413, f"{about.name}: expected at most {most} bytes.")
            self._folder.mkdir(parents=True, exist_ok=True)
            if len(os.listdir(self._folder)) >= OPEN:
                raise HTTPException(429, f"{OPEN} uploads are open. Finish or remove some.")
            if about.bytes > shutil.disk_usage(self._folder).free:
                raise HTTPException(507, f"{about.name}: the server has no room for it.")
            folder.mkdir(exist_ok=True)
            _write(folder, {**about.model_dump(), "job": None})
        return self._state(number)

    def _state(self, number: str) -> dict[str, Any]:
        folder = self._folder / number
        if not re.fullmatch("[0-9a-f]{32}", number) or not (folder / RECORD).is_file():
            raise HTTPException(404, "there is no such upload. Announce it anew.")
        about = _read(folder)
        part, whole = folder / PART, folder / about["name"]
        file = whole if whole.exists() else part
        size = file.stat().st_size if file.exists() else 0
        return {"id": number, "offset": size, **about}

    async def _take(self, request: Request, number: str, wanted: int) -> None:
        """Write the body to the end of the part; of a broken connection what has come."""
        buffer = bytearray()
        with open(self._folder / number / PART, "ab", buffering=0) as file:

            async def write() -> None:
                try:
                    while buffer:  # a full disk takes a part of it, which counts
                        del buffer[: await run_in_threadpool(file.write, bytes(buffer))]
                except OSError as error:
                    raise HTTPException(507, f"no room for it: {error.strerror}.") from None

            try:
                async for data in request.stream():
                    wanted -= len(data)
                    if wanted < 0:
                        raise HTTPException(413, "more bytes came than were announced.")
                    buffer += data
                    if len(buffer) >= WRITTEN:
                        await write()
            except ClientDisconnect:
                pass
            await write()

    async def _finish(self, request: Request, number: str) -> dict[str, Any]:
        """Check the file that is whole now, and submit its import."""
        folder, about = self._folder / number, _read(self._folder / number)
        part, whole = folder / PART, folder / about["name"]
        try:
            if part.exists():
                await run_in_threadpool(_check_sum, part, about)
                os.replace(part, whole)  # the check goes by its name
            await _check_content(whole, self._settings)
        except (DataError, UsageError):
            await run_in_threadpool(media.remove, folder)
            raise
        own = about["dataset"] not in card.cards(self._settings.data)
        arguments = {"name": about["dataset"], "source": [str(whole)], "own": own}
        job = request.app.state.jobs.submit("import", arguments)
        _write(folder, {**about, "job": job["id"]})
        return self._state(number)


def routes(settings: Settings) -> list[BaseRoute]:
    """Return the routes of uploads."""
    uploads = Uploads(settings)
    return [
        Route("/api/uploads", uploads.announce, methods=["POST"]),
        Route("/api/uploads/{id}", uploads.show, methods=["GET"]),
        Route("/api/uploads/{id}", uploads.send, methods=["PATCH"]),
        Route("/api/uploads/{id}", uploads.drop, methods=["DELETE"]),
    ]


def _state_of(jobs: Any, job: int | None) -> str | None:
    """Return the state of an import: None without one, done where the queue has forgotten it."""
    try:
        return None if job is None else str(jobs.get(job)["state"])
    except KeyError:
        return "done"


def _announced(body: bytes) -> Announced:
    try:
        return Announced.model_validate_json(body)
    except ValidationError as wrong:
        first = wrong.errors()[0]
        place = ".".join(map(str, first["loc"])) or "body"
        raise UsageError(f"{place}: {first['msg']}.") from None


def _check_name(about: Announced, settings: Settings) -> None:
    name = about.name
    plain = name.isprintable() and not name.startswith(".") and not re.search(r"[/\\]", name)
    if not plain or name in (RECORD, PART) or len(name.encode()) > 200:
        raise UsageError(f"{name[:80]!r}: expected the plain name of a file.")
    if not _is_video(name) and not name.lower().endswith(ARCHIVES):
        raise UsageError(f"{name}: expected a video file, or an archive (zip, tar).")
    if about.dataset in card.cards(settings.data) and _is_video(name):
        raise UsageError(
            f"{about.dataset} is a known data set, whose official archive is expected. Choose "
            "another name for videos of your own."
        )


def _is_video(name: str) -> bool:
    return Path(name).suffix.lower() in media.VIDEO_SUFFIXES


def _check_sum(file: Path, about: dict[str, Any]) -> None:
    if about["crc32c"] is None:
        return
    made = google_crc32c.Checksum()
    with open(file, "rb") as opened:
        while data := opened.read(WRITTEN):
            made.update(data)
    if made.digest().hex() != about["crc32c"]:
        raise DataError(
            f"{about['name']}: arrived with checksum {made.digest().hex()}, expected "
            f"{about['crc32c']}. Send it again."
        )


async def _check_content(file: Path, settings: Settings) -> None:
    """Look into a foreign file in a process of its own: a decoder may crash, or take for ever."""
    call = [sys.executable, "-m", "vsodpipe.service.probe", str(file)]
    child = await asyncio.create_subprocess_exec(
        *call,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=processes.environment(settings.data, settings.state),  # without the token
    )
    try:
        _, said = await asyncio.wait_for(child.communicate(), CHECK_SECONDS)
    except TimeoutError:
        raise DataError(f"{file.name}: takes too long to open.") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode:
        words = said.decode(errors="replace").strip().replace(f"{file.parent}/", "")
        lines = words.splitlines() or [f"{file.name}: cannot be read."]
        raise DataError(printable(lines[-1]))


def _offsets(found: dict[str, Any]) -> dict[str, str]:
    return {"upload-offset": str(found["offset"]), "upload-length": str(found["bytes"])}


def _read(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = media.read_json(folder / RECORD)
    return about


def _write(folder: Path, about: dict[str, Any]) -> None:
    media.write_bytes(folder / RECORD, json.dumps(about).encode())
