"""The long form: every command, many kills. `python -m tests.faults --help` says how."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faults.kills import kill_often  # noqa: E402
from faults.world import COMMANDS, World  # noqa: E402
from faults.zygote import Zygote  # noqa: E402


def main() -> int:
    """Kill the commands that were asked for, print a row each; return 1 where anything is lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--command", choices=COMMANDS, action="append", help="default: all")
    parser.add_argument("--kills", type=int, default=50, help="of every command")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    lost = 0
    print(
        "| command | changes of the disk | kills | left unfinished | lost |\n" + "| --- " * 5 + "|"
    )
    with tempfile.TemporaryDirectory() as base:
        world = World(Path(base))
        with Zygote(world.folder, Path(base) / "logs") as zygote:
            for name in asked.command or COMMANDS:
                done = kill_often(zygote, world, name, asked.kills, asked.seed)
                lost += len(done.faults)
                row = (name, done.events, done.kills, done.partial, len(done.faults) or "nothing")
                print("| " + " | ".join(map(str, row)) + " |", flush=True)
                for fault in done.faults:
                    print(f"  {fault}", file=sys.stderr, flush=True)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
