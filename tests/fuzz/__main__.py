"""The long form: every parser, as long as you like. See `python -m tests.fuzz --help`.

With atheris installed new paths through our code lead on, else mutations are drawn at random.
Faults are shortened and kept as files in --keep.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz import engine  # noqa: E402


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", nargs="*", help="parsers to feed; default: all")
    parser.add_argument("--seconds", type=float, default=60, help="CPU time of each")
    parser.add_argument("--engine", choices=("atheris", "random"), help="default: atheris if there")
    parser.add_argument("--seed", type=int, default=0, help="of the random mutations")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-faults"), help="for faults")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def child(asked: argparse.Namespace) -> None:
    """Feed one parser in this process; write what was found into the folder `--child`."""
    name, work = asked.target[0], asked.child
    watched = nullcontext()
    if asked.engine == "atheris":
        import atheris

        watched = atheris.instrument_imports(include=["vsodpipe"])
    with watched:
        from fuzz.targets import TARGETS
    target = TARGETS[name]
    (work / "place").mkdir()
    seeds, read = target.make(work / "place")
    last = work / "last"

    def parse(data: bytes) -> None:
        last.write_bytes(data)  # what a dead process was fed with
        read(data)

    def done(found: engine.Found) -> None:
        faults = {}
        for number, (place, data) in enumerate(sorted(found.faults.items())):
            short = engine.shortened(read, data, place)
            (work / f"fault-{number}").write_bytes(short)
            faults[place] = found.words[place]
        result = {"taken": found.taken, "refused": found.refused, "faults": faults}
        (work / "result.json").write_text(json.dumps(result))

    engine.bound(asked.seconds + 60)
    if asked.engine == "atheris":
        engine.guided(parse, seeds, asked.seconds, work, done)
    done(engine.randomly(parse, seeds, target.words, asked.seconds, asked.seed))


def fed(name: str, asked: argparse.Namespace, keep: Path) -> dict[str, Any]:
    """Feed one parser in a process of its own; return what was found, faults kept in `keep`."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        call = [sys.executable, "-m", "tests.fuzz", name, "--engine", asked.engine]
        call += ["--seconds", str(asked.seconds), "--seed", str(asked.seed), "--child", folder]
        ended = subprocess.run(call, capture_output=True, text=True, errors="replace")
        result, made = work / "result.json", sorted(work.glob("fault-*"))
        if result.is_file():
            found = json.loads(result.read_text())
        else:
            made = [file for file in [work / "last"] if file.is_file()]
            why = f"died with {ended.returncode}"
            found = {"taken": 0, "refused": 0, "faults": {why: ended.stderr[-3000:]}}
        for number, file in enumerate(made):
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{name}-{number}").write_bytes(file.read_bytes())
    return found


def main() -> int:
    """Feed the parsers that were asked for, print a row each; return 1 where one has a fault."""
    asked = arguments()
    if asked.engine is None:
        asked.engine = "atheris" if importlib.util.find_spec("atheris") else "random"
    if asked.child:
        child(asked)
        return 0
    from fuzz.targets import TARGETS

    for name in asked.target:
        if name not in TARGETS:
            sys.exit(f"no target {name}. Known: {', '.join(TARGETS)}")
    print(f"| target ({asked.engine}, {asked.seconds:g} s) | inputs | taken | refused | faults |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    failed = 0
    for name in asked.target or TARGETS:
        found = fed(name, asked, asked.keep)
        failed += len(found["faults"])
        total = found["taken"] + found["refused"]
        row = (name, total, found["taken"], found["refused"], len(found["faults"]) or "none")
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
        for place, words in found["faults"].items():
            print(f"  {name}: {place}\n{words}", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
