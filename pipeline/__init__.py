"""vsodpipe: one pipeline for video salient object detection, from raw videos to scores."""

from importlib.metadata import version

__version__ = version("vsodpipe")
__all__ = ["__version__"]
