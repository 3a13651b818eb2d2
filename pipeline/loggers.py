"""Where the curves and pictures of a run go beside its `events.jsonl`: one small interface.

    with loggers.opened(["tensorboard"], run, config) as log:
        log.numbers(step, {"loss": 0.3})
        log.picture(step, "DAVIS_val/dog", picture)        # uint8 RGB (H, W, 3)

Each service is an optional package: `pip install "vsodpipe[tensorboard]"`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vsodpipe.errors import UsageError, unknown

Picture = NDArray[np.uint8]


class Logger(Protocol):
    """A service that takes the curves and pictures of one run."""

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """Take values of one step, by name."""

    def picture(self, step: int, name: str, picture: Picture) -> None:
        """Take a uint8 RGB picture (H, W, 3)."""

    def close(self) -> None:
        """Write what is left."""


class TensorBoard:
    """Event files in the run folder: `tensorboard --logdir runs`."""

    def __init__(self, run: Path, config: dict[str, Any]) -> None:
        _need("tensorboard", "tensorboard")
        self._writer: Any = _need("torch.utils.tensorboard", "tensorboard").SummaryWriter(run)

    def numbers(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: Picture) -> None:
        self._writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of project vsodpipe at Weights & Biases; a resumed run continues its curves."""

    def __init__(self, run: Path, config: dict[str, Any]) -> None:
        self._wandb: Any = _need("wandb", "wandb")
        self._run = self._wandb.init(
            project="vsodpipe", id=run.name, resume="allow", dir=str(run), config=config
        )

    def numbers(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def picture(self, step: int, name: str, picture: Picture) -> None:
        self._run.log({name: self._wandb.Image(picture)}, step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of experiment vsodpipe at the MLflow server that MLFLOW_TRACKING_URI names."""

    def __init__(self, run: Path, config: dict[str, Any]) -> None:
        self._mlflow: Any = _need("mlflow", "mlflow")
        self._mlflow.set_experiment("vsodpipe")
        note = run / "mlflow.txt"  # the server's name of the run, to continue it
        known = note.read_text(encoding="utf-8") if note.is_file() else None
        started = self._mlflow.start_run(run_id=known, run_name=run.name)
        if known is None:
            note.write_text(started.info.run_id, encoding="utf-8")
            self._mlflow.log_dict(config, "recipe.json")

    def numbers(self, step: int, values: dict[str, float]) -> None:
        self._mlflow.log_metrics(values, step=step)

    def picture(self, step: int, name: str, picture: Picture) -> None:
        self._mlflow.log_image(picture, key=name.replace("/", "."), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


KINDS: dict[str, Callable[[Path, dict[str, Any]], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


class Log:
    """All loggers of a run as one."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self._loggers = loggers

    def __bool__(self) -> bool:
        return bool(self._loggers)

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """Give values of one step to every logger."""
        for logger in self._loggers:
            logger.numbers(step, values)

    def picture(self, step: int, name: str, picture: Picture) -> None:
        """Give a uint8 RGB picture (H, W, 3) to every logger."""
        for logger in self._loggers:
            logger.picture(step, name, picture)


def check(names: Sequence[str]) -> None:
    """Raise UsageError for a logger that is not known or whose package is not installed."""
    for name in names:
        if name not in KINDS:
            raise unknown("value of --log:", name, KINDS)
        _need(name, name)


@contextmanager
def opened(names: Sequence[str], run: Path, config: dict[str, Any]) -> Iterator[Log]:
    """Yield the loggers of those names; they are closed whatever happens."""
    check(names)
    with ExitStack() as stack:
        loggers: list[Logger] = []
        for name in names:
            loggers.append(KINDS[name](run, config))
            stack.callback(loggers[-1].close)
        yield Log(loggers)


def _need(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f'--log {extra} needs a package: pip install "vsodpipe[{extra}]".'
        ) from error
