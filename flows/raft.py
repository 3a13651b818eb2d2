"""RAFT (Teed & Deng, ECCV 2020): torchvision's network and weights.

    engine = vsodpipe.flows.create("raft_large", device="cuda", updates=20)

`weights` is the name of one of torchvision's records, or a file holding a state dict of this
network. An engine serves one thread: torchvision's network keeps the correlation between calls.
"""

import hashlib
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import torch
from torchvision.models.optical_flow import (
    RAFT,
    Raft_Large_Weights,
    Raft_Small_Weights,
    raft_large,
    raft_small,
)

from vsodpipe.errors import UsageError, WeightsError
from vsodpipe.flows import Engine, Flow, Frame, pairwise

ENGINES = ("raft_large", "raft_small")

_NETWORKS = {"raft_large": raft_large, "raft_small": raft_small}
# Named here and not by torchvision's DEFAULT, which may become another record.
_RECORDS = {
    "raft_large": Raft_Large_Weights.C_T_SKHT_V2,
    "raft_small": Raft_Small_Weights.C_T_V2,
}

# Below 16 feature pixels the last level of the correlation pyramid is a single one, which
# torchvision refuses (it would give NaN).
LEAST_SIDE = 128

PATIENCE = 10.0
"""Seconds within which a download has to begin."""


class Raft:
    """RAFT of either size, one pair at a time."""

    def __init__(self, name: str, weights: str | Path | None, device: str, updates: int) -> None:
        if isinstance(updates, bool) or not isinstance(updates, int) or updates < 1:
            raise UsageError(f"{name} updates: expected a whole number from 1, got {updates!r}.")
        file, identity, digest = _find(name, weights)
        self._network = _network(name, file).to(device)
        self._device = device
        self._updates = updates
        # Neither the device nor torch's version: they move the flow by rounding errors only.
        self.fingerprint: dict[str, object] = {
            "engine": name,
            "weights": identity,
            "weights_sha256": digest,
            "updates": updates,
        }

    def clip(self, frames: Iterable[Frame], direction: str = "forward") -> Iterator[Any]:
        """See `vsodpipe.flows.Engine.clip`."""
        return pairwise(self._flow, frames, direction, least=LEAST_SIDE, multiple=8)

    def _flow(self, source: Frame, target: Frame) -> Flow:
        with torch.inference_mode():
            pair = [self._picture(frame) for frame in (source, target)]
            flow = self._network(*pair, num_flow_updates=self._updates)[-1]
            # The volume (5.6 GB at 1080p) must be gone before the next pair's is made.
            self._network.corr_block.corr_pyramid = []
            return flow[0].permute(1, 2, 0).cpu().numpy()

    def _picture(self, frame: Frame) -> torch.Tensor:
        """Return (1, 3, H, W) in -1..1, as torchvision's and princeton's networks expect it."""
        picture = torch.from_numpy(frame).to(self._device).permute(2, 0, 1)[None]
        return picture.float() / 255 * 2 - 1


def create(
    name: str, *, weights: str | Path | None = None, device: str = "cpu", updates: int = 20
) -> Engine:
    """Return the engine; `updates` is how often the network refines its flow."""
    return Raft(name, weights, device, updates)


def _find(name: str, weights: str | Path | None) -> tuple[Path, str, str]:
    """Return the file of the `weights`, their id and their SHA-256."""
    records = type(_RECORDS[name])
    weights = _RECORDS[name].name if weights is None else str(weights)
    record = records.__members__.get(weights)
    file = Path(weights).expanduser() if record is None else _fetched(name, record)
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(
            f"{name} weights: expected a file or one of {', '.join(r.name for r in records)}, "
            f"got {weights!r} ({error.strerror})."
        ) from error
    # By content: the same weights are the same weights, wherever the file lies.
    identity = next((r.name for r in records if digest.startswith(_hash(r))), file.name)
    if record is not None and identity != record.name:
        raise WeightsError(
            f"{name} weights {record.name}: expected SHA-256 {_hash(record)}..., got "
            f"{digest[:16]}... ({file}). Remove the file to fetch it again, or, if it is what "
            f"you want, name it: --weights {file}."
        )
    return file, identity, digest


def _hash(record: Any) -> str:
    """Return the start of the SHA-256, which torchvision keeps in the file's name."""
    return Path(record.url).stem.rpartition("-")[2]


def _fetched(name: str, record: Any) -> Path:
    """Return the file of a torchvision `record`, downloaded first if it is not there."""
    # The folder and the name that torchvision uses; its own loader is not called because it
    # announces the download on stdout, which is for machines.
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(record.url).name
    if file.exists():
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _wait_for_answer(record.url)
        torch.hub.download_url_to_file(
            record.url, str(file), _hash(record), progress=sys.stderr.isatty()
        )
    except Exception as error:  # whatever it was, the way out is the same
        raise WeightsError(
            f"{name} weights {record.name}: the download failed ({error}). Fetch {record.url} "
            f"elsewhere and put it at {file}, or name a file of weights with --weights FILE, or "
            "take an engine that needs none: --engine dis."
        ) from error
    return file


def _wait_for_answer(url: str) -> None:
    """Return once `url` answers, or raise what prevents it within `PATIENCE` seconds.

    In a thread, because no timeout of urlopen covers the whole: behind a firewall that drops
    packets it waits for the name server and then for each of the host's addresses in turn.
    """
    failure: list[Exception] = [TimeoutError(f"no answer within {PATIENCE:g} seconds")]

    def ask() -> None:
        try:
            urlopen(url, timeout=PATIENCE).close()
            failure.clear()
        except Exception as error:
            failure[0] = error

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if failure:
        raise failure[0]


def _network(name: str, file: Path) -> RAFT:
    """Return the network `name` with the state dict in `file`, ready to infer."""
    network = _NETWORKS[name]()
    state = _read(name, file)
    expected = network.state_dict()
    missing, unexpected = expected.keys() - state.keys(), state.keys() - expected.keys()
    if missing or unexpected:
        (other,) = _NETWORKS.keys() - {name}
        with torch.device("meta"):
            fits = _NETWORKS[other]().state_dict().keys()
        hint = f" They are weights of {other}: --engine {other}." if fits == state.keys() else ""
        raise WeightsError(
            f"{name} weights: expected the {len(expected)} tensors of the network, got "
            f"{len(missing)} missing and {len(unexpected)} unexpected ({file}).{hint}"
        )
    for key, tensor in state.items():
        if tensor.shape != expected[key].shape:
            raise WeightsError(
                f"{name} weights: expected {key} of shape {tuple(expected[key].shape)}, got "
                f"{tuple(tensor.shape)} ({file})."
            )
    network.load_state_dict(state)
    return network.eval()


def _read(name: str, file: Path) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no error of its own for a bad file
        raise WeightsError(
            f"{name} weights: expected a state dict saved by torch.save, got something that "
            f"torch.load does not read as plain tensors ({file}: {type(error).__name__})."
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(tensor, torch.Tensor) for tensor in state.values()
    ):
        raise WeightsError(
            f"{name} weights: expected a state dict of tensors only, got {type(state).__name__} "
            f"({file}). A training checkpoint holds it under a key such as 'model'."
        )
    return state
