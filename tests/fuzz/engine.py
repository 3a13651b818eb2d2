"""Feeding a parser: mutations, what counts as a fault, the smallest input that shows it.

A parser may take bytes or refuse them with an error of exit code 2. Anything else
is a fault: another exception, an answer that takes long, memory beyond the limit, a dead process.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from vsodpipe.errors import VsodpipeError

MEMORY = 3 * 2**30
"""Bytes of address space that an input may take on top of what the process has."""
SECONDS = 10.0
"""Of CPU time for one input."""
MOST = 2**17
"""Bytes of a mutated input."""

Parser = Callable[[bytes], None]
Mutation = Callable[[random.Random, bytes], bytes]


class Slow(BaseException):
    """An input took more than SECONDS; no parser catches it by chance."""


@dataclass
class Found:
    """What came out of the inputs."""

    taken: int = 0
    refused: int = 0
    faults: dict[str, bytes] = field(default_factory=dict)
    """Where in the code, and the shortest input that leads there."""
    words: dict[str, str] = field(default_factory=dict)
    """The traceback of each."""

    def feed(self, parse: Parser, data: bytes) -> None:
        """Give `data` to a parser and note how it ends."""
        try:
            if judged(parse, data):
                self.refused += 1
            else:
                self.taken += 1
        except (Exception, Slow) as error:
            place = where(error)
            if place not in self.faults or len(data) < len(self.faults[place]):
                self.faults[place] = data
                self.words[place] = "".join(traceback.format_exception(error))[-3000:]


def judged(parse: Parser, data: bytes) -> str:
    """Return the line that an input is refused with, empty where it is taken.

    Raises what the parser raises beside, AssertionError for no such line, and Slow.
    """
    with limited(SECONDS):
        try:
            parse(data)
        except VsodpipeError as error:
            words = " ".join(str(error).split())
            assert error.exit_code == 2, f"exit code {error.exit_code}: {words[:200]}"
            assert words, "no words"
            return words
    return ""


def where(error: BaseException) -> str:
    """Return the kind of an exception and the last line of ours that it went through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/fuzz/" not in f.filename]
    own = [f for f in frames if "site-packages" not in f.filename and "/lib/" not in f.filename]
    last = (own or frames or [None])[-1]
    at = f"{Path(last.filename).name}:{last.lineno}" if last else "nowhere"
    return f"{type(error).__name__} at {at}"


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise Slow inside once `seconds` of CPU time are over."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Slow(f"more than {seconds:g} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def spent() -> float:
    """Return the CPU time of this process and of those that it has started, in seconds."""
    return sum(os.times()[:4])


def bound(seconds: float, more: int = MEMORY) -> None:
    """Let this process take so much CPU time, and so many bytes of address space on top of its own.

    A library that never comes back does not hear `limited`, but the system kills it (SIGXCPU).
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    limit = int(time.process_time() + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))


_NUMBERS = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0xFFFFFFFF,
    60000,
    2**63 - 1,
    2**64 - 1,
)


def mutated(
    chance: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]
) -> bytes:
    """Return `data` after one to eight changes: bits, bytes, numbers, words, parts of `others`."""
    made = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 3, 5, 8))):
        at = chance.randrange(len(made) + 1)
        # headers are where the traps are
        at = min(at, chance.randrange(64)) if chance.random() < 0.4 else at
        length = min(chance.choice((1, 1, 2, 4, 16, 256, 4096)), len(made) - at)
        kind = chance.randrange(8)
        if kind == 0 and at < len(made):
            made[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and at < len(made):
            made[at] = chance.randrange(256)
        elif kind == 2:
            del made[at : at + length]
        elif kind == 3:
            made[at:at] = made[at : at + length] * chance.choice((1, 1, 2, 50))
        elif kind == 4:
            size, order = chance.choice((1, 2, 4, 8)), chance.choice(("little", "big"))
            number = chance.choice(_NUMBERS) & (2 ** (8 * size) - 1)
            made[at : at + size] = number.to_bytes(size, order)  # type: ignore[arg-type]
        elif kind == 5 and words:
            word = chance.choice(words)
            made[at : at + chance.choice((0, len(word)))] = word
        elif kind == 6 and others:
            other = chance.choice(others)
            start = chance.randrange(len(other) + 1)
            made[at : at + length] = other[start : start + length]
        elif kind == 7 and chance.random() < 0.2:
            del made[at:]
    return bytes(made[:MOST])


def randomly(
    parse: Parser, seeds: Sequence[bytes], words: Sequence[bytes], seconds: float, seed: int
) -> Found:
    """Feed a parser for `seconds` of CPU time with mutations of valid files."""
    found, chance = Found(), random.Random(seed)
    pool = list(seeds)
    for data in seeds:
        found.feed(parse, data)
    assert not found.refused and not found.faults, f"a seed is refused: {found.words}"
    end = spent() + seconds
    while spent() < end:
        data = mutated(chance, chance.choice(pool), seeds, words)
        taken = found.taken
        found.feed(parse, data)
        if found.taken > taken and len(pool) < 200 + len(seeds):
            pool.append(data)  # still whole: a good start for the next ones
    return found


def guided(
    parse: Parser,
    seeds: Sequence[bytes],
    seconds: float,
    folder: Path,
    done: Callable[[Found], None],
) -> None:
    """Do the same where every new path through our code leads on (atheris, libFuzzer).

    Does not return, as libFuzzer ends the process: `done` is told what was found.
    """
    import atheris

    found = Found()
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(seeds):
        (corpus / str(number)).write_bytes(data)
    end = spent() + seconds

    def one(data: bytes) -> None:
        found.feed(parse, data)
        if spent() > end:
            done(found)
            os._exit(0)

    longest = f"-max_len={min(MOST, 4 * max(map(len, seeds)))}"
    options = ["-rss_limit_mb=0", "-timeout=600", "-print_final_stats=0", "-verbosity=0", longest]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


def shortened(parse: Parser, data: bytes, place: str, seconds: float = 20.0) -> bytes:
    """Return a shorter input that leads to the same fault, by leaving out part after part."""

    def same(candidate: bytes) -> bool:
        tried = Found()
        tried.feed(parse, candidate)
        return place in tried.faults

    end = time.monotonic() + seconds
    length = len(data) // 2
    while length and time.monotonic() < end:
        at, shorter = 0, False
        while at < len(data) and time.monotonic() < end:
            candidate = data[:at] + data[at + length :]
            if same(candidate):
                data, shorter = candidate, True
            else:
                at += length
        length = length if shorter else length // 2
    return data
