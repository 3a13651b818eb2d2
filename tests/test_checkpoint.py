"""Published weights: seen through, loaded whole or not at all, written back; and our own files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vsodpipe import checkpoint, models, recipe, weights
from vsodpipe.errors import WeightsError

OPTIONS = {"dim": 8, "heads": 2, "num_frames": 2, "backbone": "mobilevit_xxs"}


@pytest.fixture
def published(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
    """A small DBSNet as if its authors had published it: our keys with `net.` before them."""
    monkeypatch.setattr(models.load("dbsnet"), "PUBLISHED", ((r"^", "net."),), raising=False)
    checkpoint._published_names.cache_clear()
    network = models.create("dbsnet", **OPTIONS)
    yield network, {f"net.{key}": value for key, value in network.state_dict().items()}
    checkpoint._published_names.cache_clear()


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("wrapper", [[], ["state_dict"], ["model"], ["net", "state_dict"]])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_wrappers_and_prefixes_are_seen_through(
    published: tuple[nn.Module, dict[str, Tensor]], wrapper: list[str], prefix: str
) -> None:
    network, state = published
    content: dict[str, Any] = {f"{prefix}{key}": value for key, value in state.items()}
    for name in wrapper:
        content = {"epoch": 3, name: content}
    found, report = checkpoint.load_published("dbsnet", content, **OPTIONS)
    assert same(found, network) and not found.training
    assert (report.tensors, report.problems) == (len(state), ())


def test_written_back_it_has_the_published_keys(
    published: tuple[nn.Module, dict[str, Tensor]], tmp_path: Path
) -> None:
    network, state = published
    checkpoint.save_published(network, tmp_path / "x.pth")
    held = torch.load(tmp_path / "x.pth", weights_only=True)
    assert list(held) == list(state) and all(torch.equal(held[k], state[k]) for k in state)
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"], "by one rename"
    assert same(checkpoint.load_published("dbsnet", tmp_path / "x.pth", **OPTIONS)[0], network)


def test_what_does_not_fit_is_listed_and_nothing_is_loaded(
    published: tuple[nn.Module, dict[str, Tensor]],
) -> None:
    _, state = published
    first, second = [key for key in state if state[key].ndim == 4][:2]
    state["extra"] = torch.zeros(1)
    state[second] = state[second][:, :1]
    del state[first]
    with pytest.raises(WeightsError) as raised:
        checkpoint.load_published("dbsnet", state, **OPTIONS)
    said = str(raised.value)
    assert f"1 tensors missing: {first}" in said and "1 tensors unexpected: extra" in said
    assert f"1 tensors of another shape: {second}: expected" in said


def test_wrappings_without_end_and_other_things(tmp_path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["model"] = endless
    for content in (endless, {}, [1], {"state_dict": {"a": 1}}, None):
        assert checkpoint.plain_state(content) is None
    torch.save(endless, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="expected a state dict"):
        weights.examine(tmp_path / "x.pt")


def test_our_own_tell_their_recipe_and_versions(tmp_path: Path) -> None:
    stage = models.stages("dbsnet")["debug"]
    stage = recipe.override(stage, ["network.dim=8", "network.heads=2"])
    network = models.load("dbsnet").build(stage.network)
    checkpoint.save(tmp_path / "x.pt", "dbsnet", stage, network, {"step": 3}, {"manifest": "abc"})
    saved = checkpoint.read(tmp_path / "x.pt", "dbsnet")
    assert saved.stage == stage and saved.training == {"step": 3}
    assert saved.provenance.keys() == {"manifest", "vsodpipe", "torch"}
    assert same(checkpoint.build(saved), network)
