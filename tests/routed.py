"""Routes of the service in a thread of the tests, on a free port."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from vsodpipe.service.settings import Settings


def settings_of(folder: Path, **more: Any) -> Settings:
    """Return settings whose data root, runs and manifests lie in `folder`."""
    places = {"data": "datasets", "runs": "runs", "manifests": "manifests"}
    for name in places.values():
        (folder / name).mkdir(exist_ok=True)
    return Settings(**{key: folder / name for key, name in places.items()}, **more)


@contextmanager
def served(app: Any, **options: Any) -> Iterator[str]:
    """Serve an application over HTTP, with `options` of uvicorn; yield its URL."""
    config = uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
