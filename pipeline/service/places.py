"""What the server decides about a job: where it writes, and how a training continues."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from vsodpipe.service import requests
from vsodpipe.service.kinds import KINDS
from vsodpipe.service.settings import Settings

_FRESH = ("stage", "set", "backbone_weights", "init", "strict_data", "task", "run")
"""What a training is started with, and not continued with."""
_RECORDS = ("run.json", "chain.json")
"""The file that makes a folder a run, of a network or of a chain of them."""


def words(job: dict[str, Any], settings: Settings) -> tuple[str, ...]:
    """Return the words of the child process of a `job`, after `vsodpipe`.

    Raises UsageError where the server no longer opens what the job needs.
    """
    kind, arguments = job["kind"], job["arguments"]
    own: dict[str, Any] = {}
    if settings.cluster is not None and "cluster" in requests.options(kind):
        own["cluster"] = settings.cluster
    if "json" in requests.options(kind) and not KINDS[kind].prints:
        own["json"] = True
    if kind == "manifest":
        own["out"] = settings.manifests
    if kind == "train" and "resume" not in arguments:
        run = _run(job, settings)
        if any((run / record).is_file() for record in _RECORDS):  # started before: it continues
            arguments = {k: v for k, v in arguments.items() if k not in _FRESH}
            own["resume"] = run
        else:
            own["run"] = run
            arguments = {k: v for k, v in arguments.items() if k != "run"}
    return requests.for_child(requests.check(kind, arguments, settings), own)


def _run(job: dict[str, Any], settings: Settings) -> Path:
    """Return the run folder of a training: the same one however often the job is started."""
    if named := job["arguments"].get("run"):
        return Path(requests.confined("train", "run", named, settings))
    when = time.strftime("%Y%m%d-%H%M%S", time.localtime(job["created"]))
    return settings.runs / f"{job['arguments']['model']}-{when}-{job['id']}"
