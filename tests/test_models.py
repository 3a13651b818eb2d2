"""The registry, and the contract that every file in models/ fulfils by being there."""

import ast
import dataclasses
import inspect
import logging
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from vsodpipe import models
from vsodpipe.errors import UsageError, WeightsError
from vsodpipe.models import Sampling, dbsnet
from vsodpipe.models._backbones import mobilevit
from vsodpipe.models.dbsnet import DBSNet
from vsodpipe.recipe import Stage, from_dict, to_toml

TINY: dict[str, Any] = {"backbone": "mobilevit_xxs", "dim": 16, "depth": 1, "num_frames": 3}
NEW_MODEL = '''
from dataclasses import dataclass
from torch import nn
from vsodpipe.recipe import Data, Stage

@dataclass(frozen=True, kw_only=True)
class Options:
    width: int = 2
    """Channels."""

def build(options):
    return nn.Conv2d(3, options.width, 1)

STAGES = (Stage(name="debug", network=Options(), data=Data(datasets=("DAVIS_train",))),)
CHAIN = ()
LOSSES = ("saliency",)
SAMPLING = "frame"

def loss(logits, sample):
    return logits["saliency"].sum()
'''


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=models.names())
def name(request: pytest.FixtureRequest) -> str:
    result: str = request.param
    return result


def debug_sample(stage: Stage, sampling: Sampling) -> dict[str, Tensor]:
    """Return a random batch of 2 as the debug stage asks for it."""
    frames = (stage.data.clip,) if sampling == "clip" else ()
    shape = (2, *frames, 3, *stage.data.size)
    sample = {key: torch.rand(shape) for key in stage.data.inputs}
    for key in (key for key in sample if key.startswith("ref_")):
        sample[key] = torch.rand(2, stage.data.references, *shape[-3:])
    sample["gt"] = (torch.rand(2, *frames, 1, *stage.data.size) > 0.5).float()
    sample["valid"] = torch.ones(2, *frames, dtype=torch.bool)
    return sample


def test_names_are_the_public_files_of_the_folder() -> None:
    folder = Path(models.__file__).parent
    files = sorted(f.stem for f in folder.glob("*.py") if not f.stem.startswith("_"))
    assert models.names() == tuple(files)
    assert "dbsnet" in files


def test_listing_names_imports_neither_torch_nor_a_model() -> None:
    code = (
        "import sys, vsodpipe.models as m; m.names();"
        "print([k for k in sys.modules if k in ('torch', 'timm', 'vsodpipe.models.dbsnet')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_public_names_exist() -> None:
    assert models.__all__ == sorted(models.__all__)
    assert all(hasattr(models, name) for name in models.__all__)


def test_one_new_file_is_a_new_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "novelnet.py").write_text(NEW_MODEL)
    (tmp_path / "_helper.py").write_text("")
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    assert "novelnet" in models.names() and "_helper" not in models.names()
    try:
        net = models.create("novelnet", width=5)
        assert net(torch.zeros(1, 3, 2, 2)).shape == (1, 5, 2, 2)
        assert list(models.stages("novelnet")) == ["debug"]
    finally:
        sys.modules.pop("vsodpipe.models.novelnet", None)


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown model 'dbsnett'. Did you mean dbsnet\?"):
        models.load("dbsnett")
    with pytest.raises(UsageError, match="unknown model '_backbones'"):
        models.load("_backbones")


def test_unknown_option_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'num_frame'. Did you mean num_frames\?"):
        models.create("dbsnet", num_frame=3)
    with pytest.raises(UsageError, match="dim: expected int, got 'wide'"):
        models.create("dbsnet", dim="wide")


def test_options_are_documented_frozen_and_survive_toml(name: str) -> None:
    kind = models.load(name).Options
    assert kind.__dataclass_params__.frozen and all(f.kw_only for f in dataclasses.fields(kind))
    body = ast.parse(inspect.getsource(kind)).body[0].body  # type: ignore[attr-defined]
    for field, doc in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign):
            assert isinstance(doc, ast.Expr), f"{ast.unparse(field)} has no line of its own below"
    assert from_dict(kind, tomllib.loads(to_toml(kind()))) == kind()


def test_stages_are_complete(name: str) -> None:
    model, stages = models.load(name), models.stages(name)
    assert len(stages) == len(model.STAGES) and "debug" in stages
    assert set(model.CHAIN) <= set(stages) - {"debug"}
    assert len(set(model.LOSSES)) == len(model.LOSSES) > 0
    assert all(set(stage.loss_weights) <= set(model.LOSSES) for stage in stages.values())
    for stage in stages.values():
        assert isinstance(stage.network, model.Options)
        again = from_dict(Stage, tomllib.loads(to_toml(stage)))
        options = from_dict(model.Options, again.network)
        assert dataclasses.replace(again, network=options) == stage


def test_debug_stage_starts_without_files_and_trains(name: str) -> None:
    model, stage = models.load(name), models.stages(name)["debug"]
    assert stage.network.backbone_weights is None
    sample = debug_sample(stage, model.SAMPLING)
    net = model.build(stage.network)
    assert net.training
    logits = net(*(sample[key] for key in stage.data.inputs))
    assert next(iter(logits)) == "saliency"
    assert all(x.dtype == torch.float32 for x in logits.values())
    loss = model.loss(logits, sample)
    assert loss.shape == () and loss.dtype == torch.float32 and torch.isfinite(loss)
    loss.backward()
    for key, parameter in net.named_parameters():
        if parameter.requires_grad:  # published files may hold some that nothing uses
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key
    with torch.no_grad():
        maps = net.eval()(*(sample[key] for key in stage.data.inputs))["saliency"]
    assert maps.shape[:-2] == sample["gt"].shape[:-2]


# ---- losses: what _losses.py computes, through dbsnet (section 4 of its specification)


def loss_of(logits: Tensor, gt: Tensor, valid: Tensor | None = None) -> Tensor:
    names = ("saliency", *dbsnet.SIDES)
    valid = torch.ones(gt.shape[:2], dtype=torch.bool) if valid is None else valid
    return dbsnet.loss(dict.fromkeys(names, logits), {"gt": gt, "valid": valid})


def test_loss_by_hand() -> None:
    gt = torch.tensor([1.0, 0.0, 0.0, 0.0]).view(1, 1, 1, 2, 2)
    # p = 0.5 everywhere: BCE log 2; intersection 0.5, union 1 + 2 - 0.5
    one = torch.log(torch.tensor(2.0)) + 1 - 1.5 / 3.5
    assert loss_of(torch.zeros(gt.shape), gt).item() == pytest.approx(2.2 * one.item(), abs=1e-6)
    main_only = dbsnet.loss(
        {"saliency": torch.zeros(gt.shape)}, {"gt": gt, "valid": torch.ones(1, 1).bool()}
    )
    assert main_only.item() == pytest.approx(one.item(), abs=1e-6)


@pytest.mark.parametrize("fill", [0.0, 1.0, None])
def test_loss_is_near_zero_when_right_and_finite_when_wrong(fill: float | None) -> None:
    gt = (
        (torch.rand(2, 2, 1, 8, 8) > 0.5).float()
        if fill is None
        else torch.full((2, 2, 1, 8, 8), fill)
    )
    assert 0 <= loss_of(40 * gt - 20, gt).item() < 1e-4
    wrong = loss_of(200 - 400 * gt, gt)
    assert wrong.isfinite() and wrong > 1


def test_frames_without_annotation_get_exactly_no_gradient() -> None:
    logits = torch.randn(2, 3, 1, 8, 8, requires_grad=True)
    gt = torch.full((2, 3, 1, 8, 8), torch.nan)  # whatever a loader leaves there must not matter
    valid = torch.tensor([[True, False, False], [False, True, True]])
    gt[valid] = 1.0
    value = loss_of(logits, gt, valid)
    (grad,) = torch.autograd.grad(value, logits)
    assert value.isfinite() and not grad[~valid].any() and grad[valid].ne(0).all()
    per_frame = [
        loss_of(logits[b : b + 1, t : t + 1], gt[b : b + 1, t : t + 1]) for b, t in valid.nonzero()
    ]
    assert value.item() == pytest.approx(torch.stack(per_frame).mean().item(), abs=1e-6)


def test_batch_without_annotation_gives_a_connected_zero() -> None:
    logits = torch.randn(1, 2, 1, 8, 8, requires_grad=True)
    value = loss_of(logits, torch.zeros(1, 2, 1, 8, 8), torch.zeros(1, 2, dtype=torch.bool))
    (grad,) = torch.autograd.grad(value, logits)
    assert value.item() == 0 and not grad.any()


# ---- weights of the backbones, through the one network that uses them so far


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, Tensor]:
    """The state of timm's whole classifier, as its published files hold it."""
    torch.manual_seed(1)
    model = timm.create_model("mobilevit_xxs", pretrained=False)
    return {k: v.clone() for k, v in model.state_dict().items()}


def tiny(**options: Any) -> DBSNet:
    net = models.create("dbsnet", **(TINY | options))
    assert isinstance(net, DBSNet)
    return net


def loaded(net: DBSNet, checkpoint: dict[str, Tensor]) -> bool:
    kept = [v for k, v in checkpoint.items() if not k.startswith("head.")]
    return all(
        all(torch.equal(a, b) for a, b in zip(encoder.state_dict().values(), kept, strict=True))
        for encoder in net.encoders
    )


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_classifier_file_loads_into_every_encoder(
    suffix: str, shared: bool, checkpoint: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / f"mobilevit{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(checkpoint, path)
    net = tiny(backbone_weights=str(path), shared_encoder=shared)
    assert loaded(net, checkpoint)
    assert not loaded(tiny(), checkpoint)


def test_file_of_the_encoder_alone_loads(tmp_path: Path) -> None:
    encoder = mobilevit("mobilevit_xxs")
    torch.save(encoder.state_dict(), tmp_path / "encoder.pth")
    net = tiny(backbone_weights=str(tmp_path / "encoder.pth"))
    assert loaded(net, encoder.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("stem.conv.weight"), r"1 missing \(first: stem.conv.weight\)"),
        (lambda s: s.update({"neck.bias": torch.ones(1)}), r"1 unexpected \(first: neck.bias\)"),
        (
            lambda s: s.update({"stem.bn.bias": torch.ones(7)}),
            r"1 of another shape \(first: stem.bn",
        ),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_file_of_another_network_is_refused_with_counts(
    change: Callable[[dict[str, Tensor]], Any],
    message: str,
    checkpoint: dict[str, Tensor],
    tmp_path: Path,
) -> None:
    state = dict(checkpoint)
    change(state)
    path = tmp_path / "other.safetensors"
    save_file(state, path)
    with pytest.raises(
        WeightsError, match=f"{re.escape(str(path))} as weights .*{message}"
    ) as caught:
        tiny(backbone_weights=str(path))
    assert caught.value.exit_code == 2


def test_file_that_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="got no file at .*nowhere.pth"):
        tiny(backbone_weights=str(tmp_path / "nowhere.pth"))
    for name in ("text.safetensors", "text.pth"):
        (tmp_path / name).write_text("a page that says 404")
        with pytest.raises(WeightsError, match=f"got .*{name}, which does not read as one"):
            tiny(backbone_weights=str(tmp_path / name))
    torch.save({"epoch": 3, "state_dict": {}}, tmp_path / "run.pth")
    with pytest.raises(WeightsError, match="got one with epoch, state_dict .*run.pth"):
        tiny(backbone_weights=str(tmp_path / "run.pth"))


def test_pickled_code_does_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"stem.conv.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(WeightsError, match="trap.pth, which does not read as one"):
        tiny(backbone_weights=str(tmp_path / "trap.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A hub with nothing cached: `asked` and `said` collect, `error` or `file` is its answer."""
    state: dict[str, Any] = {"asked": [], "said": [], "error": None, "file": None}
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", state["said"].append)
    logging.getLogger("huggingface_hub").addHandler(handler)

    def head(url: str, timeout: float) -> None:
        state["asked"].append((url, timeout))
        logging.getLogger("huggingface_hub").warning("Retrying in 1s")
        if state["error"]:
            raise state["error"]

    def download(repo: str, file: str) -> str:
        state["asked"].append((repo, file))
        return str(state["file"])

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, file: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", head)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    yield state
    logging.getLogger("huggingface_hub").removeHandler(handler)


def test_imagenet_weights_come_from_the_hub(
    hub: dict[str, Any], checkpoint: dict[str, Tensor], tmp_path: Path
) -> None:
    hub["file"] = tmp_path / "model.safetensors"
    save_file(checkpoint, hub["file"])
    assert loaded(tiny(backbone_weights="imagenet"), checkpoint)
    assert hub["asked"][1] == ("timm/mobilevit_xxs.cvnets_in1k", "model.safetensors")


def test_imagenet_weights_in_the_cache_need_no_network(
    hub: dict[str, Any],
    checkpoint: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = str(tmp_path / "model.safetensors")
    save_file(checkpoint, path)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, file: path)
    assert loaded(tiny(backbone_weights="imagenet"), checkpoint)
    assert hub["asked"] == []


def test_failed_download_is_one_clear_error_and_never_a_random_start(
    hub: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    hub["error"] = OSError("[Errno -2] Name or service not known")
    level = logging.getLogger("huggingface_hub").level
    start = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        models.create("dbsnet", backbone_weights="imagenet")
    assert time.monotonic() - start < 5
    message = str(caught.value)
    for part in (
        "model.safetensors of the timm model mobilevit_s.cvnets_in1k",
        "Name or service not known",
        "https://huggingface.co/timm/mobilevit_s.cvnets_in1k/resolve/main/model.safetensors",
        "--backbone-weights FILE",
        "--backbone-weights none",
    ):
        assert part in message
    assert "\n" not in message and caught.value.exit_code == 2
    assert len(hub["asked"]) == 1 and hub["asked"][0][1] <= 5  # one request, a short wait
    assert hub["said"] == [] and capfd.readouterr() == ("", "")
    assert logging.getLogger("huggingface_hub").level == level
