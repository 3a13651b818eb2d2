"""What can go wrong, and the exit code it ends with.

    VsodpipeError                exit 1   the work failed
    ├── UsageError               exit 2   a name, option or recipe key that is not known
    ├── DataError                exit 2   a file or folder is missing or not what it should be
    ├── WeightsError             exit 2   weights are missing, or belong to another network
    └── Interrupted              exit 130 stopped by the user, with the way to continue

Messages follow one template: what failed, what was expected and what came instead, where, and the
next step.
"""

import errno
from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class VsodpipeError(Exception):
    """Base of everything this package raises on purpose."""

    exit_code = 1


class UsageError(VsodpipeError):
    """A name, option or recipe key that is not known, or not possible here."""

    exit_code = 2


class DataError(VsodpipeError):
    """A file or folder is missing, or is not what it should be."""

    exit_code = 2


class WeightsError(VsodpipeError):
    """Weights are missing, or belong to another network."""

    exit_code = 2


class Interrupted(VsodpipeError):
    """Stopped by the user; the message says how to continue."""

    exit_code = 130


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE)


def unwritable(place: object, error: OSError) -> VsodpipeError:
    """Return the error for a `place` that could not be written; a full disk is nobody's mistake."""
    said = f"{place}: cannot be written: {error.strerror or error}."
    if error.errno in _NO_ROOM:
        return VsodpipeError(f"{said} Make room and run again.")
    return DataError(said)


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a `name` that is none of the `known` ones, with the nearest of them."""
    names = sorted(known)
    near = get_close_matches(name.lower(), [n.lower() for n in names], n=1, cutoff=0.5)
    hint = next((f" Did you mean {n}?" for n in names if near and n.lower() == near[0]), "")
    return UsageError(f"unknown {kind} {name!r}.{hint} Known: {few(names, 60) or 'none'}.")


def few(names: Sequence[str], most: int = 5) -> str:
    """Return the first names, and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
