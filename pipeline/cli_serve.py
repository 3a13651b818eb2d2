"""The command that makes this machine a service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vsodpipe.cli_app import DataOption, app
from vsodpipe.errors import UsageError, unknown


@app.command(epilog="Example: vsodpipe serve --data datasets --port 8765")
def serve(
    data: DataOption = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than loopback need $VSODPIPE_TOKEN.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")] = 8765,
    cluster: Annotated[
        str | None, typer.Option(help="Where jobs run their tasks: local:N or tcp://... of dask.")
    ] = None,
    watch: Annotated[
        Path | None, typer.Option(help="Folder whose new videos go through flow to a store.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="With --watch: flow engine, raft_large, raft_small or dis.")
    ] = "raft_large",
    jobs: Annotated[int, typer.Option(min=1, help="Jobs that run at once.")] = 2,
) -> None:
    """Serve the same commands to others: jobs over HTTP, a page, data as URLs."""
    from vsodpipe import catalogue, flows, remote
    from vsodpipe import cluster as clusters

    try:
        from vsodpipe.service import server, settings
    except ModuleNotFoundError as error:
        raise UsageError(
            f"serve: {error.name} is not installed. Run: pip install 'vsodpipe[serve]'"
        ) from error
    clusters.check(cluster)
    if engine not in flows.names():
        raise unknown("engine", engine, flows.names())
    server.run(
        settings.Settings(
            data=catalogue.data_root(data).absolute(),
            runs=Path("runs").absolute(),
            manifests=Path("manifests").absolute(),
            host=host,
            port=port,
            token=remote.token(),
            cluster=cluster,
            watch=None if watch is None else watch.absolute(),
            engine=engine,
            jobs=jobs,
        )
    )
