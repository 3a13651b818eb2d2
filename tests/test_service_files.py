"""Data as URLs: ranges, ETags, what is not served, and training data from another process."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")

from starlette.applications import Starlette
from starlette.testclient import TestClient

import epochs
from routed import served, settings_of
from stores import pack_train, small_shards
from vsodpipe import errors, inputs, manifest, media, remote, stream
from vsodpipe.manifest import Source
from vsodpipe.service import files
from vsodpipe.service.settings import Settings

BODY = bytes(range(256)) * 12289  # three chunks and a bit


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = settings_of(tmp_path)
    (made.data / "big.bin").write_bytes(BODY)
    (made.data / "D").mkdir()
    (made.data / "D" / "a #1.txt").write_bytes(b"0123456789")
    return made


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(Starlette(routes=files.routes(settings))) as made:
        yield made


SMALL = "/data/D/a%20%231.txt"


@pytest.mark.parametrize(
    ("asked", "body"),
    [
        ("bytes=0-0", b"0"),
        ("bytes=2-5", b"2345"),
        ("bytes=7-", b"789"),
        ("bytes=7-999", b"789"),
        ("bytes=-3", b"789"),
        ("bytes=-99", b"0123456789"),
        ("BYTES = 2-5".replace(" ", ""), b"2345"),
    ],
)
def test_one_range(client: TestClient, asked: str, body: bytes) -> None:
    answer = client.get(SMALL, headers={"range": asked})
    first = b"0123456789".index(body)
    assert (answer.status_code, answer.content) == (206, body)
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(body) - 1}/10"
    head = client.head(SMALL, headers={"range": asked})
    assert head.headers["content-length"] == str(len(body)) and not head.content


@pytest.mark.parametrize(
    "asked",
    ["lines=0-1", "bytes=5-2", "bytes=a-b", "bytes=-", "bytes=", "bytes=0-9,0-9", "0-1"]
    + ["bytes=" + ",".join(["0-0"] * 65), "bytes=" + "1" * 19 + "-"],
)
def test_a_range_that_is_none_gives_the_whole(client: TestClient, asked: str) -> None:
    answer = client.get(SMALL, headers={"range": asked})
    assert (answer.status_code, answer.content) == (200, b"0123456789")


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=-0", "bytes=10-11,20-"])
def test_a_range_beyond_the_end(client: TestClient, asked: str) -> None:
    answer = client.get(SMALL, headers={"range": asked})
    assert answer.status_code == 416 and answer.headers["content-range"] == "bytes */10"


def test_several_ranges(client: TestClient) -> None:
    for size, asked, wanted in (
        (10, "bytes=0-1, -2,20-30", [(0, 2), (8, 10)]),
        (len(BODY), "bytes=5-9,100-3000000", [(5, 10), (100, 3000001)]),
    ):
        url, body = (SMALL, b"0123456789") if size == 10 else ("/data/big.bin", BODY)
        answer = client.get(url, headers={"range": asked})
        kind, _, mark = answer.headers["content-type"].partition("; boundary=")
        assert (answer.status_code, kind) == (206, "multipart/byteranges")
        assert answer.headers["content-length"] == str(len(answer.content))
        assert answer.content.endswith(f"\r\n--{mark}--\r\n".encode())
        *parts, _ = re.split(rb"(?:\r\n)?--" + mark.encode() + rb"(?:--)?\r\n", answer.content)[1:]
        heads, bodies = zip(*(part.split(b"\r\n\r\n", 1) for part in parts), strict=True)
        assert list(bodies) == [body[start:end] for start, end in wanted]
        found = [re.search(rb"Content-Range: bytes (\d+)-(\d+)/(\d+)", head) for head in heads]
        ends = [tuple(map(int, match.groups())) for match in found if match]
        assert ends == [(start, end - 1, size) for start, end in wanted]


def test_a_large_file_and_its_checksum(client: TestClient) -> None:
    crc = google_crc32c.value(BODY)
    whole = client.get("/data/big.bin")
    assert whole.content == BODY and whole.headers["content-length"] == str(len(BODY))
    assert whole.headers["x-checksum"] == f"crc32c={crc:08x}"
    part = client.get("/data/big.bin", headers={"range": "bytes=1000-2500000"})
    assert part.content == BODY[1000:2500001]
    assert part.headers["x-checksum"] == f"crc32c={crc:08x}", "known by now"
    assert client.head("/data/big.bin").headers["content-length"] == str(len(BODY))


def test_etags(client: TestClient, settings: Settings) -> None:
    first = client.get(SMALL)
    etag = first.headers["etag"]
    assert re.fullmatch(r'"[0-9a-f-]+"', etag), "strong"
    for wanted in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        same = client.get(SMALL, headers={"if-none-match": wanted})
        assert (same.status_code, same.content) == (304, b"") and same.headers["etag"] == etag
    ranged = {"range": "bytes=0-1", "if-range": etag}
    assert client.get(SMALL, headers=ranged).status_code == 206
    assert client.get(SMALL, headers={"if-match": etag}).status_code == 200
    # of the same size, in the same moment
    media.write_bytes(settings.data / "D" / "a #1.txt", b"9876543210")
    assert client.get(SMALL, headers={"if-none-match": etag}).content == b"9876543210"
    other = client.get(SMALL, headers=ranged)
    assert (other.status_code, other.content) == (200, b"9876543210"), "never halves of two files"
    assert client.get(SMALL, headers={"if-match": etag}).status_code == 412
    weak = {"range": "bytes=0-1", "if-range": f"W/{other.headers['etag']}"}
    assert client.get(SMALL, headers=weak).status_code == 200


def test_what_is_not_served(client: TestClient, settings: Settings, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_bytes(b"secret")
    data = settings.data
    (data / ".service").mkdir()
    for name in (".service/jobs.sqlite", "D/.x.jpg.partial"):
        (data / name).write_bytes(b"secret")
    (data / "link.txt").symlink_to(secret)
    (data / "link.jpg").symlink_to(secret)
    (data / "folder").symlink_to(tmp_path)
    (data / "inner.txt").symlink_to(data / ".service" / "jobs.sqlite")
    (data / "round").symlink_to(data / "round")
    os.mkfifo(data / "pipe.jpg")
    paths = ["none", "D", "D/", "link.txt", "link.jpg", "folder/secret.txt", "inner.txt", "round"]
    paths += [".service/jobs.sqlite", "D/.x.jpg.partial", "pipe.jpg", "", "D//a", "big.bin/x"]
    paths += [
        "%2e%2e/secret.txt",
        "D/%2e%2e/%2e%2e/secret.txt",
        "..%2fsecret.txt",
        "%00",
        "a" * 999,
    ]
    paths += ["%2fetc%2fpasswd", "/etc/passwd", "..%5csecret.txt", "%c3%28"]
    for place in ("data", "datasets", "manifests", "runs"):
        for path in paths:
            answer = client.get(f"/{place}/{path}")
            assert answer.status_code == 404, path
            assert b"secret" not in answer.content.replace(b"secret.txt", b"")
    assert client.get("/").status_code == 404
    assert client.post("/data/big.bin").status_code == 405


def test_links_to_pictures_lead_anywhere(client: TestClient, tmp_path: Path) -> None:
    """An import leaves them: they are what most data roots are made of."""
    picture = tmp_path / "00000.png"
    picture.write_bytes(media.encode_png(np.zeros((4, 4), np.uint8)))
    (tmp_path / "datasets" / "D" / "0.png").symlink_to(picture)
    unpacked = tmp_path / "datasets" / ".sources" / "x.txt"
    unpacked.parent.mkdir()
    unpacked.write_bytes(b"x")
    (tmp_path / "datasets" / "D" / "x.txt").symlink_to(unpacked)
    answer = client.get("/data/D/0.png")
    assert answer.content == picture.read_bytes() and answer.headers["content-type"] == "image/png"
    assert client.get("/data/D/x.txt").content == b"x"


def test_no_file_becomes_a_script_of_the_origin(client: TestClient, settings: Settings) -> None:
    for name in ("x.html", "x.svg", "x.js", "x.xml", "x"):
        (settings.runs / name).write_text("<script>1</script>")
        headers = client.get(f"/runs/{name}").headers
        assert "sandbox" in headers["content-security-policy"]
        assert "allow-same-origin" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        html = headers["content-type"].startswith("text/html")
        assert html == (name == "x.html") and (html or "octet-stream" in headers["content-type"])


@pytest.mark.parametrize("inside", ["manifests", "datasets/made", "a/b/c"])
def test_the_root_of_a_manifest_leads_to_the_data(tmp_path: Path, inside: str) -> None:
    (tmp_path / inside).mkdir(parents=True)
    settings = replace(settings_of(tmp_path), manifests=tmp_path / inside)
    (settings.data / "x.txt").write_bytes(b"x")
    root = manifest.relative_root(settings.data, settings.manifests)
    url = manifest.resolve_root(root, "http://testserver/manifests/a.json")
    with TestClient(Starlette(routes=files.routes(settings))) as client:
        assert client.get(f"{url}/x.txt").content == b"x"
        assert client.get("/data/x.txt").content == b"x"
        assert client.get("/other/x.txt").status_code == 404


# ---- training data in another process --------------------------------------------------------


@pytest.fixture
def url(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The tiny data of `source`, packed, behind a service."""
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    small_shards(monkeypatch)
    pack_train(source, Path(source.root) / "TINY_train.zarr")
    with served(Starlette(routes=files.routes(settings_of(tmp_path)))) as started:
        yield started


STAGE = ["data.source=store", "data.size=[32, 32]", "data.clip=2", "batch=3"]
STAGE += ['data.datasets=["TINY_train"]', "data.window=2"]
CHILD = "import sys, json, epochs; print(json.dumps(epochs.digest(*sys.argv[1:])))"


def test_another_process_trains_on_the_same_samples(
    source: Source, url: str, tmp_path: Path
) -> None:
    far = tmp_path / "far"
    far.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, f"{url}/manifests/tiny.json", *STAGE],
        cwd=far,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == epochs.digest(str(source.file), *STAGE)
    assert not list(far.iterdir())


def test_frames_behind_the_url(source: Source, url: str, tmp_path: Path) -> None:
    found = inputs.open_manifest(f"{url}/manifests/tiny.json")
    assert found.root == f"{url}/datasets" and found.sha256() == source.sha256()
    one, other = (stream.open_reader(s, "TINY_test", "files") for s in (found, source))
    np.testing.assert_array_equal(one.read(0, 3, "flow"), other.read(0, 3, "flow"))
    name = "D/a #1?%41.png"
    image = np.full((4, 4, 3), 9, np.uint8)
    media.write_bytes(tmp_path / "datasets" / name, media.encode_png(image))
    np.testing.assert_array_equal(media.read_image(found.path(name)), image)
    with pytest.raises(errors.DataError, match=r"none.jpg: cannot be read"):
        media.read_image(found.path("none.jpg"))


def test_the_token_goes_to_the_service_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSODPIPE_AT", "http://host:8765/")
    assert remote.options("http://host:8765/data/x") == {}
    monkeypatch.setenv("VSODPIPE_TOKEN", "abc")
    sent = {"client_kwargs": {"headers": {"Authorization": "Bearer abc"}}}
    assert remote.options("http://host:8765/data/x") == sent
    for other in ("http://host/x", "https://host:8765/x", "http://host.evil:8765/", "s3://host/x"):
        assert remote.options(other) == {}
    monkeypatch.setenv("VSODPIPE_AT", "https://host")
    assert remote.options("https://host:443/x") == sent
