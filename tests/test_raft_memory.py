"""RAFT's memory: the kinds of correlation, the plan, and what happens when it does not hold."""

import shutil
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from test_raft import assert_same_flow, made_clip, network
from vsodpipe import flows
from vsodpipe.errors import UsageError, VsodpipeError
from vsodpipe.flows import raft_memory, raft_plan, raft_stream, raft_volume

GIB = 2**30
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return network("raft_small").state_dict()


@pytest.fixture
def make(state: State) -> Callable[..., Any]:
    def create(**options: Any) -> Any:
        return flows.create("raft_small", **{"weights": state, "updates": 3, **options})

    return create


def plan_only(monkeypatch: pytest.MonkeyPatch, options: list[tuple[int, str]]) -> None:
    monkeypatch.setattr(raft_plan, "steps", lambda batch: list(options))


# Kinds of correlation


@pytest.mark.parametrize(("kind", "atol"), [("on demand", 1e-3), ("half", 8e-3)])
@pytest.mark.parametrize("name", ["raft_large", "raft_small"])
def test_kinds_of_correlation_agree(
    name: str, kind: str, atol: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = made_clip(1, 4, 131, 150)
    engine = flows.create(name, weights=network(name).state_dict(), updates=4)
    expected = list(engine.clip(clip, "both"))
    plan_only(monkeypatch, [(2, kind)])
    said: list[str] = []
    engine.say = said.append
    found = list(engine.clip(clip, "both"))
    assert len(said) == 1 and kind in said[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
    assert kind == "on demand" or not np.array_equal(found, expected)


@pytest.mark.parametrize(("least", "times"), [(2**30, 0), (1, 7)])
def test_large_frames_give_free_memory_back(
    least: int, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the encoders of 3 frames, their 2 contexts and 2 upsamplings."""
    engine = flows.create("raft_large", weights=network("raft_large").state_dict(), updates=1)
    calls: list[None] = []
    monkeypatch.setattr(raft_stream, "_LARGE", least)
    monkeypatch.setattr(raft_stream, "give_back", lambda: calls.append(None))
    list(engine.clip(made_clip(1, 3, 16, 16)))
    assert len(calls) == times


def test_large_products_are_whole() -> None:
    torch.manual_seed(0)
    levels = [torch.randn(h * w, 8) for h, w in ((45, 50), (22, 25))]
    volume = raft_volume.Volume(1, (45, 50), 2, 4, levels[0])
    frame: Any = raft_stream.Encoded(None, (45, 50), levels)
    volume.fill([(frame, frame)])
    for found, features in zip(volume._levels, levels, strict=True):
        torch.testing.assert_close(found[0], levels[0] @ features.t())


@pytest.mark.parametrize("kind", raft_volume.KINDS)
def test_windows_beyond_the_frame_are_zero(kind: str) -> None:
    levels = [torch.rand(16 * 17 // 4**level, 8) for level in (0, 1)]
    levels[1] = torch.rand(8 * 8, 8)
    features: Any = raft_stream.Encoded(None, (16, 17), levels)
    volume = raft_volume.made(kind, 1, (16, 17), 2, 4, levels[0])
    volume.fill([(features, features)])
    centres = torch.full((1, 2, 16, 17), -3e9)
    centres[:, :, 8:] = 3e9
    assert not volume.lookup(centres).any()


def test_half_volume_holds_large_products() -> None:
    features: Any = raft_stream.Encoded(None, (16, 16), [torch.full((256, 8), 1e3)])
    volume = raft_volume.made("half", 1, (16, 16), 1, 4, features.levels[0])
    volume.fill([(features, features)])
    assert volume.lookup(torch.full((1, 2, 16, 16), 8.0)).isfinite().all()


# The plan


def test_plan_shrinks_with_the_memory(make: Callable[..., Any]) -> None:
    found = []
    for memory in (20, 9, 4, 3, 1.9, 1.2):
        plan = make(batch=4, memory=memory).plan(720, 1280)
        assert plan.bytes <= memory * GIB
        found.append((plan.batch, plan.volume))
    order = raft_memory.steps(4)
    assert order == [(4, "full"), (2, "full"), (1, "full"), (1, "half"), (1, "on demand")]
    assert [order.index(step) for step in found] == sorted(order.index(step) for step in found)
    assert found[0] == order[0] and make(memory=0.5).plan(720, 1280).volume == "on demand"


@pytest.mark.parametrize("name", ["raft_large", "raft_small"])
def test_4k_is_within_8_gib(name: str) -> None:
    bytes_needed = raft_memory.needed(name, 2160, 3840, 1, "on demand")
    assert GIB < bytes_needed < 8e9
    # Larger in every dimension is never less.
    assert raft_memory.needed(name, 2160, 3840, 1, "half") > bytes_needed
    assert raft_memory.needed(name, 2160, 3840, 2, "on demand", gap=3) > bytes_needed


def test_frames_too_large_are_refused_with_a_way_out(make: Callable[..., Any]) -> None:
    engine = make(memory=0.1)
    with pytest.raises(VsodpipeError, match="4096x2160.*GiB.*--max-side") as caught:
        engine.plan(2160, 4096)
    assert caught.value.exit_code == 1
    assert make(memory=0.1, max_side=320).plan(2160, 4096).batch == 1
    with pytest.raises(VsodpipeError, match="1024x640"):
        list(make(memory=0.01).clip(made_clip(1, 2, 640, 1024)))


@pytest.mark.parametrize("memory", [0, -1, True, "8", float("nan")])
def test_other_memory_is_refused(make: Callable[..., Any], memory: Any) -> None:
    with pytest.raises(UsageError, match="raft memory"):
        make(memory=memory)


def test_plan_is_said_once_for_a_size_and_changes_no_fingerprint(
    make: Callable[..., Any],
) -> None:
    engine = make(batch=64, memory=0.06, updates=1)
    said: list[str] = []
    engine.say = said.append
    for size in ((128, 136), (128, 136), (16, 16), (128, 144)):
        list(engine.clip(made_clip(2, 4, *size)))
    assert len(said) == 3 and "raft_small, 136x128" in said[0]
    assert engine.fingerprint == make(updates=1).fingerprint


def test_memory_of_a_container_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "/proc/meminfo": "MemTotal: 9000000 kB\nMemAvailable:    8000000 kB\n",
        "/sys/fs/cgroup/memory.max": "1000000000\n",
        "/sys/fs/cgroup/memory.current": "500000000\n",
        "/sys/fs/cgroup/memory.stat": "anon 1\ninactive_file 100000000\n",
    }
    monkeypatch.setattr(raft_memory, "_text", lambda file: texts.get(file.as_posix(), ""))
    assert raft_memory.budget("cpu", None) == 540_000_000
    assert raft_memory.budget("cpu", 0.25) == GIB // 4
    texts["/sys/fs/cgroup/memory.max"] = "max\n"
    assert raft_memory.budget("cpu", None) == int(8_000_000 * 1024 * 0.9)
    texts.clear()
    assert raft_memory.budget("cpu", None) > 0


# Memory that runs out all the same


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_falls_step_by_step_when_memory_runs_out(
    make: Callable[..., Any], direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = made_clip(3, 8, 16, 24)
    expected = list(make().clip(clip, direction))
    volume = raft_stream.StreamingRaft.volume
    made: list[tuple[int, str]] = []

    def full(self: Any, pairs: int, like: Any, kind: str = "full") -> Any:
        made.append((pairs, kind))
        if kind != "on demand":
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate"
            )
        return volume(self, pairs, like, kind)

    monkeypatch.setattr(raft_stream.StreamingRaft, "volume", full)
    engine = make(batch=4)
    said: list[str] = []
    engine.say = said.append
    assert_same_flow(list(engine.clip(clip, direction)), expected)
    assert made == raft_memory.steps(4) and len(said) == 4
    list(engine.clip(clip, direction))  # another clip of that size starts where this one ended
    assert len(made) == 6 and len(said) == 5


def test_flow_before_the_failure_is_not_repeated(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = made_clip(4, 8, 16, 24)
    expected = list(make().clip(clip))
    flow = raft_stream.StreamingRaft.flow
    calls = 0

    def failing(self: Any, *parts: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return flow(self, *parts)

    monkeypatch.setattr(raft_stream.StreamingRaft, "flow", failing)
    assert_same_flow(list(make(batch=4).clip(clip)), expected)
    assert calls == 4  # 4 pairs, 3 that fail, 2 of them, the last


def test_nothing_left_is_one_clear_error(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(raft_stream.StreamingRaft, "flow", failing)
    with pytest.raises(VsodpipeError, match="128x128.*ran out.*--max-side"):
        list(make(batch=2).clip(made_clip(5, 3, 16, 16)))


def test_other_failures_are_not_hidden(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(raft_stream.StreamingRaft, "flow", failing)
    with pytest.raises(RuntimeError, match="a mistake"):
        list(make().clip(made_clip(5, 3, 16, 16)))


@pytest.mark.parametrize("failures", [1, 3])
def test_memory_that_runs_out_in_threads(
    make: Callable[..., Any],
    failures: int,
    monkeypatch: pytest.MonkeyPatch,
    two_threads: None,
) -> None:
    clip = made_clip(3, 6, 16, 16)
    expected = list(make(updates=1).clip(clip, "both"))
    flow, lock, calls = raft_stream.StreamingRaft.flow, threading.Lock(), 0

    def failing(self: Any, *parts: Any) -> Any:
        nonlocal calls
        with lock:
            calls += 1
            fails = 2 < calls <= 2 + failures
        if fails:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 7 bytes")
        return flow(self, *parts)

    monkeypatch.setattr(raft_stream.StreamingRaft, "flow", failing)
    engine = make(updates=1)
    said: list[str] = []
    engine.say = said.append
    before = threading.active_count()
    assert_same_flow(list(engine.clip(clip, "both")), expected)
    assert 1 <= len(said) <= failures and "now 1 pair" in said[0]
    assert threading.active_count() == before


def test_other_failures_in_threads_are_not_hidden(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, two_threads: None
) -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(raft_stream.StreamingRaft, "encode", failing)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="a mistake"):
        list(make().clip(made_clip(5, 5, 16, 16)))
    assert threading.active_count() == before


def test_memory_that_runs_out_where_frames_come_from_is_their_matter(
    make: Callable[..., Any],
) -> None:
    def frames() -> Iterator[Any]:
        yield from made_clip(5, 3, 16, 16)
        raise MemoryError("of the decoder")

    with pytest.raises(MemoryError, match="of the decoder"):
        list(make().clip(frames()))


# Compilation


def test_compiled_updates_give_the_same_flow(make: Callable[..., Any]) -> None:
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    clip = made_clip(6, 3, 16, 24)
    expected = list(make(updates=2).clip(clip))
    engine = make(updates=2, compile=True)
    assert_same_flow(list(engine.clip(clip)), expected)
    assert engine.fingerprint == make(updates=2).fingerprint


def test_compilation_that_fails_says_so(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    torch._dynamo.reset()
    with torch._inductor.config.patch(force_disable_caches=True):
        with pytest.raises(VsodpipeError, match="compile.*--compile") as caught:
            list(make(updates=1, compile=True).clip(made_clip(6, 2, 16, 24)))
    assert "\n" not in str(caught.value)
