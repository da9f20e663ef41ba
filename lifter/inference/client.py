"""A client of `lifter.inference.server`: its lines are read as they come, some are answered in each of the server's rounds."""

import asyncio
import hmac
import json
import time
from collections import deque
from typing import NamedTuple

import numpy as np
import torch

from lifter._errors import message
from lifter.skeleton import H36M

BLOCK = 1 << 14  # bytes read at once
LONGEST = 1 << 16  # bytes of a line
LINE = 100  # bytes that a line takes besides its own
BACKLOG = 1 << 18  # bytes of lines that wait; beyond this a client is not read from
SHARE = 16  # lines of a client in one round
STREAMS = 64  # of a client
ALL_STREAMS = 1024
FINE = 0.005  # seconds of the server's time that a bad line costs besides: when many wait, who floods waits longest
LATE = 1.0  # seconds: beyond this a client is told, and with `drop` its frames are not lifted
IDLE = 60.0  # seconds: a stream without frames, a client without lines, one that takes no answers is given up
ERROR = 500  # characters of an error: it may quote a line
POSE = f"[{', '.join(['[%.5f, %.5f, %.5f]'] * H36M.num_joints)}]"


class Control(NamedTuple):
    """A client's request besides frames: "flush", "reset", or "leave", which is both."""

    kind: str
    names: list  # of streams


class Client:
    """One who sends lines and gets lines.

    In a round the server calls `take`, `accept`, and `give` with what came of it. Until its answers are written, and while it
    does not take them, the client has no part in a round; nor is it read from while many of its lines wait.

    Args:
        server: the Server. stopped: a future; once it is done nothing is read any more.
        read: gives bytes, none at the end. write: takes bytes, and returns when there is room for more.
        remote: it is one of many: it is told when answers are late, and given up when it sends or takes nothing.
    """

    def __init__(self, server, stopped, read, write, remote=False):
        self.server, self.stopped, self.read, self.write, self.remote = server, stopped, read, write, remote
        self.used = server.clock  # seconds of the server's time
        self.line, self.streams = 0, {}  # {id: _Stream}
        self.lines, self.waiting = deque(), 0  # (when it came, line), their bytes
        self.first = None  # the first of them, parsed: it may wait for the next round
        self.ended = self.finished = self.gone = False  # nothing comes any more; all is answered; nobody is there
        self.stale = []  # streams to be given up
        self.taken, self.control = [], None  # its part in a round: (id, line, when it came, time) of frames
        self.frames = {}  # those that were accepted, {id: [...]}
        self.behind = 0.0  # seconds that one of these waited at the most
        self.answers, self.writing = [], None  # not yet taken; since when they wait
        self.room, self.told = asyncio.Event(), asyncio.Event()
        self.heard = self.warned = time.perf_counter()
        self.dropped = 0
        self.known = not remote or server.token is None

    async def run(self):
        """Serve the client until all is answered, or it has gone."""
        self.task, reading = asyncio.current_task(), asyncio.create_task(self._read())
        enough = lambda _: reading.cancel()
        self.stopped.add_done_callback(enough)
        self.server.clients.add(self)
        try:
            while self.answers or not self.finished:
                await self.told.wait()
                self.told.clear()
                answers, self.answers = self.answers, []
                await self.write("".join(answers).encode())
                self.writing = time.perf_counter() if self.answers else None
                self.server.come.set()
        except ConnectionError:
            pass  # it has gone; nobody waits for its poses
        finally:
            self.gone = True
            self.stopped.remove_done_callback(enough)
            reading.cancel()
            self.server.come.set()

    @property
    def ready(self):
        """Return whether there is something to do for it in a round."""
        return self.writing is None and not self.finished and bool(self.lines or self.ended or self.stale)

    def tidy(self):
        """Give up streams that got no frames for a while, and a client that sends nothing or takes nothing."""
        since = time.perf_counter() - IDLE
        if self.writing is not None and self.writing < since:
            self.task.cancel()
        elif not (self.streams or self.lines or self.ended) and self.heard < since:
            self._complain(ValueError(f"nothing came for {IDLE:g} seconds"))
            self._end()
        since = self.lines[0][0] - IDLE if self.lines else since  # of lines that wait nobody knows whose they are
        self.stale = [name for name, stream in self.streams.items() if stream.last < since]

    # ---- lines that come ---------------------------------------------------------------------------------------------

    async def _read(self):
        """Collect whole lines as they come, with the time, also while those before them wait for answers."""
        rest = b""
        try:
            while not self.ended and (data := await self.read()):
                self.heard = time.perf_counter()
                *lines, rest = (rest + data).split(b"\n")
                self._add(lines)
                if len(rest) > LONGEST:
                    break
                while self.waiting > BACKLOG:
                    self.room.clear()
                    await self.room.wait()
        except (ConnectionError, asyncio.CancelledError):
            pass  # who writes to it is told; it is stopped
        finally:
            self._add([rest] if rest else [])
            self.ended = True
            self.server.come.set()

    def _add(self, lines):
        if self.ended:
            return
        if not self.lines:
            self.used = max(self.used, self.server.clock)  # time that was not used is not saved up
        self.lines += [(self.heard, line) for line in lines]
        self.waiting += sum(map(len, lines)) + LINE * len(lines)
        self.server.come.set()

    # ---- its part in a round -----------------------------------------------------------------------------------------

    def take(self) -> list:
        """Take the next lines in hand, some frames or one other line that asks for something (`control`); the keypoints of the
        frames, as lines have them.

        Lines that ask for nothing, or for what it may not have, are answered before anything is made of what they hold.
        """
        self.behind = 0.0
        if self.stale or not self.lines:
            names, self.stale = self.stale or list(self.streams), []
            self.control = Control("leave", [name for name in names if name in self.streams])  # some may have left already
            return []
        taken, names, again = [], set(), self.server.batch.missing != "error"  # else one may be refused, and not the next
        for _ in range(SHARE):
            if not self.lines:
                break
            came, line = self.lines[0]
            kind, name, request = self.first = self.first or self._parsed(line)
            if taken and kind is not None and (kind != "keypoints" or name in names and not again):
                break
            self._next()
            try:
                if kind == "error":
                    raise request
                if kind == "keypoints":
                    self._admit(name, names)
                    if not self._is_late(came):
                        taken.append(request["keypoints"])
                        self.taken.append((name, self.line, came, request["time"]))
                        names.add(name)
                elif kind is not None:
                    self.control = self._asked(kind, name)
                    break
            except Exception as error:
                self._complain(error)
                if not self.known or len(line) > LONGEST:
                    self._end()
        return taken

    def accept(self, converted) -> dict:
        """The keypoints of the frames that were taken, {stream: (N, J, C)}; `converted`: of each those or the error."""
        given = {}
        for (name, *frame), keypoints in zip(self.taken, converted, strict=True):
            if isinstance(keypoints, Exception):
                self._complain(keypoints, frame[0])
                if self.server.strict:
                    break
            else:
                self.frames.setdefault(name, []).append(frame)
                given.setdefault((self, name), []).append(keypoints)
        self.taken = []
        return {key: torch.stack(parts) for key, parts in given.items()}

    def _parsed(self, line):
        """Return kind, id and request of a line, None of an empty one; "error", None and the error of a bad one."""
        try:
            request = self._request(line)
        except Exception as error:  # whatever a line does to who reads it
            return "error", None, error
        return (request["kind"], request["id"], request) if request else (None, None, None)

    def _next(self):
        self.first = None
        _, line = self.lines.popleft()
        self.waiting -= len(line) + LINE
        self.line += 1
        self.room.set()

    def _request(self, line):
        """Return the request of a line, None if it is empty."""
        if len(line) > LONGEST:
            raise ValueError(f"longer than {LONGEST} bytes")
        if not line.strip():
            return None
        if self.known:
            return self.server.form.request(line)
        try:
            word = json.loads(line)["token"]
        except Exception:
            word = None
        if not (isinstance(word, str) and hmac.compare_digest(word.encode(), self.server.token.encode())):
            raise ValueError("expected the server's token first")
        self.known = True
        return None

    def _admit(self, name, others):
        """Raise an error if there is no room for another stream, and this is one."""
        if name in self.streams or name in others:
            return
        if len(self.streams.keys() | others) >= STREAMS:
            raise ValueError(f"{STREAMS} streams already, expected some to leave first")
        if sum(len(client.streams) for client in self.server.clients) >= ALL_STREAMS:
            raise ValueError(f"{ALL_STREAMS} streams of all clients already")

    def _is_late(self, came):
        """Return whether a frame waited too long and is dropped. The client is told of such frames once a second."""
        now, drop = time.perf_counter(), self.server.drop
        behind = now - came
        if not self.remote:
            return False
        self.behind = max(self.behind, behind)
        if behind <= LATE:
            return False
        self.dropped += drop
        self.server.statistics.dropped += drop
        self.server.say("late", f"overloaded: answers are {behind:.1f} s late" + (", frames are dropped" if drop else ""))
        if now - self.warned > 1:
            self.warned = now
            warning = {"warning": "overloaded", "late_ms": round(1000 * behind)}
            self._tell(warning | ({"dropped": self.dropped} if drop else {}))
        return drop

    def _asked(self, kind, name):
        names = [name] if kind == "leave" else list(self.streams)
        if not self.streams.keys() >= set(names):
            raise ValueError(f"leave: there is no stream {name!r}")
        return Control(kind, names)

    def _end(self):
        """Hear the client no more."""
        self.lines.clear()
        self.first = None
        self.ended = True
        self.room.set()

    # ---- answers -----------------------------------------------------------------------------------------------------

    def give(self, lifted, flushed):
        """Answer what was taken. {stream: Lifted or the error} of the round; Lifted of `control`, or the error."""
        ready, now = {}, time.perf_counter()
        for name, frames in self.frames.items():
            result = lifted[self, name]
            if isinstance(result, Exception):
                for line, *_ in frames:
                    self._complain(result, line)
                continue
            stream = self.streams.setdefault(name, _Stream())
            stream.last = now
            stream.frames.extend((came, moment) for _, came, moment in frames)
            if len(result.frames):
                ready[name] = result
        self._poses(ready)
        self.frames = {}
        if self.control is None:
            return
        (kind, names), self.control = self.control, None
        if isinstance(flushed, Exception):
            self._complain(flushed)
        else:
            self._poses({name: poses for (_, name), poses in flushed.items()})
        if kind != "flush":
            for name in names:
                del self.streams[name]
        self.finished = self.ended and not (self.lines or self.streams)
        self.told.set()

    def _poses(self, lifted):
        lines = []
        for name, (poses, numbers, _, compute) in lifted.items():
            if not len(numbers):  # at the end of a stream none need wait
                continue
            poses = poses.double().cpu().flatten(1).numpy().round(5)
            poses = np.where(np.isfinite(poses), poses, np.nan)
            frames = [self.streams[name].frames.popleft() for _ in numbers]
            waited = (1000 * (time.perf_counter() - np.array([came for came, _ in frames]))).round(3)
            took = (1000 * compute.double().numpy()).round(3)
            self.server.statistics.add(len(frames), latency_ms=waited, compute_ms=took)
            known = json.dumps(name)
            for pose, number, (_, moment), *ms in zip(poses.tolist(), numbers.tolist(), frames, waited, took, strict=True):
                moment = "" if moment is None else f'"time": {json.dumps(moment)}, '
                pose = (POSE % tuple(pose)).replace("nan", "null")
                ms = f'"latency_ms": {ms[0]:.3f}, "compute_ms": {ms[1]:.3f}'
                lines.append(f'{{"id": {known}, "frame": {number}, {moment}"pose": {pose}, {ms}}}\n')
        self._send(lines)

    def _complain(self, error, line=None):
        self.server.statistics.errors += 1
        self.used += FINE
        self._tell({"error": message(error)[:ERROR], "line": self.line if line is None else line})
        if self.server.strict:
            self._end()

    def _tell(self, entry):
        self._send([f"{json.dumps(entry)}\n"])

    def _send(self, lines):
        if lines:
            self.answers += lines
            self.writing = self.writing or time.perf_counter()
            self.told.set()

    def keys(self, names) -> list:
        """Return the names of streams in the batch; (client, 1) and (client, 1.0) are one, as 1 and 1.0 are."""
        return [(self, name) for name in names]


async def tidy(server):
    """Have clients give up what is idle, now and then."""
    while True:
        await asyncio.sleep(IDLE / 4)
        for client in server.clients:
            if client.remote:
                client.tidy()
        server.come.set()


class _Stream:
    def __init__(self):
        self.frames = deque()  # (when it came, "time") of the frames that wait
        self.last = 0.0  # when a frame came last
