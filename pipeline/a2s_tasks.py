"""The four tasks of A2S-v2 and the codes by which its authors name them and their data.

c is RGB, d RGB-D, o video (o for optical flow), t RGB-T. `cdot` trains stage 1 on all of them. Two
letters name data: a task and r for its training sets or e for those of the test, such as `de`.
"""

from __future__ import annotations

from dataclasses import dataclass

from vsodpipe.errors import unknown


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task: which data it is trained and tested on, and which network ends it."""

    title: str
    second: str | None
    """Sample key of the picture beside RGB."""
    network: str
    """Network of stage 2; stage 1 is a2s for all."""
    train: tuple[str, ...]
    test: tuple[str, ...]


TASKS: dict[str, Task] = {
    "c": Task(
        title="RGB",
        second=None,
        network="cornet",
        train=("DUTS_train",),
        test=(
            "PASCAL-S_test",
            "ECSSD_test",
            "MSRA-B_test",
            "DUTS_test",
            "HKU-IS_test",
            "DUT-OMRON_test",
        ),
    ),
    "d": Task(
        title="RGB-D",
        second="depth",
        network="midnet",
        train=("RGBD-TR_train",),
        test=("NJUD_test", "NLPR_test", "RGBD135_test", "SIP_test"),
    ),
    "o": Task(
        title="video",
        second="flow",
        network="midnet",
        train=("DAVIS_train", "DAVSOD_train"),
        test=("FBMS_test", "SegTrack-V2_test", "DAVIS_test", "DAVSOD_easy35"),
    ),
    "t": Task(
        title="RGB-T",
        second="thermal",
        network="midnet",
        train=("VT5000_train",),
        test=("VT5000_test", "VT1000_test", "VT821_test"),
    ),
}
"""Task letter -> task, in the order in which joint training strings their data together."""


def tasks(code: str) -> tuple[Task, ...]:
    """Return the tasks of `code`, one letter each (`o`, `cdot`), in the fixed order.

    Raises UsageError for a letter that is none, for none at all and for one that comes twice.
    """
    if not code or not set(code) <= set(TASKS) or len(set(code)) < len(code):
        raise unknown("task", code, (*TASKS, "".join(TASKS)))
    return tuple(task for letter, task in TASKS.items() if letter in code)


def datasets(codes: str) -> tuple[str, ...]:
    """Return the data sets of comma-separated two-letter codes, such as `cr` or `de,oe`.

    Raises UsageError for a code that is none.
    """
    found: list[str] = []
    for code in codes.split(","):
        if len(code) != 2 or code[0] not in TASKS or code[1] not in "re":
            raise unknown("data code", code, (letter + part for letter in TASKS for part in "re"))
        task = TASKS[code[0]]
        found += task.train if code[1] == "r" else task.test
    return tuple(dict.fromkeys(found))


def coded(name: str) -> tuple[str, ...]:
    """Return the data sets of one two-letter code, nothing for a name that is none."""
    known = len(name) == 2 and name[0] in TASKS and name[1] in "re"
    return datasets(name) if known else ()


def stage2_name(dataset: str) -> str:
    """Return under which name a training set has its pseudo labels (DUTS_train: DUTS_pseudo)."""
    return f"{dataset.rpartition('_')[0]}_pseudo"
