"""The page: static parts, the same for everyone; what they show comes from the API."""

from __future__ import annotations

import hashlib
from importlib import resources

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from vsodpipe.service import ranges
from vsodpipe.service.settings import Settings

_KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_PARTS = {
    **dict.fromkeys(("page.html", "page.css", "page.js"), "vsodpipe.service"),
    **dict.fromkeys(("page_dom.js", "page_jobs.js", "page_forms.js"), "vsodpipe.service"),
    **{"page_data.js": "vsodpipe.service", "report.css": "vsodpipe"},
}
"""Name -> package. The look is that of reports."""


def routes(settings: Settings) -> list[BaseRoute]:
    """Return the routes of the page and its parts; no data is in them, so they need no token."""

    async def page(request: Request) -> Response:
        """Show the page."""
        return _answer("page.html", request)

    async def part(request: Request) -> Response:
        """Return a script or style of the page."""
        name = request.path_params["name"]
        if name not in _PARTS or name == "page.html":
            raise HTTPException(404, f"{name}: the page has no such part.")
        return _answer(name, request)

    return [
        Route("/", page, methods=["GET"]),
        Route("/static/{name}", part, methods=["GET"]),
    ]


def _answer(name: str, request: Request) -> Response:
    data = resources.files(_PARTS[name]).joinpath(name).read_bytes()
    etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    headers = {"etag": etag, "cache-control": "no-cache"}
    if status := ranges.precondition(request.headers, etag):
        return Response(status_code=status, headers=headers)
    kind = f"{_KINDS[name.rpartition('.')[2]]}; charset=utf-8"
    return Response(data, headers={**headers, "content-type": kind})
