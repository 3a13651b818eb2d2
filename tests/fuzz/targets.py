"""One function a parser: it gets an empty folder and returns valid files, and what reads one.

The function's name is that of the target on the command line; its text says what is read.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from fuzz.engine import Parser
from vsodpipe import (
    attributes,
    card,
    catalogue,
    checkpoint,
    flow_raw,
    flow_record,
    hdf5,
    import_record,
    manifest,
    manifest_txt,
    masks,
    media,
    models,
    pack,
    pack_plan,
    reader,
    recipe,
    report_runs,
    runs,
    shards,
    stages,
    unpack,
    unpack_store,
    video_file,
    weights,
)
from vsodpipe.flows import files as flow_files
from vsodpipe.models import _backbones
from vsodpipe.progress import Reporter

Made = tuple[Sequence[bytes], Parser]
QUIET = Reporter(quiet=True)
TREE = (
    b"null",
    b"-1",
    b"1e999",
    b"[]",
    b"{}",
    b'"../../x"',
    b'"\\u001b[2J"',
    b"[" * 3000,
    b"9" * 5000,
)
"""Values to put into JSON, TOML and YAML."""


@dataclass(frozen=True)
class Target:
    """A parser to be fed: how to make it ready in a folder, and words of its format."""

    name: str
    make: Callable[[Path], Made]
    words: tuple[bytes, ...]


TARGETS: dict[str, Target] = {}


def target(*words: bytes) -> Callable[[Callable[[Path], Made]], Callable[[Path], Made]]:
    """Enter a function into TARGETS under its own name, `_` written as `-`."""

    def enter(make: Callable[[Path], Made]) -> Callable[[Path], Made]:
        name = make.__name__.replace("_", "-")
        TARGETS[name] = Target(name, make, words)
        return make

    return enter


def through(file: Path, read: Callable[[Path], object]) -> Parser:
    """Return the parser that writes its bytes to `file` and reads that."""

    def parse(data: bytes) -> None:
        file.write_bytes(data)
        read(file)

    return parse


# ---- text ----


@target(*TREE, b'"videos"', b'"root"', b'"s3://a/b"')
def manifest_json(folder: Path) -> Made:
    """Manifests: JSON."""
    frames = [{"name": str(n), "img": f"a/{n}.jpg", "gt": f"b/{n}.png"} for n in range(2)]
    videos = [{"name": "ball", "size": [48, 64], "frames": frames}]
    flow = {"fingerprint": "x", "engine": {"engine": "dis"}}
    split = {"dataset": "TINY_train", "split": "train", "flow": flow, "videos": videos}
    good = {"version": 1, "name": "tiny", "root": ".", "datasets": [split]}
    return [json.dumps(good).encode()], through(folder / "m.json", manifest.read)


@target(b"\t", b" - ", b"../", b"/dev/zero", b"#", b"s3://", b"\0")
def manifest_rows(folder: Path) -> Made:
    """Manifests: txt rows."""
    for name in ("a/RGB/0.jpg", "a/RGB/1.jpg", "a/FLOW/0.jpg"):
        media.write_bytes(folder / name, media.encode_jpeg(np.zeros((4, 6, 3), np.uint8)))
    rows = [b"a/RGB/0.jpg - a/FLOW/0.jpg\na/RGB/1.jpg - -\n", b"# x\na/RGB/0.jpg\ta/RGB/1.jpg\n"]
    return rows, through(folder / "rows.txt", lambda file: manifest_txt.read(file, folder))


@target(*TREE, b"[splits.x]", b"[[layouts]]", b"{frame}", b"\x1b", b"2020-13-45")
def card_toml(folder: Path) -> Made:
    """Private cards of data sets."""
    entries = resources.files("vsodpipe.cards").iterdir()
    texts = [e.read_bytes() for e in entries if e.name in ("davis.toml", "fbms.toml")]
    assert texts

    def read(file: Path) -> None:
        (made,) = [c for c in card.cards(folder).values() if c.file]
        made.official("bear"), made.names(), made.auxiliary, card.facts(made)

    (folder / "cards").mkdir()
    # the splits are those of no other card
    seeds = [re.sub(rb'(?m)^name = "', b'name = "MY', text, count=1) for text in texts]
    return seeds, through(folder / "cards/fuzz.toml", read)


@target(*TREE, b"[debug]", b"optim.lr", b"2020-13-45")
def recipe_toml(folder: Path) -> Made:
    """Recipe files of `train --recipe`."""
    debug = recipe.to_toml({"debug": models.stages("dbsnet")["debug"]}).encode()
    part = b"[debug]\nepochs = 1\n[debug.optim]\nlr = 1e-4\ngroups = {rgb = {lr = 0.1}}\n"
    read = lambda file: stages.choose("dbsnet", [], [], None, file)  # noqa: E731
    return [debug, part], through(folder / "r.toml", read)


@target(*TREE, b"optim.lr=", b"network.", b"data.size=[3, 4]", b"\n", b"2020-13-45")
def assignment(folder: Path) -> Made:
    """`--set key=value`."""
    stage = models.stages("dbsnet")["debug"]

    def parse(data: bytes) -> None:
        recipe.override(stage, [data.decode(errors="surrogateescape")])

    return [
        b"optim.lr=1e-4",
        b"data.size=[3, 4]",
        b"optim.groups.rgb.lr=0.5",
        b"optim.kind=sgd",
    ], parse


@target(
    *TREE,
    b"sequences:",
    b"&a ",
    b"*a",
    b"<<: *a",
    b"!!python/object/apply:os.system [id]",
    b"!!set",
)
def attributes_yaml(folder: Path) -> Made:
    """The list of attributes, db_info.yml."""
    text = (
        b"sequences:\n- name: bear\n  attributes: [AC, BC]\n- {name: bus, attributes: &a [OCC]}\n"
    )
    return [text], through(folder / "db_info.yml", attributes.read)


# ---- records ----


@target(*TREE, b'"fingerprint"')
def flow_json(folder: Path) -> Made:
    """flow.json beside flow."""
    good = flow_record.make({"engine": {"engine": "dis", "preset": "medium"}, "tail": "backward"})

    def read(file: Path) -> None:
        if record := flow_record.read(folder):
            flow_record.describe(record)
            flow_record.common("X", {"a": record, "b": good})

    return [flow_record.dump(good)], through(folder / "flow.json", read)


@target(*TREE, b'"stride"')
def import_json(folder: Path) -> Made:
    """import.json of a data set."""
    good = json.dumps({"card": "davis", "source": "/x", "stride": 2}).encode()
    return [good], through(folder / "import.json", lambda file: import_record.stride(folder))


@target(*TREE, b'"stages"', b'"initial_weights"', b'{"file": 1}')
def run_json(folder: Path) -> Made:
    """run.json of a run folder: report and checkpoints read it."""
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/last.pt").write_bytes(b"x")
    (folder / "recipe.toml").write_bytes(b"[debug]\n")
    good = {"model": "dbsnet", "stages": ["debug"], "manifest": "m.json", "manifest_sha256": "0"}
    both = [{**good, "initial_weights": "imagenet"}, {**good, "initial_weights": {"file": "a.pt"}}]

    def read(file: Path) -> None:
        checkpoint.locate(folder)
        report_runs.described(folder)
        report_runs.fingerprints([], [], [folder])
        report_runs.commands([], [], [folder], [])

    return [json.dumps(one).encode() for one in both], through(folder / "run.json", read)


@target(*TREE, b"\n", b'"loss"', b"NaN", b"9" * 400)
def events_jsonl(folder: Path) -> Made:
    """events.jsonl of a run: the report's curves, and the rows that a resumed run keeps."""
    row = {"stage": "debug", "epoch": 0, "step": 3, "loss": 0.5, "lr": 1e-4}
    good = "".join(json.dumps({**row, "step": n}) + "\n" for n in range(3)).encode()

    def read(file: Path) -> None:
        report_runs.curves(file)
        runs.cut_events(folder, ["debug"], runs.Position(0, 0, 2))

    return [good], through(folder / "events.jsonl", read)


# ---- pictures, flow, videos ----


def _pictures() -> list[bytes]:
    """Return small pictures of every kind that frames, masks and maps come in."""
    chance = np.random.default_rng(0)
    colour = chance.integers(0, 256, (9, 12, 3), np.uint8)
    made = [media.encode_jpeg(colour), media.encode_png(colour), media.encode_png(colour[..., 0])]
    palette = Image.fromarray(colour[..., 0] // 64, "P")
    palette.putpalette(list(range(256)) * 3)
    deep = Image.fromarray(colour[..., 0].astype(np.uint16) * 257)
    for picture, kinds in (
        (Image.fromarray(colour), ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF")),
        (Image.fromarray(colour).convert("CMYK"), ("JPEG", "TIFF")),
        (palette, ("PNG", "BMP", "TIFF")),
        (Image.fromarray(colour[..., 0]), ("JPEG", "PNG", "PPM")),
        (Image.fromarray(colour[..., 0] > 99), ("PNG", "PPM", "TIFF")),
        (deep, ("PNG", "TIFF")),
    ):
        for kind in kinds:
            buffer = io.BytesIO()
            picture.save(buffer, kind, **({"progressive": True} if kind == "JPEG" else {}))
            made.append(buffer.getvalue())
    return made


@target(
    b"IHDR",
    b"IDAT",
    b"\xff\xd8",
    b"\xff\xc0",
    b"\xff\xc4",
    b"RIFF",
    b"II*\0",
    b"acTL",
    b"%!PS-Adobe",
)
def picture(folder: Path) -> Made:
    """Frames, masks, maps: JPEG, PNG (palette, 16-bit), BMP, WEBP, PPM, TIFF, by every reader."""

    def parse(data: bytes) -> None:
        file = folder / "x.png"
        file.write_bytes(data)
        every: list[Callable[[], object]] = [
            lambda: media.image_size(file),
            lambda: media.read_image(file),
            lambda: media.decode_image(file, data, luma=True),
            lambda: media.read_mask(file),
            lambda: media.read_map(file),
            lambda: media.read_prediction(file),
            lambda: masks.linked("objects", (file,)),
            lambda: masks._regions(file),
            *(lambda rule=rule: masks.read(rule, (file,), (9, 12)) for rule in card.RULES),
        ]
        refused = None
        for read in every:
            try:
                read()
            except media.DataError as error:  # some are stricter than others
                refused = error
        if refused is not None:
            raise refused

    def tolerant(data: bytes) -> None:
        if data not in seeds:
            parse(data)
        else:  # a picture of 16 bits is no frame, and one of colours no map
            media.image_size(folder / "x.png") if (folder / "x.png").write_bytes(data) else None

    seeds = _pictures()
    return seeds, tolerant


@target(b"Frame number:", b"File name:", b"Scale of region 0:", b"../../x", b"9" * 5000)
def fbms_dat(folder: Path) -> Made:
    """The list of regions and masks of FBMS."""
    (folder / "a.pgm").write_bytes(b"P5 2 2 255\n\0\1\2\3")
    text = (
        b"Scale of region 0:\n0\nScale of region 1:\n1\nTotal number of labelled frames: 1\n"
        b"Frame number:\n0\nFile name:\na.pgm\n"
    )

    def read(file: Path) -> None:
        for mask in masks.fbms_files(file, 5).values():
            assert mask.parent == folder
            masks.read_fbms(file, mask, "bear", (2, 2))

    return [text], through(folder / "bearDef.dat", read)


@target(b"PIEH")
def flo(folder: Path) -> Made:
    """Middlebury's .flo."""
    flow_files.write_flo(folder / "x.flo", np.ones((3, 4, 2), np.float32))
    return [(folder / "x.flo").read_bytes()], through(folder / "y.flo", flow_files.read_flo)


@target(b"IHDR", b"IDAT", b"PLTE", b"tRNS")
def kitti(folder: Path) -> Made:
    """KITTI's flow PNG."""
    flow_files.write_kitti(folder / "x.png", np.ones((3, 4, 2), np.float32))
    return [(folder / "x.png").read_bytes()], through(folder / "y.png", flow_files.read_kitti)


@target(
    b"moov",
    b"trak",
    b"stsz",
    b"avih",
    b"strh",
    b"idx1",
    b"mdat",
    b"#EXTM3U\n/etc/passwd\n",
    b"ffconcat version 1.0\nfile /etc/passwd\n",
)
def video(folder: Path) -> Made:
    """Video files: mp4, avi, mkv."""
    seeds = []
    for name, code in (("a.mp4", "mp4v"), ("a.avi", "MJPG"), ("a.mkv", "mp4v")):
        writer = cv2.VideoWriter(str(folder / name), cv2.VideoWriter.fourcc(*code), 10, (32, 24))
        for level in range(3):
            writer.write(np.full((24, 32, 3), 80 * level, np.uint8))
        writer.release()
        seeds.append((folder / name).read_bytes())

    def read(file: Path) -> None:
        assert video_file.length(file) < 2**31
        for frame in islice(video_file.frames(file), 20):
            assert frame.size <= 3 * media.MAX_PIXELS

    return seeds, through(folder / "x.mp4", read)


# ---- archives ----


def _unpacking(folder: Path, file: Path) -> Callable[[Path], None]:
    inside = folder / "inside"

    def read(file: Path) -> None:
        inside.mkdir(exist_ok=True)
        try:
            if unpack.is_archive(file):
                unpack.members(file)
                unpack.extract(file, inside / "out", QUIET)
        finally:
            held = {path.name for path in folder.iterdir()}, {p.name for p in inside.iterdir()}
            assert held[0] <= {file.name, "inside"} and held[1] <= {"out"}, f"outside: {held}"
            links = [p for p in inside.rglob("*") if p.is_symlink()]
            assert not links, links
            shutil.rmtree(inside)

    return read


@target(b"PK\1\2", b"PK\3\4", b"PK\5\6", b"../../x", b"/etc/x", b"\xff\xff\xff\xff")
def zip_archive(folder: Path) -> Made:
    """Zip archives of `import`."""
    seeds = []
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", kind) as archive:
            archive.writestr("a/b.txt", b"x" * 50)
            archive.writestr("a/c.txt", b"hello")
        seeds.append(buffer.getvalue())
    return seeds, through(folder / "x.zip", _unpacking(folder, folder / "x.zip"))


@target(b"ustar", b"../../x", b"/etc/x", b"x", b"L", b"K", b"g", b"S", b"7777777777", b"\x80\0\0\0")
def tar_archive(folder: Path) -> Made:
    """Tar archives of `import`, plain and compressed."""
    seeds = []
    for mode, form in (
        ("w", tarfile.PAX_FORMAT),
        ("w", tarfile.GNU_FORMAT),
        ("w:gz", 2),
        ("w:xz", 2),
        ("w:bz2", 2),
    ):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode, format=form) as archive:  # type: ignore[call-overload]
            for name in ("a/b.txt", "a/é" + "c" * 120):
                info = tarfile.TarInfo(name)
                info.size = 5
                archive.addfile(info, io.BytesIO(b"hello"))
        seeds.append(buffer.getvalue())
    parse = through(folder / "x.tar", _unpacking(folder, folder / "x.tar"))
    return seeds, lambda data: parse(_tar_summed(data))


def _tar_summed(data: bytes) -> bytes:
    """Return a tar whose headers have the checksums that belong to them."""
    made = bytearray(data)
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            made[at + 148 : at + 156] = b" " * 8
            made[at + 148 : at + 156] = b"%06o\0 " % sum(made[at : at + 512])
    return bytes(made)


# ---- stores ----


def _packed(folder: Path, suffix: str, tier: str = "lossless") -> Path:
    """Pack a made data set of two small videos with flow; return the store."""
    for name, frames in (("ball", 3), ("cube", 2)):
        for number in range(frames):
            image = np.full((8, 10, 3), 20 * number, np.uint8)
            media.write_bytes(
                folder / f"TINY_train/{name}/RGB/{number}.png", media.encode_png(image)
            )
            grey = np.where(image[..., 0] > 9, 255, 0).astype(np.uint8)
            media.write_bytes(folder / f"TINY_train/{name}/GT/{number}.png", media.encode_png(grey))
    split = manifest.split_of(catalogue.find("TINY_train", folder), folder, QUIET)
    out = folder / f"t{suffix}"
    container: pack_plan.Container = "hdf5" if suffix == ".h5" else "zarr"
    pack.pack(split, str(folder), out, (8, 10), QUIET, tier=tier, container=container)
    return out


def _read_store(path: Path, out: Path) -> None:
    opened = reader.open_store(str(path))
    opened._confirm = lambda *_: None  # type: ignore[method-assign]  # whoever changes a frame changes its checksum
    for video_ in range(min(len(opened.videos), 3)):
        opened.size(video_), opened.numbers(video_), opened.annotated(video_)
        for key in opened.arrays:
            for frame in range(min(len(opened.frames(video_)), 3)):
                if opened.has(key)[int(opened.offsets[video_]) + frame]:
                    opened.read(video_, frame, key)
    before = {path.name for path in out.parent.iterdir()}
    try:
        unpack_store.unpack(opened, out, QUIET, force=True)
    finally:
        shutil.rmtree(out, ignore_errors=True)
        after = {path.name for path in out.parent.iterdir()}
        assert after <= before | {out.name}, f"outside: {after - before}"


def _store(folder: Path, name: str, change: Callable[[bytes], bytes] = bytes) -> Made:
    path = _packed(folder, ".zarr")
    file = path / name
    good = file.read_bytes()
    (folder / "room").mkdir()

    def parse(data: bytes) -> None:
        file.write_bytes(change(data))
        try:
            _read_store(path, folder / "room/out")
        finally:
            file.write_bytes(good)

    return [good], parse


def _summed(data: bytes) -> bytes:
    body = data[: -shards.CRC_BYTES]
    return body + shards.crc32c(body).to_bytes(shards.CRC_BYTES, "little")


@target(
    *TREE, b'"shape"', b'"groups"', b'"frames"', b'"size"', b"65536", b'"bytes"', b'"../../../x"'
)
def store_json(folder: Path) -> Made:
    """zarr.json of a store."""
    return _store(folder, "zarr.json")


@target(b"../../x", b"/x/", b"\0")
def store_names(folder: Path) -> Made:
    """The names of a store's frames, with the checksum that belongs to them."""
    return _store(folder, "frame_name/c/0/0", _summed)


@target()
def store_offsets(folder: Path) -> Made:
    """The offsets of a store's videos, with the checksum that belongs to them."""
    return _store(folder, "video_offset/c/0", _summed)


@target(b"\xff" * 16)
def store_shard(folder: Path) -> Made:
    """A shard of a store: frames and index, with the checksums that belong to them."""
    length = shards.index_bytes(reader.open_store(str(_packed(folder, ".zarr"))).groups[0].shard)
    size = (folder / "t.zarr/gt/c/0/0/0").stat().st_size
    shutil.rmtree(folder / "t.zarr")

    def whole(data: bytes) -> bytes:
        data = data.ljust(size, b"\0")[:size]
        return data[:-length] + _summed(data[-length:])

    return _store(folder, "gt/c/0/0/0", whole)


@target(b"\x89HDF", b"OHDR", b"TREE", b"SNOD", b"FRHP", b"\xff" * 8, b'"frames"')
def store_hdf5(folder: Path) -> Made:
    """The HDF5 form of a store."""
    path = _packed(folder, ".h5")
    good = path.read_bytes()
    (folder / "room").mkdir()

    def read(file: Path) -> None:
        with mock.patch.object(hdf5, "TRIAL_SECONDS", 2):
            _read_store(file, folder / "room/out")

    return [good], through(path, read)


@target(
    *TREE,
    b'"|O"',
    b'"filters": [{"id": "pickle"}]',
    b'"zarr_format": 2',
    b'"shape"',
    b"99999999999",
)
def raw_flow(folder: Path) -> Made:
    """Raw flow, flow.zarr: the metadata of its arrays."""
    made = flow_raw.RawFlow(folder, "t -> t+1", "none")
    with mock.patch.object(flow_raw, "SHARD_BYTES", 1000):  # zarr < 3.1.6 is slow with many
        for entry in range(3):
            made.put(entry, f"{entry:05d}", np.ones((4, 6, 2), np.float32), "x")
        made.finish()
    file = folder / flow_raw.STORE / "flow/zarr.json"

    def read(file: Path) -> None:
        names, array = flow_raw.read(folder)
        flow_raw.entry(folder, array, 0)

    return [file.read_bytes()], through(file, read)


# ---- weights ----


def _saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


@target(
    b"PK\1\2",
    b"cos\nsystem\n",
    b"cbuiltins\neval\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"R",
    b".",
    b"\xff\xff\xff\x7f",
)
def checkpoint_pt(folder: Path) -> Made:
    """Checkpoints: ours, a bare state dict, and one of the form before zip files."""
    state = {"a.weight": torch.zeros(2, 3), "b": torch.arange(4)}
    content = {
        "format": checkpoint.FORMAT,
        "version": checkpoint.VERSION,
        "model": "dbsnet",
        "stage": recipe.to_dict(models.stages("dbsnet")["debug"]),
        "state_dict": state,
        "training": {"step": 1},
        "provenance": {"flow": {}},
    }
    old = _saved(state, _use_new_zipfile_serialization=False)

    def read(file: Path) -> None:
        loaded = checkpoint.load(file)
        checkpoint.what(loaded)
        if (plain := checkpoint.plain_state(loaded)) is not None:
            checkpoint.examine_published(plain)
        if isinstance(loaded, dict) and loaded.get("format") == checkpoint.FORMAT:
            checkpoint.read(file, "dbsnet")

    return [_saved(content), _saved(state), old], through(folder / "x.pt", read)


@target(b'"dtype":"F64"', b'"shape":[99999999999]', b'"data_offsets":[0,99]', b"\xff" * 8)
def safetensors(folder: Path) -> Made:
    """Backbone weights as .safetensors."""
    good = save({"a": torch.zeros(2, 3), "b": torch.ones(4)})
    return [good], through(folder / "x.safetensors", _backbones.read_state_dict)


@target(b"PK\1\2", b"cos\nsystem\n", b"\xff\xff\xff\x7f")
def weights_file(folder: Path) -> Made:
    """`vsodpipe weights FILE`: whatever torch.save wrote."""
    state = {"a.weight": torch.zeros(2, 3)}
    seeds = [_saved({"state_dict": state, "epoch": 3}), _saved({"model": {"net": state}})]
    return seeds, through(folder / "x.pth", weights.examine)
