"""What `--manifest` names: a JSON, here or at a URL, a txt of rows, or a folder of data."""

from __future__ import annotations

from pathlib import Path

from vsodpipe import catalogue, layouts, manifest, manifest_txt
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter


def open_manifest(
    place: str | Path,
    reporter: Reporter | None = None,
    start: Path | None = None,
    data: Path | None = None,
) -> Source:
    """Return the manifest at `place`: a .json file or fsspec URL, a .txt, or a folder of data.

    Relative paths of a txt start from `start`; private cards are those of the data root `data`
    [default: the one of this session]. Raises DataError for what is none of these.
    """
    if "://" in str(place):
        return manifest.read(str(place))
    path = Path(place)
    if path.is_dir():
        root = catalogue.data_root(data)
        made = layouts.manifest_of(path, None, reporter or Reporter(quiet=True), root)
        return Source(manifest=made, file=path, root=made.root)
    if path.suffix.lower() == ".txt":
        return manifest_txt.read(path, start, catalogue.data_root(data))
    return manifest.read(path)
