"""Hostile files: one clear line, bounded memory and time, nothing outside the target, no code run.

The short form; `python -m tests.fuzz` feeds the same parsers for as long as you like.
"""

import gzip
import io
import json
import random
import resource
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numcodecs
import numpy as np
import pytest
import torch
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import map_sets
from fuzz.engine import judged, mutated
from fuzz.targets import TARGETS
from helpers import files_below, write_video
from vsodpipe import (
    attributes,
    card,
    checkpoint,
    cli,
    flow_raw,
    flow_record,
    hdf5,
    import_record,
    manifest,
    manifest_txt,
    masks,
    media,
    models,
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
    zarr_files,
)
from vsodpipe.errors import WeightsError
from vsodpipe.flows import files as flow_files
from vsodpipe.flows import raft_weights
from vsodpipe.models import _backbones
from vsodpipe.progress import Reporter

NEST = 100_000
ROOM = 2**29
"""Bytes of address space that a bomb may take."""


@contextmanager
def little_memory(more: int = ROOM) -> Iterator[None]:
    """Let this process take `more` address space than it has, inside."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def refused(read: Callable[[], object], words: str = "") -> None:
    """Check that reading ends in one line of exit code 2, in little memory and time."""
    with little_memory():
        line = judged(lambda data: void(read()), b"")
    assert line and words in line, line


def void(value: object) -> None:
    """Take a value and forget it."""


# ---- every parser, fed with torn and mixed-up files ----


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files_are_taken_or_refused(name: str, tmp_path: Path) -> None:
    seeds, parse = TARGETS[name].make(tmp_path)
    for data in seeds:
        assert judged(parse, data) == "", "a valid file is taken"
    slow = name in ("store-hdf5", "checkpoint-pt", "raw-flow")

    @settings(
        max_examples=4 if slow else 20,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        data=st.sampled_from(seeds),
        number=st.integers(0, 2**32),
        cut=st.one_of(st.none(), st.integers(0, 300)),
    )
    def feed(data: bytes, number: int, cut: int | None) -> None:
        chance = random.Random(number)
        judged(parse, mutated(chance, data, seeds, TARGETS[name].words)[:cut])

    feed()


# ---- pictures and videos ----


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG, RGB of 8 bits, that says it is so large, and holds `chunks`."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    made = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), *chunks, (b"IEND", b"")):
        made += struct.pack(">I", len(data)) + kind + data
        made += struct.pack(">I", zlib.crc32(kind + data))
    return made


def huge_pictures() -> dict[str, bytes]:
    """Return pictures of 60000x60000 pixels, or what says so, by kind."""
    jpeg = bytearray(media.encode_jpeg(np.zeros((8, 8, 3), np.uint8)))
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = struct.pack(">HH", 60000, 60000)
    bmp = bytearray(cv2.imencode(".bmp", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    bmp[18:26] = struct.pack("<ii", 60000, 60000)
    zeros = zlib.compress(bytes(2**22), 9)
    return {
        "png": png(60000, 60000, (b"IDAT", zeros)),
        "png-16k": png(16000, 16000, (b"IDAT", zeros)),
        "jpeg": bytes(jpeg),
        "bmp": bytes(bmp),
        "ppm": b"P6 60000 60000 255\n" + bytes(99),
    }


@pytest.mark.parametrize("kind", ["png", "png-16k", "jpeg", "bmp", "ppm"])
def test_pictures_of_60000_pixels(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    file.write_bytes(huge_pictures()[kind])
    readers: list[Callable[[], object]] = [
        lambda: media.image_size(file),
        lambda: media.read_image(file),
        lambda: media.read_mask(file),
        lambda: media.read_map(file),
        lambda: media.read_prediction(file),
        lambda: masks.linked("objects", (file,)),
        lambda: masks.read("half", (file,), (9, 9)),
    ]
    for read in readers:
        refused(read, "the limit of 134217728")
    refused(lambda: flow_files.read_kitti(file), "expected KITTI's PNG")


def test_a_picture_is_never_postscript(tmp_path: Path) -> None:
    """Pillow would start Ghostscript for it."""
    file = tmp_path / "x.png"
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    for read in (media.image_size, media.read_image, media.read_mask, media.read_map, masks.mode):
        refused(lambda read=read: read(file), "not a picture")


def test_text_in_a_picture_that_unpacks_to_much(tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    text = b"a\0\0" + zlib.compress(bytes(2**26), 9)
    file.write_bytes(png(4, 4, (b"zTXt", text), (b"IDAT", zlib.compress(bytes(52)))))
    refused(lambda: media.read_image(file), "damaged picture")


def test_videos_that_say_they_are_huge(tmp_path: Path) -> None:
    file = tmp_path / "x.avi"
    writer = cv2.VideoWriter(str(file), 0, 10, (16, 16))  # frames as they are, without a codec
    writer.write(np.zeros((16, 16, 3), np.uint8))
    writer.release()
    assert len(list(video_file.frames(file))) == 1
    data, size = file.read_bytes(), struct.pack("<ii", 16, 16)
    assert size in data
    for side in (15000, 60000):
        file.write_bytes(data.replace(size, struct.pack("<ii", side, side)))
        refused(lambda: list(video_file.frames(file)))
    file.write_bytes(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")
    refused(lambda: list(video_file.frames(file)), "not a video that OpenCV can read")


# ---- text: nesting, size, aliases ----


def test_nesting_without_end(tmp_path: Path) -> None:
    deep = b'{"a":' * NEST
    (tmp_path / "cards").mkdir()
    (tmp_path / "recipe.toml").write_bytes(b"")
    for name in ("flow.json", "import.json", "run.json", "m.json", "zarr.json"):
        (tmp_path / name).write_bytes(deep)
    refused(lambda: flow_record.read(tmp_path), "not a JSON file")
    refused(lambda: import_record.stride(tmp_path), "not a JSON file")
    refused(lambda: report_runs.record(tmp_path), "not a JSON file")
    refused(lambda: checkpoint.locate(tmp_path), "not a JSON file")
    refused(lambda: manifest.read(tmp_path / "m.json"), "not a JSON file")
    refused(lambda: reader.open_store(str(tmp_path)), "not JSON")
    lists = b"x = " + b"[" * NEST
    (tmp_path / "cards/x.toml").write_bytes(lists)
    (tmp_path / "r.toml").write_bytes(lists)
    (tmp_path / "a.yml").write_bytes(b"sequences: " + b"[" * 20_000)
    refused(lambda: card.cards(tmp_path), "not a card")
    refused(lambda: stages.choose("dbsnet", [], [], None, tmp_path / "r.toml"), "no TOML file")
    refused(lambda: attributes.read(tmp_path / "a.yml"), "expected the official list")
    debug = models.stages("dbsnet")["debug"]
    refused(lambda: recipe.override(debug, ["optim.lr=" + "[" * NEST]), "expected float")


def test_events_of_any_kind_are_left_out(tmp_path: Path) -> None:
    good = {"stage": "a", "epoch": 0, "step": 0, "loss": 0.5, "lr": 0.1}
    rows = ["[" * NEST, "[1]", '{"loss": 1' + "0" * 400 + ', "lr": 1, "stage": "a"}', "null", ""]
    text = "\n".join([json.dumps(good), *rows])
    (tmp_path / "events.jsonl").write_text(text)
    (stage,) = report_runs.curves(tmp_path / "events.jsonl")
    assert (stage["steps"], stage["loss"]) == (1, [0.5])
    runs.cut_events(tmp_path, ["a"], runs.Position(0, 0, 1))
    assert (tmp_path / "events.jsonl").read_text() == json.dumps(good) + "\n"


def test_a_run_that_says_anything(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.pt").write_bytes(b"")
    for stages_ in ("x", {"a": 1}, [["x" * 5000]], ["../../x"], [None], 7):
        note = {"stages": stages_, "initial_weights": {"fle": 1}}
        (tmp_path / "run.json").write_text(json.dumps(note))
        assert checkpoint.locate(tmp_path).name == "last.pt"
        assert report_runs.commands([], [], [tmp_path], [])[0]["command"].startswith("vsodpipe")


def test_a_few_lines_of_yaml_are_no_billions(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    lines += ["sequences:", "- name: *a11", "  attributes: [AC]"]
    (tmp_path / "a.yml").write_text("\n".join(lines))
    refused(lambda: attributes.read(tmp_path / "a.yml"), "expected the official list")
    with open(tmp_path / "a.yml", "wb") as file:
        file.truncate(attributes.MAX_BYTES + 1)
    refused(lambda: attributes.read(tmp_path / "a.yml"), "more than the limit")


def test_a_record_has_a_limit(tmp_path: Path) -> None:
    with open(tmp_path / "flow.json", "wb") as file:
        file.truncate(2**40)  # no blocks of the disk
    refused(lambda: flow_record.read(tmp_path), "more than the limit of 67108864 bytes")


# ---- archives ----


def test_headers_of_a_tar_that_unpack_to_much(tmp_path: Path) -> None:
    """tarfile takes long names and properties into the memory whole, however long they are."""
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE):
        for first in (True, False):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as archive:
                if not first:
                    archive.addfile(tarfile.TarInfo("a"))
                info = tarfile.TarInfo("x")
                info.type, info.size = kind, 2**30
                archive.fileobj.write(info.tobuf())  # type: ignore[union-attr]
                archive.fileobj.write(bytes(2**22))  # type: ignore[union-attr]
            file = tmp_path / "x.tar.gz"
            file.write_bytes(gzip.compress(buffer.getvalue(), 1))
            assert unpack.is_archive(file) is not first
            refused(lambda file=file: unpack.members(file), "damaged archive")


def test_zip_bombs(tmp_path: Path) -> None:
    file, out = tmp_path / "x.zip", tmp_path / "out"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(2**24))
    honest = file.read_bytes()
    refused(lambda: unpack.extract(file, out, Reporter(True)), "beyond the size of any data set")
    file.write_bytes(honest.replace(struct.pack("<I", 2**24), struct.pack("<I", 99)))
    refused(lambda: unpack.extract(file, out, Reporter(True)))
    assert files_below(tmp_path) == {"x.zip"}


# ---- stores ----


def changed(store: Path, change: Callable[[dict[str, Any]], object]) -> str:
    """Change the attributes in a store's zarr.json; return the store."""
    root = json.loads((store / "zarr.json").read_text())
    change(root["attributes"])
    (store / "zarr.json").write_text(json.dumps(root))
    return str(store)


@pytest.mark.parametrize("change", ["flow_vectors", "flow"])
def test_a_store_that_does_not_say_which_flow_it_has(
    packed: Path, tmp_path: Path, change: str
) -> None:
    url = changed(packed, lambda attributes: attributes.pop(change))
    if change == "flow":
        unpack_store.unpack(reader.open_store(url), tmp_path / "out", Reporter(quiet=True))
        assert not list((tmp_path / "out").rglob("flow.json"))
    else:
        refused(lambda: reader.open_store(url), "damaged store: flow_vectors: Field required")


@pytest.mark.parametrize("name", ["../../out", "/tmp/x", "..", "a/b", "a\\b", "\x1b[2J", "x" * 300])
@pytest.mark.parametrize("where", ["dataset", "video", "frame"])
def test_names_in_a_store_lead_nowhere(packed: Path, tmp_path: Path, name: str, where: str) -> None:
    if where == "dataset":
        changed(packed, lambda held: held.update(dataset=name))
    elif where == "video":
        changed(packed, lambda held: held["videos"].__setitem__(0, name))
    elif len(name) > 255:
        return  # a name has the room that the longest one takes
    else:
        rename_frame(packed, name)
    before = files_below(tmp_path)
    target = tmp_path / "one/two/three"
    refused(lambda: unpack_store.unpack(reader.open_store(str(packed)), target, Reporter(True)))
    assert files_below(tmp_path) == before


def rename_frame(store: Path, name: str) -> None:
    """Give every frame of a store a name, with the right checksum."""
    root = json.loads((store / "zarr.json").read_text())
    nodes = root["consolidated_metadata"]["metadata"]
    letters = flow_raw.names_as_letters([name] * nodes["frame_name"]["shape"][0])
    nodes["frame_name"] = {
        **zarr_files.small_metadata("frame_name", letters.shape),
        "attributes": {},
    }
    (store / "zarr.json").write_text(json.dumps(root))
    data = letters.tobytes()
    crc = shards.crc32c(data).to_bytes(shards.CRC_BYTES, "little")
    (store / "frame_name/c/0/0").write_bytes(data + crc)


def test_frames_of_terabytes(packed: Path) -> None:
    def grow(held: dict[str, Any]) -> None:
        held["groups"][0]["size"] = [65536, 65536]

    refused(lambda: reader.open_store(changed(packed, grow)), "65536x65536 pixels")


@pytest.mark.parametrize("length", [2**20, 2**40, 2**62])
def test_a_chunk_that_says_it_is_huge(packed: Path, length: int) -> None:
    opened = reader.open_store(str(packed))
    file = packed / "gt/c/0/0/0"
    data = file.read_bytes()
    size = shards.index_bytes(opened.groups[0].shard)
    index = np.frombuffer(data[-size : -shards.CRC_BYTES], "<u8").copy().reshape(-1, 2)
    index[0] = 0, length
    table = index.tobytes()
    end = table + shards.crc32c(table).to_bytes(shards.CRC_BYTES, "little")
    file.write_bytes(data[:-size] + end)
    refused(lambda: opened.read(0, 0, "gt"), "damaged")


@pytest.mark.parametrize("codec", ["zstd", "lz4", "zlib", "jpeg"])
def test_chunks_that_unpack_to_much(codec: shards.Codec) -> None:
    out = np.empty((8, 8, 3), np.uint8)
    if codec == "jpeg":
        bomb = huge_pictures()["jpeg"]
    else:
        many = np.zeros(2**26, np.uint8)
        kinds = {
            "zstd": numcodecs.Zstd(),
            "lz4": numcodecs.Blosc("lz4"),
            "zlib": numcodecs.Zlib(9),
        }
        bomb = bytes(kinds[codec].encode(many))
    with little_memory(2**25), pytest.raises(ValueError):
        shards.decode_into(bomb, codec, out)


def test_hdf5_that_points_elsewhere_or_claims_terabytes(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    name = "store-hdf5"
    seeds, _ = TARGETS[name].make(tmp_path)
    file, other = tmp_path / "y.h5", tmp_path / "other.h5"

    def damage(change: Callable[[Any], None]) -> None:
        file.write_bytes(seeds[0])
        with h5py.File(file, "r+") as opened:
            change(opened)
        refused(lambda: reader.open_store(str(file)), str(file))

    other.write_bytes(seeds[0])

    def link(opened: Any) -> None:
        del opened["source_frame"]
        opened["source_frame"] = h5py.ExternalLink(str(other), "source_frame")

    def outside(opened: Any) -> None:
        del opened["source_frame"]
        opened.create_dataset(
            "source_frame", (5,), "int32", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
        )

    def huge(opened: Any) -> None:
        del opened["source_frame"]
        opened.create_dataset("source_frame", (2**40,), "int32", chunks=(2**20,))

    for change in (link, outside, huge):
        damage(change)


def test_hdf5_that_the_library_does_not_survive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more letter in an attribute, and libhdf5 2.0 never comes back from opening the file."""
    pytest.importorskip("h5py")
    seeds, _ = TARGETS["store-hdf5"].make(tmp_path)
    monkeypatch.setattr(hdf5, "TRIAL_SECONDS", 1)
    garbled, good = tmp_path / "garbled.h5", tmp_path / "good.h5"
    garbled.write_bytes(seeds[0].replace(b"frame\0\0\0\x10", b"framee\0\0\0\x10", 1))
    refused(lambda: reader.open_store(str(garbled)), str(garbled))
    libraries = tmp_path / "libraries"  # found by the trial alone: here h5py is loaded
    monkeypatch.setenv("PYTHONPATH", str(libraries))
    libraries.mkdir()
    for code, words in (
        ("while True:\n    pass\n", "damaged: the HDF5 library does not come back from it"),
        ("import os\nos.kill(os.getpid(), 11)\n", "damaged: the HDF5 library crashes in it"),
    ):
        (libraries / "h5py.py").write_text(code)
        good.write_bytes(seeds[0])
        refused(lambda: reader.open_store(str(good)), words)
    monkeypatch.delenv("PYTHONPATH")
    tried = []
    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: (tried.append(a), real(*a, **k))[1])
    for _ in range(2):
        assert len(reader.open_store(str(good))) == 5
    assert len(tried) == 1, "a file is tried once"


def test_raw_flow_is_of_zarr_3_alone(tmp_path: Path) -> None:
    """Arrays of format 2 name their filters as they like, one of which loads pickles."""
    group = zarr.open_group(tmp_path / flow_raw.STORE, mode="w", zarr_format=2)
    group.create_array("flow", data=np.ones((1, 2, 4, 6), np.int16), chunks=(1, 2, 4, 6))
    group.create_array("frame_name", data=flow_raw.names_as_letters(["0"]))
    refused(lambda: flow_raw.read(tmp_path), "no raw flow")


def test_a_damaged_shard_of_raw_flow(tmp_path: Path) -> None:
    made = flow_raw.RawFlow(tmp_path, "t -> t+1", "none")
    made.put(0, "00000", np.ones((4, 6, 2), np.float32), "x")
    made.finish()
    names, array = flow_raw.read(tmp_path)
    assert names == ["00000"] and (flow_raw.entry(tmp_path, array, 0) == 64).all()
    (shard,) = (f for f in (tmp_path / flow_raw.STORE / "flow/c").rglob("*") if f.is_file())
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    refused(lambda: flow_raw.entry(tmp_path, array, 0), "damaged flow")


def test_raw_flow_that_claims_terabytes(tmp_path: Path) -> None:
    made = flow_raw.RawFlow(tmp_path, "t -> t+1", "none")
    made.put(0, "00000", np.ones((4, 6, 2), np.float32), "x")
    made.finish()
    assert flow_raw.is_whole(tmp_path)
    file = tmp_path / flow_raw.STORE / "frame_name/zarr.json"
    node = json.loads(file.read_text())
    node["shape"] = [2**20, 2**20]
    node["chunk_grid"]["configuration"]["chunk_shape"] = [2**20, 2**20]
    file.write_text(json.dumps(node))
    refused(lambda: flow_raw.read(tmp_path), "Delete it and run vsodpipe flow again")


def test_raw_flow_in_shards_of_nothing(tmp_path: Path) -> None:
    made = flow_raw.RawFlow(tmp_path, "t -> t+1", "none")
    made.put(0, "00000", np.ones((4, 6, 2), np.float32), "x")
    made.finish()
    file = tmp_path / flow_raw.STORE / "flow/zarr.json"
    node = json.loads(file.read_text())
    node["shape"][0] = node["chunk_grid"]["configuration"]["chunk_shape"][0] = 0
    file.write_text(json.dumps(node))
    refused(lambda: flow_raw.read(tmp_path), "Delete it and run vsodpipe flow again")


# ---- weights ----


def test_tensors_of_terabytes(tmp_path: Path) -> None:
    """One number may stand for as many as one likes, and no memory is taken for them."""
    file = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(1).expand(2**40)}, file)
    with little_memory():
        found = weights.examine(file)
        assert found.parameters == 2**40 and not found.loads
    old = io.BytesIO()
    torch.save({"a": torch.zeros(4)}, old, _use_new_zipfile_serialization=False)
    data = old.getvalue()
    file.write_bytes(data)
    assert checkpoint.load(file)["a"].shape == (4,)
    file.write_bytes(data.replace(struct.pack("<q", 4), struct.pack("<q", 2**42)))
    refused(lambda: checkpoint.load(file), "not a checkpoint of plain tensors")


def test_weights_that_unpack_to_much(tmp_path: Path) -> None:
    """torch stores the parts of its archives, but would unpack any."""
    plain, file = tmp_path / "plain.pt", tmp_path / "x.pt"
    torch.save({"a": torch.zeros(2**20)}, plain)
    with (
        zipfile.ZipFile(plain) as archive,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for part in archive.infolist():
            packed.writestr(part.filename, archive.read(part))
    assert torch.load(file, weights_only=True)["a"].numel() == 2**20, "torch does unpack it"
    assert file.stat().st_size < 2**14
    refused(lambda: checkpoint.load(file), "torch.save packs nothing")
    refused(lambda: _backbones.read_state_dict(file), "torch.save packs nothing")
    refused(lambda: raft_weights.find("raft_small", file), "expected a state dict")


def test_regions_of_a_picture_of_many_pixels(tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    colours = np.zeros((2, 3, 3), np.uint8)
    colours[1, 2] = 1, 2, 3
    file.write_bytes(media.encode_png(colours))
    found = masks._regions(file)
    assert found.dtype == np.int32 and found[1, 2] == 65536 + 2 * 256 + 3 and not found[0].any()
    dat = tmp_path / "xDef.dat"
    dat.write_text(f"Scale of region 0:\n{'9' * 5000}\nTotal number of labelled frames: 1")
    refused(lambda: masks.fbms_files(dat, 5), "expected 1 labelled frames, got 0")
    dat.write_text(
        f"Total number of labelled frames: 1\nFrame number:\n0\nFile name:\na.pgm{'x' * 300}\n"
    )
    refused(lambda: masks.fbms_files(dat, 5), "which is not beside it")


def test_rows_of_one_part(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(media.encode_jpeg(np.zeros((4, 6, 3), np.uint8)))
    (tmp_path / "rows.txt").write_text("x.jpg -\n")
    made = manifest_txt.read(tmp_path / "rows.txt", tmp_path).manifest
    assert made.datasets[0].videos[0].frames[0].img == "x.jpg"
    (tmp_path / "rows.txt").write_text("x.jpg -\n/ -\n")
    refused(lambda: manifest_txt.read(tmp_path / "rows.txt", tmp_path))


def test_a_recipe_that_asks_for_a_network_of_terabytes(
    saved: checkpoint.Checkpoint, tmp_path: Path
) -> None:
    content = torch.load(saved.file, weights_only=True)
    content["stage"]["network"]["dim"] = 2**22
    torch.save(content, saved.file)
    with little_memory(2**31), pytest.raises(WeightsError, match="of another shape"):
        checkpoint.build(checkpoint.read(saved.file, "dbsnet"))
    for key, value in (("version", torch.zeros(2)), ("model", torch.zeros(2)), ("stage", [1])):
        torch.save({**content, key: value}, saved.file)
        with pytest.raises(WeightsError):
            checkpoint.read(saved.file, "dbsnet")


# ---- what is printed ----


def test_names_move_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter()
    with reporter.task("flow of \x1b[2Jbear", 2, "frame") as counter:
        counter.advance(2, "loss \x1b]0;x\x07")
    reporter.warn("\x1b[31m")
    printed = capsys.readouterr().err
    assert "\\x1b[2Jbear" in printed and "\x1b" not in printed and "\x07" not in printed


EVIL = "\x1b]0;x\x07\x1b[2J\x9b31m\u202eb|<b>"
"""A name that would set the title of a terminal, clear it, and turn the text around."""


def test_every_command_shows_foreign_names_as_text(
    vsodpipe: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    write_video(tmp_path / "datasets/TINY_train" / EVIL, 1, 3)
    write_video(tmp_path / "datasets" / f"TINY{EVIL}_test" / "dice", 2, 3)
    write_video(tmp_path / "clips" / EVIL, 3, 3)
    state = {f"a{EVIL}": torch.zeros(2), "b": torch.zeros(1)}
    torch.save({"model": state, EVIL: 1}, tmp_path / f"w{EVIL[:-3]}.pth")
    map_sets.make_source(tmp_path, {"DAVIS_test": {"camel": [4] * 4}})
    for number in range(4):
        image = tmp_path / f"DAVIS_test/camel/RGB/0000{number}.jpg"
        map_sets.write(image, map_sets.columns(number))
    for method in (f"m{EVIL}", f"n{EVIL}"):
        map_sets.write_maps(tmp_path / "maps" / method / "DAVIS", {"camel": [2, 3, 2, 3]})
    score = "eval maps --manifest made.json"
    every = {
        "datasets": 0,
        f"datasets TINY{EVIL}_test": 0,
        "flow TINY_train --engine dis --preset ultrafast": 0,
        "manifest": 2,
        "manifest TINY_train": 2,
        f"import --own MINE_test clips/{EVIL}/RGB": 0,
        f"import davis clips/{EVIL}": 2,
        f"{score} --compare": 0,
        f"{score} --format csv": 0,
        f"{score} --format latex": 0,
        f"{score} --json": 0,
        f"report maps/m{EVIL} --manifest made.json": 0,
        f"train {EVIL} --manifest made.json": 2,
        f"weights w{EVIL[:-3]}.pth": 2,
        f"predict clips/{EVIL}/RGB --checkpoint w{EVIL[:-3]}.pth": 2,
    }
    for call, expected in every.items():
        code, out, err = vsodpipe(*call.split())
        assert code == expected and "unexpected" not in err, err
        assert (out + err).replace("\n", "").isprintable(), call


def test_an_error_stays_short(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli._fail("x" * 10**6 + "\n\x1b[2J. Mend it.", 2)
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and len(printed) < cli.LONGEST + 100
    assert printed.endswith("\\x1b[2J. Mend it.\n")
