"""Files of published weights: told apart, loaded whole or not at all, written back."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fill import shapes, small
from vsodpipe import checkpoint, models, weights
from vsodpipe.errors import WeightsError
from vsodpipe.manifest import Source

Run = Callable[..., tuple[int, str, str]]
PUBLISHED = [name for name in models.names() if checkpoint.published_names(name) is not None]


def hollow(name: str) -> dict[str, Tensor]:
    """Return a state dict of the published shapes that takes no room: one number, seen often."""
    return {key: torch.zeros(()).expand(shape) for key, shape in shapes(name).items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file_is_recognised(name: str, tmp_path: Path) -> None:
    state = hollow(name)
    for number, content in enumerate(
        (
            state,
            {f"module.{key}": value for key, value in state.items()},
            {"epoch": 3, "model": state},
        )
    ):
        torch.save(content, tmp_path / f"{number}.pth")
        report = weights.examine(tmp_path / f"{number}.pth")
        assert (report.kind, report.network, report.problems) == ("published", name, ())
        assert report.parameters == sum(math.prod(shape) for shape in shapes(name).values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_saved_and_loaded_it_is_the_same_network(name: str, tmp_path: Path) -> None:
    network, published = small(name)
    checkpoint.save_published(network, tmp_path / "x.pth")
    held = torch.load(tmp_path / "x.pth", weights_only=True)
    if under := getattr(models.load(name), "PUBLISHED_UNDER", None):
        held = held[under]
    assert held.keys() == published.keys()
    assert all(torch.equal(held[key], value) for key, value in published.items())
    options = {"width": 8}
    again, report = checkpoint.load_published(name, tmp_path / "x.pth", **options)
    assert report.tensors == len(held) and not again.training
    for (key, a), b in zip(network.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b) and a.requires_grad == b.requires_grad, key


def test_halved_weights_and_missing_counters_load() -> None:
    network, published = small("ianet")
    state = {
        key: value.half() if value.is_floating_point() else value
        for key, value in published.items()
        if not key.endswith("num_batches_tracked")
    }
    again, _ = checkpoint.load_published("ianet", state, width=8)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    weight = next(network.parameters())
    assert torch.equal(next(again.parameters()), weight.half().float())
    state["ImageBone.backbone_features.conv1.weight"][:] = 0
    assert next(again.parameters()).any(), "the caller's tensors are copied"


def test_what_keeps_a_file_from_loading_is_listed(vsodpipe: Run, tmp_path: Path) -> None:
    state = hollow("ianet")
    del state["GWG.FC.0.bias"]
    state["classifier.weight"] = torch.zeros(3)
    state["pred_head1.weight"] = torch.zeros(2, 64, 1, 1)
    torch.save(state, tmp_path / "x.pth")
    code, out, _ = vsodpipe("weights", tmp_path / "x.pth", "--json")
    report = json.loads(out)
    assert code == 2 and report["network"] == "ianet" and not report["loads"]
    assert report["problems"] == [
        "1 tensors missing: GWG.FC.0.bias",
        "1 tensors unexpected: classifier.weight",
        "1 tensors of another shape: pred_head1.weight: expected (1, 64, 1, 1), got (2, 64, 1, 1)",
    ]
    with pytest.raises(WeightsError, match="does not fit ianet as published: 1 tensors missing"):
        checkpoint.load_published("ianet", tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["ianet", "smcf"])
def test_a_narrower_network_is_recognised_by_its_names(name: str) -> None:
    narrow = models.create(name, width=1, backbone_weights=None).state_dict()
    keys = models.published_keys(name, narrow) or {}
    bare = {keys[key].removeprefix("module."): tensor for key, tensor in narrow.items()}
    report = checkpoint.examine_published(bare)
    assert report is not None and report.model == name
    (problem,) = report.problems
    assert f"{len(report.misshapen)} tensors of another shape" in problem


def test_bad_files_end_the_test_command_in_words(
    vsodpipe: Run, source: Source, tmp_path: Path
) -> None:
    file = tmp_path / "x.pth"

    def refused(words: str) -> None:
        given = ("--checkpoint", file, "--manifest", source.file, "--out", tmp_path / "maps")
        code, out, err = vsodpipe("test", "ianet", *given)
        assert code == 2 and out == "" and "Traceback" not in err
        assert words in " ".join(err.split()) and not (tmp_path / "maps").exists()

    torch.save(hollow("smcf"), file)
    refused("holds weights of smcf, expected ianet. Run it as smcf")
    torch.save({"other.weight": torch.zeros(3)}, file)
    refused("does not fit ianet as published: 972 tensors missing")
    torch.save({"epoch": 3}, file)
    refused("a dictionary of epoch")
    torch.save(hollow("ianet"), file)
    file.write_bytes(file.read_bytes()[:-1000])
    refused("damaged")
    code, _, err = vsodpipe("weights", file)
    assert code == 2 and "damaged" in err


def test_a_network_without_published_weights_says_so(tmp_path: Path) -> None:
    options = models.stages("dbsnet")["debug"].network
    network = models.load("dbsnet").build(options)
    with pytest.raises(WeightsError, match="no weights of dbsnet were published"):
        checkpoint.save_published(network, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="no weights of dbsnet were published"):
        checkpoint.load_published("dbsnet", network.state_dict())
    assert not any(tmp_path.iterdir())
