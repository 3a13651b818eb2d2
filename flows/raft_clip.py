"""The pairs of a clip, by all threads together or one in each thread.

Every frame is encoded once, for all pairs that it is in.
"""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Any, Protocol

from vsodpipe.flows import Frame
from vsodpipe.flows.raft_stream import Encoded
from vsodpipe.flows.raft_volume import Correlation
from vsodpipe.threads import lone_threads

Pair = tuple[Encoded, Encoded]


class Work(Protocol):
    """What is done with frames, padded pictures of one size, and with their pairs."""

    def encode(self, picture: Frame) -> Encoded:
        """Return the features of a `picture`."""
        ...

    def volume(self, pairs: int, like: Encoded) -> Correlation:
        """Return room for the correlation of that many pairs."""
        ...

    def flows(self, pairs: list[Pair], volume: Correlation) -> list[Any]:
        """Return what a clip yields for each of the `pairs`."""
        ...


def together(
    work: Work,
    pictures: Iterator[Frame],
    gap: int,
    batch: int,
    before: Sequence[Encoded] = (),
    room: Correlation | None = None,
) -> Generator[Any, None, None]:
    """Yield the flows of the pairs of `pictures`, `batch` pairs at once.

    The clip may have begun: `before` are its last frames, at most `gap`, `room` a volume for a
    batch.
    """
    kept = deque(before, gap)
    pairs: list[Pair] = []

    def flows() -> list[Any]:
        nonlocal room
        room = room or work.volume(len(pairs), pairs[0][0])
        return work.flows(pairs, room)

    for picture in pictures:
        after = work.encode(picture)
        if len(kept) == gap:
            pairs.append((kept[0], after))
        kept.append(after)
        if len(pairs) == batch:
            yield from flows()
            pairs.clear()
    if pairs:
        yield from flows()


def apart(
    alone: Work, rest: Work, pictures: Iterator[Frame], gap: int, threads: int
) -> Generator[Any, None, None]:
    """Yield the flows of the pairs of `pictures`, each of them in one of `threads` by itself.

    The threads do not wait for each other. They work ahead: up to three pairs for each of them are
    on their way, of which one is in memory with its volume. The last pairs are for all of the
    threads together, by `rest`, where that is faster because they are too few for half of them.
    """
    kept: deque[Future[Encoded]] = deque(maxlen=gap)
    running: deque[Future[Any]] = deque()
    rooms: list[Correlation] = []

    def flow(before: Future[Encoded], after: Future[Encoded]) -> Any:
        # The pool takes the frames of a pair before it: somebody is at work on them at least.
        pair = before.result(), after.result()
        try:
            room = rooms.pop()
        except IndexError:
            room = alone.volume(1, pair[0])
        found = alone.flows([pair], room)
        rooms.append(room)
        return found[0]

    with lone_threads(threads, "raft") as pool:
        kept.extend(pool.submit(alone.encode, picture) for picture in islice(pictures, gap))
        while 2 * len(group := list(islice(pictures, threads))) > threads:
            for picture in group:
                after = pool.submit(alone.encode, picture)
                running.append(pool.submit(flow, kept[0], after))
                kept.append(after)
            while len(running) > 2 * threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
        before = [frame.result() for frame in kept]
    room = rooms.pop() if rooms else None
    rooms.clear()
    yield from together(rest, iter(group), gap, 1, before, room)
