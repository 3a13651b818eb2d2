"""Which commands may be asked for from afar, and which of their options: what is not here is not.

An option's name is that on the command line (`max-side` is `max_side` in JSON). Its rule says what
its value may be:

    FREE       anything the option takes; it names no file
    DATA       a data set of the data root, a path or glob inside it, or a MANIFEST
    SOURCE     a path inside the data root or the watched folder
    MANIFEST   a .json of the folder of manifests
    RUN        a path inside the folder of runs
    FILE       a path inside the folder of runs or the data root
    NAMED      a FILE, or NAME=FILE
    WORD       a plain word, or a FILE
    NAME       one name of letters, digits, `_`, `-` and `.`
    KEYS       KEY=VALUE of a recipe; the value names no file
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any


class Rule(Enum):
    """What the value of an option may be."""

    FREE = auto()
    DATA = auto()
    SOURCE = auto()
    MANIFEST = auto()
    RUN = auto()
    FILE = auto()
    NAMED = auto()
    WORD = auto()
    NAME = auto()
    KEYS = auto()


@dataclass(frozen=True)
class Kind:
    """A command as a job."""

    options: dict[str, Rule]
    """What may come from afar."""
    here: frozenset[str]
    """What may not: it names places of the machine, or is the server's to say."""
    writes: str | None = None
    """The option that names the data sets it writes to: nothing else works on them meanwhile."""
    reads: str | None = None
    """The option that names its manifest: it waits for whatever writes to the data sets in it."""
    prints: bool = False
    """Without --json it prints a result for people; the others always run with --json."""


def json_name(parameter: Any) -> str:
    """Return the name in JSON of a parameter of a command: max_side for --max-side."""
    longs = [word for word in parameter.opts if word.startswith("--")]
    return str(longs[0][2:].replace("-", "_") if longs else parameter.name)


def _free(names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), Rule.FREE)


KINDS = {
    "import": Kind(
        {
            **{"name": Rule.NAME, "source": Rule.SOURCE, "masks": Rule.SOURCE},
            **_free("own stride force"),
        },
        frozenset({"json", "data", "quiet"}),
        writes="name",
    ),
    "flow": Kind(
        {
            **{"names": Rule.DATA, "weights": Rule.WORD},
            **_free("engine updates preset precision batch compile memory max_side direction gap"),
            **_free("tail format colour video dry_run device force"),
        },
        frozenset({"json", "out", "preview", "cluster", "data", "quiet"}),
        writes="names",
    ),
    "manifest": Kind(
        {
            **{"names": Rule.DATA, "name": Rule.NAME},
            **_free("split videos sample seed weight preview"),
        },
        # --check of a manifest reads the data: `vsodpipe store --check` of a store costs less
        frozenset({"check", "quick", "root", "layout", "json", "out", "data", "quiet"}),
        writes="names",
    ),
    "pack": Kind(
        {"name": Rule.DATA, **_free("format size tier flow dry_run force")},
        frozenset({"json", "to", "cluster", "data", "quiet"}),
        writes="name",
    ),
    "train": Kind(
        {
            **{"model": Rule.NAME, "manifest": Rule.MANIFEST, "set": Rule.KEYS},
            **{"backbone_weights": Rule.WORD, "init": Rule.FILE},
            **{"run": Rule.RUN, "resume": Rule.RUN},
            **_free("stage task strict_data compile workers device"),
        },
        frozenset({"recipe", "log", "cache_dir", "cache_size", "json", "quiet"}),
        reads="manifest",
    ),
    "test": Kind(
        {
            **{"model": Rule.NAME, "checkpoint": Rule.FILE, "manifest": Rule.MANIFEST},
            **{"out": Rule.RUN},
            **_free("dataset crf batch device force"),
        },
        frozenset({"quiet"}),
        reads="manifest",
    ),
    "predict": Kind(
        {
            **{"names": Rule.DATA, "checkpoint": Rule.NAMED, "out": Rule.RUN},
            **{"weights": Rule.WORD},
            **_free("no_overlay audio fps keep_flow crf engine updates preset precision max_side"),
            **_free("colour tail batch device force"),
        },
        frozenset({"json", "data", "quiet"}),
        writes="names",
    ),
    "eval": Kind(
        {
            **{"folders": Rule.FILE, "manifest": Rule.MANIFEST},
            **_free("protocol frames resize workers format metric compare json"),
        },
        frozenset({"curves", "attributes", "quiet"}),
        reads="manifest",
        prints=True,
    ),
}
"""The commands that run as jobs."""
