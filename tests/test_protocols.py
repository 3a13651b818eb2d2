"""Which frames count and how values are averaged, worked out by hand for every protocol."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from map_sets import Columns, columns, make_source, write, write_maps
from vsodpipe import card, evaluate, maps, media, protocols
from vsodpipe.errors import DataError, UsageError
from vsodpipe.evaluate import Options
from vsodpipe.progress import Reporter
from vsodpipe.protocols import METRICS, PROTOCOLS

Run = Callable[..., tuple[int, str, str]]
VIDEOS: Columns = {"camel": [5, 2, 3, 5], "dog": [0, 4, 4, 3, 0]}
"""J is a fifth of each number, MAE (5 - number) / 10; a map of no columns is black: MAE 0.5."""


def scored(
    tmp_path: Path, videos: Columns, name: str | None, dataset: str = "DAVIS_test", **options: Any
) -> dict[str, Any]:
    source = make_source(tmp_path / "data", {dataset: videos})
    write_maps(tmp_path / "maps" / dataset, videos)
    chosen = Options(protocol=protocols.get(name) if name else None, **options)
    found = maps.find([tmp_path / "maps"], [source])
    result = evaluate.evaluate(found, chosen, Reporter(quiet=True))
    of_dataset: dict[str, Any] = result["methods"]["maps"]["datasets"][dataset]
    return of_dataset


@pytest.mark.parametrize("name", ["davis16", "davsod"])
def test_first_and_last_mask_do_not_count(tmp_path: Path, name: str) -> None:
    found = scored(tmp_path, VIDEOS, name)
    total = found["total"]
    assert (total["videos"], total["frames"]) == (2, 5)
    assert found["videos"]["camel"]["j_mean"] == pytest.approx((0.4 + 0.6) / 2)
    assert found["videos"]["dog"]["j_mean"] == pytest.approx((0.8 + 0.8 + 0.6) / 3)
    assert total["j_mean"] == pytest.approx((0.5 + 2.2 / 3) / 2), "per video, then over videos"
    assert total["mae"] == pytest.approx((0.25 + 0.4 / 3) / 2)
    assert found["frame_mean"]["j_mean"] == pytest.approx((0.4 + 0.6 + 0.8 + 0.8 + 0.6) / 5)
    assert found["frame_mean"]["j_decay"] is None, "frames of several videos have no order"
    # half above 0.5 in camel, all in dog
    assert total["j_recall"] == pytest.approx((0.5 + 1) / 2)
    assert found["video_mean"]["mae"] == total["mae"]
    assert total["max_f"] == pytest.approx(
        (sum(map(f, (0.4, 0.6))) / 2 + sum(map(f, (0.8, 0.8, 0.6))) / 3) / 2
    )


def f(recall: float) -> float:
    """F of a map without false positives."""
    return 1.3 * recall / (0.3 + recall)


def test_pysod_averages_over_all_frames(tmp_path: Path) -> None:
    total = scored(tmp_path, VIDEOS, "pysod")["total"]
    assert total["frames"] == 9
    assert total["mae"] == pytest.approx((0 + 0.3 + 0.2 + 0 + 0.5 + 0.1 + 0.1 + 0.2 + 0.5) / 9)
    expected = sum(map(f, (1, 0.4, 0.6, 1, 0, 0.8, 0.8, 0.6, 0))) / 9
    assert total["max_f"] == pytest.approx(expected)


def test_a2s_takes_maps_as_they_are(tmp_path: Path) -> None:
    source = make_source(tmp_path, {"ECSSD_test": {"one": [4]}})
    write(tmp_path / "maps" / "ECSSD" / "00000.png", columns(4, fore=204, back=51))
    found = maps.find([tmp_path / "maps"], [source])
    result = evaluate.evaluate(found, Options(), Reporter(quiet=True))
    of_dataset = result["methods"]["maps"]["datasets"]["ECSSD_test"]
    assert of_dataset["protocol"]["name"] == "a2s", "the card's"
    # 40 pixels at 0.8 and 10 at 0.2 under the object, 50 at 0.2 beside it
    assert of_dataset["total"]["a2s_mae"] == pytest.approx((40 * 0.2 + 10 * 0.8 + 50 * 0.2) / 100)
    assert of_dataset["total"]["mae"] == pytest.approx(10 / 100), "stretched"
    # no level reaches the adaptive threshold, twice the mean of 0.44
    assert of_dataset["total"]["a2s_mean_f"] == 0
    assert of_dataset["total"]["a2s_max_f"] == pytest.approx(f(0.8))


EMPTY: Columns = {"cars1": [4, None, 3], "marple6": [1, 2], "tennis": [None, None]}


def test_fbms_counts_every_labelled_frame(tmp_path: Path) -> None:
    found = scored(tmp_path, EMPTY, "fbms", "FBMS_test")
    assert found["videos"]["cars1"]["j_mean"] == pytest.approx((0.8 + 1 + 0.6) / 3)
    assert found["videos"]["tennis"]["j_mean"] == 1, "an empty pair counts 1"
    assert found["total"]["j_mean"] == pytest.approx((0.8 + 0.3 + 1) / 3)
    assert found["frame_mean"]["j_mean"] == pytest.approx((0.8 + 1 + 0.6 + 0.2 + 0.4 + 1 + 1) / 7)
    assert found["empty_masks"] == 3


def test_tmo_skips_empty_masks_and_videos_without_any_other(tmp_path: Path) -> None:
    found = scored(tmp_path, EMPTY, "tmo", "FBMS_test")
    assert found["videos"]["cars1"]["j_mean"] == pytest.approx((0.8 + 0.6) / 2)
    assert found["total"]["j_mean"] == pytest.approx((0.7 + 0.3) / 2)
    assert found["total"]["frames"] == 4 and found["skipped_videos"] == ["tennis"]


SHOTS: Columns = {"cat_0001_001": [1, 1], "cat_0001_002": [2], "dog_0007_001": [4, 4]}


def test_ytobj_averages_over_classes_and_tmo_over_shots(tmp_path: Path) -> None:
    found = scored(tmp_path, SHOTS, "ytobj", "YouTube-Objects_test")
    assert found["classes"]["cat"]["j_mean"] == pytest.approx((0.2 + 0.4) / 2)
    assert found["total"]["j_mean"] == pytest.approx((0.3 + 0.8) / 2)
    assert scored(tmp_path, SHOTS, None, "YouTube-Objects_test") == found, "the card's"
    other = scored(tmp_path, SHOTS, "tmo", "YouTube-Objects_test")
    assert other["total"]["j_mean"] == pytest.approx((0.2 + 0.4 + 0.8) / 3)
    assert other["class_mean"]["j_mean"] == pytest.approx(0.55)


def test_stability_only_where_the_benchmark_defines_it(tmp_path: Path) -> None:
    found = scored(tmp_path, VIDEOS, "davis16")
    assert found["videos"]["dog"]["t"] is None, "dog is one of the 23 that are left out"
    # T of the two maps that count, of rectangles 2 and 3 wide, and of no other video
    assert found["total"]["t"] == found["videos"]["camel"]["t"] > 0
    assert "t" not in scored(tmp_path, VIDEOS, "davsod")["total"]
    assert len(PROTOCOLS["davis16"].unstable) == 23
    named = set(card.cards()["davis"].splits["test"].videos)
    assert len(named & set(PROTOCOLS["davis16"].unstable)) == 10


def test_frames_can_be_chosen_and_are_written_down(tmp_path: Path) -> None:
    found = scored(tmp_path, VIDEOS, "davis16", frames="all")
    assert found["total"]["frames"] == 9 and found["protocol"]["frames"] == "all"
    assert found["protocol"]["name"] == "davis16" and found["protocol"]["sizes"] == "refused"
    assert "128" in found["protocol"]["threshold"]


def test_maps_of_another_size(tmp_path: Path) -> None:
    source = make_source(tmp_path, {"FBMS_test": {"a": [3]}})
    file = tmp_path / "maps/FBMS_test/a/00000.png"
    write(file, columns(3)[::2, :])
    before = file.read_bytes()
    found = maps.find([tmp_path / "maps"], [source])
    options = Options(protocol=protocols.get("fbms"))
    with pytest.raises(DataError, match="expected 10x10 as its mask, got 10x5.*--resize"):
        evaluate.evaluate(found, options, Reporter(quiet=True))
    result = evaluate.evaluate(found, replace(options, resize=True), Reporter(quiet=True))
    of_dataset = result["methods"]["maps"]["datasets"]["FBMS_test"]
    assert of_dataset["total"]["j_mean"] == pytest.approx(0.6) and of_dataset["resized_maps"] == 1
    assert of_dataset["protocol"]["sizes"] == "bilinear"
    assert file.read_bytes() == before, "nothing is overwritten"


def test_every_card_names_a_protocol_that_is_there() -> None:
    for described in card.cards().values():
        for split in described.splits:
            assert protocols.of(described.dataset(split)).name in PROTOCOLS
    assert protocols.of("DAVIS_test").name == "davis16"
    assert protocols.of("DAVSOD_easy35").name == "davsod"
    assert protocols.of("FBMS_test").name == "fbms"
    assert protocols.of("MINE_test").name == protocols.WITHOUT_CARD
    for protocol in PROTOCOLS.values():
        assert set(protocol.headline) <= METRICS.keys()


def test_names_are_checked() -> None:
    with pytest.raises(UsageError, match="Did you mean davsod"):
        protocols.get("davsd")
    with pytest.raises(UsageError, match="unknown value of --frames"):
        protocols.frames_rule("some")
    assert protocols.metric("max F").key == "max_f"
    with pytest.raises(UsageError, match="Did you mean max_f"):
        protocols.metric("maxf")


LAB = """
name = "Lab"
title = "Videos of the lab"
home = "https://lab.example"
protocol = "{}"
folders = ["labs"]
[[layouts]]
img = "{{video}}/{{frame}}.jpg"
[splits.test]
videos = {{ one = 4 }}
[rename]
"old-(.*)" = "\\\\1"
"""


@pytest.mark.parametrize("beside", [True, False])
def test_a_private_card_names_protocol_folder_and_videos(
    beside: bool, tmp_path: Path, vsodpipe: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the manifest's own root, or, where that has no cards, of the data root of the session."""
    given: Columns = {"one": [4, 4, 2, 3]}
    source = make_source(tmp_path / "data", {"Lab_test": given})
    for t in range(4):  # the page shows them
        write(tmp_path / "data" / "Lab_test" / "one" / "RGB" / f"{t:05d}.jpg", columns(5))
    write_maps(tmp_path / "maps" / "labs", {"old-one": given["one"]})
    home = tmp_path / ("data" if beside else "home")
    file = home / "cards" / "lab.toml"
    media.write_bytes(file, LAB.format("tmo").encode())
    if not beside:
        monkeypatch.setenv("VSODPIPE_DATA", str(home))
    call = ("--manifest", source.file, "--json")
    code, out, err = vsodpipe("eval", "maps", *call)
    assert code == 0, err
    found = json.loads(out)["methods"]["maps"]["datasets"]["Lab_test"]
    assert found["protocol"]["name"] == "tmo" and found["total"]["frames"] == 4
    assert found["total"]["j_mean"] == pytest.approx((0.8 + 0.8 + 0.4 + 0.6) / 4)
    code, out, err = vsodpipe("report", "maps", *call)
    assert code == 0, err
    assert "tmo" in Path(json.loads(out)["page"]).read_text()
    code, out, _ = vsodpipe("eval", "maps", *call, "--protocol", "davsod")
    assert json.loads(out)["methods"]["maps"]["datasets"]["Lab_test"]["total"]["frames"] == 2
    media.write_bytes(file, LAB.format("tmmo").encode())
    code, _, err = vsodpipe("eval", "maps", *call)
    assert code == 2 and f"unknown protocol in {file}: 'tmmo'. Did you mean tmo" in err
