"""Client of `lifter.inference.server`: its lines are read as they arrive, and some are answered in each round of the
server."""

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
LONGEST = 1 << 16  # maximum bytes of a line
LINE = 100  # memory overhead of a line in bytes
BACKLOG = 1 << 18  # bytes of waiting lines beyond which a client is not read from
SHARE = 16  # lines of a client per round
STREAMS = 64  # of a client
ALL_STREAMS = 1024
FINE = 0.005  # seconds of server time charged for a bad line, so that flooding clients wait longest
LATE = 1.0  # seconds of delay beyond which a client is warned and, with `drop`, its frames are dropped
IDLE = 60.0  # seconds after which an idle stream, or a client that neither sends nor receives, is closed
ERROR = 500  # maximum characters of an error, which may quote a line
POSE = f"[{', '.join(['[%.5f, %.5f, %.5f]'] * H36M.num_joints)}]"


class Control(NamedTuple):
    """A request other than a frame: "flush", "reset", or "leave", which does both."""

    kind: str
    names: list  # of streams


class Client:
    """Connection that sends and receives lines.

    In every round the server calls `take`, `accept`, and `give` with the results. A client does not take part in rounds until
    its answers are written. It is not read from while many of its lines wait (back-pressure).

    Args:
        server: the Server. stopped: a future; reading stops when it is done.
        read: returns bytes, none at the end. write: sends bytes, and returns when there is room for more.
        remote: one of many clients, which is warned about late answers, and disconnected when it neither sends nor receives.
    """

    def __init__(self, server, stopped, read, write, remote=False):
        self.server, self.stopped, self.read, self.write, self.remote = server, stopped, read, write, remote
        self.used = server.clock  # seconds of the server's time
        self.line, self.streams = 0, {}  # {id: _Stream}
        self.lines, self.waiting = deque(), 0  # (arrival time, line); their total bytes
        self.first = None  # the first one, parsed; it may have to wait for the next round
        self.ended = self.finished = self.gone = False  # no more input; everything answered; disconnected
        self.stale = []  # streams to close
        self.taken, self.control = [], None  # frames of this round: (id, line, arrival time, "time")
        self.frames = {}  # accepted frames, {id: [...]}
        self.behind = 0.0  # longest waiting time among them, in seconds
        self.answers, self.writing = [], None  # answers not yet received; waiting since
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
            pass  # it has gone, so nobody waits for its poses
        finally:
            self.gone = True
            self.stopped.remove_done_callback(enough)
            reading.cancel()
            self.server.come.set()

    @property
    def ready(self):
        """Return whether the client has work for a round."""
        return self.writing is None and not self.finished and bool(self.lines or self.ended or self.stale)

    def tidy(self):
        """Close streams without recent frames, and disconnect the client if it neither sends nor receives."""
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
            pass  # writers get an error
        finally:
            self._add([rest] if rest else [])
            self.ended = True
            self.server.come.set()

    def _add(self, lines):
        if self.ended:
            return
        if not self.lines:
            self.used = max(self.used, self.server.clock)  # unused time does not accumulate
        self.lines += [(self.heard, line) for line in lines]
        self.waiting += sum(map(len, lines)) + LINE * len(lines)
        self.server.come.set()

    # ---- its part in a round -----------------------------------------------------------------------------------------

    def take(self) -> list:
        """Take the next lines, either some frames or one other request (`control`), and return the keypoints of the frames as
        received. Invalid and refused lines are answered before their content is processed.
        """
        self.behind = 0.0
        if self.stale or not self.lines:
            names, self.stale = self.stale or list(self.streams), []
            self.control = Control("leave", [name for name in names if name in self.streams])  # some may already have left
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
        """Return the keypoints of the taken frames, {stream: (N, J, C)}. `converted` holds keypoints or an error for each
        frame."""
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
        """Return (kind, id, request) of a line, None for an empty line, and ("error", None, error) for a bad one."""
        try:
            request = self._request(line)
        except Exception as error:  # any error that a line may cause
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
        """Raise an error if this is a new stream and there is no room for it."""
        if name in self.streams or name in others:
            return
        if len(self.streams.keys() | others) >= STREAMS:
            raise ValueError(f"{STREAMS} streams already, expected some to leave first")
        if sum(len(client.streams) for client in self.server.clients) >= ALL_STREAMS:
            raise ValueError(f"{ALL_STREAMS} streams of all clients already")

    def _is_late(self, came):
        """Return whether a frame has waited too long and is dropped. The client is told about dropped frames once per
        second."""
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
        """Stop reading from the client."""
        self.lines.clear()
        self.first = None
        self.ended = True
        self.room.set()

    # ---- answers -----------------------------------------------------------------------------------------------------

    def give(self, lifted, flushed):
        """Answer the taken lines with {stream: Lifted or an error} of the round, or with the result of `control`."""
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
        """Return the keys of streams in the batch; (client, 1) and (client, 1.0) are equal, like 1 and 1.0."""
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
        self.frames = deque()  # (arrival time, "time") of waiting frames
        self.last = 0.0  # arrival time of the last frame
