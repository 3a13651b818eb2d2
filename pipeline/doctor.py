"""What this machine can do: versions, devices, codecs, disk, and what is missing for which command.

Every check stands alone and imports what it checks by itself: a broken package is a line of the
report, never the end of it.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Literal

from vsodpipe import cores

PACKAGES = (
    *("torch", "torchvision", "timm", "numpy", "opencv-python-headless", "pillow"),
    *("simplejpeg", "zarr", "numcodecs", "dask", "fsspec"),
)
MODULES = {"opencv-python-headless": "cv2", "pillow": "PIL"}
"""Packages that others replace, and what they are imported as."""

EXTRAS = {
    "plots": (("matplotlib",), "eval --curves"),
    "hdf5": (("h5py",), "pack --format hdf5, stores that end in .h5"),
    "video": (("av",), "the overlay video of predict"),
    "remote": (("aiohttp", "s3fs"), "manifests and stores at https:// and s3://"),
    "serve": (("httptools", "starlette", "uvicorn", "uvloop"), "serve"),
    "tensorboard": (("tensorboard",), "train --log tensorboard"),
    "wandb": (("wandb",), "train --log wandb"),
    "mlflow": (("mlflow",), "train --log mlflow"),
}
"""Extra of the package -> its modules, and what needs them."""

WRITTEN = 32 * 2**20
"""Most bytes that the test of a disk writes; it ends after SECONDS."""
SECONDS = 1.0


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    group: Literal["versions", "devices", "codecs", "disk", "extras"]
    name: str
    found: str
    fine: bool = True
    remedy: str = ""


def examine(data: Path | None) -> list[Finding]:
    """Return what was found, in groups; `data` is the data root. Raises nothing."""
    checks: dict[str, tuple[Literal["devices", "codecs", "disk"], Callable[[], str], str]] = {
        "CPU": ("devices", _cpu, ""),
        "CUDA": ("devices", _cuda, "Install a torch that fits the driver."),
        "JPEG": ("codecs", _jpeg, "pip install --force-reinstall simplejpeg"),
        "PNG and WebP": (
            "codecs",
            _pictures,
            "pip install --force-reinstall opencv-python-headless",
        ),
        "video files": ("codecs", _video, "pip install --force-reinstall opencv-python-headless"),
        "zarr": ("codecs", _zarr, "Install zarr, numcodecs and vsodpipe anew."),
        "data root": ("disk", lambda: _disk(data), "Name a folder that can be written: --data."),
    }
    found = [*_versions(), *(_checked(name, *check) for name, check in checks.items())]
    return [*found, *_extras()]


def _versions() -> Iterator[Finding]:
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    yield Finding("versions", "python", f"{platform.python_version()} ({system})")
    for package in ("vsodpipe", *PACKAGES):
        try:
            yield Finding("versions", package, metadata.version(package))
        except metadata.PackageNotFoundError:
            if find_spec(MODULES.get(package, package)) is not None:
                yield Finding("versions", package, "there, of another package")
            else:
                yield Finding("versions", package, "missing", False, f"pip install {package}")


def _checked(
    name: str,
    group: Literal["devices", "codecs", "disk"],
    check: Callable[[], str],
    remedy: str,
) -> Finding:
    try:
        with redirect_stderr(StringIO()):  # libraries talk while they are imported
            return Finding(group, name, check())
    except Exception as error:
        words = " ".join(str(error).split()) or type(error).__name__
        return Finding(group, name, words, False, remedy)


def _cpu() -> str:
    pages = (
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if sys.platform != "win32" else 0
    )
    return f"{cores.count()} cores" + (f", {pages / 2**30:.0f} GiB memory" if pages else "")


def _cuda() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none: --device auto is the CPU"
    names = []
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        names.append(f"cuda:{number} {about.name}, {about.total_memory / 2**30:.0f} GiB")
    return "; ".join(names)


def _jpeg() -> str:
    import numpy as np
    import simplejpeg

    image = np.full((16, 16, 3), 128, np.uint8)
    back = simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(image, colorsubsampling="444"))
    if abs(int(back.mean()) - 128) > 2:
        raise ValueError("a grey picture comes back in another colour")
    return "reads and writes"


def _pictures() -> str:
    import cv2
    import numpy as np

    for suffix in (".png", ".webp"):
        done, data = cv2.imencode(suffix, np.full((16, 16, 3), 128, np.uint8))
        if not done or cv2.imdecode(data, cv2.IMREAD_COLOR) is None:
            raise ValueError(f"OpenCV cannot write and read {suffix}")
    return "reads and writes"


def _video() -> str:
    import cv2
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "a.mp4")
        writer = cv2.VideoWriter(file, cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
        for level in range(4):
            writer.write(np.full((48, 64, 3), level * 60, np.uint8))
        writer.release()
        capture = cv2.VideoCapture(file, cv2.CAP_FFMPEG)
        read = sum(capture.read()[0] for _ in range(4))
        capture.release()
    if read < 4:
        raise ValueError("OpenCV's FFmpeg cannot write and read an mp4")
    return "reads and writes mp4 (FFmpeg of OpenCV)"


def _zarr() -> str:
    import numpy as np
    import zarr
    from zarr.storage import MemoryStore

    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    array = zarr.create_array(MemoryStore(), data=values, chunks=(4, 4))
    if not np.array_equal(np.asarray(array[:]), values):
        raise ValueError("an array comes back with other values")
    codecs = {entry.name for entry in metadata.entry_points(group="zarr.codecs")}
    if "imagecodecs_jpeg" not in codecs:
        raise ValueError("the JPEG codec of vsodpipe is not registered with zarr")
    return "reads and writes, lossless and JPEG"


def _disk(data: Path | None) -> str:
    root = data or Path(os.environ.get("VSODPIPE_DATA") or "datasets")
    place = next(p for p in (root.absolute(), *root.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(place).free / 2**30
    block, written = os.urandom(2**20), 0
    with tempfile.TemporaryFile(dir=place) as file:
        started = time.monotonic()
        while written < WRITTEN and time.monotonic() - started < SECONDS:
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
            written += len(block)
        seconds = time.monotonic() - started
    note = "" if place == root.absolute() else f" (not there yet; measured in {place})"
    return f"{root}{note}: {free:.0f} GiB free, writes {written / seconds / 1e6:.0f} MB/s"


def _extras() -> Iterator[Finding]:
    for extra, (modules, commands) in EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        if missing:
            remedy = f'pip install "vsodpipe[{extra}]"'
            found = f"{', '.join(missing)} missing, needed by: {commands}"
            yield Finding("extras", extra, found, False, remedy)
        else:
            yield Finding("extras", extra, f"there, for: {commands}")
