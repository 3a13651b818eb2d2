"""Maps for every frame at native size, and the numbers that eval makes of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers import files_below
from predictions import predictions
from test_train import job
from vsodpipe import checkpoint, evaluate, importer, manifest, media, predict, protocols, train
from vsodpipe import maps as finding
from vsodpipe.errors import DataError, UsageError
from vsodpipe.evaluate import Options
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter

EXPECTED = json.loads((Path(__file__).parent / "expected_eval.json").read_text())


@pytest.fixture
def saved(source: Source, tmp_path: Path) -> checkpoint.Checkpoint:
    train.train(job(source, tmp_path / "run", "data.clip=3", "steps_per_epoch=1"), Reporter(True))
    return checkpoint.read(tmp_path / "run", "dbsnet")


class Fake(nn.Module):
    """Logits that tell the red level of each frame; counts what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[int] = []

    def forward(self, img: Tensor, flow: Tensor) -> dict[str, Tensor]:
        self.shown.append(img.shape[1])
        p = img[:, :, :1].mean((-1, -2), keepdim=True).clamp(0.01, 0.99).expand(-1, -1, 1, 8, 8)
        return {"saliency": torch.logit(p)}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8])
def test_every_frame_is_written_once_at_native_size(
    saved: checkpoint.Checkpoint,
    source: Source,
    tmp_path: Path,
    quiet: Reporter,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
) -> None:
    split = source.split("TINY_test")
    first = split.videos[0].frames
    frames = tuple(replace(first[i % 5], name=f"f{i}") for i in range(count))
    video = split.videos[0].model_copy(update={"frames": frames})
    only = source.manifest.model_copy(
        update={"datasets": (split.model_copy(update={"videos": (video,)}),)}
    )
    fake = Fake()
    monkeypatch.setattr(checkpoint, "build", lambda _: fake)
    changed = Source(only, source.file, source.root)
    predict.predict(saved, changed, ["TINY_test"], tmp_path / "maps", "cpu", quiet)
    written = sorted((tmp_path / "maps/TINY_test/dice").iterdir())
    assert [f.stem for f in written] == [f"f{i}" for i in range(count)]
    for file, frame in zip(written, frames, strict=True):
        found = media.read_map(file)
        resized = cv2.resize(media.read_image(source.path(frame.img)), (32, 32))
        assert found.shape == (48, 64) and found.std() == 0
        assert abs(int(found[0, 0]) - resized[..., 0].mean()) < 3
    assert set(fake.shown) == {min(3, count)}, "a network trained on clips sees full clips"


def test_maps_of_the_same_weights_are_kept_others_refused(
    saved: checkpoint.Checkpoint, source: Source, tmp_path: Path, quiet: Reporter
) -> None:
    maps = tmp_path / "run" / "maps"
    predict.predict(saved, source, ["TINY_test"], maps, "cpu", quiet)
    file = maps / "TINY_test" / "dice" / "00000.png"
    stamp = file.stat().st_mtime_ns
    predict.predict(saved, source, ["TINY_test"], maps, "cpu", quiet)
    assert file.stat().st_mtime_ns == stamp
    key = next(iter(saved.state_dict))
    file.unlink()
    predict.predict(saved, source, ["TINY_test"], maps, "cpu", quiet)
    assert file.is_file(), "a video with a map missing is done anew"
    saved.state_dict[key].add_(0.1)
    with pytest.raises(DataError, match="maps of other weights"):
        predict.predict(saved, source, ["TINY_test"], maps, "cpu", quiet)
    stamp = file.stat().st_mtime_ns
    predict.predict(saved, source, ["TINY_test"], maps, "cpu", quiet, force=True)
    assert file.stat().st_mtime_ns != stamp


def test_flow_of_another_kind_is_noticed(
    saved: checkpoint.Checkpoint, source: Source, tmp_path: Path
) -> None:
    warned: list[str] = []
    reporter = Reporter(quiet=True)
    reporter.warn = warned.append  # type: ignore[method-assign]
    predict.predict(saved, source, ["TINY_test"], tmp_path / "a", "cpu", reporter)
    assert warned == []
    saved.provenance["flow"] = {"TINY_train": "another"}
    predict.predict(saved, source, ["TINY_test"], tmp_path / "b", "cpu", reporter)
    assert len(warned) == 1 and "another kind" in warned[0]


def test_a_foreign_folder_is_not_emptied(
    saved: checkpoint.Checkpoint, source: Source, tmp_path: Path, quiet: Reporter
) -> None:
    media.write_bytes(tmp_path / "maps/TINY_test/mine.txt", b"x")
    with pytest.raises(DataError, match="did not write"):
        predict.predict(saved, source, ["TINY_test"], tmp_path / "maps", "cpu", quiet)


def test_the_test_split_is_the_default(source: Source) -> None:
    assert predict.choose_datasets(source, []) == ["TINY_test"]
    assert predict.choose_datasets(source, ["TINY_train"]) == ["TINY_train"]
    with pytest.raises(UsageError, match="Did you mean TINY_train"):
        predict.choose_datasets(source, ["TINY_tran"])


def write_maps(source: Source, maps: Path, change: str = "") -> None:
    for split in source.manifest.datasets:
        for video in split.videos:
            for frame in video.frames:
                mask = media.read_mask(source.path(str(frame.gt))).astype(np.uint8) * 255
                mask = 255 - mask if change == "inverted" else mask
                file = maps / split.dataset / video.name / f"{frame.name}.png"
                media.write_bytes(file, media.encode_png(mask))


def scored(maps: Path, source: Source, reporter: Reporter, **options: Any) -> dict[str, Any]:
    """Return data set -> scores of the one method below `maps`."""
    result = evaluate.evaluate(finding.find([maps], [source]), Options(**options), reporter)
    (method,) = result["methods"].values()
    datasets: dict[str, Any] = method["datasets"]
    return datasets


def test_perfect_and_inverted_maps(source: Source, tmp_path: Path, quiet: Reporter) -> None:
    write_maps(source, tmp_path / "a")
    for file in (tmp_path / "a").rglob("00001.png"):  # a copy of the truth would be refused
        image = media.read_map(file)
        image[0, 0] = 255 - image[0, 0]
        media.write_bytes(file, media.encode_png(image))
    total = scored(tmp_path / "a", source, quiet)["TINY_train"]["total"]
    assert (total["videos"], total["frames"]) == (2, 5), "two frames of each video do not count"
    perfect = {"jf": 1, "j_mean": 1, "f_mean": 1, "s_measure": 1, "max_f": 1, "mae": 0}
    assert {key: total[key] for key in perfect} == pytest.approx(perfect, abs=0.03)
    every = scored(tmp_path / "a", source, quiet, frames="all")
    assert every["TINY_train"]["total"]["frames"] == 9
    write_maps(source, tmp_path / "b", "inverted")
    total = scored(tmp_path / "b", source, quiet)["TINY_test"]["total"]
    assert total["j_mean"] == 0 and total["mae"] == 1


def test_the_ground_truth_is_no_prediction(source: Source, tmp_path: Path, quiet: Reporter) -> None:
    write_maps(source, tmp_path / "a")
    with pytest.raises(DataError, match="this is the ground truth of TINY_"):
        scored(tmp_path / "a", source, quiet)


def test_missing_and_wrong_maps_are_named(source: Source, tmp_path: Path, quiet: Reporter) -> None:
    maps = tmp_path / "maps"
    write_maps(source, maps)
    file = maps / "TINY_test/dice/00002.png"
    file.write_bytes(media.encode_png(np.zeros((48, 60), np.uint8)))
    with pytest.raises(DataError, match="expected 64x48 as its mask, got 60x48"):
        scored(maps, source, quiet)
    file.unlink()
    with pytest.raises(DataError, match="1 of 3 maps are missing: dice/00002"):
        scored(maps, source, quiet)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected a folder of one of the data sets"):
        scored(tmp_path / "empty", source, quiet)


def test_videos_too_short_for_the_protocol(source: Source, tmp_path: Path, quiet: Reporter) -> None:
    split = source.split("TINY_test")
    video = split.videos[0].model_copy(update={"frames": split.videos[0].frames[:2]})
    short = source.manifest.model_copy(
        update={"datasets": (split.model_copy(update={"videos": (video,)}),)}
    )
    write_maps(source, tmp_path / "maps")
    with pytest.raises(DataError, match="2 annotated frames.*Use --frames all"):
        scored(tmp_path / "maps", Source(short, source.file, source.root), quiet)


@pytest.mark.parametrize("frames", ["trim", "all"])
def test_totals_of_real_davis_meet_the_reference(
    davis: Path, tmp_path: Path, quiet: Reporter, frames: str
) -> None:
    """expected_eval.json (PySODMetrics 1.6.2, davis2017-evaluation), tolerance 1e-6, kind soft."""
    root = tmp_path / "datasets"
    for video in ("blackswan", "dog", "car-shadow"):
        for part, folder in (("JPEGImages", "RGB"), ("Annotations", "GT")):
            target = root / "A_test" / video / folder
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(davis / part / "480p" / video)
    made = manifest.build([], root, tmp_path / "m", quiet)["a"]
    source = manifest.read(manifest.write(made, tmp_path / "m", root)[0])
    for video in source.split("A_test").videos:
        for index, frame in enumerate(video.frames):
            mask = media.read_mask(source.path(str(frame.gt)))
            soft = predictions(mask, video.name, index)["soft"]
            file = tmp_path / "maps/A_test" / video.name / f"{frame.name}.png"
            media.write_bytes(file, media.encode_png(soft))
    protocol = protocols.get("davis16")
    options = {"protocol": protocol, "frames": frames}
    found = scored(tmp_path / "maps", source, quiet, **options)["A_test"]
    reference = EXPECTED["results"]["soft"]["total"]["saliency"][frames]
    for rule, row in (("video_mean", found["total"]), ("frame_mean", found["frame_mean"])):
        assert row["mae"] == pytest.approx(reference[rule]["mae"], abs=1e-6)
        assert row["s_measure"] == pytest.approx(reference[rule]["sm"], abs=1e-6)
        assert row["max_f"] == pytest.approx(reference[rule]["fm"]["max"], abs=1e-6)
    # J and F cut the soft map at >= 128, which is what kind `hard` is
    cut = EXPECTED["results"]["hard"]["total"]["davis"][frames]
    for key, values in (("j", cut["J"]), ("f", cut["F"])):
        for statistic, value in values.items():
            assert found["total"][f"{key}_{statistic}"] == pytest.approx(value, abs=1e-6)
    assert found["total"]["jf"] == pytest.approx(cut["JF_mean"], abs=1e-6)


def test_real_davis_import_and_names(davis: Path, tmp_path: Path, quiet: Reporter) -> None:
    importer.import_dataset("davis", davis, tmp_path / "d", quiet)
    made = manifest.build([], tmp_path / "d", tmp_path, quiet)["davis"]
    assert [(s.dataset, s.frames) for s in made.datasets] == [
        ("DAVIS_train", 210),
        ("DAVIS_test", 110),
    ]
    assert not [name for name in files_below(tmp_path / "d") if "partial" in name]
