"""The token of a service (`vsodpipe serve`), for what is read from its URLs through fsspec."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

from vsodpipe.errors import DataError, UsageError


def token() -> str | None:
    """Return VSODPIPE_TOKEN, None where there is none. Raises UsageError for one of no use."""
    given = os.environ.get("VSODPIPE_TOKEN") or None
    if given is not None and not (given.isascii() and given.isprintable()):
        raise UsageError("VSODPIPE_TOKEN: expected plain ASCII characters, without line ends.")
    return given


def options(url: str) -> dict[str, Any]:
    """Return the options with which fsspec reads `url`.

    VSODPIPE_TOKEN goes to the scheme, host and port of VSODPIPE_AT, and nowhere else.
    """
    at = os.environ.get("VSODPIPE_AT", "")
    if not at.startswith(("http://", "https://")) or _origin(at) != _origin(url):
        return {}
    given = token()
    return {"client_kwargs": {"headers": {"Authorization": f"Bearer {given}"}}} if given else {}


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
