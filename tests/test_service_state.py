"""What the service says is there: counted right, and not counted again for nothing."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")

from starlette.applications import Starlette
from starlette.testclient import TestClient

from routed import settings_of
from stores import pack_train, small_shards
from vsodpipe import flow_record, media
from vsodpipe.errors import VsodpipeError
from vsodpipe.manifest import Source
from vsodpipe.service import guard, shelf, state
from vsodpipe.service.settings import Settings


@pytest.fixture
def settings(source: Source, tmp_path: Path) -> Settings:
    return settings_of(tmp_path)


@pytest.fixture
def client(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr(shelf, "SECONDS", 0.0)
    refused = {VsodpipeError: lambda _, error: guard.error(400, str(error))}
    with TestClient(Starlette(routes=state.routes(settings), exception_handlers=refused)) as made:
        yield made


def rows(client: TestClient) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in client.get("/api/data").json()["datasets"]}


def size(*folders: Path) -> int:
    return sum(file.stat().st_size for folder in folders for file in folder.rglob("*.*"))


def test_data_sets(
    client: TestClient, settings: Settings, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch)
    root = settings.data
    packed = pack_train(source, root / "TINY_train.zarr")
    (root / "HALF.zarr").mkdir()
    (root / "TINY_test" / "dice" / "RGB" / "00004.jpg").unlink()
    (root / "no data").mkdir()
    found = rows(client)
    assert list(found) == ["TINY_test", "TINY_train"]
    one, two = found["TINY_train"], found["TINY_test"]
    assert (one["videos"], one["frames"], one["masks"]) == (2, 9, 9)
    assert (two["videos"], two["frames"], two["masks"]) == (1, 4, 5)
    flow = source.split("TINY_train").flow
    assert flow is not None
    fingerprint = flow["fingerprint"]
    assert one["flow"] == [{"form": "FLOW", "fingerprint": fingerprint, "videos": 2}]
    assert one["manifests"] == ["/manifests/tiny.json"] == two["manifests"]
    (store,) = one["stores"]
    assert store["url"] == "/data/TINY_train.zarr" and store["frames"] == 9
    assert (store["bytes"], store["fingerprint"]) == (packed.bytes, fingerprint)
    assert one["bytes"] == size(root / "TINY_train") + packed.bytes and two["stores"] == []
    # two kinds of flow, as a command refuses them, are seen
    folder = root / "TINY_train" / "cube" / "FLOW"
    media.write_bytes(folder / flow_record.FILE, b'{"fingerprint": "other", "engine": {}}')
    kinds = {(row["fingerprint"], row["videos"]) for row in rows(client)["TINY_train"]["flow"]}
    assert kinds == {(fingerprint, 1), ("other", 1)}
    media.write_bytes(settings.manifests / "b.json", b'{"datasets": [{"dataset": "a\\"\\u00e9"}]}')
    assert shelf._held(settings.manifests / "b.json") == ['a"\u00e9']


def test_what_did_not_change_is_not_listed_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "SECONDS", 0.0)
    past = time.time() - 60
    for folder, _, _ in os.walk(settings.data):
        os.utime(folder, (past, past))
    listed: list[str] = []
    scan = os.scandir

    def counted(path: Any) -> Any:
        listed.append(str(path))
        return scan(path)

    monkeypatch.setattr(shelf.os, "scandir", counted)
    made = shelf.Shelf(settings)
    before = made.datasets()
    assert any(path.endswith("ball/RGB") for path in listed)
    listed.clear()
    assert made.datasets() == before and not [path for path in listed if "/TINY" in path]
    (settings.data / "TINY_train" / "ball" / "GT" / "00001.png").unlink()
    after = made.datasets()
    assert after[1]["masks"] == before[1]["masks"] - 1
    assert [path for path in listed if "TINY" in path] == [
        str(settings.data / "TINY_train" / "ball" / "GT")
    ]


def test_videos_and_their_frames(client: TestClient, settings: Settings) -> None:
    name = "a #1?"
    (settings.data / "TINY_train" / "ball").rename(settings.data / "TINY_train" / name)
    (settings.data / "TINY_train" / name / "GT" / "00001.png").unlink()
    maps = settings.runs / "mine" / "maps" / "TINY_train" / name
    media.write_bytes(maps / "00002.png", b"x")
    videos = client.get("/api/data/TINY_train").json()["videos"]
    assert {"name": name, "frames": 5, "masks": 4} in videos
    found = client.get("/api/data/TINY_train/frames", params={"video": name}).json()
    frame = found["frames"][1]
    start = "/data/TINY_train/a%20%231%3F"
    assert frame["img"] == f"{start}/RGB/00001.jpg" and frame["gt"] is None
    assert frame["flow"] == f"{start}/FLOW/00001.jpg" and len(found["frames"]) == 5
    url = "/runs/mine/maps/TINY_train/a%20%231%3F/00002.png"
    assert found["maps"] == [{"run": "mine", "files": [None, None, url, None, None]}]
    for path in ("none", "none/frames", "..", "%2e%2e/frames", ".service", "a%00b"):
        assert client.get(f"/api/data/{path}").status_code == 404, path
    assert client.get("/api/data/TINY_train/frames?video=../x").status_code == 404
    (settings.data / "TINY_train" / name / "RGB" / "00002.jpg").unlink()
    broken = client.get("/api/data/TINY_train/frames", params={"video": name})
    assert broken.status_code == 400 and "no frame of their number" in broken.json()["error"]


def test_runs(client: TestClient, settings: Settings) -> None:
    assert client.get("/api/runs").json() == {"runs": []}
    run = settings.runs / "a b"
    media.write_bytes(run / "run.json", b'{"model": "dpa", "stages": ["main"]}')
    media.write_bytes(run / "report.html", b"x")
    media.write_bytes(run / "checkpoints" / "last.pt", b"x")
    total = {"jf": 0.5, "mae": None, "sm": "x"}
    about = {"D": {"total": total, "protocol": {"headline": ["jf", "mae"]}}}
    scores = {"methods": {"a b": {"datasets": about}}}
    media.write_bytes(run / "scores.json", json.dumps(scores).encode())
    media.write_bytes(settings.runs / "broken" / "run.json", b"[")
    media.write_bytes(settings.runs / "no run" / "x.json", b"{}")
    (found,) = client.get("/api/runs").json()["runs"]
    assert (found["name"], found["model"], found["stages"]) == ("a b", "dpa", ["main"])
    assert found["reports"] == ["/runs/a%20b/report.html"] and found["checkpoints"] == ["last"]
    assert found["scores"] == [{"method": "a b", "dataset": "D", "scores": {"J&F": 0.5}}]
