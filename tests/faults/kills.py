"""A command killed at seeded moments, then run again: what it leaves equals an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass, field

from faults.world import COMMANDS, World, differences, tree
from faults.zygote import Ended, Fault, Zygote

BY_CLOCK = 0.1
"""Share of the kills that come at a moment of the clock, the others at a change of the disk."""
IN_A_ROW = 3
"""Most kills before a command may come to its end."""


@dataclass
class Killed:
    """What was done to a command, and what was lost."""

    command: str
    events: int
    """Changes of the disk in an undisturbed run."""
    seconds: float
    """Of that run."""
    runs: int = 0
    kills: int = 0
    partial: int = 0
    """Kills that left something unfinished."""
    faults: list[str] = field(default_factory=list)
    """What was not as it should be, one line each."""


def kill_often(zygote: Zygote, world: World, name: str, kills: int, seed: int = 0) -> Killed:
    """Kill command `name` until it was killed so often; see Killed."""
    command, rng = COMMANDS[name], random.Random(f"{name} {seed}")
    root = str(world.folder)
    world.reset(zygote, command.after)
    before = tree(world.folder)
    started = time.monotonic()
    plain = zygote.run(*command.argv, fault=Fault(root))
    done = Killed(name, plain.events, time.monotonic() - started)
    assert plain.code == 0, f"{name}: {plain.err}"
    expected = tree(world.folder)
    while done.kills < kills:
        world.reset(zygote, command.after)
        moments, left = [], done.events
        for _ in range(rng.randint(1, IN_A_ROW)):
            argv = command.argv
            if moments and command.again:
                argv = command.again(world.folder)
            if rng.random() < BY_CLOCK or not left:
                moment = f"{rng.random() * done.seconds:.3f} s"
                killed = _by_clock(zygote, argv, float(moment[:-2]))
            else:
                at, seed = rng.randrange(left), rng.choice((0, rng.randint(1, 9999)))
                left -= at  # about what there is to do for the continuation
                fault = Fault(root, at, seed=seed)
                moment = f"event {fault.at}{' torn' if fault.seed else ''}"
                killed = zygote.run(*argv, fault=fault)
            moments.append(moment)
            if killed.code == -signal.SIGKILL:
                done.kills += 1
                done.partial += differences(tree(world.folder), before) != []
            elif killed.code != 0:
                done.faults.append(f"{name} at {', '.join(moments)}: {killed.err.strip()}")
        done.runs += 1
        again = zygote.run(*(command.again(world.folder) if command.again else command.argv))
        wrong = [] if again.code == 0 else [f"exit code {again.code}: {again.err.strip()}"]
        wrong += differences(tree(world.folder), expected)
        if command.printed and again.out != plain.out:
            wrong.append("prints something else")
        if wrong:
            done.faults.append(f"{name} killed at {', '.join(moments)}: {'; '.join(wrong[:6])}")
    return done


def _by_clock(zygote: Zygote, argv: tuple[str, ...], seconds: float) -> Ended:
    process = zygote.start(*argv)
    time.sleep(seconds)
    os.killpg(process, signal.SIGKILL)
    return zygote.wait(process)
