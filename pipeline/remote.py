"""The token of a service (`vsodpipe serve`), for what is read from its URLs through fsspec."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

from vsodpipe.errors import DataError


def options(url: str) -> dict[str, Any]:
    """Return the options with which fsspec reads `url`.

    VSODPIPE_TOKEN goes to the scheme, host and port of VSODPIPE_AT, and nowhere else.
    """
    at, token = os.environ.get("VSODPIPE_AT", ""), os.environ.get("VSODPIPE_TOKEN")
    if not token or not at.startswith(("http://", "https://")) or _origin(at) != _origin(url):
        return {}
    return {"client_kwargs": {"headers": {"Authorization": f"Bearer {token}"}}}


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def refused(url: str, error: BaseException) -> DataError | None:
    """Return the error for a place that asks for a token, None where `error` is of another kind."""
    cause: BaseException | None = error
    while cause is not None:
        if getattr(cause, "status", None) in (401, 403):
            return DataError(
                f"{url}: the server asks for a token. Set VSODPIPE_AT to its address, such as "
                "http://host:8765, and VSODPIPE_TOKEN to the token; --at '' then works here."
            )
        cause = cause.__cause__
    return None
