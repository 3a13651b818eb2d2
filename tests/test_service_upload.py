"""Uploads and the watched folder: what arrives broken off, wrong or still growing."""

import asyncio
import io
import json
import os
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import google_crc32c
import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")

from starlette.applications import Starlette
from starlette.testclient import TestClient

import vsodpipe.cli  # noqa: F401  (the commands that requests are made from)
from helpers import write_video
from routed import settings_of
from vsodpipe import catalogue, own_data
from vsodpipe.errors import DataError, UsageError, VsodpipeError
from vsodpipe.progress import Reporter
from vsodpipe.service import guard, probe, requests, upload, watch
from vsodpipe.service.settings import Settings


class Jobs:
    """A queue whose jobs are done when the test says so."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.states: dict[int, str] = {}

    def submit(self, kind: str, arguments: dict[str, Any]) -> dict[str, Any]:
        requests.check(kind, arguments, self.settings)
        self.asked.append((kind, arguments))
        self.states[len(self.asked)] = "queued"
        self.thread = threading.get_ident()
        return {"id": len(self.asked)}

    def get(self, number: int) -> dict[str, Any]:
        assert self.thread == threading.get_ident(), "the real one is of the event loop alone"
        return {"state": self.states[number]}


def video_file(file: Path, frames: int = 3) -> bytes:
    """Write an mp4 and return its bytes."""
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), 10, (32, 24))
    for t in range(frames):
        writer.write(np.full((24, 32, 3), 40 * t, np.uint8))
    writer.release()
    return file.read_bytes()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "drop").mkdir()
    return settings_of(tmp_path, upload_bytes=100_000, watch=tmp_path / "drop", engine="dis")


@pytest.fixture
def jobs(settings: Settings) -> Jobs:
    return Jobs(settings)


@pytest.fixture
def client(settings: Settings, jobs: Jobs) -> Iterator[TestClient]:
    refused = {VsodpipeError: lambda _, error: guard.error(400, str(error))}
    app = Starlette(routes=upload.routes(settings), exception_handlers=refused)
    app.state.jobs = jobs
    with TestClient(app) as made:
        yield made


def announce(client: TestClient, name: str, data: bytes, **more: Any) -> Any:
    about = {"name": name, "bytes": len(data), "dataset": "holiday", **more}
    return client.post("/api/uploads", json=about)


def send(client: TestClient, number: str, offset: int, data: bytes) -> Any:
    headers = {"upload-offset": str(offset)}
    return client.patch(f"/api/uploads/{number}", content=data, headers=headers)


def test_an_upload_goes_on_where_it_broke_off(
    client: TestClient, jobs: Jobs, settings: Settings, tmp_path: Path
) -> None:
    data = video_file(tmp_path / "surf.mp4")
    more = {"crc32c": f"{google_crc32c.value(data):08x}"}
    begun = announce(client, "surf.mp4", data, **more)
    assert begun.status_code == 201 and begun.json()["offset"] == 0
    number = begun.json()["id"]
    assert send(client, number, 0, data[:700]).json()["offset"] == 700
    # who has lost the id asks for the same file again
    again = announce(client, "surf.mp4", data, **more).json()
    assert (again["id"], again["offset"]) == (number, 700)
    assert client.head(f"/api/uploads/{number}").headers["upload-offset"] == "700"
    wrong = send(client, number, 699, data[699:])
    assert wrong.status_code == 409 and wrong.headers["upload-offset"] == "700"
    assert not jobs.asked
    done = send(client, number, 700, data[700:]).json()
    assert done["offset"] == len(data) and done["job"] == 1
    ((kind, arguments),) = jobs.asked
    file = settings.state / "uploads" / number / "surf.mp4"
    assert (kind, arguments) == (
        "import",
        {"name": "holiday", "source": [str(file)], "own": True},
    )
    assert file.read_bytes() == data
    # asked for again after its import failed, it is imported again
    jobs.states[1] = "failed"
    assert announce(client, "surf.mp4", data, **more).json()["job"] == 2 and len(jobs.asked) == 2
    jobs.states[2] = "running"
    assert announce(client, "surf.mp4", data, **more).json()["job"] == 2
    # what is imported goes, with the next upload at the latest
    jobs.states[2] = "done"
    announce(client, "other.mp4", data)
    assert not file.parent.exists()
    assert client.get(f"/api/uploads/{number}").status_code == 404


def test_two_senders_of_one_upload(client: TestClient, settings: Settings) -> None:
    """However they meet, bytes are taken once: an offset holds only for whoever is alone."""
    data = os.urandom(50_000)
    number = announce(client, "surf.mp4", data).json()["id"]
    half = len(data) // 2

    def first() -> int:
        return int(send(client, number, 0, data[:half]).status_code)

    with ThreadPoolExecutor(8) as pool:
        answers = [each.result() for each in [pool.submit(first) for _ in range(24)]]
    assert sorted(answers) == [200] + [409] * 23
    assert client.get(f"/api/uploads/{number}").json()["offset"] == half
    assert (settings.state / "uploads" / number / "part").read_bytes() == data[:half]


def test_a_folder_without_its_record_goes_too(client: TestClient, settings: Settings) -> None:
    left = settings.state / "uploads" / ("0" * 32)
    left.mkdir(parents=True)
    announce(client, "surf.mp4", b"x")
    assert left.exists(), "it may have been begun just now"
    os.utime(left, (0, 0))
    announce(client, "surf.mp4", b"x")
    assert not left.exists()


def test_the_probe_has_no_token(
    client: TestClient, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSODPIPE_TOKEN", "x" * 16)
    shell = tmp_path / "python"
    shell.write_text(f"#!/bin/sh\nenv > {tmp_path}/said")
    shell.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(shell))
    number = announce(client, "surf.mp4", b"x").json()["id"]
    assert send(client, number, 0, b"x").status_code == 200
    said = (tmp_path / "said").read_text()
    assert "VSODPIPE_JOB_OF" in said and "VSODPIPE_TOKEN" not in said


def test_what_is_not_taken(client: TestClient, settings: Settings, tmp_path: Path) -> None:
    names = (
        "../a.mp4",
        "a/b.mp4",
        ".a.mp4",
        "a.exe",
        "a",
        "",
        "a\n.mp4",
        "\\a.mp4",
        "x" * 300 + ".mp4",
    )
    for name in names:
        assert announce(client, name, b"x").status_code == 400, name
    for dataset in ("", "../x", "a b", ".x"):
        assert announce(client, "a.mp4", b"x", dataset=dataset).status_code == 400, dataset
    assert announce(client, "a.mp4", b"x", dataset="davis").status_code == 400
    assert announce(client, "a.mp4", b"x" * 100_001).status_code == 413
    assert announce(client, "a.mp4", b"").status_code == 400
    assert not (settings.state / "uploads").exists() or not any(
        (settings.state / "uploads").iterdir()
    )
    number = announce(client, "a.mp4", b"12345").json()["id"]
    assert send(client, number, 0, b"1234567").status_code == 413, "more than announced"
    assert client.delete(f"/api/uploads/{number}").status_code == 204
    for path in (number, "0" * 32, "..%2f..", "x"):
        assert client.get(f"/api/uploads/{path}").status_code == 404


def archive(kind: str) -> bytes:
    """Return an archive with a member that leads outside."""
    made = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(made, "w") as zipped:
            zipped.writestr("../evil.jpg", b"x")
    else:
        with tarfile.open(fileobj=made, mode="w") as tarred:
            link = tarfile.TarInfo("a.jpg")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tarred.addfile(link)
    return made.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        (
            "list.mp4",
            b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
            "not a video of a known container",
        ),
        ("half.mp4", b"\0\0\0\x18ftypmp42" + b"\0" * 500, "not a video that OpenCV can read"),
        ("text.zip", b"no archive", "not an archive"),
        ("evil.zip", archive("zip"), "leads outside"),
        ("evil.tar", archive("tar"), "is a link or a device"),
    ],
)
def test_content_is_checked(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=words):
        probe.check(tmp_path / name)


def test_wrong_content_leaves_nothing(client: TestClient, jobs: Jobs, settings: Settings) -> None:
    data = archive("zip")
    number = announce(client, "evil.zip", data).json()["id"]
    answer = send(client, number, 0, data)
    assert answer.status_code == 400 and "leads outside" in answer.json()["error"]
    assert str(settings.state) not in answer.text, "where things lie is nobody's business"
    assert not jobs.asked and not any((settings.state / "uploads").iterdir())


def test_the_checksum_is_checked(client: TestClient, jobs: Jobs) -> None:
    number = announce(client, "a.mp4", b"12345", crc32c="00000000").json()["id"]
    answer = send(client, number, 0, b"12345")
    assert answer.status_code == 400 and "checksum" in answer.json()["error"] and not jobs.asked


def test_an_archive_of_ones_own(tmp_path: Path, quiet: Reporter) -> None:
    write_video(tmp_path / "pack" / "surf", 1, 3)
    write_video(tmp_path / "pack" / "sand", 2, 2)
    with zipfile.ZipFile(tmp_path / "clips.zip", "w") as zipped:
        for file in sorted((tmp_path / "pack").rglob("*.*")):
            zipped.write(file, file.relative_to(tmp_path))
    root = tmp_path / "datasets"
    for _ in range(2):
        made = own_data.import_own("mine", [str(tmp_path / "clips.zip")], root, quiet)
        assert (made.videos, made.frames) == (2, 5)
    found = catalogue.find("mine", root)
    assert [(v.name, len(v.frames)) for v in found.videos] == [("sand", 2), ("surf", 3)]
    assert all(frame.gt for video in found.videos for frame in video.frames)


# ---- the watched folder ------------------------------------------------------------------------


def watching(settings: Settings, jobs: Jobs, until: Callable[[], bool]) -> None:
    """Watch until something holds, for ten seconds at most."""

    async def run() -> None:
        task = asyncio.create_task(watch.watch(settings, jobs, settled=0.15, every=0.02))
        end = time.monotonic() + 10
        while not until() and not task.done() and time.monotonic() < end:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert until()


def test_a_drop_goes_the_whole_way(settings: Settings, jobs: Jobs, tmp_path: Path) -> None:
    drop = tmp_path / "drop"
    data = video_file(tmp_path / "x.mp4")
    (drop / "Mein Urlaub é.mp4").write_bytes(data[:100])
    (drop / "notes.txt").write_text("no video")
    (drop / ".hidden.mp4").write_bytes(data)
    (tmp_path / "datasets" / "Mein_Urlaub").mkdir()
    looks = 0

    def grows() -> bool:
        nonlocal looks
        looks += 1
        if looks < 30:  # longer than it takes to settle
            with open(drop / "Mein Urlaub é.mp4", "ab") as file:
                file.write(data[100:110])
            assert not jobs.asked, "it still grows"
        for number in jobs.states:
            jobs.states[number] = "done"
        return len(jobs.asked) == 4

    watching(settings, jobs, grows)
    name = "Mein_Urlaub-2"
    source = str(drop / "Mein Urlaub é.mp4")
    assert jobs.asked == [
        ("import", {"name": name, "source": [source], "own": True}),
        ("flow", {"names": [name], "engine": "dis"}),
        ("manifest", {"names": [name]}),
        ("pack", {"name": name}),
    ]
    record = settings.state / watch.RECORD
    watching(
        settings, jobs, lambda: json.loads(record.read_text())[Path(source).name]["state"] == "done"
    )
    # a restarted server remembers; a changed file is taken again, as the same data set
    os.utime(source, (1, 1))
    watching(settings, jobs, lambda: len(jobs.asked) == 5)
    assert jobs.asked[4] == jobs.asked[0]


def test_a_failed_step_is_the_last(settings: Settings, jobs: Jobs, tmp_path: Path) -> None:
    write_video(tmp_path / "drop" / "clip", 1, 2)
    record = settings.state / watch.RECORD

    def failed() -> bool:
        for number in jobs.states:
            jobs.states[number] = "done" if number == 1 else "failed"
        return record.is_file() and json.loads(record.read_text())["clip"]["state"] == "failed"

    watching(settings, jobs, failed)
    assert [kind for kind, _ in jobs.asked] == ["import", "flow"], "no store without flow"


def test_a_watched_folder_that_is_away(settings: Settings, jobs: Jobs, tmp_path: Path) -> None:
    (tmp_path / "drop").rmdir()
    rounds = 0

    def back() -> bool:
        nonlocal rounds
        rounds += 1
        if rounds == 10:
            write_video(tmp_path / "drop" / "clip", 1, 2)
        return bool(jobs.asked)

    watching(settings, jobs, back)
    assert rounds >= 10 and jobs.asked[0][0] == "import"


def test_jobs_from_afar_stay_inside(settings: Settings, jobs: Jobs) -> None:
    with pytest.raises(UsageError):
        jobs.submit("import", {"name": "x", "source": ["/etc"], "own": True})
