"""RAFT (Teed & Deng, ECCV 2020): torchvision's network and weights, or the published ones.

    engine = vsodpipe.flows.create("raft_large", device="cuda", updates=20)

`weights` is the name of one of torchvision's records, or a file holding a state dict with
torchvision's keys or princeton's (`raft-things.pth`), or such a state dict. The numbers are those
of torchvision's network, called pair by pair, up to rounding; see `raft_stream` for the speed and
`raft_memory` for what happens to frames that are large for the machine.
"""

import gc
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

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
from vsodpipe.flows.raft_clip import Pair, apart, together
from vsodpipe.flows.raft_memory import Exhausted, noticed
from vsodpipe.flows.raft_plan import Plans
from vsodpipe.flows.raft_stream import SCALE, Encoded, StreamingRaft
from vsodpipe.flows.raft_volume import Correlation
from vsodpipe.flows.raft_weights import Weights, find, network_of

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
        """See `vsodpipe.flows.Engine.clip`. Reads some frames ahead of the flow it yields."""
        check_clip(direction, gap)
        return self._clip(frames, direction, gap)

    def _clip(self, frames: Iterable[Frame], direction: str, gap: int) -> Iterator[Any]:
        source = (padded(frame, LEAST_SIDE, SCALE) for frame in checked(frames))
        head = next(source, None)
        if head is None:
            return
        first, window = head
        size = (first.shape[0], first.shape[1])
        pictures = chain([first], (picture for picture, _ in source))
        plan = self._plans.announced(size, gap)
        while True:
            unfinished: deque[Frame] = deque()  # the pictures of pairs whose flow is to come
            noted = _noted(pictures, unfinished)
            try:
                with closing(self._planned(plan, noted, direction, gap, window)) as flows:
                    for flow in flows:
                        unfinished.popleft()
                        yield flow
                return
            except Exhausted as error:
                failure = error.with_traceback(None)  # its frames hold the tensors
            pictures = chain(unfinished, pictures)
            gc.collect()
            if torch.device(self._device).type == "cuda":
                torch.cuda.empty_cache()
            plan = self._plans.smaller(size, gap, plan, failure)

    def _planned(
        self,
        plan: Plan,
        pictures: Iterator[Frame],
        direction: str,
        gap: int,
        window: tuple[slice, slice],
    ) -> Generator[Any, None, None]:
        alone, whole = (_Work(self, each, plan, direction, window) for each in (True, False))
        threads = self._plans.threads(plan.batch)
        if threads == 1:
            return together(whole, pictures, gap, plan.batch)
        return apart(alone, whole, pictures, gap, threads)

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


@dataclass(frozen=True)
class _Work:
    """What the `engine` does with the frames and pairs of a clip, in threads that are `alone`."""

    engine: Raft
    alone: bool
    plan: Plan
    direction: str
    window: tuple[slice, slice]

    # Not on the generators: between two flows, their caller would be in inference mode too.
    @torch.inference_mode()
    def encode(self, picture: Frame) -> Encoded:
        with noticed(), self.engine._convolutions():
            tensor = torch.from_numpy(picture).to(self.engine._device)
            return self.engine._network(self.alone).encode(tensor)

    def volume(self, pairs: int, like: Encoded) -> Correlation:
        with noticed():
            return self.engine._network(self.alone).volume(pairs, like, self.plan.volume)

    @torch.inference_mode()
    def flows(self, pairs: list[Pair], volume: Correlation) -> list[Any]:
        network, updates = self.engine._network(self.alone), self.engine._updates
        found: list[list[Flow]] = []
        if self.direction == "backward":
            pairs = [(after, before) for before, after in pairs]
        with noticed(), self.engine._convolutions():
            volume.fill(pairs)
            for way in range(2 if self.direction == "both" else 1):
                if way == 1:
                    volume.turn(pairs)
                flows = network.flow([pair[way] for pair in pairs], volume, updates)
                arrays = flows.permute(0, 2, 3, 1).cpu().numpy()
                found.append([cropped(flow, self.window) for flow in arrays])
        return list(zip(*found, strict=True)) if self.direction == "both" else found[0]


def _noted(pictures: Iterator[Frame], seen: deque[Frame]) -> Iterator[Frame]:
    for picture in pictures:
        seen.append(picture)
        yield picture


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
