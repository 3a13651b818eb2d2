"""The contract of every flow engine, then what is particular to DIS and to RAFT's weights."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.models import optical_flow

from vsodpipe import flows
from vsodpipe.errors import DataError, UsageError, VsodpipeError, WeightsError
from vsodpipe.flows import raft_weights

RAFT = ("raft_large", "raft_small")
Clip = list[NDArray[np.uint8]]


def made_clip(count: int, height: int, width: int, step: tuple[int, int] = (1, 0)) -> Clip:
    """Return a smooth texture in colour that moves by `step`, (x, y) pixels a frame."""
    right, down = (abs(s) * count for s in step)
    noise = np.random.default_rng(0).random((height + 2 * down, width + 2 * right, 3), np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    texture = ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)
    corners = [(down - step[1] * t, right - step[0] * t) for t in range(count)]
    return [texture[y : y + height, x : x + width].copy() for y, x in corners]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads of torch on a busy machine wait for each other, six times as long as one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """State dicts of untrained networks: the same numbers in every run."""
    files = {}
    for name in RAFT:
        torch.manual_seed(0)
        files[name] = tmp_path_factory.mktemp("weights") / f"{name}.pth"
        torch.save(getattr(optical_flow, name)(weights=None).state_dict(), files[name])
    return files


@pytest.fixture(scope="module", params=flows.names())
def engine(request: pytest.FixtureRequest, weights: dict[str, Path]) -> flows.Engine:
    name = request.param
    return flows.create(name, **({"weights": weights[name], "updates": 1} if name in RAFT else {}))


# Every engine


def test_one_flow_for_each_pair(engine: flows.Engine) -> None:
    clip = made_clip(3, 40, 60)
    found = list(engine.clip(clip))
    assert [(flow.dtype, flow.shape) for flow in found] == [(np.float32, (40, 60, 2))] * 2
    assert list(engine.clip(clip[:1])) == list(engine.clip([])) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (16, 16), (31, 100), (133, 141)])
def test_any_size_gives_finite_flow_of_that_size(
    engine: flows.Engine, size: tuple[int, int]
) -> None:
    (flow,) = engine.clip(made_clip(2, *size))
    assert flow.shape == (*size, 2)
    assert np.isfinite(flow).all()
    assert flow.flags.c_contiguous


def test_directions_agree(engine: flows.Engine) -> None:
    clip = made_clip(3, 40, 60)
    forward, backward = list(engine.clip(clip)), list(engine.clip(clip, "backward"))
    assert not np.array_equal(forward[0], backward[0])
    for t in range(2):
        (swapped,) = engine.clip([clip[t + 1], clip[t]])
        np.testing.assert_array_equal(backward[t], swapped)
    for t, both in enumerate(engine.clip(clip, "both")):
        # Not to the bit: RAFT takes the backward correlation from the forward one.
        np.testing.assert_allclose(both[0], forward[t], rtol=0, atol=1e-3)
        np.testing.assert_allclose(both[1], backward[t], rtol=0, atol=1e-3)


def test_frames_are_read_as_needed(engine: flows.Engine) -> None:
    read = 0

    def frames() -> Iterator[NDArray[np.uint8]]:
        nonlocal read
        for frame in made_clip(5, 32, 32):
            read += 1
            yield frame

    found = engine.clip(frames())
    assert read == 0
    for done, _ in enumerate(found, 1):
        assert read <= done + 2
    assert read == 5


def test_how_the_frames_are_stored_does_not_matter(engine: flows.Engine) -> None:
    clip = made_clip(3, 32, 40)
    expected = list(engine.clip(clip))

    def one_buffer() -> Iterator[NDArray[np.uint8]]:
        buffer = np.empty_like(clip[0])
        for frame in clip:
            buffer[:] = frame
            yield buffer

    reversed_views = [frame[..., ::-1].copy()[..., ::-1] for frame in clip]
    for frame in reversed_views:
        frame.flags.writeable = False
    np.testing.assert_array_equal(list(engine.clip(one_buffer())), expected)
    np.testing.assert_array_equal(list(engine.clip(reversed_views)), expected)


def test_clips_do_not_disturb_each_other(engine: flows.Engine) -> None:
    large, small = made_clip(3, 48, 64), made_clip(3, 9, 20)
    alone = list(engine.clip(large))
    mixed = [flow for flow, _ in zip(engine.clip(large), engine.clip(small), strict=True)]
    np.testing.assert_array_equal(mixed, alone)


@pytest.mark.parametrize("direction", flows.DIRECTIONS)
def test_gap_is_the_flow_to_a_later_frame(engine: flows.Engine, direction: str) -> None:
    clip = made_clip(5, 40, 60)
    found = list(engine.clip(clip, direction, gap=3))
    assert len(found) == 2
    for t in range(2):
        (alone,) = engine.clip([clip[t], clip[t + 3]], direction)
        np.testing.assert_array_equal(found[t], alone)
    assert list(engine.clip(clip, direction, gap=5)) == []


@pytest.mark.parametrize("gap", [0, -1, 1.0, True])
def test_wrong_gap_fails_at_the_call(engine: flows.Engine, gap: Any) -> None:
    with pytest.raises(UsageError, match="flow gap.*from 1"):
        engine.clip([], gap=gap)


def test_plan_says_what_it_takes(engine: flows.Engine) -> None:
    small, large = engine.plan(48, 64), engine.plan(480, 640, "both", 2)
    assert small.batch == large.batch == 1 and small.volume in ("none", "full")
    assert 0 < small.bytes < large.bytes
    engine.say("nothing")  # silent, unless its caller sets it


def test_wrong_direction_fails_at_the_call(engine: flows.Engine) -> None:
    with pytest.raises(UsageError, match="'forwards'.*Did you mean forward"):
        engine.clip([], "forwards")


def test_frames_of_two_sizes_are_refused(engine: flows.Engine) -> None:
    found = engine.clip(made_clip(2, 32, 40) + made_clip(1, 30, 44))
    next(found)
    with pytest.raises(DataError, match=r"40x32.*44x30 \(frame 2 of the clip\)"):
        next(found)


@pytest.mark.parametrize(
    "frame",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)],
    ids=["grey", "float", "empty"],
)
def test_other_frames_are_refused(engine: flows.Engine, frame: Any) -> None:
    with pytest.raises(DataError, match="expected frames of uint8 RGB"):
        list(engine.clip([frame]))


def test_fingerprint_is_plain_json(engine: flows.Engine) -> None:
    assert json.loads(json.dumps(engine.fingerprint)) == engine.fingerprint
    assert engine.fingerprint["engine"] in flows.names()


@pytest.mark.parametrize("name", flows.names())
def test_unknown_option_names_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match="'speed'") as caught:
        flows.create(name, speed=3)
    assert flows.options(name)
    assert all(option in str(caught.value) for option in flows.options(name))


# The registry


def test_unknown_engine_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown flow engine 'raft_smal'.*raft_small"):
        flows.create("raft_smal")


def test_names_cost_no_heavy_import() -> None:
    code = (
        "import sys, vsodpipe.flows as f; assert 'dis' in f.names();"
        "assert not {'torch', 'torchvision', 'cv2'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_new_engine_is_one_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stillness.py").write_text(
        "import numpy as np\n"
        "from vsodpipe.flows import pairwise\n"
        "ENGINES = ('still',)\n"
        "class Still:\n"
        "    def __init__(self, value):\n"
        "        self.value, self.fingerprint = value, {'engine': 'still', 'value': value}\n"
        "    def clip(self, frames, direction='forward', gap=1):\n"
        "        return pairwise(self.flow, frames, direction, gap, least=1)\n"
        "    def flow(self, source, target):\n"
        "        return np.full((*source.shape[:2], 2), self.value, np.float32)\n"
        "def create(name, *, value=0.0):\n"
        "    return Still(value)\n"
    )
    monkeypatch.setattr(flows, "__path__", [*flows.__path__, str(tmp_path)])
    try:
        assert "still" in flows.names() and flows.options("still") == ("value", "max_side")
        assert len(list(flows.create("still").clip(made_clip(3, 5, 7)))) == 2
        # An engine that fails must not get its numbers into a data set.
        with pytest.raises(VsodpipeError, match=r"expected finite numbers.*7x5"):
            list(flows.create("still", value=float("nan")).clip(made_clip(2, 5, 7)))
    finally:
        sys.modules.pop("vsodpipe.flows.stillness", None)


def install(folder: Path, package: str, entry: str, code: str = "") -> None:
    """Lay a distribution into `folder`, as pip would, with one entry point."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[vsodpipe.engines]\n{entry}\n")
    (folder / f"{package}.py").write_text(code)


@pytest.mark.parametrize("value", ["glacier", "glacier:create"])
def test_engine_of_another_package(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "def create(name, *, speed=1): return (name, speed)\n"
    install(tmp_path, "glacier", f"ice = {value}", code)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert "ice" in flows.names() and "glacier" not in sys.modules
        assert flows.options("ice") == ("speed", "max_side")
        assert flows.create("ice", speed=2) == ("ice", 2)  # type: ignore[comparison-overlap]
    finally:
        sys.modules.pop("glacier", None)


def test_engine_of_another_package_that_fails_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "glacier", "ice = glacier", "import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(VsodpipeError, match="ice of package glacier.*no_such_module"):
        flows.create("ice")
    (tmp_path / "glacier.py").write_text("create = 3\n# longer than before\n")
    with pytest.raises(VsodpipeError, match="ice of package glacier.*create"):
        flows.create("ice")
    sys.modules.pop("glacier", None)


def test_two_packages_with_one_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "glacier", "dis = glacier")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(VsodpipeError, match="flow engine dis.*vsodpipe and glacier"):
        flows.names()


# Smaller frames


def test_max_side_keeps_size_and_motion() -> None:
    clip = made_clip(2, 240, 361, step=(6, 4))
    engine = flows.create("dis", max_side=180)
    for flow, sign in (
        (next(iter(engine.clip(clip))), 1),
        (next(engine.clip(clip, "both"))[1], -1),
    ):
        assert flow.shape == (240, 361, 2) and flow.dtype == np.float32
        middle = np.median(flow[40:-40, 40:-40], (0, 1))
        np.testing.assert_allclose(middle, (6 * sign, 4 * sign), atol=0.4)
    assert engine.fingerprint == {**flows.create("dis").fingerprint, "max_side": 180}
    assert engine.plan(2400, 3610) == flows.create("dis").plan(120, 180)


def test_max_side_leaves_smaller_frames_alone() -> None:
    clip = made_clip(3, 60, 80)
    expected = list(flows.create("dis").clip(clip))
    np.testing.assert_array_equal(list(flows.create("dis", max_side=80).clip(clip)), expected)
    (line,) = flows.create("dis", max_side=32).clip(made_clip(2, 1, 200))
    assert line.shape == (1, 200, 2)
    with pytest.raises(DataError, match="frame 2 of the clip"):
        list(flows.create("dis", max_side=32).clip(clip[:2] + made_clip(1, 60, 81)))


def test_max_side_says_what_the_engine_says() -> None:
    engine = flows.create("dis", max_side=32)
    said: list[str] = []
    engine.say = said.append
    engine.say("hello")
    assert said == ["hello"]


@pytest.mark.parametrize("side", [0, 31, 64.0, True, "64"])
def test_other_max_side_is_refused(side: Any) -> None:
    with pytest.raises(UsageError, match="max_side.*from 32"):
        flows.create("dis", max_side=side)


# DIS


@pytest.mark.parametrize("preset", ["ultrafast", "fast", "medium"])
def test_dis_finds_a_translation(preset: str) -> None:
    (flow,) = flows.create("dis", preset=preset).clip(made_clip(2, 120, 160, step=(3, 2)))
    errors = np.linalg.norm(flow - (3, 2), axis=2)
    assert np.median(errors) < 0.2


def test_dis_does_not_depend_on_threads() -> None:
    clip = made_clip(2, 240, 320, step=(3, 2))
    threads = cv2.getNumThreads()
    found: list[flows.Flow] = []
    try:
        for count in (1, 2, 5, 1):
            cv2.setNumThreads(count)
            found += flows.create("dis").clip(clip)
    finally:
        cv2.setNumThreads(threads)
    assert all(np.array_equal(flow, found[0]) for flow in found)


def test_dis_survives_flat_frames() -> None:
    """OpenCV 5.0 reads beyond such frames: in a process of its own, which it may kill."""
    code = (
        "import numpy as np, vsodpipe.flows as f\n"
        "for preset in ('ultrafast', 'fast', 'medium'):\n"
        "    for size in ((8, 64), (31, 100), (15, 700), (700, 15)):\n"
        "        frames = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)\n"
        "        list(f.create('dis', preset=preset).clip(frames))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("size", [(32, 40), (40, 40), (44, 88), (89, 80)])
def test_dis_flow_of_a_pair_does_not_depend_on_the_pairs_before(size: tuple[int, int]) -> None:
    """It does in OpenCV 5.0, at these sizes, where one object computes all pairs."""
    clip = made_clip(4, *size)
    for preset in ("ultrafast", "fast", "medium"):
        whole = list(flows.create("dis", preset=preset).clip(clip))
        (last,) = flows.create("dis", preset=preset).clip(clip[2:])
        np.testing.assert_array_equal(whole[2], last)


def test_dis_takes_the_frames_as_rgb() -> None:
    clip = made_clip(2, 96, 96)
    (flow,) = flows.create("dis").clip(clip)
    dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
    np.testing.assert_array_equal(flow, dis.calc(*grey, None))


def test_dis_preset_decides_the_fingerprint() -> None:
    default, fast = flows.create("dis"), flows.create("dis", preset="fast")
    assert default.fingerprint == flows.create("dis", preset="medium").fingerprint
    assert default.fingerprint != fast.fingerprint
    with pytest.raises(UsageError, match="unknown dis preset 'slow'.*medium"):
        flows.create("dis", preset="slow")


# RAFT: options and weights (its flow is in test_raft.py)


def test_raft_fingerprint_tells_all_that_decides(weights: dict[str, Path], tmp_path: Path) -> None:
    state = torch.load(weights["raft_small"])
    state["feature_encoder.conv.bias"] += 1
    torch.save(state, tmp_path / "raft_small.pth")  # the same name, other numbers
    prints = [
        flows.create("raft_small", weights=weights["raft_small"]).fingerprint,
        flows.create("raft_small", weights=weights["raft_small"], updates=12).fingerprint,
        flows.create("raft_small", weights=tmp_path / "raft_small.pth").fingerprint,
        flows.create("raft_large", weights=weights["raft_large"]).fingerprint,
    ]
    assert len({json.dumps(p, sort_keys=True) for p in prints}) == 4
    assert prints[0]["updates"] == 20
    assert prints[0]["weights"] == "raft_small.pth"
    assert prints[0] == flows.create("raft_small", weights=str(weights["raft_small"])).fingerprint


@pytest.mark.parametrize("updates", [0, -1, 2.0, True, "12"])
def test_raft_refuses_other_updates(updates: Any) -> None:
    with pytest.raises(UsageError, match="raft_small updates: expected a whole number"):
        flows.create("raft_small", updates=updates)


def test_raft_weights_of_the_other_size(weights: dict[str, Path]) -> None:
    file = weights["raft_large"]
    with pytest.raises(WeightsError, match=r"missing and \d+ unexpected") as caught:
        flows.create("raft_small", weights=file)
    assert str(file) in str(caught.value) and "--engine raft_large" in str(caught.value)


def test_raft_weights_that_do_not_fit(weights: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"

    def message() -> str:
        with pytest.raises(WeightsError) as caught:
            flows.create("raft_small", weights=file)
        assert str(file) in str(caught.value)
        return str(caught.value)

    assert "No such file" in message()
    file.write_bytes(b"no weights")
    assert "expected a state dict saved by torch.save" in message()
    torch.save({"model": {}}, file)
    assert "expected a state dict of tensors only" in message()
    state = torch.load(weights["raft_small"])
    key, bias = state.popitem()
    torch.save(state, file)
    assert "1 missing and 0 unexpected" in message()
    torch.save({**state, key: bias[:1]}, file)
    assert f"expected {key} of shape (2,), got (1,)" in message()


def test_raft_refuses_code_in_weights(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save(Attack(), tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="torch.load does not read"):
        flows.create("raft_small", weights=tmp_path / "weights.pth")
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch hub's folder of checkpoints, empty, and no network."""

    def unreachable(*_: Any, **__: Any) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(raft_weights, "urlopen", unreachable)
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    return tmp_path / "hub" / "checkpoints"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("raft_large", "raft_large_C_T_SKHT_V2-ff5fadd5.pth"),
        ("raft_small", "raft_small_C_T_V2-01064c6d.pth"),
    ],
)
def test_raft_download_that_fails_names_the_ways_out(name: str, file: str, hub: Path) -> None:
    with pytest.raises(WeightsError, match="no network") as caught:
        flows.create(name)
    message = str(caught.value)
    assert f"https://download.pytorch.org/models/{file}" in message
    assert str(hub / file) in message
    assert "--weights FILE" in message and "--engine dis" in message
    assert caught.value.exit_code == 2


def test_raft_does_not_wait_for_a_silent_network(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    monkeypatch.setattr(raft_weights, "urlopen", lambda *_, **__: over.wait(30))
    monkeypatch.setattr(raft_weights, "PATIENCE", 0.05)
    with pytest.raises(WeightsError, match="no answer within 0.05 seconds"):
        flows.create("raft_small")
    assert not over.is_set()
    over.set()


def test_raft_record_is_fetched_once_and_kept(
    hub: Path,
    weights: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = flows.create("raft_small", weights=weights["raft_small"])
    digest = str(own.fingerprint["weights_sha256"])

    def download(url: str, file: str, prefix: str, progress: bool) -> None:
        assert url.endswith("raft_small_C_T_V1-ad48884c.pth") and digest.startswith(prefix)
        Path(file).write_bytes(weights["raft_small"].read_bytes())

    # Our file plays the record's: its hash becomes the record's hash.
    monkeypatch.setattr(
        raft_weights, "_hash", lambda record: digest[:8] if "V1" in record.url else "-"
    )
    with monkeypatch.context() as online:
        online.setattr(raft_weights, "urlopen", lambda *_, **__: open(weights["raft_small"], "rb"))
        online.setattr(torch.hub, "download_url_to_file", download)
        first = flows.create("raft_small", weights="C_T_V1")
    again = flows.create("raft_small", weights="C_T_V1")
    by_path = flows.create("raft_small", weights=weights["raft_small"])
    assert first.fingerprint["weights"] == "C_T_V1"
    assert first.fingerprint == again.fingerprint == by_path.fingerprint
    assert capsys.readouterr().out == ""


def test_raft_record_with_other_content_is_refused(hub: Path, weights: dict[str, Path]) -> None:
    hub.mkdir(parents=True)
    file = hub / "raft_small_C_T_V2-01064c6d.pth"
    file.write_bytes(weights["raft_small"].read_bytes())
    with pytest.raises(WeightsError, match=r"expected SHA-256 01064c6d\.\.\., got") as caught:
        flows.create("raft_small")
    assert str(file) in str(caught.value)
