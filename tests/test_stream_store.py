"""Samples of a store against its arrays: flow as vectors, and still images in a mixture."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stores import add_vectors, pack_train
from vsodpipe import manifest, stream
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter
from vsodpipe.recipe import Augment, Data, Stage

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
