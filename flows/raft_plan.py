"""What RAFT works on at once, for frames of a size: how many pairs, in how many threads.

A GPU takes a batch of pairs. On a CPU each thread keeps to a pair of its own where the memory is
ample for that: threads that share a convolution gain less, and only a thread alone can take the
convolutions of `winograd`. Otherwise all threads work on one pair.
"""

from collections.abc import Callable
from functools import partial

import torch

from vsodpipe.errors import VsodpipeError
from vsodpipe.flows import Plan, silent
from vsodpipe.flows.raft_memory import budget, check_memory, chosen, needed, steps

# Of the memory that may be used: what a CPU takes unasked for a pair in each of its threads.
_UNASKED = 0.25

Size = tuple[int, int]
"""Height and width of the padded frames."""


class Plans:
    """The plans of the network `name` on a `device`, by size; what runs out of memory shrinks.

    `batch` is how many pairs the user wants at once, `memory` the most GiB, `item` the bytes of a
    number in a convolution; `alone` says that a thread by itself is the faster one.
    """

    def __init__(
        self,
        name: str,
        device: str,
        batch: int | None,
        memory: float | None,
        item: int,
        alone: bool,
    ) -> None:
        check_memory(memory)
        self._name, self._device, self._item = name, device, item
        self._batch = 4 if batch is None and torch.device(device).type == "cuda" else batch
        self._memory = memory
        self._alone = alone
        self._said: set[tuple[Size, str]] = set()
        # The steps that remain after others have run out of memory.
        self._remaining: dict[Size, list[tuple[int, str]]] = {}
        self.say: Callable[[str], None] = silent

    def of(self, size: Size, gap: int) -> Plan:
        """Return the plan for frames of `size`, by the memory that is free at this moment."""
        cost = partial(self._cost, size, gap)
        options = self._remaining.get(size, steps(self._wish(size, gap)))
        limit = budget(self._device, self._memory)
        return chosen(options, cost, limit, f"{size[1]}x{size[0]}")

    def threads(self, batch: int) -> int:
        """Return how many threads work on a pair each; 1: all of them on the whole batch."""
        threads = torch.get_num_threads()
        return threads if self._alone and batch >= threads else 1

    def announced(self, size: Size, gap: int) -> Plan:
        """Return the plan for a clip, and say it where it is less than was wished for."""
        plan, wish = self.of(size, gap), self._wish(size, gap)
        if (plan.batch, plan.volume) != (wish, "full"):
            needs = self._cost(size, gap, wish, "full") / 2**30
            because = f"because {wish} with a full volume would take {needs:.1f} GiB"
            self._tell(size, f"{_words(plan)}, {because}")
        return plan

    def smaller(self, size: Size, gap: int, plan: Plan, error: Exception) -> Plan:
        """Return the plan after the one that ran out of memory with `error`, and say it."""
        options = self._remaining.get(size, steps(self._wish(size, gap)))
        left = options[options.index((plan.batch, plan.volume)) + 1 :]
        if not left:
            raise VsodpipeError(
                f"optical flow of {size[1]}x{size[0]} frames: the memory ran out, with the least "
                "that there is (1 pair, correlation on demand). Make the frames smaller "
                "(--max-side N), free memory, or take an engine that needs little: --engine dis."
            ) from error
        self._remaining[size] = left
        after = self.of(size, gap)
        self._tell(size, f"the memory ran out with {_words(plan)}; now {_words(after)}")
        return after

    def _wish(self, size: Size, gap: int) -> int:
        """Return how many pairs are worked on at once if there is memory enough."""
        if self._batch is not None:
            return self._batch
        threads = torch.get_num_threads() if self._alone else 1
        modest = _UNASKED * budget(self._device, self._memory)
        return threads if self._cost(size, gap, threads, "full") <= modest else 1

    def _cost(self, size: Size, gap: int, batch: int, volume: str) -> int:
        threads = self.threads(batch)
        return needed(
            self._name,
            *size,
            batch if threads == 1 else threads,
            volume,
            gap=gap,
            device=self._device,
            item=self._item,
            threads=threads,
        )

    def _tell(self, size: Size, message: str) -> None:
        """Say the `message` unless it was said for frames of that `size`."""
        if (size, message) not in self._said:
            self._said.add((size, message))
            self.say(f"{self._name}, {size[1]}x{size[0]}: {message}")


def _words(plan: Plan) -> str:
    pairs = f"{plan.batch} pair{'s' if plan.batch > 1 else ''} at once"
    return f"{pairs}, correlation {plan.volume}"
