"""What is promised of commands that are killed, starved or disturbed; docs/reliability.md.

`FAULTS=long` in the environment disturbs every command in every way.
"""

import errno
import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from faults.kills import kill_often
from faults.world import COMMANDS, Tree, World, differences, tree
from faults.zygote import Ended, Fault, Zygote
from vsodpipe import media

LONG = os.environ.get("FAULTS") == "long"
KILLED = ("import", "flow-force", "pack-force", "train", "test")
DISTURBED = ("import", "import-archive", "flow", "manifest", "pack", "pack-hdf5", "train", "test")
SOME = DISTURBED if LONG else ("flow", "pack", "train")
ONLY_READ = ("eval", "report")
"""They write when all is done."""
REFUSED = [(name, number) for name in DISTURBED for number in (errno.ENOSPC, errno.EROFS)]
if not LONG:
    REFUSED = [("flow", errno.EROFS), ("pack", errno.ENOSPC), ("train", errno.EROFS)]


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    base = tmp_path_factory.mktemp("faults")
    with Zygote(base / "world", base / "logs") as started:
        yield started


@pytest.fixture(scope="session")
def world(zygote: Zygote) -> World:
    return World(zygote.cwd.parent)


@pytest.fixture(scope="session")
def results() -> dict[str, Tree]:
    return {}


def expected(zygote: Zygote, world: World, name: str, results: dict[str, Tree]) -> Tree:
    """Return what an undisturbed run leaves; the world is as it is before the command."""
    if name not in results:
        world.reset(zygote, COMMANDS[name].after)
        ended = zygote.run(*COMMANDS[name].argv)
        assert ended.code == 0, ended.err
        results[name] = tree(world.folder)
    world.reset(zygote, COMMANDS[name].after)
    return results[name]


def again(name: str, folder: Path) -> tuple[str, ...]:
    command = COMMANDS[name]
    return command.again(folder) if command.again else command.argv


def error_of(ended: Ended) -> str:
    """Return the one line that a command failed with."""
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and lines[0] == ended.err.splitlines()[-1], ended.err
    assert "Traceback" not in ended.err and "unexpected" not in ended.err, ended.err
    return lines[0]


@pytest.mark.parametrize("name", COMMANDS if LONG else KILLED)
def test_a_killed_command_continues(zygote: Zygote, world: World, name: str) -> None:
    done = kill_often(zygote, world, name, kills=2, seed=1)
    assert done.kills >= 2 and done.faults == []


@pytest.mark.parametrize("name", SOME)
def test_a_full_disk(zygote: Zygote, world: World, name: str) -> None:
    full = world.folder.parent / f"full-{name}"
    full.mkdir()
    world.reset(zygote, COMMANDS[name].after)
    if not zygote.disk(full, "64m"):
        pytest.skip("this system mounts nothing for us")
    seen = zygote.seen(full)
    shutil.copytree(world.folder, seen, symlinks=True, dirs_exist_ok=True)
    state = os.statvfs(seen)
    used = (state.f_blocks - state.f_bfree) * state.f_frsize
    stopped = 0
    for room in (0, 12_000, 60_000) if LONG else (0, 12_000):
        assert zygote.disk(full, str(used + room), again=True)
        ended = zygote.run(*again(name, seen), cwd=full)
        if ended.code:
            assert ended.code == 1 and "ake room" in error_of(ended), ended.err
            stopped += 1
    assert stopped
    assert zygote.disk(full, "64m", again=True)
    ended = zygote.run(*again(name, seen), cwd=full)
    assert ended.code == 0, ended.err
    found = tree(seen)
    shutil.rmtree(world.folder)
    assert zygote.run(*again(name, seen), cwd=full).code == 0
    shutil.copytree(seen, world.folder, symlinks=True)
    assert differences(found, tree(world.folder)) == []


@pytest.mark.parametrize(("name", "number"), REFUSED)
def test_a_disk_that_takes_nothing_any_more(
    zygote: Zygote, world: World, results: dict[str, Tree], name: str, number: int
) -> None:
    plain = expected(zygote, world, name, results)
    for at in (0, 9, 30) if LONG else (9, 30):
        fault = Fault(str(world.folder), at, "fail", error=number)
        ended = zygote.run(*again(name, world.folder), fault=fault)
        if ended.code:
            assert os.strerror(number) in error_of(ended)
            assert ended.code == (1 if number == errno.ENOSPC else 2)
    ended = zygote.run(*again(name, world.folder))
    assert ended.code == 0, ended.err
    assert differences(tree(world.folder), plain) == []


def stopped(zygote: Zygote, world: World, name: str, at: int) -> int:
    """Start a command, which stops before its change number `at` of the disk."""
    process = zygote.start(*COMMANDS[name].argv, fault=Fault(str(world.folder), at, "stop"))
    until = time.monotonic() + 30
    while Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < until
        time.sleep(0.005)
    return process


TOGETHER = {
    "import": (12, "waiting for process {}"),
    "import-archive": (30, "waiting for process {}"),
    "flow": (12, "waiting for process {}"),
    "manifest": (2, ""),
    "pack": (40, "waiting for process {}"),
    "pack-hdf5": (40, "waiting for process {}"),
    "test": (8, "waiting for process {}"),
    "predict": (12, "waiting for process {}"),
    "eval": (1, ""),
    "train": (20, "process {} is training in it"),
}
"""Where the first of two commands stops, and what the second one says of it."""


ENDS = ("goes on", "is killed")
PAIRS = [(name, end) for name in TOGETHER for end in ENDS]
if not LONG:
    PAIRS = [*zip(("import", "pack", "predict", "train"), (*ENDS, *ENDS), strict=True)]


@pytest.mark.parametrize(("name", "end"), PAIRS)
def test_two_commands_at_once(
    zygote: Zygote, world: World, results: dict[str, Tree], name: str, end: str
) -> None:
    plain = expected(zygote, world, name, results)
    at, words = TOGETHER[name]
    first = stopped(zygote, world, name, at)
    second = zygote.start(*again(name, world.folder))
    if name == "train":
        refused = zygote.wait(second)
        assert refused.code == 2 and words.format(first) in error_of(refused)
    else:
        until = time.monotonic() + (30 if words else 0.2)
        while words.format(first) not in zygote.said(second) or not words:
            if time.monotonic() > until:
                break
            time.sleep(0.01)
    os.kill(first, signal.SIGCONT if end == "goes on" else signal.SIGKILL)
    assert zygote.wait(first).code == (0 if end == "goes on" else -signal.SIGKILL)
    if name != "train":
        waited = zygote.wait(second)
        assert waited.code == 0, waited.err
        assert words.format(first) in waited.err
    elif end == "is killed":  # and its lock has ended with it
        assert zygote.run(*again(name, world.folder)).code == 0
    assert differences(tree(world.folder), plain) == []


@pytest.mark.parametrize("times", [1, 2] if LONG else [2])
@pytest.mark.parametrize("name", SOME)
def test_ctrl_c(
    zygote: Zygote, world: World, results: dict[str, Tree], name: str, times: int
) -> None:
    plain = expected(zygote, world, name, results)
    process = stopped(zygote, world, name, 10)
    os.kill(process, signal.SIGINT)
    os.kill(process, signal.SIGCONT)
    if times == 2:
        time.sleep(0.004)
        os.kill(process, signal.SIGINT)
    ended = zygote.wait(process)
    assert ended.code == 130, ended.err
    said = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and "interrupted" in said[0], ended.err
    ended = zygote.run(*again(name, world.folder))
    assert ended.code == 0, ended.err
    assert differences(tree(world.folder), plain) == []


@pytest.mark.parametrize(
    ("name", "file", "words"),
    [
        ("flow", "data/TINY_train/cube/RGB/00003.jpg", "RGB/00003.jpg"),
        ("pack", "data/TINY_train/cube/GT/00003.png", "GT/00003.png"),
        ("train", "data/TINY_test/dice/GT/00001.png", "GT/00001.png"),
        ("test", "data/TINY_test/dice/RGB/00004.jpg", "RGB/00004.jpg"),
        ("predict", "data/TINY_test/dice/RGB/00004.jpg", "RGB/00004.jpg"),
        ("eval", "runs/r/maps/TINY_test/dice/00004.png", "dice/00004.png"),
        ("report", "data/TINY_test/dice/GT/00004.png", "GT/00004.png"),
    ],
)
def test_a_file_that_vanishes_under_the_job(
    zygote: Zygote, world: World, results: dict[str, Tree], name: str, file: str, words: str
) -> None:
    plain = expected(zygote, world, name, results)
    kept = world.folder.parent / "kept-file"
    shutil.copy2(world.folder / file, kept)
    target = str(world.folder / file)
    fault = Fault(str(world.folder), 5, "remove", target=target)
    if name in ONLY_READ:
        first = target.replace("00004", "00000")
        fault = Fault(str(world.folder), 0, "remove", target=target, read=first)
    ended = zygote.run(*again(name, world.folder), fault=fault)
    assert ended.code == 2 and words in error_of(ended)
    shutil.copy2(kept, world.folder / file)
    ended = zygote.run(*again(name, world.folder))
    assert ended.code == 0, ended.err
    assert differences(tree(world.folder), plain) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("flow", "ball: its frames changed while their flow was computed. Run again."),
        ("pack", "TINY_train: files changed while they were packed. Run again."),
        ("predict", "video RGB: has changed while it was read. Run again."),
    ],
)
def test_a_file_that_changes_after_it_was_read(
    zygote: Zygote, world: World, name: str, words: str
) -> None:
    """A byte after the end of the picture is cut off: the same pixels, but another file."""
    world.reset(zygote, COMMANDS[name].after)
    video = "TINY_test/dice" if name == "predict" else "TINY_train/ball"
    file = world.folder / f"data/{video}/RGB/00000.jpg"
    file.write_bytes(file.read_bytes() + b"\0")
    if name == "pack":  # its flow is of that file
        world.reset(zygote, COMMANDS[name].after)
        file.write_bytes(file.read_bytes() + b"\0")
    at = {"flow": 8, "pack": 60, "predict": 26}[name]
    fault = Fault(str(world.folder), at, "shorten", target=str(file))
    ended = zygote.run(*COMMANDS[name].argv, fault=fault)
    assert ended.code == 2 and words in error_of(ended)
    assert not [n for n in tree(world.folder) if "partial" in n]
    assert zygote.run(*COMMANDS[name].argv).code == 0


@pytest.mark.parametrize("name", SOME)
def test_a_clock_that_jumps(
    zygote: Zygote, world: World, results: dict[str, Tree], name: str
) -> None:
    """What a killed command left is of 1970 or of the year 2100, and the clock goes back a day."""
    plain = expected(zygote, world, name, results)
    before = set(world.folder.rglob("*"))
    root, at = str(world.folder), {"import": 30, "manifest": 3}.get(name, 12)
    assert zygote.run(*COMMANDS[name].argv, fault=Fault(root, at)).code == -signal.SIGKILL
    # the store of a pack notes the times of what it is made from
    touched = set(world.folder.rglob("*")) - (before if name.startswith("pack") else set())
    for number, path in enumerate(sorted(touched)):
        when = (0, 4_102_444_800)[number % 2]
        os.utime(path, (when, when), follow_symlinks=False)
    ended = zygote.run(*again(name, world.folder), fault=Fault(root, 5, "clock", error=-86_400))
    assert ended.code == 0, ended.err
    assert differences(tree(world.folder), plain) == []


def test_a_file_that_is_written_twice_at_once(tmp_path: Path) -> None:
    """Each writer waits for the other: the file is always whole, and of one of them."""
    file = tmp_path / "file"
    contents = [bytes([65 + n]) * (200_000 + n) for n in range(4)]

    def write(content: bytes) -> None:
        for _ in range(10):
            media.write_bytes(file, content)
            assert file.read_bytes() in contents

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, contents))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
