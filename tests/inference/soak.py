"""`lifter stream` under load: python -m tests.inference.soak --clients 20 --fps 50 --seconds 600 --flood 1000 --deaf

Clients send a frame every 1/fps seconds, each on a connection and in a rhythm of its own. Beside them one neighbour may send
lines of so many ids as fast as it can, and another send and never read. Told is how long the clients waited for poses, from
when a line was sent and from when the server says that it came, how many got none, and what the server took.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

POSE = re.compile(rb'"frame": (\d+), .*"latency_ms": ([\d.]+)')
EVERY = 1.0  # seconds between two looks at the server


def lines_of(ids):
    """A line for each id."""
    rng = np.random.default_rng(0)
    pose = rng.uniform(-0.3, 0.3, (17, 2)).round(5)
    return [f"{json.dumps({'keypoints': (pose + 0.01 * (i % 9)).round(5).tolist(), 'id': i})}\n".encode() for i in ids]


def flood(address, ids):
    """Send lines of many ids as fast as they are accepted. What comes is read, and not looked at."""
    other = socket.socket(socket.AF_UNIX)
    other.connect(address)
    threading.Thread(target=lambda: [None for _ in iter(lambda: other.recv(1 << 20), b"")], daemon=True).start()
    lines = b"".join(lines_of(range(ids)))
    while True:
        other.sendall(lines)


def deaf(address):
    """Lines, and nobody who reads the poses; given up by the server it comes again."""
    (line,) = lines_of([0])
    while True:
        with contextlib.suppress(ConnectionError), socket.socket(socket.AF_UNIX) as other:
            other.connect(address)
            while True:
                other.sendall(line)


def come_and_go(address, ids):
    """A client that names so many ids, each of which leaves at once. Nobody is seen, so that no model takes time."""
    other = socket.socket(socket.AF_UNIX)
    other.connect(address)
    answers = other.makefile("rb")
    for first in range(0, ids, 50):
        names = range(first, min(first + 50, ids))
        other.sendall(b"".join(b'{"keypoints": null, "id": %d}\n{"leave": %d}\n' % (i, i) for i in names))
        for _ in names:
            while b'"pose"' not in answers.readline():  # a warning
                pass


class Load:
    """A client that sends frames in time, and what it got."""

    def __init__(self, fps):
        self.fps, self.sent, self.waited, self.told, self.others = fps, [], [], [], 0

    async def run(self, address, wait, seconds):
        reader, writer = await asyncio.open_unix_connection(address)
        reading = asyncio.create_task(self._read(reader))
        lines = [line for i in range(9) for line in lines_of([i])]
        await asyncio.sleep(wait)
        begin = time.perf_counter()
        for number in range(int(seconds * self.fps)):
            await asyncio.sleep(begin + number / self.fps - time.perf_counter())
            self.sent.append(time.perf_counter())
            writer.write(re.sub(rb'"id": \d+', b'"id": "me"', lines[number % 9]))
            await writer.drain()
        writer.write_eof()
        await reading
        writer.close()

    async def _read(self, reader):
        while line := await reader.readline():
            if found := POSE.search(line):
                self.waited.append(1000 * (time.perf_counter() - self.sent[int(found[1])]))
                self.told.append(float(found[2]))
            else:
                self.others += 1


def look(pid):
    """MB, descriptors and seconds of the CPU of a process."""
    rss = int(re.search(r"VmRSS:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1000
    ticks = sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return rss, len(os.listdir(f"/proc/{pid}/fd")), ticks / os.sysconf("SC_CLK_TCK")


def percentiles(values):
    return (
        dict(zip(("p50", "p95", "p99", "max"), np.percentile(values, (50, 95, 99, 100)).round(1).tolist())) if values else {}
    )


async def _load(address, pid, clients, fps, seconds):
    loads, looks = [Load(fps) for _ in range(clients)], []

    async def watch():
        while True:
            looks.append(look(pid))
            await asyncio.sleep(EVERY)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(load.run(address, i / clients / fps, seconds) for i, load in enumerate(loads)))
    watching.cancel()
    return loads, looks


@contextlib.contextmanager
def served(address, *options):
    """Run a server; its process, and the lines that it says."""
    command = [sys.executable, "-m", "lifter", "stream", "--listen", address, *options]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    said = [server.stderr.readline()]
    threading.Thread(target=lambda: said.extend(server.stderr), daemon=True).start()
    try:
        yield server, said
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def memory_of_ids(ids):
    """MB of a server after a thousand ids, and after so many."""
    with tempfile.TemporaryDirectory() as folder, served(address := f"{folder}/s") as (server, _):
        come_and_go(address, 1000)
        before = look(server.pid)[0]
        come_and_go(address, ids)
        return before, look(server.pid)[0]


def soak(clients=2, fps=50, seconds=10, ids=0, with_deaf=False, options=()) -> dict:
    """Run the soak and return its figures."""
    with tempfile.TemporaryDirectory() as folder:
        address, summary = f"{folder}/s", f"{folder}/summary.json"
        fork = multiprocessing.get_context("fork")
        neighbours = [fork.Process(target=flood, args=(address, ids))] if ids else []
        neighbours += [fork.Process(target=deaf, args=(address,))] if with_deaf else []
        with served(address, "--summary", summary, *options) as (server, said):
            before = look(server.pid)
            for neighbour in neighbours:
                neighbour.start()
            loads, looks = asyncio.run(_load(address, server.pid, clients, fps, seconds))
            for neighbour in neighbours:
                neighbour.kill()
                neighbour.join()
            time.sleep(3)
            after = look(server.pid)
        told = json.loads(Path(summary).read_text())
        sent, got = sum(len(load.sent) for load in loads), sum(len(load.told) for load in loads)
        return {
            "clients": clients, "fps": fps, "seconds": seconds, "flood": ids, "deaf": with_deaf,
            "sent": sent, "lost": sent - got, "other lines": sum(load.others for load in loads),
            "from receipt": percentiles([x for load in loads for x in load.told]),
            "from sending": percentiles([x for load in loads for x in load.waited]),
            "of all": {key: told[key] for key in ("frames", "errors", "frames_per_second")},
            "MB": {"before": before[0], "most": max(rss for rss, *_ in looks), "after": after[0]},
            "descriptors": {"before": before[1], "most": max(count for _, count, _ in looks), "after": after[1]},
            "CPU seconds": round(after[2] - before[2], 2),
            "socket is left": os.path.exists(address), "said": said[1:],
        }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--fps", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--flood", type=int, default=0, metavar="IDS")
    parser.add_argument("--deaf", action="store_true")
    parser.add_argument("--ids", type=int, help="instead: the server's memory when so many ids have come and gone")
    args, more = parser.parse_known_args()
    if args.ids:
        few, many = memory_of_ids(args.ids)
        print(f"MB after 1000 ids {few}, after {args.ids} more {many}")
        sys.exit()
    for key, value in soak(args.clients, args.fps, args.seconds, args.flood, args.deaf, more).items():
        print(f"{key}: {value}")
