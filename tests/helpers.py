"""Plain helpers of the tests."""

from pathlib import Path

import numpy as np

from vsodpipe import media, synth

DAVIS = Path(__file__).resolve().parents[2] / "shared" / "data" / "davis"


def write_video(folder: Path, seed: int, frames: int, size: tuple[int, int] = (48, 64)) -> None:
    """Write a made clip as `folder`/RGB and `folder`/GT."""
    clip = synth.make_clip(seed, frames, size=size)
    for t in range(frames):
        media.write_bytes(folder / "RGB" / f"{t:05d}.jpg", media.encode_jpeg(clip.img[t]))
        mask = clip.gt[t].astype(np.uint8) * 255
        media.write_bytes(folder / "GT" / f"{t:05d}.png", media.encode_png(mask))


def files_below(folder: Path) -> set[str]:
    """Return every file and folder below `folder`, hidden ones too."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
