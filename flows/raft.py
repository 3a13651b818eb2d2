"""RAFT (Teed & Deng, ECCV 2020): torchvision's network and weights, or the published ones.

    engine = vsodpipe.flows.create("raft_large", device="cuda", updates=20)

`weights` is the name of one of torchvision's records, or a file holding a state dict with
torchvision's keys or princeton's (`raft-things.pth`), or such a state dict. The numbers are those
of torchvision's network, called pair by pair, up to rounding; see `raft_stream` for the speed and
`raft_memory` for what happens to frames that are large for the machine.
"""

import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch

from vsodpipe.errors import UsageError, VsodpipeError, unknown
from vsodpipe.flows import (
    Engine,
    Flow,
    Frame,
    Plan,
    check_clip,
    checked,
    cropped,
    padded,
    silent,
    winograd,
)
from vsodpipe.flows.raft_memory import budget, check_memory, chosen, is_exhausted, needed, steps
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

Pair = tuple[Encoded, Encoded]
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
        if batch is None:
            batch = 4 if torch.device(device).type == "cuda" else 1
        _check_count(name, "batch", batch)
        check_memory(memory)
        precision = _precision(precision, device)
        state, source, identity, digest = find(name, weights)
        network = network_of(name, state, source).to(device)
        dtype = PRECISIONS[precision]
        cpu = torch.device(device).type == "cpu"
        # NNPACK's threads hinder one another (two are slower than the direct convolutions), and
        # the compiler cannot look into it
        alone = cpu and torch.get_num_threads() == 1 and not compile
        faster = alone and dtype == torch.float32 and winograd.available()
        self._network = StreamingRaft(network, dtype, faster)
        if compile:
            self._network.compile()
        self._name = name
        self._device = device
        self._updates = updates
        self._batch = batch
        self._precision = precision
        self._memory = memory
        self._said: set[tuple[str, str]] = set()
        # By padded size: the steps that remain there, after others have run out of memory.
        self._remaining: dict[tuple[int, int], list[tuple[int, str]]] = {}
        self.say: Callable[[str], None] = silent
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
        return self._plan((sides[0], sides[1]), gap)

    def _plan(self, size: tuple[int, int], gap: int) -> Plan:
        """Return the plan for frames of a padded `size`."""

        def cost(batch: int, volume: str) -> int:
            item = PRECISIONS[self._precision].itemsize
            return needed(self._name, *size, batch, volume, gap=gap, device=self._device, item=item)

        options = self._remaining.get(size, steps(self._batch))
        limit = budget(self._device, self._memory)
        return chosen(options, cost, limit, f"{size[1]}x{size[0]}")

    def clip(
        self, frames: Iterable[Frame], direction: str = "forward", gap: int = 1
    ) -> Iterator[Any]:
        """See `vsodpipe.flows.Engine.clip`. Reads a batch of frames ahead of the flow it yields."""
        check_clip(direction, gap)
        return self._clip(frames, direction, gap)

    def _clip(self, frames: Iterable[Frame], direction: str, gap: int) -> Iterator[Any]:
        run: _Run | None = None
        kept: deque[Encoded] = deque(maxlen=gap)
        pairs: list[Pair] = []
        for frame in checked(frames):
            picture, window = padded(frame, LEAST_SIDE, SCALE)
            run = run or _Run(self, picture.shape[:2], window, direction, gap)
            after = run.encode(picture)
            if len(kept) == gap:
                pairs.append((kept[0], after))
            kept.append(after)
            if len(pairs) >= run.batch:
                yield from run.flows(pairs)
                pairs = []
        if run and pairs:
            yield from run.flows(pairs)

    def _tell(self, size: tuple[int, int], message: str) -> None:
        """Say the `message` unless it was said for frames of that `size`."""
        if (str(size), message) not in self._said:
            self._said.add((str(size), message))
            self.say(f"{self._name}, {size[1]}x{size[0]}: {message}")

    def _smaller(self, size: tuple[int, int], plan: Plan, gap: int, error: Exception) -> Plan:
        """Return the plan after the one that ran out of memory with `error`."""
        options = self._remaining.get(size, steps(self._batch))
        left = options[options.index((plan.batch, plan.volume)) + 1 :]
        if not left:
            raise VsodpipeError(
                f"optical flow of {size[1]}x{size[0]} frames: the memory ran out, with the least "
                "that there is (1 pair, correlation on demand). Make the frames smaller "
                "(--max-side N), free memory, or take an engine that needs little: --engine dis."
            ) from error
        self._remaining[size] = left
        after = self._plan(size, gap)
        self._tell(size, f"the memory ran out with {_words(plan)}; now {_words(after)}")
        return after

    # Not on the generators: between two flows, their caller would be in inference mode too.
    @torch.inference_mode()
    def _encode(self, picture: Frame) -> Encoded:
        tensor = torch.from_numpy(picture).to(self._device).permute(2, 0, 1)[None]
        with self._convolutions():
            # To -1..1, as torchvision's and princeton's networks expect it.
            return self._network.encode(tensor.float() / 255 * 2 - 1)

    @torch.inference_mode()
    def _flows(
        self,
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
                flows = self._network.flow(sources, volume, self._updates)
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
    """One clip on its way: its plan and its volume, which become smaller when memory runs out."""

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
        self._volume: Correlation | None = None
        self._plan = engine._plan(size, gap)
        if (self._plan.batch, self._plan.volume) != (engine._batch, "full"):
            wish = needed(
                engine._name,
                *size,
                engine._batch,
                "full",
                gap=gap,
                device=engine._device,
                item=PRECISIONS[engine._precision].itemsize,
            )
            engine._tell(
                size,
                f"{_words(self._plan)}, because {engine._batch} with a full volume would take "
                f"{wish / 2**30:.1f} GiB",
            )

    @property
    def batch(self) -> int:
        return self._plan.batch

    def encode(self, picture: Frame) -> Encoded:
        """Return the frame as the network sees it."""
        return self._attempt(partial(self._engine._encode, picture))

    def flows(self, pairs: list[Pair]) -> Iterator[Any]:
        """Yield what `clip` yields for `pairs`, batch by batch; what was yielded is not redone."""
        while pairs:
            found = self._attempt(partial(self._batch_of, pairs))
            pairs = pairs[len(found) :]
            yield from found

    def _batch_of(self, pairs: list[Pair]) -> list[Any]:
        pairs = pairs[: self.batch]
        if self._volume is None:
            self._volume = self._engine._network.volume(len(pairs), pairs[0][0], self._plan.volume)
        return self._engine._flows(pairs, self._volume, self._direction, self._window)

    def _attempt(self, work: Callable[[], Result]) -> Result:
        """Return the result of `work`, with a smaller plan each time the memory runs out."""
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not is_exhausted(error):
                    raise
                failure = error.with_traceback(None)  # its frames hold the tensors
            self._volume = None
            gc.collect()
            if torch.device(self._engine._device).type == "cuda":
                torch.cuda.empty_cache()
            self._plan = self._engine._smaller(self._size, self._plan, self._gap, failure)


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
    once (a GPU's matter: on a CPU it gains nothing), 1 on a CPU and 4 on a GPU unless said.
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


def _words(plan: Plan) -> str:
    pairs = f"{plan.batch} pair{'s' if plan.batch > 1 else ''} at once"
    return f"{pairs}, correlation {plan.volume}"
