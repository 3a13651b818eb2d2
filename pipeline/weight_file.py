"""Files of weights that come from elsewhere."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch


class PackedError(ValueError):
    """The file is an archive with packed parts."""


def load(file: Path) -> Any:
    """Return what `torch.save` wrote to `file`: tensors and plain values only, on the CPU.

    Raises PackedError for an archive with packed parts, by which a small file could fill the
    memory: torch packs none, but unpacks them. What else torch raises has no common type.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                raise PackedError("it holds packed parts, and torch.save packs nothing")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd pickles: what they do not hold is said elsewhere
        return torch.load(file, map_location="cpu", weights_only=True)
