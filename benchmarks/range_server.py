"""A file server with byte ranges whose every answer comes late, for benchmarks/stream.py.

    python benchmarks/range_server.py FOLDER SECONDS BYTES_A_SECOND

Prints its port. It is a process of its own and the kernel copies the bytes, so that it takes little
of the client's time; a connection gets no more than so many bytes a second. /served tells the
requests and bytes so far. To s3fs it is a server of S3 whose bucket `data` is the folder.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

PIECE = 2**18
requests = sent = 0


async def answer(
    folder: Path,
    latency: float,
    rate: float,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """Answer the requests of one connection."""
    global requests, sent
    loop = asyncio.get_running_loop()
    try:
        while line := await reader.readline():
            method, target, _ = line.decode().split()
            wanted = ""
            while (header := (await reader.readline()).decode().strip()) != "":
                name, _, value = header.partition(":")
                if name.lower() == "range":
                    wanted = value.strip().removeprefix("bytes=")
            if target == "/served":
                body = f"[{requests}, {sent}]".encode()
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
                continue
            await asyncio.sleep(latency)
            requests += 1
            path = folder / target.partition("?")[0].strip("/").removeprefix("data/")
            if not path.is_file():
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                continue
            size = path.stat().st_size
            first, _, last = wanted.partition("-")
            start = int(first) if first else size - int(last or size)
            end = min(size, int(last) + 1) if first and last else size
            status = f"206 Partial Content\r\nContent-Range: bytes {start}-{end - 1}/{size}"
            head = status if wanted else "200 OK"
            writer.write(
                f"HTTP/1.1 {head}\r\nContent-Length: {end - start}\r\n"
                'Accept-Ranges: bytes\r\nETag: "0"\r\n'
                "Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT\r\n\r\n".encode()
            )
            await writer.drain()
            if method == "GET" and end > start:
                with open(path, "rb") as file:
                    for first in range(start, end, PIECE):
                        length = min(PIECE, end - first)
                        due = loop.time() + length / rate
                        await loop.sendfile(writer.transport, file, first, length)
                        sent += length
                        await asyncio.sleep(due - loop.time())
    except ConnectionError:
        pass
    finally:
        writer.close()


async def main(folder: Path, latency: float, rate: float) -> None:
    """Serve until the process ends."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer(folder, latency, rate, reader, writer)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))
