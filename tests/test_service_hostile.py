"""The service against those who mean it harm, and against broken disks."""

import os
import resource
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse

from helpers import write_video
from routed import served
from serving import Server, Stuck, serving
from vsodpipe import remote
from vsodpipe.errors import UsageError
from vsodpipe.service import connections
from vsodpipe.service.queue import Queue

TOKEN = "0123456789abcdef-secret"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("hostile")
    write_video(home / "datasets/TINY_test/dice", 3, 3)
    with serving(home / "datasets", log=home / "log", VSODPIPE_TOKEN=TOKEN) as running:
        running.headers = {"Authorization": f"Bearer {TOKEN}"}
        yield running


def said(url: str, *sent: bytes, seconds: float = 10) -> bytes:
    """Return what a server says to raw bytes until it closes; b"" where it just closes."""
    host, port = url.removeprefix("http://").split(":")
    heard = b""
    with socket.create_connection((host, int(port)), seconds) as raw:
        try:
            for data in sent:
                raw.sendall(data)
            while data := raw.recv(2**16):
                heard += data
        except ConnectionError:
            pass
    return heard


ASKS = [
    b"GET /api/jobs HTTP/1.1\r\n",
    b"POST /login HTTP/1.1\r\n",
    b"PATCH /api/uploads/0 HTTP/1.1\r\n",
    b"GET /data/TINY_test/dice/RGB/00000.jpg HTTP/1.1\r\n",
]
HEADS = [
    *(b"Host: localhost\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"Range: bytes=0-,0-,5-1,-9\r\n", b"If-Range: \xff\r\n", b"Upload-Offset: -1\r\n"),
    *(b"Cookie: vsodpipe=\xfe; a\r\n", b"Authorization: Bearer\r\n", b"Upgrade: websocket\r\n"),
    *(b"Connection: Upgrade\r\n", b"Expect: 100-continue\r\n", b"Host: evil\r\n", b": \r\n"),
    f"Authorization: Bearer {TOKEN}\r\n".encode(),
]
PIECES = st.one_of(
    st.sampled_from(HEADS), st.binary(max_size=40), st.sampled_from([b"\r\n", b"5\r\nhello\r\n"])
)


@settings(max_examples=int(os.environ.get("VSODPIPE_HTTP_FUZZ", "60")), deadline=None)
@given(first=st.one_of(st.sampled_from(ASKS), st.binary(max_size=60)), rest=st.lists(PIECES))
def test_any_bytes(server: Server, first: bytes, rest: list[bytes]) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as raw:
        raw.sendall(b"".join([first, *rest]) + b"\r\n")
        raw.shutdown(socket.SHUT_WR)
        raw.settimeout(0.02)
        try:
            answer = raw.recv(100)
        except (TimeoutError, ConnectionError):  # it waits for more, or has had enough
            answer = b""
    assert b" 500 " not in answer.partition(b"\r\n")[0]


def test_the_fuzzed_server_is_well(server: Server) -> None:
    assert (
        server.get("/healthz").json == {"ok": True} and server.get("/api/jobs").json["jobs"] == []
    )
    log = server.log.read_text()
    assert '"trace"' not in log and "Traceback" not in log and TOKEN not in log


def test_numbers_and_roots(server: Server) -> None:
    for number in ("9" * 5000, "9" * 19, "-1", "1e3", "%D9%A1"):
        assert server.get(f"/api/jobs/{number}").status == 404, number[:20]
    job = server.submit("flow", names=[str(server.log.parent / "datasets")], engine="dis")
    assert job["data_set"] == "*", "the data root is all data sets"
    smuggled = server.submit("flow", names=["TINY_test"], engine="--out=/tmp/x")
    ended = server.wait(smuggled["id"])
    assert (ended["state"], ended["code"]) == ("failed", 2)
    assert ended["message"].startswith("unknown flow engine '--out=/tmp/x'")


def test_who_is_no_guest_is_not_kept_out(server: Server) -> None:
    """Guests that send no end to their requests fill the places of guests alone."""
    host, port = server.url.removeprefix("http://").split(":")
    head = b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
    there = []
    try:
        for _ in range(128):
            there.append(socket.create_connection((host, int(port)), 10))
            there[-1].sendall(head)
        until = time.monotonic() + 20
        while server.ask("POST", "/login", {"token": "x"}, {"Authorization": ""}).status != 429:
            assert time.monotonic() < until
        assert server.get("/api/jobs").status == 200
    finally:
        for raw in there:
            raw.close()


def test_what_waits_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.1)
    done = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] in ("http", "lifespan")
        if scope["type"] == "http":
            size = 0
            while scope["path"] == "/all":
                message = await receive()
                size += len(message.get("body", b""))
                if not message.get("more_body"):
                    break
            await PlainTextResponse(str(size))(scope, receive, send)
            done.set()

    ask = b"POST /%b HTTP/1.1\r\nHost: x\r\n"
    chunked = b"Transfer-Encoding: chunked\r\n\r\n"
    with served(app, http=connections.Patient) as url:
        began = time.monotonic()
        assert said(url) == said(url, b"GET / HT") == b"", "nothing, or half a head"
        assert said(url, ask % b"x", b"\r\n", b"GET / HT").count(b"HTTP/1.1 200") == 1
        assert time.monotonic() - began < 5
        big = b"a" * connections.HEAD_BYTES * 3
        for sent in (
            (b"GET /", big, big),
            (b"GET / HTTP/1.1\r\nX: ", big, big),
            (b"GET / HTTP/1.1\r\n", b"X: a\r\n" * len(big)),
            (ask % b"all", chunked, b"0\r\n", b"X: a\r\n" * len(big), b"\r\n"),
            (ask % b"all", chunked, b"1;", big, big),
        ):
            assert b"200 OK" not in said(url, *sent), sent[:1]
        assert not done.is_set() or done.clear() is None
        body = (b"1\r\nx\r\n" * 9000) + (b"%x\r\n%b\r\n" % (len(big), big)) + b"0\r\n\r\n"
        answer = said(url, ask % b"all", chunked, body)
        assert answer.endswith(str(9000 + len(big)).encode()), "small chunks beside large ones"
        waste = said(url, ask % b"x", b"Content-Length: 400000\r\n\r\n", b"y" * 400_000)
        assert waste.endswith(b"0"), "an answer before the end of a body is heard"


@pytest.mark.parametrize(
    "token", ["abcdefghijklmnop\nX: y", "abcdefghijklmnop→", "abcdefghijklmnop\x7f"]
)
def test_a_token_that_no_header_carries(
    vsodpipe: Any, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("VSODPIPE_TOKEN", token)
    code, _, err = vsodpipe("flow", "A", "--at", "http://127.0.0.1:9")
    assert code == 2 and "expected plain ASCII" in err and "abcdef" not in err
    monkeypatch.setenv("VSODPIPE_AT", "http://h")
    with pytest.raises(UsageError, match="expected plain ASCII"):
        remote.options("http://h/data/x")


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"{}", b'{"id": "x"}'])
def test_what_is_no_service(vsodpipe: Any, answer: bytes) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse(answer, 200)(scope, receive, send)

    with served(app, lifespan="off") as url:
        code, _, err = vsodpipe("flow", "A", "--at", url)
    assert code == 2 and "what answers there is no vsodpipe serve" in err


def test_a_service_of_another_version(vsodpipe: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        said = '{"id": 1}' if scope["method"] == "POST" else "event: job\ndata: {}\n\n"
        await PlainTextResponse(said, 200)(scope, receive, send)

    with served(app, lifespan="off") as url:
        code, _, err = vsodpipe("flow", "A", "--at", url)
    assert code == 1 and "speaks another version of vsodpipe" in err


@pytest.mark.parametrize("damage", ["garbage", "middle", "newer"])
def test_a_queue_that_cannot_be_used(tmp_path: Path, vsodpipe: Any, damage: str) -> None:
    file = tmp_path / "datasets/.service/jobs.sqlite"
    file.parent.mkdir(parents=True)
    if damage == "garbage":
        file.write_bytes(b"no database at all" * 100)
    else:
        Queue(file).close()
        with closing(sqlite3.connect(file)) as database:
            database.execute("PRAGMA journal_mode=DELETE")
            if damage == "newer":
                database.execute("PRAGMA user_version=99")
    if damage == "middle":
        whole = bytearray(file.read_bytes())
        whole[4096:4200] = os.urandom(104)
        file.write_bytes(whole)
    before = file.read_bytes()
    code, _, err = vsodpipe("serve", "--data", str(tmp_path / "datasets"), "--port", "0")
    assert code == 1 and str(file) in err
    assert "Traceback" not in err and file.read_bytes()[100:] == before[100:]


def test_a_full_disk(tmp_path: Path) -> None:
    """No file of the server may grow: it says so, and notes ends once there is room."""
    root = tmp_path / "datasets"
    write_video(root / "TINY_test/dice", 3, 3)
    held = Stuck(root / "TINY_test/dice/RGB")
    with serving(root, log=tmp_path / "log") as server:
        job = server.submit("flow", names=["TINY_test"], engine="dis")["id"]
        while not server.get(f"/api/jobs/{job}").json["progress"]:
            time.sleep(0.02)
        about = {"name": "a.mp4", "bytes": 10**6, "dataset": "own"}
        place = f"/api/uploads/{server.post('/api/uploads', about).json['id']}"
        most = (root / ".service/jobs.sqlite-wal").stat().st_size
        before = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (most, before[1]))
        answer = server.ask("PATCH", place, b"x" * 10**6, {"Upload-Offset": "0"})
        assert answer.status == 507 and "no room for it" in answer.json["error"]
        assert server.get(place).json["offset"] == most, "what there was room for is kept"
        call = {"kind": "manifest", "arguments": {"names": ["TINY_test"]}}
        answer = server.post("/api/jobs", call)
        assert answer.status == 503 and "the queue cannot be used" in answer.json["error"]
        held.release()
        while not (root / "TINY_test/dice/FLOW/flow.json").is_file():
            time.sleep(0.02)
        assert server.get(f"/api/jobs/{job}").json["state"] == "running", "it cannot be noted"
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, before)
        assert server.wait(job)["state"] == "done"
        assert server.wait(server.post("/api/jobs", call).json["id"])["state"] == "done"
    log = (tmp_path / "log").read_text()
    assert '"event": "queue"' in log and '"trace"' not in log
