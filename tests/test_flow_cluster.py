"""Flow on workers: the same bytes as in one process, whatever dies on the way."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from helpers import files_below, write_video
from vsodpipe import catalogue, cluster, flow_job, flows, locks, media
from vsodpipe.errors import DataError, UsageError, VsodpipeError
from vsodpipe.flow_job import Options, Spec
from vsodpipe.progress import Reporter

Run = Callable[..., tuple[int, str, str]]

PLUGIN = """
import os, signal, time
from vsodpipe import flows

def create(name, *, marker="", seconds=0.0):
    engine = flows.create("dis", preset="ultrafast")
    plain = engine.clip
    def clip(frames, direction="forward", gap=1):
        for number, flow in enumerate(plain(frames, direction, gap)):
            time.sleep(seconds)
            if marker and number == 2:
                try:
                    open(marker, "x").close()
                except FileExistsError:
                    pass
                else:
                    os.kill(os.getpid(), signal.SIGKILL)
            yield flow
    engine.clip = clip
    return engine

def slow(name):
    return create(name, seconds=0.1)
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another package with the engines `deadly`, which kills its process once, and `slow`."""
    folder = tmp_path / "plugin"
    info = folder / "plug-1.dist-info"
    media.write_bytes(folder / "plug_engine.py", PLUGIN.encode())
    media.write_bytes(info / "METADATA", b"Metadata-Version: 2.1\nName: plug\nVersion: 1\n")
    points = "[vsodpipe.engines]\ndeadly = plug_engine\nslow = plug_engine:slow\n"
    media.write_bytes(info / "entry_points.txt", points.encode())
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, (name, frames) in enumerate({"a": 6, "b": 9, "c": 5}.items()):
        write_video(tmp_path / "data" / "S" / name, seed, frames)
    return tmp_path / "data"


def flow_of(folder: Path) -> dict[str, bytes]:
    names = (n for n in files_below(folder) if "FLOW" in n and (folder / n).is_file())
    return {name: (folder / name).read_bytes() for name in names}


def expected(root: Path, quiet: Reporter) -> dict[str, bytes]:
    """The flow of an uninterrupted run in this process, which is removed again."""
    engine = flows.create("dis", preset="ultrafast")
    dataset = catalogue.find("S", root)
    flow_job.compute(dataset, engine, Options(), quiet)
    found = flow_of(root)
    assert len(found) == 6 + 9 + 5 + 3
    for video in dataset.videos:
        media.remove(video.flow_folder)
    return found


def test_a_killed_worker_is_replaced_and_nothing_is_lost_or_counted_twice(
    root: Path, plugin: Path, quiet: Reporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = expected(root, quiet)
    counted = []
    monkeypatch.setattr("vsodpipe.progress.Counter.advance", lambda counter: counted.append(1))
    said: list[str] = []
    monkeypatch.setattr(quiet, "say", said.append)
    spec = Spec("deadly", {"marker": str(tmp_path / "marker")}, 1)
    engine = flows.create("deadly")
    monkeypatch.chdir(root)  # the paths are relative, the workers somewhere else
    dataset = catalogue.find("S", Path("."))
    done = flow_job.compute(dataset, engine, Options(), quiet, where="local:2", spec=spec)
    assert (tmp_path / "marker").exists(), "a worker did die"
    assert flow_of(root) == plain
    assert not [name for name in files_below(root) if "partial" in name]
    assert (done.videos, done.frames, done.computed, done.kept) == (3, 20, 20, 0)
    assert len(counted) == 20
    assert said[0].startswith("2 workers of tcp://")


def test_a_damaged_frame_ends_the_job(root: Path, quiet: Reporter) -> None:
    frame = root / "S/b/RGB/00004.jpg"
    frame.write_bytes(frame.read_bytes()[:-200])
    spec = Spec("dis", {"preset": "ultrafast"}, 1)
    engine = flows.create("dis", preset="ultrafast")
    with pytest.raises(DataError, match="damaged picture") as error:
        dataset = catalogue.find("S", root)
        flow_job.compute(dataset, engine, Options(), quiet, where="local:1", spec=spec)
    assert str(frame) in str(error.value)
    assert not [name for name in files_below(root) if "partial" in name]
    assert not (root / "S/b/FLOW").exists()


def test_another_engine_on_the_workers_is_noticed(root: Path, quiet: Reporter) -> None:
    engine = flows.create("dis", preset="fast")
    work = flow_job.survey(catalogue.find("S", root), engine, Options(), force=False)[0]
    with pytest.raises(VsodpipeError, match="a worker's engine is"):
        spec = Spec("dis", {"preset": "medium"})
        flow_job._remote(spec, engine.fingerprint, Options(), work, lambda: None)
    assert not (root / "S/a/FLOW").exists()


def test_a_scheduler_of_ones_own(root: Path, vsodpipe: Run, quiet: Reporter) -> None:
    from dask.distributed import LocalCluster

    plain = expected(root, quiet)
    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=":0") as own:
        address = own.scheduler_address
        call = ("flow", "S", "--data", root, "--engine", "dis", "--preset", "ultrafast")
        code, _, err = vsodpipe(*call, "--cluster", address)
        assert code == 0 and f"1 workers of {address}" in err, err
        assert "20 frames of 3 videos" in err
        assert len(own.scheduler_info["workers"]) == 1, "it is not ours to close"
    assert flow_of(root) == plain


@pytest.mark.parametrize(
    "where", ["local", "local:0", "local:x", "host", "host:80", "local:-1", ""]
)
def test_addresses_that_are_none(where: str) -> None:
    with pytest.raises(UsageError, match=f"--cluster {where}: expected local:N"):
        cluster.check(where)


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    from dask import distributed

    def refuse(*_: object, **__: object) -> None:
        raise OSError("Timed out trying to connect")

    monkeypatch.setattr(distributed, "Client", refuse)
    with pytest.raises(VsodpipeError, match="tcp://localhost:1: no dask scheduler answers there"):
        next(cluster.each(str, [1], "tcp://localhost:1"))


def start(root: Path) -> subprocess.Popen[str]:
    """Start the slow flow of S on two workers; return once a video is being written."""
    call = [sys.executable, "-m", "vsodpipe", "flow", "S", "--data", str(root), "--engine", "slow"]
    job = subprocess.Popen(
        [*call, "--cluster", "local:2"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=root.parent,
    )
    until = time.monotonic() + 30
    while not [*root.glob("S/*/.FLOW.partial/*.jpg")]:
        assert time.monotonic() < until and job.poll() is None, job.communicate()[1]
        time.sleep(0.05)
    return job


def alive(session: int) -> list[int]:
    """Return the processes of a session."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "-s", str(session)], capture_output=True, text=True
    )
    return [int(line) for line in listed.stdout.split()]


def gone(session: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while alive(session) and time.monotonic() < until:
        time.sleep(0.1)
    return not alive(session)


def test_kill_and_continue(root: Path, plugin: Path, quiet: Reporter) -> None:
    plain = expected(root, quiet)
    job = start(root)
    job.kill()  # the command alone: its workers must notice by themselves
    job.communicate()
    engine = flows.create("dis", preset="ultrafast")
    flow_job.compute(catalogue.find("S", root), engine, Options(), quiet)
    assert flow_of(root) == plain
    assert not [name for name in files_below(root) if "partial" in name]
    assert gone(job.pid, 20)
    assert flow_of(root) == plain


def test_ctrl_c_leaves_nothing_running(root: Path, plugin: Path) -> None:
    job = start(root)
    os.killpg(job.pid, signal.SIGINT)
    err = job.communicate(timeout=30)[1]
    assert job.returncode == 130, err
    assert err.splitlines()[-1] == "error: interrupted. Run the same command again to continue."
    assert "Traceback" not in err
    assert gone(job.pid, 10)
    assert not [name for name in files_below(root) if "partial" in name]


def test_two_commands_at_once_wait_for_each_other(root: Path, quiet: Reporter) -> None:
    video = catalogue.find("S", root).videos[0]
    code = (
        "import sys; from pathlib import Path; from vsodpipe import locks\n"
        "with locks.alone(Path(sys.argv[1]), print): print('mine')"
    )
    place = video.frames[0].img.parent
    with locks.alone(place):
        other = subprocess.Popen(
            [sys.executable, "-c", code, str(place)], stdout=subprocess.PIPE, text=True
        )
        with pytest.raises(subprocess.TimeoutExpired):
            other.communicate(timeout=2)
    waited = f"waiting for process {os.getpid()}, which is at work in {place}\nmine\n"
    assert other.communicate(timeout=30)[0] == waited
    assert np.all([not name.endswith("lock") for name in files_below(root)])


def test_workers_of_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {}

    def create(name: str, **options: object) -> object:
        chosen[name] = options
        return object()

    monkeypatch.setattr(flows, "create", create)
    monkeypatch.setattr(flow_job, "_free", lambda: 12.0)
    assert cluster.shares("tcp://host:1") == (None, 1)
    cores, workers = cluster.shares("local:4")
    assert cores is not None and cores >= 1 and workers == 4
    flow_job._engine(Spec("raft_small", {"device": "cpu"}, None, 4))
    assert chosen["raft_small"] == {"device": "cpu", "memory": 3.0}
    flow_job._engine(Spec("raft_small", {"device": "cpu", "memory": 1.0}, None, 4))
    assert chosen["raft_small"] == {"device": "cpu", "memory": 1.0}
    flow_job._mine.__dict__.clear()
