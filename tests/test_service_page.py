"""The page of the service in a real browser: what people see and do, and that nothing leaves it.

Needs Playwright's Python package and a Chromium of the system (`apt-get install chromium`).
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")

from browser import chromium
from serving import Server, serving
from vsodpipe import media

HOSTILE = "<img src=x onerror=document.title=1>"
TOKEN = "a-token-for-the-tests"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from chromium()


@pytest.fixture(scope="module")
def server(flow_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a token over the tiny data, one video with a name that would be markup."""
    folder = tmp_path_factory.mktemp("page")
    root = Path(shutil.copytree(flow_once, folder / "datasets"))
    (root / "TINY_train" / "cube").rename(root / "TINY_train" / HOSTILE)
    run = folder / "runs" / "mine"
    for frame in (root / "TINY_train" / "ball" / "GT").iterdir():
        shutil.copytree(frame.parent, run / "maps" / "TINY_train" / "ball", dirs_exist_ok=True)
    (run / "maps" / "TINY_train" / "ball" / "00003.png").unlink()
    note = {"model": HOSTILE, "stages": ["debug"]}
    media.write_bytes(run / "run.json", json.dumps(note).encode())
    total = {"jf": 0.8124, "videos": 2}
    about = {"total": total, "protocol": {"headline": ["jf"]}}
    scored = {"methods": {"mine": {"datasets": {"TINY_test": about}}}}
    media.write_bytes(run / "scores.json", json.dumps(scored).encode())
    media.write_bytes(run / "report.html", b"<!doctype html><title>report</title>")
    log = folder / "serve.log"
    with serving(root, log=log, VSODPIPE_TOKEN=TOKEN) as started:
        yield started


@pytest.fixture(scope="module")
def context(browser: Any, server: Server) -> Iterator[Any]:
    """A browser that has given the token."""
    made = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light")
    page = made.new_page()
    page.goto(server.url)
    assert not page.locator("#inside").is_visible(), "no data without the token"
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Enter").click()
    page.get_by_text("that is not the token").wait_for()
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Enter").click()
    page.locator("#datasets table").wait_for()
    page.close()
    yield made
    made.close()


@pytest.fixture
def page(context: Any, server: Server) -> Iterator[Any]:
    """The page; at the end nothing has gone wrong or left it."""
    faults: list[str] = []
    requests: list[str] = []
    shown = context.new_page()
    shown.on("console", lambda message: faults.append(message.text))
    shown.on("pageerror", lambda error: faults.append(str(error)))
    shown.on("request", lambda request: requests.append(request.url))
    shown.goto(server.url)
    shown.locator("#view img").first.wait_for()
    yield shown
    # the browser itself says so of every request that is refused
    assert [fault for fault in faults if "status of 400" not in fault] == []
    assert {url for url in requests if not url.startswith((f"{server.url}/", "data:,"))} == set()
    assert not [url for url in requests if TOKEN in url], "no token in a URL"
    assert shown.title() == "vsodpipe", "no name became a script"
    shown.close()


def cells(page: Any, place: str, row: int) -> list[str]:
    found = page.locator(f"#{place} tbody tr").nth(row).locator("th, td")
    texts: list[str] = found.all_inner_texts()
    return texts


def test_what_is_there(page: Any) -> None:
    name, videos, frames, masks, flow, *_ = cells(page, "datasets", 1)
    assert (name, videos, frames, masks) == ("TINY_train", "2", "9", "9")
    assert flow.startswith("picture ") and len(flow) == len("picture ") + 6
    run, model, stages, _, _, scores, report = cells(page, "trained", 0)
    assert (run, model, stages, report) == ("mine", HOSTILE, "debug", "report.html")
    assert scores.split() == ["TINY_test", "J&F", "0.812"]
    page.get_by_role("button", name="next for TINY_train: manifest").click()
    assert page.get_by_label("command").input_value() == "manifest"
    assert page.get_by_label("names").input_value() == "TINY_train"


def test_viewer(page: Any) -> None:
    from playwright.sync_api import expect

    page.get_by_role("combobox", name="Data set").select_option("TINY_train")
    video = page.get_by_role("combobox", name="Video")
    expect(video).to_have_value(HOSTILE)
    video.select_option("ball")
    images = page.locator("#view figure")
    expect(images).to_have_count(4)
    assert images.all_inner_texts() == ["frame", "mask", "flow", "map of mine"]
    for image in images.locator("img").all():
        expect(image).not_to_have_js_property("naturalWidth", 0)
    page.get_by_role("region", name="viewer: arrow keys").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#view output").inner_text() == "frame 00002, 3 of 5"
    source = images.locator("img").first.get_attribute("src")
    assert source == "/data/TINY_train/ball/RGB/00002.jpg"
    slider = page.get_by_role("slider", name="frame")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "frame 00003, 4 of 5"
    assert images.locator("img").last.get_attribute("src") is None, "this map is missing"
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    assert page.locator("#view output").inner_text() == "frame 00004, 5 of 5"
    page.get_by_label("previous frame").click()
    assert page.locator("#view output").inner_text() == "frame 00003, 4 of 5"


def test_an_upload_becomes_a_data_set(page: Any, server: Server, tmp_path: Path) -> None:
    """And its import a job whose progress and log are seen, and that can be asked for again."""
    from playwright.sync_api import expect

    writer = cv2.VideoWriter(
        str(tmp_path / "surf.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (32, 24)
    )
    for t in range(4):
        writer.write(np.full((24, 32, 3), 40 * t, np.uint8))
    writer.release()
    page.get_by_label("video file or archive").set_input_files(tmp_path / "surf.mp4")
    assert page.get_by_label("data set").last.input_value() == "surf"
    page.get_by_role("button", name="Upload").click()
    row = page.locator("#past tbody tr").filter(has_text="import surf")
    expect(row).to_contain_text("done", timeout=30_000)
    expect(page.locator("#datasets tbody")).to_contain_text("surf", timeout=10_000)
    assert cells(page, "datasets", 2)[:4] == ["surf", "1", "4", "0"]
    row.get_by_role("button", name="Log").click()
    expect(page.get_by_role("dialog")).to_contain_text("1 videos, 4 frames")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).not_to_be_visible()
    row.get_by_role("button", name="fill in").click()
    assert page.get_by_label("command").input_value() == "import"
    assert page.get_by_role("checkbox", name="own").is_checked()


def test_a_job_that_is_refused_and_one_that_is_cancelled(page: Any) -> None:
    from playwright.sync_api import expect

    page.get_by_label("command").select_option("flow")
    page.get_by_label("names").fill("../outside")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#job .fault")).to_contain_text("inside")
    page.get_by_label("names").fill("TINY_train, TINY_test")
    page.get_by_label("engine").fill("dis")
    page.get_by_role("button", name="Start").click()
    card = page.locator("#open article")
    expect(card).to_contain_text("vsodpipe flow TINY_train TINY_test --engine dis")
    card.get_by_role("button", name="cancel").click()
    row = page.locator("#past tbody tr").first
    expect(row).to_contain_text("cancelled", timeout=30_000)


def test_theme(page: Any) -> None:
    def paper() -> str:
        colour: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return colour

    light = paper()
    page.emulate_media(color_scheme="dark")
    assert paper() != light, "it follows the system"
    page.locator("#theme").click()
    assert page.locator("#theme").inner_text() == "Theme: light" and paper() == light
    page.locator("#theme").click()
    page.locator("#theme").click()


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    page.locator("#job summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    small = page.locator("button:visible, select:visible").evaluate_all(
        "all => all.filter(e => e.getBoundingClientRect().height < 24).length"
    )
    assert small == 0, "large enough for a finger"
    named = page.locator("input:visible, select, textarea, progress, [role=region]").evaluate_all(
        "all => all.filter(e => !(e.labels?.length || e.getAttribute('aria-label'))).length"
    )
    assert named == 0, "everything that is used has a name"


def test_the_policy_holds(server: Server) -> None:
    head = server.get("/").headers
    assert "default-src 'self'" in head["content-security-policy"]
    assert "unsafe" not in head["content-security-policy"]
    report = server.get("/runs/mine/report.html", authorization=f"Bearer {TOKEN}")
    assert report.status == 200 and "sandbox" in report.headers["content-security-policy"]
    assert server.get("/runs/mine/report.html").status == 401
    assert server.get("/static/page.html").status == server.get("/static/app.py").status == 404
    etag = server.get("/static/page.js").headers["etag"]
    assert server.ask("GET", "/static/page.js", headers={"if-none-match": etag}).status == 304
