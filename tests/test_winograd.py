"""Convolutions by Winograd's filtering equal the direct ones, at any size and in any blocks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from test_raft import made_clip, network
from vsodpipe import flows
from vsodpipe.flows import winograd

needs_nnpack = pytest.mark.skipif(not winograd.available(), reason="this torch has no NNPACK")


@needs_nnpack
@pytest.mark.parametrize("kernel", [(1, 5), (5, 1), (3, 3), (1, 1), (7, 7)])
@pytest.mark.parametrize("size", [(1, 1), (4, 9), (17, 13)])
@pytest.mark.parametrize("block", [1, 500, 2**20])
def test_equal_to_the_direct_convolution(
    kernel: tuple[int, int], size: tuple[int, int], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "_SQUARE_BLOCK", block)
    monkeypatch.setattr(winograd, "_LINE_BLOCK", block)
    torch.manual_seed(0)
    padding = (kernel[0] // 2, kernel[1] // 2)
    weight = torch.randn(20, 8, *kernel) / (8 * kernel[0] * kernel[1]) ** 0.5
    bias, x = torch.randn(20), torch.randn(2, 8, *size)
    found = winograd.convolution(weight, bias, padding)(x)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=padding)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-4)
    bare = winograd.convolution(weight, None, padding)(x[:1])
    torch.testing.assert_close(bare[0] + bias.view(-1, 1, 1), found[0], rtol=0, atol=2e-4)


@needs_nnpack
def test_only_square_and_point_convolutions_of_stride_1_are_replaced() -> None:
    kinds = [
        nn.Conv2d(4, 16, 3, padding=1),
        nn.Conv2d(4, 5, 1),
        nn.Conv2d(4, 5, 1, bias=False),
        nn.Conv2d(4, 5, 1, stride=2),
        nn.Conv2d(4, 5, 1, padding=1),
        nn.Conv2d(4, 16, 3, padding=1, stride=2),
        nn.Conv2d(4, 16, 3),
        nn.Conv2d(4, 16, 3, padding=2, dilation=2),
        nn.Conv2d(4, 16, 3, padding=1, groups=2),
        nn.Conv2d(4, 2, 3, padding=1),
        nn.Conv2d(4, 16, 5, padding=2),
    ]
    layers = nn.ModuleList(kinds).requires_grad_(False)
    x = torch.randn(2, 4, 9, 11)
    before = [kind(x) for kind in kinds]
    winograd.quicken(layers)
    assert [isinstance(module, nn.Conv2d) for module in layers] == [False] * 3 + [True] * 8
    for layout in (torch.contiguous_format, torch.channels_last):
        for module, expected in zip(layers, before, strict=True):
            found = module(x.contiguous(memory_format=layout))
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", ["raft_large", "raft_small"])
def test_an_engine_without_nnpack_gives_the_same_flow(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, frames = network(name).state_dict(), made_clip(1, 3, 129, 134)
    fast = flows.create(name, weights=weights, updates=3)
    monkeypatch.setattr(winograd, "available", lambda: False)
    plain = flows.create(name, weights=weights, updates=3)
    for one, other in zip(fast.clip(frames, "both"), plain.clip(frames, "both"), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-3)
