"""`vsodpipe serve`: the same commands over HTTP, a page, data as URLs. Extra `serve`.

    settings    what the server was started with
    kinds       which commands may come from afar, and which of their options
    requests    the typed request of each kind, made from the command's own signature
    queue       jobs, durable, in SQLite
    runner      one child process `vsodpipe KIND ...` a job
    jobs        the URLs of jobs and their events
    client      `--at`: the other end

The server process imports no torch: a job has a process of its own.
"""
