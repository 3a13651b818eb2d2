"""What the conditional and range headers of a request ask for (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import re
from collections.abc import Mapping

MOST = 64
"""Ranges of one request; a request for more is answered with the whole file."""

Range = tuple[int, int]
"""First byte, byte after the last one."""


def precondition(headers: Mapping[str, str], etag: str) -> int | None:
    """Return 412 or 304 where a condition of the request does not hold, else None."""
    wanted, other = headers.get("if-match"), headers.get("if-none-match")
    if wanted is not None and wanted.strip() != "*" and etag not in _tags(wanted):
        return 412
    if other is not None and (other.strip() == "*" or etag in _tags(other.replace("W/", ""))):
        return 304
    return None


def asked(headers: Mapping[str, str], etag: str, size: int) -> list[Range] | None:
    """Return the ranges that a file of `size` bytes is asked for, None for the whole of it.

    The list is empty where the file has none of them. A header that is malformed, asks for more
    than the file holds, or is meant for another version of it (If-Range) asks for the whole.
    """
    header = headers.get("range", "")
    if not header or headers.get("if-range", etag).strip() != etag:
        return None
    unit, _, text = header.partition("=")
    pieces = [piece.strip() for piece in text.split(",")]
    matches = [re.fullmatch(r"(\d{0,18})-(\d{0,18})", piece, re.ASCII) for piece in pieces]
    if unit.strip().lower() != "bytes" or len(pieces) > MOST:
        return None
    found = []
    for match in matches:
        if match is None or match[0] == "-":
            return None
        first, last = match.groups()
        if first and last and int(last) < int(first):
            return None
        start = int(first) if first else max(0, size - int(last))
        end = min(size, int(last) + 1) if first and last else size
        if start < end:
            found.append((start, end))
    return found if sum(end - start for start, end in found) <= size else None


def content_range(each: Range, size: int) -> str:
    """Return the value of a Content-Range header."""
    return f"bytes {each[0]}-{each[1] - 1}/{size}"


def _tags(header: str) -> list[str]:
    return [tag.strip() for tag in header.split(",")]
