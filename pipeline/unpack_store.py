"""Store -> files in our own layout, which `vsodpipe manifest` reads: VIDEO/RGB, GT, FLOW, ..."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from vsodpipe import catalogue, flow_record, media
from vsodpipe.errors import DataError
from vsodpipe.flow_forms import FORMS
from vsodpipe.flows.files import STEPS, write_flo
from vsodpipe.progress import Reporter
from vsodpipe.reader import Store
from vsodpipe.shards import JPEGS

RECORD = ".store.json"
"""Says, in a data set, which store it was unpacked from."""
FOLDERS = {
    "img": "RGB",
    "gt": "GT",
    "flow_picture": "FLOW",
    "flow": "FLOW_FLO",
    "depth": "DEPTH",
    "thermal": "THERMAL",
}


def unpack(store: Store, out: Path, reporter: Reporter, *, force: bool = False) -> Path:
    """Write the files of `store` below `out`; return the folder of the data set.

    Pictures are PNG, or the JPEG bytes themselves where the store holds such; flow vectors are
    `.flo`. Appears whole or not at all; what was unpacked from the same store is kept. Raises
    DataError where something else is there already, unless `force` says to replace it.
    """
    target = out / store.dataset
    record = json.dumps({"store": store.fingerprint})
    if target.exists() and not force:
        if (target / RECORD).is_file() and media.read_bytes(target / RECORD) == record.encode():
            reporter.say(f"{target}: is there already, of the same store")
            return target
        raise DataError(f"{target}: is there already. Use --force, or another --out.")
    owner = catalogue.card_of(store.dataset, catalogue.cards_root(str(out)))
    stills = owner is not None and owner[0].kind == "image"
    with media.replacing(target) as folder:
        with reporter.task(f"unpack {store.dataset}", len(store), "frame") as counter:
            for video, name in enumerate(store.videos):
                for frame in range(len(store.frames(video))):
                    _frame(store, video, frame, folder, stills)
                    counter.advance()
                for key in ("flow", "flow_picture"):
                    _record(store, key, _folder(folder, name, key, stills))
        (folder / RECORD).write_text(record)
    return target


def _folder(base: Path, video: str, key: str, stills: bool) -> Path:
    if stills:  # pictures lie beside one another, but each with a flow folder of its own
        return base / FOLDERS[key] / video if key.startswith("flow") else base / FOLDERS[key]
    return base / video / FOLDERS[key]


def _frame(store: Store, video: int, frame: int, base: Path, stills: bool) -> None:
    index, name = int(store.offsets[video]) + frame, store.frames(video)[frame]
    for key in store.arrays:
        if not store.has(key)[index]:
            continue
        folder = _folder(base, store.videos[video], key, stills)
        folder.mkdir(parents=True, exist_ok=True)
        if store.codec(key) in JPEGS:
            (folder / f"{name}.jpg").write_bytes(store.chunk(index, key) or b"")
            continue
        array = store.read(video, frame, key)
        if key == "flow":
            flow = array.transpose(1, 2, 0) / np.float32(STEPS)
            write_flo(folder / f"{name}.flo", flow.astype(np.float32))
            continue
        picture = array * np.uint8(255) if key == "gt" else array
        (folder / f"{name}.png").write_bytes(media.encode_png(picture))


def _record(store: Store, key: str, folder: Path) -> None:
    """Write the record of a flow folder: which flow it is, and at which size it was stored."""
    vectors = store.attributes["flow_vectors"]["record"]
    record = vectors if key == "flow" else store.attributes.get("flow")
    if record is None or not folder.is_dir():
        return
    form = "flo" if key == "flow" else "jpg" if store.codec(key) in JPEGS else "png"
    kept = {k: v for k, v in record.items() if k != "fingerprint"}
    made = flow_record.make({**kept, "format": FORMS[form].words, "store": store.fingerprint})
    (folder / flow_record.FILE).write_bytes(flow_record.dump(made))
