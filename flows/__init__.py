"""Optical flow: engines by name, the colour rule (`colour`) and flow files (`files`).

    engine = vsodpipe.flows.create("dis", preset="fast")
    for flow in engine.clip(frames):  # float32 (H, W, 2), one per pair of consecutive frames
        ...

A new engine is one new file in this folder. It holds a literal tuple `ENGINES` of the names it
serves, and `create(name, *, <its options>) -> Engine`. Its module is imported only when it is used.
"""

import ast
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, Literal, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from vsodpipe.errors import DataError, VsodpipeError, unknown

Frame = NDArray[np.uint8]
"""uint8 RGB, (H, W, 3)."""

Flow = NDArray[np.float32]
"""float32 (H, W, 2): (u, v) in pixels of the source frame, x to the right, y down."""

DIRECTIONS = ("forward", "backward", "both")


class Engine(Protocol):
    """What every flow engine offers."""

    fingerprint: dict[str, object]
    """Everything that decides the numbers, as plain JSON."""

    @overload
    def clip(
        self, frames: Iterable[Frame], direction: Literal["forward", "backward"] = "forward"
    ) -> Iterator[Flow]: ...
    @overload
    def clip(
        self, frames: Iterable[Frame], direction: Literal["both"]
    ) -> Iterator[tuple[Flow, Flow]]: ...
    @overload
    def clip(self, frames: Iterable[Frame], direction: str) -> Iterator[Any]: ...
    def clip(self, frames: Iterable[Frame], direction: str = "forward") -> Iterator[Any]:
        """Yield one flow per pair of consecutive frames, at the frames' own size.

        `frames` are read as needed and never collected. `forward` is the flow t -> t+1 of each
        pair, `backward` its flow t+1 -> t, `both` the tuple of the two.
        """
        ...


def names() -> tuple[str, ...]:
    """Return the names of all flow engines, sorted; imports none of them."""
    return tuple(sorted(_modules()))


def options(name: str) -> tuple[str, ...]:
    """Return the names of the options that the flow engine `name` has."""
    return tuple(p for p in signature(_factory(name)).parameters if p != "name")


def create(name: str, **chosen: Any) -> Engine:
    """Return the flow engine `name` with the `chosen` options, the others at their defaults."""
    known = options(name)
    for option in chosen:
        if option not in known:
            raise unknown(f"{name} option", option, known)
    return _factory(name)(name, **chosen)


def _modules() -> dict[str, str]:
    """Map each engine's name to its module, by reading the `ENGINES` of every file here.

    The files are parsed, not imported: listing the names must not cost the import of torch.
    """
    found: dict[str, str] = {}
    for file in (file for folder in __path__ for file in sorted(Path(folder).glob("*.py"))):
        for node in ast.parse(file.read_text(encoding="utf-8"), file.name).body:
            match node:
                case ast.Assign(targets=[ast.Name(id="ENGINES")], value=value):
                    found.update(dict.fromkeys(ast.literal_eval(value), file.stem))
    return found


def _factory(name: str) -> Callable[..., Engine]:
    modules = _modules()
    if name not in modules:
        raise unknown("flow engine", name, modules)
    return import_module(f"{__name__}.{modules[name]}").create


def check_direction(direction: str) -> None:
    """Raise UsageError unless `direction` is one of `DIRECTIONS`."""
    if direction not in DIRECTIONS:
        raise unknown("flow direction", direction, DIRECTIONS)


def pairwise(
    flow: Callable[[Frame, Frame], Flow],
    frames: Iterable[Frame],
    direction: str,
    *,
    least: int,
    multiple: int = 1,
) -> Iterator[Any]:
    """Make a `clip` out of a function that computes the `flow` of one pair (source, target).

    `flow` gets frames whose borders are replicated until each side has `least` pixels and divides
    by `multiple`; what it returns is cropped back.
    """
    # Not a generator itself: a wrong direction must fail at the call, not at the first pair.
    check_direction(direction)

    def pairs() -> Iterator[Any]:
        before: Frame | None = None
        for frame in checked(frames):
            after, window = padded(frame, least, multiple)
            if before is not None:
                forward, backward = (before, after), (after, before)
                if direction == "both":
                    yield cropped(flow(*forward), window), cropped(flow(*backward), window)
                else:
                    yield cropped(flow(*(forward if direction == "forward" else backward)), window)
            before = after

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
