"""`vsodpipe manifest --check` and rows of a txt, as the `manifest` command calls them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vsodpipe.cli_app import print_json
from vsodpipe.errors import DataError, UsageError
from vsodpipe.progress import Reporter

if TYPE_CHECKING:
    from vsodpipe.manifest import Manifest


def check(
    names: Sequence[str],
    out: Path,
    root: Path | None,
    quick: bool,
    as_json: bool,
    data: Path,
    reporter: Reporter,
) -> None:
    """Check manifests, those of folder `out` where none is named; raise DataError if any is unfit.

    A name is a file, a folder, a URL, or that of a manifest in `out`.
    """
    from vsodpipe import inputs, manifest_check

    places = [_place(name, out) for name in names] or sorted(map(str, out.glob("*.json")))
    if not places:
        raise UsageError(f"no manifest in {out}. Write one with vsodpipe manifest, or name one.")
    sources = [inputs.open_manifest(place, reporter, root, data) for place in places]
    verdict = manifest_check.check(sources, reporter, quick=quick, data=data)
    if as_json:
        print_json(verdict.as_dict())
    for line in verdict.lines():
        reporter.say(line)
    if not verdict.ok:
        raise DataError(f"{', '.join(places)}: {verdict.summary()}.")
    for kind, count in verdict.warnings.items():
        reporter.warn(f"{count} {kind}")
    reporter.say(f"ok: {verdict.summary()}")


def _place(name: str, out: Path) -> str:
    here = out / f"{name}.json"
    known = "://" not in name and not Path(name).exists() and here.is_file()
    return str(here) if known else name


def of_rows(
    names: Sequence[str], root: Path | None, out: Path, data: Path, reporter: Reporter
) -> tuple[Manifest, Path] | None:
    """Return the manifest for `out` of txt files, and where its paths start; None without a txt.

    Raises UsageError for other names among them, for `--root` without a txt, and for a txt that
    would be written over.
    """
    from vsodpipe import manifest, manifest_txt

    files = [Path(name) for name in names if name.lower().endswith(".txt")]
    if not files:
        if root is not None:
            raise UsageError("--root: only for txt files. Leave it out, or name a txt.")
        return None
    if len(files) < len(names):
        raise UsageError(f"{files[0]}: name txt files alone, or none.")
    made = manifest_txt.manifest_of(files, root, data)
    names_made = [split.dataset for split in made.datasets]
    written = {(out / f"{name.lower()}.txt").resolve() for name in names_made}
    if over := next((file for file in files if file.resolve() in written), None):
        raise UsageError(f"{over}: would be written over. Name another folder with --out.")
    manifest.warn_of_lost(out / f"{made.name}.json", names_made, reporter)
    base = Path(made.root)
    return made.model_copy(update={"root": manifest.relative_root(base, out)}), base
