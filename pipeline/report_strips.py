"""Pictures for a page: the best, the worst and the most different videos, frame by frame.

A strip is one video: frame, mask, flow, and every method's map and its errors, as small WebP. How
many there are is bounded (`STRIPS`, `FRAMES`, `METHODS`, `BYTES`), so that a page stays small
whatever the size of the data set; what a bound leaves out is said on the page.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vsodpipe import maps, media, metrics, scoring, tables
from vsodpipe.errors import DataError
from vsodpipe.maps import Folder
from vsodpipe.progress import Reporter, printable
from vsodpipe.protocols import METRICS
from vsodpipe.report_scores import ranked
from vsodpipe.scoring import Item

BEST, WORST, DIFFERENT = 2, 3, 2
"""Videos of each kind of a data set."""
STRIPS = 24
"""Strips of a page, over all its data sets."""
FRAMES = 20
"""Frames of a strip, evenly spaced; the one that it opens at comes on top."""
JUDGED = 200
"""Frames of a video of which J is drawn, evenly spaced."""
METHODS = 6
"""Methods whose maps are shown."""
BYTES = 16_000_000
"""Most bytes of all pictures of a page, as text."""
WIDTH, HEIGHT = 320, 200
"""Most pixels of a picture."""
QUALITY = 62

Image = NDArray[np.uint8]
FALSE_POSITIVE, FALSE_NEGATIVE = (255, 122, 26), (40, 150, 255)
"""RGB: orange and blue, which people with any colour vision tell apart."""


@dataclass(frozen=True)
class Choice:
    """A video to show, and why."""

    dataset: str
    video: str
    reasons: tuple[str, ...]
    """`best`, `worst`, `most different`; the first decides where the strip opens."""


def choose(result: Mapping[str, Any]) -> tuple[list[Choice], int]:
    """Return the videos to show, and how many more the bound of the page leaves out.

    Videos are ranked by the first headline metric of the protocol, averaged over the methods; they
    differ most where its range over the methods is largest. Data sets take turns.
    """
    of_datasets = []
    for dataset, methods in tables.datasets(result).items():
        key = next(iter(methods.values()))["protocol"]["headline"][0]
        order = ranked(methods, key)
        spread = {video: _spread(methods, video, key) for video in order}
        apart = sorted((v for v in order if spread[v] > 0), key=lambda v: -spread[v])
        kinds = {
            "worst": order[::-1][: min(WORST, (len(order) + 1) // 2)],
            "best": order[: min(BEST, len(order) // 2)],
            "most different": apart[:DIFFERENT],
        }
        turns = zip_longest(*([(kind, v) for v in videos] for kind, videos in kinds.items()))
        reasons: dict[str, list[str]] = {}
        for kind, video in (pair for turn in turns for pair in turn if pair):
            reasons.setdefault(video, []).append(kind)
        of_datasets.append([Choice(dataset, v, tuple(why)) for v, why in reasons.items()])
    everything = [c for turn in zip_longest(*of_datasets) for c in turn if c]
    places = {dataset: place for place, dataset in enumerate(tables.datasets(result))}
    kept = sorted(everything[:STRIPS], key=lambda choice: places[choice.dataset])
    return kept, len(everything) - len(kept)


def _spread(methods: Mapping[str, Any], video: str, key: str) -> float:
    values = (scored["videos"].get(video, {}).get(key) for scored in methods.values())
    known = [value for value in values if value is not None]
    return max(known) - min(known) if known else 0.0


def strips(
    result: Mapping[str, Any], folders: Sequence[Folder], reporter: Reporter
) -> tuple[list[dict[str, Any]], list[list[list[str]]], list[str]]:
    """Return what the page says of each strip, its pictures, and what was left out, in words.

    Pictures are base64 WebP in the order of the strip's `layers`, for each of its frames. Raises
    DataError for a picture that cannot be read.
    """
    chosen, beyond = choose(result)
    notes = [f"{beyond} more videos are not shown: at most {STRIPS} a page."] if beyond else []
    of_dataset: dict[str, list[Folder]] = {}
    for folder in folders:
        of_dataset.setdefault(folder.split.dataset, []).append(folder)
    if more := max((len(found) for found in of_dataset.values()), default=0) - METHODS:
        if more > 0:
            notes.append(f"Pictures are of the first {METHODS} methods; {more} more have numbers.")
    about, pictures, used = [], [], 0
    known = tables.datasets(result)
    with reporter.task("report: pictures", len(chosen), "video") as counter:
        for number, choice in enumerate(chosen):
            shown = of_dataset[choice.dataset][:METHODS]
            described, found = _strip(choice, known[choice.dataset], shown)
            size = sum(len(text) for frame in found for text in frame)
            if used + size > BYTES:
                left = len(chosen) - number
                notes.append(f"{left} more videos are not shown: {BYTES // 10**6} MB a page.")
                break
            used += size
            about.append(described)
            pictures.append(found)
            counter.advance()
    return about, pictures, notes


def _strip(
    choice: Choice, methods: Mapping[str, Any], folders: Sequence[Folder]
) -> tuple[dict[str, Any], list[list[str]]]:
    scored = methods[folders[0].method]
    protocol = scored["protocol"]
    key = protocol["headline"][0]
    reader = _Video(choice, folders, protocol)
    judged = _even(len(reader.frames), JUDGED)
    j = [[reader.j(number, frame) for frame in judged] for number in range(len(folders))]
    opens = _opening(choice.reasons[0], np.array(j, np.float64))
    frames = sorted({opens, *_even(len(judged), FRAMES)})
    pictures = [list(reader.pictures(judged[place])) for place in frames]
    layers = ["frame", "mask", *(["flow"] if reader.has_flow else [])]
    about = {
        "dataset": printable(choice.dataset),
        "video": printable(choice.video),
        "reasons": choice.reasons,
        "metric": key,
        "heading": METRICS[key].heading,
        "layers": layers,
        "methods": [
            {
                "name": printable(folder.method),
                "value": methods[folder.method]["videos"].get(choice.video, {}).get(key),
                "j": [round(value, 4) for value in values],
            }
            for folder, values in zip(folders, j, strict=True)
        ],
        "names": [printable(reader.frames[frame].name) for frame in judged],
        "shown": frames,
        "opens": frames.index(opens),
        "frames": len(reader.frames),
    }
    return about, pictures


def _opening(reason: str, j: NDArray[np.float64]) -> int:
    """Return the frame that tells most, by J (methods, frames) of every frame."""
    if reason == "most different":
        return int(np.argmax(j.max(axis=0) - j.min(axis=0)))
    mean = j.mean(axis=0)
    return int(mean.argmin() if reason == "worst" else mean.argmax())


def _even(count: int, most: int) -> list[int]:
    """Return up to `most` places of `count`, evenly spaced, first and last among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))})


class _Video:
    """The frames of a video that count by the protocol, with their maps."""

    def __init__(
        self, choice: Choice, folders: Sequence[Folder], protocol: Mapping[str, Any]
    ) -> None:
        source, split = folders[0].source, folders[0].split
        (video,) = (video for video in split.videos if video.name == choice.video)
        frames = [frame for frame in video.frames if frame.gt is not None]
        self.frames = frames[1:-1] if protocol["frames"] == "trim" else frames
        self.has_flow = any(frame.flow is not None for frame in self.frames)
        self._source, self._choice = source, choice
        self._maps = [maps.match(f.path, split, f.cards).files for f in folders]

    def pair(self, method: int, frame: int) -> tuple[Image, NDArray[np.bool_]]:
        """Return the map of a method and the mask of a frame, of one size."""
        name, gt = self.frames[frame].name, str(self.frames[frame].gt)
        file = self._maps[method].get((self._choice.video, name))
        if file is None:
            raise DataError(f"{self._choice.dataset}/{self._choice.video}/{name} has no map.")
        item = Item(self._choice.video, self._source.path(gt), str(file))
        return scoring.pair(item)

    def j(self, method: int, frame: int) -> float:
        """Return J of a frame, as `vsodpipe eval` defines it."""
        prediction, gt = self.pair(method, frame)
        return float(metrics.region_similarity(metrics.binarise(prediction), gt))

    def pictures(self, frame: int) -> Iterator[str]:
        """Yield frame, mask, flow if there is any, and each method's map and errors."""
        entry = self.frames[frame]
        image = media.read_image(self._source.path(entry.img))
        yield _thumbnail(image)
        prediction, gt = self.pair(0, frame)
        yield _thumbnail(gt.astype(np.uint8) * 255)
        if self.has_flow:
            flow = self._source.path(entry.flow) if entry.flow else None
            yield _thumbnail(media.read_image(flow)) if flow else ""
        for method in range(len(self._maps)):
            prediction, gt = self.pair(method, frame)
            yield _thumbnail(prediction)
            yield _thumbnail(errors(image, metrics.binarise(prediction), gt))


def errors(image: Image, prediction: NDArray[np.bool_], gt: NDArray[np.bool_]) -> Image:
    """Return the frame (H, W, 3) in grey with what is wrong in colours: false foreground orange,
    missed foreground blue; what was found is bright, the background dark."""
    if image.shape[:2] != gt.shape:
        image = cv2.resize(image, (gt.shape[1], gt.shape[0])).astype(np.uint8, copy=False)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]
    painted = np.repeat(np.where((prediction & gt)[..., None], 90 + 0.65 * grey, 0.4 * grey), 3, 2)
    for wrong, colour in ((prediction & ~gt, FALSE_POSITIVE), (gt & ~prediction, FALSE_NEGATIVE)):
        painted[wrong] = 0.25 * painted[wrong] + 0.75 * np.array(colour, np.float32)
    return np.clip(np.rint(painted), 0, 255).astype(np.uint8)


def _thumbnail(image: Image) -> str:
    """Return a picture, RGB or grey, as small base64 WebP."""
    height, width = image.shape[:2]
    scale = min(1.0, WIDTH / width, HEIGHT / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
    bgr = small[..., ::-1] if small.ndim == 3 else cv2.cvtColor(small, cv2.COLOR_GRAY2BGR)
    done, data = cv2.imencode(
        ".webp", np.ascontiguousarray(bgr), [cv2.IMWRITE_WEBP_QUALITY, QUALITY]
    )
    if not done:
        raise DataError("a picture cannot be written as WebP. Install opencv-python-headless anew.")
    return base64.b64encode(data.tobytes()).decode()
