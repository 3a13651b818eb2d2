"""The page in a real browser: no error, no request, and everything that can be used works.

Needs Playwright's Python package and a Chromium of the system (`apt-get install chromium`).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from browser import chromium
from map_sets import Columns, make_source, write_maps
from vsodpipe import media, report
from vsodpipe.evaluate import Options
from vsodpipe.progress import Reporter

GOOD: Columns = {f"v{n}": [4, 4, n % 5, 4, 4, 4] for n in range(1, 13)}
BAD: Columns = {name: [3, 2, 1, 2, 2, 3] for name in GOOD}
HOSTILE = "<img src=x onerror=document.title=1>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from chromium()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about two methods and the run of one of them, with names that would be markup."""
    folder = tmp_path_factory.mktemp("page")
    source = make_source(folder / "data", {"DAVIS_test": {**GOOD, HOSTILE: [4] * 6}})
    for frame in (f for video in source.manifest.datasets[0].videos for f in video.frames):
        image = np.full((10, 10, 3), 100, np.uint8)
        media.write_bytes(Path(source.path(frame.img)), media.encode_jpeg(image))
    run = folder / "ours"
    rows = [{"stage": "main", "loss": 1 / n, "lr": 0.1 / n} for n in range(1, 30)]
    for place, j in ((15, 0.25), (30, 0.5)):
        proxy = {"j": j, "f_boundary": 0.1, "s": 0.6, "f_adaptive": 0.3, "mae": 0.05}
        rows.insert(place, {"stage": "main", "proxy": proxy})
    media.write_bytes(run / "events.jsonl", "\n".join(map(json.dumps, rows)).encode())
    media.write_bytes(run / "run.json", b'{"model": "dbsnet", "manifest": "m.json"}')
    media.write_bytes(run / "recipe.toml", b"lr = 0.1\n")
    write_maps(run / "maps" / "DAVIS_test", {**GOOD, HOSTILE: [4] * 6})
    write_maps(folder / "other" / "DAVIS_test", {**BAD, HOSTILE: [1, 1, 3, 1, 1, 1]})
    places = [run, folder / "other"]
    made = report.make(places, [str(source.file)], Options(), [], Reporter(quiet=True))
    report.write(made, folder / "page.html")
    return folder / "page.html"


@pytest.fixture
def page(browser: Any, page_file: Path) -> Iterator[Any]:
    """The page, opened from disk; at the end nothing has gone wrong or left it."""
    faults: list[str] = []
    requests: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light")
    opened = context.new_page()
    opened.on("console", lambda message: faults.append(message.text))
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto(page_file.as_uri())
    yield opened
    assert faults == []
    outside = {url for url in requests if not url.startswith("data:image/webp;")}
    assert outside == {page_file.as_uri()}
    assert opened.title() == "ours, other - vsodpipe report", "no name became a script"
    context.close()


def column(page: Any, section: str, place: int) -> list[str]:
    found = page.locator(f"section[aria-labelledby={section}] tbody tr > :nth-child({place})")
    texts: list[str] = found.all_inner_texts()
    return texts


def test_sections_and_numbers(page: Any) -> None:
    assert page.locator("h2").all_inner_texts() == [
        "Scores",
        "Videos",
        "Comparison",
        "Curves",
        "Frames",
        "Training",
        "Reproduce",
    ]
    data = json.loads(page.locator("#data").inner_text() or page.locator("#data").text_content())
    totals = {m["name"]: m["total"]["jf"] for m in data["datasets"][0]["methods"]}
    assert column(page, "scores", 1) == ["ours", "other"]
    assert column(page, "scores", 2) == [f"{totals[name]:.3f}" for name in ("ours", "other")]
    assert page.locator("section[aria-labelledby=scores] .best").count() >= 1
    assert page.locator("path.curve").count() >= 2 * 2 + 2 + 5 + 5
    assert HOSTILE in column(page, "videos", 1)
    page.get_by_label("all numbers").check()
    heads = page.locator("section[aria-labelledby=scores] thead th").all_inner_texts()
    assert "MAE" in heads and len(heads) > 15


def test_proxies_are_drawn_and_called_so(page: Any) -> None:
    training = page.locator("section[aria-labelledby=training]")
    figure = training.locator("figure", has_text="Proxies (validation while training)")
    assert figure.locator("path.curve").count() == 5 and figure.locator("circle").count() == 2 * 5
    label = figure.locator("svg").get_attribute("aria-label")
    assert "proxy over step, proxy J, proxy F, proxy S, proxy adp F, proxy MAE" in label
    first, last = (figure.locator("circle.m0").nth(i) for i in (0, 1))
    assert float(first.get_attribute("cy")) > float(last.get_attribute("cy")), "J has risen"
    assert float(last.get_attribute("cx")) == 420 - 14, "after the last step"
    assert "no scores to publish" in training.inner_text()
    assert training.locator("ul.key li").all_inner_texts()[0] == "proxy J"


def test_sorting(page: Any) -> None:
    before = column(page, "videos", 1)
    head = page.locator("section[aria-labelledby=videos] thead th").nth(1)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending", "the best first"
    values = [float(text) for text in column(page, "videos", 2)]
    assert values == sorted(values, reverse=True) and values[0] > values[-1]
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(text) for text in column(page, "videos", 2)] == sorted(values)
    page.locator("section[aria-labelledby=videos] thead button").first.click()
    assert head.get_attribute("aria-sort") is None
    names = column(page, "videos", 1)
    assert sorted(names) == sorted(before) and names.index("v2") < names.index("v10")
    page.get_by_role("combobox", name="Score").select_option("mae")
    page.locator("section[aria-labelledby=videos] thead button").nth(1).click()
    errors = [float(text) for text in column(page, "videos", 2)]
    assert errors == sorted(errors), "of errors the least is best"


def test_slider(page: Any) -> None:
    from playwright.sync_api import expect

    strip = page.locator("article.strip").first
    assert strip.locator("img").first.get_attribute("src") is None, "not before it is near"
    strip.scroll_into_view_if_needed()
    for image in strip.locator("img").all():
        expect(image).not_to_have_js_property("naturalWidth", 0)
    assert strip.locator("img").count() == 2 + 2 * 2
    slider = strip.locator("input[type=range]")
    slider.focus()
    page.keyboard.press("Home")
    first = slider.get_attribute("aria-valuetext")
    pictures = strip.locator("img").evaluate_all("images => images.map(image => image.src)")
    page.keyboard.press("ArrowRight")
    assert "frame 00001" in first and "frame 00002" in slider.get_attribute("aria-valuetext")
    assert "frame 00002 (2 of 4 shown" in strip.locator("output").inner_text()
    moved = strip.locator("img").evaluate_all("images => images.map(image => image.src)")
    assert moved[1] == pictures[1] and moved[2] != pictures[2], "the mask stays, the map changes"
    strip.get_by_label("previous frame").click()
    assert slider.get_attribute("aria-valuetext") == first


def test_theme(page: Any) -> None:
    def paper() -> str:
        colour: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return colour

    button = page.locator("#theme")
    light = paper()
    assert button.inner_text() == "Theme: system"
    page.emulate_media(color_scheme="dark")
    dark = paper()
    assert dark != light, "it follows the system"
    button.click()
    assert button.inner_text() == "Theme: light" and paper() == light
    button.click()
    page.emulate_media(color_scheme="light")
    assert button.inner_text() == "Theme: dark" and paper() == dark
    page.reload()
    assert button.inner_text() == "Theme: dark" and paper() == dark, "it is remembered"


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    small = page.locator("button:visible, select:visible").evaluate_all(
        "all => all.filter(e => e.getBoundingClientRect().height < 24).length"
    )
    assert small == 0, "large enough for a finger"


def test_keyboard_reaches_everything(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    reached = set()
    for _ in range(60):
        reached.add(page.evaluate("document.activeElement.tagName"))
        page.keyboard.press("Tab")
    assert {"BUTTON", "SELECT", "INPUT"} <= reached
    named = page.locator("input, select, [role=region], svg[role=img]").evaluate_all(
        "all => all.filter(e => !(e.labels?.length || e.getAttribute('aria-label'))).length"
    )
    assert named == 0, "everything that is used has a name"
