"""The tiny world that commands are disturbed in, and the table of the commands.

A new command is one entry of COMMANDS.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from faults.zygote import Zygote
from helpers import write_video
from raw_sets import RAW, Raw

Tree = dict[str, object]
"""Path -> bytes of a file, target of a link, None for a folder."""

FLOW = ("flow", "TINY_train", "TINY_test", "--data", "data", "--engine", "dis")
FAST = (*FLOW, "--preset", "ultrafast", "--format", "jpg", "--format", "raw")
MANIFEST = ("manifest", "--data", "data", "--out", "manifests")
PACK = ("pack", "manifests/tiny.json", "--size", "32x40", "--tier", "lossless")
TRAIN = ("train", "plainnet", "--manifest", "manifests/tiny.json", "--device", "cpu")
NEW_RUN = (*TRAIN, "--set", "validate.split=TINY_test", "--set", "ema=0.5", "--run", "runs/r")
TEST = ("test", "plainnet", "--checkpoint", "runs/r", "--manifest", "manifests/tiny.json")
TEST = (*TEST, "--device", "cpu")
PREDICT = ("predict", "downloads/film.avi", "data/TINY_test/dice/RGB", "--checkpoint", "runs/r")
PREDICT = (*PREDICT, "--out", "seen", "--device", "cpu")
EVAL = ("eval", "runs/r/maps", "--manifest", "manifests/tiny.json", "--frames", "all")
STILLS = ("manifest", "--data", "stills", "--out", "stills", "--name", "all")
SMALL = ("--set", "epochs=2", "--set", "batch=2", "--set", "data.size=[64,64]")
SMALL = (*SMALL, "--set", "data.source=files", "--stage", "debug")
SMALL = (*SMALL, "--manifest", "stills/all.json", "--device", "cpu")
CHAIN = ("train", "a2s-v2", "--task", "c", "--run", "runs/chain", *SMALL)
STAGE_1 = ("train", "a2s", "--run", "runs/a2s", "--set", 'data.datasets=["DUTS_train"]', *SMALL)
PSEUDO = ("pseudo", "--checkpoint", "runs/a2s", "--manifest", "stills/all.json", "--task", "c")
PSEUDO = (*PSEUDO, "--device", "cpu", "--out", "labels")


def _resumed(world: Path) -> tuple[str, ...]:
    return (*TRAIN, "--resume", "runs/r") if (world / "runs/r/run.json").is_file() else NEW_RUN


@dataclass(frozen=True)
class Command:
    """A command, and what has to be done before it."""

    argv: tuple[str, ...]
    after: tuple[tuple[str, ...], ...] = ()
    """Commands that make what it needs."""
    again: Callable[[Path], tuple[str, ...]] | None = None
    """The command that continues it in that world, where that is not the same one."""
    printed: bool = False
    """What it prints on stdout is a result."""


_FLOWS, _LISTED = (FAST,), (FAST, MANIFEST)
_TRAINED = (*_LISTED, NEW_RUN)
_TESTED = (*_TRAINED, TEST)
COMMANDS: dict[str, Command] = {
    "import": Command(("import", "davis", "downloads/DAVIS", "--data", "data")),
    "import-archive": Command(("import", "davis", "downloads/DAVIS.zip", "--data", "data")),
    "import-own": Command(
        ("import", "--own", "MINE_test", "downloads/film.avi", "data/TINY_test/dice/RGB")
        + ("--data", "data")
    ),
    "import-force": Command(
        ("import", "davis", "downloads/DAVIS", "--data", "data", "--force"),
        (("import", "davis", "downloads/DAVIS.zip", "--data", "data"),),
    ),
    "flow": Command(FAST),
    "flow-force": Command((*FAST, "--colour", "video", "--force"), _FLOWS),
    "manifest": Command((*MANIFEST, "--preview", "2"), _FLOWS),
    "export": Command(
        ("export", "TINY_train", "--layout", "dpa", "--out", "out", "--data", "data"), _FLOWS
    ),
    "pack": Command(PACK, _LISTED),
    "pack-force": Command((*PACK, "--flow", "both", "--force"), (*_LISTED, PACK)),
    "pack-hdf5": Command((*PACK, "--format", "hdf5"), _LISTED),
    "unpack": Command(("unpack", "data/TINY_train.zarr", "--out", "out"), (*_LISTED, PACK)),
    "train": Command(NEW_RUN, _LISTED, again=_resumed),
    "train-chain": Command(CHAIN, (STILLS,)),
    "pseudo": Command(PSEUDO, (STILLS, STAGE_1)),
    "test": Command(TEST, _TRAINED),
    "test-force": Command(
        (*TEST, "--out", "maps", "--crf", "a2s", "--force"), (*_TRAINED, (*TEST, "--out", "maps"))
    ),
    "predict": Command(PREDICT, _TRAINED),
    "predict-force": Command((*PREDICT, "--crf", "a2s", "--force"), (*_TRAINED, PREDICT)),
    "eval": Command((*EVAL, "--json"), _TESTED, printed=True),
    "report": Command(
        ("report", "runs/r", "--manifest", "manifests/tiny.json", "--frames", "all")
        + ("--out", "report.html"),
        _TESTED,
    ),
}


def build(folder: Path) -> None:
    """Write the world: a download, as folder and as archive, and a data root of three videos."""
    for video, seed, frames in (("ball", 1, 5), ("cube", 2, 4)):
        write_video(folder / "data" / "TINY_train" / video, seed, frames)
    write_video(folder / "data" / "TINY_test" / "dice", 3, 5)
    downloads = folder / "downloads"
    davis = next(raw for raw in RAW if raw.card == "davis")
    for video in ("bear", "boat"):
        paths = (path.replace("bear", video) for path in (davis.img, davis.gt))
        Raw("davis", davis.dataset, video, *paths, davis.frames).write(downloads)
    shutil.make_archive(str(downloads / "DAVIS"), "zip", downloads, "DAVIS")
    _film(downloads / "film.avi")
    for name, seed in (("DUTS_train", 4), ("ECSSD_test", 5)):
        write_video(folder / "still" / name, seed, 3)
        for kind in ("RGB", "GT"):
            (folder / "stills" / name).mkdir(parents=True, exist_ok=True)
            shutil.move(folder / "still" / name / kind, folder / "stills" / name / kind)
    shutil.rmtree(folder / "still")


def _film(file: Path) -> None:
    import cv2
    import numpy as np

    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 24))
    for level in range(4):
        writer.write(np.full((24, 32, 3), 40 * level, np.uint8))
    writer.release()


class World:
    """A folder in which a command runs again and again from the same beginning."""

    def __init__(self, base: Path) -> None:
        self.folder, self._plain = base / "world", base / "plain"
        build(self._plain)
        self._bases: dict[tuple[tuple[str, ...], ...], Path] = {(): self._plain}
        self._base = base

    def reset(self, zygote: Zygote, after: tuple[tuple[str, ...], ...] = ()) -> None:
        """Have the folder as it is after some commands, always with the same times of change."""
        known = max((k for k in self._bases if after[: len(k)] == k), key=len)
        self._copy(self._bases[known], self.folder)
        for done in range(len(known), len(after)):
            ended = zygote.run(*after[done])
            assert ended.code == 0, f"{after[done]}: {ended.err}"
            kept = self._base / f"kept{len(self._bases)}"
            self._copy(self.folder, kept)
            self._bases[after[: done + 1]] = kept

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        if target.exists():
            shutil.rmtree(target)
        shutil.copytree(source, target, symlinks=True)


def tree(folder: Path) -> Tree:
    """Return everything below a folder, hidden files too; of a run's events what is not time."""
    found: Tree = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir():
            found[name] = None
        elif path.name == "events.jsonl":
            found[name] = [_untimed(row) for row in path.read_text().splitlines()]
        elif path.name in ("provenance.json", "scores-a2s.json"):
            found[name] = re.sub(r'_sha256": "\w+"', "", path.read_text())  # of a .pt
        elif path.suffix == ".pt":  # torch's bytes depend on which strings are one object
            found[name] = _plain(_loaded(path))
        else:
            found[name] = path.read_bytes()
    return found


def _untimed(row: str) -> object:
    try:
        values = json.loads(row)
    except ValueError:  # cut off
        return row
    return [values.get(key) for key in ("stage", "epoch", "step", "loss", "lr", "proxy")]


def _loaded(path: Path) -> object:
    try:
        return torch.load(path, weights_only=True)
    except Exception as error:  # a damaged file is a difference, whatever torch says of it
        return f"damaged: {error}"


def _plain(value: object) -> object:
    """Return the content of a checkpoint, tensors as their type, shape and bytes."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def differences(found: Tree, expected: Tree) -> list[str]:
    """Return in words what is missing, left over or different."""
    said = [f"missing: {name}" for name in expected.keys() - found.keys()]
    said += [f"left over: {name}" for name in found.keys() - expected.keys()]
    both = expected.keys() & found.keys()
    return sorted(said + [f"different: {name}" for name in both if found[name] != expected[name]])
