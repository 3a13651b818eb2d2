"""Rows of a txt, ours and others', as manifests; and what else `--manifest` may name."""

import os
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from vsodpipe import inputs, manifest, manifest_txt
from vsodpipe.errors import DataError
from vsodpipe.manifest import Source, Split


def rows_of(source: Source, split: str) -> list[list[str]]:
    found = source.split(split)
    return [
        [source.path(path) if path else "-" for path in (f.img, f.gt, f.flow)]
        for video in found.videos
        for f in video.frames
    ]


def contents(source: Source, split: Split) -> list[tuple[str, str, list[str]]]:
    """Return video, frame and full paths of a split, whatever the root."""
    return [
        (v.name, f.name, [source.path(p) for p in (f.img, f.gt, f.flow) if p])
        for v in split.videos
        for f in v.frames
    ]


def test_our_own_rows_read_back(source: Source) -> None:
    read = inputs.open_manifest(source.file.with_name("tiny_train.txt"))
    (split,) = read.manifest.datasets
    written = source.split("TINY_train")
    assert contents(read, split) == contents(source, written)
    assert (split.dataset, split.split, split.flow) == ("tiny_train", "train", written.flow)
    assert [video.size for video in split.videos] == [(48, 64), (48, 64)]


@pytest.mark.parametrize("mark", [" ", "\t", "   ", " \t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("columns", [2, 3])
def test_separators_and_line_ends(
    source: Source, tmp_path: Path, mark: str, end: str, columns: int
) -> None:
    rows = rows_of(source, "TINY_test")
    text = "".join(mark.join(row[:columns]) + end for row in rows[::-1])
    file = tmp_path / "TINY_test.txt"
    file.write_bytes(f"\ufeff# img gt{end}{end}{text}{end}".encode())
    read = inputs.open_manifest(str(file))
    (split,) = read.manifest.datasets
    assert [(n, p) for _, n, p in contents(read, split)] == [
        (f"{number:05d}", row[:columns]) for number, row in enumerate(rows)
    ]
    assert (split.flow is not None) == (columns == 3)
    assert split.videos[0].name == "dice"


@pytest.mark.parametrize("where", ["txt", "cwd", "root"])
def test_relative_paths(
    source: Source, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Path(source.root)
    text = "\n".join(
        " ".join("-" if p == "-" else os.path.relpath(p, base) for p in row)
        for row in rows_of(source, "TINY_test")
    )
    file = (base if where == "txt" else tmp_path) / "list.txt"
    file.write_text(text)
    if where == "cwd":
        monkeypatch.chdir(base)
    else:
        monkeypatch.chdir(tmp_path / "manifests")
    read = manifest_txt.read(file, base if where == "root" else None)
    assert read.root == str(base / "TINY_test/dice")
    assert read.manifest.datasets[0].videos[0].frames[1].img == "RGB/00001.jpg"
    if where == "root":
        with pytest.raises(
            DataError,
            match="first frame .* is not there .*vsodpipe manifest .*list.txt --root FOLDER",
        ):
            manifest_txt.read(file)


@pytest.mark.parametrize(
    ("place", "video"),
    [
        ("bear/RGB/00000.jpg", "bear"),
        ("bear/Imgs/00000.jpg", "bear"),
        ("DAVIS/JPEGImages/480p/bear/00000.jpg", "bear"),
        ("DAVIS/JPEGImages/bear/00000.jpg", "bear"),
        ("DAVIS/bear/image/00000.jpg", "bear"),
        ("own_test/RGB/bear_00000.jpg", "bear"),
    ],
)
def test_names_of_videos(source: Source, tmp_path: Path, place: str, video: str) -> None:
    (tmp_path / "x" / place).parent.mkdir(parents=True)
    (tmp_path / "x" / place).write_bytes(Path(rows_of(source, "TINY_test")[0][0]).read_bytes())
    (tmp_path / "x" / "own_test.txt").write_text(f"{place} -\n")
    (split,) = manifest_txt.read(tmp_path / "x" / "own_test.txt").manifest.datasets
    assert [v.name for v in split.videos] == [video]
    assert split.split == "test" and split.videos[0].frames[0].gt is None


def test_still_pictures_of_a_card_are_videos_of_their_own(source: Source, tmp_path: Path) -> None:
    rows = rows_of(source, "TINY_test")
    (tmp_path / "duts_train.txt").write_text("".join(f"{r[0]} {r[1]}\n" for r in rows))
    (split,) = manifest_txt.read(tmp_path / "duts_train.txt").manifest.datasets
    assert (split.dataset, len(split.videos), split.frames) == ("DUTS_train", 5, 5)


def test_flow_of_unknown_make(source: Source, tmp_path: Path) -> None:
    Path(source.root, "TINY_test/dice/FLOW/flow.json").unlink()
    rows = rows_of(source, "TINY_test")
    rows[-1][2] = "-"
    (tmp_path / "a.txt").write_text("".join(" ".join(row) + "\n" for row in rows))
    (split,) = manifest_txt.read(tmp_path / "a.txt").manifest.datasets
    assert split.flow == {**manifest_txt.UNKNOWN, "tail": "none"}
    assert [f.flow is None for f in split.videos[0].frames] == [False] * 4 + [True]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "no row in it"),
        (b"# nothing\n\n", "no row in it"),
        (b"a.jpg\n", "row 1: expected img gt"),
        (b"#\na b c d\n", "row 2: expected img gt"),
        (b"- a.png\n", "row 1: expected img gt"),
        (b"http://x/a.jpg http://x/b.png\n", "row 1: expected paths of files"),
        (b"a\0.jpg b.png\n", "row 1: expected paths of files"),
        (b"../../no/such.jpg b.png\n", "is not there"),
        (b"\x1b[2J.jpg b.png\n", r"'\\x1b\[2J.jpg' is not there"),
        (b"\xff\xfe\n\xff " * 1000, "row 1: expected img gt"),
    ],
)
def test_rows_that_are_none(tmp_path: Path, text: bytes, words: str) -> None:
    (tmp_path / "x.txt").write_bytes(text)
    with pytest.raises(DataError, match=words) as error:
        inputs.open_manifest(tmp_path / "x.txt")
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)
    assert len(str(error.value)) < 1000


def test_a_row_that_is_there_twice(source: Source, tmp_path: Path) -> None:
    row = " ".join(rows_of(source, "TINY_test")[0])
    (tmp_path / "x.txt").write_text(f"{row}\n{row}\n")
    with pytest.raises(DataError, match="name '00000' is there 2 times"):
        inputs.open_manifest(tmp_path / "x.txt")


def test_conversion(
    source: Source, tmp_path: Path, vsodpipe: Callable[..., tuple[int, str, str]]
) -> None:
    files = [f"manifests/tiny_{split}.txt" for split in ("train", "test")]
    code, _, err = vsodpipe("manifest", *files, "--out", "new")
    assert code == 0, err
    read = manifest.read(tmp_path / "new/tiny.json")
    assert read.names() == ["tiny_train", "tiny_test"] and read.root == source.root
    for name in ("train", "test"):
        made = contents(read, read.split(f"tiny_{name}"))
        assert made == contents(source, source.split(f"TINY_{name}"))
    again = inputs.open_manifest(tmp_path / "new/tiny_test.txt").manifest.datasets[0]
    assert again == inputs.open_manifest(tmp_path / files[1]).manifest.datasets[0]
    assert "would be written over" in vsodpipe("manifest", files[0])[2]
    assert "name txt files alone" in vsodpipe("manifest", files[0], "tiny")[2]
    assert "--root: only for txt" in vsodpipe("manifest", "tiny", "--root", ".")[2]
    assert vsodpipe("manifest", "--check", *files)[0] == 0


def test_a_json_at_a_url(source: Source) -> None:
    text = source.file.read_bytes()
    for place in ("data/manifests", "bucket"):
        with fsspec.open(f"memory://{place}/tiny.json", "wb") as file:
            file.write(text)
    read = inputs.open_manifest("memory://data/manifests/tiny.json")
    assert read.manifest == source.manifest and read.sha256() == source.sha256()
    assert read.root == "memory://data/datasets"
    # a root does not climb over the host
    assert inputs.open_manifest("memory://bucket/tiny.json").root == "memory://bucket/datasets"
    with fsspec.open("memory://bucket/bad.json", "wb") as file:
        file.write(text.replace(b'"../datasets"', b'"file:///etc"'))
    with pytest.raises(DataError, match="is on your disk"):
        inputs.open_manifest("memory://bucket/bad.json")
    with pytest.raises(DataError, match="cannot be read"):
        inputs.open_manifest("memory://bucket/none.json")


def test_a_folder_in_a_published_layout(source: Source, tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    place = tmp_path / "up" / "set"
    Path(source.root, "TINY_test").rename(place)
    for old, new in (("RGB", "Imgs"), ("GT", "ground-truth")):
        (place / "dice" / old).rename(place / "dice" / new)
    read = inputs.open_manifest(tmp_path / "up")
    assert read.root == str(tmp_path / "up")
    assert [v.name for v in read.manifest.datasets[0].videos] == ["dice"]
    assert len(read.sha256()) == 64
