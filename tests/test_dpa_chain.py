"""DPA around its networks: weights from stage to stage, published files, from files to maps."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vsodpipe import checkpoint, handover, models, recipe, runs, stages
from vsodpipe.errors import UsageError, WeightsError
from vsodpipe.manifest import Source
from vsodpipe.models import dpa
from vsodpipe.recipe import Stage

Run = Callable[..., tuple[int, str, str]]
SLIM = ["data.size=[32, 48]", "network.width=4"]


def job(
    source: Source, init: Path | None, *names: str, change: str = "network.width=4"
) -> runs.Job:
    chosen = stages.choose("dpa", list(names), [*SLIM, change], "none" if init is None else None)
    return runs.Job(
        "dpa", source, chosen, source.file.parent / "run", "cpu", 0, (init,) if init else ()
    )


def written(path: Path, model: str, stage: Stage) -> dict[str, torch.Tensor]:
    """Write a checkpoint of `stage` with weights unlike all initial ones; return them."""
    torch.manual_seed(7)
    network = models.load(model).build(stage.network)
    checkpoint.save(path, model, stage, network, {}, {})
    return network.state_dict()


def image_stage() -> Stage:
    (stage,) = stages.choose("dpa_pretrain", ["pretrain"], SLIM, "none")
    return stage


def test_init_takes_the_image_network_by_either_name(source: Source, tmp_path: Path) -> None:
    """A run of dpa_pretrain, and dpa's own first stage, go through the same transfer."""
    (own,) = stages.choose("dpa", ["pretrain"], SLIM, "none")
    begun = {}
    for model, stage in (("dpa_pretrain", image_stage()), ("dpa", own)):
        state = written(tmp_path / model, model, stage)
        network = handover.begin(job(source, tmp_path / model, "finetune"), 0, None)
        assert isinstance(network, dpa.DPA)
        begun[model] = network.state_dict()
        for key, value in state.items():
            assert torch.equal(begun[model][key], value), key
            if key.startswith("rgb."):
                assert torch.equal(begun[model][key.replace("rgb.", "flow.", 1)], value), key
    torch.testing.assert_close(begun["dpa_pretrain"], begun["dpa"], rtol=0, atol=0)
    images = handover.begin(job(source, tmp_path / "dpa_pretrain", "pretrain"), 0, None)
    assert torch.equal(images.state_dict()["decoder.head.weight"], state["decoder.head.weight"])


def hollow(name: str) -> dict[str, dict[str, torch.Tensor]]:
    """Return a file of the published code that takes no room: zeros of its keys and shapes."""
    with torch.device("meta"):
        state = models.create(name).state_dict()
    keys = models.published_keys(name, state)
    assert keys is not None
    zeros = {keys[k]: torch.zeros((), dtype=v.dtype).expand(v.shape) for k, v in state.items()}
    return {"model_state_dict": zeros}


def test_init_takes_a_published_image_network(source: Source, tmp_path: Path) -> None:
    file = tmp_path / "best_model.pth"
    torch.save(hollow("dpa_pretrain"), file)
    found = checkpoint.read(file, "dpa", dpa.TAKES)
    assert (found.model, found.stage.name) == ("dpa_pretrain", "pretrain")
    with torch.device("meta"):
        initial = models.create("dpa").state_dict()
    begun = dpa.pretrained([found.state_dict], initial)
    assert begun.keys() == initial.keys()
    assert all(value.shape == initial[key].shape for key, value in begun.items())
    with pytest.raises(WeightsError, match="stage finetune: do not fit its network"):
        handover.begin(job(source, file, "finetune"), 0, None)


def test_other_weights_are_refused_in_a_line(source: Source, tmp_path: Path) -> None:
    file = tmp_path / "x"
    written(file, "cornet", models.stages("cornet")["debug"])
    with pytest.raises(WeightsError, match="holds weights of cornet, expected dpa"):
        handover.begin(job(source, file, "finetune"), 0, None)
    written(file, "dpa_pretrain", image_stage())
    with pytest.raises(WeightsError, match="do not fit its network"):
        handover.begin(job(source, file, "debug"), 0, None)
    with pytest.raises(WeightsError, match="holds weights of dpa_pretrain, expected dpa"):
        checkpoint.read(file, "dpa")
    with pytest.raises(UsageError, match="continues from the weights of stage pretrain"):
        handover.begin(job(source, None, "finetune"), 0, None)


def test_a_balanced_part_of_youtube_vos_is_the_recipes(source: Source) -> None:
    finetune = models.stages("dpa")["finetune"]
    assert finetune.data.balanced == {"YouTubeVOS_train": "DAVIS_train"}
    text = recipe.to_toml({"finetune": finetune}, explain=True)
    assert '[finetune.data.balanced]\nYouTubeVOS_train = "DAVIS_train"' in text
    (other,) = stages.choose("dpa", ["debug"], ["data.balanced.A_train=B_train"], None)
    assert other.data.balanced == {"A_train": "B_train"}


def test_published_files_at_the_command_line(vsodpipe: Run, source: Source, tmp_path: Path) -> None:
    """`weights` names each of the two networks; `test` refuses what does not belong to it."""
    for name in ("dpa", "dpa_pretrain"):
        file = tmp_path / f"{name}.pth"
        torch.save(hollow(name), file)
        code, out, _ = vsodpipe("weights", file, "--json")
        assert code == 0 and f'"network": "{name}"' in out and '"loads": true' in out

    def refused(model: str, file: Path) -> str:
        given = ("--checkpoint", file, "--manifest", source.file, "--out", tmp_path / "maps")
        code, out, err = vsodpipe("test", model, *given)
        assert code == 2 and out == "" and "Traceback" not in err
        assert not (tmp_path / "maps").exists()
        return " ".join(err.split())

    words = "holds weights of dpa_pretrain, expected dpa. Run it as dpa_pretrain"
    assert words in refused("dpa", tmp_path / "dpa_pretrain.pth")
    assert "holds weights of dpa, expected" in refused("dpa_pretrain", tmp_path / "dpa.pth")
    less = hollow("dpa_pretrain")
    del less["model_state_dict"]["module.rgb_sq4.0.weight"]
    torch.save(less, tmp_path / "less.pth")
    assert "1 tensors missing: rgb_sq4.0.weight" in refused("dpa_pretrain", tmp_path / "less.pth")


def test_the_chain_from_files_to_maps(vsodpipe: Run, source: Source, tmp_path: Path) -> None:
    """The whole chain in one run, and in two of the two networks; maps of the second."""
    small_too = ["epochs=1", "steps_per_epoch=1", "batch=2", "validate.split=none"]
    sets = [*SLIM, *small_too, 'data.datasets=["TINY_train"]', "data.references=2"]
    options = [x for text in sets for x in ("--set", text)]
    given = ("--manifest", source.file, "--backbone-weights", "none", "--device", "cpu")
    code, _, err = vsodpipe("train", "dpa", *given, *options, "--run", tmp_path / "a")
    assert code == 0, err
    again = ("--manifest", source.file, "--stage", "finetune", "--init", tmp_path / "b")
    images = ("--stage", "pretrain", "--run", tmp_path / "b")
    assert vsodpipe("train", "dpa_pretrain", *given, *options[:-2], *images)[0] == 0
    code, _, err = vsodpipe("train", "dpa", *again, *options, "--run", tmp_path / "c")
    assert code == 0, err
    one, two = (checkpoint.read(tmp_path / run, "dpa").state_dict for run in ("a", "c"))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    code, _, err = vsodpipe(
        "test", "dpa", "--checkpoint", tmp_path / "c", "--manifest", source.file,
        "--out", tmp_path / "maps", "--device", "cpu",
    )  # fmt: skip
    assert code == 0, err
    assert len(list((tmp_path / "maps" / "TINY_test" / "dice").glob("*.png"))) == 5
