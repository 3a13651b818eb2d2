"""RAFT over clips against torchvision's plain call, and against princeton's published code."""

import json
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.models import optical_flow

from vsodpipe import flows
from vsodpipe.errors import UsageError, WeightsError
from vsodpipe.flows import raft_stream, raft_volume

NAMES = ("raft_large", "raft_small")
Clip = list[NDArray[np.uint8]]
State = dict[str, torch.Tensor]


def made_clip(seed: int, count: int, height: int, width: int) -> Clip:
    """Return a smooth texture that moves by (3, 2) pixels a frame, with noise.

    Number by number `clip` of shared/parity/fill.py, from which the fixtures come.
    """
    rng = np.random.default_rng(seed)
    cells = rng.uniform(0, 255, (height // 8 + count, width // 8 + count, 3))
    blocks = np.kron(cells, np.ones((8, 8, 1)))
    texture = sum(np.roll(blocks, (y, x), (0, 1)) for y in range(6) for x in range(6)) / 36
    moved = (texture[2 * t : 2 * t + height, 3 * t : 3 * t + width] for t in range(count))
    noisy = (frame + rng.normal(0, 2, frame.shape) for frame in moved)
    return [np.clip(frame, 0, 255).astype(np.uint8) for frame in noisy]


def network(name: str) -> optical_flow.RAFT:
    """Return torchvision's untrained network, the same in every run, with flow of a few pixels."""
    torch.manual_seed(0)
    made = getattr(optical_flow, name)(weights=None).eval()
    with torch.no_grad():
        made.update_block.flow_head.conv2.weight *= 0.1
    return made


@pytest.fixture(scope="module")
def states() -> dict[str, State]:
    return {name: network(name).state_dict() for name in NAMES}


@pytest.fixture(params=NAMES)
def make(request: pytest.FixtureRequest, states: dict[str, State]) -> Callable[..., flows.Engine]:
    """Return the engine of either size, with 3 updates and the options given."""
    name = request.param

    def create(**options: Any) -> flows.Engine:
        return flows.create(name, **{"weights": states[name], "updates": 3, **options})

    return create


def plain(name: str, state: State, source: Any, target: Any, updates: int) -> flows.Flow:
    """Return the flow of torchvision's own call, on pictures padded by hand."""
    made = getattr(optical_flow, name)(weights=None).eval()
    made.load_state_dict(state)
    pictures = [torch.from_numpy(frame).permute(2, 0, 1)[None] for frame in (source, target)]
    pictures = list(optical_flow.Raft_Small_Weights.C_T_V2.transforms()(*pictures))
    height, width = source.shape[:2]
    down, right = (max(128 - side, -side % 8) for side in (height, width))
    top, left = down // 2, right // 2
    borders = (left, right - left, top, down - top)
    padded = [torch.nn.functional.pad(p, borders, mode="replicate") for p in pictures]
    with torch.inference_mode():
        whole = made(*padded, num_flow_updates=updates)[-1][0].permute(1, 2, 0).numpy()
    return whole[top : top + height, left : left + width]


def assert_same_flow(found: Any, expected: Any) -> None:
    """Within 1e-3 px and 1e-5 of the largest flow: the tolerance of issue 4."""
    expected = np.asarray(expected)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 + 1e-5 * largest)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(128, 136), (131, 150), (40, 141), (203, 129)])
def test_equals_torchvision_pair_by_pair(
    name: str, size: tuple[int, int], states: dict[str, State]
) -> None:
    clip = made_clip(1, 3, *size)
    pairs = list(zip(clip[:-1], clip[1:], strict=True))
    forward = [plain(name, states[name], a, b, 4) for a, b in pairs]
    backward = [plain(name, states[name], b, a, 4) for a, b in pairs]
    assert np.abs(forward).max() > 0.1
    engine = flows.create(name, weights=states[name], updates=4)
    assert_same_flow(list(engine.clip(clip)), forward)
    assert_same_flow(list(engine.clip(clip, "backward")), backward)
    found = list(engine.clip(clip, "both"))
    assert_same_flow([way for way, _ in found], forward)
    assert_same_flow([way for _, way in found], backward)


@pytest.mark.parametrize(("batch", "gap"), [(1, 2), (2, 1), (3, 2), (5, 4), (8, 2)])
def test_whole_clips_at_any_batch_and_gap(batch: int, gap: int, states: dict[str, State]) -> None:
    clip = made_clip(8, 7, 21, 133)
    state = states["raft_small"]
    pairs = list(zip(clip[:-gap], clip[gap:], strict=True))
    expected = [[plain("raft_small", state, *way, 2) for way in (p, p[::-1])] for p in pairs]
    engine = flows.create("raft_small", weights=state, updates=2, batch=batch)
    assert_same_flow(list(engine.clip(clip, "both", gap)), expected)
    assert_same_flow(list(engine.clip(clip, "forward", gap)), [way for way, _ in expected])
    assert_same_flow(list(engine.clip(clip, "backward", gap)), [way for _, way in expected])


@pytest.mark.parametrize(("batch", "gap"), [(None, 1), (2, 2), (3, 1)])
def test_a_pair_in_each_thread(
    make: Callable[..., flows.Engine], batch: int | None, gap: int, two_threads: None
) -> None:
    clip = made_clip(9, 6, 130, 138)
    torch.set_num_threads(1)
    expected = list(make(batch=1).clip(clip, "both", gap))
    torch.set_num_threads(2)
    engine, before = make(batch=batch), threading.active_count()
    assert engine.plan(130, 138).batch == (batch or 2)
    found = engine.clip(clip, "both", gap)
    first = next(found)
    assert threading.active_count() > before
    assert_same_flow([first, *found], expected)
    assert threading.active_count() == before and torch.get_num_threads() == 2


def test_threads_end_with_a_clip_that_is_left(
    make: Callable[..., flows.Engine], two_threads: None
) -> None:
    before = threading.active_count()
    found = make(updates=1).clip(made_clip(9, 6, 130, 138))
    next(found)
    found.close()
    assert threading.active_count() == before


def test_large_frames_take_all_threads_for_one_pair(
    make: Callable[..., flows.Engine], two_threads: None
) -> None:
    small, large = (make(memory=1).plan(side, 2 * side).batch for side in (128, 480))
    assert (small, large) == (2, 1)


def test_batch_by_default_is_one_in_one_thread(make: Callable[..., flows.Engine]) -> None:
    assert make().plan(480, 854).batch == make(batch=1).plan(480, 854).batch == 1


@pytest.mark.parametrize("batch", [2, 8])
def test_batch_changes_nothing(make: Callable[..., flows.Engine], batch: int) -> None:
    clip = made_clip(2, 4, 130, 138)
    engine = make(batch=batch)
    for direction in ("forward", "backward", "both"):
        expected = list(make().clip(clip, direction))
        found = list(engine.clip(clip, direction))
        assert len(found) == 3
        assert_same_flow(found, expected)
    assert engine.fingerprint == make().fingerprint


def _noted(inner: Callable[..., Any], name: str, calls: list[str]) -> Callable[..., Any]:
    def noted(*given: Any) -> Any:
        calls.append(name)
        return inner(*given)

    return noted


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("direction", "encoded"), [("forward", 9), ("backward", 9), ("both", 10)])
def test_nothing_is_computed_twice(
    make: Callable[..., flows.Engine],
    batch: int,
    direction: str,
    encoded: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """5 frames: features of each once, context of each that flow starts from, one upsampling."""
    calls: list[str] = []
    for place, name in ((raft_stream, "_features"), (raft_stream.StreamingRaft, "_upsampled")):
        monkeypatch.setattr(place, name, _noted(getattr(place, name), name, calls))
    engine = make(batch=batch)
    list(engine.clip(made_clip(3, 5, 16, 16), direction))
    assert calls.count("_features") == encoded
    assert calls.count("_upsampled") == 4 // batch * (2 if direction == "both" else 1)


def test_threads_share_the_features_and_contexts(
    make: Callable[..., flows.Engine], monkeypatch: pytest.MonkeyPatch, two_threads: None
) -> None:
    calls = []
    inner = raft_stream._features

    def slow(*given: Any) -> Any:
        calls.append(None)
        time.sleep(0.02)  # long enough for the thread with the next pair to want the same
        return inner(*given)

    monkeypatch.setattr(raft_stream, "_features", slow)
    list(make(updates=1).clip(made_clip(3, 8, 16, 16), "both"))
    assert len(calls) == 16


@pytest.mark.parametrize(("length", "gap"), [(2, 1), (2, 3), (3, 3), (4, 3), (5, 1), (10, 1)])
def test_threads_work_ahead_of_the_flow_and_no_further(
    make: Callable[..., flows.Engine], length: int, gap: int, two_threads: None
) -> None:
    read = 0

    def frames() -> Iterator[Any]:
        nonlocal read
        for frame in made_clip(3, length, 16, 16):
            read += 1
            yield frame

    count = 0
    for count, _ in enumerate(make(updates=1).clip(frames(), gap=gap), 1):
        assert read <= count + gap + 6
    assert count == max(0, length - gap) and read == length


@pytest.mark.parametrize("batch", [1, 3])
def test_no_clip_is_collected(
    make: Callable[..., flows.Engine], batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Any]] = []
    encode = raft_stream.StreamingRaft.encode

    def noted(self: Any, picture: Any) -> Any:
        frame = encode(self, picture)
        alive.append(weakref.ref(frame))
        return frame

    monkeypatch.setattr(raft_stream.StreamingRaft, "encode", noted)
    for done, _ in enumerate(make(batch=batch, updates=1).clip(made_clip(4, 9, 16, 16)), 1):
        assert len(alive) <= done + batch
        assert sum(frame() is not None for frame in alive) <= batch + 1


def test_caller_keeps_its_gradients(make: Callable[..., flows.Engine]) -> None:
    for _ in make(updates=1).clip(made_clip(5, 3, 16, 16)):
        assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()


@pytest.mark.parametrize("n", [1, 7, 8, 13])
def test_transpose_in_place(n: int) -> None:
    square = torch.arange(n * n, dtype=torch.float32).view(n, n)
    expected = square.t().clone()
    raft_volume._transpose(square, block=4)
    assert torch.equal(square, expected)


# Precision


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_is_near_and_on_record(
    make: Callable[..., flows.Engine], precision: str
) -> None:
    clip = made_clip(6, 2, 128, 136)
    engine = make(precision=precision)
    found, expected = list(engine.clip(clip, "both")), list(make().clip(clip, "both"))
    assert np.asarray(found).dtype == np.float32
    errors = np.linalg.norm(np.subtract(found, expected), axis=-1)
    lengths = np.linalg.norm(expected, axis=-1)
    assert 0 < errors.mean() < 0.05 * lengths.mean()
    assert engine.fingerprint == {**make().fingerprint, "precision": precision}


def test_auto_precision_on_a_cpu_is_full(make: Callable[..., flows.Engine]) -> None:
    assert make(precision="auto").fingerprint == make().fingerprint


def test_tf32_needs_a_gpu(make: Callable[..., flows.Engine]) -> None:
    with pytest.raises(UsageError, match="tf32.*CUDA.*cpu"):
        make(precision="tf32")


@pytest.mark.parametrize(
    ("option", "value"), [("batch", 0), ("batch", 1.5), ("batch", True), ("precision", "fp8")]
)
def test_other_options_are_refused(
    make: Callable[..., flows.Engine], option: str, value: Any
) -> None:
    with pytest.raises(UsageError, match=f"{option}.*{value}"):
        make(**{option: value})


# Princeton's checkpoints. Fixture: shared/parity/raft_princeton_*.npz, computed by the published
# code, every fourth pixel of every fourth row.


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    with np.load(Path(__file__).with_name("raft_princeton.npz")) as file:
        return dict(file)


def princeton_state(published: dict[str, Any], size: str) -> State:
    """Return weights filled from princeton's keys, as shared/parity/fill.py does."""
    scale = json.loads(str(published[f"{size}_scale"]))
    state = {}
    for key, shape in json.loads(str(published[f"{size}_keys"])).items():
        leaf = key.rsplit(".", 1)[-1]
        noise = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
        noise = noise.astype(np.float32)
        if leaf == "num_batches_tracked":
            value = np.zeros(shape, np.int64)
        elif leaf == "running_var":
            value = 1.0 + 0.1 * np.abs(noise)
        elif leaf == "weight" and len(shape) == 1:
            value = 1.0 + 0.1 * noise
        elif len(shape) <= 1:
            value = 0.1 * noise
        else:
            value = noise / np.sqrt(int(np.prod(shape[1:])))
        if leaf != "num_batches_tracked":
            value = np.asarray(value, np.float32) * np.float32(scale.get(key, 1))
        state[key] = torch.from_numpy(np.asarray(value))
    return state


@pytest.mark.parametrize("size", ["large", "small"])
@pytest.mark.parametrize(("case", "seed", "shape"), [(0, 210, (136, 168)), (1, 211, (131, 181))])
def test_equals_princeton(
    size: str, case: int, seed: int, shape: tuple[int, int], published: dict[str, Any]
) -> None:
    engine = flows.create(
        f"raft_{size}", weights=princeton_state(published, size), updates=12, batch=case + 1
    )
    found = np.asarray(list(engine.clip(made_clip(seed, 3, *shape), "both")))[:, :, ::4, ::4]
    for way, expected in enumerate(("forward", "backward")):
        expected = published[f"{size}_{expected}{case}"]
        # The fixture holds backward flow of the last pair only.
        np.testing.assert_allclose(found[-len(expected) :, way], expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", ["large", "small"])
def test_checkpoints_are_told_apart(size: str, published: dict[str, Any], tmp_path: Path) -> None:
    state = princeton_state(published, size)
    wrapped = {f"module.{key}": tensor for key, tensor in state.items()}
    clip = made_clip(7, 2, 16, 24)
    expected = list(flows.create(f"raft_{size}", weights=state, updates=1).clip(clip))
    for number, saved in enumerate((wrapped, {"state_dict": wrapped}, {"state_dict": state})):
        torch.save(saved, tmp_path / f"{number}.pth")
        engine = flows.create(f"raft_{size}", weights=tmp_path / f"{number}.pth", updates=1)
        np.testing.assert_array_equal(list(engine.clip(clip)), expected)
    other = {"large": "small", "small": "large"}[size]
    with pytest.raises(WeightsError, match=f"--engine raft_{size}"):
        flows.create(f"raft_{other}", weights=tmp_path / "0.pth")


def test_foreign_keys_are_named(published: dict[str, Any]) -> None:
    """A key that no table knows is refused, in princeton's checkpoints as in torchvision's."""
    state = princeton_state(published, "small")
    state["fnet.layer4.0.conv1.weight"] = state.pop("fnet.conv1.weight")
    with pytest.raises(WeightsError, match="1 missing and 1 unexpected") as caught:
        flows.create("raft_small", weights=state)
    assert "feature_encoder.convnormrelu.0.weight" in str(caught.value)
    assert "feature_encoder.layer4.0.convnormrelu1.0.weight" in str(caught.value)
    with pytest.raises(WeightsError, match="torchvision or of princeton's RAFT"):
        flows.create("raft_small", weights={"encoder.weight": torch.zeros(1)})


def test_state_dict_is_fingerprinted_by_content(states: dict[str, State]) -> None:
    state = states["raft_small"]
    engine, again = (flows.create("raft_small", weights=dict(state)) for _ in range(2))
    moved = {**state, "feature_encoder.conv.bias": state["feature_encoder.conv.bias"] + 1}
    assert engine.fingerprint == again.fingerprint
    assert engine.fingerprint != flows.create("raft_small", weights=moved).fingerprint
