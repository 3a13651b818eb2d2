"""Archives: good ones are imported like folders, hostile ones leave nothing behind."""

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import files_below
from raw_sets import FRAME, RAW
from vsodpipe import catalogue, importer, unpack
from vsodpipe.errors import DataError, VsodpipeError
from vsodpipe.progress import Reporter

Run = Callable[..., tuple[int, str, str]]


def zipped(path: Path, entries: list[tuple[zipfile.ZipInfo | str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def tarred(path: Path, entries: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for info, data in entries:
            info.size = len(data) if info.isreg() else info.size
            archive.addfile(info, io.BytesIO(data))
    return path


def tar_info(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz", ".tgz"])
def test_an_archive_is_imported_like_its_folder(
    tmp_path: Path, quiet: Reporter, ending: str
) -> None:
    raw = next(r for r in RAW if r.dataset == "DAVSOD_easy35")
    raw.write(tmp_path / "raw")
    top = tmp_path / "raw/DAVSOD/Testing Set/Easy-35"
    files = [p for p in sorted(top.rglob("*")) if p.is_file()]
    names = [(p.relative_to(top).as_posix(), p.read_bytes()) for p in files]
    names.append(("__MACOSX/select_0606/Imgs/._0390.png", b"mac"))
    archive = tmp_path / f"Easy-35{ending}"
    if ending == ".zip":
        zipped(archive, [*names])
    else:
        tarred(archive, [(tar_info(name), data) for name, data in names])
    root = tmp_path / "data"
    (done,) = importer.import_dataset("davsod", archive, root, quiet)
    assert (done.dataset, done.videos, done.frames) == ("DAVSOD_easy35", 1, 3)
    (video,) = catalogue.find("DAVSOD_easy35", root).videos
    assert all(frame.gt and frame.gt.exists() for frame in video.frames)
    assert catalogue.present(root) == ["DAVSOD_easy35"], "what was unpacked is no data set"
    before = files_below(root)
    inode = (root / ".sources/davsod/Easy-35/select_0606/Imgs/0390.png").stat().st_ino
    importer.import_dataset("davsod", archive, root, quiet)
    again = (root / ".sources/davsod/Easy-35/select_0606/Imgs/0390.png").stat().st_ino
    assert files_below(root) == before and again == inode, "kept"
    (root / ".sources/davsod/Easy-35/select_0606/Imgs/0390.png").unlink()
    importer.import_dataset("davsod", archive, root, quiet, force=True)
    assert files_below(root) == before


def test_an_archive_of_another_data_set_is_not_unpacked(tmp_path: Path, quiet: Reporter) -> None:
    entries = [(f"{v}/Imgs/{v}_00000.jpg", FRAME) for v in ("Ball", "Hall2", "Stair")]
    archive = zipped(tmp_path / "ViSal.zip", [*entries])
    with pytest.raises(DataError, match=r"fit mcl \(split test\): vsodpipe import mcl"):
        importer.import_dataset("visal", archive, tmp_path / "data", quiet)
    assert not (tmp_path / "data").exists()


def link_in_zip() -> tuple[zipfile.ZipInfo | str, bytes]:
    info = zipfile.ZipInfo("cat/00001.jpg")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info, b"/etc/passwd"


ZIPS: dict[str, tuple[list[tuple[zipfile.ZipInfo | str, bytes]], str]] = {
    "parent": ([("../evil.jpg", FRAME)], "leads outside"),
    "inner parent": ([("cat/../../evil.jpg", FRAME)], "leads outside"),
    "absolute": ([("/tmp/evil.jpg", FRAME)], "leads outside"),
    "drive": ([("C:/evil.jpg", FRAME)], "leads outside"),
    "backslash": ([("cat\\..\\evil.jpg", FRAME)], "leads outside"),
    "deep": ([("a/" * 40 + "1.jpg", FRAME)], "leads outside"),
    "long": ([("a" * 300 + ".jpg", FRAME)], "leads outside"),
    "link": ([link_in_zip()], "is a link"),
    "bomb": ([("cat/00001.bmp", b"\0" * 30_000_000)], "beyond the size"),
    "file and folder": ([("cat", b"x"), ("cat/1.jpg", FRAME)], "a file and a folder"),
}
TARS = {
    "parent": (tar_info("../evil.jpg"), "leads outside"),
    "absolute": (tar_info("/tmp/evil.jpg"), "leads outside"),
    "symlink": (tar_info("cat/1.jpg", tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
    "hard link": (tar_info("cat/1.jpg", tarfile.LNKTYPE, "../../x"), "is a link"),
    "device": (tar_info("cat/1.jpg", tarfile.CHRTYPE), "is a link or a device"),
    "fifo": (tar_info("cat/1.jpg", tarfile.FIFOTYPE), "is a link or a device"),
}


def refused(archive: Path, root: Path, words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        importer.import_dataset("visal", archive, root, Reporter(quiet=True))
    assert str(archive) in str(error.value) or "Get the archive anew" in str(error.value)
    assert not root.exists()


@pytest.mark.parametrize("name", ZIPS)
def test_hostile_zips(tmp_path: Path, name: str) -> None:
    entries, words = ZIPS[name]
    refused(zipped(tmp_path / "ViSal.zip", [*entries]), tmp_path / "data", words)


@pytest.mark.parametrize("name", TARS)
@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_hostile_tars(tmp_path: Path, name: str, ending: str) -> None:
    info, words = TARS[name]
    entries = [(info, FRAME if info.isreg() else b"")]
    refused(tarred(tmp_path / f"ViSal{ending}", entries), tmp_path / "data", words)


def test_a_tar_that_states_a_size_it_has_not(tmp_path: Path) -> None:
    info = tar_info("cat/00001.jpg")
    info.size = 2**45
    (tmp_path / "ViSal.tar").write_bytes(info.tobuf() + b"\0" * 2048)
    refused(tmp_path / "ViSal.tar", tmp_path / "data", "beyond the size|damaged archive")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_that_is_there_twice(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "ViSal.zip", [("cat/1.jpg", FRAME), ("cat/1.jpg", FRAME)])
    refused(archive, tmp_path / "data", "is there twice")


def test_broken_archives(tmp_path: Path, quiet: Reporter) -> None:
    entries = [(f"cat/{n:05d}.jpg", FRAME * 20) for n in range(1, 50)]
    archive = zipped(tmp_path / "ViSal.zip", [*entries])
    whole = bytearray(archive.read_bytes())
    whole[200:260] = b"\xff" * 60
    archive.write_bytes(whole)
    with pytest.raises(DataError, match="damaged archive"):
        importer.import_dataset("visal", archive, tmp_path / "data", quiet)
    assert not list((tmp_path / "data").rglob("*.jpg")), "nothing half-unpacked"
    (tmp_path / "note.zip").write_text("hello")
    with pytest.raises(DataError, match="no folder, zip or tar file"):
        importer.import_dataset("visal", tmp_path / "note.zip", tmp_path / "data", quiet)


def test_a_full_disk_is_noticed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: Reporter
) -> None:
    archive = zipped(tmp_path / "ViSal.zip", [("cat/00001.jpg", FRAME)])
    monkeypatch.setattr(unpack.shutil, "disk_usage", lambda _: type("Disk", (), {"free": 3}))
    with pytest.raises(VsodpipeError, match="Make room"):
        importer.import_dataset("visal", archive, tmp_path / "data", quiet)
    assert not list((tmp_path / "data").rglob("*.jpg"))


def test_the_command_says_it_in_one_line(vsodpipe: Run, tmp_path: Path) -> None:
    archive = zipped(tmp_path / "ViSal.zip", [("../evil.jpg", FRAME)])
    code, out, err = vsodpipe("import", "visal", archive)
    assert code == 2 and out == "" and len(err.splitlines()) == 1
    assert err.startswith("error: ") and "unpack it yourself" in err


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1, max_size=60))
def test_no_name_leads_outside(name: str) -> None:
    place = Path("/somewhere/inside")
    try:
        safe = unpack._safe(Path("a.zip"), name)
    except DataError:
        return
    target = Path(str(place / safe)).resolve() if "\0" not in safe else None
    assert target is not None and (target == place or place in target.parents)
