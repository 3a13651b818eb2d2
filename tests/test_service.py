"""The service as others meet it: a real server process on tiny data."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate
from starlette.responses import Response

from helpers import files_below, write_video
from serving import Server, Stuck, serving, start
from vsodpipe.service import guard, places, processes, requests, telemetry
from vsodpipe.service.hub import Hub
from vsodpipe.service.kinds import KINDS
from vsodpipe.service.queue import Queue
from vsodpipe.service.runner import Runner
from vsodpipe.service.settings import Settings

TOKEN = "0123456789abcdef-secret"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def write_data(root: Path) -> Path:
    """Write TINY_train (two videos), TINY_test (one), and LONG_train: three of four frames."""
    write_video(root / "TINY_train" / "ball", 1, 5)
    write_video(root / "TINY_train" / "cube", 2, 4)
    write_video(root / "TINY_test" / "dice", 3, 5)
    for name in ("one", "two", "zoo"):
        write_video(root / "LONG_train" / name, 4, 4)
    return root


def stuck(root: Path) -> Stuck:
    """Let jobs on LONG_train stop in the last of its videos."""
    return Stuck(root / "LONG_train" / "zoo" / "RGB")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("serve")
    with serving(write_data(home / "datasets"), log=home / "log") as running:
        yield running


@pytest.fixture(scope="module")
def root(server: Server) -> Path:
    return server.log.parent / "datasets"


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of a stream as (event, data)."""
    found = re.findall(r"^event: (\w+)\ndata: (.*)\n\n", text, re.MULTILINE)
    return [(kind, json.loads(data)) for kind, data in found]


def test_a_job_from_its_request_to_its_result(server: Server, root: Path) -> None:
    job = server.submit("flow", names=["TINY_train"], engine="dis", preset="ultrafast")
    assert job["command"] == "vsodpipe flow TINY_train --engine dis --preset ultrafast"
    assert job["data_set"] == "tiny" and job["state"] in ("queued", "running")
    said = events(server.get(f"/api/events?job={job['id']}").body.decode())
    progress = [data for kind, data in said if kind == "progress"]
    assert progress[-1]["label"] == "flow TINY_train" and progress[-1]["unit"] == "frame"
    assert (progress[-1]["done"], progress[-1]["total"], progress[-1]["eta"]) == (9, 9, 0)
    lines = [data["text"] for kind, data in said if kind == "line"]
    assert "9 frames of 2 videos" in lines
    kind, last = said[-1]
    assert kind == "job" and (last["state"], last["code"]) == ("done", 0)
    assert last["summary"]["computed"] == 9 and last["ended"] >= last["started"]
    assert len(list((root / "TINY_train/ball/FLOW").glob("*.jpg"))) == 5
    assert server.get(f"/api/jobs/{job['id']}/log").body.decode().splitlines() == lines
    assert json.loads(server.get(f"/api/jobs/{job['id']}/output").body) == last["summary"]
    assert server.get("/api/jobs?state=done&limit=1").json["jobs"][0] == last


def test_one_request_is_one_job_and_one_data_set_is_one_job_at_a_time(
    server: Server, root: Path
) -> None:
    held = stuck(root)
    call = {"kind": "flow", "arguments": {"names": ["LONG_train"], "engine": "dis"}}
    first, same = server.post("/api/jobs", call), server.post("/api/jobs", call)
    assert (first.status, same.status) == (201, 200) and first.json["id"] == same.json["id"]
    after = server.submit("manifest", names=["LONG_train"])
    other = server.submit("manifest", names=["TINY_test"])
    assert server.wait(after["id"], "waiting")
    assert server.wait(other["id"])["state"] == "done", "another data set waits for none"
    held.release()
    before, ended = server.wait(first.json["id"]), server.wait(after["id"])
    assert before["state"] == ended["state"] == "done", (before, ended)
    assert ended["started"] >= before["ended"]
    made = json.loads((server.log.parent / "manifests" / "long.json").read_text())
    assert made["datasets"][0]["flow"]["engine"]["engine"] == "dis"


def test_cancel(server: Server, root: Path) -> None:
    call = {"names": ["LONG_train"], "engine": "dis", "gap": 2, "force": True}
    held = stuck(root)
    job = server.submit("flow", **call)
    queued = server.submit("flow", **(call | {"gap": 3}))
    assert server.wait(queued["id"], "waiting")
    while not server.get(f"/api/jobs/{job['id']}").json["progress"]:
        time.sleep(0.02)
    assert server.post(f"/api/jobs/{queued['id']}/cancel").json["state"] == "cancelled"
    server.post(f"/api/jobs/{job['id']}/cancel")
    held.release()
    ended = server.wait(job["id"])
    assert (ended["state"], ended["code"]) == ("cancelled", 130)
    assert ended["progress"]["done"] < ended["progress"]["total"]
    assert not [name for name in files_below(root / "LONG_train") if "tmp" in name.lower()]
    again = server.post(f"/api/jobs/{job['id']}/cancel")
    assert again.status == 409 and "has ended already" in again.json["error"]
    assert server.post("/api/jobs/999999/cancel").status == 404
    newest = server.get("/api/jobs?limit=1").json
    before = server.get(f"/api/jobs?limit=1&before={newest['next']}").json
    assert [page["jobs"][0]["id"] for page in (newest, before)] == [queued["id"], job["id"]]


def test_a_job_killed_from_outside_starts_again(server: Server, root: Path) -> None:
    held = stuck(root)
    job = server.submit("flow", names=["LONG_train"], engine="dis", gap=2, force=True)
    while not server.get(f"/api/jobs/{job['id']}").json["progress"]:
        time.sleep(0.02)
    (pid,) = [
        json.loads(line)["pid"]
        for line in server.log.read_text().splitlines()
        if f'"job": {job["id"]}, "state": "running"' in line
    ]
    os.kill(pid, signal.SIGKILL)
    held.release()
    ended = server.wait(job["id"])
    assert ended["state"] == "done" and ended["summary"]["frames"] == 12
    assert '"signal": 9' in server.log.read_text()


def test_a_job_that_fails_says_why(server: Server) -> None:
    ended = server.wait(server.submit("flow", names=["NOPE"], engine="dis")["id"])
    assert (ended["state"], ended["code"]) == ("failed", 2)
    assert ended["message"].startswith("unknown data set 'NOPE'") and ended["summary"] is None


WRONG = [
    ({"kind": "rm", "arguments": {}}, "unknown kind of job 'rm'"),
    ({"kind": "flow", "arguments": {}}, "names: field required"),
    ({"kind": "flow", "arguments": {"names": "a"}}, "names: input should be a valid list"),
    ({"kind": "flow", "arguments": {"names": ["a"], "gap": 0}}, "gap: input should be greater"),
    ({"kind": "flow", "arguments": {"names": ["a"], "gap": "1"}}, "gap: input should be a valid"),
    ({"kind": "flow", "arguments": {"names": ["a"], "engin": "dis"}}, "Did you mean engine?"),
    ({"kind": "flow", "arguments": {"names": ["a"], "out": "/tmp"}}, "--out is not possible"),
    ({"kind": "flow", "arguments": {"names": ["a"], "data": "/"}}, "--data is not possible"),
    ({"kind": "flow", "arguments": {"names": ["../x"]}}, "expected a path inside"),
    ({"kind": "flow", "arguments": {"names": ["/etc"]}}, "is not inside the folder datasets"),
    ({"kind": "flow", "arguments": {"names": [".service"]}}, "expected the name of a data set"),
    ({"kind": "flow", "arguments": {"names": ["-x"]}}, "expected the name of a data set"),
    ({"kind": "flow", "arguments": {"names": ["a/.service/b"]}}, "is not inside"),
    ({"kind": "flow", "arguments": {"names": ["a\x00"]}}, "printable characters"),
    ({"kind": "flow", "arguments": {"names": ["datasets/../.."]}}, "expected a path inside"),
    ({"kind": "import", "arguments": {"name": "a/b", "source": ["x"]}}, "expected a name"),
    ({"kind": "import", "arguments": {"name": "a", "source": ["/etc"]}}, "is not inside"),
    ({"kind": "pack", "arguments": {"name": "http://x/y.json"}}, "expected a path inside"),
    ({"kind": "eval", "arguments": {"folders": ["runs/../.."], "manifest": ["a.json"]}}, "inside"),
    ({"kind": "train", "arguments": {"model": "dbsnet", "manifest": "/etc/a.json"}}, "inside"),
    ({"kind": "train", "arguments": {"model": "a", "manifest": "rows.txt"}}, "expected a manifest"),
    ({"kind": "predict", "arguments": {"names": ["a"], "checkpoint": ["x=/etc"]}}, "not inside"),
    ({"kind": "predict", "arguments": {"names": ["/a.mp4"], "checkpoint": ["r"]}}, "not inside"),
    (
        {"kind": "predict", "arguments": {"names": ["a"], "checkpoint": ["r"], "out": "/tmp/o"}},
        "is not inside the folder runs",
    ),
    ({"kind": "flow"}, "names: field required"),
    ({"kind": 1}, "kind: Input should be a valid string"),
    ([], "body: Input should be an object"),
    (b"{", "body: Invalid JSON"),
]


@pytest.mark.parametrize("body, reason", WRONG)
def test_wrong_requests(server: Server, body: Any, reason: str) -> None:
    answer = server.post("/api/jobs", body)
    assert answer.status == 400 and reason in answer.json["error"], answer.body
    assert "\n" not in answer.json["error"]


def test_nothing_outside_is_reached_through_links(server: Server, root: Path) -> None:
    (root.parent / "runs").mkdir(exist_ok=True)
    (root.parent / "runs" / "out").symlink_to("/etc")
    call = {"folders": ["runs/out/maps"], "manifest": ["long.json"]}
    answer = server.post("/api/jobs", {"kind": "eval", "arguments": call})
    assert answer.status == 400 and "is not inside" in answer.json["error"]


def test_limits_hosts_and_origins(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    asked = f"POST /api/jobs HTTP/1.1\r\nHost: {host}\r\n".encode()
    with socket.create_connection((host, int(port)), 60) as raw:  # refused before its body comes
        raw.sendall(asked + f"Content-Length: {2**20 + 1}\r\n\r\n".encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 413 ")
    with socket.create_connection((host, int(port)), 60) as raw:  # chunked: no length to see before
        raw.sendall(asked + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(17):
            raw.sendall(b"10000\r\n" + b"x" * 2**16 + b"\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 413 ")
    assert server.get("/api/jobs", Host="evil.example").status == 403
    assert server.post("/api/jobs", {"kind": "x"}, Origin="http://evil.example").status == 403
    assert server.post("/api/jobs", {"kind": "x"}, Origin=server.url).status == 400
    answer = server.get("/api/jobs", Origin="http://evil.example")
    assert "access-control-allow-origin" not in answer.headers
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    for query in ("limit=0", "limit=501", "limit=x", "before=-1", "state=gone"):
        assert server.get(f"/api/jobs?{query}").status == 400, query
    assert server.get("/api/events?job=999999").status == 404
    assert server.ask("DELETE", "/api/jobs").status == 405


def test_descriptions(server: Server) -> None:
    document = server.get("/openapi.json").json
    validate(document)
    assert document["paths"]["/api/jobs"]["post"]["summary"].startswith("Ask for a job")
    flow = document["components"]["schemas"]["FlowArguments"]
    assert flow["properties"]["gap"] == {
        "default": 1,
        "description": "Frames from one of a pair to the other.",
        "minimum": 1,
        "title": "Gap",
        "type": "integer",
    }
    assert set(server.get("/api/kinds").json) == {
        *("import", "flow", "manifest", "pack", "train", "test", "predict", "eval")
    }
    page = server.get("/docs").body.decode()
    assert "POST /api/jobs" in page and "http" not in page.replace(server.url, "")


def test_metrics_and_health(server: Server) -> None:
    assert server.get("/healthz").json == {"ok": True}
    text = server.get("/metrics").body.decode()
    values = dict(re.findall(r"^(vsodpipe_\S+) (\S+)$", text, re.MULTILINE))
    for state in ("done", "failed", "cancelled"):
        listed = server.get(f"/api/jobs?state={state}&limit=500").json["jobs"]
        assert float(values[f'vsodpipe_jobs{{state="{state}"}}']) == len(listed)
    assert float(values["vsodpipe_requests_in_flight"]) == 1
    assert values["vsodpipe_queue_length"] == "0" == values['vsodpipe_jobs{state="running"}']
    assert float(values["vsodpipe_sent_bytes_total"]) >= len('{"ok":true}')
    free, total = (float(values[f"vsodpipe_disk_{what}_bytes"]) for what in ("free", "total"))
    assert 0 < free < total
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "libtorch" not in maps, "the server process has no torch"


def test_a_killed_server_continues_its_jobs(tmp_path: Path) -> None:
    root = write_data(tmp_path / "datasets")
    log = tmp_path / "log"
    token = {"VSODPIPE_TOKEN": TOKEN}
    first = start(root, "--host", "0.0.0.0", log=log, **token)
    try:
        assert first.get("/api/jobs").status == 401 and first.get("/metrics").status == 401
        assert first.get("/api/jobs", Authorization="Bearer wrong").status == 401
        assert first.get("/healthz").status == 200
        assert first.get("/api/me").json == {"token": True, "ok": False}
        assert first.post("/login", {"token": "wrong"}).status == 401
        cookie = first.post("/login", {"token": TOKEN}).headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie
        assert first.get("/api/jobs", Cookie=cookie.split(";")[0]).status == 200
        held = stuck(root)
        call = {"kind": "flow", "arguments": {"names": ["LONG_train"], "engine": "dis"}}
        words = ["flow", "LONG_train", "--engine", "dis", "--at", first.url]
        follower = subprocess.Popen(
            [sys.executable, "-m", "vsodpipe", *words],
            env=os.environ | token,
            stderr=subprocess.PIPE,
            text=True,
        )
        held.wait(root / "LONG_train/one/FLOW", root / "LONG_train/two/FLOW")
        same = first.post("/api/jobs", call, **BEARER)
        later = {"kind": "manifest", "arguments": {"names": ["LONG_train"]}}
        waiting = first.post("/api/jobs", later, **BEARER).json["id"]
    finally:
        first.stop(signal.SIGKILL)
    port = first.url.rpartition(":")[2]
    with serving(root, "--port", port, log=log, **token) as second:
        second.headers = BEARER
        job = second.post("/api/jobs", call).json["id"]
        assert same.status == 200 and same.json["id"] == job, "it is still the same job"
        held.release()
        now = second.wait(waiting)
        ended = second.wait(job)
        assert ended["state"] == now["state"] == "done"
        assert ended["summary"]["kept"] == 2 and ended["summary"]["computed"] == 4
        assert ended["ended"] <= now["started"]
        said = follower.communicate(timeout=120)[1]
        assert follower.returncode == 0, "the client outlived its server"
        assert "trying again" in said and "12 frames of 3 videos" in said
        held = stuck(root)
        call["arguments"] |= {"gap": 2, "force": True}  # type: ignore[operator]
        last = second.post("/api/jobs", call, **BEARER).json["id"]
        while second.wait(last, "running")["progress"] is None:
            time.sleep(0.02)
        assert second.stop(signal.SIGTERM) == 0, "a graceful end"
        assert processes.orphans(root / ".service") == []
        held.release()
    assert TOKEN not in log.read_text()
    text = (root / ".service" / "jobs.sqlite").read_bytes()
    assert TOKEN.encode() not in text
    queue = Queue(root / ".service" / "jobs.sqlite")
    assert queue.get(last)["state"] == "queued", "it continues at the next start"
    queue.close()


def test_what_a_server_refuses(vsodpipe: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("VSODPIPE_TOKEN", raising=False)
    code, _, err = vsodpipe("serve", "--data", "none")
    assert code == 2 and "none: no such data root" in err
    (tmp_path / "datasets").mkdir()
    code, _, err = vsodpipe("serve", "--host", "0.0.0.0")
    assert code == 2 and "Set a token" in err
    monkeypatch.setenv("VSODPIPE_TOKEN", "short")
    code, _, err = vsodpipe("serve")
    assert code == 2 and "at least 16 characters" in err and "short" not in err
    assert files_below(tmp_path / "datasets") == set()


def test_a_training_continues_in_its_run(tmp_path: Path) -> None:
    home = Settings(tmp_path / "datasets", tmp_path / "runs", tmp_path / "manifests")
    arguments = {"model": "dbsnet", "manifest": "tiny.json", "stage": ["debug"], "workers": 0}
    job = {"id": 7, "kind": "train", "arguments": arguments, "created": 0.0}
    first = places.words(job, home)
    (run,) = [word.removeprefix("--run=") for word in first if word.startswith("--run=")]
    assert Path(run).parent == home.runs and run.endswith("-7")
    manifest = f"--manifest={home.manifests}/tiny.json"
    assert set(first) == {"train", manifest, f"--run={run}", "--stage=debug", "--workers=0"} | {
        *("--json", "--", "dbsnet")
    }
    Path(run).mkdir(parents=True)
    (Path(run) / "run.json").write_text("{}")
    again = places.words(job, home)
    resumed = {"train", manifest, f"--resume={run}", "--workers=0", "--json", "--", "dbsnet"}
    assert set(again) == resumed


def test_what_waits_for_what(tmp_path: Path) -> None:
    home = Settings(tmp_path / "datasets", tmp_path / "runs", tmp_path / "manifests")
    queue = Queue(tmp_path / "jobs.sqlite")
    home.manifests.mkdir()
    held = {"datasets": [{"dataset": "DAVIS_train"}, {"dataset": "FBMS_train"}]}
    (home.manifests / "mix.json").write_text(json.dumps(held))

    def submit(kind: str, **arguments: Any) -> int:
        return int(queue.submit(requests.check(kind, arguments, home))[0]["id"])

    score = {"folders": ["runs/a/maps"], "manifest": ["mix.json"]}
    first = submit("flow", names=["DAVIS_train"], engine="dis")
    test = submit("flow", names=["DAVIS_test"], engine="dis")  # of the same group
    other = submit("flow", names=["TINY_train"], engine="dis")
    scored, again = submit("eval", **score), submit("eval", **score, metric=["mae"])
    everything = submit("manifest")
    own = submit("import", name="holiday", source=["clips"], own=True)
    assert queue.turn(10) == ([first, other], [test, scored, again, everything, own])
    queue.begin(first)
    queue.begin(other)
    assert queue.turn(10)[0] == []
    queue.end(first, "done", 0)
    assert queue.turn(10)[0] == [test]
    queue.begin(test)
    queue.end(test, "done", 0)
    queue.end(other, "done", 0)
    assert queue.turn(10)[0] == [scored, again], "readers share"
    for job in (scored, again, everything):
        queue.end(job, "done", 0)
    assert queue.turn(0)[0] == [] and queue.turn(1)[0] == [own]
    queue.end(own, "done", 0)
    train = {"model": "dbsnet", "manifest": "mix.json"}
    trained = submit("train", **train), submit("train", **train, device="cpu", workers=0)
    assert queue.turn(10)[0] == [trained[0]] or Path("/dev/nvidia0").exists()
    queue.close()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_option_is_allowed_or_not(kind: str) -> None:
    """A new option of a command needs a decision: may it come from afar?"""
    allowed, here = set(KINDS[kind].options), KINDS[kind].here
    assert not allowed & here and allowed | here == set(requests.options(kind))


def test_too_much_at_once(tmp_path: Path) -> None:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.05)
        await Response(b"")(scope, receive, send)

    async def ask(path: str) -> int:
        seen: list[int] = []

        async def send(message: Any) -> None:
            seen.append(message.get("status", 0))

        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "headers": [(b"host", b"localhost")],
        }
        await guarded(scope, None, send)  # type: ignore[arg-type]
        return seen[0]

    async def many() -> list[int]:
        paths = ["/api/jobs"] * 3 + ["/api/events"] * 2
        return await asyncio.gather(*map(ask, paths))

    home = Settings(tmp_path, tmp_path, tmp_path, in_flight=2, followers=1)
    guarded = guard.Guard(answer, home, telemetry.Meters())
    assert asyncio.run(many()) == [200, 200, 429, 200, 429]
    assert asyncio.run(many()) == [200, 200, 429, 200, 429], "they have ended"


def test_a_cancel_outlives_its_server(tmp_path: Path) -> None:
    """Whoever was told that a job is cancelled does not meet it again after a kill."""
    home = Settings(tmp_path / "datasets", tmp_path / "runs", tmp_path / "manifests")
    home.data.mkdir()
    runner = Runner(home, Hub())
    job = runner.submit("pack", {"name": "A"})["id"]
    runner.queue.begin(job)
    runner._active[job] = None
    runner.cancel(job)
    runner.queue.close()  # and the server is killed

    async def life() -> dict[str, Any]:
        runner = Runner(home, Hub())
        work = asyncio.create_task(runner.run())
        while runner.get(job)["ended"] is None:
            await asyncio.sleep(0.01)
        found = runner.get(job)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        return found

    found = asyncio.run(life())
    assert (found["state"], found["code"]) == ("cancelled", 130)


def test_a_result_with_nan_is_shown(tmp_path: Path) -> None:
    home = Settings(tmp_path / "datasets", tmp_path / "runs", tmp_path / "manifests")
    home.data.mkdir()
    runner = Runner(home, Hub())
    job = runner.submit("eval", {"folders": ["runs/a"], "manifest": ["a.json"]})["id"]
    runner.output(job).write_text('{"mae": NaN, "s": 0.5}')
    runner._end(job, "done", 0, None)
    assert runner.get(job)["summary"] == {"mae": None, "s": 0.5}
    runner.queue.close()


def test_one_server_a_data_root(server: Server, root: Path, vsodpipe: Any) -> None:
    code, _, err = vsodpipe("serve", "--data", str(root), "--port", "0")
    assert code == 2 and "another vsodpipe serve works there" in err
    port = server.url.rpartition(":")[2]
    code, _, err = vsodpipe("serve", "--data", str(root.parent), "--port", port)
    assert code == 2 and "Name another --port" in err
