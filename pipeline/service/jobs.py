"""The URLs of jobs: submit, list, follow, cancel, log."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from vsodpipe.errors import UsageError, unknown
from vsodpipe.service import events, guard, requests
from vsodpipe.service.kinds import KINDS
from vsodpipe.service.queue import STATES
from vsodpipe.service.runner import Runner
from vsodpipe.service.settings import Settings

_PAGE = 500
"""The most jobs of one answer."""
_NUMBER = re.compile("[0-9]{1,15}")
_WEEKS = 4 * 7 * 24 * 3600


class Submission(BaseModel):
    """A request for a job; what `arguments` holds is said by the model of its kind."""

    model_config = ConfigDict(extra="forbid", strict=True)
    kind: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class Login(BaseModel):
    """What the page sends for its cookie."""

    model_config = ConfigDict(extra="forbid", strict=True)
    token: str


class Job(BaseModel):
    """A job as it is answered."""

    id: int
    kind: str
    arguments: dict[str, Any]
    command: str
    data_set: str | None
    state: Literal["queued", "waiting", "running", "done", "failed", "cancelled"]
    code: int | None
    created: float
    started: float | None
    ended: float | None
    progress: dict[str, Any] | None
    message: str | None
    summary: Any


def routes(settings: Settings) -> list[BaseRoute]:
    """Return the routes of jobs, events and the session."""
    return [
        Route("/api/jobs", submit, methods=["POST"]),
        Route("/api/jobs", listed, methods=["GET"]),
        Route("/api/jobs/{job}", job, methods=["GET"]),
        Route("/api/jobs/{job}/cancel", cancel, methods=["POST"]),
        Route("/api/jobs/{job}/log", log, methods=["GET"]),
        Route("/api/jobs/{job}/output", output, methods=["GET"]),
        Route("/api/events", follow, methods=["GET"]),
        Route("/api/kinds", kinds, methods=["GET"]),
        Route("/api/me", me, methods=["GET"]),
        Route("/login", login, methods=["POST"]),
    ]


def _runner(request: Request) -> Runner:
    runner: Runner = request.app.state.jobs
    return runner


async def _json(request: Request, model: type[BaseModel]) -> Any:
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as wrong:
        first = wrong.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        raise UsageError(f"{place}: {first['msg']}.") from None


def _number(request: Request, name: str, most: int, default: int | None) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text) or not 0 < int(text) <= most:
        raise UsageError(f"{name}={text[:40]}: expected a whole number from 1 to {most}.")
    return int(text)


async def submit(request: Request) -> Response:
    """Ask for a job; the same request as that of an open job is that job (200, else 201)."""
    asked = await _json(request, Submission)
    made, new = _runner(request).submitted(asked.kind, asked.arguments)
    return JSONResponse(made, 201 if new else 200)


async def listed(request: Request) -> Response:
    """List jobs, the newest first; `next` is the `before` of the next page."""
    state = request.query_params.get("state")
    if state is not None and state not in STATES:
        raise unknown("state", state[:40], STATES)
    limit = _number(request, "limit", _PAGE, 100) or 100
    runner = _runner(request)
    found = runner.queue.page(state, limit, _number(request, "before", 2**53, None))
    more = found[-1]["id"] if len(found) == limit else None
    return JSONResponse({"jobs": [runner.shown(each) for each in found], "next": more})


def _known(request: Request) -> dict[str, Any]:
    number = str(request.path_params["job"])
    try:
        if _NUMBER.fullmatch(number):
            return _runner(request).get(int(number))
    except KeyError:
        pass
    raise HTTPException(404, f"no job {number[:40]}.")


async def job(request: Request) -> Response:
    """Show one job."""
    return JSONResponse(_known(request))


async def cancel(request: Request) -> Response:
    """Cancel a job; one that runs is interrupted as by Ctrl-C."""
    try:
        return JSONResponse(_runner(request).cancel(_known(request)["id"]))
    except UsageError as ended:
        raise HTTPException(409, str(ended)) from None


async def log(request: Request) -> Response:
    """Return what the job said, as text."""
    file = _runner(request).log(_known(request)["id"])
    return FileResponse(file, media_type="text/plain") if file.is_file() else Response(b"")


async def output(request: Request) -> Response:
    """Return what the job printed on stdout: its result with --json, or its table."""
    file = _runner(request).output(_known(request)["id"])
    return FileResponse(file, media_type="text/plain") if file.is_file() else Response(b"")


async def follow(request: Request) -> Response:
    """Follow one job (`job=ID`) or all as server-sent events: job, progress, line."""
    number = _number(request, "job", 2**53, None)
    runner = _runner(request)
    if number is not None:
        request.path_params["job"] = number
        _known(request)
    place = request.headers.get("last-event-id", "0")
    offset = int(place) if _NUMBER.fullmatch(place) else 0
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(
        events.stream(runner, number, offset), media_type="text/event-stream", headers=headers
    )


async def kinds(request: Request) -> Response:
    """Return the JSON Schema of the arguments of every kind of job."""
    return JSONResponse({kind: requests.model(kind).model_json_schema() for kind in KINDS})


async def me(request: Request) -> Response:
    """Say whether a token is needed, and whether this request has it."""
    settings: Settings = request.app.state.settings
    ok = guard.known(request.headers, settings)
    return JSONResponse({"token": settings.token is not None, "ok": ok})


async def login(request: Request) -> Response:
    """Take the token and set the cookie that stands for it."""
    settings: Settings = request.app.state.settings
    given = (await _json(request, Login)).token
    if settings.token is None or not guard.same(given, settings.token):
        await asyncio.sleep(0.5)  # guessing is slow
        raise HTTPException(401, "that is not the token.")
    response = Response(status_code=204)
    response.set_cookie(
        guard.COOKIE,
        guard.session(settings.token),
        max_age=_WEEKS,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response
