"""Shell completion: what a Tab offers, that it imports nothing heavy, and that bash gets it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from torchvision.models.optical_flow import Raft_Large_Weights, Raft_Small_Weights
from typer._completion_classes import BashComplete

from vsodpipe import (
    cli,
    completion,
    crf,
    flow_entries,
    flow_forms,
    flows,
    layout_table,
    loggers,
    models,
    pack_plan,
    protocols,
    store,
    tables,
)
from vsodpipe.flows import dis, raft
from vsodpipe.manifest import Source

Run = Callable[..., tuple[int, str, str]]
BINARY = Path(sys.executable).with_name("vsodpipe")


def offered(*typed: str) -> list[str]:
    """Return what is offered for the last word of `vsodpipe TYPED...`."""
    shell = BashComplete(typer.main.get_command(cli.app), {}, "vsodpipe", "_VSODPIPE_COMPLETE")
    return [item.value for item in shell.get_completions(list(typed[:-1]), typed[-1])]


def test_choices_are_those_of_the_code() -> None:
    """Words that the command line repeats, because their module is too heavy for a Tab."""
    assert offered("train", "") == [*models.names(), "a2s-v2"]
    for name in models.names():
        assert set(completion.stages_of(name)) == set(models.stages(name)), name
    for engine, records in (("raft_large", Raft_Large_Weights), ("raft_small", Raft_Small_Weights)):
        assert offered("flow", "--engine", engine, "--weights", "") == [r.name for r in records]
    assert offered("flow", "--engine", "") == list(flows.names())
    assert offered("flow", "--preset", "") == list(dis.PRESETS)
    assert offered("flow", "--precision", "") == [*raft.PRECISIONS, "auto"]
    assert offered("flow", "--format", "") == list(flow_forms.FORMS)
    assert offered("flow", "--direction", "") == list(flows.DIRECTIONS)
    assert offered("flow", "--tail", "") == list(flow_entries.Tail.__args__)
    assert offered("pack", "--tier", "") == list(store.TIERS)
    assert offered("pack", "--format", "") == list(pack_plan.Container.__args__)
    assert offered("pack", "--flow", "") == list(pack_plan.Flow.__args__)
    assert offered("eval", "--format", "") == list(tables.FORMATS)
    assert offered("eval", "--protocol", "") == list(protocols.PROTOCOLS)
    assert offered("eval", "--frames", "") == list(protocols.Frames.__args__)
    assert offered("eval", "--metric", "") == list(protocols.METRICS)
    assert offered("export", "--layout", "") == list(layout_table.LAYOUTS)
    assert offered("test", "--crf", "") == list(crf.PARAMETERS)
    assert set(offered("train", "--log", "")) == set(loggers.KINDS)


def test_data_sets_cards_and_stores(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data_root.parent)
    (data_root / "TINY_train.zarr").mkdir()
    (data_root / "cards").mkdir()
    (data_root / "cards" / "mine.toml").write_text("")
    assert offered("flow", "") == ["TINY_test", "TINY_train"]
    assert offered("flow", "TINY_test", "TINY_tr") == ["TINY_train"]
    assert offered("store", "") == ["datasets/TINY_train.zarr"]
    assert {"davis", "mine"} <= set(offered("import", ""))
    assert offered("datasets", "TINY") == ["TINY_test", "TINY_train"]
    assert offered("flow", "--data", "elsewhere", "") == [], "no such folder: no word of it"
    assert offered("datasets", "--data", "elsewhere", "davs") == ["davsod"]


def test_what_follows_from_words_before(source: Source) -> None:
    assert offered("train", "smcf", "--stage", "pre") == ["pretrain_rgb", "pretrain_flow"]
    assert offered("train", "a2s-v2", "--stage", "") == ["msra", "debug"]
    assert offered("recipe", "bogus", "--stage", "") == []
    found = offered("test", "dbsnet", "--manifest", str(source.file), "--dataset", "")
    assert found == [split["dataset"] for split in json.loads(source.file.read_text())["datasets"]]
    source.file.write_text("{")
    assert offered("test", "dbsnet", "--manifest", str(source.file), "--dataset", "") == []


@pytest.mark.parametrize(
    "typed", [("flow", ""), ("train", "a2s", "--stage", ""), ("eval", "--protocol", "")]
)
def test_nothing_heavy(typed: tuple[str, ...], data_root: Path) -> None:
    code = (
        "import sys; from vsodpipe import cli\n"
        "sys.argv[0] = 'vsodpipe'\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'cv2', 'zarr', 'dask') if m in sys.modules])"
    )
    done = _complete([sys.executable, "-c", code], typed, data_root.parent)
    *words, heavy = done.stdout.splitlines()
    assert words and heavy == "[]" and done.stderr == ""


def test_in_bash(data_root: Path, tmp_path: Path) -> None:
    """The script that is installed, and a Tab in it."""
    code = (
        "vsodpipe --install-completion || exit\n"
        "source $HOME/.bashrc\n"
        "COMP_WORDS=(vsodpipe flow TINY_te); COMP_CWORD=2; _vsodpipe_completion vsodpipe\n"
        'echo "offered: ${COMPREPLY[*]}"\n'
    )
    path = f"{BINARY.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", code],
        env={**os.environ, "PATH": path, "HOME": str(tmp_path)},
        cwd=data_root.parent,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "offered: TINY_test", done.stdout + done.stderr
    assert "bash completion installed" in done.stdout and done.stderr == ""


def _complete(
    command: list[str], typed: tuple[str, ...], folder: Path
) -> subprocess.CompletedProcess[str]:
    protocol = {
        "_VSODPIPE_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(("vsodpipe", *typed)),
        "COMP_CWORD": str(len(typed)),
    }
    environment = {**os.environ, **protocol}
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
