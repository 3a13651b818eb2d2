"""A server that is killed again and again, or its jobs, at moments that a seed chooses.

VSODPIPE_KILLS=30 python -m pytest -s tests/test_service_kills.py       more of them, with a count
"""

import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from helpers import files_below, write_video
from serving import Server, start
from vsodpipe.service import processes
from vsodpipe.service.runner import TRIES

KILLS = int(os.environ.get("VSODPIPE_KILLS", "2"))
JOBS: list[tuple[str, dict[str, Any]]] = [
    ("flow", {"names": ["ONE_train"], "engine": "dis"}),
    ("manifest", {"names": ["ONE_train"]}),
    ("pack", {"name": "ONE_train"}),
]
if KILLS > 2:
    JOBS += [
        ("flow", {"names": ["TWO_train"], "engine": "dis", "gap": 2}),
        ("manifest", {"names": ["TWO_train"]}),
        ("pack", {"name": "TWO_train", "tier": "jpeg"}),
    ]


def made(home: Path) -> dict[str, bytes]:
    """Return every file that jobs leave, hidden ones too, but for the service's own."""
    names = [name for name in files_below(home) if "/.service" not in f"/{name}"]
    files = {name: home / name for name in names if (home / name).is_file()}
    found = {name: file.read_bytes() for name, file in files.items() if name != "log"}
    # a store knows its flow files by their time of change, which is that of this run
    return {name: re.sub(rb'"packed_from": "\w+"', b"", data) for name, data in found.items()}


def submitted(server: Server) -> list[int]:
    return [int(server.submit(kind, **arguments)["id"]) for kind, arguments in JOBS]


def clear(home: Path) -> None:
    """Remove what jobs have made."""
    root = home / "datasets"
    for path in (home / "manifests", *root.glob("*.zarr"), *root.glob("*/*/FLOW*")):
        shutil.rmtree(path, ignore_errors=True)


def strike(server: Server, chance: random.Random, jobs_too: bool) -> str:
    """Kill the server, or one process of its jobs, after a while; return which it was."""
    time.sleep(chance.uniform(0, 1.5 if KILLS < 10 else 5))
    there = processes.orphans(server.log.parent / "datasets/.service")
    if there and jobs_too and chance.random() < 0.5:
        try:
            os.kill(chance.choice(there), signal.SIGKILL)
        except ProcessLookupError:
            return "none"
        return "job"
    server.stop(signal.SIGKILL)
    return "server"


def test_kills_change_nothing(tmp_path: Path) -> None:
    root, log = tmp_path / "datasets", tmp_path / "log"
    for number, name in enumerate(("ONE_train/a", "ONE_train/b", "TWO_train/c", "TWO_train/d")):
        write_video(root / name, number, 6)
    chance = random.Random(KILLS - 1)
    struck = {"server": 0, "job": 0, "none": 0}
    server = start(root, log=log)
    try:
        jobs, left = submitted(server), TRIES - 1  # killed once more a job would be given up
        rounds = [jobs]
        while struck["server"] + struck["job"] < KILLS:
            what = strike(server, chance, jobs_too=left > 0)
            struck[what] += 1
            left -= what == "job"
            if what == "server":
                server = start(root, log=log)
            if all(server.get(f"/api/jobs/{job}").json["ended"] for job in jobs):
                clear(tmp_path)  # so that there is something to strike
                jobs, left = submitted(server), TRIES - 1
                rounds.append(jobs)
        ended = [server.wait(job) for job in jobs]
        after = made(tmp_path)
        clear(tmp_path)
        rounds.append(submitted(server))
        calm = [server.wait(job) for job in rounds[-1]]
    finally:
        server.process.kill()
        server.process.wait()
    for each in (ended, calm):
        assert [(job["state"], job["code"]) for job in each] == [("done", 0)] * len(JOBS), each
    whole = made(tmp_path)
    assert sorted(after) == sorted(whole), "no file is missing, none is left over"
    assert [name for name in whole if whole[name] != after[name]] == [], "of an uninterrupted run"
    assert processes.end_orphans(root / ".service") == 0, "no process is left over"
    said = [json.loads(line) for line in log.read_text().splitlines()]
    ends = [line["job"] for line in said if line.get("state") == "done"]
    assert sorted(ends) == sorted(sum(rounds, [])), "each job ended once"
    assert not [line for line in said if "trace" in line]
    print(f"\n{struck} over {len(rounds) - 1} rounds of {len(JOBS)} jobs")
