"""`vsodpipe eval` as a user meets it: several methods, formats, curves, comparison, workers."""

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from map_sets import Columns, columns, make_source, write, write_maps
from vsodpipe import compare, curves, evaluate, maps, media, metrics, scoring, tables
from vsodpipe.errors import DataError, UsageError
from vsodpipe.evaluate import Options
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter

Run = Callable[..., tuple[int, str, str]]
GOOD: Columns = {"camel": [4, 4, 4, 4, 4], "goat": [4, 3, 4, 4, 3]}
BAD: Columns = {"camel": [3, 3, 3, 3, 2], "goat": [4, 1, 1, 4, 1]}


@pytest.fixture
def made(tmp_path: Path) -> Source:
    source = make_source(tmp_path / "data", {"DAVIS_test": GOOD})
    write_maps(tmp_path / "all" / "good_one" / "DAVIS", GOOD)
    write_maps(tmp_path / "all" / "bad" / "DAVIS", BAD)
    return source


def test_two_methods_in_every_format(vsodpipe: Run, made: Source) -> None:
    call = ("eval", "all", "--manifest", made.file, "-q")
    code, out, _ = vsodpipe(*call, "--json")
    assert code == 0
    result = json.loads(out)
    assert list(result["methods"]) == ["bad", "good_one"]
    total = result["methods"]["good_one"]["datasets"]["DAVIS_test"]["total"]
    assert total["j_mean"] == pytest.approx((0.8 + (0.6 + 0.8 + 0.8) / 3) / 2)
    assert vsodpipe(*call, "--format", "json")[1] == out
    code, out, _ = vsodpipe(*call)
    assert code == 0 and "good_one" in out and "J&F per video" in out and "camel" in out
    chosen = ("--metric", "J", "--metric", "mae")
    code, out, _ = vsodpipe(*call, *chosen, "--format", "markdown")
    assert code == 0
    assert out.splitlines()[2:] == [
        "| method | J | MAE |",
        "| --- | ---: | ---: |",
        "| bad | 0.500 | 0.250 |",
        "| good_one | **0.767** | **0.117** |",
    ]
    code, out, _ = vsodpipe(*call, *chosen, "--format", "latex")
    assert r"\mathcal{J}$~$\uparrow$ & $\mathcal{M}$~$\downarrow$ \\" in out
    assert r"good\_one & \textbf{0.767} & \textbf{0.117} \\" in out
    assert r"bad & \underline{0.500} & \underline{0.250} \\" in out
    code, out, _ = vsodpipe(*call, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(r["method"], r["video"]) for r in rows][:3] == [
        ("bad", "camel"),
        ("bad", "goat"),
        ("bad", "total"),
    ]
    assert float(rows[-1]["j_mean"]) == pytest.approx(total["j_mean"], abs=1e-6)
    assert rows[1]["t"] == "", "goat has no T"


def test_equal_values_share_their_rank() -> None:
    shown = [tables.METRICS["mae"]]
    rows = {"a": {"mae": 0.10001}, "b": {"mae": 0.1}, "c": {"mae": 0.2}}
    assert tables._ranked(rows, shown[0]) == ["0.100", "0.200"]


def test_one_method_and_its_run(vsodpipe: Run, made: Source, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_maps(run / "maps" / "DAVIS_test", GOOD)
    (run / "run.json").write_text("{}")
    code, out, err = vsodpipe("eval", run / "maps", "--manifest", made.file)
    assert code == 0 and "camel" in out and "total" in out
    assert "10/10" not in err and "6/6 frames" in err and "scores.json" in err
    saved = json.loads((run / "scores.json").read_text())
    assert list(saved["methods"]) == ["run"]


def test_nothing_is_written_for_maps_that_fail(vsodpipe: Run, made: Source, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_maps(run / "maps" / "DAVIS_test", GOOD)
    (run / "run.json").write_text("{}")
    file = run / "maps" / "DAVIS_test" / "goat" / "00002.png"
    file.write_bytes(file.read_bytes()[:40])
    call = ("eval", run / "maps", "--manifest", made.file, "--curves", "c.svg")
    code, out, err = vsodpipe(*call)
    assert code == 2 and out == "" and len(err.splitlines()) == 1
    assert "goat/00002.png: damaged picture" in err
    file.unlink()
    code, _, err = vsodpipe(*call)
    assert code == 2 and "1 of 6 maps are missing: goat/00002." in err
    assert not (run / "scores.json").exists() and not (tmp_path / "c.svg").exists()


def test_copies_of_the_ground_truth(vsodpipe: Run, made: Source, tmp_path: Path) -> None:
    exact: Columns = {"camel": [5, 5, 5, 5, 5], "goat": [4, 4, 4, 4, 3]}
    write_maps(tmp_path / "m" / "DAVIS", exact)
    call = ("eval", "m", "--manifest", made.file, "-q")
    code, _, err = vsodpipe(*call)
    assert code == 0 and "all maps of 1 videos equal their masks (camel)" in err
    write_maps(tmp_path / "m" / "DAVIS", {"goat": [5, 5, 5, 5, 5]})
    code, out, err = vsodpipe(*call)
    assert code == 2 and out == "" and "this is the ground truth of DAVIS_test" in err
    for file in (tmp_path / "m").rglob("*.png"):  # masks of 0 and 1 are perfect once stretched
        write(file, columns(5, fore=1))
    assert vsodpipe(*call)[0] == 2


def test_the_ground_truth_is_refused_before_other_methods_are_scored(
    vsodpipe: Run, made: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_maps(tmp_path / "all" / "truth" / "DAVIS", {v: [5] * 5 for v in GOOD})
    monkeypatch.setattr(scoring, "run", lambda *_: pytest.fail("scored"))
    code, _, err = vsodpipe("eval", "all", "--manifest", made.file)
    assert code == 2 and "all/truth/DAVIS: every map equals its mask" in err


def test_maps_of_zeros_and_ones_are_told(vsodpipe: Run, made: Source, tmp_path: Path) -> None:
    write(tmp_path / "all/bad/DAVIS/camel/00001.png", columns(3, fore=1))
    call = ("eval", "all/bad", "--manifest", made.file, "-q", "--json")
    assert "hold 0 and 1" not in vsodpipe(*call)[2], "one map may be nearly black"
    for t in range(5):
        write(tmp_path / f"all/bad/DAVIS/camel/{t:05d}.png", columns(3, fore=1))
    code, out, err = vsodpipe(*call)
    videos = json.loads(out)["methods"]["bad"]["datasets"]["DAVIS_test"]["videos"]
    assert code == 0 and videos["camel"]["j_mean"] == 0 < videos["camel"]["s_measure"]
    assert "the maps of 1 videos hold 0 and 1 alone (camel)" in err


@pytest.mark.filterwarnings("error")
def test_names_of_methods_stay_text(vsodpipe: Run, made: Source, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    name = "_[red]$x_{$\x1b[31m\n|"
    (tmp_path / "all" / "bad").rename(tmp_path / "all" / name)
    call = ("eval", "all", "--manifest", made.file, "-q", "--metric", "J")
    code, out, err = vsodpipe(*call, "--compare", "--curves", "a.svg")
    assert code == 0 and "\x1b[31m" not in out and "[red]$x_{$" in out, err
    (line,) = (x for x in vsodpipe(*call, "--format", "markdown")[1].splitlines() if "red" in x)
    assert line == r"| _[red]$x_{$\x1b[31m \| | 0.500 |"


def test_wrong_options_say_so(vsodpipe: Run, made: Source) -> None:
    call = ("eval", "all", "--manifest", made.file)
    for option, words in (
        (("--protocol", "davis"), "Did you mean davis16?"),
        (("--frames", "some"), "unknown value of --frames"),
        (("--format", "html"), "unknown value of --format"),
        (("--metric", "maxf"), "Did you mean max_f?"),
        (("--metric", "E"), "--metric a2s_e: not defined by the protocol davis16."),
        (("--metric", "T", "--protocol", "davsod"), "not defined by the protocol davsod."),
        (("--format", "csv", "--json"), "name one of the two"),
        (("--curves", "c.gif"), "ends in .png"),
        (("--attributes", "none.yml"), "none.yml: cannot be read"),
    ):
        code, out, err = vsodpipe(*call, *option)
        assert code == 2 and out == "" and words in err
    code, _, err = vsodpipe("eval", "all/good_one", "--manifest", made.file, "--compare", "-q")
    assert code == 2 and "maps of two methods" in err


def test_curves_are_drawn(vsodpipe: Run, made: Source, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    call = ("eval", "all", "--manifest", made.file, "-q")
    for name, start in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")):
        assert vsodpipe(*call, "--curves", name)[0] == 0
        assert (tmp_path / name).read_bytes().startswith(start)


def test_curves_need_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'pip install "vsodpipe\[plots\]"'):
        curves.check(Path("a.png"))


def test_comparison(vsodpipe: Run, made: Source) -> None:
    call = ("eval", "all/good_one", "all/bad", "--manifest", made.file, "--compare", "-q")
    code, out, _ = vsodpipe(*call, "--json", "--metric", "J", "--metric", "mae")
    assert code == 0
    (pair,) = json.loads(out)["comparison"]["DAVIS_test"]
    j, mae = pair["rows"]
    assert (pair["first"], pair["other"]) == ("good_one", "bad")
    ours, theirs = (0.8, (0.6 + 0.8 + 0.8) / 3), (0.6, (0.2 + 0.2 + 0.8) / 3)
    assert j["difference"] == pytest.approx((sum(ours) - sum(theirs)) / 2)
    assert (j["better"], j["worse"], j["videos"]) == (2, 0, 2)
    assert mae["difference"] < 0 and mae["better"] == 2, "less is better"
    assert j["p"] == 0.5, "two videos have four patterns of signs, two as far apart as this"
    code, out, _ = vsodpipe(*call)
    assert code == 0 and "good_one against bad" in out


def test_sign_flips() -> None:
    assert compare.sign_flip(np.array([0.1, 0.2, 0.3, 0.4])) == 2 / 16
    # 0.3 with 0.2, 0, 0 or -0.2 on top: 6 of the 8 sums are at least 0.3 away from 0
    assert compare.sign_flip(np.array([0.1, 0.3, -0.1])) == 6 / 8
    assert compare.sign_flip(np.zeros(5)) == 1
    rng = np.random.default_rng(1)
    many = rng.normal(0.3, 1, 30)
    p = compare.sign_flip(many)
    z = abs(many.sum()) / math.sqrt((many**2).sum())
    assert p == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.02), "near the normal limit"
    assert p == compare.sign_flip(many), "seeded"


INFO = """
sequences:
- {name: camel, attributes: [DB, OCC], year: 2016}
- {name: goat, attributes: [OCC], year: 2016}
"""


def test_scores_by_attribute(vsodpipe: Run, made: Source, tmp_path: Path) -> None:
    media.write_bytes(tmp_path / "DAVIS/Annotations/db_info.yml", INFO.encode())
    call = ("eval", "all/good_one", "--manifest", made.file, "-q", "--attributes")
    code, out, _ = vsodpipe(*call, "DAVIS", "--json")
    assert code == 0
    found = json.loads(out)["methods"]["good_one"]["datasets"]["DAVIS_test"]
    assert found["attributes"]["DB"]["j_mean"] == pytest.approx(0.8)
    assert found["attributes"]["DB"]["videos"] == 1
    assert found["attributes"]["OCC"]["j_mean"] == pytest.approx(found["total"]["j_mean"])
    code, out, _ = vsodpipe(*call, "DAVIS")
    assert "by attribute" in out and "OCC (2)" in out
    media.write_bytes(tmp_path / "other.yml", INFO.replace("goat", "sheep").encode())
    code, _, err = vsodpipe(*call, "other.yml")
    assert code == 2 and "the list has no goat of DAVIS_test" in err
    media.write_bytes(tmp_path / "bad.yml", b"a: [")
    code, _, err = vsodpipe(*call, "bad.yml")
    assert code == 2 and "expected the official list" in err


def test_workers_do_not_change_a_number(
    tmp_path: Path, quiet: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "ALONE", 8)
    many: Columns = {"camel": [(t * 7) % 5 for t in range(30)], "cows": [t % 4 for t in range(31)]}
    source = make_source(tmp_path / "more", {"DAVIS_test": many})
    write_maps(tmp_path / "m" / "DAVIS", many)
    found = maps.find([tmp_path / "m"], [source])
    one = evaluate.evaluate(found, Options(workers=1), quiet)
    shapes = [metrics.binarise(columns(count or 0)) for count in many["camel"][1:-1]]
    t = np.nanmean(metrics.temporal_stability(shapes))
    videos = one["methods"]["m"]["datasets"]["DAVIS_test"]["videos"]
    assert videos["camel"]["t"] == pytest.approx(t), "pairs across the ends of tasks as well"
    two = evaluate.evaluate(found, Options(workers=2), quiet)
    assert json.dumps(one) == json.dumps(two)
    (tmp_path / "m" / "DAVIS" / "camel" / "00003.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="camel/00003.png: damaged picture"):
        evaluate.evaluate(found, Options(workers=2), quiet)
