"""Samples: every one once an epoch, the same for a seed whatever the workers, exact resume."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vsodpipe import pack, sampling, stream, transforms
from vsodpipe.errors import DataError
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter
from vsodpipe.recipe import Augment, Data, Stage

AUGMENT = Augment(
    crop=8,
    flip=0.5,
    rotate=10,
    brightness=(0.5, 1.5),
    contrast=(0.5, 1.5),
    saturation=(0.0, 2.0),
    sharpness=(0.0, 3.0),
)
DATA = Data(datasets=("TINY_train",), size=(32, 32), clip=3, frame_steps={"TINY_train": (1, 2)})
STAGE = Stage(name="t", network=None, data=DATA, augment=AUGMENT, batch=2)


def clips(source: Source, stage: Stage = STAGE) -> stream.Clips:
    names = stage.data.datasets
    readers = [stream.open_reader(source, name, stage.data.source) for name in names]
    return stream.Clips(readers, stage)


def same(a: stream.Sample, b: stream.Sample) -> bool:
    tensors = all(
        torch.equal(v, b[k]) if isinstance(v, torch.Tensor) else v == b[k] for k, v in a.items()
    )
    return a.keys() == b.keys() and tensors


def test_a_batch(source: Source) -> None:
    batch = next(iter(stream.loader(clips(source), epoch=0, start=0, workers=0)))
    assert batch["img"].shape == batch["flow"].shape == (2, 3, 3, 32, 32)
    assert batch["gt"].shape == (2, 3, 1, 32, 32)
    assert set(batch["gt"].unique().tolist()) <= {0.0, 1.0}
    assert 0 <= batch["img"].min() and batch["img"].max() <= 1
    assert batch["valid"].dtype == torch.bool and batch["valid"].shape == (2, 3)
    assert batch["size"] == [(48, 64)] * 2
    assert all(dataset == "TINY_train" for dataset, _, _ in batch["key"])


def test_workers_do_not_change_the_samples(source: Source) -> None:
    alone = list(stream.loader(clips(source), 1, 0, workers=0))
    two = list(stream.loader(clips(source), 1, 0, workers=2))
    assert len(alone) == len(two) == 4
    assert all(same(a, b) for a, b in zip(alone, two, strict=True))


def test_resume_gives_the_samples_that_were_left(source: Source) -> None:
    whole = list(stream.loader(clips(source), 0, 0, workers=0))
    rest = list(stream.loader(clips(source), 0, 2, workers=0))
    assert all(same(a, b) for a, b in zip(whole[2:], rest, strict=True))


def test_every_anchor_once_and_another_order_every_epoch(source: Source) -> None:
    every = clips(source, replace(STAGE, batch=1))
    orders = [[b[0][2] for b in every.batches(epoch, 0)] for epoch in range(3)]
    assert all(sorted(order) == list(range(9)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    other = clips(source, replace(STAGE, batch=1, seed=1))
    assert [b[0][2] for b in other.batches(0, 0)] != orders[0]


def test_caps_and_small_sets(source: Source) -> None:
    assert clips(source).steps() == 4, "a last incomplete batch is left out"
    assert clips(source, replace(STAGE, steps_per_epoch=3)).steps() == 3
    assert clips(source, replace(STAGE, batch=50)).steps() == 1
    strided = replace(DATA, anchor_stride={"TINY_train": 2})
    assert len(clips(source, replace(STAGE, data=strided)).anchors) == 3 + 2


def test_a_store_gives_the_samples_of_the_files(
    source: Source, tmp_path: Path, quiet: Reporter
) -> None:
    plain = replace(STAGE, data=replace(DATA, size=(48, 64)))
    target = Path(source.root) / "TINY_train.zarr"
    pack.pack(source.split("TINY_train"), source.root, target, (48, 64), quiet)
    stored = clips(source, replace(plain, data=replace(plain.data, source="store")))
    files = clips(source, plain)
    for item in ((0, 0, 0), (0, 1, 5), (2, 7, 8)):
        assert same(files.sample(item), stored.sample(item))
        assert same(files.sample(item), pickle.loads(pickle.dumps(stored)).sample(item))


def test_a_store_of_other_files_is_refused(source: Source, tmp_path: Path, quiet: Reporter) -> None:
    target = Path(source.root) / "TINY_train.zarr"
    split = source.split("TINY_train")
    other = split.model_copy(update={"flow": {**(split.flow or {}), "fingerprint": "other"}})
    pack.pack(other, source.root, target, (48, 64), quiet)
    with pytest.raises(DataError, match="Pack it anew: vsodpipe pack TINY_train --force"):
        stream.open_reader(source, "TINY_train", "store")
    fewer = split.model_copy(update={"videos": split.videos[:1]})
    pack.pack(fewer, source.root, target, (48, 64), quiet, force=True)
    with pytest.raises(DataError, match="other frames or another flow"):
        stream.open_reader(source, "TINY_train", "store")


def drawn(options: Augment, seed: int) -> transforms.Change:
    return transforms.draw(options, np.random.default_rng(seed))


def test_the_crop_counts_native_pixels() -> None:
    clip = {"img": torch.zeros((1, 3, 50, 50), dtype=torch.uint8)}
    sizes = [
        transforms.augment(clip, drawn(Augment(crop=20), s), (100, 100))["img"].shape
        for s in range(30)
    ]
    assert min(s[-1] for s in sizes) == 40 and max(s[-1] for s in sizes) == 50


def test_frames_without_a_mask_are_not_valid(source: Source) -> None:
    (split,) = (s for s in source.manifest.datasets if s.dataset == "TINY_train")
    sparse = [
        v.model_copy(
            update={
                "frames": tuple(f if f.name == "00002" else replace(f, gt=None) for f in v.frames)
            }
        )
        for v in split.videos
    ]
    reader = stream.Files(source, split.model_copy(update={"videos": tuple(sparse)}))
    found = stream.Clips([reader], STAGE)
    assert len(found.anchors) == 2
    for position in range(8):
        sample = found.sample((0, position, 0))
        assert sample["valid"].sum() == 1
        assert not sample["gt"][~sample["valid"]].any()


def test_nothing_to_train_on(source: Source) -> None:
    split = source.split("TINY_test")
    video = split.videos[0]
    frames = tuple(replace(f, gt=None) for f in video.frames)
    bare = split.model_copy(update={"videos": (video.model_copy(update={"frames": frames}),)})
    with pytest.raises(DataError, match="no frame has ground truth"):
        stream.Clips([stream.Files(source, bare)], STAGE)


def test_a_file_of_another_size_than_the_manifest_says(source: Source) -> None:
    file = Path(source.root) / "TINY_train/ball/RGB/00000.jpg"
    file.write_bytes((Path(source.root) / "TINY_train/ball/RGB/00001.jpg").read_bytes())
    split = source.split("TINY_train")
    video = split.videos[0].model_copy(update={"size": (50, 64)})
    reader = stream.Files(source, split.model_copy(update={"videos": (video,)}))
    with pytest.raises(DataError, match="expected 64x50.*got 64x48"):
        reader.read(0, 0, "img")


@given(
    count=st.integers(1, 30),
    length=st.integers(1, 8),
    steps=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_training_clips_stay_inside(
    count: int, length: int, steps: list[int], seed: int, data: st.DataObject
) -> None:
    annotated = data.draw(st.lists(st.booleans(), min_size=count, max_size=count).filter(any))
    anchor = data.draw(st.sampled_from([i for i, a in enumerate(annotated) if a]))
    clip = sampling.training_clip(annotated, anchor, length, steps, sampling.Draw(seed))
    assert len(clip.frames) == len(clip.valid) == length
    assert all(0 <= f < count for f in clip.frames)
    valid = [f for f, ok in zip(clip.frames, clip.valid, strict=True) if ok]
    assert len(valid) == len(set(valid)), "a frame that only fills up is never valid"
    assert all(annotated[f] for f in valid)
    if not all(annotated):
        assert anchor in valid, "the annotated frame is in its clip"
    if count >= length:
        distances = set(np.diff(clip.frames).tolist())
        assert len(distances) <= 1 and all(d >= 1 for d in distances)


@given(count=st.integers(1, 60), length=st.integers(1, 9))
def test_windows_cover_every_frame_once_or_overlap_at_the_end(count: int, length: int) -> None:
    found = sampling.windows(count, length)
    assert sorted({f for w in found for f in w}) == list(range(count))
    assert all(len(w) == min(length, count) for w in found)
    assert sum(map(len, found)) < count + length


def test_one_draw_holds_for_the_whole_clip_and_moves_all_together() -> None:
    rng = np.random.default_rng(0)
    frame = torch.from_numpy(rng.integers(0, 256, (1, 3, 40, 50), np.uint8))
    mask = (frame[:, :1] > 128).to(torch.uint8)
    clip = {"img": frame.repeat(3, 1, 1, 1), "flow": frame.repeat(3, 1, 1, 1)}
    clip["gt"] = mask.repeat(3, 1, 1, 1)
    for seed in range(6):
        out = transforms.augment(clip, drawn(AUGMENT, seed), (40, 50))
        for value in out.values():
            assert torch.equal(value[0], value[1]) and torch.equal(value[0], value[2])
        assert out["img"].shape[-2:] == out["flow"].shape[-2:] == out["gt"].shape[-2:]
        assert set(out["gt"].unique().tolist()) <= {0, 1}
    change = drawn(Augment(flip=1.0), 0)
    assert change.flip
    flip = transforms.augment(clip, change, (40, 50))
    assert all(torch.equal(flip[key], clip[key].flip(-1)) for key in clip)


def test_no_augmentation_changes_nothing() -> None:
    clip = {"img": torch.randint(0, 256, (2, 3, 8, 9), dtype=torch.uint8)}
    assert drawn(Augment(), 0) == transforms.NOTHING
    out = transforms.augment(clip, transforms.NOTHING, (8, 9))
    assert torch.equal(out["img"], clip["img"])
    assert transforms.resize(clip, (8, 9))["img"] is clip["img"]


def test_normalisation() -> None:
    clip = {"img": torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)}
    data = Data(datasets=(), mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0))
    done = transforms.to_float(clip, data)["img"]
    torch.testing.assert_close(done[0, :, 0, 0], torch.tensor([1.0, 0.75, 0.5]))
