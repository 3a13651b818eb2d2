"""The documentation is true: its commands exist, and its site builds and is self-contained."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
import typer

from vsodpipe import cli

UsageError = typer.BadParameter.__mro__[1]  # of the click that typer brings along
ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
INLINE = re.compile(r"`(vsodpipe [^`]+)`")
END = re.compile(r"\s(?:[|>;#]|&&|2>)|\s{3,}")
"""Where a command of a code block ends: at the shell's next, a comment, or a column of prose."""


def blocks(text: str) -> Iterator[str]:
    """Yield the code of a page, indented or fenced, its continued lines joined."""
    fenced = False
    lines = []
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            lines.append(line.strip())
    yield from re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines()


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words behind `vsodpipe` of every command in the code of a page."""
    for line in blocks(text):
        for found in re.finditer(r"(?:^|&& |\$\(which )vsodpipe\)? ", line):
            yield shlex.split(END.split(line[found.end() :])[0])


def command(words: list[str]) -> click.Command:
    known: dict[str, click.Command] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    assert words[0] in known, f"there is no command {words[0]}"
    return known[words[0]]


def check_options(words: list[str]) -> None:
    """Raise for options that a command has not; what it lacks does not matter."""
    if words[0].startswith("-"):
        own = {option for p in typer.main.get_command(cli.app).params for option in p.opts}
        assert words[0] in own, f"there is no option {words[0]}"
        return
    named = command(words)
    parser = named.make_parser(named.context_class(named, resilient_parsing=True))
    parser.ctx = None  # or it would pass over what it does not know
    parser.parse_args(args=[word for word in words[1:] if word != "..."])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for words in commands(text):
        try:
            if "..." in words or words[0].startswith("-"):
                check_options(words)
            else:
                command(words).make_context(words[0], words[1:])
        except UsageError as error:
            pytest.fail(f"{page.name}: vsodpipe {shlex.join(words)}: {error.format_message()}")
    for found in INLINE.findall(re.sub(r"\s+", " ", text)):
        try:
            check_options(END.split(found)[0].split()[1:])
        except UsageError as error:
            pytest.fail(f"{page.name}: `{found}`: {error.format_message()}")


def test_commands_are_found_and_wrong_ones_are_seen() -> None:
    text = (
        "    pip install . && vsodpipe demo\n\n    vsodpipe flow A --engine dis     # a comment\n"
        "    vsodpipe train dbsnet \\\n        --stage debug   what it does\n"
        "```\nvsodpipe recipe dbsnet > a.toml\n```\n    torchrun -- $(which vsodpipe) doctor\n"
    )
    assert [*commands(text)] == [
        ["demo"],
        ["flow", "A", "--engine", "dis"],
        ["train", "dbsnet", "--stage", "debug"],
        ["recipe", "dbsnet"],
        ["doctor"],
    ]
    assert len([*commands((ROOT / "README.md").read_text(encoding="utf-8"))]) >= 8
    with pytest.raises(UsageError, match="--engin"):
        check_options(["flow", "--engin", "dis"])
    check_options(["--install-completion"])
    with pytest.raises(AssertionError, match="there is no option --instal"):
        check_options(["--instal"])
    with pytest.raises(AssertionError, match="there is no command flo"):
        command(["flo"])
    with pytest.raises(UsageError):
        command(["train"]).make_context("train", ["dbsnet"])


def test_links() -> None:
    """Files that pages name are there."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (page.parent / target).is_file(), f"{page.name} links to {target}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("material") is None or find_spec("mkdocstrings_handlers") is None:
        pytest.skip("no mkdocs here: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    build += ["-f", str(ROOT / "docs" / "site" / "mkdocs.yml"), "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # about mkdocs, not these pages
    done = subprocess.run(build, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_site_holds_every_page_and_the_api(site: Path) -> None:
    for page in PAGES[1:]:
        assert (site / f"{page.stem}.html").is_file()
    start = (site / "index.html").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert f'href="{page.stem}.html"' in start, f"{page.name} is not in the menu"
    assert (site / "demo.jpg").is_file() and "vsodpipe demo" in start
    data = (site / "api" / "data.html").read_text(encoding="utf-8")
    for name in ("stream.loader", "reader.open_store", "manifest.Manifest"):
        assert f'id="vsodpipe.{name}"' in data
    assert "Open the store at a path or fsspec URL" in data


def test_site_loads_nothing_from_elsewhere(site: Path) -> None:
    loads = re.compile(
        r"""<(?:script|img|iframe|source|video|audio)[^>]*\ssrc=["']?(?:https?:)?//"""
        r"""|<link(?=[^>]*\srel=["']?(?:stylesheet|icon|pre))[^>]*\shref=["']?(?:https?:)?//"""
    )
    pages = [*site.rglob("*.html")]
    assert len(pages) > len(PAGES)
    for page in pages:
        assert not (found := loads.search(page.read_text(encoding="utf-8"))), (page.name, found)
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"""(?:url\(|@import )\s*["']?(?:https?:)?//""", text), sheet.name
