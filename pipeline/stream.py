"""Manifest or store -> torch batches, in an order that only the seed and the epoch decide.

A sample's random draw depends on (seed, epoch, position) and on nothing else: the same samples come
with any number of threads, processes and ranks, and a run resumed in mid-epoch gets the samples
that were left.

Legend: B samples of a batch, T frames of a sample, N references, H W rows and columns.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from vsodpipe import batches, models, order, sampling
from vsodpipe.errors import DataError, UsageError, VsodpipeError
from vsodpipe.frames import Files, Reader, Sample, array_of, is_still, load_clip, open_reader, stack
from vsodpipe.manifest import Split
from vsodpipe.reader import Store
from vsodpipe.recipe import Stage
from vsodpipe.samples import Pick, Samples
from vsodpipe.signals import ignore_interrupt

__all__ = [
    "Clips",
    "Files",
    "Reader",
    "Sample",
    "State",
    "fed",
    "load_clip",
    "loader",
    "needs_flow",
    "open_reader",
    "stack",
]

log = logging.getLogger(__name__)

Item = tuple[int, int, int]
"""(epoch, position in its order, number of the sample)."""


@dataclass(frozen=True)
class State:
    """Where a stream stands, small enough for any checkpoint."""

    seed: int
    epoch: int
    index: int
    """Samples of the epoch that were handed out, over all ranks."""
    order: str
    """Digest of all that decides the order and content of samples, beside seed and epoch."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values for a checkpoint or JSON."""
        return asdict(self)


class Clips(Dataset[Sample | VsodpipeError]):
    """Training samples of several data sets, by the recipe of `stage`; one rank's share of them.

    `weights` say how often every sample of a data set stands in an epoch (1 where left out), before
    the recipe's `balanced` lowers them.
    """

    def __init__(
        self,
        readers: Sequence[Reader],
        stage: Stage,
        weights: Sequence[float] | None = None,
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._readers, self._stage = list(readers), stage
        self._rank, self._world = rank, world
        if stage.data.flow == "vectors" and not all(isinstance(r, Store) for r in readers):
            raise UsageError(
                "recipe key flow: flow as vectors needs a store that was packed with them. "
                "Use --set data.source=store, or --set data.flow=picture."
            )
        self._annotated = [[self._usable(r, v) for v in range(len(r.videos))] for r in readers]
        rows = [self._starts(number) for number in range(len(readers))]
        self._counts = [len(part) for part in rows]
        given = weights or [1.0] * len(readers)
        datasets = [reader.dataset for reader in readers]
        self._weights = order.balanced(datasets, self._counts, given, stage.data.balanced)
        self.anchors: NDArray[np.int64] = np.array([*chain(*rows)], np.int64).reshape(-1, 3)
        if not len(self.anchors):
            names = ", ".join(reader.dataset for reader in readers)
            raise DataError(f"{names}: no frame has ground truth, so there is nothing to train on.")
        order.check_ranks(len(self), stage.batch, rank, world)
        self._window = self._choose_window()
        self._blocks = self._shards() if self._window else None
        self._samples = Samples(readers, stage)
        self._warn_of_a_small_cache()

    def _usable(self, reader: Reader, video: int) -> list[bool]:
        """Return for every frame of a video whether it can be trained on."""
        if not self._stage.data.labels:
            return [True] * len(reader.frames(video))
        return reader.annotated(video)

    def _starts(self, number: int) -> list[tuple[int, int, int]]:
        """Return (reader, video, first frame or anchor) of every sample of a data set."""
        data, reader = self._stage.data, self._readers[number]
        stride = data.anchor_stride.get(reader.dataset, 1)
        found = []
        for video, annotated in enumerate(self._annotated[number]):
            if data.sample == "group":
                starts = sampling.group_starts(annotated, data.clip)[::stride]
            else:
                starts = sampling.anchors(annotated, stride)
            found += [(number, video, frame) for frame in starts]
        return found

    def _choose_window(self) -> int:
        if self._stage.data.window is not None:
            return self._stage.data.window
        return order.REMOTE_WINDOW if any(map(_remote, self._readers)) else 0

    def _warn_of_a_small_cache(self) -> None:
        """Say when shards will go before their window is read, to be fetched again."""
        for reader in self._readers:
            if not isinstance(reader, Store) or reader.cache_bytes is None:
                continue
            count = sum(group.shards for group in reader.groups)
            needed = reader.nbytes * min(2 * self._window, count) // count
            if reader.cache_bytes < needed:
                log.warning(
                    "%s: the cache holds %.1f GB, less than two windows of shards (%.1f GB): "
                    "they will be fetched several times. Use --cache-size %.1f or more.",
                    *(
                        reader.path,
                        reader.cache_bytes / 2**30,
                        needed / 2**30,
                        needed / 2**30 + 0.1,
                    ),
                )

    def _shards(self) -> NDArray[np.int64]:
        """Return for every sample the number of its shard, or of its video where files are read."""
        seen: dict[tuple[int, int, int], int] = {}
        blocks = []
        for number, video, frame in self.anchors.tolist():
            reader = self._readers[number]
            place = self._shard(reader, video, frame)
            blocks.append(seen.setdefault((number, *place), len(seen)))
        return np.array(blocks)

    def _shard(self, reader: Reader, video: int, frame: int) -> tuple[int, int]:
        if not isinstance(reader, Store):
            return video, 0
        return reader.shard_of(int(reader.offsets[video]) + frame)

    def __len__(self) -> int:
        """Return the samples of an epoch, of all ranks together."""
        return order.length(self._counts, self._weights)

    def steps(self) -> int:
        """Return the steps of an epoch; samples that fill no batch are left out, others each time.

        Every rank takes this number of steps.
        """
        return order.steps(len(self), self._stage.batch, self._stage.steps_per_epoch)

    def epoch_order(self, epoch: int) -> NDArray[np.int64]:
        """Return the rows of `anchors` in the order of an epoch, for all ranks."""
        return order.epoch_order(
            self._counts,
            self._weights,
            self._stage.seed,
            epoch,
            blocks=self._blocks,
            window=self._window,
        )

    def batches(self, epoch: int, start: int) -> Iterator[list[Item]]:
        """Yield the items of this rank for every step of `epoch` from step `start` on."""
        numbers = self.epoch_order(epoch)
        for step in range(start, self.steps()):
            places = order.positions(step, self._stage.batch, len(numbers), self._rank, self._world)
            yield [(epoch, p, int(numbers[p])) for p in places]

    def state(self, epoch: int, step: int) -> State:
        """Return the state before a step, for a checkpoint; the same on every rank."""
        return State(self._stage.seed, epoch, step * self._stage.batch, self._digest())

    def resume(self, state: State) -> tuple[int, int]:
        """Return (epoch, step) to continue from, with any number of workers and ranks.

        Raises DataError for the state of other data, or of another order of them.
        """
        batch = self._stage.batch
        if (state.seed, state.order) != (self._stage.seed, self._digest()) or state.index % batch:
            raise DataError(
                "the data, or what decides their order (seed, batch, window, weights), are not "
                "those of the interrupted run. Restore them, or start a new run."
            )
        return state.epoch, state.index // batch

    def _digest(self) -> str:
        names = [(r.dataset, r.videos) for r in self._readers]
        text = repr((names, self._weights, self._window, self._stage.batch))
        return hashlib.sha256(text.encode() + self.anchors.tobytes()).hexdigest()[:16]

    def ahead(self, items: Iterator[list[Item]]) -> Iterator[list[Item]]:
        """Yield `items`, while the shards of remote stores come into the cache a window ahead."""
        if self._blocks is None or not any(map(_remote, self._readers)):
            yield from items
            return
        rest = list(items)
        used = np.array([number for batch in rest for _, _, number in batch], np.int64)
        blocks, first = np.unique(self._blocks[used], return_index=True)
        waiting = sorted(zip(first.tolist(), blocks.tolist(), strict=True), reverse=True)
        horizon = self._window * len(used) // max(1, len(blocks))
        place = 0
        with ThreadPoolExecutor(2, "shards-ahead") as pool:
            try:
                for batch in rest:
                    while waiting and waiting[-1][0] <= place + horizon:
                        pool.submit(self._prefetch, int(used[waiting.pop()[0]]))
                    yield batch
                    place += len(batch)
            finally:
                pool.shutdown(cancel_futures=True)

    def _prefetch(self, number: int) -> None:
        """Bring the shards of a sample into the cache; a failure shows when it is read."""
        reader, video, frame = (int(x) for x in self.anchors[number])
        store, data = self._readers[reader], self._stage.data
        if isinstance(store, Store) and _remote(store):
            wanted = (*data.inputs, *data.beside, *(("gt",) if data.labels else ()))
            keys = {array_of(key.removeprefix("ref_"), data.flow) for key in wanted}
            keys &= set(store.arrays)
            with suppress(DataError):
                store.prefetch([int(store.offsets[video]) + frame], sorted(keys))

    def __getitems__(self, items: list[Item]) -> Sample | VsodpipeError:
        """Return a batch, or its error: raised in a worker, it would arrive as a traceback."""
        try:
            return self.batch(items)
        except VsodpipeError as error:
            return error

    def __getitem__(self, item: Item) -> Sample | VsodpipeError:
        """Return one sample, or its error."""
        try:
            return self.sample(item)
        except VsodpipeError as error:
            return error

    def sample(self, item: Item) -> Sample:
        """Return the sample of an item. Raises DataError for a file that does not decode."""
        return {key: value[0] for key, value in self.batch([item]).items()}

    def batch(self, items: Sequence[Item]) -> Sample:
        """Return the samples of `items` as one batch, as `Samples.batch` does."""
        return self._samples.batch([self._pick(*item) for item in items])

    def _pick(self, epoch: int, position: int, anchor: int) -> Pick:
        data = self._stage.data
        draw = sampling.Draw(self._stage.seed, epoch, position)
        number, video, frame = self.anchors[anchor].tolist()
        annotated = self._annotated[number][video]
        if data.sample == "group":
            chosen = sampling.group(annotated, frame, data.clip)
        else:
            steps = data.frame_steps.get(self._readers[number].dataset, (1,))
            chosen = sampling.training_clip(annotated, frame, data.clip, steps, draw)
        references: tuple[int, ...] = ()
        if data.references:
            # a generator of their own: references do not change the draws of the sample
            own = np.random.default_rng([self._stage.seed, epoch, position, 1])
            references = sampling.random_references(len(annotated), data.references, own)
        return Pick(number, video, frame, chosen.frames, chosen.valid, references, draw)


def fed(model: str, sample: Sample) -> Sample:
    """Return a batch of clips (B, T, ...) as network `model` takes it.

    One that takes frames gets them clip after clip (B.T, ...).
    """
    if models.load(model).SAMPLING == "clip" or sample["img"].ndim == 4:
        return sample
    return {
        key: value.flatten(0, 1) if isinstance(value, torch.Tensor) else value
        for key, value in sample.items()
    }


def needs_flow(stage: Stage, split: Split) -> bool:
    """Return whether the network takes the flow of this data set: still images may have none."""
    takes = any(key.endswith("flow") for key in stage.data.inputs)
    return takes and not is_still(split.flow is not None, stage.data)


def _remote(reader: Reader) -> bool:
    return isinstance(reader, Store) and "://" in reader.path


def loader(
    clips: Clips, epoch: int, start: int, workers: int, start_method: str | None = None
) -> Iterator[Sample]:
    """Yield the batches of `epoch` from step `start` on, made ahead by `workers` threads.

    Threads hand a batch over without a copy; two keep up with most networks. Processes, one of the
    methods `fork`, `spawn` and `forkserver`, are for a transform of one's own that holds Python's
    lock. All end with the iterator, whatever ended it.
    """
    items = clips.batches(epoch, start)
    if start_method is None:
        yield from batches.in_order(clips.batch, clips.ahead(items), workers, 2 * workers)
        return
    made = DataLoader(
        clips,
        batch_sampler=list(items),
        num_workers=workers,
        collate_fn=_whole_batch,
        worker_init_fn=ignore_interrupt,
        multiprocessing_context=start_method,
        pin_memory=torch.cuda.is_available(),
    )
    for batch in made:
        if isinstance(batch, VsodpipeError):
            raise batch
        yield batch


def _whole_batch(batch: Any) -> Any:
    return batch  # `Clips.__getitems__` has made it
