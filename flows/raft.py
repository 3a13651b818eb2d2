"""RAFT (Teed & Deng, ECCV 2020): torchvision's network and weights, or the published ones.

    engine = vsodpipe.flows.create("raft_large", device="cuda", updates=20)

`weights` is the name of one of torchvision's records, or a file holding a state dict with
torchvision's keys or princeton's (`raft-things.pth`), or such a state dict. The numbers are those
of torchvision's network, called pair by pair, up to rounding; see `raft_stream` for the speed.
"""

import hashlib
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
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

from vsodpipe.errors import UsageError, WeightsError, unknown
from vsodpipe.flows import Engine, Flow, Frame, check_direction, checked, cropped, padded
from vsodpipe.flows.princeton import translated
from vsodpipe.flows.raft_stream import SCALE, Encoded, StreamingRaft, Volume

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


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Weights = str | Path | Mapping[str, torch.Tensor]


class Raft:
    """RAFT of either size over whole clips: every frame is encoded once."""

    def __init__(
        self,
        name: str,
        weights: Weights | None,
        device: str,
        updates: int,
        batch: int,
        precision: str,
    ) -> None:
        _check_count(name, "updates", updates)
        _check_count(name, "batch", batch)
        precision = _precision(precision, device)
        state, source, identity, digest = _find(name, weights)
        network = _network(name, state, source).to(device)
        self._network = StreamingRaft(network, PRECISIONS[precision])
        self._device = device
        self._updates = updates
        self._batch = batch
        # Neither the device, torch's version nor the batch: they move the flow by rounding only.
        self.fingerprint: dict[str, object] = {
            "engine": name,
            "weights": identity,
            "weights_sha256": digest,
            "updates": updates,
        }
        if precision != "fp32":
            self.fingerprint["precision"] = precision

    def clip(self, frames: Iterable[Frame], direction: str = "forward") -> Iterator[Any]:
        """See `vsodpipe.flows.Engine.clip`. Reads `batch` frames ahead of the flow it yields."""
        check_direction(direction)
        return self._clip(frames, direction)

    def _clip(self, frames: Iterable[Frame], direction: str) -> Iterator[Any]:
        volume: Volume | None = None
        before: Encoded | None = None
        pairs: list[tuple[Encoded, Encoded]] = []
        window = (slice(0), slice(0))
        for frame in checked(frames):
            picture, window = padded(frame, LEAST_SIDE, SCALE)
            after = self._encode(picture)
            if before is not None:
                pairs.append((before, after))
            before = after
            if len(pairs) == self._batch:
                volume = volume or self._network.volume(self._batch, after)
                yield from self._flows(pairs, volume, direction, window)
                pairs = []
        if pairs:
            volume = volume or self._network.volume(len(pairs), pairs[0][0])
            yield from self._flows(pairs, volume, direction, window)

    # Not on the generators: between two flows, their caller would be in inference mode too.
    @torch.inference_mode()
    def _encode(self, picture: Frame) -> Encoded:
        tensor = torch.from_numpy(picture).to(self._device).permute(2, 0, 1)[None]
        # To -1..1, as torchvision's and princeton's networks expect it.
        return self._network.encode(tensor.float() / 255 * 2 - 1)

    @torch.inference_mode()
    def _flows(
        self,
        pairs: list[tuple[Encoded, Encoded]],
        volume: Volume,
        direction: str,
        window: tuple[slice, slice],
    ) -> list[Any]:
        """Return what `clip` yields for `pairs`."""
        found: list[list[Flow]] = []
        if direction == "backward":
            pairs = [(after, before) for before, after in pairs]
        volume.fill(pairs)
        for way in range(2 if direction == "both" else 1):
            if way == 1:
                volume.turn(pairs)
            sources = [pair[way] for pair in pairs]
            flows = self._network.flow(sources, volume, self._updates)
            arrays = flows.permute(0, 2, 3, 1).cpu().numpy()
            found.append([cropped(flow, window) for flow in arrays])
        return list(zip(*found, strict=True)) if direction == "both" else found[0]


def create(
    name: str,
    *,
    weights: Weights | None = None,
    device: str = "cpu",
    updates: int = 20,
    batch: int = 1,
    precision: str = "fp32",
) -> Engine:
    """Return the engine.

    `updates` is how often the network refines its flow, `batch` how many pairs it works on at
    once (a GPU's matter: on a CPU it gains nothing). `precision` is that of the convolutions:
    `fp32`, `bf16`, `fp16`, or `auto` for the best that the `device` computes fast.
    """
    return Raft(name, weights, device, updates, batch, precision)


def _check_count(name: str, option: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} {option}: expected a whole number from 1, got {value!r}.")


def _precision(precision: str, device: str) -> str:
    """Return `precision`, `auto` resolved for the `device`."""
    if precision == "auto":
        if torch.device(device).type != "cuda":
            return "fp32"  # without matrix units bf16 is four times as slow
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if precision not in PRECISIONS:
        raise unknown("raft precision", str(precision), [*PRECISIONS, "auto"])
    return precision


def _find(name: str, weights: Weights | None) -> tuple[dict[str, torch.Tensor], str, str, str]:
    """Return the state dict that `weights` mean, where it is from, its id and its SHA-256."""
    if isinstance(weights, Mapping):
        state = _state(name, weights, "a state dict")
        return state, "a state dict", "state dict", _digest(state)
    file, identity, digest = _file(name, weights)
    return _read(name, file), str(file), identity, digest


def _digest(state: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for key, tensor in sorted(state.items()):
        array = tensor.detach().cpu().float().contiguous().numpy()
        digest.update(f"{key} {array.shape};".encode() + array.tobytes())
    return digest.hexdigest()


def _file(name: str, weights: str | Path | None) -> tuple[Path, str, str]:
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


def _network(name: str, state: dict[str, torch.Tensor], source: str) -> RAFT:
    """Return the network `name` with the `state` dict from `source`, ready to infer."""
    network = _NETWORKS[name]()
    expected = network.state_dict()
    missing, unexpected = expected.keys() - state.keys(), state.keys() - expected.keys()
    if missing or unexpected:
        (other,) = _NETWORKS.keys() - {name}
        with torch.device("meta"):
            fits = _NETWORKS[other]().state_dict().keys()
        hint = f" They are weights of {other}: --engine {other}." if fits == state.keys() else ""
        examples = "; ".join(
            f"{kind}: {min(keys)}"
            for kind, keys in (("missing", missing), ("unexpected", unexpected))
            if keys
        )
        raise WeightsError(
            f"{name} weights: expected the {len(expected)} tensors of the network, under the keys "
            f"of torchvision or of princeton's RAFT, got {len(missing)} missing and "
            f"{len(unexpected)} unexpected ({examples}; {source}).{hint}"
        )
    for key, tensor in state.items():
        if tensor.shape != expected[key].shape:
            raise WeightsError(
                f"{name} weights: expected {key} of shape {tuple(expected[key].shape)}, got "
                f"{tuple(tensor.shape)} ({source})."
            )
    network.load_state_dict(state)
    return network.eval()


def _read(name: str, file: Path) -> dict[str, torch.Tensor]:
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no error of its own for a bad file
        raise WeightsError(
            f"{name} weights: expected a state dict saved by torch.save, got something that "
            f"torch.load does not read as plain tensors ({file}: {type(error).__name__})."
        ) from error
    return _state(name, saved, str(file))


def _state(name: str, saved: object, source: str) -> dict[str, torch.Tensor]:
    """Return the state dict in what was `saved`, under torchvision's keys as far as known."""
    if isinstance(saved, Mapping) and isinstance(saved.get("state_dict"), Mapping):
        saved = saved["state_dict"]
    if not isinstance(saved, Mapping) or not all(
        isinstance(tensor, torch.Tensor) for tensor in saved.values()
    ):
        raise WeightsError(
            f"{name} weights: expected a state dict of tensors only, got {type(saved).__name__} "
            f"({source}). A training checkpoint holds it under a key such as 'model'."
        )
    # DataParallel, in which princeton's were saved, puts its own name before every key.
    state = {str(key).removeprefix("module."): tensor for key, tensor in saved.items()}
    return translated(state) or state
