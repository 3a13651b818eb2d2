"""Where the tasks of a job run: this process, workers on this machine, or a dask cluster.

A worker that dies is replaced, and its task starts anew on another one; four deaths over one task
end the job. A task may therefore run twice, never with its result counted twice.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from asyncio import CancelledError
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from vsodpipe import cores
from vsodpipe.errors import UsageError, VsodpipeError
from vsodpipe.signals import ignore_interrupt

if TYPE_CHECKING:
    from dask.distributed import Client, Worker, WorkerPlugin

T = TypeVar("T")
R = TypeVar("R")
Advance = Callable[[], None]

_OFTEN = 0.2
"""Seconds between two words of a task about its progress."""


def each(
    function: Callable[..., R],
    items: Iterable[T],
    cluster: str | None = None,
    *,
    advance: Advance | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[R]:
    """Yield `function(item)` for every item, in the order in which they finish.

    `cluster` is None (this process, one after another), `local:N` (N worker processes on this
    machine) or the address of a dask scheduler; `say` hears where that is. With `advance`, tasks
    are `function(item, advance)`, and what they call on their worker is called here as often. The
    first error ends the job: what has not started is cancelled, what runs ends at its next
    `advance`, and the error is raised here. Raises UsageError for an address that is none.
    """
    if cluster is None:
        for item in items:
            yield function(item) if advance is None else function(item, advance)
        return
    from dask.distributed import KilledWorker, as_completed

    with _client(cluster, say) as client, _answering(client, cluster):
        task, numbered = function, list(items)
        if advance is not None:
            task = _Told(function, _follow(client, advance))
        # the number first: which of the items it is, when progress comes back
        futures = client.map(
            task, *_columns(numbered, advance is not None), key="vsodpipe", pure=False
        )
        finished = False
        try:
            for future in as_completed(futures):
                yield future.result()
            finished = True
        except KilledWorker as error:
            raise VsodpipeError(
                "cluster: four workers died over one task, the machine may be out of memory. "
                "Use fewer workers."
            ) from error
        except ImportError as error:
            raise VsodpipeError(
                f"--cluster {cluster}: a worker lacks a module ({error}). Install the same "
                "vsodpipe there."
            ) from error
        finally:
            if not finished and client.status == "running":
                client.cancel(futures, force=True)
                _wait_for_end(client)


@contextmanager
def _answering(client: Client, cluster: str) -> Iterator[None]:
    """Raise VsodpipeError for whatever fails inside because the scheduler is there no more."""
    try:
        yield
    except (Exception, CancelledError) as error:
        if client.status == "running" or isinstance(error, VsodpipeError):
            raise
        raise VsodpipeError(
            f"--cluster {cluster}: the scheduler does not answer any more. Start one and run "
            "again: what is done stays."
        ) from error


def _columns(items: list[Any], counted: bool) -> tuple[list[Any], ...]:
    return (list(range(len(items))), items) if counted else (items,)


def _follow(client: Client, advance: Advance) -> str:
    """Call `advance` as the tasks tell their counts under the topic that is returned."""
    topic = f"vsodpipe-{secrets.token_hex(8)}"
    seen: dict[int, int] = {}

    def hear(event: tuple[float, tuple[int, int]]) -> None:
        number, count = event[1]
        for _ in range(count - seen.get(number, 0)):  # none while a second try catches up
            advance()
        seen[number] = max(count, seen.get(number, 0))

    client.subscribe_topic(topic, hear)
    return topic


class _Told:
    """A task on a worker, which tells how far it is."""

    def __init__(self, function: Callable[..., Any], topic: str) -> None:
        self._function, self._topic = function, topic

    def __call__(self, number: int, item: Any) -> Any:
        from dask.distributed import get_worker

        worker = get_worker()
        key = worker.get_current_task()
        count, told = 0, time.monotonic()

        def tell() -> None:
            worker.log_event(self._topic, (number, count))

        def advance() -> None:
            nonlocal count, told
            count += 1
            if time.monotonic() - told > _OFTEN:
                task = worker.state.tasks.get(key)
                if task is None or task.state == "cancelled":
                    raise VsodpipeError("cluster: this task was cancelled.")
                told = time.monotonic()
                tell()

        result = self._function(item, advance)
        tell()
        return result


def _wait_for_end(client: Client) -> None:
    """Give cancelled tasks a moment to clear away what they were writing."""
    until = time.monotonic() + 3
    while time.monotonic() < until and any(client.processing().values()):
        time.sleep(0.1)


def worker_number() -> int | None:
    """Return the number in the name of this worker, None where it has none or is no worker.

    Workers of `local:N` are 0 to N-1, those of `dask worker --name NAME --nworkers N` NAME-0 ...
    """
    from dask.distributed import get_worker

    try:
        name = str(get_worker().name)
    except ValueError:
        return None
    found = re.search(r"(?:^|\D)(\d+)$", name)
    return int(found[1]) if found and "://" not in name else None  # an address ends in its port


def shares(cluster: str) -> tuple[int | None, int]:
    """Return the cores of each worker of `local:N`, and N; None and 1 for other clusters."""
    kind, _, count = cluster.partition(":")
    if kind != "local":
        return None, 1
    workers = _count(cluster, count)
    return max(1, cores.count() // workers), workers


def _count(cluster: str, count: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,3}", count):
        raise UsageError(f"--cluster {cluster}: expected local:N with N workers, or tcp://...")
    return int(count)


def check(cluster: str | None) -> None:
    """Raise UsageError for a `cluster` that is neither local:N nor an address."""
    if cluster is None:
        return
    kind, _, rest = cluster.partition(":")
    if kind == "local":
        _count(cluster, rest)
    elif not rest.startswith("//") or kind not in ("tcp", "tls", "ws", "wss", "ucx"):
        raise UsageError(f"--cluster {cluster}: expected local:N or tcp://HOST:PORT.")


@contextmanager
def _client(cluster: str, say: Callable[[str], None]) -> Iterator[Client]:
    check(cluster)
    import dask
    from dask.distributed import Client, LocalCluster

    kind, _, count = cluster.partition(":")
    if kind == "local":
        # Only a process that ended counts as dead (not a busy one), so that no task has two at
        # work; and the tasks plan their memory, dask would kill them in the middle.
        with (
            dask.config.set({"distributed.scheduler.worker-ttl": None}),
            LocalCluster(
                n_workers=int(count),
                threads_per_worker=1,
                dashboard_address=":0",
                silence_logs=50,
                memory_limit=None,
            ) as local,
            Client(local) as client,
        ):
            client.register_plugin(_plugin())
            say(f"{count} workers of {local.scheduler_address}{_dashboard(client)}")
            yield client
        return
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # we say it in one line
    try:
        client = Client(cluster, timeout=10)
    except ValueError as error:
        raise UsageError(f"--cluster {cluster}: expected local:N or tcp://HOST:PORT.") from error
    except OSError as error:
        raise VsodpipeError(
            f"--cluster {cluster}: no dask scheduler answers there. Start one: dask scheduler"
        ) from error
    with client:
        workers = len(client.scheduler_info(n_workers=-1)["workers"])
        say(f"{workers} workers of {cluster}{_dashboard(client)}")
        if not workers:
            say(f"waiting for workers. Start some: dask worker {cluster}")
        yield client


def _plugin() -> WorkerPlugin:
    from dask.distributed import WorkerPlugin

    class LeaveInterrupts(WorkerPlugin):
        """Ctrl-C on a terminal reaches the workers too: the command alone answers it."""

        def setup(self, worker: Worker) -> None:
            ignore_interrupt(0)

    return LeaveInterrupts()


def _dashboard(client: Client) -> str:
    # the page needs bokeh, on the scheduler's side: without it here, it is likely not there either
    return f", dashboard {client.dashboard_link}" if find_spec("bokeh") else ""
