"""The command line as a user meets it: the tour, bad input in one line, data on stdout."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers import files_below
from vsodpipe import manifest

Run = Callable[..., tuple[int, str, str]]
TINY = ["--stage", "debug", "--set", 'data.datasets=["TINY_train"]', "--set", "data.size=[32,32]"]


def refused(result: tuple[int, str, str], *words: str) -> None:
    """Bad input: exit code 2, one line on stderr that starts with `error:`, nothing on stdout."""
    code, out, err = result
    assert code == 2 and out == ""
    lines = err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


def test_the_commands_of_the_readme(vsodpipe: Run, data_root: Path, tmp_path: Path) -> None:
    for name in ("TINY_train", "TINY_test"):
        assert vsodpipe("flow", name, "--engine", "dis")[0] == 0
    code, out, err = vsodpipe("manifest")
    assert code == 0 and out == "" and "wrote manifests/tiny.json" in err
    assert vsodpipe("pack", "TINY_train", "--size", "32")[0] == 0
    call = ("train", "dbsnet", "--manifest", "manifests/tiny.json", *TINY, "--run", "runs/a")
    code, _, err = vsodpipe(*call, "--set", "data.source=store")
    assert code == 0 and "train dbsnet debug: 4/4 steps" in err
    call = ("test", "dbsnet", "--checkpoint", "runs/a", "--manifest", "manifests/tiny.json")
    assert vsodpipe(*call)[0] == 0
    code, out, _ = vsodpipe("eval", "runs/a/maps", "--manifest", "manifests/tiny.json")
    assert code == 0 and "dice" in out and "total" in out
    code, out, _ = vsodpipe("eval", "runs/a/maps", "--manifest", "manifests/tiny.json", "--json")
    result = json.loads(out)
    (method,) = result["methods"].values()
    assert method["datasets"]["TINY_test"]["protocol"]["name"] == "davis16"
    assert json.loads((tmp_path / "runs/a/scores.json").read_text()) == result
    call = ("train", "dbsnet", "--manifest", "manifests/tiny.json", "--resume", "runs/a")
    code, _, err = vsodpipe(*call)
    assert code == 0 and "is finished" in err


def test_a_real_data_set(vsodpipe: Run, davis: Path, tmp_path: Path) -> None:
    code, out, err = vsodpipe("import", "davis", davis, "--json")
    assert code == 0
    assert json.loads(out)["DAVIS_test"] == {"videos": 2, "frames": 110}
    assert "18 of the 20 official videos are missing" in err
    for name in ("blackswan", "dog"):
        for file in sorted((tmp_path / "datasets/DAVIS_test" / name / "RGB").iterdir())[4:]:
            file.unlink()
            (tmp_path / "datasets/DAVIS_test" / name / "GT" / f"{file.stem}.png").unlink()
    code, out, _ = vsodpipe("flow", "DAVIS_test", "--engine", "dis", "--json", "-q")
    assert code == 0 and json.loads(out)["frames"] == 8
    assert vsodpipe("manifest", "DAVIS_test", "-q")[0] == 0
    (split,) = manifest.read(tmp_path / "manifests" / "davis.json").manifest.datasets
    assert [(v.name, v.size, len(v.frames)) for v in split.videos] == [
        ("blackswan", (480, 854), 4),
        ("dog", (480, 854), 4),
    ]


def test_missing_and_unknown_names(vsodpipe: Run, data_root: Path, tmp_path: Path) -> None:
    before = files_below(tmp_path)
    refused(vsodpipe("flow", "TINY_trian"), "Did you mean TINY_train?", "In datasets:")
    refused(vsodpipe("flow", "DAVIS_train"), "vsodpipe import davis")
    refused(vsodpipe("flow", "TINY_train", "--engine", "dsi"), "Did you mean dis?")
    refused(vsodpipe("flow", "TINY_train", "--engine", "dis", "--updates", "3"), "'updates'")
    refused(vsodpipe("flow", "TINY_train", "--engine", "dis", "--tail", "x"), "tail rule")
    refused(vsodpipe("flow", "TINY_train", "--engine", "dis", "--device", "cuda"), "CPU only")
    dis = ("flow", "TINY_train", "--engine", "dis")
    for option in ("--precision=bf16", "--batch=2", "--compile", "--memory=2"):
        refused(vsodpipe(*dis, option), "unknown dis option", "Known: ")
    refused(vsodpipe(*dis, "--format", "gif"), "unknown flow format 'gif'")
    refused(vsodpipe(*dis, "--direction", "up"), "unknown flow direction 'up'")
    refused(vsodpipe(*dis, "--video", "bal"), "Did you mean ball?")
    refused(vsodpipe(*dis, "--cluster", "local:0"), "expected local:N")
    refused(vsodpipe(*dis, "--preview", "a.png", "--format", "flo"), "--preview needs flow")
    refused(vsodpipe("flow", "none/*.mp4", "--engine", "dis"), "no video or folder matches")
    refused(vsodpipe("train", "dbsnt", "--manifest", "m.json"), "Did you mean dbsnet?")
    refused(vsodpipe("train", "dbsnet", "--manifest", "m.json"), "m.json: cannot be read")
    refused(vsodpipe("import", "davis", tmp_path / "none"), "not the official DAVIS folder")
    refused(vsodpipe("pack", "TINY_train", "--size", "big", "-q"), "expected N, HEIGHTxWIDTH")
    assert files_below(tmp_path) == before, "nothing was written"


def test_flow_options(vsodpipe: Run, data_root: Path, tmp_path: Path) -> None:
    before = files_below(tmp_path)
    call = ("flow", "TINY_train", "TINY_test", "--engine", "dis", "--format", "jpg")
    call = (*call, "--format", "flo", "--direction", "both")
    code, out, err = vsodpipe(*call, "--dry-run", "--json")
    assert code == 0 and json.loads(out)["written"]["flo backward"]["files"] == 14
    assert "3 videos, 14 frames: 14 to compute" in err and "measured on one pair" in err
    assert files_below(tmp_path) == before, "a dry run writes nothing"
    only = ("--video", "ball", "--video", "dice", "--max-side", "40", "--out", "o")
    code, out, err = vsodpipe(*call, *only, "--json", "--preview", "look.png")
    assert code == 0, err
    assert json.loads(out)["videos"] == 2 and (tmp_path / "look.png").is_file()
    assert {p.name for p in (tmp_path / "o").iterdir()} == {
        f"FLOW{way}{form}" for way in ("", "_BACKWARD") for form in ("", "_FLO")
    }
    assert {p.name for p in (tmp_path / "o/FLOW").iterdir()} == {"ball", "dice"}
    code, _, err = vsodpipe(*call, *only)
    assert code == 0 and "10 frames of 2 videos, 2 videos were done before" in err


def test_no_weights_and_no_network(
    vsodpipe: Run, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vsodpipe.flows import raft_weights

    def fail(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(raft_weights, "_wait_for_answer", fail)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    result = vsodpipe("flow", "TINY_train")
    refused(result, "raft_large_C_T_SKHT_V2-ff5fadd5.pth", "--weights FILE", "--engine dis")
    assert str(tmp_path / "torch") in result[2]
    assert not (data_root / "TINY_train/ball/FLOW").exists()


def test_empty_folders_and_single_frames(vsodpipe: Run, data_root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(vsodpipe("flow", "empty", "--engine", "dis"), "no frames found")
    (tmp_path / "one").mkdir()
    frame = data_root / "TINY_train/ball/RGB/00000.jpg"
    (tmp_path / "one/00000.jpg").write_bytes(frame.read_bytes())
    refused(vsodpipe("flow", "one", "--engine", "dis", "-q"), "expected at least 2 frames")
    assert not (tmp_path / "one_FLOW").exists()


def test_checkpoints_and_manifests_from_elsewhere(
    vsodpipe: Run, source: manifest.Source, tmp_path: Path
) -> None:
    torch.save({"conv.weight": torch.ones(1)}, tmp_path / "other.pt")
    call = ("test", "dbsnet", "--manifest", source.file, "--out", "maps", "--checkpoint")
    refused(vsodpipe(*call, "other.pt"), "other.pt: a bare state dict")
    refused(vsodpipe(*call, "none.pt"), "no such checkpoint")
    text = source.file.read_text().replace("TINY_test/dice/RGB/00001.jpg", "../../secret.jpg")
    source.file.write_text(text)
    refused(vsodpipe("train", "dbsnet", "--manifest", source.file), "leaves the manifest's root")
    assert not (tmp_path / "maps").exists() and not (tmp_path / "runs").exists()


def test_train_options(vsodpipe: Run, source: manifest.Source, tmp_path: Path) -> None:
    call = ("train", "dbsnet", "--manifest", source.file)
    refused(vsodpipe(*call, "--set", "optim.lrr=1"), "Did you mean optim.lr?")
    refused(vsodpipe(*call, "--set", "epochs=many"), "expected int, got 'many'")
    refused(vsodpipe(*call, "--stage", "debgu"), "Did you mean debug?")
    refused(vsodpipe(*call, "--resume", "x", "--set", "epochs=2"), "leave out its other options")
    refused(vsodpipe(*call, "--device", "gpu"), "unknown device 'gpu'")
    refused(vsodpipe(*call, "--device", "cuda:77"), "CUDA devices")
    refused(vsodpipe(*call), "needs one of YouTubeVOS_train, DAVIS_train, FBMS_train")
    refused(vsodpipe("eval", "maps", "--manifest", source.file), "no such folder of maps")
    assert not (tmp_path / "runs").exists()


def test_unexpected_errors_are_one_line_too(
    vsodpipe: Run, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vsodpipe import catalogue

    def broken(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(catalogue, "find", broken)
    code, _, err = vsodpipe("flow", "TINY_train", "--engine", "dis")
    assert code == 1 and len(err.splitlines()) == 1 and "RuntimeError: boom" in err


def test_ctrl_c_says_how_to_continue(
    vsodpipe: Run, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vsodpipe import flow_job

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(flow_job, "compute", interrupted)
    code, _, err = vsodpipe("flow", "TINY_train", "--engine", "dis")
    assert code == 130 and "Run the same command again" in err


def test_places_that_cannot_be_written(
    vsodpipe: Run, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vsodpipe import catalogue

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/somewhere")

    monkeypatch.setattr(catalogue, "find", refuse)
    refused(vsodpipe("flow", "TINY_train", "--engine", "dis"), "/somewhere: Permission denied")


def test_interrupts_say_how_to_continue(
    vsodpipe: Run, source: manifest.Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vsodpipe import train

    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "_step", interrupted)
    code, _, err = vsodpipe("train", "dbsnet", "--manifest", source.file, *TINY, "--run", "r")
    assert code == 130
    assert f"vsodpipe train dbsnet --manifest {source.file} --resume r" in err.splitlines()[-1]


def test_demo(vsodpipe: Run, tmp_path: Path) -> None:
    code, out, err = vsodpipe("demo", "--out", "tour", "--json")
    assert code == 0, err
    result = json.loads(out)
    scores = result["scores"]
    ours = scores.pop("dbsnet (debug)")
    assert set(scores) == {"all foreground", "centre blob", "flow magnitude"}
    assert ours["j_mean"] > 0.5
    for row in scores.values():
        assert ours["jf"] > 1.5 * row["jf"] and ours["j_mean"] > 3 * row["j_mean"]
        assert ours["mae"] < 0.5 * row["mae"]
    assert result["end_point_error"] < 0.5 < result["motion"]
    assert all((tmp_path / path).exists() for path in result["written"].values())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("x")
    refused(vsodpipe("demo", "--out", "mine"), "holds no demo")
    assert (tmp_path / "mine/file").exists()
