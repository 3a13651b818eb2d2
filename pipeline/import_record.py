"""import.json: what a data set of the data root was imported from, and with which stride."""

from __future__ import annotations

import json
from pathlib import Path

from vsodpipe import media
from vsodpipe.errors import DataError

FILE = "import.json"


def write(folder: Path, card: str, source: Path, stride: int) -> None:
    """Write the record of an import into the folder of its data set."""
    record = {"card": card, "source": str(source.resolve()), "stride": stride}
    media.write_bytes(folder / FILE, json.dumps(record, indent=1).encode() + b"\n")


def stride(folder: Path) -> int | None:
    """Return the distance of the frame numbers that were imported, None without a record.

    Raises DataError for a file that is no record.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    record = media.read_json(file, "Delete it, or import the data set again.")
    found = record.get("stride") if isinstance(record, dict) else None
    if not isinstance(found, int) or found < 1:
        raise DataError(f"{file}: no record of an import. Delete it, or import again.")
    return found
