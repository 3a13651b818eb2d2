"""Optical flow: engines by name, the colour rule (`colour`) and flow files (`files`).

    engine = vsodpipe.flows.create("dis", preset="fast", max_side=960)
    for flow in engine.clip(frames):  # float32 (H, W, 2), one per pair of consecutive frames
        ...

A new engine is one new file in this folder. It holds a literal tuple `ENGINES` of the names it
serves, and `create(name, *, <its options>) -> Engine`. Or it is a package of its own, with an
entry point in the group `vsodpipe.engines`: its name is the engine's, its value that `create` or
the module that holds it. Either is imported only when it is used.
"""

import ast
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import signature
from pathlib import Path
from typing import Any, Literal, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from vsodpipe.errors import DataError, UsageError, VsodpipeError, unknown

Frame = NDArray[np.uint8]
"""uint8 RGB, (H, W, 3)."""

Flow = NDArray[np.float32]
"""float32 (H, W, 2): (u, v) in pixels of the source frame, x to the right, y down."""

DIRECTIONS = ("forward", "backward", "both")


GROUP = "vsodpipe.engines"
"""The group of entry points that names the engines of other packages."""


@dataclass(frozen=True)
class Plan:
    """What an engine does with frames of one size, and the memory that takes."""

    batch: int
    """Pairs computed at once."""
    volume: str
    """How correlations are kept: `full`, `half`, `on demand`, or `none` (no such thing here)."""
    bytes: int
    """Peak of the working memory, about; the network's weights are not in it."""


def silent(message: str) -> None:
    """Say nothing: what `Engine.say` is at first."""


class Engine(Protocol):
    """What every flow engine offers."""

    fingerprint: dict[str, object]
    """Everything that decides the numbers, as plain JSON."""

    say: Callable[[str], None]
    """Called with what the engine decided about memory, once for a size; `silent` at first."""

    def plan(self, height: int, width: int, direction: str = "forward", gap: int = 1) -> Plan:
        """Return what `clip` would do now with frames of that size, in pixels.

        Raises VsodpipeError where they do not fit into memory.
        """
        ...

    @overload
    def clip(
        self,
        frames: Iterable[Frame],
        direction: Literal["forward", "backward"] = "forward",
        gap: int = 1,
    ) -> Iterator[Flow]: ...
    @overload
    def clip(
        self, frames: Iterable[Frame], direction: Literal["both"], gap: int = 1
    ) -> Iterator[tuple[Flow, Flow]]: ...
    @overload
    def clip(self, frames: Iterable[Frame], direction: str, gap: int = 1) -> Iterator[Any]: ...
    def clip(
        self, frames: Iterable[Frame], direction: str = "forward", gap: int = 1
    ) -> Iterator[Any]:
        """Yield one flow per pair of frames t and t+gap, at the frames' own size, in order of t.

        N frames give max(0, N - gap). `frames` are read as needed and never collected. `forward`
        is the flow t -> t+gap of each pair, `backward` its flow t+gap -> t, `both` the tuple of
        the two.
        """
        ...


def names() -> tuple[str, ...]:
    """Return the names of all flow engines, sorted; imports none of them."""
    return tuple(sorted((*_modules(), *_plugins())))


def options(name: str) -> tuple[str, ...]:
    """Return the names of the options that the flow engine `name` has."""
    return (*(p for p in signature(_factory(name)).parameters if p != "name"), "max_side")


def create(name: str, max_side: int | None = None, **chosen: Any) -> Engine:
    """Return the flow engine `name` with the `chosen` options, the others at their defaults.

    Frames with a side above `max_side` pixels are made smaller for the engine, and their flow
    large again.
    """
    known = options(name)
    for option in chosen:
        if option not in known:
            raise unknown(f"{name} option", option, known)
    engine = _factory(name)(name, **chosen)
    if max_side is None:
        return engine
    # Not at the top: it imports OpenCV, and listing the names must stay cheap.
    from vsodpipe.flows.resized import Resized

    return Resized(engine, max_side)


def _modules() -> dict[str, str]:
    """Map each engine's name to its module, by reading the `ENGINES` of every file here.

    The files are parsed, not imported: listing the names must not cost the import of torch.
    """
    files = (file for folder in __path__ for file in sorted(Path(folder).glob("*.py")))
    return {name: file.stem for file in files for name in _listed(file)}


@cache
def _listed(file: Path) -> tuple[str, ...]:
    """Return the `ENGINES` of a file."""
    found: list[str] = []
    for node in ast.parse(file.read_text(encoding="utf-8"), file.name).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="ENGINES")], value=value):
                found += ast.literal_eval(value)
    return tuple(found)


def _plugins() -> dict[str, EntryPoint]:
    """Map the name of each engine of another package to its entry point, not loaded."""
    taken = dict.fromkeys(_modules(), "vsodpipe")
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if point.name in taken:
            raise VsodpipeError(
                f"flow engine {point.name}: expected one package that offers it, got "
                f"{taken[point.name]} and {_package(point)}. Remove {_package(point)}, or rename "
                f"the engine in its entry points {GROUP}."
            )
        taken[point.name] = _package(point)
        found[point.name] = point
    return found


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def _factory(name: str) -> Callable[..., Engine]:
    modules, plugins = _modules(), _plugins()
    if name in modules:
        return import_module(f"{__name__}.{modules[name]}").create
    if name not in plugins:
        raise unknown("flow engine", name, (*modules, *plugins))
    try:
        loaded = plugins[name].load()
    except Exception as error:  # another package's code: whatever it was, name the package
        raise VsodpipeError(
            f"flow engine {name} of package {_package(plugins[name])}: could not be imported "
            f"({type(error).__name__}: {error})."
        ) from error
    factory = getattr(loaded, "create", loaded)
    if not callable(factory):
        raise VsodpipeError(
            f"flow engine {name} of package {_package(plugins[name])}: expected a function "
            f"create(name, ...), or a module with it, got {plugins[name].value}."
        )
    return factory


def check_clip(direction: str, gap: int) -> None:
    """Raise UsageError unless `direction` is one of `DIRECTIONS` and `gap` a number from 1."""
    if direction not in DIRECTIONS:
        raise unknown("flow direction", direction, DIRECTIONS)
    if isinstance(gap, bool) or not isinstance(gap, int) or gap < 1:
        raise UsageError(f"flow gap: expected a whole number from 1, got {gap!r}.")


def pairwise(
    flow: Callable[[Frame, Frame], Flow],
    frames: Iterable[Frame],
    direction: str,
    gap: int,
    *,
    least: int,
    multiple: int = 1,
) -> Iterator[Any]:
    """Make a `clip` out of a function that computes the `flow` of one pair (source, target).

    `flow` gets frames whose borders are replicated until each side has `least` pixels and divides
    by `multiple`; what it returns is cropped back.
    """
    # Not a generator itself: a wrong direction must fail at the call, not at the first pair.
    check_clip(direction, gap)

    def pairs() -> Iterator[Any]:
        kept: deque[Frame] = deque(maxlen=gap)
        for frame in checked(frames):
            after, window = padded(frame, least, multiple)
            if len(kept) == gap:
                forward, backward = (kept[0], after), (after, kept[0])
                if direction == "both":
                    yield cropped(flow(*forward), window), cropped(flow(*backward), window)
                else:
                    yield cropped(flow(*(forward if direction == "forward" else backward)), window)
            kept.append(after)

    return pairs()


def checked(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Yield the frames, each verified to be uint8 RGB and of the first one's size."""
    first: tuple[int, ...] | None = None
    for number, frame in enumerate(frames):
        frame = np.asarray(frame)
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
            raise DataError(
                "optical flow: expected frames of uint8 RGB (H, W, 3), got "
                f"{frame.dtype} {frame.shape} (frame {number} of the clip)."
            )
        first = first or frame.shape
        if frame.shape != first:
            raise DataError(
                f"optical flow: expected frames of one size, {first[1]}x{first[0]} as the first, "
                f"got {frame.shape[1]}x{frame.shape[0]} (frame {number} of the clip)."
            )
        yield frame


def padded(frame: Frame, least: int, multiple: int) -> tuple[Frame, tuple[slice, slice]]:
    """Return a padded copy of `frame` and its window: half on each side, an odd pixel after.

    Borders are replicated until each side has `least` pixels and divides by `multiple`.
    """
    borders, window = [], []
    for side in frame.shape[:2]:
        extra = max(least, side + -side % multiple) - side
        borders.append((extra // 2, extra - extra // 2))
        window.append(slice(extra // 2, extra // 2 + side))
    # A copy even without borders: whoever makes the frames may reuse one buffer for all of them.
    return np.pad(frame, (*borders, (0, 0)), mode="edge"), (window[0], window[1])


def cropped(flow: Flow, window: tuple[slice, slice]) -> Flow:
    """Return `flow` inside the `window` that `padded` gave; VsodpipeError unless it is finite."""
    flow = np.ascontiguousarray(flow[window])
    if not np.isfinite(flow).all():
        raise VsodpipeError(
            "optical flow: expected finite numbers, got NaN or infinity "
            f"(frames of {flow.shape[1]}x{flow.shape[0]}). Check the engine's weights."
        )
    return flow
