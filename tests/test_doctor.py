"""`vsodpipe doctor` tells what is there and what is missing, and ends well whatever it finds."""

import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from vsodpipe import doctor

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).resolve().parents[1]


def test_everything_is_told(vsodpipe: Run, tmp_path: Path) -> None:
    code, out, err = vsodpipe("doctor", "--json", "--data", tmp_path)
    assert code == 0 and err == ""
    found = {row["name"]: row for row in json.loads(out)["findings"]}
    assert found["python"]["found"].startswith(sys.version.split()[0])
    for name in ("CPU", "CUDA", "JPEG", "PNG and WebP", "video files", "data root"):
        assert found[name]["fine"], found[name]
    assert "MB/s" in found["data root"]["found"] and not list(tmp_path.iterdir())
    assert set(doctor.EXTRAS) <= set(found)
    code, out, _ = vsodpipe("doctor", "--data", tmp_path / "new")
    assert code == 0 and "not there yet" in " ".join(out.split())


def test_what_is_broken_is_a_line(
    vsodpipe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> str:
        raise ImportError("no \x1b library")

    monkeypatch.setattr(doctor, "_cuda", broken)
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package",))
    code, out, _ = vsodpipe("doctor", "--data", tmp_path)
    words = " ".join(out.split())
    assert code == 0 and "no \\x1b library" in words and "pip install no-such-package" in words
    assert "matplotlib missing, needed by: eval --curves" in words
    assert 'pip install "vsodpipe[plots]"' in words


def test_a_root_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    found = doctor._checked("data root", "disk", lambda: doctor._disk(tmp_path), "Name another.")
    assert not found.fine and "Permission denied" in found.found


def test_extras_are_those_of_the_package() -> None:
    with open(ROOT / "pyproject.toml", "rb") as file:
        known = tomllib.load(file)["project"]["optional-dependencies"]
    assert doctor.EXTRAS.keys() == known.keys() - {"docs", "test"}
    for extra, (modules, _) in doctor.EXTRAS.items():
        assert set(modules) == {Requirement(needed).name for needed in known[extra]}
