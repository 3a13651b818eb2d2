"""Samples of a store against its arrays: flow as vectors, and still images in a mixture."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stores import add_vectors, pack_train
from vsodpipe import catalogue, flow_job, flows, manifest, stream, transforms
from vsodpipe.errors import DataError
from vsodpipe.frames import load_clip
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter
from vsodpipe.reader import open_store
from vsodpipe.recipe import Augment, Data, Stage

Size = tuple[int, int]
STAGE = Stage(
    name="t",
    network=None,
    data=Data(datasets=("TINY_train",), size=(32, 40), clip=1, sample="frame", source="store"),
    batch=1,
)


@pytest.mark.parametrize("container", ["zarr", "hdf5"])
def test_vectors_flip_and_scale(
    with_flow: Path, tmp_path: Path, quiet: Reporter, container: str
) -> None:
    add_vectors(with_flow)
    made = manifest.build([], with_flow, tmp_path / "m", quiet)["tiny"]
    source = manifest.read(manifest.write(made, tmp_path / "m", with_flow)[0])
    suffix = "h5" if container == "hdf5" else "zarr"
    pack_train(source, with_flow / f"TINY_train.{suffix}", container=container, flow="raw")
    reader = stream.open_reader(source, "TINY_train", "store")
    stored = torch.from_numpy(reader.read(0, 1, "flow") / np.float32(64))

    def flow(**options: object) -> torch.Tensor:
        augment = options.pop("augment", Augment())
        data = replace(STAGE.data, flow="vectors", **options)
        clips = stream.Clips([reader], replace(STAGE, data=data, augment=augment))
        found: torch.Tensor = clips.sample((0, 0, 1))["flow"]
        return found

    assert stored.abs().max() > 0.5, "there is motion"
    assert torch.equal(flow(), stored)
    flipped = stored.flip(-1) * torch.tensor([-1.0, 1.0]).view(2, 1, 1)
    assert torch.equal(flow(augment=Augment(flip=1.0)), flipped)
    doubled = flow(size=(32, 80))
    factor = doubled.mean((1, 2)) / stored.mean((1, 2))
    torch.testing.assert_close(factor, torch.tensor([2.0, 1.0]), rtol=0.05, atol=0)


COLOURED = Augment(crop=8, flip=0.5, rotate=10, brightness=(0.5, 1.5), sharpness=(0.0, 3.0))


@pytest.mark.parametrize("augment", [Augment(flip=0.5), COLOURED])
@pytest.mark.parametrize("size", [(32, 40), (24, 36)], ids=["fits", "is resized"])
@pytest.mark.parametrize("flow", ["picture", "vectors"])
def test_a_batch_is_what_the_plain_steps_give(
    with_flow: Path, tmp_path: Path, quiet: Reporter, augment: Augment, size: Size, flow: str
) -> None:
    """Whole batches are read and changed where they lie; the samples are those of one by one."""
    add_vectors(with_flow)
    made = manifest.build([], with_flow, tmp_path / "m", quiet)["tiny"]
    source = manifest.read(manifest.write(made, tmp_path / "m", with_flow)[0])
    pack_train(source, with_flow / "TINY_train.zarr", flow="both")
    reader = stream.open_reader(source, "TINY_train", "store")
    data = replace(
        STAGE.data, size=size, clip=2, sample="clip", references=3, flow=flow, uint8=True
    )
    stage = replace(STAGE, data=data, augment=augment, batch=6)
    found = stream.Clips([reader], stage)
    flips = 0
    for items in found.batches(0, 0):
        batch = found.batch(items)
        for number, item in enumerate(items):
            pick = found._pick(*item)
            frames, *references = (
                load_clip(reader, pick.video, part, keys, flow)
                for part, keys in (
                    (pick.frames, ("img", "flow", "gt")),
                    *(((frame,), ("img", "flow")) for frame in pick.references),
                )
            )
            changes = [transforms.draw(augment, pick.draw()) for _ in range(4)]
            flips += sum(change.flip for change in changes)
            frames, *references = (
                transforms.resize(transforms.augment(part, change, (48, 64)), size)
                for part, change in zip((frames, *references), changes, strict=True)
            )
            for key, value in frames.items():
                assert torch.equal(batch[key][number], value), key
            for key in ("img", "flow"):
                value = torch.cat([part[key] for part in references])
                assert torch.equal(batch[f"ref_{key}"][number], value), key
    assert flips > 3


def test_frames_are_flipped_where_they_lie() -> None:
    rng = np.random.default_rng(0)
    for width in (1, 2, 17, 64, 131):
        for shape in ((2, 5, width, 3), (2, 5, width, 1)):
            pictures = rng.integers(0, 256, shape, np.uint8)
            want = pictures[:, :, ::-1].copy()
            transforms.flip_in_place(pictures)
            np.testing.assert_array_equal(pictures, want)
        vectors = rng.normal(size=(3, 2, 5, width)).astype(np.float32)
        want = vectors[..., ::-1] * np.array([-1, 1], np.float32)[:, None, None]
        transforms.flip_in_place(vectors)
        np.testing.assert_array_equal(vectors, want)


def test_a_frame_without_flow_is_an_error_not_stillness(
    with_flow: Path, tmp_path: Path, quiet: Reporter
) -> None:
    options = flow_job.Options(formats=("raw",), tail="none")
    dataset = catalogue.find("TINY_train", with_flow)
    flow_job.compute(dataset, flows.create("dis", preset="ultrafast"), options, quiet)
    made = manifest.build([], with_flow, tmp_path / "m", quiet)["tiny"]
    source = manifest.read(manifest.write(made, tmp_path / "m", with_flow)[0])
    pack_train(source, with_flow / "TINY_train.zarr", flow="raw")
    reader = stream.open_reader(source, "TINY_train", "store")
    data = replace(STAGE.data, flow="vectors")
    for augment in (Augment(), Augment(flip=1.0)):
        found = stream.Clips([reader], replace(STAGE, data=data, augment=augment))
        assert found.sample((0, 0, 3))["flow"].shape == (2, 32, 40)
        with pytest.raises(DataError, match="TINY_train/ball/00004 has no flow. Pack it anew"):
            found.sample((0, 0, 4))


def test_memory_is_kept_for_whole_batches_alone(source: Source) -> None:
    """Not for every size and share of a batch: packed at native size, there may be thousands."""
    pack_train(source, Path(source.root) / "TINY_train.zarr")
    reader = stream.open_reader(source, "TINY_train", "store")
    for size in ((32, 40), (24, 36), (40, 32)):
        stage = replace(STAGE, data=replace(STAGE.data, size=size, uint8=True))
        found = stream.Clips([reader], stage)
        for number in range(1, 6):
            kept = found.batch([(0, 0, n) for n in range(number)])
            del kept
        shapes = {shape[:1] + shape[2:4] for shape, _ in found._samples._buffers._held}
        assert shapes == {(number, *size) for number in range(1, 6)}, "the batches themselves"


def test_a_clip_stays_in_its_video_and_may_lack_masks(source: Source, tmp_path: Path) -> None:
    target = Path(source.root) / "TINY_train.zarr"
    videos = []
    for video in (split := source.split("TINY_train")).videos:
        frames = tuple(replace(frame, gt=None) for frame in video.frames)
        videos.append(video.model_copy(update={"frames": frames}))
    bare = split.model_copy(update={"videos": tuple(videos)})
    pack_train(source, target, split=bare)
    reader = open_store(str(target))
    assert "gt" not in reader.arrays
    assert not load_clip(reader, 0, [0, 4], ("img", "gt"), soft=True)["gt"].any()
    for video, frame in ((0, 5), (1, -1)):
        with pytest.raises(IndexError, match="has [45] frames"):
            load_clip(reader, video, [frame], ("img",))
    reader.read_arrays([0], {})


def test_files_hold_no_vectors(source: Source) -> None:
    reader = stream.open_reader(source, "TINY_train", "files")
    with pytest.raises(DataError, match="TINY_train: flow as vectors is in stores alone"):
        load_clip(reader, 0, [0], ("img", "flow"), "vectors")


@pytest.mark.parametrize("kind", ["files", "store"])
def test_still_images_in_a_mixture_have_no_motion(source: Source, kind: str) -> None:
    bare = source.split("TINY_train")
    videos = []
    for video in bare.videos:
        frames = tuple(replace(frame, flow=None) for frame in video.frames)
        videos.append(video.model_copy(update={"frames": frames}))
    changes = {"dataset": "STILL_train", "flow": None, "videos": tuple(videos)}
    still = bare.model_copy(update=changes)
    both = source.manifest.model_copy(update={"datasets": (*source.manifest.datasets, still)})
    mixed = replace(source, manifest=both)
    if kind == "store":
        for split in (bare, still):
            pack_train(source, Path(source.root) / f"{split.dataset}.zarr", split=split)
    readers = [stream.open_reader(mixed, name, kind) for name in ("TINY_train", "STILL_train")]
    data = replace(STAGE.data, source=kind, without_flow="zero")
    batch = stream.Clips(readers, replace(STAGE, data=data)).batch([(0, 0, 2), (0, 1, 9 + 2)])
    assert [key[0] for key in batch["key"]] == ["TINY_train", "STILL_train"]
    assert torch.equal(batch["img"][0], batch["img"][1])
    assert batch["flow"][0].any() and not batch["flow"][1].any()
