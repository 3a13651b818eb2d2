"""Export: data sets as links in the layout of a published repository, ready for its own loader."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vsodpipe import catalogue, layout_plan, layouts, manifest, masks, media
from vsodpipe.errors import DataError, UsageError
from vsodpipe.layout_plan import Plan, Written
from vsodpipe.manifest import Split
from vsodpipe.progress import Reporter


@dataclass(frozen=True)
class Exported:
    """What an export left in its folder."""

    sets: dict[str, Written]
    linked: int
    converted: int
    """Masks written anew as 0/255 PNG."""
    lists: int
    kept: int
    """Files that stood already; counted nowhere else."""
    notes: tuple[str, ...]


def run(names: Sequence[str], layout: str, out: Path, root: Path, reporter: Reporter) -> Exported:
    """Write data sets to folder `out` in a published layout, by links; return what was done.

    `names` are manifests (JSON files), data sets of the data root `root` or groups of them. Masks
    that the loaders would read wrongly (palette, 0 and 1, no PNG) are written as 0/255 PNG. What
    stands already is kept. Raises UsageError for unknown names and for a data set the layout has no
    place for, and DataError for `out` with anything else in it, before anything is written.
    """
    layouts.check(layout)
    real = Path(os.path.realpath(out))
    if Path(os.path.realpath(root)) in (real, *real.parents):
        raise UsageError(f"{out} is in the data root, which holds our own layout. Name another.")
    plan = layout_plan.make(layout, sources(names, root, reporter), catalogue.cards(root))
    standing = _standing(out)
    _refuse_others(plan, standing, out)
    todo = [path for path in (*plan.links, *plan.masks) if path not in standing]
    converted = 0
    with reporter.task(f"export to {out}", len(todo), "file") as counter:
        for path in todo:
            converted += _place(plan, path, out)
            counter.advance()
    lists = {path: rows for path, rows in plan.texts.items() if path not in standing}
    for path, rows in lists.items():
        media.write_bytes(out / path, _text(rows))
    notes = list(plan.notes)
    if converted:
        notes.append(f"{converted} masks are written as 0/255 PNG: palette, 0 and 1, or no PNG")
    return Exported(
        plan.sets, len(todo) - converted, converted, len(lists), len(standing), tuple(notes)
    )


def sources(names: Sequence[str], root: Path, reporter: Reporter) -> list[tuple[Split, Path]]:
    """Return the data sets that `names` stand for, each once, with the roots of their paths."""
    found: dict[str, tuple[Split, Path]] = {}
    here = catalogue.present(root)
    for name in names:
        if name.endswith(".json"):
            source = manifest.read(Path(name))
            if "://" in source.root:
                raise UsageError(f"{name}: its files are at {source.root}, and links need a folder")
            entries = [(split, Path(source.root)) for split in source.manifest.datasets]
        else:
            group = [d for d in here if manifest.group_and_split(d, root)[0] == name]
            chosen = group if group and name not in here else [name]
            base = Path(os.path.abspath(root))
            entries = [
                (manifest.split_of(catalogue.find(d, root), root, reporter), base) for d in chosen
            ]
        for split, base in entries:
            found.setdefault(split.dataset, (split, base))
    return list(found.values())


def lines(done: Exported, out: Path) -> Iterator[str]:
    """Yield what was done, in words."""
    for dataset, one in done.sets.items():
        yield f"{dataset}: {one.videos} videos, {one.frames} frames in {out / one.folder}"
    for note in done.notes:
        yield f"  note: {note}"
    kept = f", {done.kept} kept from before" if done.kept else ""
    yield (
        f"{out}: {done.linked} links, {done.converted} masks and {done.lists} lists written{kept}"
    )


def _standing(out: Path) -> set[str]:
    """Return the files in `out`, but for what a killed run left."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: expected a folder to write to, got a file. Name another --out.")
    found = set()
    for folder, inner, files in os.walk(out):
        linked = [name for name in inner if os.path.islink(os.path.join(folder, name))]
        for name in (*files, *linked):
            if not media.is_leftover(name):
                found.add(Path(folder, name).relative_to(out).as_posix())
    return found


def _refuse_others(plan: Plan, standing: set[str], out: Path) -> None:
    """Raise DataError unless all that stands in `out` is what the plan would write."""
    for path in sorted(standing):
        if path in plan.links:
            same = _is_link(out / path, plan.links[path])
        elif path in plan.masks:
            same = _is_mask(out / path, plan.masks[path])
        else:
            same = path in plan.texts and media.read_bytes(out / path) == _text(plan.texts[path])
        if not same:
            raise DataError(
                f"{out} holds something else: {path}. Name a new folder with --out, and all data "
                "sets that belong in it."
            )


def _is_link(target: Path, source: Path) -> bool:
    if not (target.exists() and source.exists()):
        return False
    return os.path.samefile(target, source) or filecmp.cmp(target, source, shallow=False)


def _is_mask(target: Path, source: Path) -> bool:
    if target.exists() and not target.is_symlink() and (data := _converted(source)) is not None:
        return media.read_bytes(target) == data
    return _is_link(target, source)


def _place(plan: Plan, path: str, out: Path) -> bool:
    """Write one file; return whether it is a mask that was converted."""
    if path in plan.masks and (data := _converted(plan.masks[path])) is not None:
        media.write_bytes(out / path, data)
        return True
    source = plan.masks.get(path) or plan.links[path]
    with media.replacing(out / path) as partial:
        _link(source, partial)
    return False


def _converted(source: Path) -> bytes | None:
    """Return a mask as 0/255 PNG, None for one that loaders read rightly as it is."""
    if source.suffix.lower() == ".png" and masks.mode(source) in ("1", "L"):
        if media.read_map(source).max(initial=0) != 1:
            return None
    return media.encode_png(media.read_mask(source).astype(np.uint8) * 255)


def _link(source: Path, target: Path) -> None:
    if not source.is_file():
        raise DataError(f"{source}: no such file. Restore it and run again.")
    for make in (os.symlink, os.link):
        try:
            make(source.resolve(), target)
            return
        except FileExistsError:  # of another command: a copy would go through its link
            raise
        except OSError:  # a file system without this kind of link
            continue
    shutil.copyfile(source, target)


def _text(rows: Sequence[str]) -> bytes:
    return "".join(f"{row}\n" for row in rows).encode()
