"""The HDF5 form of a store: one file of the same schema, one frame a chunk.

h5py reads the metadata and tells where the chunks lie; the frames are read like those of shards.
The HDF5 library may crash in a garbled file or never come back from it, so each file is read by
`python -m vsodpipe.hdf5 FILE` first, a process that may die of it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from numpy.typing import NDArray

from vsodpipe import shards, store
from vsodpipe.errors import DataError, UsageError
from vsodpipe.fetch import Files

SUFFIXES = (".h5", ".hdf5")
TRIAL_SECONDS = 60
"""Of CPU time, after which reading the metadata of a file counts as never ending."""
_survived: set[tuple[int | str, ...]] = set()
"""Files that a trial came back from: device, number, size and time of change, or URL."""


def library() -> Any:
    """Return h5py. Raises UsageError with the way to install it."""
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        raise UsageError("HDF5 needs h5py. Install it: pip install h5py") from error


def assemble(
    target: Path,
    attributes: dict[str, Any],
    small: dict[str, NDArray[Any]],
    shard_files: dict[str, list[Path]],
) -> None:
    """Write the file from the shards of a pack, whose chunks go into it as they are.

    `shard_files` are those of each array, by its path.
    """
    about = store.check_attributes(attributes, "pack")
    with library().File(target, "w", libver="latest") as file:
        file.attrs["vsodpipe"] = json.dumps(attributes)
        for name in store.small_names(about):
            made = file.create_dataset(name, data=small[name], track_times=False)
            _label(made, store.small_kind(name)[1])
        for group in about.groups:
            for array in about.arrays:
                kind, codec = store.KINDS[array], store.codec(array, about.tier, "hdf5")
                shape = kind.shape(group.size)
                made = file.create_dataset(
                    group.named(array),
                    shape=(group.frames, *shape),
                    dtype=kind.dtype,
                    chunks=(1, *shape),
                    compression=1 if codec == "zlib" else None,
                    fillvalue=0,
                    track_times=False,
                )
                _label(made, ("frame", *kind.dimensions))
                for key, value in store.array_attributes(array, attributes["flow_vectors"]).items():
                    made.attrs[key] = value
                _fill(made, group, shard_files[group.named(array)])


def _label(dataset: Any, dimensions: tuple[str, ...]) -> None:
    for number, dimension in enumerate(dimensions):
        dataset.dims[number].label = dimension


def _fill(dataset: Any, group: store.Group, files: list[Path]) -> None:
    length = shards.index_bytes(group.shard)
    for number, path in enumerate(files):
        data = path.read_bytes()
        index = shards.parse_index(data[-length:], str(path), len(data))
        for row, (start, size) in enumerate(index.tolist()):
            if start != shards.ABSENT:
                place = (number * group.shard + row, *(0 for _ in dataset.shape[1:]))
                dataset.id.write_direct_chunk(place, data[start : start + size])


def load(files: Files, checks: bool = False) -> store.Parts:
    """Open the HDF5 form of a store, with what only `checks` need.

    Raises DataError for anything that a pack does not write.
    """
    library()
    _try(files)
    return _read(files, checks)


def _try(files: Files) -> None:
    """Raise DataError for a file that a process of its own does not survive.

    Only that counts: any other failure is found again, and said, by whoever reads the file next.
    """
    identity: tuple[int | str, ...] = (files.url,)
    if files.local:
        try:
            state = os.stat(files.url)
        except OSError:
            return
        identity = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
    if identity in _survived:
        return
    call = [sys.executable, "-P", "-m", __name__, files.url, str(TRIAL_SECONDS)]
    silent = subprocess.DEVNULL
    ended = subprocess.run(call, stdin=silent, stdout=silent, stderr=silent)
    if ended.returncode < 0:
        how = "does not come back from" if ended.returncode == -signal.SIGXCPU else "crashes in"
        raise DataError(f"{files.url}: damaged: the HDF5 library {how} it. {store.REPACK}")
    _survived.add(identity)


def _die_of(url: str, seconds: int) -> None:
    """Read the metadata of a file, in a process that gets so much CPU time and leaves no core."""
    import resource  # not on every system: there, files are opened untried

    for limit, most in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (most, resource.getrlimit(limit)[1]))
    _read(Files(url, None, 0), checks=True)


def _read(files: Files, checks: bool) -> store.Parts:
    """Open the HDF5 form of a store, with what only `checks` need.

    Raises DataError for anything that a pack does not write.
    """
    with _opened(files) as file:
        try:
            attributes = json.loads(file.attrs.get("vsodpipe", "null"))
        except (ValueError, TypeError, RecursionError) as error:
            raise store.damaged(files.url, "its attributes are not JSON") from error
        about = store.check_attributes(attributes, files.url)
        small = {}
        for name in store.small_names(about, checks):
            found, (dtype, dimensions) = _dataset(file, name, files.url), store.small_kind(name)
            if found.dtype != np.dtype(dtype) or found.ndim != len(dimensions):
                raise store.damaged(files.url, f"type of {name}")
            if found.chunks is not None or found.id.get_storage_size() != found.nbytes:
                raise store.damaged(files.url, f"layout of {name} is not what a pack writes")
            small[name] = np.asarray(found[()])
        if max(group.frames for group in about.groups) > len(small["frame_name"]):
            raise store.damaged(files.url, "its arrays disagree")
        pixels = {
            (group.path, array): _pixels(file, array, about, group, files)
            for group in about.groups
            for array in about.arrays
        }
        return store.Parts(about, attributes, small, pixels)


@contextmanager
def _opened(files: Files) -> Iterator[Any]:
    h5py = library()
    if files.local and not Path(files.url).is_file():
        raise DataError(f"{files.url}: no store. Make it with vsodpipe pack --format hdf5.")
    try:
        with fsspec.open(files.url, "rb") as raw, h5py.File(raw, "r") as file:
            yield file
    except DataError:
        raise
    except Exception as error:  # a damaged file fails anywhere inside h5py
        reason = " ".join(str(error).split())
        raise DataError(f"{files.url}: not an HDF5 store ({reason}). {store.REPACK}") from error


def _dataset(file: Any, name: str, where: str) -> Any:
    found = file.get(name)
    if not isinstance(found, library().Dataset):
        raise store.damaged(where, f"{name} is missing")
    if found.file != file or found.external or found.is_virtual:
        raise store.damaged(where, f"{name} lies in another file")
    return found


def _pixels(
    file: Any, array: str, about: store.Attributes, group: store.Group, files: Files
) -> store.Pixels:
    kind, codec = store.KINDS[array], store.codec(array, about.tier, "hdf5")
    dataset, shape = _dataset(file, group.named(array), files.url), kind.shape(group.size)
    if (
        dataset.shape != (group.frames, *shape)
        or dataset.dtype != np.dtype(kind.dtype).newbyteorder("<")
        or dataset.chunks != (1, *shape)
        or dataset.compression != ("gzip" if codec == "zlib" else None)
        or dataset.shuffle
    ):
        raise store.damaged(files.url, f"layout of {array} is not what a pack writes")
    index = np.full((group.frames, 2), shards.ABSENT, np.uint64)

    def note(chunk: Any) -> None:
        index[chunk.chunk_offset[0]] = chunk.byte_offset, chunk.size

    dataset.id.chunk_iter(note)
    return store.Pixels(codec, kind.dtype, shape, group.frames, [""], [0], {0: index})


if __name__ == "__main__":
    _die_of(sys.argv[1], int(sys.argv[2]))
