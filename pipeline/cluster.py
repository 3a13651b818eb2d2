"""Where the tasks of a job run: this process, workers on this machine, or a dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from vsodpipe.errors import UsageError, VsodpipeError

if TYPE_CHECKING:
    from dask.distributed import Client

T = TypeVar("T")
R = TypeVar("R")


def each(function: Callable[[T], R], items: Iterable[T], cluster: str | None = None) -> Iterator[R]:
    """Yield `function(item)` for every item, in the order in which they finish.

    `cluster` is None (this process, one after another), `local:N` (N worker processes on this
    machine) or the address of a dask scheduler. The first error ends the job: what has not started
    is cancelled, and the error is raised here. Raises UsageError for an address that is none.
    """
    if cluster is None:
        yield from map(function, items)
        return
    from dask.distributed import as_completed

    with _client(cluster) as client:
        futures = client.map(function, list(items), pure=False)
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            client.cancel(futures)


@contextmanager
def _client(cluster: str) -> Iterator[Client]:
    from dask.distributed import Client, LocalCluster

    kind, _, count = cluster.partition(":")
    if kind == "local":
        if not count.isdigit() or int(count) < 1:
            raise UsageError(f"--cluster {cluster}: expected local:N with N workers, or tcp://...")
        local = LocalCluster(
            n_workers=int(count), threads_per_worker=1, dashboard_address=":0", silence_logs=50
        )
        with local, Client(local) as client:
            yield client
        return
    try:
        client = Client(cluster, timeout=10)
    except ValueError as error:
        raise UsageError(f"--cluster {cluster}: expected local:N or tcp://HOST:PORT.") from error
    except OSError as error:
        raise VsodpipeError(f"--cluster {cluster}: no dask scheduler answers there.") from error
    with client:
        yield client
