"""`--at`: a command run elsewhere looks, prints and ends as it does here."""

import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from helpers import write_video
from serving import Server, Stuck, serving
from vsodpipe import media

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("serve")
    write_video(home / "datasets/TINY_test/dice", 3, 5)
    with serving(home / "datasets", log=home / "log") as running:
        yield running


def last_lines(text: str) -> list[str]:
    """Return the lines of stderr without those that tell a rate or a time."""
    told = ("frame/s", "/frame", " s;")
    return [line for line in text.splitlines() if not any(word in line for word in told)]


def test_a_command_is_the_same_here_and_there(
    server: Server, vsodpipe: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = server.log.parent
    call = ("flow", "TINY_test", "--engine", "dis")
    code, out, err = vsodpipe(*call, "--at", server.url)
    assert (code, out) == (0, "")
    assert "flow TINY_test: 5/5 frames" in err, "the same progress"
    shutil.rmtree(home / "datasets/TINY_test/dice/FLOW")
    monkeypatch.chdir(home)
    monkeypatch.setenv("VSODPIPE_DATA", str(home / "datasets"))
    assert last_lines(err) == last_lines(vsodpipe(*call)[2]), "the same lines"
    monkeypatch.setenv("VSODPIPE_AT", server.url)
    code, out, err = vsodpipe("manifest", "TINY_test", "--json", "-q")
    assert code == 0 and "manifests/tiny.json" in out and err == ""
    for file in (home / "datasets/TINY_test/dice/GT").iterdir():
        moved = np.roll(media.read_mask(file).astype(np.uint8) * 255, 1, axis=1)
        target = home / "runs/mine/maps/TINY_test/dice" / file.name
        media.write_bytes(target, media.encode_png(moved))
    score = ("eval", "runs/mine/maps", "--manifest", "manifests/tiny.json", "--workers", "1")
    there, here = vsodpipe(*score), vsodpipe(*score, "--at", "")
    assert (there[0], there[1]) == (here[0], here[1]) and here[0] == 0, "the same table"
    there, here = vsodpipe("flow", "NOPE"), vsodpipe("flow", "NOPE", "--at", "")
    assert there[0] == here[0] == 2, "the same exit code"
    assert there[2].splitlines()[-1].startswith("error: unknown data set 'NOPE'")
    assert here[2].splitlines()[-1].startswith("error: unknown data set 'NOPE'")


def test_wrong_addresses(server: Server, vsodpipe: Run) -> None:
    for at, said in (
        ("http://127.0.0.1:9", "no vsodpipe serve answers there"),
        ("ftp://x", "expected http://HOST:PORT"),
        ("http://me:secret@x", "the token belongs in VSODPIPE_TOKEN"),
        ("http://a..b", "expected http://HOST:PORT"),
        ("http://[::1", "expected http://HOST:PORT"),
        (f"{server.url}/static", "Method Not Allowed"),
    ):
        code, _, err = vsodpipe("flow", "TINY_test", "--at", at)
        assert code in (1, 2) and said in err and len(err.splitlines()) == 1, err
    code, _, err = vsodpipe("flow", "TINY_test", "--out", "x", "--at", server.url)
    assert code == 2 and "--out is not possible from afar" in err


def child(server: Server, **more: Any) -> subprocess.Popen[bytes]:
    words = ["flow", "TINY_test", "--engine", "dis", "--gap", "2", "--force", "--at", server.url]
    return subprocess.Popen([sys.executable, "-m", "vsodpipe", *words], **more)


def running(server: Server) -> dict[str, Any]:
    """Return the job that runs, once it tells progress."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        for job in server.get("/api/jobs?state=running").json["jobs"]:
            if job["progress"]:
                return dict(job)
        time.sleep(0.05)
    raise AssertionError("no job runs")


def test_ctrl_c_leaves_or_cancels(server: Server) -> None:
    root = server.log.parent / "datasets"
    held = Stuck(root / "TINY_test/dice/RGB")
    piped = child(server, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    job = running(server)
    piped.send_signal(signal.SIGINT)
    said = piped.communicate(timeout=60)[1].decode()
    assert piped.returncode == 130 and f"left job {job['id']} running" in said
    assert f"curl -X POST {server.url}/api/jobs/{job['id']}/cancel" in said
    assert server.get(f"/api/jobs/{job['id']}").json["state"] == "running"
    master, slave = pty.openpty()
    terminal = child(server, stdin=slave, stderr=slave)  # the same request: the same job
    os.close(slave)
    shown = b""
    while b"flow TINY_test" not in shown:
        shown += os.read(master, 4096)
    terminal.send_signal(signal.SIGINT)
    while b"[Y/n]" not in shown:
        shown += os.read(master, 4096)
    os.write(master, b"n\n")
    while f"/api/jobs/{job['id']}/cancel" not in server.log.read_text():
        time.sleep(0.05)
    held.release()  # only now: else it might be done before it is told to stop
    assert terminal.wait(60) == 130
    os.close(master)
    assert server.get(f"/api/jobs/{job['id']}").json["state"] == "cancelled"
