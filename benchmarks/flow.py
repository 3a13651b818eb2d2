"""RAFT's engine against torchvision's plain loop, `model(frame[t], frame[t + 1])[-1]`.

    python benchmarks/flow.py [--engine raft_large] [--updates 12] [--size 480x856] [--frames 6]

Same random weights, same clip, same updates; equal output (1e-3 px + 1e-5 of the largest flow) is
checked first. The variants then take turns in random order. Ratios to `plain` per flow: a clip of
N frames is N-1 flows, forward and backward together twice as many. More than 1 is faster.
"""

import argparse
import os
import platform
import shlex
import sys

import numpy as np
import torch
import torchvision
from torchvision.models import optical_flow

from timing import timed
from vsodpipe import flows

Flows = np.ndarray
"""(flows, H, W, 2) in pixels, float32."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", choices=("raft_large", "raft_small"), default="raft_large")
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--size", default="480x856", help="HEIGHTxWIDTH; both divide by 8")
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5, help="after one that does not count")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--batch", type=int, help="pairs in flight (default: the engine's)")
    return parser.parse_args()


def made_clip(count: int, height: int, width: int) -> list[np.ndarray]:
    """Return frames of a smooth texture that moves by (3, 2) pixels each, with noise."""
    rng = np.random.default_rng(0)
    cells = rng.uniform(0, 255, (height // 8 + count, width // 8 + count, 3))
    blocks = np.kron(cells, np.ones((8, 8, 1)))
    texture = sum(np.roll(blocks, (y, x), (0, 1)) for y in range(6) for x in range(6)) / 36
    moved = (texture[2 * t : 2 * t + height, 3 * t : 3 * t + width] for t in range(count))
    noisy = (frame + rng.normal(0, 2, frame.shape) for frame in moved)
    return [np.clip(frame, 0, 255).astype(np.uint8) for frame in noisy]


def untrained(name: str) -> optical_flow.RAFT:
    """Return a network with random weights, its flow a few pixels as that of a trained one."""
    torch.manual_seed(0)
    network = getattr(optical_flow, name)(weights=None).eval()
    with torch.no_grad():
        network.update_block.flow_head.conv2.weight *= 0.1
    return network


@torch.inference_mode()
def plain(network: optical_flow.RAFT, clip: list[np.ndarray], updates: int) -> Flows:
    """Return the forward flow of `clip` as torchvision's documentation computes it."""
    found = []
    for pair in zip(clip[:-1], clip[1:], strict=True):
        pictures = [torch.from_numpy(frame).permute(2, 0, 1)[None] for frame in pair]
        pictures = [picture.float() / 255 * 2 - 1 for picture in pictures]
        flow = network(*pictures, num_flow_updates=updates)[-1]
        found.append(flow[0].permute(1, 2, 0).numpy())
    return np.stack(found)


def check(found: Flows, expected: Flows) -> None:
    largest, difference = np.abs(expected).max(), np.abs(found - expected).max()
    print(f"largest flow {largest:.3g} px, largest difference {difference:.2g} px")
    if difference > 1e-3 + 1e-5 * largest:
        sys.exit("the engine's flow is not torchvision's: nothing to compare")


def main() -> None:
    chosen = arguments()
    torch.set_num_threads(chosen.threads)
    height, width = (int(side) for side in chosen.size.split("x"))
    if height % 8 or width % 8 or min(height, width) < 128 or chosen.frames < 2:
        sys.exit("expected sides from 128 px that divide by 8 (the plain loop takes no others)")
    print(f"$ {shlex.join(sys.argv)}")
    print(
        f"{platform.processor() or platform.machine()}, {chosen.threads} threads, "
        f"load {os.getloadavg()[0]:.1f}, python {platform.python_version()}, "
        f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    )
    network = untrained(chosen.engine)
    clip = made_clip(chosen.frames, height, width)
    engine = flows.create(
        chosen.engine,
        weights=network.state_dict(),
        updates=chosen.updates,
        batch=chosen.batch,
    )
    check(np.stack(list(engine.clip(clip))), plain(network, clip, chosen.updates))
    medians = timed(
        {
            "plain": lambda: plain(network, clip, chosen.updates),
            "engine": lambda: list(engine.clip(clip)),
            "engine, forward and backward": lambda: list(engine.clip(clip, "both")),
        },
        chosen.rounds,
    )
    for name, seconds in medians.items():
        count = (chosen.frames - 1) * (2 if name.endswith("backward") else 1)
        ratio = medians["plain"] / (chosen.frames - 1) / (seconds / count)
        print(f"{name:30}{seconds / count:8.3f} s a flow   x {ratio:.2f}")


if __name__ == "__main__":
    main()
