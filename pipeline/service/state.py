"""What data sets there are, their videos and frames as URLs, and what became of runs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from vsodpipe import catalogue, listing, media
from vsodpipe.errors import DataError
from vsodpipe.protocols import METRICS
from vsodpipe.service.settings import Settings
from vsodpipe.service.shelf import Place, Shelf, pictures, places, url

RECORDS = ("run.json", "chain.json")
"""One of them makes a folder a run."""


def routes(settings: Settings) -> list[BaseRoute]:
    """Return the routes of what is there."""
    shelf = Shelf(settings)

    async def data(request: Request) -> JSONResponse:
        """Data sets: videos, frames, masks, flow with its fingerprint, manifests, stores, bytes."""
        return JSONResponse({"datasets": await run_in_threadpool(shelf.datasets)})

    async def dataset(request: Request) -> JSONResponse:
        """The videos of a data set, with their numbers of frames and masks."""
        name = request.path_params["dataset"]
        return JSONResponse(await run_in_threadpool(_dataset, shelf, settings, name))

    async def video(request: Request) -> JSONResponse:
        """The frames of a video: URLs of img, gt and flow, and of the maps that runs made."""
        name = request.path_params["dataset"]
        chosen = request.query_params.get("video", "")
        return JSONResponse(await run_in_threadpool(_video, settings, name, chosen))

    async def runs(request: Request) -> JSONResponse:
        """Runs: model, stages, checkpoints, scores and the URLs of their reports."""
        return JSONResponse({"runs": await run_in_threadpool(_runs, shelf, settings.runs)})

    return [
        Route("/api/data", data, methods=["GET"]),
        Route("/api/data/{dataset}", dataset, methods=["GET"]),
        Route("/api/data/{dataset}/frames", video, methods=["GET"]),
        Route("/api/runs", runs, methods=["GET"]),
    ]


def _folder(settings: Settings, name: str) -> Path:
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise HTTPException(404, f"{name}: there is no such data set.")
    try:
        if listing.is_folder(settings.data / name):
            return settings.data / name
    except DataError:
        pass
    raise HTTPException(404, f"{name}: there is no such data set.")


def _dataset(shelf: Shelf, settings: Settings, name: str) -> dict[str, Any]:
    rows = []
    for place in places(_folder(settings, name)):
        frames, _ = shelf.kept(place.img, pictures) or (0, 0)
        masks, _ = shelf.kept(place.gt, pictures) or (0, 0) if place.gt else (0, 0)
        rows.append({"name": place.name, "frames": frames, "masks": masks})
    return {"name": name, "videos": rows}


def _video(settings: Settings, name: str, chosen: str) -> dict[str, Any]:
    folder = _folder(settings, name)
    place = next((place for place in places(folder) if place.name == chosen), None)
    if place is None:
        raise HTTPException(404, f"{name}: has no video {chosen}.")
    frames = [
        {
            "name": frame.name,
            **{key: _url(settings.data, getattr(frame, key)) for key in ("img", "gt", "flow")},
        }
        for frame in _frames(folder, place)
    ]
    names = [str(frame["name"]) for frame in frames]
    return {"name": chosen, "frames": frames, "maps": _maps(settings, name, chosen, names)}


def _frames(folder: Path, place: Place) -> Iterable[catalogue.Frame]:
    if not place.name:
        return (video.frames[0] for video in catalogue.pictures_of(folder))
    layout = catalogue.layout_of(folder)
    assert layout is not None  # it has a video
    return catalogue.read_video(folder, layout, place.name).frames


def _url(root: Path, file: Path | None) -> str | None:
    return None if file is None else url("data", file.relative_to(root).as_posix())


def _maps(settings: Settings, dataset: str, video: str, names: list[str]) -> list[dict[str, Any]]:
    """Return the maps of a video by every run that made some, frame by frame."""
    found = []
    for run in listing.entries(settings.runs):
        folder = run / "maps" / dataset / video
        there = {path.stem: path.name for path in listing.pictures(folder)}
        if there:
            start = folder.relative_to(settings.runs).as_posix()
            files = [url("runs", start, there[n]) if n in there else None for n in names]
            found.append({"run": run.name, "files": files})
    return found


def _runs(shelf: Shelf, root: Path) -> list[dict[str, Any]]:
    """Return every run of the folder, the newest first."""
    rows = []
    for folder in listing.entries(root):
        record = next((r for name in RECORDS if (r := shelf.kept(folder / name, _started))), None)
        if record is not None:
            rows.append({"name": folder.name, **record, **_made(shelf, folder)})
    return sorted(rows, key=lambda row: -row["started"])


def _started(file: Path) -> dict[str, Any]:
    note = media.read_json(file)
    stages = [str(stage) for stage in note.get("stages") or []]
    model = note.get("model") or note.get("name") or file.stem
    return {"model": str(model), "stages": stages, "started": file.stat().st_mtime}


def _made(shelf: Shelf, folder: Path) -> dict[str, Any]:
    files = listing.entries(folder)
    checkpoints = sorted(file.stem for file in listing.entries(folder / "checkpoints"))
    reports = sorted(file.name for file in files if file.suffix == ".html")
    return {
        "checkpoints": checkpoints,
        "maps": sorted(path.name for path in listing.entries(folder / "maps")),
        "scores": shelf.kept(folder / "scores.json", _scores) or [],
        "reports": [url("runs", folder.name, name) for name in reports],
    }


def _scores(file: Path) -> list[dict[str, Any]]:
    """Return the headline scores of a run's scores.json, one row a data set."""
    rows = []
    for method, found in media.read_json(file)["methods"].items():
        for dataset, about in found["datasets"].items():
            total = about["total"]
            shown = {
                METRICS[key].heading: total[key]
                for key in about["protocol"]["headline"]
                if isinstance(total.get(key), (int, float)) and math.isfinite(total[key])
            }
            rows.append({"method": str(method), "dataset": str(dataset), "scores": shown})
    return rows
