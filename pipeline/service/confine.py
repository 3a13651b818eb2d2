"""Values that name files: each stays inside the folder that its rule allows."""

from __future__ import annotations

import os
import re
from pathlib import Path

from vsodpipe.errors import UsageError
from vsodpipe.service.kinds import Rule
from vsodpipe.service.settings import Settings

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*=")
_KEY = re.compile(r"[A-Za-z0-9_.-]{1,128}=[^/\\~]*")


def value(text: str, rule: Rule, settings: Settings) -> str:
    """Return `text` as the command is to get it: names as they are, paths absolute.

    Raises UsageError for what the rule does not allow. Links inside the data root are followed (an
    import is made of them); those of the folders of runs and manifests may not lead out of them.
    """
    if not text or len(text) > 4096 or not text.isprintable():
        raise UsageError(f"{text[:80]!r}: expected up to 4096 printable characters.")
    match rule:
        case Rule.NAME:
            return _name(text)
        case Rule.KEYS if not _KEY.fullmatch(text):
            raise UsageError(f"{text}: expected KEY=VALUE, and a value that names no file.")
        case Rule.DATA if text.endswith(".json"):
            return _inside(text, settings, [settings.manifests])
        case Rule.DATA if "/" in text:
            return _inside(text, settings, [settings.data])
        case Rule.DATA:
            return _entry(text)
        case Rule.SOURCE:
            watched = [settings.watch] if settings.watch else []
            return _inside(text, settings, [settings.data, *watched])
        case Rule.MANIFEST:
            if not text.endswith(".json"):
                raise UsageError(f"{text}: expected a manifest, such as manifests/davis.json.")
            return _inside(text, settings, [settings.manifests])
        case Rule.RUN:
            return _inside(text, settings, [settings.runs])
        case Rule.FILE:
            return _inside(text, settings, [settings.runs, settings.data])
        case Rule.NAMED:
            name = _LABEL.match(text)
            start = name.end() if name else 0
            return text[:start] + _inside(text[start:], settings, [settings.runs, settings.data])
        case Rule.WORD if not _NAME.fullmatch(text) or "." in text:
            return _inside(text, settings, [settings.runs, settings.data])
        case _:
            return text


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise UsageError(f"{text}: expected a name of letters, digits, `_`, `-` and `.`.")
    return text


def _entry(text: str) -> str:
    """Return the name, or glob, of something in the data root itself."""
    if text.startswith((".", "-", "~")) or text.endswith(".txt"):
        raise UsageError(f"{text}: expected the name of a data set.")
    return text


def _inside(text: str, settings: Settings, roots: list[Path]) -> str:
    """Return the absolute path that `text` means in one of `roots`.

    `runs/X`, `manifests/X` and the data root's own name start from these folders, another relative
    path from the first root.
    """
    parts = Path(text).parts
    if "://" in text or text.startswith("~") or ".." in parts or not parts:
        raise UsageError(f"{text}: expected a path inside {_names(roots)}.")
    known = {folder.name: folder for folder in (settings.data, settings.runs, settings.manifests)}
    if os.path.isabs(text):
        path = Path(os.path.normpath(text))
    elif parts[0] in known and not (roots[0] / parts[0]).exists():
        path = known[parts[0]].joinpath(*parts[1:])
    else:
        path = roots[0].joinpath(*parts)
    for root in roots:
        if not path.is_relative_to(root):
            continue
        if root in (settings.runs, settings.manifests):
            if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
                break
        if not path.is_relative_to(settings.state / "uploads") and _hidden(path.relative_to(root)):
            break
        return str(path)
    raise UsageError(f"{text}: is not inside {_names(roots)}.")


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _names(roots: list[Path]) -> str:
    return " or ".join(f"the folder {root.name}" for root in roots)
