"""Processes that work together, of which one dies: a dask scheduler, a rank under torchrun."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from vsodpipe import cluster, models, runs, train
from vsodpipe.errors import VsodpipeError
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter

EXTRA = Path(__file__).parent / "extra_models"


def wait_for(found: object, running: "subprocess.Popen[str]", seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not found():  # type: ignore[operator]
        assert time.monotonic() < until and running.poll() is None, running.communicate()[1]
        time.sleep(0.02)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The command line, with the test's network, slow steps, and a save after each."""
    file = tmp_path / "script.py"
    file.write_text(
        "import time\nfrom vsodpipe import cli, models, train\n"
        f"models.__path__.append({str(EXTRA)!r})\n"
        "train.SAVE_SECONDS = 0.0\nreal = train._step\n"
        "def step(*given):\n    time.sleep(0.3)\n    return real(*given)\n"
        "train._step = step\ncli.main()\n"
    )
    return file


def losses(run: Path) -> list[float]:
    rows = [json.loads(row) for row in (run / "events.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.parametrize("rank", [0, 1] if os.environ.get("FAULTS") == "long" else [0])
def test_a_rank_that_dies(
    source: Source, tmp_path: Path, script: Path, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others end, with a word of how to go on, and the run continues as if nothing had been."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    start += ["--nproc-per-node", "2", "--", str(script), "train", "plainnet"]
    start += ["--manifest", str(source.file), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = tmp_path / "run"
    start += ["--run", str(run), "--set", "epochs=3"]
    running = subprocess.Popen(start, stderr=subprocess.PIPE, text=True, env=environment)
    events = run / "events.jsonl"
    wait_for(lambda: events.is_file() and events.read_text().count("\n") > 1, running)
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(running.pid)], capture_output=True, text=True
    )
    ranks = sorted(int(line) for line in listed.stdout.split())
    os.kill(ranks[rank], signal.SIGKILL)
    err = running.communicate(timeout=240)[1]
    assert running.returncode == 1 and f"Signal 9 (SIGKILL) received by PID {ranks[rank]}" in err
    for left in ranks:
        with pytest.raises(ProcessLookupError):
            os.kill(left, 0)
    if rank == 1:  # the one that writes is left, and says so
        assert "another process of this training has died" in err, err
        assert f"--resume {run}" in err
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(EXTRA)])
    stages = runs.resumed(run, "plainnet", source)
    job = runs.Job("plainnet", source, stages, run, "cpu", 0)
    train.train(job, Reporter(quiet=True), resume=True)  # in one process, which is the same
    train.train(replace(job, run=tmp_path / "whole"), Reporter(quiet=True))
    sys.modules.pop("vsodpipe.models.plainnet", None)
    assert len(losses(run)) == 6
    assert losses(run) == pytest.approx(losses(tmp_path / "whole"), abs=1e-6)


SCHEDULER = """
import time
from dask.distributed import LocalCluster
started = dict(processes=False, protocol="tcp", dashboard_address=":0")
with LocalCluster(n_workers=1, threads_per_worker=1, **started) as cluster:
    print(cluster.scheduler_address, flush=True)
    time.sleep(100)
"""


def test_a_scheduler_that_dies() -> None:
    """The job ends with one line, and does not wait for ever."""
    started = subprocess.Popen([sys.executable, "-c", SCHEDULER], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    address = started.stdout.readline().strip()
    found = []
    with pytest.raises(VsodpipeError, match="scheduler does not answer any more") as error:
        for one in cluster.each(time.sleep, [0.1] * 100, address):
            found.append(one)
            started.kill()
    assert found and address in str(error.value) and "\n" not in str(error.value)
    started.communicate()


SCORING = """
import sys
import numpy as np
from pathlib import Path
from vsodpipe import media, scoring

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    mask = np.zeros((20, 20), np.uint8)
    mask[:, :9] = 255
    for name, picture in (("gt", mask), ("map", 255 - mask)):
        media.write_bytes(folder / f"{name}.png", media.encode_png(picture))
    item = scoring.Item("v", str(folder / "gt.png"), str(folder / "map.png"))
    todo = list(scoring.tasks(("m", "d"), scoring.Rules(), [item] * 50_000))
    for _ in scoring.run(todo, 1 + 1):
        print("scored", flush=True)
"""


def test_the_workers_of_a_killed_command_end(tmp_path: Path) -> None:
    """Killed is the command alone, as a machine without memory does: its workers notice."""
    file = tmp_path / "scores.py"
    file.write_text(SCORING)
    running = subprocess.Popen(
        [sys.executable, str(file), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert running.stdout is not None and running.stdout.readline() == "scored\n"
    running.kill()
    running.communicate()
    until = time.monotonic() + 30
    while left := _session(running.pid):
        assert time.monotonic() < until, f"still there: {left}"
        time.sleep(0.1)


def _session(number: int) -> str:
    listed = ["ps", "-o", "pid=,args=", "-s", str(number)]
    return subprocess.run(listed, capture_output=True, text=True).stdout
