"""The service under load: followers, a long queue, ranges against `python -m http.server`.

    python benchmarks/service.py [--followers 200] [--jobs 10000] [--readers 50] [--megabytes 16]

A server process on a made data root. First the queue: so many different jobs are submitted while
one runs, with the time of each request and the memory of the server. Then so many clients follow
one job, and the delay from its progress to each of them is measured against the first to hear it.
Then readers take ranges of one store-like file at once, from this server and from Python's own, in
turns; ratios are what counts on a shared machine.
"""

import argparse
import asyncio
import http.client
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from helpers import write_video  # noqa: E402
from serving import Server, Stuck, serving  # noqa: E402


def main() -> None:
    """Run the three measurements."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--followers", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--readers", type=int, default=50)
    parser.add_argument("--megabytes", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "datasets"
        write_video(root / "MADE_train" / "one", 1, 30, (240, 320))
        write_video(root / "HELD_train" / "one", 1, 4)
        file = root / "made.bin"
        file.write_bytes(random.Random(0).randbytes(options.megabytes * 2**20))
        with serving(root, "--jobs", "1", log=Path(folder) / "log") as server:
            follow(server, options.followers)
            queue(server, root, options.jobs)
        with serving(root, log=Path(folder) / "log") as server:
            ranges(server, root, file, options.readers)


def memory(server: Server) -> float:
    """Return the resident memory of the server in MB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def processor(server: Server) -> float:
    """Return the seconds of processor that the server has used."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def queue(server: Server, root: Path, jobs: int) -> None:
    """Submit many jobs while one holds the only place."""
    held = Stuck(root / "HELD_train" / "one" / "RGB" / "00002.jpg")
    server.submit("flow", names=["HELD_train"], engine="dis")
    before = memory(server)
    times = []
    for number in range(jobs):
        started = time.perf_counter()
        server.submit("manifest", names=[f"SET{number}_train"])
        times.append(time.perf_counter() - started)
    first, last = statistics.median(times[:500]), statistics.median(times[-500:])
    print(
        f"{jobs} jobs: {sum(times):.0f} s, {jobs / sum(times):.0f} a second; median of a request "
    )
    print(f"  {1e3 * first:.1f} ms (first 500), {1e3 * last:.1f} ms (last 500)")
    print(f"  memory {before:.0f} -> {memory(server):.0f} MB")
    started = time.perf_counter()
    server.get("/api/jobs?limit=100")
    listed = time.perf_counter() - started
    server.get("/metrics")
    print(f"  list of 100: {1e3 * listed:.1f} ms, metrics after it: ", end="")
    print(f"{1e3 * (time.perf_counter() - started - listed):.1f} ms")
    held.release()


def follow(server: Server, clients: int) -> None:
    """Let many clients follow one job."""
    job = server.submit("flow", names=["MADE_train"], engine="dis")["id"]
    used, before, started = processor(server), memory(server), time.perf_counter()
    heard = asyncio.run(_heard(server.url, job, clients))
    seconds = time.perf_counter() - started
    ends = [times[-1] for _, times in heard]
    wrong = sum(last != "done" for last, _ in heard)
    print(f"{clients} followers of one job of {seconds:.1f} s: {wrong} without its end;")
    print(f"  the last heard of the end {1e3 * (max(ends) - min(ends)):.0f} ms after the first")
    events = sum(len(times) for _, times in heard)
    print(f"  {events} events, {processor(server) - used:.2f} s of processor, memory ", end="")
    print(f"{before:.0f} -> {memory(server):.0f} MB")


async def _heard(url: str, job: int, clients: int) -> list[tuple[str, list[float]]]:
    host, _, port = url.removeprefix("http://").partition(":")

    async def client() -> tuple[str, list[float]]:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET /api/events?job={job} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        times, state = [], ""
        while state not in ("done", "failed"):
            line = await reader.readline()
            if not line:
                break
            if line.startswith(b"data: "):
                times.append(time.perf_counter())
                state = json.loads(line[6:]).get("state", state)
        writer.close()
        return state, times

    return await asyncio.gather(*(client() for _ in range(clients)))


def ranges(server: Server, root: Path, file: Path, readers: int) -> None:
    """Compare many readers of one file: this server, ranges and whole, and Python's, whole."""
    other = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert other.stdout is not None
    port = other.stdout.readline().partition("port ")[2].split()[0]
    own, whole = f"{server.url}/data/{file.name}", file.stat().st_size
    places = {
        "vsodpipe serve, ranges of 1 MiB": (own, 2**20),
        "vsodpipe serve, whole files": (own, whole),
        "python -m http.server, whole files": (f"http://127.0.0.1:{port}/{file.name}", whole),
    }
    found: dict[str, list[float]] = {name: [] for name in places}
    try:
        for _ in range(3):
            for name, (url, size) in places.items():
                found[name].append(_rate(url, size, whole, readers))
    finally:
        other.terminate()
        other.wait()
    for name, rates in found.items():
        print(f"{readers} readers, {name}: {statistics.median(rates):.0f} MB/s")


def _rate(url: str, size: int, whole: int, readers: int) -> float:
    """Return the MB a second that `readers` take together, each all of a file."""

    def read(_: int) -> None:
        host, _, path = url.removeprefix("http://").partition("/")
        connection = http.client.HTTPConnection(host)
        for start in range(0, whole, size):
            end = min(start + size, whole)
            ask = {} if size == whole else {"Range": f"bytes={start}-{end - 1}"}
            connection.request("GET", f"/{path}", headers=ask)
            with connection.getresponse() as answer:
                taken = 0
                while chunk := answer.read(2**18):
                    taken += len(chunk)
            assert taken == end - start, (url, taken)
        connection.close()

    started = time.perf_counter()
    with ThreadPoolExecutor(readers) as pool:
        list(pool.map(read, range(readers)))
    return readers * whole / 1e6 / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
