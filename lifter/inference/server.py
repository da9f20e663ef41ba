"""Live lifting for other programs: keypoints come as lines of JSON, poses go as lines of JSON.

A line that comes is a frame, {"keypoints": [[x, y] or [x, y, confidence] for each joint], "id": whose, "time": any}, of which
"id" and "time" may be left out; or it is {"flush": true}, {"reset": true} or {"leave": id}, about the streams of the client.
Keypoints are null for a dropped frame, and so may coordinates be. A line that goes is a pose, {"id", "frame", "time" if it was
given, "pose": [[x, y, z] for each joint] in metres, "latency_ms", "compute_ms"} as in `lifter.streaming.Lifted`, null where it
is unknown; or {"error", "line"} about a line that could not be read, which counts as no frame. Who sends no more gets the
poses that wait.
"""

import asyncio
import contextlib
import json
import os
import sys
import threading
import time
from collections import deque
from functools import partial

import numpy as np
import torch

from lifter._notices import notice, told
from lifter.data.cameras import normalise
from lifter.data.files import numbers, with_nan
from lifter.data.keypoints import layout_of, seen, to_h36m
from lifter.data.plausible import in_pixels
from lifter.skeleton import H36M

from .windows import with_channels

BLOCK = 1 << 16  # bytes read at once
LONGEST = 1 << 20  # bytes of a line
MOST = 1000  # streams of a client
PATIENCE = 5.0  # seconds for clients to take their last poses when all ends
FAR = 10.0  # normalised keypoints are of order 1
KINDS = ("keypoints", "flush", "reset", "leave")


class Form:
    """How the keypoints of a line become those of a model.

    Args:
        channels: of the model's keypoints. size: (width, height) of the image in pixels; None: they are normalised.
        layout, variant: of the detector, see `lifter.data.keypoints.to_h36m`. None: of keypoints in pixels by the number of
            joints, as in files (17: COCO), of normalised ones Human3.6M's.
    """

    def __init__(self, channels, size=None, layout=None, variant=None):
        self.channels, self.size, self.layout, self.variant = channels, size, layout, variant
        self.said = False  # what was assumed about the first frame that needs it

    def request(self, line) -> dict:
        """What a line asks for, with keypoints (17, channels) float32 or None; ValueError if it is no such line."""
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not JSON ({error})") from None
        kinds = [kind for kind in KINDS if kind in entry] if isinstance(entry, dict) else []
        if len(kinds) != 1:
            raise ValueError(f"expected an object with one of {', '.join(KINDS)}")
        (kind,) = kinds
        if kind in ("flush", "reset") and entry[kind] is not True:
            raise ValueError(f"{kind} is {entry[kind]!r}, expected true")
        name = entry["leave"] if kind == "leave" else entry.get("id")
        if not isinstance(name, (str, int, float, type(None))):
            raise ValueError(f"id is a {type(name).__name__}, expected text or a number")
        if kind != "keypoints":
            return {"kind": kind, "id": name}
        return {"kind": kind, "id": name, "keypoints": self._keypoints(entry[kind]), "time": entry.get("time")}

    def _keypoints(self, values):
        if values is None:
            return None
        keypoints = self._image(numbers(with_nan(values), (None, None), "keypoints"))
        layout = self.layout or ("h36m" if self.size is None else layout_of(len(keypoints), "keypoints"))
        keypoints = to_h36m(seen(keypoints, image=self.size is not None)[None], layout, self.variant)[0]
        if self.size is not None:
            keypoints = normalise(keypoints, self.size)
        return with_channels(torch.from_numpy(keypoints).float(), self.channels)

    def _image(self, keypoints):
        """The keypoints of a frame in pixels, if the size of the image is known; what is said about them is said once."""
        if keypoints.ndim != 2 or keypoints.shape[1] not in (2, 3):
            raise ValueError(f"keypoints: shape {keypoints.shape}, expected (J, 2 or 3)")
        if self.size is None:
            xy = keypoints[:, :2]
            if (np.abs(xy) > FAR).sum() > xy.size / 2:
                raise ValueError("keypoints are in pixels, expected normalised ones: pass --size WxH")
            return keypoints
        said = []
        with told(said.append):
            keypoints = in_pixels(keypoints, self.size, "keypoints")
        if said and not self.said:
            self.said = True
            notice(said[0])
        return keypoints


class Statistics:
    """Of the poses that went out; percentiles are those of the last 100,000."""

    def __init__(self):
        self.frames = self.errors = 0
        self.start = time.perf_counter()
        self.times = {kind: deque(maxlen=100_000) for kind in ("latency_ms", "compute_ms")}
        self.most = dict.fromkeys(self.times, 0.0)

    def add(self, **milliseconds):
        self.frames += 1
        for kind, value in milliseconds.items():
            self.times[kind].append(value)
            self.most[kind] = max(self.most[kind], value)

    def summary(self) -> dict:
        seconds = time.perf_counter() - self.start
        summary = {"frames": self.frames, "errors": self.errors, "seconds": round(seconds, 3)}
        summary["frames_per_second"] = round(self.frames / seconds, 1)
        for kind, values in self.times.items():
            p50, p95 = np.percentile(values, (50, 95)).round(3).tolist() if values else (None, None)
            summary[kind] = {"p50": p50, "p95": p95, "max": self.most[kind] if values else None}
        return summary


class Server:
    """Clients whose streams are lifted together, in one `lifter.StreamBatch`.

    Args:
        batch: the StreamBatch. form: of the lines.
        strict: a client's first bad line is its last.
    """

    def __init__(self, batch, form, strict=False):
        joints, channels = batch._joint_shape
        if joints != H36M.num_joints:
            raise ValueError(f"the model has {joints} joints, expected the {H36M.num_joints} of Human3.6M")
        self.batch, self.form, self.strict = batch, form, strict
        self.statistics = Statistics()
        self._frames, self._round, self._clients = {}, None, {}

    async def standard(self, stopped) -> None:
        """Serve standard input and output, to the end or until the future `stopped` is done."""
        await Client(self, stopped, _from_standard_input, _to_standard_output).run()

    async def listen(self, address, stopped, ready=print) -> None:
        """Serve whoever connects to `address`, HOST:PORT or the path of a Unix socket, until the future `stopped` is done.

        `ready` is called with the address once it may be connected to; of port 0 with the port that was found.
        """
        connected = partial(self._connected, stopped)
        host, colon, port = address.rpartition(":")
        if colon and port.isdigit():
            server = await asyncio.start_server(connected, host.strip("[]") or None, int(port))
            host, port, *_ = server.sockets[0].getsockname()
            ready(f"{host}:{port}")
        else:
            server = await asyncio.start_unix_server(connected, address)
            ready(address)
        await stopped
        server.close()
        for patience in (PATIENCE, None):
            if clients := dict(self._clients):
                _, slow = await asyncio.wait(clients, timeout=patience)
                for client in slow:
                    clients[client].transport.abort()

    async def _connected(self, stopped, reader, writer):
        async def write(data):
            writer.write(data)
            await writer.drain()

        task = asyncio.current_task()
        self._clients[task] = writer
        try:
            await Client(self, stopped, partial(reader.read, BLOCK), write).run()
        finally:
            del self._clients[task]
            writer.close()

    async def lift(self, frames):
        """{stream: keypoints} -> {stream: Lifted or the error}, in one call with what other clients send meanwhile."""
        if self._round is None:
            loop = asyncio.get_running_loop()
            self._round = loop.create_future()
            loop.call_soon(self._lift)
        self._frames |= frames
        return await asyncio.shield(self._round)

    def _lift(self):
        frames, waiting = self._frames, self._round
        self._frames, self._round = {}, None
        waiting.set_result(self._pushed(frames))

    def _pushed(self, frames):
        try:
            return self.batch.push(frames)
        except Exception as error:  # of the frames of one, or of the model: who sent it is told
            if len(frames) == 1:
                return dict.fromkeys(frames, error)
            return {name: self._pushed({name: keypoints})[name] for name, keypoints in frames.items()}


class Client:
    """One who sends lines and gets lines. `read()` gives bytes, none at the end; `write(data)` returns when there is room for
    more, so that who does not read is not read from."""

    def __init__(self, server, stopped, read, write):
        self.server, self.stopped, self.read, self.write = server, stopped, read, write
        self.line, self.times = 0, {}  # {id: "time" of the frames that wait}

    async def run(self):
        batch = self.server.batch
        try:
            with contextlib.suppress(_BadLine):  # it was told
                async for lines in self._blocks():
                    await self._take(lines)
            await self._poses(batch.flush(list(map(self._stream, self.times))))
        except ConnectionError:
            pass  # it has gone; nobody waits for its poses
        finally:
            batch.reset(list(map(self._stream, self.times)))

    async def _blocks(self):
        """Whole lines, as many as have come."""
        rest = b""
        while data := await self._or_stopped(self.read()):
            *lines, rest = (rest + data).split(b"\n")
            yield lines
            if len(rest) > LONGEST:
                self.line += 1
                await self._complain(ValueError(f"longer than {LONGEST} bytes"), last=True)
        if rest:
            yield [rest]

    async def _or_stopped(self, reading):
        task = asyncio.ensure_future(reading)
        await asyncio.wait((task, self.stopped), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        return b""

    async def _take(self, lines):
        frames = {}  # of different streams, which go together
        for line in lines:
            self.line += 1
            if not line.strip():
                continue
            try:
                request = self.server.form.request(line)
                name = request["id"]
                if request["kind"] == "keypoints":
                    if name in frames:
                        await self._push(frames)
                        frames = {}
                    if name not in self.times and len(self.times) >= MOST:
                        raise ValueError(f"{MOST} streams already, expected some to leave first")
                    self.times.setdefault(name, deque())
                    frames[name] = self.line, request
                    continue
                await self._push(frames)
                frames = {}
                await self._control(request["kind"], name)
            except ValueError as error:
                await self._push(frames)
                frames = {}
                await self._complain(error)
        await self._push(frames)

    async def _push(self, frames):
        """Frames {id: (line, request)}."""
        if not frames:
            return
        lifted = await self.server.lift({self._stream(name): request["keypoints"] for name, (_, request) in frames.items()})
        ready = {}
        for name, (line, request) in frames.items():
            result = lifted[self._stream(name)]
            if isinstance(result, Exception):
                await self._complain(result, line)
            else:
                self.times[name].append(request["time"])
                ready[self._stream(name)] = result
        await self._poses(ready)

    async def _control(self, kind, name):
        batch, names = self.server.batch, [name] if kind == "leave" else list(self.times)
        if not self.times.keys() >= set(names):
            raise ValueError(f"leave: there is no stream {name!r}")
        streams = list(map(self._stream, names))
        if kind != "reset":
            await self._poses(batch.flush(streams))
        if kind != "flush":
            batch.reset(streams)
            for name in names:
                del self.times[name]

    async def _poses(self, lifted):
        lines = []
        for (_, name), (poses, frames, *times) in lifted.items():
            poses = poses.double().cpu().numpy().round(5)
            poses = np.where(np.isfinite(poses), poses, None).tolist()
            latency, compute = ((1000 * seconds.double()).round(decimals=3).tolist() for seconds in times)
            for values in zip(poses, frames.tolist(), latency, compute, strict=True):
                lines.append(self._pose(name, *values))
        await self._send(lines)

    def _pose(self, name, pose, frame, latency, compute):
        self.server.statistics.add(latency_ms=latency, compute_ms=compute)
        moment = self.times[name].popleft()
        known = {"id": name, "frame": frame} | ({} if moment is None else {"time": moment})
        return known | {"pose": pose, "latency_ms": latency, "compute_ms": compute}

    async def _complain(self, error, line=None, last=False):
        self.server.statistics.errors += 1
        await self._send([{"error": str(error), "line": self.line if line is None else line}])
        if last or self.server.strict:
            raise _BadLine

    async def _send(self, entries):
        if entries:
            await self.write("".join(f"{json.dumps(entry)}\n" for entry in entries).encode())

    def _stream(self, name):
        """Its name in the batch; (1, "a") and (1.0, "a") are one, as 1 and 1.0 are."""
        return self, name


class _BadLine(Exception):
    """After which a client is heard no more."""


async def _from_standard_input():
    """What there is. Read in a thread that nobody waits for: an event loop cannot wait for files, nor a thread be stopped."""
    loop = asyncio.get_running_loop()
    waiting = loop.create_future()

    def read():
        data = os.read(sys.stdin.fileno(), BLOCK)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(lambda: waiting.done() or waiting.set_result(data))

    threading.Thread(target=read, daemon=True).start()
    return await waiting


async def _to_standard_output(data):
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]
