"""Hostile manifests: one clear line, no traceback, bounded time and memory, nothing raw printed."""

import copy
import json
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vsodpipe import manifest, manifest_check, manifest_text, manifest_txt, media
from vsodpipe.errors import VsodpipeError
from vsodpipe.manifest import Frame, Manifest, Split, Video
from vsodpipe.progress import Reporter, printable

GOOD: dict[str, Any] = {
    "version": 1,
    "name": "tiny",
    "root": ".",
    "datasets": [
        {
            "dataset": "TINY_train",
            "split": "train",
            "flow": {"fingerprint": "x", "engine": {"engine": "dis"}},
            "weight": 1.5,
            "videos": [
                {
                    "name": "ball",
                    "size": [48, 64],
                    "frames": [
                        {"name": "0", "img": "a/0.jpg", "gt": "b/0.png", "flow": "c/0.jpg"},
                        {"name": "1", "img": "a/1.jpg"},
                    ],
                }
            ],
        }
    ],
}

NASTY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=30),
    st.sampled_from(
        ["..", "/etc/passwd", "a/../../b", "\x1b[2J\x1b]0;x\x07", "x" * 5000, "\udc80"]
    ),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the ways to every value inside `value`."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [at, *(place for key, held in inner for place in places(held, (*at, key)))]


def read_or_refused(folder: Path, data: bytes) -> str:
    """Return the error of a manifest in words, empty where it was read; nothing else is raised."""
    file = folder / "m.json"
    file.write_bytes(data)
    try:
        manifest.read(file)
    except VsodpipeError as error:
        words = str(error)
        assert error.exit_code == 2 and str(file) in words
        assert "\n" not in words and len(words) < 1000 + len(str(file))
        assert words.replace(str(file), "").isprintable(), repr(words)
        return words
    return ""


shared = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@shared
@given(where=st.sampled_from(places(GOOD)[1:]), value=NASTY, key=st.one_of(st.none(), st.text()))
def test_any_value_in_any_place(
    tmp_path: Path, where: tuple[Any, ...], value: Any, key: str | None
) -> None:
    values = copy.deepcopy(GOOD)
    holder: Any = values
    for step in where[:-1]:
        holder = holder[step]
    if key is not None and isinstance(holder, dict):
        holder[key] = value
    else:
        holder[where[-1]] = value
    read_or_refused(tmp_path, json.dumps(values).encode())


@shared
@given(start=st.integers(0, 400), stop=st.integers(0, 400), middle=st.binary(max_size=20))
def test_torn_and_garbled_bytes(tmp_path: Path, start: int, stop: int, middle: bytes) -> None:
    data = json.dumps(GOOD).encode()
    read_or_refused(tmp_path, data[:start] + middle + data[stop:])


@shared
@given(data=st.binary(max_size=300))
def test_any_bytes_as_rows(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "rows.txt"
    file.write_bytes(data)
    with pytest.raises(VsodpipeError) as error:  # no file of such a name is there
        manifest_txt.read(file)
    words = str(error.value).replace(str(file), "")
    assert error.value.exit_code == 2 and "\n" not in words and words.isprintable()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\xff\xfe\x00", "not a JSON file"),
        (b"{" * 100_000, "not a JSON file"),
        (b'{"a":' * 100_000, "not a JSON file"),
        (b"[" * 100_000 + b"]" * 100_000, "not a JSON file"),
        (b'{"weight": NaN}', "NaN is no number"),
        (b'{"weight": -Infinity}', "-Infinity is no number"),
        (b'{"version": 1, "version": 2}', "key 'version' is there twice"),
        (b'{"\\u001b[2J": 1, "\\u001b[2J": 2}', "is there twice"),
        (b'{"version": ' + b"9" * 10_000 + b"}", "not a JSON file"),
        (b"{" + b",".join(b'"%d":1' % n for n in range(2000)) + b"}", "an object of 2000 keys"),
        (b'{"\\u001b[2J": 1}', "not a valid manifest"),
    ],
)
def test_texts_that_are_none(tmp_path: Path, data: bytes, words: str) -> None:
    assert words in read_or_refused(tmp_path, data)


@pytest.mark.parametrize("key", ["name", "img"])
@pytest.mark.parametrize("text", ["x" * 10_000_000, "\x1b[31m" * 100, "a\nb", "\u202eabc"])
def test_names_that_are_long_or_of_control_characters(tmp_path: Path, key: str, text: str) -> None:
    values = copy.deepcopy(GOOD)
    values["datasets"][0]["videos"][0]["frames"][1][key] = text
    words = read_or_refused(tmp_path, json.dumps(values).encode())
    assert f"frames.1.{key}" in words and ("control" in words or "the limit is" in words)


@pytest.mark.parametrize("unit", [b"[],", b"{},", b'{"a":1},', b"1,", b'"ab",', b'{"name":"1"},'])
def test_much_garbage_takes_little_time_and_memory(tmp_path: Path, unit: bytes) -> None:
    size = 1_100_000  # above it, what only looks like a manifest is refused by its signs
    for start in (b"[", b'{"version": 1, "name": "x", "root": ".", "datasets": ['):
        end = b"]" if start == b"[" else b"]}"
        data = start + unit * (size // len(unit)) + unit[:-1] + end
        tracemalloc.start()
        began = time.process_time()
        try:
            assert read_or_refused(tmp_path, data)
            assert time.process_time() - began < 5
            assert tracemalloc.get_traced_memory()[1] < 20 * size
        finally:
            tracemalloc.stop()


def test_a_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "MAX_BYTES", 1000)
    assert "more than the limit of 1000 bytes" in read_or_refused(tmp_path, b"x" * 1001)
    assert manifest_text.MAX_BYTES == 2**29
    with pytest.raises(VsodpipeError, match="more than the limit"):
        media.read_bytes("/dev/zero", limit=1000)


def test_links_are_followed_but_the_text_of_a_path_stays_inside(tmp_path: Path) -> None:
    """`vsodpipe import` makes links out of the root; one that goes round is an error."""
    (tmp_path / "elsewhere.png").write_bytes(b"x")
    (tmp_path / "root").mkdir()
    os.symlink(tmp_path / "elsewhere.png", tmp_path / "root/a.png")
    os.symlink("loop.json", tmp_path / "loop.json")
    frames = (Frame(name="0", img="root/a.png"),)
    video = Video(name="a", size=(1, 1), frames=frames)
    made = Manifest(name="x", root=".", datasets=(Split(dataset="X", videos=(video,)),))
    file = manifest.write(made, tmp_path, tmp_path)[0]
    source = manifest.read(file)
    assert Path(source.path("root/a.png")).read_bytes() == b"x"
    with pytest.raises(VsodpipeError, match="Too many levels of symbolic links"):
        manifest.read(tmp_path / "loop.json")
    os.symlink("round", tmp_path / "round")
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "root": "round"}))
    verdict = manifest_check.check([manifest.read(file)], Reporter(quiet=True))
    assert verdict.problems["missing"] == 1
    with pytest.raises(VsodpipeError, match="cannot be written"):
        manifest.write(made, tmp_path / "round", tmp_path)
    assert manifest.relative_root(tmp_path, tmp_path / "round") == ".."


def test_the_terminal_gets_no_escapes(
    tmp_path: Path, vsodpipe: Callable[..., tuple[int, str, str]]
) -> None:
    assert printable("a\x1b[2Jb\nc é") == "a\\x1b[2Jb\nc é"
    values = copy.deepcopy(GOOD)
    values["datasets"][0]["flow"] = {"fingerprint": "\x1b[31m", "engine": {"engine": "\x1b[2J"}}
    for name in ("c/flow.json", "m.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / "c/flow.json").write_text('{"fingerprint": "\\u001b[1m"}')
    (tmp_path / "m.json").write_text(json.dumps(values))
    code, out, err = vsodpipe("manifest", "--check", "m.json")
    assert code == 2 and "\\x1b[31m" in err and "\x1b" not in out + err


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(st.text("abc é_-.", min_size=1, max_size=8), min_size=1, max_size=5, unique=True)
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    names = [name for name in names if name.strip(". ")]
    if not names:
        return
    folder = tmp_path_factory.mktemp("m")
    frames = tuple(Frame(name=name, img=f"x/{name}.jpg") for name in names)
    video = Video(name="v", size=(3, 4), frames=frames)
    made = Manifest(name="m", root=".", datasets=(Split(dataset="D", videos=(video,)),))
    assert manifest.read(manifest.write(made, folder, folder)[0]).manifest == made
