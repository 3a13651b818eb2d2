"""What lies in the data root, counted without opening pictures and remembered while it is the same.

A folder is listed again only when its time of change moved: of a data set of a million frames that
nobody touched, one stat a folder is all that a look costs.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from vsodpipe import catalogue, flow_record, listing, media
from vsodpipe.errors import DataError, VsodpipeError
from vsodpipe.service.settings import Settings

T = TypeVar("T")

SECONDS = 2.0
"""A look at the data root serves all who ask within this time."""
_DATASET = re.compile(rb'(?<!\\)"dataset":\s*("(?:[^"\\]|\\.){1,255}")')


@dataclass(frozen=True)
class Place:
    """Where the files of one video lie; all still pictures of a data set are one video."""

    name: str
    img: Path
    gt: Path | None
    flow: Path
    """The folder beside which other forms of flow lie."""
    inner: str
    """Where in those folders this video's flow is."""


def url(start: str, *parts: str) -> str:
    """Return the URL of a file below one of the served folders."""
    return "/".join((f"/{start}", *(quote(part, safe="/") for part in parts)))


def places(folder: Path) -> list[Place]:
    """Return the videos of a data set. Raises DataError for a folder that holds none."""
    if catalogue.is_of_pictures(folder, folder.name):
        return [Place("", folder / "RGB", folder / "GT", folder / "FLOW", "")]
    layout = catalogue.layout_of(folder)
    if layout is None:
        raise DataError(f"{folder.name}: there is no such data set.")
    found = []
    for name in catalogue.video_names(folder, layout):
        base, inner = layout.flow_place(name)
        gt = folder / layout.gt.format(video=name) if layout.gt else None
        img = folder / layout.img.format(video=name)
        found.append(Place(name, img, gt, folder / base, inner))
    return found


class Shelf:
    """The data sets, stores and manifests of one server, and what is remembered of them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._seen: dict[str, tuple[int, Any]] = {}
        self._lock = threading.Lock()
        self._looked, self._last = -SECONDS, list[dict[str, Any]]()

    def datasets(self) -> list[dict[str, Any]]:
        """Return every data set of the data root as JSON, as it was seen a moment ago."""
        # while one looks, others get what was seen before, if anything was
        if self._lock.acquire(blocking=not self._last):
            try:
                if time.monotonic() - self._looked >= SECONDS:
                    self._last = self._look()
                    self._looked = time.monotonic()
            finally:
                self._lock.release()
        return self._last

    def kept(self, path: Path, make: Callable[[Path], T]) -> T | None:
        """Return `make(path)` as long as `path` stays unchanged, None where it cannot be read."""
        key = f"{make.__name__}:{path}"
        try:
            changed = path.stat().st_mtime_ns
            if key in self._seen and self._seen[key][0] == changed:
                found: T = self._seen[key][1]
                return found
            found = make(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, VsodpipeError):
            return None
        # what changes twice within one tick of the clock looks unchanged: not kept while young
        if time.time_ns() - changed > 2e9:
            self._seen[key] = changed, found
        return found

    def _look(self) -> list[dict[str, Any]]:
        root, about = self._settings.data, _manifests(self)
        stores: dict[str, list[dict[str, Any]]] = {}
        for path in listing.entries(root):
            if path.suffix in (".zarr", ".h5") and (store := _store(self, path)):
                stores.setdefault(store.pop("dataset"), []).append(store)
        names = catalogue.present(root)
        rows = [self._dataset(root / name) for name in names]
        # a store may be all that is here of a data set
        rows += [_row(name) for name in stores if name not in names]
        for row in rows:
            row["stores"] = stores.get(row["name"], [])
            row["manifests"] = about.get(row["name"], [])
            row["bytes"] += sum(store["bytes"] for store in row["stores"])
        return sorted(rows, key=lambda row: media.natural_key(row["name"]))

    def _dataset(self, folder: Path) -> dict[str, Any]:
        row = _row(folder.name)
        try:
            videos = places(folder)
        except VsodpipeError as error:
            return {**row, "problem": str(error)}
        row["videos"] = sum(bool(place.name) for place in videos)
        flows: dict[tuple[str, str], int] = {}
        for place in videos:
            for key, where in (("frames", place.img), ("masks", place.gt)):
                count, size = self.kept(where, pictures) or (0, 0) if where else (0, 0)
                row[key] += count
                row["bytes"] += size
            for form, where in self._flows(place):
                record = self.kept(where, _fingerprint)
                if record is not None:
                    flows[form, record] = flows.get((form, record), 0) + 1
                    row["bytes"] += self.kept(where, _below) or 0
        row["flow"] = [
            {"form": form, "fingerprint": record, "videos": count}
            for (form, record), count in sorted(flows.items())
        ]
        return row

    def _flows(self, place: Place) -> Iterator[tuple[str, Path]]:
        """Yield every form of flow that a video may have, by the name of its folder."""
        for name in self.kept(place.flow.parent, _folders) or ():
            if name == place.flow.name or name.startswith(f"{place.flow.name}_"):
                yield name, place.flow.with_name(name) / place.inner


def _row(name: str) -> dict[str, Any]:
    empty: dict[str, Any] = {"videos": 0, "frames": 0, "masks": 0, "flow": [], "bytes": 0}
    return {"name": name, **empty, "problem": None}


def pictures(folder: Path) -> tuple[int, int]:
    """Return number and bytes of the pictures in a folder."""
    count = size = 0
    with os.scandir(folder) as found:
        for entry in found:
            if os.path.splitext(entry.name)[1].lower() in media.IMAGE_SUFFIXES:
                count += 1
                size += _size(entry)
    return count, size


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a link that leads nowhere
        return 0


def _below(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    size = 0
    with os.scandir(folder) as found:
        for entry in found:
            is_folder = entry.is_dir(follow_symlinks=False)
            size += _below(Path(entry.path)) if is_folder else _size(entry)
    return size


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as found:
        return sorted(entry.name for entry in found if entry.is_dir())


def _fingerprint(folder: Path) -> str | None:
    """Return the fingerprint of a flow folder; of still pictures that of the first one."""
    if record := flow_record.read(folder):
        return str(record["fingerprint"])
    with os.scandir(folder) as found:
        first = next((Path(entry.path) for entry in found if entry.is_dir()), None)
    record = flow_record.read(first) if first else None
    return str(record["fingerprint"]) if record else None


def _store(shelf: Shelf, path: Path) -> dict[str, Any] | None:
    """Return what a store of the data root says of itself; None while it is packed."""
    about = shelf.kept(path if path.suffix == ".h5" else path / "zarr.json", _about_store)
    return {**about, "url": url("data", path.name)} if about else None


def _about_store(file: Path) -> dict[str, Any]:
    if file.suffix == ".h5":  # its attributes take h5py to read
        return {"dataset": file.stem, "bytes": file.stat().st_size}
    about = media.read_json(file)["attributes"]
    groups, flow = about["groups"], about.get("flow") or {}
    size = sum(sum(sizes) for group in groups for sizes in group["bytes"].values())
    frames = sum(group["frames"] for group in groups)
    words = {"tier": about["tier"], "fingerprint": flow.get("fingerprint")}
    return {"dataset": about["dataset"], "bytes": size, "frames": frames, **words}


def _manifests(shelf: Shelf) -> dict[str, list[str]]:
    """Return the URLs of the manifests that hold a data set, by its name."""
    found: dict[str, list[str]] = {}
    for path in sorted(listing.entries(shelf._settings.manifests)):
        if path.suffix == ".json":
            for name in shelf.kept(path, _held) or ():
                found.setdefault(name, []).append(url("manifests", path.name))
    return found


def _held(file: Path) -> list[str]:
    """Return the data sets of a manifest by its text: parsing millions of rows takes seconds."""
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as data:
        return [str(json.loads(match)) for match in _DATASET.findall(data)]
