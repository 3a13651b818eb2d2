"""Published networks with made weights, the same on every machine, and what they must answer.

The rule fills every tensor of a published state dict from a generator seeded with the CRC-32 of
its key. The numbers in tests/parity were computed with such weights by the authors' own code.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vsodpipe import checkpoint, models

PARITY = Path(__file__).parent / "parity"


def fill(shapes: Mapping[str, tuple[int, ...]], gain: float = 1.0) -> dict[str, Tensor]:
    """Return tensors for `shapes` (published key -> shape) that keep activations in range.

    Weights are normal with deviation gain / sqrt(fan_in), batch norm stays near the identity.
    """
    out = {}
    for key, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(key.encode()))
        leaf = key.rsplit(".", 1)[-1]
        if leaf == "num_batches_tracked":
            out[key] = torch.zeros(shape, dtype=torch.int64)
            continue
        noise = rng.standard_normal(shape).astype(np.float32)
        if leaf == "running_var":
            value = 1.0 + 0.1 * np.abs(noise)
        elif leaf == "running_mean":
            value = 0.1 * noise
        elif leaf == "weight" and len(shape) == 1:
            value = 1.0 + 0.1 * noise
        elif len(shape) <= 1:
            value = 0.1 * noise
        else:
            value = gain * noise / np.sqrt(int(np.prod(shape[1:])))
        out[key] = torch.from_numpy(np.asarray(value, dtype=np.float32))
    return out


def inputs(seed: int, *shape: int) -> Tensor:
    """Return a float32 standard-normal tensor of `shape`."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def shapes(name: str, **options: Any) -> dict[str, tuple[int, ...]]:
    """Return published key -> shape of network `name`."""
    names = checkpoint.published_names(name, **options)
    assert names is not None
    return {key: shape for key, (_, shape) in names.items()}


def digest(name: str) -> str:
    """Return the SHA-256 of the whole key table, to compare with that of the published file."""
    table = {key: list(shape) for key, shape in shapes(name).items()}
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def answers(name: str) -> dict[str, NDArray[Any]]:
    """Return the published numbers of network `name`; maps are every 8th row and column."""
    with np.load(PARITY / f"{name}.npz") as held:
        return dict(held)


def gap(maps: Tensor, expected: NDArray[Any]) -> float:
    """Return the largest absolute difference at every 8th row and column."""
    return float(np.abs(maps.detach()[..., ::8, ::8].numpy() - expected).max())


def gradient_gaps(network: nn.Module, expected: dict[str, NDArray[Any]]) -> dict[str, float]:
    """Return published parameter name -> relative difference of the norm of its gradient."""
    name = type(network).__module__.rpartition(".")[2]
    table, own = checkpoint.published_names(name), dict(network.named_parameters())
    assert table is not None
    gaps = {}
    for key, norm in zip(expected["grad_names"].tolist(), expected["grad_norms"], strict=True):
        gradient = own[table[key][0]].grad
        assert gradient is not None, key
        gaps[key] = abs(float(gradient.norm() / norm) - 1)
    return gaps


def parameters(network: nn.Module, prefix: str = "") -> int:
    """Return the number of parameters of the modules whose name begins with `prefix`."""
    return sum(p.numel() for key, p in network.named_parameters() if key.startswith(prefix))


def small(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return the network of the debug stage, and its weights under the published keys."""
    network = models.load(name).build(models.stages(name)["debug"].network)
    keys = models.published_keys(name, network.state_dict())
    assert keys is not None
    return network, {keys[key]: tensor for key, tensor in network.state_dict().items()}
