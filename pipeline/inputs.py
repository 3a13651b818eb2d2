"""What `--manifest` names: a JSON, here or at a URL, a txt of rows, or a folder of data."""

from __future__ import annotations

from pathlib import Path

from vsodpipe import layouts, manifest, manifest_txt
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter


def open_manifest(place: str | Path, reporter: Reporter | None = None) -> Source:
    """Return the manifest at `place`: a .json file or fsspec URL, a .txt, or a folder of data.

    Raises DataError for what is none of these.
    """
    if "://" in str(place):
        return manifest.read(str(place))
    path = Path(place)
    if path.is_dir():
        made = layouts.manifest_of(path, None, reporter or Reporter(quiet=True))
        return Source(manifest=made, file=path, root=made.root)
    if path.suffix.lower() == ".txt":
        return manifest_txt.read(path)
    return manifest.read(path)
