"""Server for live lifting: keypoints arrive and poses leave as lines of JSON.

A line that comes is a frame, {"keypoints": [[x, y] or [x, y, confidence] for each joint], "id": whose, "time": any}, of which
"id" and "time" may be left out; or it is {"flush": true}, {"reset": true} or {"leave": id}, about the streams of the client.
Keypoints are null for a dropped frame, and so may coordinates be. A line that goes is a pose, {"id", "frame", "time" if it was
given, "pose": [[x, y, z] for each joint] in metres, null where it is unknown, "latency_ms" since the frame came, of which
"compute_ms" in the model}; or {"error", "line"} about a line that could not be read, which counts as no frame; or {"warning"}
that answers are late, with how many frames were "dropped" if the server does that. Who sends no more gets the poses that wait.

Nobody waits for one client alone: in every round the clients have a part that had least of the server's time, each with a few
lines; each has a few streams, and there are only so many clients and streams in all. Streams that get no frames, and clients
that send nothing or take nothing, are given up after a while.
"""

import asyncio
import contextlib
import contextvars
import ipaddress
import itertools
import json
import math
import os
import resource
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import itemgetter

import numpy as np
import torch

from lifter._errors import message
from lifter._io import in_folder
from lifter._notices import notice, told
from lifter.data.cameras import normalise
from lifter.data.files import numbers, with_nan
from lifter.data.keypoints import layout_of, order_of, seen, to_h36m
from lifter.data.plausible import PIXELS, check_upright, in_pixels
from lifter.skeleton import H36M

from .client import BLOCK, SHARE, Client, tidy
from .windows import with_channels

CLIENTS = 256  # and no more than there are descriptors for
SPARE = 64  # descriptors for all else
PATIENCE = 5.0  # seconds for clients to receive their last poses at the end
PACE = 0.02  # seconds between rounds while no lines pile up, so that more frames share the cost of a round
HASTE = 8  # minimum number of rounds per chunk
BEHIND = 0.25  # seconds; frames that have waited longer are lifted in larger chunks
TOGETHER = 27  # maximum frames of such a chunk
AHEAD = 0.002  # seconds of server time by which a client may be ahead of waiting ones
SILENCE = 10.0  # seconds between two equal messages
FAR = 10.0  # normalised keypoints are of order 1
KINDS = ("keypoints", "flush", "reset", "leave")
LAST = 100_000  # poses
WORD = 1000  # characters of an id, and of a time


class Form:
    """Conversion of the keypoints of a line to the model's keypoints.

    Args:
        channels: channels of the model's keypoints. size: (width, height) of the image in pixels; None: keypoints are
        normalised.
        layout, variant: joint order and conversion, see `lifter.data.keypoints.to_h36m`. Default for keypoints in pixels:
            detected from the number of joints, as in files (17: COCO, unless bone lengths suggest Human3.6M); for normalised
            keypoints: Human3.6M's order.
    """

    def __init__(self, channels, size=None, layout=None, variant=None):
        self.channels, self.size, self.layout, self.variant = channels, size, layout, variant
        self.said = False  # what was assumed for the first frame that needed it
        self.layouts = {}  # by number of joints, once a body was seen

    def request(self, line) -> dict:
        """Parse the request of a line, without converting its keypoints; raise ValueError if it is invalid."""
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
        _word(name, "id")
        if kind != "keypoints":
            return {"kind": kind, "id": name}
        return {"kind": kind, "id": name, "keypoints": entry[kind], "time": _word(entry.get("time"), "time")}

    def keypoints(self, frames) -> list:
        """Convert the keypoints of lines: return each as (17, channels) float32, NaN for null, or as an error. Plain frames
        are converted together, which takes little more time than a single one.
        """
        there = [values for values in frames if values is not None]
        try:
            alike = numbers(there, (None, None, None), "keypoints")
            converted = iter(self._converted(alike) if self._plain(alike) else map(self._alone, there))
        except Exception:  # of some
            converted = map(self._alone, there)
        nobody = torch.full((H36M.num_joints, self.channels), torch.nan)
        return [nobody if values is None else next(converted) for values in frames]

    def _plain(self, keypoints):
        """Return whether all of these frames (N, J, C) can be converted without individual checks."""
        if self.size is None:
            return bool((np.abs(keypoints[..., :2]) <= FAR).all())
        _, joints, channels = keypoints.shape
        if joints not in self.layouts or channels not in (2, 3):
            return False
        in_pixels = (np.abs(keypoints[..., :2]) > PIXELS).mean((1, 2)) > 0.5
        share = keypoints[..., 2:]
        return bool(in_pixels.all() and ((share >= 0) & (share <= 1)).all() and (channels == 2 or share.any((1, 2)).all()))

    def _alone(self, values):
        """Return the keypoints of a line, or an error."""
        try:
            return self._converted(numbers(with_nan(values), (None, None), "keypoints")[None])[0]
        except Exception as error:  # any error that a line may cause
            return error

    def _converted(self, keypoints):
        """Convert frames (N, J, 2 or 3) to (N, 17, channels) float32."""
        keypoints = self._image(keypoints)
        if self.size is None:
            keypoints = to_h36m(seen(keypoints, image=False), self.layout or "h36m", self.variant)
        else:
            keypoints = normalise(self._joints(seen(keypoints)), self.size)
        return with_channels(torch.from_numpy(keypoints.astype(np.float32)), self.channels)

    def _joints(self, keypoints):
        """Convert frames (N, J, 2 or 3) in pixels to Human3.6M's joints. As in files, the joint order with the shorter bones
        in the first body is chosen, and a warning is given if that body lies or is upside down."""
        count = keypoints.shape[1]
        layout = self.layout or self.layouts.get(count) or layout_of(count, "keypoints")
        if count in self.layouts or np.isfinite(keypoints[0, :, 0]).sum() <= count / 2:
            return to_h36m(keypoints, layout, self.variant)
        self.layouts[count] = layout = self.layout or order_of(keypoints, layout, "keypoints")
        keypoints = to_h36m(keypoints, layout, self.variant)
        check_upright(keypoints, "keypoints: the first frame")
        return keypoints

    def _image(self, keypoints):
        """Return frames (N, J, 2 or 3) in pixels, if the image size is known; each warning is given once."""
        if keypoints.shape[2] not in (2, 3):
            raise ValueError(f"keypoints: shape {keypoints.shape[1:]}, expected (J, 2 or 3)")
        if self.size is None:
            xy = keypoints[..., :2]
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


def _word(value, what):
    """Check a value that will be echoed; raise ValueError if it cannot be."""
    if value is None or isinstance(value, str) and len(value) <= WORD / 12:  # to which a character may expand in JSON
        return value
    try:
        length = len(json.dumps(value, allow_nan=False))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is no JSON ({error})") from None
    if length > WORD:
        raise ValueError(f"{what} has {length} characters, expected at most {WORD}")
    return value


class Statistics:
    """Statistics of the poses sent, with percentiles of the last `LAST`, in constant memory."""

    def __init__(self):
        self.frames = self.errors = self.dropped = 0
        self.start = time.perf_counter()
        self.times = {kind: np.full(LAST, np.nan, np.float32) for kind in ("latency_ms", "compute_ms")}
        self.most = dict.fromkeys(self.times, 0.0)

    def add(self, count, **milliseconds):
        """Add the statistics of `count` poses, one array of each kind."""
        for kind, values in milliseconds.items():
            self.times[kind][(self.frames + np.arange(count)) % LAST] = values
            self.most[kind] = max(self.most[kind], float(values.max()))
        self.frames += count

    def summary(self) -> dict:
        seconds = time.perf_counter() - self.start
        summary = {"frames": self.frames, "errors": self.errors, "dropped": self.dropped, "seconds": round(seconds, 3)}
        summary["frames_per_second"] = round(self.frames / seconds, 1)
        for kind, values in self.times.items():
            values = values[: self.frames].astype(np.float64)
            p50, p95, p99 = np.percentile(values, (50, 95, 99)).round(3).tolist() if self.frames else (None, None, None)
            summary[kind] = {"p50": p50, "p95": p95, "p99": p99, "max": self.most[kind] if self.frames else None}
        return summary


class Server:
    """Server whose clients' streams are lifted together in one `lifter.StreamBatch`.

    Args:
        batch: the StreamBatch. form: the `Form` of the lines. strict: disconnect a client at its first bad line.
        drop: drop frames that have waited too long, so that answers do not stay late.
        token: token that clients must send first, as {"token": ...}.
    """

    def __init__(self, batch, form, strict=False, drop=False, token=None):
        joints, channels = batch._joint_shape
        if joints != H36M.num_joints:
            raise ValueError(f"the model has {joints} joints, expected the {H36M.num_joints} of Human3.6M")
        self.batch, self.form, self.strict, self.drop, self.token = batch, form, strict, drop, token
        self.statistics = Statistics()
        self.pace = min(PACE, batch.chunk_size / batch.fps / HASTE)
        self.clients, self.come = set(), asyncio.Event()  # set when there may be work
        self.clock = 0.0  # seconds of server time used by the waiting client that has used least
        self._writers, self._said = {}, {}

    async def standard(self, stopped) -> None:
        """Serve standard input and output, to the end or until the future `stopped` is done."""
        await self._while(Client(self, stopped, _from_standard_input, _to_standard_output).run())

    async def listen(self, address, stopped, ready=print) -> None:
        """Serve whoever connects to `address`, HOST:PORT or the path of a Unix socket, until the future `stopped` is done.

        `ready` is called with the address once it may be connected to; of port 0 with the port that was found.
        """
        await self._while(self._listen(address, stopped, ready))

    async def _listen(self, address, stopped, ready):
        asyncio.get_running_loop().set_exception_handler(self._trouble)
        connected = partial(self._connected, stopped)
        host, colon, port = address.rpartition(":")
        if colon and port.isdigit():
            server, own = await asyncio.start_server(connected, host.strip("[]") or None, int(port)), contextlib.nullcontext()
            host, port, *_ = server.sockets[0].getsockname()
            if self.token is None and not ipaddress.ip_address(host).is_loopback:
                self.say("open", f"whoever reaches {host}:{port} can use this server; --token asks for a word")
            address = f"{host}:{port}"
        else:
            await _nobody_listens(in_folder(address))
            server, own = await asyncio.start_unix_server(connected, address), _removed(address)
        with own:
            ready(address)
            await stopped
            server.close()
        for patience in (PATIENCE, None):
            if writers := dict(self._writers):
                _, slow = await asyncio.wait(writers, timeout=patience)
                for client in slow:
                    writers[client].transport.abort()

    async def _connected(self, stopped, reader, writer):
        async def write(data):
            writer.write(data)
            await writer.drain()

        if len(self._writers) >= min(CLIENTS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE):
            writer.write(b'{"error": "there are too many clients already", "line": 0}\n')
            writer.close()
            self.say("clients", f"{len(self._writers)} clients, more are turned away")
            return
        task = asyncio.current_task()
        self._writers[task] = writer
        try:
            await Client(self, stopped, partial(reader.read, BLOCK), write, remote=True).run()
        except asyncio.CancelledError:  # it takes nothing
            writer.transport.abort()
        finally:
            del self._writers[task]
            writer.close()

    def _trouble(self, loop, context):
        error = context.get("exception")
        if isinstance(error, OSError):  # no file descriptors left, or a client that has gone
            self.say(error.errno, message(error))
        else:
            loop.default_exception_handler(context)

    def say(self, what, text):
        """Print a message to stderr, each kind at most once every `SILENCE` seconds."""
        now = time.monotonic()
        if now - self._said.get(what, -math.inf) > SILENCE:
            self._said[what] = now
            print(f"lifter stream: {text}", file=sys.stderr, flush=True)

    # ---- rounds ------------------------------------------------------------------------------------------------------

    async def _while(self, serving):
        """Answer clients while a coroutine serves them."""
        self._worker = ThreadPoolExecutor(1)
        serving, tidying = asyncio.create_task(serving), asyncio.create_task(tidy(self))
        serving.add_done_callback(lambda _: self.come.set())
        try:
            while self.clients or not serving.done():
                for client in [client for client in self.clients if client.gone]:
                    self.batch.reset(client.keys(client.streams))
                    self.clients.remove(client)
                if ready := [client for client in self.clients if client.ready]:
                    self.clock, began = max(self.clock, min(client.used for client in ready)), time.perf_counter()
                    await self._round([client for client in ready if client.used <= self.clock + AHEAD])
                    busy = any(len(client.lines) >= SHARE or not client.remote for client in self.clients)
                    await asyncio.sleep(0 if busy else max(0, began + self.pace - time.perf_counter()))
                elif self.clients or not serving.done():
                    self.come.clear()
                    await self.come.wait()
            await serving
        finally:
            tidying.cancel()
            serving.cancel()
            self._worker.shutdown(wait=False)

    async def _round(self, clients):
        """Answer a part of what these clients sent, which is lifted together; each pays for the time that its part takes."""
        taken, payers, frames, lifted = [], [], {}, {}
        for client in clients:
            with _paid([client]):
                part = client.take()
            taken += part
            payers += [client] * len(part)
        with _paid(payers):
            converted = zip(payers, self.form.keypoints(taken)) if taken else ()
            for client, part in itertools.groupby(converted, key=itemgetter(0)):
                frames |= client.accept([keypoints for _, keypoints in part])
        if frames:
            together = TOGETHER if max(client.behind for client in clients) > BEHIND else None
            with _paid(payers):
                lifted = await self._beside(self.lift, frames, together)
        for client in clients:
            with _paid([client]):
                flushed = client.control and await self._beside(self._controlled, client)
                client.give(lifted, flushed)

    async def _beside(self, function, *arguments):
        """Call a function of the batch beside the loop, always in the same thread: torch has a pool of others for each."""
        call = partial(contextvars.copy_context().run, function, *arguments)
        return await asyncio.get_running_loop().run_in_executor(self._worker, call)

    def _controlled(self, client):
        kind, keys = client.control.kind, client.keys(client.control.names)
        try:
            flushed = {} if kind == "reset" else self.batch.flush(keys)
        except Exception as error:  # of the model
            flushed = error
        if kind != "flush":
            self.batch.reset(keys)
        return flushed

    def lift(self, frames, together=None) -> dict:
        """Lift {stream: keypoints} in one call; return {stream: Lifted or an error}."""
        try:
            return self.batch.push(frames, together)
        except (
            Exception
        ) as error:  # an error in the frames of some clients, who are told without affecting others; or in the model
            if not (wrong := self.batch.wrong(frames)):
                return dict.fromkeys(frames, error)
            return wrong | self.lift({name: keypoints for name, keypoints in frames.items() if name not in wrong}, together)


@contextlib.contextmanager
def _paid(clients):
    """Charge the time spent here to the clients in equal parts."""
    began = time.perf_counter()
    yield
    for client in clients:
        client.used += (time.perf_counter() - began) / len(clients)


@contextlib.contextmanager
def _removed(path):
    """Remove a socket's file at the end, if it still belongs to that socket."""
    own = os.stat(path)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), own):
                os.unlink(path)


async def _nobody_listens(path):
    """OSError if a server listens at a Unix socket: asyncio would take its place."""
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return
    writer.close()
    raise OSError(f"{path}: a server listens there already")


async def _from_standard_input():
    """Read the bytes that are there, in a thread that nobody waits for: an event loop cannot wait for files, and a thread
    cannot be stopped."""
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
