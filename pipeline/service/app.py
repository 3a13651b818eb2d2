"""The application: every route behind the guard, the runner beside it."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.util import find_spec

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from vsodpipe.errors import VsodpipeError
from vsodpipe.service import guard, jobs, openapi, telemetry
from vsodpipe.service.guard import Guard
from vsodpipe.service.hub import Hub
from vsodpipe.service.runner import Runner
from vsodpipe.service.settings import Settings

LOG = logging.getLogger("vsodpipe.service")
_MODULES = ("state", "upload", "page", "files")
"""The last one answers whatever path is left."""


def create(settings: Settings, hub: Hub) -> Guard:
    """Return the application; `hub.close()` ends its streams before it stops.

    Raises VsodpipeError for a queue that cannot be used.
    """
    meters, devices = telemetry.Meters(), telemetry.Devices()

    async def metrics(request: Request) -> Response:
        """Return the metrics in the text format of Prometheus."""
        text = await telemetry.text(request.app.state.jobs, meters, devices)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def healthz(request: Request) -> Response:
        """Say that the server answers, its queue can be read and its jobs are started."""
        request.app.state.jobs.queue.counts()
        if any(task.done() for task in request.app.state.work):
            raise HTTPException(503, "jobs are no longer started; the server's log says why.")
        return JSONResponse({"ok": True})

    async def document(request: Request) -> Response:
        """Return the OpenAPI document."""
        return JSONResponse(openapi.describe(routes, settings.token is not None))

    async def docs(request: Request) -> Response:
        """Show the OpenAPI document to people."""
        return HTMLResponse(openapi.page(openapi.describe(routes, settings.token is not None)))

    routes: list[BaseRoute] = [
        *jobs.routes(settings),
        Route("/metrics", metrics),
        Route("/healthz", healthz),
        Route("/openapi.json", document),
        Route("/docs", docs),
    ]
    for name in _MODULES:
        if find_spec(f"vsodpipe.service.{name}"):
            routes += import_module(f"vsodpipe.service.{name}").routes(settings)
    app = Starlette(
        routes=routes,
        exception_handlers={
            VsodpipeError: _refused,
            HTTPException: _http,
            sqlite3.Error: _broken,
            ClientDisconnect: _gone,
            Exception: _unexpected,
        },
        lifespan=_lifespan,
    )
    app.state.settings = settings
    app.state.jobs = Runner(settings, hub)
    return Guard(app, settings, meters)


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    runner: Runner = app.state.jobs
    app.state.closing = runner.hub.closing
    work = app.state.work = [asyncio.create_task(runner.run())]
    if settings.watch is not None:
        watching = import_module("vsodpipe.service.watch").watch
        work.append(asyncio.create_task(watching(settings, runner)))
    for task in work:
        task.add_done_callback(_tell)
    try:
        yield
    finally:
        for task in reversed(work):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _tell(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        LOG.critical("stopped", exc_info=error)


async def _refused(request: Request, error: Exception) -> Response:
    return guard.error(400, str(error))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = guard.error(error.status_code, error.detail)
    answer.headers.update(error.headers or {})
    return answer


async def _gone(request: Request, error: Exception) -> Response:
    return guard.error(400, "the request broke off.")  # for the log: nobody is there to hear it


async def _broken(request: Request, error: Exception) -> Response:
    LOG.error("queue", extra={"problem": str(error)})
    return guard.error(503, f"the queue cannot be used just now: {error}.")


async def _unexpected(request: Request, error: Exception) -> Response:
    return guard.error(500, "unexpected; the server's log says more.")
