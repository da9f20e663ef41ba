"""A client of `lifter.inference.server`: its lines are read as they come, a few are answered in each round."""

import asyncio
import contextlib
import hmac
import json
import time
from collections import deque

import numpy as np

from lifter._errors import message

BLOCK = 1 << 16  # bytes read at once
LONGEST = 1 << 20  # bytes of a line
BACKLOG = 1 << 18  # bytes of lines that wait; beyond this a client is not read from
SHARE = 8  # lines of a client in one round
STREAMS = 64  # of a client
ALL_STREAMS = 1024
LATE = 1.0  # seconds: beyond this a client is told, and with `drop` its frames are not lifted
IDLE = 60.0  # seconds: a stream without frames, a client without lines is given up
ERROR = 500  # characters of an error: it may quote a line


class Client:
    """One who sends lines and gets lines.

    Args:
        server: the Server. stopped: a future; once it is done nothing is read any more.
        read: gives bytes, none at the end. write: takes bytes, and returns when there is room for more, so that who does not
            read is not read from.
        remote: it is one of many: it is told when answers are late, and given up when it sends nothing.
    """

    def __init__(self, server, stopped, read, write, remote=False):
        self.server, self.stopped, self.read, self.write, self.remote = server, stopped, read, write, remote
        self.line, self.streams = 0, {}  # {id: _Stream}
        self.lines, self.waiting, self.ended = deque(), 0, False  # (when it came, line), their bytes
        self.come, self.room = asyncio.Event(), asyncio.Event()
        self.heard = self.tidied = self.warned = time.perf_counter()
        self.dropped = 0
        self.known = not remote or server.token is None

    async def run(self):
        batch, reading = self.server.batch, asyncio.create_task(self._read())
        self.server.clients.add(self)
        try:
            with contextlib.suppress(_BadLine):  # it was told
                while await self._more():
                    await self._take()
                    await asyncio.sleep(0)  # others' turn
            await self._poses(batch.flush(list(map(self._key, self.streams))))
        except ConnectionError:
            pass  # it has gone; nobody waits for its poses
        finally:
            reading.cancel()
            self.server.clients.discard(self)
            batch.reset(list(map(self._key, self.streams)))

    # ---- lines that come ---------------------------------------------------------------------------------------------

    async def _read(self):
        """Whole lines, as they come, with the time; whether those before them are answered or not."""
        rest = b""
        try:
            while data := await self._or_stopped(self.read()):
                self.heard = time.perf_counter()
                *lines, rest = (rest + data).split(b"\n")
                self._add(lines)
                if len(rest) > LONGEST:
                    break
                while self.waiting > BACKLOG and not self.stopped.done():
                    self.room.clear()
                    await self._or_stopped(self.room.wait())
        except ConnectionError:
            pass  # who writes to it is told
        finally:
            self._add([rest] if rest else [])
            self.ended = True
            self.come.set()

    def _add(self, lines):
        self.lines += [(self.heard, line) for line in lines]
        self.waiting += sum(map(len, lines))
        self.come.set()

    async def _or_stopped(self, reading):
        task = asyncio.ensure_future(reading)
        await asyncio.wait((task, self.stopped), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        return b""

    async def _more(self) -> bool:
        """Wait for lines; False if there will be none."""
        while not self.lines:
            if self.ended:
                return False
            self.come.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.come.wait(), IDLE / 4)
            await self._tidy()
        await self._tidy()
        return True

    async def _tidy(self):
        """Give up streams that got no frames for a while."""
        now = time.perf_counter()
        if not self.remote or now - self.tidied < IDLE / 4:
            return
        self.tidied = now
        for name in [name for name, stream in self.streams.items() if now - stream.last > IDLE]:
            await self._control("leave", name)
        if not self.streams and now - self.heard > IDLE:
            await self._complain(ValueError(f"nothing came for {IDLE:g} seconds"), last=True)

    async def _take(self):
        """The client's share of a round."""
        frames = {}  # of different streams, which go together
        for _ in range(min(SHARE, len(self.lines))):
            came, line = self.lines.popleft()
            self.waiting -= len(line)
            self.room.set()
            self.line += 1
            if not line.strip():
                continue
            try:
                if len(line) > LONGEST:
                    raise ValueError(f"longer than {LONGEST} bytes")
                if not self.known:
                    self._introduced(line)
                    continue
                request = self.server.form.request(line)
                name = request["id"]
                if request["kind"] == "keypoints":
                    if name in frames:
                        await self._push(frames)
                        frames = {}
                    if not await self._is_late(came):
                        self._stream(name)
                        frames[name] = self.line, came, request
                    continue
                await self._push(frames)
                frames = {}
                await self._control(request["kind"], name)
            except (_BadLine, ConnectionError):
                raise
            except Exception as error:  # whatever a line does to who reads it
                await self._push(frames)
                frames = {}
                await self._complain(error, last=len(line) > LONGEST or not self.known)
        await self._push(frames)

    def _introduced(self, line):
        try:
            word = json.loads(line)["token"]
        except Exception:
            word = None
        if not (isinstance(word, str) and hmac.compare_digest(word.encode(), self.server.token.encode())):
            raise ValueError("expected the server's token first")
        self.known = True

    def _stream(self, name):
        """The stream of this name, a new one if there is room."""
        if name not in self.streams:
            if len(self.streams) >= STREAMS:
                raise ValueError(f"{STREAMS} streams already, expected some to leave first")
            if sum(len(client.streams) for client in self.server.clients) >= ALL_STREAMS:
                raise ValueError(f"{ALL_STREAMS} streams of all clients already")
            self.streams[name] = _Stream()
        self.streams[name].last = time.perf_counter()

    async def _is_late(self, came):
        """Whether a frame is to be dropped, for it waited too long. The client is told that there are such, once a second."""
        now, drop = time.perf_counter(), self.server.drop
        behind = now - came
        if behind <= LATE or not self.remote:
            return False
        self.dropped += drop
        self.server.statistics.dropped += drop
        self.server.say("late", f"overloaded: answers are {behind:.1f} s late" + (", frames are dropped" if drop else ""))
        if now - self.warned > 1:
            self.warned = now
            warning = {"warning": "overloaded", "late_ms": round(1000 * behind)}
            await self._send([warning | ({"dropped": self.dropped} if drop else {})])
        return drop

    # ---- answers -----------------------------------------------------------------------------------------------------

    async def _push(self, frames):
        """Frames {id: (line, when it came, request)}."""
        if not frames:
            return
        lifted = await self.server.lift({self._key(name): request["keypoints"] for name, (*_, request) in frames.items()})
        ready = {}
        for name, (line, came, request) in frames.items():
            result = lifted[self._key(name)]
            if isinstance(result, Exception):
                await self._complain(result, line)
            else:
                self.streams[name].frames.append((came, request["time"]))
                ready[self._key(name)] = result
        await self._poses(ready)

    async def _control(self, kind, name):
        batch, names = self.server.batch, [name] if kind == "leave" else list(self.streams)
        if not self.streams.keys() >= set(names):
            raise ValueError(f"leave: there is no stream {name!r}")
        keys = list(map(self._key, names))
        if kind != "reset":
            await self._poses(batch.flush(keys))
        if kind != "flush":
            batch.reset(keys)
            for name in names:
                del self.streams[name]

    async def _poses(self, lifted):
        lines = []
        for (_, name), (poses, frames, _, compute) in lifted.items():
            poses = poses.double().cpu().numpy().round(5)
            poses = np.where(np.isfinite(poses), poses, None).tolist()
            compute = (1000 * compute.double()).round(decimals=3).tolist()
            for values in zip(poses, frames.tolist(), compute, strict=True):
                lines.append(self._pose(name, *values))
        await self._send(lines)

    def _pose(self, name, pose, frame, compute):
        came, moment = self.streams[name].frames.popleft()
        latency = round(1000 * (time.perf_counter() - came), 3)
        self.server.statistics.add(latency_ms=latency, compute_ms=compute)
        known = {"id": name, "frame": frame} | ({} if moment is None else {"time": moment})
        return known | {"pose": pose, "latency_ms": latency, "compute_ms": compute}

    async def _complain(self, error, line=None, last=False):
        self.server.statistics.errors += 1
        await self._send([{"error": message(error)[:ERROR], "line": self.line if line is None else line}])
        if last or self.server.strict:
            raise _BadLine

    async def _send(self, entries):
        if entries:
            await self.write("".join(f"{json.dumps(entry)}\n" for entry in entries).encode())

    def _key(self, name):
        """Its name in the batch; (1, "a") and (1.0, "a") are one, as 1 and 1.0 are."""
        return self, name


class _Stream:
    def __init__(self):
        self.frames = deque()  # (when it came, "time") of the frames that wait
        self.last = 0.0  # when a frame came last


class _BadLine(Exception):
    """After which a client is heard no more."""
