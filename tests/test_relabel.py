"""Online label refinement: the numbers of a refined label, and runs that continue to the bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vsodpipe import checkpoint, models, recipe, runs, train
from vsodpipe.errors import UsageError
from vsodpipe.manifest import Source
from vsodpipe.progress import Reporter
from vsodpipe.ranks import Ranks
from vsodpipe.recipe import Augment
from vsodpipe.relabel import Labels

QUIET = Reporter(quiet=True)
SMALL = ("data.datasets=['TINY_train']", "data.size=[32,32]", "batch=3", "steps_per_epoch=0")


def logits_of(p: list[list[float]]) -> Tensor:
    return torch.tensor(p).logit().reshape(1, 1, *np.shape(p))


def sample(flipped: bool, size: tuple[int, int] = (4, 4)) -> dict[str, Any]:
    gt = torch.ones(1, 1, *size)
    return {"gt": gt, "key": [("D", "v", "0")], "flipped": torch.tensor([flipped])}


def refined(labels: Labels, flipped: bool, size: tuple[int, int] = (4, 4)) -> list[list[int]]:
    return labels.put(sample(flipped, size))["gt"][0, 0].int().tolist()


def test_a_label_is_the_map_above_the_middle_of_its_levels() -> None:
    """Written as 0.6 p and stretched when read, as published: 0.36 is above (0.1 + 0.6) / 2."""
    labels = Labels(0)
    before = sample(flipped=True)
    assert labels.put(before)["gt"].all(), "none yet: the label of the file"
    labels.take(before, logits_of([[0.1, 0.34], [0.36, 0.6]]))
    assert labels.put(before)["gt"].all(), "not before the step is over"
    labels.keep(Ranks())
    # it was seen flipped, so the label lies the other way round
    assert refined(labels, flipped=True, size=(2, 2)) == [[0, 0], [1, 1]]
    labels.take(sample(flipped=True), logits_of([[0.1, 0.6], [0.1, 0.1]]))
    labels.keep(Ranks())
    assert refined(labels, flipped=True, size=(2, 2)) == [[0, 1], [0, 0]]
    assert refined(labels, flipped=False, size=(2, 2)) == [[1, 0], [0, 0]]
    # midnet answers at half the size: each pixel becomes four
    assert refined(labels, flipped=False) == [[1, 1, 0, 0], [1, 1, 0, 0], [0] * 4, [0] * 4]
    assert before["gt"].all(), "the batch itself is not touched"
    labels.take(sample(flipped=False), logits_of([[0.7, 0.7], [0.7, 0.7]]))
    labels.keep(Ranks())
    assert refined(labels, flipped=False) == [[0] * 4] * 4, "of one level: empty, as published"


def test_labels_as_state() -> None:
    labels, again = Labels(1), Labels(1)
    again.restore(labels.state())
    assert len(again) == 0
    for name, shape in (("a", (3, 5)), ("b", (2, 2))):  # of 15 and 4 bits
        seen = {"key": [("D", "v", name)], "flipped": [False]}
        labels.take(seen, torch.randn(1, 1, *shape, generator=torch.manual_seed(0)))
    labels.keep(Ranks())
    again.restore(labels.state())
    assert len(again) == 2
    for name in ("a", "b"):
        asked = {**sample(False, (6, 10)), "key": [("D", "v", name)]}
        assert torch.equal(labels.put(asked)["gt"], again.put(asked)["gt"])
        assert 0 < labels.put(asked)["gt"].mean() < 1


def test_processes_share_their_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    both = []
    for name in ("a", "b"):
        labels = Labels(0)
        labels.take({"key": [("D", "v", name)], "flipped": [False]}, torch.randn(1, 1, 3, 4))
        both.append(labels)
    notes = [labels._new for labels in both]
    monkeypatch.setattr(Ranks, "gather", lambda self, value: notes)
    for labels in both:
        labels.keep(Ranks(world=2))
    assert len(both[0]) == 2 and equal(both[0].state(), both[1].state())


def job(source: Source, run: Path, *assignments: str) -> runs.Job:
    stage = recipe.override(models.stages("cornet")["debug"], [*SMALL, *assignments])
    return runs.Job("cornet", source, (stage,), run, "cpu", 0)


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


def test_a_run_killed_among_refined_labels_continues_with_them(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine frames, three steps an epoch, three epochs: labels of the second decide the third."""
    monkeypatch.setattr(train, "SAVE_SECONDS", 0.0)
    given = ("epochs=3", "relabel_from=1", "augment.flip=0.5")
    real, seen = train._loss, []

    def noted(model: str, state: Any, batch: Any, epoch: int) -> Tensor:
        seen.append((epoch, len(state.labels), float(batch["gt"].sum())))
        return real(model, state, batch, epoch)

    monkeypatch.setattr(train, "_loss", noted)
    whole = train.train(job(source, tmp_path / "whole", *given), QUIET)
    monkeypatch.setattr(train, "_loss", real)
    assert [(epoch, known) for epoch, known, _ in seen] == [
        (0, 0), (0, 0), (0, 0), (1, 0), (1, 3), (1, 6), (2, 9), (2, 9), (2, 9),
    ]  # fmt: skip
    by_epoch = [sum(gt for e, _, gt in seen if e == epoch) for epoch in range(3)]
    assert by_epoch[0] == by_epoch[1] != by_epoch[2], "as many foreground pixels in the files"
    step = train._step
    taken: list[int] = []

    def killed(*arguments: Any) -> float:
        if len(taken) == 4:
            raise KeyboardInterrupt
        taken.append(1)
        return step(*arguments)

    monkeypatch.setattr(train, "_step", killed)
    begun = job(source, tmp_path / "killed", *given)
    with pytest.raises(KeyboardInterrupt):
        train.train(begun, QUIET)
    monkeypatch.setattr(train, "_step", step)
    assert len(checkpoint.read(begun.last, "cornet").training["labels"]["names"]) == 3
    resumed = replace(begun, stages=runs.resumed(begun.run, "cornet", source), workers=1)
    last = train.train(resumed, QUIET, resume=True)
    a, b = (checkpoint.read(file, "cornet") for file in (last, whole))
    assert equal(a.state_dict, b.state_dict) and equal(a.training, b.training)


def test_what_cannot_be_refined(source: Source, tmp_path: Path) -> None:
    stage = models.stages("midnet")["o"]
    assert stage.relabel_from is None, "off, as published"
    assert recipe.override(stage, ["relabel_from=1"]).relabel_from == 1
    with pytest.raises(UsageError, match="relabel_from: needs labels, single frames"):
        replace(stage, relabel_from=1, augment=Augment(crop=8))
    with pytest.raises(UsageError, match="relabel_from: needs labels"):
        replace(models.stages("a2s")["o"], relabel_from=1)
    stage = recipe.override(models.stages("a2s")["debug"], [*SMALL, "data.labels=true"])
    stage = replace(stage, relabel_from=0)
    with pytest.raises(UsageError, match="a2s does not learn from labels"):
        train.train(runs.Job("a2s", source, (stage,), tmp_path / "run", "cpu", 0), QUIET)
    assert not (tmp_path / "run").exists()
