"""The loader: the same samples from threads, processes and ranks; resume, uint8, no leftovers."""

import itertools
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from made_frames import Made
from vsodpipe import batches, feed, stream, transforms
from vsodpipe.errors import DataError, UsageError
from vsodpipe.frames import load_clip
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter
from vsodpipe.ranks import Ranks
from vsodpipe.recipe import Augment, Data, Stage

DATA = Data(datasets=("MADE_train",), size=(12, 16), clip=2, frame_steps={"MADE_train": (1, 2)})
AUGMENT = Augment(flip=0.5, crop=2, rotate=5, brightness=(0.8, 1.2))
STAGE = Stage(name="t", network=None, data=DATA, augment=AUGMENT, batch=6)
READERS = [Made((9, 5, 12)), Made((7,), "MORE_train", every=3)]


def clips(stage: Stage = STAGE, **options: object) -> stream.Clips:
    return stream.Clips(READERS, stage, [1.5, 2.0], **options)  # type: ignore[arg-type]


def copied(batch: stream.Sample) -> stream.Sample:
    return {k: v.clone() if torch.is_tensor(v) else list(v) for k, v in batch.items()}


def taken(found: stream.Clips, epoch: int, start: int = 0, workers: int = 0) -> list[stream.Sample]:
    return [copied(batch) for batch in stream.loader(found, epoch, start, workers)]


def same(a: stream.Sample, b: stream.Sample) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(v, b[k]) and v.dtype == b[k].dtype if torch.is_tensor(v) else v == b[k]
        for k, v in a.items()
    )


def joined(parts: list[stream.Sample]) -> stream.Sample:
    return {
        key: torch.cat([p[key] for p in parts])
        if torch.is_tensor(value)
        else [x for p in parts for x in p[key]]
        for key, value in parts[0].items()
    }


@pytest.mark.parametrize("start", [0, 1, 5])
def test_any_number_of_threads_and_ranks_resumes_to_the_same_samples(start: int) -> None:
    whole = taken(clips(), 3)
    assert len(whole) == clips().steps() == (round(1.5 * 26) + 2 * 3) // 6
    state = stream.State(**clips().state(3, start).as_dict())
    for workers, world in itertools.product((0, 1, 3), (1, 2, 3)):
        ranks = [clips(rank=rank, world=world) for rank in range(world)]
        assert all(rank.resume(state) == (3, start) for rank in ranks)
        parts = [taken(rank, *rank.resume(state), workers) for rank in ranks]
        assert all(len(part) == len(whole) - start for part in parts)
        for want, *shares in zip(whole[start:], *parts, strict=True):
            assert same(want, joined(shares))


def test_the_state_of_other_data_or_another_order_is_refused() -> None:
    state = clips().state(0, 1)
    others = [
        stream.Clips(READERS, STAGE, [1.0, 2.0]),
        stream.Clips(READERS[:1], STAGE, [1.5]),
        clips(replace(STAGE, seed=1)),
        clips(replace(STAGE, batch=3)),
        clips(replace(STAGE, data=replace(DATA, window=2))),
    ]
    for other in others:
        with pytest.raises(DataError, match="not those of the interrupted run"):
            other.resume(state)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_by_any_start_method_give_the_same(method: str) -> None:
    found = clips(replace(STAGE, steps_per_epoch=3))
    alone = taken(found, 0)
    made = [copied(b) for b in stream.loader(found, 0, 0, 1, start_method=method)]
    assert all(same(a, b) for a, b in zip(alone, made, strict=True))
    assert not multiprocessing.active_children()


def test_samples_are_what_the_plain_steps_give() -> None:
    """Load, augment, resize, to_float, one after another on tensors, give the same bits.

    Both are, to rounding, what torchvision's ToTensor and Normalize make.
    """
    stage = replace(
        STAGE, data=replace(DATA, size=(8, 10), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 1))
    )
    found = clips(stage)
    for items in found.batches(0, 0):
        batch = found.batch(items)
        for number, (epoch, position, anchor) in enumerate(items):
            reader, video, _ = found.anchors[anchor]
            pick = found._pick(epoch, position, anchor)
            clip = load_clip(READERS[reader], int(video), pick.frames, ("img", "flow", "gt"))
            change = transforms.draw(stage.augment, pick.draw())
            clip = transforms.augment(clip, change, (12, 16))
            want = transforms.to_float(transforms.resize(clip, (8, 10)), stage.data)
            plain = transforms.resize(clip, (8, 10))["img"].float() / 255
            plain = plain - torch.tensor(stage.data.mean).view(1, 3, 1, 1)
            plain = plain / torch.tensor(stage.data.std).view(1, 3, 1, 1)
            torch.testing.assert_close(want["img"], plain, rtol=0, atol=1e-6)
            assert all(torch.equal(batch[key][number], value) for key, value in want.items())


def test_uint8_becomes_the_same_floats() -> None:
    stage = replace(STAGE, data=replace(DATA, mean=(0.485, 0.456, 0.406), std=(0.2, 0.3, 0.25)))
    small = replace(stage, data=replace(stage.data, uint8=True))
    for floats, bytes_ in zip(taken(clips(stage), 0), taken(clips(small), 0), strict=True):
        assert {bytes_[key].dtype for key in ("img", "flow", "gt")} == {torch.uint8}
        tensors = {key: bytes_[key] for key in ("img", "flow", "gt")}
        done = transforms.to_float(tensors, stage.data)
        assert all(torch.equal(done[key], floats[key]) for key in done)


@dataclass
class Somewhere:
    device: str
    cache: None = None
    cache_bytes: int = 0


def test_training_on_a_gpu_reads_bytes(source: Source, quiet: Reporter) -> None:
    data = replace(
        DATA, datasets=("TINY_train",), frame_steps={}, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)
    )
    stage = replace(STAGE, data=data, batch=2)

    def first(stage: Stage, device: str) -> stream.Sample:
        chosen = feed.choose(stage, source)
        found = feed.clips(stage, chosen, Somewhere(device), Ranks(), quiet)
        return found.batch([(0, 0, 1), (0, 1, 4)])

    here, there = first(stage, "cpu"), first(stage, "cuda:1")
    keys = ("img", "gt", "flow")
    assert {here[key].dtype for key in keys} == {torch.float32}
    assert {there[key].dtype for key in keys} == {torch.uint8}
    made = feed.on_device(there, torch.device("cpu"), "dbsnet", stage.data)
    want = feed.on_device(here, torch.device("cpu"), "dbsnet", stage.data)
    assert all(torch.equal(made[key], want[key]) for key in keys)
    still = replace(stage, data=replace(data, without_flow="zero"))
    assert first(still, "cuda")["img"].dtype == torch.float32


def test_a_single_frame_has_no_time_axis_and_references_come_beside() -> None:
    data = replace(DATA, clip=1, sample="frame", references=4, frame_steps={})
    batch = next(stream.loader(clips(replace(STAGE, data=data)), 0, 0, 0))
    assert batch["img"].shape == (6, 3, 12, 16) and batch["gt"].shape == (6, 1, 12, 16)
    assert batch["valid"].shape == (6,), "as the losses of frames take it"
    assert batch["ref_img"].shape == batch["ref_flow"].shape == (6, 4, 3, 12, 16)
    plain = replace(STAGE, data=data, augment=Augment())
    batch = next(stream.loader(clips(plain), 0, 0, 0))
    videos = (batch["ref_img"][:, :, 0, 0, 0] * 255).round().int()
    frames = (batch["ref_img"][:, :, 1, 0, 0] * 255).round().int()
    assert (videos == videos[:, :1]).all(), "references are of the same video"
    assert (videos[:, 0] == (batch["img"][:, 0, 0, 0] * 255).round().int()).all()
    assert all(len(set(row)) == 4 for row in frames.tolist()), "and are different frames"
    without = next(stream.loader(clips(replace(plain, data=replace(data, references=0))), 0, 0, 0))
    assert torch.equal(without["img"], batch["img"]), "references do not change the sample"


def test_references_are_normalised_like_frame_and_flow() -> None:
    """The only reference of a video of one frame is that frame: it has the same numbers."""
    data = replace(DATA, clip=1, sample="frame", references=1, frame_steps={})
    for uint8, flow in itertools.product((False, True), repeat=2):
        changed = replace(
            data, uint8=uint8, normalise_flow=flow, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 1)
        )
        found = stream.Clips([Made((1, 1))], replace(STAGE, data=changed, augment=Augment()))
        batch = next(stream.loader(found, 0, 0, 0))
        tensors = {k: v for k, v in batch.items() if torch.is_tensor(v) and k != "valid"}
        done = transforms.to_float(tensors, changed)
        for key in ("img", "flow"):
            assert torch.equal(done[f"ref_{key}"][:, 0], done[key])
        assert done["img"].min() < 0 and (done["flow"].min() < 0) == flow


def test_a_balanced_part_is_another_one_every_epoch() -> None:
    data = replace(DATA, balanced={"MADE_train": "MORE_train"}, datasets=("MADE_train",))
    found = stream.Clips(READERS, replace(STAGE, data=data))
    more = sum(READERS[1].annotated(0))
    assert len(found) == 2 * more < 26
    parts = []
    for epoch in range(2):
        rows = found.anchors[found.epoch_order(epoch)]
        parts.append({tuple(row) for row in rows.tolist() if row[0] == 0})
        assert len(parts[epoch]) == more and len(rows) == 2 * more
    assert parts[0] != parts[1]
    with pytest.raises(DataError, match="not those of the interrupted run"):
        stream.Clips(READERS, STAGE).resume(found.state(0, 0))


def test_groups_of_neighbours_cover_every_video_once() -> None:
    data = replace(DATA, clip=5, sample="group", frame_steps={})
    stage = replace(STAGE, data=data, augment=Augment(), batch=1)
    found = stream.Clips(READERS[:1], stage)
    seen = {}
    for batch in stream.loader(found, 0, 0, 2):
        frames = (batch["img"][0, :, 1, 0, 0] * 255).round().int().tolist()
        assert frames == list(range(frames[0], frames[0] + 5)), "inside one video, in order"
        _, video, _ = batch["key"][0]
        seen.setdefault(video, set()).update(frames)
    assert {v: len(f) for v, f in seen.items()} == {"v0": 9, "v1": 5, "v2": 12}
    assert found.steps() == 2 + 1 + 3


def test_a_batch_that_is_kept_never_changes() -> None:
    found = clips(replace(STAGE, batch=1))
    kept = list(stream.loader(found, 0, 0, 2))
    copies = [copied(batch) for batch in kept]
    list(stream.loader(found, 1, 0, 2))
    assert all(same(a, b) for a, b in zip(kept, copies, strict=True))


def test_memory_is_used_again_only_when_nobody_refers_to_it() -> None:
    buffers = batches.Buffers()
    first = buffers.take((4,), np.uint8)
    view = torch.from_numpy(first)[1:].view(3, 1)
    address = first.ctypes.data
    del first
    assert buffers.take((4,), np.uint8).ctypes.data != address, "a view still needs it"
    del view
    held = [buffers.take((4,), np.uint8) for _ in range(2)]
    assert address in {array.ctypes.data for array in held}
    assert len({array.ctypes.data for array in held}) == 2
    assert not any(array.ctypes.data % mmap.PAGESIZE for array in held), "as frames in their files"


def test_threads_end_with_the_loop_whatever_ends_it() -> None:
    def names() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name.startswith(("batches", "shards"))]

    threads = torch.get_num_threads()
    batches_ = stream.loader(clips(), 0, 0, 3)
    next(batches_)
    assert names() and torch.get_num_threads() == threads
    batches_.close()
    assert not names()
    with pytest.raises(KeyboardInterrupt):
        for _ in stream.loader(clips(), 0, 0, 3):
            raise KeyboardInterrupt
    del _
    assert not names()

    def broken(item: int) -> int:
        if item == 3:
            raise DataError("three")
        return item

    found = batches.in_order(broken, range(9), 2, 4)
    assert list(itertools.islice(found, 3)) == [0, 1, 2]
    with pytest.raises(DataError, match="three"):
        next(found)
    assert not names()


SCRIPT = """
import signal, sys, threading
sys.path.insert(0, {tests!r})
import test_stream_loader as t
from vsodpipe import stream
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in range(10**6):
    for batch in stream.loader(t.clips(), number, 0, {workers}, {method!r}):
        print("step", flush=True)
"""


@pytest.mark.parametrize(("workers", "method"), [(2, None), (1, "fork")])
def test_ctrl_c_leaves_nothing(workers: int, method: str | None, tmp_path: Path) -> None:
    code = SCRIPT.format(tests=str(Path(__file__).parent), workers=workers, method=method)
    running = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert running.stdout is not None and running.stdout.readline() == "step\n"
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: the whole group
    _, errors = running.communicate(timeout=30)
    assert running.returncode != 0 and errors.count("KeyboardInterrupt") >= 1
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)


def test_flow_as_vectors_needs_a_store() -> None:
    with pytest.raises(UsageError, match="needs a store"):
        clips(replace(STAGE, data=replace(DATA, flow="vectors")))


def test_flow_vectors_move_with_the_picture() -> None:
    flow = torch.zeros((1, 2, 20, 40))
    flow[:, 0], flow[:, 1] = 4.0, -2.0
    clip = {"img": torch.zeros((1, 3, 20, 40), dtype=torch.uint8), "flow": flow}
    nothing = transforms.NOTHING
    flipped = transforms.augment(clip, nothing._replace(flip=True), (20, 40))["flow"]
    assert flipped[0, :, 3, 3].tolist() == [-4.0, -2.0]
    halved = transforms.resize(clip, (10, 80))["flow"]
    assert halved.shape == (1, 2, 10, 80)
    torch.testing.assert_close(halved[0, :, 5, 40], torch.tensor([8.0, -1.0]))
    cropped = transforms.augment(clip, nothing._replace(cut=(3, 5)), (20, 40))["flow"]
    assert cropped.shape[-1] < 40 and cropped.max() == 4.0, "a crop keeps the pixels"


def test_vectors_turn_as_the_picture_turns() -> None:
    """A dot and the dot where its vector points: after the rotation they still belong together."""
    picture = torch.zeros((1, 1, 81, 81))
    picture[..., 40, 60] = 1.0
    turned = transforms._rotate("img", picture.repeat(1, 3, 1, 1), 30.0)
    y, x = divmod(int(turned[0, 0].argmax()), 81)
    flow = torch.zeros((1, 2, 81, 81))
    flow[:, 0] = 20.0  # from the centre to the dot
    u, v = transforms._rotate("flow", flow, 30.0)[0, :, 40, 40].tolist()
    assert abs(40 + u - x) < 1 and abs(40 + v - y) < 1
