"""`vsodpipe weights FILE`: which network a file belongs to, and what keeps it from loading."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import optical_flow

from vsodpipe import checkpoint, models, weights
from vsodpipe.errors import WeightsError

Run = Callable[..., tuple[int, str, str]]


def small() -> dict[str, torch.Tensor]:
    return optical_flow.raft_small(weights=None).state_dict()


def princeton(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return raft_small's `state` as princeton's DataParallel saved it, as far as names go."""
    renamed = {}
    for key, tensor in state.items():
        for ours, theirs in (
            ("feature_encoder.", "fnet."),
            ("context_encoder.", "cnet."),
            ("convnormrelu.0.", "conv1."),
            ("motion_encoder.convcorr1.0.", "encoder.convc1."),
            ("motion_encoder.convflow1.0.", "encoder.convf1."),
            ("motion_encoder.convflow2.0.", "encoder.convf2."),
            ("motion_encoder.conv.0.", "encoder.conv."),
            ("recurrent_block.convgru1.", "gru."),
            ("convnormrelu1.0.", "conv1."),
            ("convnormrelu2.0.", "conv2."),
            ("convnormrelu3.0.", "conv3."),
        ):
            key = key.replace(ours, theirs)
        if key in ("fnet.conv.weight", "fnet.conv.bias", "cnet.conv.weight", "cnet.conv.bias"):
            key = key.replace("conv.", "conv2.")
        renamed[f"module.{key}"] = tensor
    return renamed


@pytest.mark.parametrize("keys", ["torchvision", "princeton"])
def test_a_flow_network_is_told_by_its_tensors(tmp_path: Path, keys: str) -> None:
    state = small()
    torch.save(princeton(state) if keys == "princeton" else state, tmp_path / "x.pth")
    report = weights.examine(tmp_path / "x.pth")
    assert (report.kind, report.network, report.loads) == ("flow", "raft_small", True)
    assert report.origin == f"{keys}'s keys"
    assert report.parameters == 990_162  # of the paper's small network, 1.0 M


def test_what_keeps_a_file_from_loading_is_listed(tmp_path: Path) -> None:
    state = small()
    key = "update_block.flow_head.conv2.weight"
    state[key] = torch.zeros(2, 5, 3, 3)
    del state["update_block.flow_head.conv2.bias"]
    state["classifier.weight"] = torch.zeros(3)
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    report = weights.examine(tmp_path / "x.pth")
    assert report.network == "raft_small" and not report.loads
    missing, unexpected, shape = report.problems
    assert missing == "1 tensors missing: update_block.flow_head.conv2.bias"
    assert unexpected == "1 tensors unexpected: classifier.weight"
    assert f"{key}: expected (2, 128, 3, 3), got (2, 5, 3, 3)" in shape


def test_a_checkpoint_of_our_own_training(tmp_path: Path) -> None:
    stage = models.stages("dbsnet")["debug"]
    network = models.load("dbsnet").build(stage.network)
    file = tmp_path / "last.pt"
    checkpoint.save(file, "dbsnet", stage, network, {}, {"manifest": "abc"})
    report = weights.examine(file)
    assert (report.kind, report.network, report.problems) == ("checkpoint", "dbsnet", ())
    assert report.origin == "vsodpipe train, stage debug"
    assert report.details["provenance"]["manifest"] == "abc"
    content: dict[str, Any] = torch.load(file, weights_only=True)
    content["state_dict"].popitem()
    torch.save(content, file)
    (problem,) = weights.examine(file).problems
    assert "1 tensors missing" in problem


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return (tmp_path.joinpath("was-run").touch, ())

    torch.save(Code(), tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name in ("code", "list", "text", "none"):
        with pytest.raises(WeightsError, match=f"{name}.pth: "):
            weights.examine(tmp_path / f"{name}.pth")
    assert not (tmp_path / "was-run").exists()


def test_the_command(vsodpipe: Run, tmp_path: Path) -> None:
    torch.save(small(), tmp_path / "x.pth")
    code, out, _ = vsodpipe("weights", tmp_path / "x.pth")
    assert code == 0 and "raft_small" in out and "--engine raft_small --weights" in out
    torch.save({"other.weight": torch.zeros(3)}, tmp_path / "y.pth")
    code, out, _ = vsodpipe("weights", tmp_path / "y.pth", "--json")
    assert code == 2 and json.loads(out)["loads"] is False
    code, out, err = vsodpipe("weights", tmp_path / "none.pth")
    assert code == 2 and out == "" and "no such checkpoint" in err
