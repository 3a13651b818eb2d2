"""RAFT (Teed & Deng, ECCV 2020): torchvision's network and weights, or the published ones.

    engine = vsodpipe.flows.create("raft_large", device="cuda", updates=20)

`weights` is the name of one of torchvision's records, or a file holding a state dict with
torchvision's keys or princeton's (`raft-things.pth`), or such a state dict. The numbers are those
of torchvision's network, called pair by pair, up to rounding; see `raft_stream` for the speed and
`raft_memory` for what happens to frames that are large for the machine.
"""

import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from functools import cache, partial
from typing import Any, TypeVar

import torch

from vsodpipe.errors import UsageError, unknown
from vsodpipe.flows import (
    Engine,
    Flow,
    Frame,
    Plan,
    check_clip,
    checked,
    cropped,
    padded,
    winograd,
)
from vsodpipe.flows.raft_memory import is_exhausted
from vsodpipe.flows.raft_plan import Plans
from vsodpipe.flows.raft_stream import SCALE, Encoded, StreamingRaft
from vsodpipe.flows.raft_volume import Correlation
from vsodpipe.flows.raft_weights import Weights, find, network_of
from vsodpipe.threads import lone_threads

ENGINES = ("raft_large", "raft_small")

# Below 16 feature pixels the last level of the correlation pyramid is a single one, which
# torchvision refuses (it would give NaN).
LEAST_SIDE = 128

PRECISIONS = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

Pair = tuple[Encoded, Encoded]
Given = TypeVar("Given")
Result = TypeVar("Result")


class Raft:
    """RAFT of either size over whole clips: every frame is encoded once."""

    def __init__(
        self,
        name: str,
        weights: Weights | None,
        device: str,
        updates: int,
        batch: int | None,
        precision: str,
        memory: float | None,
        compile: bool,
    ) -> None:
        _check_count(name, "updates", updates)
        if batch is not None:
            _check_count(name, "batch", batch)
        precision = _precision(precision, device)
        state, source, identity, digest = find(name, weights)
        dtype = PRECISIONS[precision]

        @cache
        def made(faster: bool) -> StreamingRaft:
            network = network_of(name, state, source).to(device)
            streaming = StreamingRaft(network, dtype, faster)
            if compile:
                streaming.compile()
            return streaming

        self._made = made
        # the compiler cannot look into NNPACK
        plain = torch.device(device).type == "cpu" and dtype == torch.float32 and not compile
        self._winograd = plain and winograd.available()
        self._plans = Plans(name, device, batch, memory, dtype.itemsize, self._winograd)
        made(self._winograd)  # what is wrong with the weights shows here
        self._device = device
        self._updates = updates
        self._precision = precision
        # Neither the device, torch's version nor the plan: they move the flow by rounding only,
        # but for a half volume, whose thousandths of a pixel `raft_volume` tells and `say` too.
        self.fingerprint: dict[str, object] = {
            "engine": name,
            "weights": identity,
            "weights_sha256": digest,
            "updates": updates,
        }
        if precision != "fp32":
            self.fingerprint["precision"] = precision

    def plan(self, height: int, width: int, direction: str = "forward", gap: int = 1) -> Plan:
        """See `vsodpipe.flows.Engine.plan`. By the memory that is free at this moment."""
        check_clip(direction, gap)
        sides = [max(LEAST_SIDE, side + -side % SCALE) for side in (height, width)]
        return self._plans.of((sides[0], sides[1]), gap)

    @property
    def say(self) -> Callable[[str], None]:
        """See `vsodpipe.flows.Engine.say`."""
        return self._plans.say

    @say.setter
    def say(self, say: Callable[[str], None]) -> None:
        self._plans.say = say

    def _network(self, alone: bool) -> StreamingRaft:
        """Return the network for threads that are `alone` with a frame or pair, or all together."""
        return self._made(self._winograd and (alone or torch.get_num_threads() == 1))

    def clip(
        self, frames: Iterable[Frame], direction: str = "forward", gap: int = 1
    ) -> Iterator[Any]:
        """See `vsodpipe.flows.Engine.clip`. Reads a batch of frames ahead of the flow it yields."""
        check_clip(direction, gap)
        return self._clip(frames, direction, gap)

    def _clip(self, frames: Iterable[Frame], direction: str, gap: int) -> Iterator[Any]:
        waiting: list[Frame] = []
        with ExitStack() as stack:
            run: _Run | None = None
            for frame in checked(frames):
                picture, window = padded(frame, LEAST_SIDE, SCALE)
                if run is None:
                    made = _Run(self, picture.shape[:2], window, direction, gap)
                    run = stack.enter_context(closing(made))
                waiting.append(picture)
                if len(waiting) >= run.wanted:
                    yield from run.flows(waiting)
                    waiting = []
            if run and waiting:
                yield from run.flows(waiting)

    # Not on the generators: between two flows, their caller would be in inference mode too.
    @torch.inference_mode()
    def _encode(self, network: StreamingRaft, picture: Frame) -> Encoded:
        tensor = torch.from_numpy(picture).to(self._device).permute(2, 0, 1)[None]
        with self._convolutions():
            # To -1..1, as torchvision's and princeton's networks expect it.
            return network.encode(tensor.float() / 255 * 2 - 1)

    @torch.inference_mode()
    def _flows(
        self,
        network: StreamingRaft,
        pairs: list[Pair],
        volume: Correlation,
        direction: str,
        window: tuple[slice, slice],
    ) -> list[Any]:
        """Return what `clip` yields for `pairs`."""
        found: list[list[Flow]] = []
        if direction == "backward":
            pairs = [(after, before) for before, after in pairs]
        volume.fill(pairs)
        for way in range(2 if direction == "both" else 1):
            if way == 1:
                volume.turn(pairs)
            sources = [pair[way] for pair in pairs]
            with self._convolutions():
                flows = network.flow(sources, volume, self._updates)
            arrays = flows.permute(0, 2, 3, 1).cpu().numpy()
            found.append([cropped(flow, window) for flow in arrays])
        return list(zip(*found, strict=True)) if direction == "both" else found[0]

    def _convolutions(self) -> AbstractContextManager[None]:
        """Return the context in which convolutions have the precision that was asked for."""
        if torch.device(self._device).type != "cuda":
            return nullcontext()
        # Torch's own default rounds float32 to TF32 in convolutions, and says so nowhere.
        return torch.backends.cudnn.flags(
            enabled=True,
            benchmark=False,
            deterministic=False,
            allow_tf32=self._precision == "tf32",
        )


class _Run:
    """One clip on its way: its plan and its volumes, fewer and smaller when memory runs out."""

    def __init__(
        self,
        engine: Raft,
        size: tuple[int, int],
        window: tuple[slice, slice],
        direction: str,
        gap: int,
    ) -> None:
        self._engine, self._size, self._window = engine, size, window
        self._direction, self._gap = direction, gap
        self._kept: deque[Encoded] = deque(maxlen=gap)
        self._volumes: list[Correlation] = []
        self._plan = engine._plans.announced(size, gap)
        self._stack = ExitStack()
        self._pool: ThreadPoolExecutor | None = None
        if self._threads() > 1:
            self._pool = self._stack.enter_context(lone_threads(self._threads(), "raft"))

    def close(self) -> None:
        """End its threads."""
        self._stack.close()

    @property
    def wanted(self) -> int:
        """How many frames complete the next batch of pairs."""
        return self._plan.batch + self._gap - len(self._kept)

    def flows(self, pictures: Sequence[Frame]) -> Iterator[Any]:
        """Yield what `clip` yields for the pairs that `pictures` complete.

        After a failure what was yielded is not done again.
        """
        pairs: list[Pair] = []
        for after in self._attempt(partial(self._encode, pictures)):
            if len(self._kept) == self._gap:
                pairs.append((self._kept[0], after))
            self._kept.append(after)
        while pairs:
            found = self._attempt(partial(self._batch, pairs))
            del pairs[: len(found)]
            yield from found

    def _encode(self, pictures: Sequence[Frame]) -> list[Encoded]:
        network = self._engine._network(self._alone(len(pictures)))
        return self._each(partial(self._engine._encode, network), pictures)

    def _batch(self, pairs: list[Pair]) -> list[Any]:
        """Return what `clip` yields for the first of the `pairs`, a batch of them."""
        pairs = pairs[: self._plan.batch]
        network = self._engine._network(self._alone(len(pairs)))
        groups = [pairs] if self._threads() == 1 else [[pair] for pair in pairs]
        return [f for found in self._each(partial(self._group, network), groups) for f in found]

    def _group(self, network: StreamingRaft, pairs: list[Pair]) -> list[Any]:
        try:
            volume = self._volumes.pop()
        except IndexError:
            volume = network.volume(len(pairs), pairs[0][0], self._plan.volume)
        found = self._engine._flows(network, pairs, volume, self._direction, self._window)
        self._volumes.append(volume)
        return found

    def _threads(self) -> int:
        return self._engine._plans.threads(self._plan.batch)

    def _alone(self, count: int) -> bool:
        """Tell whether a thread of its own for each of `count` is the faster way.

        At the end of a clip there may be too few left for all threads.
        """
        return 1 < self._threads() < 2 * count

    def _each(self, work: Callable[[Given], Result], items: Sequence[Given]) -> list[Result]:
        """Return the results of `work`, one after the other or in threads of their own."""
        if self._pool is None or not self._alone(len(items)):
            return [work(item) for item in items]
        futures = [self._pool.submit(work, item) for item in items]
        wait(futures)  # nothing is still at work when one of them has failed
        return [future.result() for future in futures]

    def _attempt(self, work: Callable[[], Result]) -> Result:
        """Return the result of `work`, with a smaller plan each time the memory runs out."""
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not is_exhausted(error):
                    raise
                failure = error.with_traceback(None)  # its frames hold the tensors
            self._volumes = []
            gc.collect()
            if torch.device(self._engine._device).type == "cuda":
                torch.cuda.empty_cache()
            self._plan = self._engine._plans.smaller(self._size, self._gap, self._plan, failure)


def create(
    name: str,
    *,
    weights: Weights | None = None,
    device: str = "cpu",
    updates: int = 20,
    batch: int | None = None,
    precision: str = "fp32",
    memory: float | None = None,
    compile: bool = False,
) -> Engine:
    """Return the engine.

    `updates` is how often the network refines its flow, `batch` how many pairs it works on at
    once: unless said 4 on a GPU, on a CPU one in each of torch's threads, or 1 in all of them where
    that would take much of the memory.
    `precision` is that of the convolutions: `fp32`, true float32 also on a GPU; `tf32` (GPUs
    only), `bf16`, `fp16`, or `auto` for the best that the `device` computes fast. `memory` caps
    the working memory, in GiB; without it what is free decides. `compile` compiles the updates
    for the frames' size, which takes tens of seconds and pays for many frames.
    """
    return Raft(name, weights, device, updates, batch, precision, memory, compile)


def _check_count(name: str, option: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} {option}: expected a whole number from 1, got {value!r}.")


def _precision(precision: str, device: str) -> str:
    """Return `precision`, `auto` resolved for the `device`."""
    cuda = torch.device(device).type == "cuda"
    if precision == "auto":
        if not cuda:
            return "fp32"  # without matrix units bf16 is four times as slow
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if precision not in PRECISIONS:
        raise unknown("raft precision", str(precision), [*PRECISIONS, "auto"])
    if precision == "tf32" and not cuda:
        raise UsageError(
            f"raft precision tf32: expected a CUDA device, got {device}. Take --precision fp32."
        )
    return precision
