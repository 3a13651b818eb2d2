"""Parts and mixtures of manifests: whole, deterministic, and never in the place of another."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import write_video
from vsodpipe import manifest, media, subsets, synth
from vsodpipe.errors import UsageError
from vsodpipe.manifest import Frame, Manifest, Source, Split, Video
from vsodpipe.subsets import Choice, Part

Run = Callable[..., tuple[int, str, str]]
NAMES = st.text("abcxyz01-", min_size=1, max_size=6)


def video(dataset: str, name: str, frames: int, **more: str) -> Video:
    made = [
        Frame(name=str(t), img=f"{dataset}/{name}/RGB/{t}.jpg", gt=f"{dataset}/{name}/GT/{t}.png")
        for t in range(frames)
    ]
    return Video(name=name, size=(4, 6), frames=tuple(made))


@st.composite
def manifests(draw: st.DrawFn, prefix: str = "D") -> Manifest:
    """A manifest of one to three data sets of one to six videos."""
    splits = []
    for k in range(draw(st.integers(1, 3))):
        dataset = f"{prefix}{k}_{('train', 'val', 'test')[k]}"
        names = draw(st.lists(NAMES, min_size=1, max_size=6, unique=True))
        videos = tuple(video(dataset, name, draw(st.integers(1, 2))) for name in names)
        weight = draw(st.sampled_from([None, 0.5, 2.0]))
        split = dataset.partition("_")[2]
        splits.append(Split(dataset=dataset, split=split, weight=weight, videos=videos))
    return Manifest(name="m", root="/data", datasets=tuple(splits))


def names(of: Manifest) -> dict[str, list[str]]:
    return {split.dataset: [v.name for v in split.videos] for split in of.datasets}


def files(of: Manifest, root: str) -> list[tuple[str, str, str, str]]:
    """Every (data set, video, kind, full path)."""
    return [
        (split.dataset, v.name, kind, str(Path(root) / path))
        for split in of.datasets
        for v in split.videos
        for frame in v.frames
        for kind in ("img", "gt", "flow", "depth", "thermal")
        if (path := getattr(frame, kind)) is not None
    ]


@given(manifests(), st.integers(1, 6), st.integers(0, 99), st.randoms())
def test_a_sample_is_a_part_that_seed_and_names_decide(whole, count, seed, random) -> None:  # type: ignore[no-untyped-def]
    most = min(len(split.videos) for split in whole.datasets)
    if count > most:
        with pytest.raises(UsageError, match=f"--sample {count}: expected 1 to "):
            subsets.sample(whole, count, seed)
        count = most
    part = subsets.sample(whole, count, seed)
    assert part == subsets.sample(whole, count, seed)
    for dataset, chosen in names(part).items():
        own = names(whole)[dataset]
        assert len(chosen) == count and [n for n in own if n in chosen] == chosen, "in order"
    splits = [s.model_copy(update={"videos": tuple(reversed(s.videos))}) for s in whole.datasets]
    random.shuffle(splits)
    turned = names(
        subsets.sample(whole.model_copy(update={"datasets": tuple(splits)}), count, seed)
    )
    assert {d: set(v) for d, v in turned.items()} == {d: set(v) for d, v in names(part).items()}
    if count > 1:
        smaller = names(subsets.sample(whole, count - 1, seed))
        assert all(set(smaller[d]) < set(names(part)[d]) for d in smaller)


def test_another_seed_gives_another_sample() -> None:
    videos = tuple(video("D_train", f"v{k}", 1) for k in range(20))
    whole = Manifest(name="m", root="/", datasets=(Split(dataset="D_train", videos=videos),))
    drawn = [frozenset(names(subsets.sample(whole, 5, seed))["D_train"]) for seed in range(40)]
    assert len(set(drawn)) > 35
    often = [sum(f"v{k}" in one for one in drawn) for k in range(20)]
    assert min(often) >= 2 and max(often) <= 20, "about 10 of 40 each"


@given(manifests("A"), manifests("B"), st.sampled_from(["/data", "/data/x", "/work/y z"]))
def test_a_join_holds_the_rows_of_both(one: Manifest, two: Manifest, root: str) -> None:
    joined, base = subsets.join([Part(one, "/data", "a"), Part(two, root, "b")], "mix")
    assert files(joined, base) == files(one, "/data") + files(two, root)
    assert joined.name == "mix" and joined.root == base
    weights = [split.weight for split in (*one.datasets, *two.datasets)]
    assert [split.weight for split in joined.datasets] == weights
    with pytest.raises(UsageError, match="A0_train is in a and in c"):
        subsets.join([Part(one, "/data", "a"), Part(one, root, "c")], "mix")


@given(manifests())
def test_split_then_join_gives_the_whole(whole: Manifest) -> None:
    parts = [subsets.of_split(whole, split.split or "") for split in whole.datasets]
    joined, _ = subsets.join([Part(part, "/data", part.name) for part in parts], "m")
    assert joined == whole


@pytest.mark.parametrize(
    ("roots", "common"),
    [
        (("/a/b", "/a/c"), "/a"),
        (("/a", "/a/b"), "/a"),
        (("/a/b", "/ab"), "/"),
        (("s3://bucket/a", "s3://bucket/b"), "s3://bucket"),
        (("https://host/x", "https://host/x"), "https://host/x"),
    ],
)
def test_the_root_is_the_common_parent(roots: tuple[str, str], common: str) -> None:
    made = [
        Manifest(name=d, root="r", datasets=(Split(dataset=d, videos=(video(d, "v", 1),)),))
        for d in ("A", "B")
    ]
    parts = [Part(m, root, m.name) for m, root in zip(made, roots, strict=True)]
    joined, base = subsets.join(parts, "mix")
    assert base == common
    for split, root in zip(joined.datasets, roots, strict=True):
        path = f"{base.rstrip('/')}/{split.videos[0].frames[0].img}"
        assert path == f"{root}/{split.dataset}/v/RGB/0.jpg"


@pytest.mark.parametrize("other", ["s3://bucket/b", "https://elsewhere/a", "/a"])
def test_roots_without_a_common_parent(other: str) -> None:
    one, two = (
        Manifest(name=d, root="r", datasets=(Split(dataset=d, videos=(video(d, "v", 1),)),))
        for d in ("A", "B")
    )
    with pytest.raises(UsageError, match="no folder or URL holds both"):
        subsets.join([Part(one, "https://host/a", "a"), Part(two, other, "b")], "mix")


def test_videos_by_name_and_glob(source: Source) -> None:
    whole = source.manifest
    assert names(subsets.of_videos(whole, ["b*"])) == {"TINY_train": ["ball"]}
    assert names(subsets.of_videos(whole, ["TINY_test/*", "cube"])) == {
        "TINY_train": ["cube"],
        "TINY_test": ["dice"],
    }
    with pytest.raises(UsageError, match=r"'dcie'.* Did you mean dice\?"):
        subsets.of_videos(whole, ["cube", "dcie"])
    with pytest.raises(UsageError, match=r"unknown split 'tain'\. Did you mean train\?"):
        subsets.of_split(whole, "tain")


def test_weights(source: Source) -> None:
    weights = subsets.parse_weights(["TINY_train=2", "TINY_test=.5"])
    made = subsets.chosen(source.manifest, Choice(weights=weights))
    assert [split.weight for split in made.datasets] == [2.0, 0.5]
    with pytest.raises(UsageError, match="Did you mean TINY_train"):
        subsets.weighted(source.manifest, {"TINY_trian": 2.0})
    for text in ("TINY_train", "TINY_train=0", "=1", "a=-1", "a=nan", "a=inf", "a=b"):
        with pytest.raises(UsageError, match="expected DATASET=NUMBER above 0"):
            subsets.parse_weights([text])
    with pytest.raises(UsageError, match="has a weight already"):
        subsets.parse_weights(["a=1", "a=2"])


def refused(result: tuple[int, str, str], *words: str) -> None:
    code, out, err = result
    last = err.splitlines()[-1]
    assert code == 2 and out == "" and last.startswith("error: ")
    for word in words:
        assert word in last


def test_the_command(vsodpipe: Run, source: Source, tmp_path: Path) -> None:
    write_video(tmp_path / "far/data/OTHER_train/x", 4, 2)
    assert vsodpipe("manifest", "--data", "far/data", "--out", "far/m", "-q")[0] == 0
    before = {f.name: f.read_bytes() for f in (tmp_path / "manifests").iterdir()}
    both = ("manifests/tiny.json", "far/m/other.json")
    code, out, err = vsodpipe("manifest", *both, "--name", "mix", "--weight", "OTHER_train=3")
    assert code == 0 and out == "" and "OTHER_train: 1 videos, 2 frames, no flow, weight 3" in err
    mix = manifest.read(tmp_path / "manifests/mix.json")
    assert mix.root == str(tmp_path.resolve()) and mix.manifest.root == ".."
    assert mix.manifest.made_by == (
        "vsodpipe manifest manifests/tiny.json far/m/other.json --name mix --weight OTHER_train=3"
    )
    for split in mix.manifest.datasets:
        for frame in (f for v in split.videos for f in v.frames):
            assert Path(mix.path(frame.img)).is_file() and Path(mix.path(frame.gt or "")).is_file()
    rows = (tmp_path / "manifests/mix.other_train.txt").read_text().splitlines()
    assert len(rows) == 2 and Path(rows[1].split(" ")[0]).is_file()
    call = ("manifest", "tiny", "--videos", "TINY_train/*", "--sample", "1", "--seed", "3")
    code, out, _ = vsodpipe(*call, "--name", "part", "--json", "-q")
    assert code == 0 and list(json.loads(out)) == ["part"]
    (split,) = manifest.read(tmp_path / "manifests/part.json").manifest.datasets
    assert split.dataset == "TINY_train" and len(split.videos) == 1 and split.flow is not None
    after = {f.name: f.read_bytes() for f in (tmp_path / "manifests").iterdir()}
    assert {name: after[name] for name in before} == before, "whole manifests stay as they were"
    assert set(after) - set(before) == {
        *("mix.json", "mix.tiny_train.txt", "mix.tiny_test.txt", "mix.other_train.txt"),
        *("part.json", "part.tiny_train.txt"),
    }
    code, _, err = vsodpipe("manifest", "--name", "part", "--split", "test")
    assert code == 0 and "part.json no longer holds TINY_train" in err
    left = {f.name for f in (tmp_path / "manifests").glob("part*")}
    assert left == {"part.json", "part.tiny_test.txt"}, "no txt of what it no longer holds"


def test_a_txt_and_a_published_folder_are_joined(
    vsodpipe: Run, source: Source, tmp_path: Path
) -> None:
    made = synth.make_clip(1, 2, size=(32, 48))
    for t in range(2):
        video = tmp_path / "published/S/v"
        media.write_bytes(video / f"Imgs/{t}.jpg", media.encode_jpeg(made.img[t]))
        gt = media.encode_png(made.gt[t].astype(np.uint8) * 255)
        media.write_bytes(video / f"ground-truth/{t}.png", gt)
    call = ("manifest", "manifests/tiny_train.txt", "published", "--name", "mix")
    code, _, err = vsodpipe(*call)
    assert code == 0, err
    mix = manifest.read(tmp_path / "manifests/mix.json")
    assert mix.names() == ["tiny_train", "S"]
    frames = [f for s in mix.manifest.datasets for v in s.videos for f in v.frames]
    assert all(Path(mix.path(frame.img)).is_file() for frame in frames) and len(frames) > 3
    refused(vsodpipe("manifest", "tiny", "--name", "x", "--root", "."), "--root: only for txt")
    refused(vsodpipe(*call, "--layout", "davsod"), "--layout: not with --name")


def test_what_the_command_refuses(vsodpipe: Run, source: Source, tmp_path: Path) -> None:
    tiny = ("manifest", "manifests/tiny.json")
    for choice in (("--sample", "1"), ("--split", "test"), ("--videos", "b*"), ()):
        refused(vsodpipe(*tiny, *choice), "needs a name of its own. Add --name NAME")
    refused(vsodpipe("manifest", "--weight", "TINY_train=2"), "Add --name NAME")
    refused(vsodpipe(*tiny, "--name", "x", "--seed", "1"), "--seed: only with --sample")
    refused(vsodpipe(*tiny, "--name", "../x"), "expected letters")
    refused(vsodpipe(*tiny, *tiny[1:], "--name", "x"), "TINY_train is in manifests/tiny.json and")
    refused(vsodpipe(*tiny, "--name", "tiny", "--sample", "1"), "holds whole data sets")
    (tmp_path / "manifests/tiny.json").rename(tmp_path / "manifests/all.json")
    call = ("manifest", "manifests/all.json", "--sample", "1", "--name")
    refused(vsodpipe(*call, "tiny"), "is the name of the whole manifest of TINY_train")
    refused(vsodpipe(*call, "all"), "holds whole data sets")


def test_flow_of_two_kinds_is_told(vsodpipe: Run, source: Source, tmp_path: Path) -> None:
    values = json.loads(source.file.read_text())  # type: ignore[union-attr]
    values["datasets"][1]["flow"] |= {"fingerprint": "0" * 16, "tail": "zero"}
    (tmp_path / "m.json").write_text(json.dumps({**values, "root": "datasets"}))
    code, _, err = vsodpipe("manifest", "m.json", "--name", "mix", "-q")
    assert code == 0 and "mix holds flow of 2 kinds" in err and "tail=zero" in err
