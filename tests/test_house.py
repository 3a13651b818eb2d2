"""The house itself: who may import whom, what the wheel holds, what --help costs."""

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest
import typer

from vsodpipe import cli

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {
    "vsodpipe": "pipeline",
    "vsodpipe.flows": "flows",
    "vsodpipe.models": "models",
    "vsodpipe.cards": "datasets/cards",
    "vsodpipe.service": "pipeline/service",
}
WHEEL_SUFFIXES = (".py", ".toml", ".typed", ".html", ".css", ".js")
ROOMS = [
    ["errors"],
    ["locks", "remote"],
    ["layout_table"],
    ["recipe_text"],
    ["recipe", "progress", "devices", "ranks", "meter", "signals", "flow_ahead", "flow_entries"],
    ["cores", "threads", "weight_file"],
    ["levels", "loggers", "optimisers", "relabel", "scales"],
    ["media", "card"],
    ["video_file"],
    ["manifest_text"],
    ["flow_record", "listing", "tree", "masks", "unpack", "shards", "place", "shard_cache"],
    ["import_record"],
    ["boundary", "weighted_f", "stability"],
    ["a2s_scores"],
    ["metrics", "synth", "cluster", "locate", "fetch", "order", "batches"],
    ["layout_files", "metrics_batch"],
    ["crf", "a2s_tasks"],
    ["sheet", "catalogue", "sampling", "transforms", "plan"],
    ["protocols", "scoring", "attributes"],
    ["manifest", "importer", "inventory", "sources"],
    ["own_data", "subsets"],
    ["manifest_faults", "manifest_txt"],
    ["manifest_check"],
    ["manifest_preview"],
    ["store", "checkpoint"],
    ["zarr_files", "hdf5", "chunks"],
    ["jpeg_codec", "reader"],
    ["store_preview"],
    ["frames"],
    ["samples"],
    ["layouts", "layout_plan"],
    ["inputs"],
    ["layout_export"],
    ["stream", "weights", "flow_raw"],
    ["feed"],
    ["runs"],
    ["handover", "learner"],
    ["stages", "infer"],
    ["validate"],
    ["maps", "tables"],
    ["flow_forms", "pack_shard"],
    ["flow_video", "pack_plan", "unpack_store"],
    ["store_check"],
    ["footage", "overlay", "film_file", "flow_like"],
    ["film"],
    ["video_columns"],
    ["video_maps"],
    ["flow_job", "pack", "train", "predict", "evaluate", "preview"],
    ["pseudo"],
    ["a2s_chain"],
    ["compare", "curves"],
    ["doctor"],
    ["report_scores"],
    ["report_strips", "report_runs"],
    ["report"],
    ["flow_plan"],
    ["demo"],
    ["completion"],
    ["cli_app"],
    ["service.kinds", "service.settings", "service.hub", "service.client"],
    ["service.confine"],
    ["service.requests"],
    ["service.queue", "service.places", "service.processes"],
    ["service.runner"],
    ["service.events", "service.telemetry"],
    ["service.guard", "service.connections"],
    ["service.probe", "service.ranges", "service.shelf"],
    ["service.files", "service.page", "service.state", "service.upload", "service.watch"],
    ["service.jobs"],
    ["service.openapi"],
    ["service.app"],
    ["service.server"],
    ["cli_at"],
    ["cli_check"],
    ["cli_engine"],
    ["cli_pseudo"],
    [
        "cli_data",
        "cli_datasets",
        "cli_eval",
        "cli_manifest",
        "cli_models",
        "cli_predict",
        "cli_report",
        "cli_serve",
        "cli_store",
        "cli_train",
    ],
    ["cli"],
    ["__main__"],
]
"""From the ground up: a module imports only from floors below its own."""


def imports(file: Path) -> set[str]:
    """Return the modules of this project that `file` imports, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "vsodpipe"}


def test_pipeline_imports_run_downwards() -> None:
    floor = {name: level for level, names in enumerate(ROOMS) for name in names}
    files = {file.stem: file for file in (ROOT / "pipeline").glob("*.py")}
    service = {f"service.{f.stem}": f for f in (ROOT / "pipeline" / "service").glob("*.py")}
    files |= service
    assert set(files) == {*floor, "__init__", "service.__init__"}, "every module has its floor"
    for name, level in floor.items():
        for other in imports(files[name]):
            parts = other.split(".")
            for below in (".".join(parts[1:2]), ".".join(parts[1:3])):
                if below in floor:
                    assert floor[below] < level, f"{name} imports {below}"


@pytest.mark.parametrize("package", ["flows", "models"])
def test_plug_ins_import_only_what_is_for_all(package: str) -> None:
    for file in (ROOT / package).glob("*.py"):
        for name in imports(file):
            inside = name.startswith(f"vsodpipe.{package}")
            shared = name.startswith(
                ("vsodpipe.errors", "vsodpipe.recipe", "vsodpipe.threads", "vsodpipe.weight_file")
            )
            assert inside or shared or name == "vsodpipe", f"{file.name} imports {name}"


def tracked() -> list[str]:
    listed = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
    return [name for name in names if (ROOT / name).is_file()]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in tracked():
        (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "tree" / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder)]
    subprocess.run([*build, str(folder / "tree")], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_exactly_the_folders(wheel: Path) -> None:
    expected = {
        f"{package.replace('.', '/')}/{Path(name).name}"
        for package, folder in FOLDERS.items()
        for name in tracked()
        if str(Path(name).parent) == folder and Path(name).suffix in WHEEL_SUFFIXES
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == expected


def test_types_of_the_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
        + ["--cache-dir", str(tmp_path / "cache"), "-p", "vsodpipe"],
        env={**os.environ, "MYPYPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_is_clean() -> None:
    for command in (["check"], ["format", "--check"]):
        call = [sys.executable, "-m", "ruff", *command, "--no-cache", str(ROOT)]
        done = subprocess.run(call, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "cv2", "zarr", "dask", "pydantic", "numpy")
    code = (
        "import sys; sys.argv = ['vsodpipe', '--help']\n"
        "from vsodpipe import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        f"print('HEAVY', [m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def commands() -> dict[str, click.Command]:
    group = typer.main.get_command(cli.app)
    found: dict[str, click.Command] = group.commands  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_has_help_with_an_example(name: str) -> None:
    command = commands()[name]
    assert command.help
    assert (command.epilog or "").startswith(f"Example: vsodpipe {name}")
    for parameter in command.params:
        said = getattr(parameter, "help", None)
        assert said, f"{name}: {parameter.name} says nothing"
        assert "[" not in said, f"{name}: {parameter.name}: --help takes brackets for markup"


def test_flag_list() -> None:
    """A new option needs a reason: it changes this list."""
    found = {n: {o for p in c.params for o in p.opts if o[0] == "-"} for n, c in commands().items()}
    elsewhere = {name for name, flags in found.items() if "--at" in flags}
    jobs = {"import", "flow", "manifest", "pack", "train", "test", "predict", "eval"}
    assert elsewhere == jobs
    found = {name: flags - {"--at"} for name, flags in found.items()}
    common = {"--data", "--force", "--json", "--quiet", "-q"}
    assert found == {
        "import": common | {"--stride", "--own", "--masks"},
        "datasets": {"--data", "--json", "--quiet", "-q"},
        "flow": common
        | {"--engine", "--weights", "--updates", "--preset", "--tail", "--colour", "--out"}
        | {"--device", "--precision", "--batch", "--compile", "--memory", "--max-side"}
        | {"--direction", "--gap", "--format", "--video", "--preview", "--dry-run", "--cluster"},
        "export": {"--layout", "--out", "--data", "--json", "--quiet", "-q"},
        "manifest": {"--check", "--quick", "--root"}
        | {"--name", "--split", "--videos", "--sample", "--seed", "--weight"}
        | {"--layout"}
        | {"--preview"}
        | {"--out", "--data", "--json", "--quiet", "-q"},
        "pack": common
        | {"--format", "--size", "--tier", "--flow", "--to", "--dry-run", "--cluster"},
        "store": {"--preview"} | {"--check", "--data", "--json", "--quiet", "-q"},
        "unpack": {"--out", "--force", "--json", "--quiet", "-q"},
        "train": {"--manifest", "--stage", "--set", "--backbone-weights", "--init", "--run"}
        | {"--resume", "--workers", "--device", "--quiet", "-q"}
        | {"--cache-dir", "--cache-size"}
        | {"--recipe", "--strict-data", "--log", "--compile"}
        | {"--task"}
        | {"--json"},
        "pseudo": {"--checkpoint", "--manifest", "--task", "--dataset", "--out", "--crf"}
        | {"--batch", "--device", "--force", "--quiet", "-q"}
        | {"--json"},
        "recipe": {"--stage", "--recipe", "--set"},
        "test": {"--checkpoint", "--manifest", "--dataset", "--out", "--device", "--force"}
        | {"--crf", "--batch"}
        | {"--quiet", "-q"},
        "predict": common
        | {"--checkpoint", "--out", "--no-overlay", "--audio", "--fps", "--keep-flow", "--crf"}
        | {"--engine", "--weights", "--updates", "--preset", "--precision", "--max-side"}
        | {"--colour", "--tail", "--batch", "--device"},
        "eval": {"--manifest", "--protocol", "--frames", "--resize", "--workers", "--format"}
        | {"--metric", "--curves", "--attributes", "--compare", "--json", "--quiet", "-q"},
        "weights": {"--json"},
        "doctor": {"--data", "--json"},
        "report": {"--manifest", "--out", "--protocol", "--frames", "--resize", "--workers"}
        | {"--json", "--quiet", "-q"},
        "serve": {"--data", "--host", "--port", "--cluster", "--watch", "--jobs", "--engine"},
        "demo": {"--out", "--json", "--quiet", "-q"},
    }


def test_no_machine_paths_and_no_prints() -> None:
    for folder in FOLDERS.values():
        for file in (ROOT / folder).glob("*.py"):
            text = file.read_text(encoding="utf-8")
            assert "/work/" not in text and "/tmp/" not in text.replace("--out /tmp/demo", "")
            calls = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call)]
            prints = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
            allowed = file.stem in ("cli", "progress", "manifest", "inventory")
            assert allowed or not prints, f"{file} prints"
