"""`vsodpipe report`: numbers are the result's, names stay text, nothing comes from outside."""

import base64
import json
import os
import re
import shlex
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from map_sets import Columns, make_source, write_maps
from vsodpipe import (
    maps,
    media,
    report,
    report_runs,
    report_scores,
    report_strips,
)
from vsodpipe.errors import DataError, UsageError
from vsodpipe.evaluate import Options
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter

Run = Callable[..., tuple[int, str, str]]
GOOD: Columns = {"camel": [4, 4, 4, 4, 4], "goat": [4, 3, 4, 4, 3], "<b>x": [4, 2, 1, 4, 4]}
BAD: Columns = {"camel": [3, 3, 3, 3, 2], "goat": [4, 1, 1, 4, 1], "<b>x": [4, 4, 3, 4, 4]}
HOSTILE = "</script><script>alert(1)</script>\x1b[2J\u202e&\"'"


class Elements(HTMLParser):
    """The tags of a page with their attributes, and the text of every JSON block."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: dict[str, str] = {}
        self._block: str | None = None
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._block = dict(attrs).get("id") if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._block:
            self.blocks[self._block] = self.blocks.get(self._block, "") + data


@pytest.fixture
def made(tmp_path: Path) -> Source:
    source = make_source(tmp_path / "data", {"DAVIS_test": GOOD})
    for video in source.manifest.datasets[0].videos:
        for frame in video.frames:
            image = np.full((10, 10, 3), 100, np.uint8)
            media.write_bytes(Path(source.path(frame.img)), media.encode_jpeg(image))
    write_maps(tmp_path / "all" / "good" / "DAVIS", GOOD)
    write_maps(tmp_path / "all" / "bad" / "DAVIS", BAD)
    return source


def write_run(run: Path, manifest: Path) -> None:
    """Write what training leaves, and the good maps."""
    note = {"model": "dbsnet", "manifest": str(manifest), "manifest_sha256": "abc"}
    media.write_bytes(run / "run.json", json.dumps({**note, "initial_weights": "random"}).encode())
    media.write_bytes(run / "recipe.toml", b"[debug]\nname = '<i>'\n")
    rows = [{"stage": "debug", "loss": 1 / (1 + n), "lr": 1e-3, "step": n} for n in range(900)]
    proxies = [{"j": 0.4, "mae": 0.1}, {"j": 0.6, "mae": 0.2}, {"j": float("nan"), "mae": 0.2}, 7]
    rows += [{"stage": "debug", "proxy": proxy} for proxy in proxies]
    lines = [*map(json.dumps, rows), '{"stage": "de']
    media.write_bytes(run / "events.jsonl", "\n".join(lines).encode())
    write_maps(run / "maps" / "DAVIS_test", GOOD)


def test_numbers_are_those_of_eval(vsodpipe: Run, made: Source, tmp_path: Path) -> None:
    code, out, _ = vsodpipe("eval", "all", "--manifest", made.file, "--json")
    assert code == 0
    result = json.loads(out)["methods"]
    code, out, err = vsodpipe("report", "all", "--manifest", made.file, "--out", "r.html", "--json")
    assert code == 0 and "wrote r.html" in err
    page = (tmp_path / "r.html").read_bytes()
    assert json.loads(out)["bytes"] == len(page)
    assert json.loads(out)["methods"] == ["bad", "good"] and json.loads(out)["videos_shown"] == 3
    data = json.loads(Elements(page).blocks["data"])
    (dataset,) = data["datasets"]
    assert dataset["name"] == "DAVIS_test" and dataset["protocol"]["name"] == "davis16"
    for method in dataset["methods"]:
        expected = result[method["name"]]["datasets"]["DAVIS_test"]
        assert method["total"] == expected["total"]
        assert method["videos"] == expected["videos"]
        assert method["means"] == {key: expected[key] for key in ("frame_mean", "video_mean")}
        for name, curve in method["curves"].items():
            assert curve == pytest.approx(expected["curves"][name], abs=5e-6)
    for strip in data["strips"]:
        for method in strip["methods"]:
            expected = result[method["name"]]["datasets"]["DAVIS_test"]["videos"]
            assert method["value"] == expected[strip["video"]]["jf"]
            columns = (GOOD if method["name"] == "good" else BAD)[strip["video"]][1:-1]
            assert method["j"] == pytest.approx([c / 5 for c in columns if c is not None])


def test_strips_show_the_extremes_and_open_at_the_frame_that_tells(made: Source) -> None:
    folders = maps.find([Path(made.root).parent / "all"], [made])
    quiet = Reporter(quiet=True)
    result = report_scores.scores(folders, Options(), quiet)
    about, pictures, notes = report_strips.strips(result, folders, quiet)
    assert [(s["video"], s["reasons"]) for s in about] == [
        ("goat", ("worst", "most different")),
        ("camel", ("best", "most different")),
        ("<b>x", ("worst",)),
    ]
    by_name = {strip["video"]: strip for strip in about}
    assert by_name["<b>x"]["opens"] == 1, "1 and 3 columns of 5"
    assert report_strips._opening("best", np.array([[0.1, 0.9, 0.2]])) == 1
    assert report_strips._opening("most different", np.array([[0.1, 0.9], [0.2, 0.5]])) == 1
    assert not notes and by_name["goat"]["layers"] == ["frame", "mask"], "no flow, no picture of it"
    strip, found = by_name["<b>x"], pictures[about.index(by_name["<b>x"])]
    assert len(found) == 3 and all(len(frame) == 2 + 2 * 2 for frame in found)
    decoded = [
        cv2.imdecode(np.frombuffer(base64.b64decode(p), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        for p in found[strip["opens"]]
    ]
    assert [picture.shape for picture in decoded] == [(10, 10, 3)] * 6
    assert decoded[1][:, :4].min() > 200 > decoded[1][:, 6:].max(), "the mask"


def test_errors_are_coloured() -> None:
    image = np.full((1, 4, 3), 100, np.uint8)
    prediction = np.array([[True, True, False, False]])
    gt = np.array([[True, False, True, False]])
    hit, false, missed, nothing = report_strips.errors(image, prediction, gt)[0].astype(int)
    assert hit[0] == hit[1] == hit[2] == 155 and nothing.tolist() == [40, 40, 40]
    assert false[0] > false[1] > false[2] and missed[2] > missed[1] > missed[0]


def test_names_stay_text(vsodpipe: Run, tmp_path: Path) -> None:
    folder = f"x{HOSTILE.replace('/', '|')}"
    videos = {"camel": GOOD["camel"], "<img onerror=alert(1)>": GOOD["goat"]}
    source = make_source(tmp_path / "data", {"DAVIS_test": videos})
    for video in source.manifest.datasets[0].videos:
        for frame in video.frames:
            image = np.full((10, 10, 3), 100, np.uint8)
            media.write_bytes(Path(source.path(frame.img)), media.encode_jpeg(image))
    write_run(tmp_path / folder, source.file if isinstance(source.file, Path) else Path())
    media.remove(tmp_path / folder / "maps")
    write_maps(tmp_path / folder / "maps" / "DAVIS_test", videos)
    note = tmp_path / folder / "run.json"
    values = {**json.loads(note.read_text()), HOSTILE: HOSTILE, "model": HOSTILE}
    note.write_text(json.dumps(values))
    assert vsodpipe("report", folder, "--manifest", source.file, "-q")[0] == 0
    page = (tmp_path / "report.html").read_bytes()
    found = Elements(page)
    plain = [tag for tag, attrs in found.tags if attrs.get("type") != "application/json"]
    assert plain.count("script") == 1 and "img" not in plain and "b" not in plain
    assert b"alert" not in re.sub(rb"<script type=.*?</script>|<title>.*?</title>", b"", page)
    assert b"\x1b" not in page and "\u202e".encode() not in page
    data = json.loads(found.blocks["data"])
    assert data["title"].startswith("x<|script><script>alert(1)") and "\\x1b" in data["title"]
    commands = {row["what"]: row["command"] for row in data["commands"]}
    train = next(text for what, text in commands.items() if what.startswith("training"))
    assert "\x1b" not in train and train.startswith("vsodpipe train $'</script>")


def test_commands_survive_the_shell() -> None:
    words = ["vsodpipe", "report", "a b", "it's", "$(id)", "plain"]
    assert shlex.split(report_runs.shell(words)) == words
    assert report_runs.shell(["a\x1b'é"]) == r"$'a\x1b\x27\xc3\xa9'"


def test_nothing_comes_from_outside(vsodpipe: Run, made: Source, tmp_path: Path) -> None:
    assert vsodpipe("report", "all", "--manifest", made.file, "-q")[0] == 0
    page = (tmp_path / "report.html").read_bytes()
    for tag, attrs in Elements(page).tags:
        assert not {"src", "srcset", "background", "action", "style"} & attrs.keys()
        assert tag not in ("link", "iframe", "object", "base", "embed")
        assert (attrs.get("href") or "#").startswith("#")
    code = re.sub(rb"<script type=.*?</script>", b"", page).decode()
    for word in ("http://", "https://", "//cdn", "src=", "@import", "url(", "fetch(", "innerHTML"):
        assert word not in code, word
    policy = next(a["content"] for _, a in Elements(page).tags if "content" in a)
    assert policy and "default-src 'none'; img-src data:;" in policy


def test_the_policy_fits_what_is_inside(vsodpipe: Run, made: Source, tmp_path: Path) -> None:
    assert vsodpipe("report", "all", "--manifest", made.file, "-q")[0] == 0
    text = (tmp_path / "report.html").read_text()
    for tag in ("style", "script"):
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert f"{tag}-src '{report._hash(inside)}'" in text


def test_equal_results_are_equal_pages(vsodpipe: Run, made: Source, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        call = ("report", "all", "--manifest", made.file, "-q", "--out", name)
        assert vsodpipe(*call)[0] == 0
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_page_stays_small(made: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = maps.find([Path(made.root).parent / "all"], [made])
    quiet = Reporter(quiet=True)
    result = report_scores.scores(folders, Options(), quiet)
    _, whole, _ = report_strips.strips(result, folders, quiet)
    used = sum(len(text) for strip in whole for frame in strip for text in frame)
    monkeypatch.setattr(report_strips, "BYTES", used - 1)
    about, pictures, notes = report_strips.strips(result, folders, quiet)
    assert len(pictures) == len(about) == 2 and "1 more videos are not shown" in notes[0]
    monkeypatch.setattr(report_strips, "STRIPS", 1)
    monkeypatch.setattr(report_strips, "METHODS", 1)
    about, pictures, notes = report_strips.strips(result, folders, quiet)
    assert len(pictures) == 1 and len(about[0]["methods"]) == 1
    assert notes[0].startswith("2 more videos") and "first 1 methods; 1 more" in notes[1]
    monkeypatch.setattr(report_scores, "VIDEOS", 2)
    (dataset,) = report_scores.described(result, folders)
    assert dataset["left_out"] == 1 and list(dataset["methods"][0]["videos"]) == ["camel", "goat"]


def test_many_frames_become_few() -> None:
    assert report_strips._even(3, 20) == [0, 1, 2]
    few = report_strips._even(1000, 20)
    assert len(few) == 20 and few[0] == 0 and few[-1] == 999
    picture = np.zeros((1080, 1920, 3), np.uint8)
    data = np.frombuffer(base64.b64decode(report_strips._thumbnail(picture)), np.uint8)
    assert cv2.imdecode(data, cv2.IMREAD_COLOR).shape == (180, 320, 3)


def test_a_run_with_its_training(vsodpipe: Run, made: Source, tmp_path: Path) -> None:
    assert isinstance(made.file, Path)
    write_run(tmp_path / "run", made.file)
    code, out, _ = vsodpipe("report", "run", "-q", "--json")
    assert code == 0, "the manifest is that of the run"
    data = json.loads(Elements((tmp_path / "report.html").read_bytes()).blocks["data"])
    (run,) = data["runs"]
    (stage,) = run["stages"]
    assert run["recipe"].startswith("[debug]") and stage["steps"] == 900
    assert stage["every"] == 3 and len(stage["loss"]) == 300
    assert stage["proxies"] == {"every": 1, "step": [900, 900], "j": [0.4, 0.6], "mae": [0.1, 0.2]}
    assert stage["loss"][0] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    commands = {row["what"]: row["command"] for row in data["commands"]}
    file = made.file
    assert commands[f"manifest {file}"] == (
        f"vsodpipe manifest made --out {file.parent} --data data"
    )
    assert commands["training of run"] == (
        f"vsodpipe train dbsnet --manifest {file} --recipe run/recipe.toml"
    )
    assert commands["maps of run"] == (
        f"vsodpipe test dbsnet --checkpoint run --manifest {file} --dataset DAVIS_test"
    )
    assert commands["scores"] == f"vsodpipe eval run/maps --manifest {file}"
    assert ["manifest, SHA-256", str(file), made.sha256()] in data["fingerprints"]


def test_saved_scores_are_taken_while_nothing_is_newer(
    vsodpipe: Run, made: Source, tmp_path: Path
) -> None:
    assert isinstance(made.file, Path)
    write_run(tmp_path / "run", made.file)
    assert vsodpipe("eval", "run/maps", "--manifest", made.file, "-q")[0] == 0
    saved = tmp_path / "run" / "scores.json"
    marked = json.loads(saved.read_text())
    marked["methods"]["run"]["datasets"]["DAVIS_test"]["total"]["jf"] = 0.125
    saved.write_text(json.dumps(marked))

    def total(*options: str) -> float:
        assert vsodpipe("report", "run", "-q", "--manifest", made.file, *options)[0] == 0
        page = (tmp_path / "report.html").read_bytes()
        data: dict[str, Any] = json.loads(Elements(page).blocks["data"])
        value: float = data["datasets"][0]["methods"][0]["total"]["jf"]
        return value

    assert total() == 0.125
    assert total("--frames", "all") != 0.125, "another rule than the saved one's"
    future = saved.stat().st_mtime + 10
    os.utime(tmp_path / "run" / "maps" / "DAVIS_test" / "goat" / "00001.png", (future, future))
    assert total() != 0.125, "a map is newer"


def test_what_is_missing_is_said_in_a_line(vsodpipe: Run, made: Source, tmp_path: Path) -> None:
    assert isinstance(made.file, Path)
    for call, words in (
        (("none", "--manifest", made.file), "none: no such folder of maps"),
        (("all/good",), "--manifest"),
        (("all/good", "--manifest", "none.json"), "none.json: cannot be read"),
        (("all/good", "--manifest", made.file, "--out", "r.pdf"), "ends in .html"),
        (("all/good", "--manifest", made.file, "--protocol", "x"), "unknown protocol"),
    ):
        code, out, err = vsodpipe("report", *call)
        assert code == 2 and out == "" and words in err and len(err.splitlines()) == 1
    (tmp_path / "all" / "good" / "DAVIS" / "goat" / "00001.png").unlink()
    code, _, err = vsodpipe("report", "all/good", "--manifest", made.file, "-q")
    assert code == 2 and "maps are missing: goat/00001" in err and "Traceback" not in err
    assert not list(tmp_path.glob("*.html*"))
    write_run(tmp_path / "run", made.file)
    media.remove(tmp_path / "run" / "maps")
    code, _, err = vsodpipe("report", "run", "-q")
    assert code == 0 and "no maps yet" in err, "its training can be looked at"
    (tmp_path / "run" / "run.json").write_text("[]")
    code, _, err = vsodpipe("report", "run", "-q")
    assert code == 2 and "expected an object" in err.splitlines()[-1]


def test_page_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ends in .html"):
        report.check(tmp_path / "a.txt")
    (tmp_path / "a.html").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        report.check(tmp_path / "a.html")
