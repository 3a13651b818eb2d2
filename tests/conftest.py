"""Tiny data for every test: clips, data roots, manifests. No network, no download, no GPU."""

import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from helpers import DAVIS, write_video
from vsodpipe import (
    catalogue,
    checkpoint,
    cli,
    flow_job,
    flows,
    manifest,
    models,
    pack,
    recipe,
    store,
)
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny tensors gain nothing from threads and lose much when tests share the cores."""
    torch.set_num_threads(1)


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A shell job in the background ignores Ctrl-C, and so would the commands that tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def quiet() -> Reporter:
    return Reporter(quiet=True)


@pytest.fixture
def davis() -> Path:
    """The real DAVIS sample, where this checkout has it beside it."""
    if not DAVIS.is_dir():
        pytest.skip(f"no real DAVIS frames in {DAVIS}")
    return DAVIS


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """A data root with TINY_train (two videos of 5 and 4 frames) and TINY_test (one of 5)."""
    root = tmp_path / "datasets"
    _write_tiny(root)
    return root


def _write_tiny(root: Path) -> None:
    write_video(root / "TINY_train" / "ball", 1, 5)
    write_video(root / "TINY_train" / "cube", 2, 4)
    write_video(root / "TINY_test" / "dice", 3, 5)


@pytest.fixture(scope="session")
def flow_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root after `vsodpipe flow`, made once: tests take copies."""
    root = tmp_path_factory.mktemp("once") / "datasets"
    _write_tiny(root)
    for name in ("TINY_train", "TINY_test"):
        engine = flows.create("dis", preset="ultrafast")
        options = flow_job.Options()
        flow_job.compute(catalogue.find(name, root), engine, options, Reporter(quiet=True))
    return root


@pytest.fixture
def with_flow(flow_once: Path, tmp_path: Path) -> Path:
    """The data root of `data_root` after `vsodpipe flow`."""
    return Path(shutil.copytree(flow_once, tmp_path / "datasets", dirs_exist_ok=True))


@pytest.fixture
def source(with_flow: Path, tmp_path: Path, quiet: Reporter) -> Source:
    """The manifest of that data root, read back."""
    out = tmp_path / "manifests"
    made = manifest.build([], with_flow, out, quiet)["tiny"]
    return manifest.read(manifest.write(made, out, with_flow)[0])


@pytest.fixture
def saved(source: Source, tmp_path: Path) -> checkpoint.Checkpoint:
    """The checkpoint of a small DBSNet in a run folder `run`: random weights, clips of three."""
    small = ["data.size=[32, 32]", "data.clip=3", "network.dim=8", "network.heads=2"]
    stage = recipe.override(models.stages("dbsnet")["debug"], [*small, "network.num_frames=2"])
    torch.manual_seed(0)
    network = models.load("dbsnet").build(stage.network)
    flow = {s.dataset: s.flow["fingerprint"] for s in source.manifest.datasets if s.flow}
    file = tmp_path / "run" / "checkpoints" / "last.pt"
    checkpoint.save(file, "dbsnet", stage, network, {}, {"flow": flow})
    return checkpoint.read(tmp_path / "run", "dbsnet")


@pytest.fixture
def vsodpipe(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in `tmp_path`; return exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VSODPIPE_DATA", raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vsodpipe", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


@pytest.fixture(scope="session")
def one_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the store of TINY_train: 9 frames at 32x40, in shards of 4."""
    root = tmp_path_factory.mktemp("packed")
    write_video(root / "TINY_train" / "ball", 1, 5)
    write_video(root / "TINY_train" / "cube", 2, 4)
    quiet = Reporter(quiet=True)
    split = manifest.split_of(catalogue.find("TINY_train", root), root, quiet)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SHARD_BYTES", 4 * 3 * 32 * 40)
        pack.pack(split, str(root), root / "TINY_train.zarr", (32, 40), quiet)
    return root


@pytest.fixture
def packed(one_store: Path, tmp_path: Path) -> Path:
    """A copy of that store, to be damaged."""
    return Path(shutil.copytree(one_store / "TINY_train.zarr", tmp_path / "t.zarr"))
