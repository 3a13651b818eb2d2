"""What the package is made with: declared, used, with floors, fitting together, licences listed."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIRED = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = {
    name: [Requirement(text) for text in texts]
    for name, texts in PROJECT["optional-dependencies"].items()
}
IMPORT_NAMES = {
    "google-crc32c": "google_crc32c",
    "huggingface-hub": "huggingface_hub",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
}
"""Import names that are not those of the package."""
UNTESTED = {"mlflow", "playwright", "wandb"}
"""Optional packages that the tested set need not have: their tests skip without them."""


def imported() -> set[str]:
    """Return the packages that the code imports, at the top of a file or in a function."""
    found = set()
    for folder in ("pipeline", "flows", "models"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {"vsodpipe"}


def names(requirements: list[Requirement]) -> set[str]:
    """Return the import names of packages."""
    return {IMPORT_NAMES.get(each.name, each.name.replace("-", "_")) for each in requirements}


def constraints() -> dict[str, str]:
    """Return package -> version of the tested set."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name: version for name, version in pairs}


def test_every_dependency_is_used_and_every_import_declared() -> None:
    lazy = {"dask": "distributed"}  # what `dask[distributed]` brings
    needed, found = names(REQUIRED), imported()
    optional = names([each for several in EXTRAS.values() for each in several])
    used = found | {package for package, other in lazy.items() if other in found}
    assert needed <= used, f"declared and not used: {needed - used}"
    undeclared = found - needed - optional - set(lazy.values())
    assert not undeclared, f"used and not declared: {undeclared}"


@pytest.mark.parametrize("requirement", REQUIRED, ids=str)
def test_every_dependency_has_a_floor_and_no_ceiling(requirement: Requirement) -> None:
    assert [each.operator for each in requirement.specifier] == [">="]


def test_the_floors_are_those_of_the_docs() -> None:
    """What was tested is what is asked for."""
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"\| ([a-z0-9-]+) \| ([0-9.]+) (?=\|)", text))
    asked = {each.name: Version(next(iter(each.specifier)).version) for each in REQUIRED}
    assert asked == {name: Version(listed[name]) for name in asked}


def test_the_tested_set_satisfies_what_is_asked_for() -> None:
    held = constraints()
    assert list(held) == sorted(held) and "vsodpipe" not in held
    every = [*REQUIRED, *(each for several in EXTRAS.values() for each in several)]
    for requirement in every:
        if requirement.name in UNTESTED:
            continue
        version = held[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}: {version}"


def test_what_is_installed_fits_together() -> None:
    """`pip check`, for what vsodpipe needs and no other package of the environment."""
    todo, seen = [*REQUIRED], set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        found = importlib.metadata.distribution(name)
        assert requirement.specifier.contains(found.version, prereleases=True), (
            f"{requirement}: {found.version} is installed"
        )
        key = (name, *sorted(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        extras = {"", *requirement.extras}
        for text in found.requires or []:
            inner = Requirement(text)
            if inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in extras):
                todo.append(inner)
    assert len(seen) > len(REQUIRED)


def test_licences_are_listed() -> None:
    text = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"(?m)^\| ([\w-]+)", text))
    every = {each.name for each in REQUIRED}
    every |= {each.name for name, several in EXTRAS.items() if name != "test" for each in several}
    assert every <= listed, f"not in docs/licences.md: {every - listed}"
