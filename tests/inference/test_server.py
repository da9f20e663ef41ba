"""`lifter stream --listen`: a server of many clients."""

import asyncio
import contextlib
import json
import threading
import time

import numpy as np
import pytest
import torch

import lifter
import lifter.data
from lifter.inference import client
from lifter.inference.client import SHARE, STREAMS
from lifter.inference.server import Form, Server

from .lines import expected, frames, pushed, text, tiny


@contextlib.asynccontextmanager
async def serving(tmp_path, **options):
    """A server on a Unix socket, and how to connect to it."""
    stopped, ready = asyncio.get_running_loop().create_future(), asyncio.get_running_loop().create_future()
    server = Server(lifter.StreamBatch(tiny(), 4), Form(2), **options)
    task = asyncio.create_task(server.listen(str(tmp_path / "s"), stopped, ready.set_result))
    await ready
    yield server, lambda: asyncio.open_unix_connection(tmp_path / "s")
    stopped.set_result(None)
    await asyncio.wait_for(task, 20)
    assert not server.batch._members and not server.batch._states


async def answers(reader, count):
    return [json.loads(await asyncio.wait_for(reader.readline(), 20)) for _ in range(count)]


def test_clients_come_and_go(tmp_path):
    x, lines = frames(10)
    wanted = np.array(expected(pushed(lifter.Stream(tiny(), 4), x)), dtype=float)

    async def session():
        async with serving(tmp_path) as (server, connect):
            first, to_first = await connect()
            second, to_second = await connect()
            third, to_third = await connect()
            to_first.write(text(lines[:6]))
            to_third.write(text(lines[:5]) + b'{"keypoints": [[0.1, 0.')
            got = await answers(first, 4)
            await answers(third, 4)
            to_third.transport.abort()  # in the middle of a line
            to_second.write(text([line | {"id": "s"} for line in lines]))
            to_second.write_eof()
            assert [line["frame"] for line in await answers(second, 10)] == list(range(10))
            assert await second.read() == b""
            to_first.write(text([*lines[6:], "{}\n"]))
            got += await answers(first, 4)
            assert (await answers(first, 1))[0]["line"] == 11
        got += await answers(first, 2)  # the server ended: what waited
        assert await first.read() == b"" and server.statistics.errors in (1, 2)  # half a line is one where it was seen
        np.testing.assert_allclose(np.array([line["pose"] for line in got], dtype=float), wanted, atol=2e-5)

    asyncio.run(session())


def test_streams_that_are_ready_go_together(tmp_path, monkeypatch):
    calls = []
    push = lifter.StreamBatch.push
    monkeypatch.setattr(lifter.StreamBatch, "push", lambda self, x, *more: calls.append(list(x)) or push(self, x, *more))

    async def session():
        async with serving(tmp_path) as (server, _):
            bad = torch.zeros(3, 2)
            names, given = ("a", "b", "c"), (torch.zeros(4, 17, 2), bad, torch.ones(4, 17, 2))
            got = server.lift(dict(zip(names, given)))  # as clients' frames that are there at once
            assert calls[0] == ["a", "b", "c"] and len(got["a"].poses) == len(got["c"].poses) == 4
            assert "expected (17, 2)" in str(got["b"])  # and nobody else is harmed
            server.batch.reset()

    asyncio.run(session())


def test_who_does_not_read_is_not_read_from(tmp_path, monkeypatch):
    monkeypatch.setattr(lifter.inference.server, "PATIENCE", 0.2)

    async def session():
        line = text(frames(1 + 6)[1][:1])
        async with serving(tmp_path, strict=True) as (server, connect):
            _, to_slow = await connect()
            to_slow.write(line * 4000)  # 3 MB, of which poses would be 4 MB
            reader, writer = await connect()
            for _ in range(3):
                writer.write(line * 4)
                assert len(await answers(reader, 4)) == 4
            for _ in range(200):
                before = server.statistics.frames
                await asyncio.sleep(0.1)
                if server.statistics.frames == before:
                    break
            assert server.statistics.frames < 2000
            writer.write(b"oops\n" + line * 4)
            assert "error" in (await answers(reader, 1))[0] and await reader.read() == b""  # strict: heard no more

    asyncio.run(session())


def test_a_flood_of_streams_starves_nobody(tmp_path, monkeypatch):
    """A client has so many streams, and a share of each round; all of them are given back."""
    rounds, threads, push = [], set(), lifter.StreamBatch.push

    def counted(self, frames, together):
        rounds.append([client for client, _ in frames])
        threads.add(threading.get_ident())
        return push(self, frames, together)

    monkeypatch.setattr(lifter.StreamBatch, "push", counted)
    line = frames(1)[1][0]

    async def session():
        async with serving(tmp_path) as (server, connect):
            flood, to_flood = await connect()
            to_flood.write(text(line | {"id": i} for i in range(1000)))
            reader, writer = await connect()
            for _ in range(5):
                writer.write(text([line] * 4))
                assert len(await answers(reader, 4)) == 4
            told = await answers(flood, 1000 - STREAMS)
            assert all(f"{STREAMS} streams already" in line["error"] for line in told)
            assert max(each.used for each in server.clients) > client.FINE * len(told)  # a fine for each
            assert (
                sorted(len(each.streams) for each in server.clients) == [1, STREAMS]
                and len(server.batch._members) == STREAMS + 1
            )
            monkeypatch.setattr(client, "ALL_STREAMS", STREAMS + 1)
            writer.write(text([line | {"id": "one more"}]))
            assert "streams of all clients already" in (await answers(reader, 1))[0]["error"]
            to_flood.close()
            while len(server.clients) > 1:
                await asyncio.sleep(0.01)
            assert len(server.batch._members) == 1

    asyncio.run(session())
    assert max(each.count(one) for each in rounds for one in each) <= SHARE
    assert len(threads) == 1 and threading.get_ident() not in threads  # beside the loop


def test_who_asks_for_little_waits_for_little(tmp_path, monkeypatch):
    """However much a neighbour sends, and whatever it is: it pays for what is refused, too, and that costs little."""
    waited, converted, rounds = [], [], 0
    round_of, add, take, convert = Server._round, client.Client._add, client.Client.take, Form.keypoints

    async def counted(self, clients):
        nonlocal rounds
        rounds += 1
        await round_of(self, clients)

    def added(self, lines):
        self.since = rounds
        add(self, lines)

    def taken(self):
        quiet, before = self.lines and "quiet" in str(self.lines[0]), len(self.lines)
        frames = take(self)
        waited.extend([rounds - self.since] * (before - len(self.lines) if quiet else 0))
        return frames

    @contextlib.contextmanager
    def paid(clients):  # the same for every part
        yield
        for one in clients:
            one.used += 1 / len(clients)

    monkeypatch.setattr(Server, "_round", counted)
    monkeypatch.setattr(client.Client, "_add", added)
    monkeypatch.setattr(client.Client, "take", taken)
    monkeypatch.setattr(Form, "keypoints", lambda self, frames: converted.extend(frames) or convert(self, frames))
    monkeypatch.setattr(lifter.inference.server, "_paid", paid)
    monkeypatch.setattr(client, "FINE", 0)
    line = frames(1)[1][0]

    async def session():
        async with serving(tmp_path) as (server, connect):
            flood, to_flood = await connect()
            for i in range(STREAMS):
                to_flood.write(text([line | {"id": i}]))
            to_flood.write(text([line | {"id": "one more"}]) + b"oops\n" + b"\n" * 100)
            await answers(flood, 2)
            refused = text([line | {"id": "one more"}]) * 400 + b"{}\n" * 400 + b"\n" * 4000
            before = len(converted)
            to_flood.write(refused * 5)
            reader, writer = await connect()
            for _ in range(10):
                writer.write(text([line | {"id": "quiet"}]) * 4)
                assert len(await answers(reader, 4)) == 4
            (noisy,) = (each for each in server.clients if len(each.streams) == STREAMS)
            assert noisy.lines and len(noisy.lines) < 2 * client.BACKLOG / client.LINE  # it is not read from meanwhile
            assert len(converted) - before == 40  # of what is refused nothing
            to_flood.transport.abort()

    asyncio.run(session())
    assert len(waited) == 40 and max(waited) <= 8  # rounds, of four lines: after each it is the neighbour's turn


def test_idle_streams_and_clients_are_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "IDLE", 0.2)

    async def session():
        async with serving(tmp_path) as (server, connect):
            reader, writer = await connect()
            writer.write(text(line | {"id": 7} for line in frames(2)[1]))
            while not server.clients:
                await asyncio.sleep(0.01)
            (one,) = server.clients
            one.stale = ["left meanwhile"]
            assert [line["frame"] for line in await answers(reader, 2)] == [0, 1]  # what waited
            assert "nothing came" in (await answers(reader, 1))[0]["error"] and await reader.read() == b""
            while server.clients:
                await asyncio.sleep(0.01)
            assert not server.batch._members

    asyncio.run(asyncio.wait_for(session(), 20))


def test_who_takes_nothing_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "IDLE", 0.2)

    async def session():
        async with serving(tmp_path) as (server, connect):
            _, writer = await connect()
            writer.write(text(frames(1)[1]) * 3000)
            while not server.clients:
                await asyncio.sleep(0.01)
            while server.clients:
                await asyncio.sleep(0.01)
            assert not server.batch._members

    asyncio.run(asyncio.wait_for(session(), 20))


def test_the_socket_goes_with_the_server(tmp_path):
    """Unless another one is there."""

    async def session(replace):
        async with serving(tmp_path):
            if replace:
                (tmp_path / "s").rename(tmp_path / "old")
                (tmp_path / "s").touch()
        return (tmp_path / "s").exists()

    assert [asyncio.run(session(replace)) for replace in (False, True)] == [False, True]


STRANGE_IDS = ("true", "1e999", "-0.0", "1e400000", "9" * 5000, '"\\ud800"', "[]", "{}")
STRANGE_KEYPOINTS = ("{}", '""', "true", "[[]]", "[[[1, 2]]]", "[[1e999, 1]]", "[[1, 2], [null]]")
STRANGE = [
    *(f'{{"keypoints": null, "id": {value}}}' for value in STRANGE_IDS),
    *(f'{{"keypoints": {value}}}' for value in STRANGE_KEYPOINTS),
    *(f'{{"{kind}": true, "id": 1}}' for kind in ("flush", "reset")),
    *(f'{{"leave": {value}}}' for value in ("null", "1", "1.0", "true", '"x"', "[1]")),
    '{"keypoints": null, "time": {"a": [1, null, "x"]}}',
    '{"keypoints": null, "keypoints": [[0, 0]]}',
    '{"id": 1}',
    '{"error": "x"}',
    "\ufeff{}",
    "null",
    "\r",
    "\0",
]


def test_strangers_harm_nobody(tmp_path):
    """Odd lines, any bytes, half lines, and clients that vanish at any moment: others are served, and all is given back."""
    rng, x = np.random.default_rng(0), frames(40)[1]
    whole = [line.encode("utf-8", "surrogatepass") for line in STRANGE] + [json.dumps(line).encode() for line in x[:5]]

    async def stranger(connect):
        reader, writer = await connect()
        reading = asyncio.create_task(reader.read())
        reading.add_done_callback(lambda task: task.cancelled() or task.exception())  # that of who has gone
        for _ in range(rng.integers(1, 9)):
            line = bytearray(whole[rng.integers(len(whole))])
            for _ in range(rng.integers(0, 3)):
                at = int(rng.integers(len(line) + 1))
                line[at : at + int(rng.integers(3))] = rng.bytes(int(rng.integers(3)))
            writer.write(bytes(line[: None if rng.random() < 0.8 else len(line) // 2]) + b"\n" * int(rng.integers(3)))
            await asyncio.sleep(0.002 * int(rng.integers(3)))
        if rng.random() < 0.5:
            writer.transport.abort()
        else:
            writer.write_eof()
            await asyncio.wait_for(reading, 20)
        reading.cancel()
        writer.close()

    async def session():
        async with serving(tmp_path) as (server, connect):
            wrong = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
            reader, writer = await connect()
            parts = {"id", "frame", "pose", "latency_ms", "compute_ms"}
            for line in x[:10]:
                await asyncio.gather(*(stranger(connect) for _ in range(12)))
                writer.write(text([line] * 4))
                assert all(answer.keys() == parts for answer in await answers(reader, 4))
            while len(server.clients) > 1:
                await asyncio.sleep(0.01)
            assert len(server.batch._members) == 1 and not wrong

    asyncio.run(session())


@pytest.mark.parametrize("drop", [False, True])
def test_late_answers_are_told(tmp_path, monkeypatch, drop, capfd):
    """And frames that are late are lifted in larger chunks, unless they are dropped."""
    monkeypatch.setattr(client, "LATE", 0.05)
    monkeypatch.setattr(client, "SHARE", 4)
    monkeypatch.setattr(lifter.inference.server, "BEHIND", 0.05)
    together, push = [], lifter.StreamBatch.push

    def slow(self, frames, most):
        together.append(most)
        time.sleep(sum(0.02 * len(part) for part in frames.values()))
        return push(self, frames, most)

    monkeypatch.setattr(lifter.StreamBatch, "push", slow)

    async def session():
        async with serving(tmp_path, drop=drop) as (server, connect):
            reader, writer = await connect()
            while not server.clients:
                await asyncio.sleep(0.01)
            (one,) = server.clients
            one.warned -= 1.1  # a client is warned once a second
            writer.write(text([*(frames(1)[1] * 20), {"flush": True}, {"leave": None}, {"leave": None}]))
            out = []
            while not out or "error" not in out[-1]:
                out += await answers(reader, 1)
            poses = [line for line in out if "pose" in line]
            (warning,) = (line for line in out if "warning" in line)
            assert warning["late_ms"] > 50 and ("dropped" in warning) == drop
            assert len(poses) + server.statistics.dropped == 20 and (server.statistics.dropped > 0) == drop
            assert (max(line["latency_ms"] for line in poses) > 350) == (not drop)  # from when the line came

    asyncio.run(session())
    assert capfd.readouterr().err.count("overloaded") == 1
    assert (lifter.inference.server.TOGETHER in together) != drop


def test_token_and_live_sockets(tmp_path):
    async def session():
        async with serving(tmp_path, token="open sesame") as (server, connect):
            for word in ("{}", '{"token": 3}', '{"token": "\u00e9"}', json.dumps(frames(1)[1][0]), "[" * 5000):
                reader, writer = await connect()
                writer.write(f"{word}\n".encode())
                assert "token" in (await answers(reader, 1))[0]["error"] and await reader.read() == b""
            reader, writer = await connect()
            writer.write(text([{"token": "open sesame"}, *frames(4)[1]]))
            assert len(await answers(reader, 4)) == 4
            with pytest.raises(OSError, match="a server listens there already"):
                other = Server(server.batch, server.form)
                await other.listen(str(tmp_path / "s"), asyncio.get_running_loop().create_future())
            await connect()  # it still does

    asyncio.run(session())


def test_too_many_clients_and_no_descriptors(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(lifter.inference.server, "CLIENTS", 2)

    async def session():
        async with serving(tmp_path) as (server, connect):
            others = [await connect() for _ in range(2)]
            for _ in range(3):
                reader, _ = await connect()
                assert "too many clients" in (await answers(reader, 1))[0]["error"] and await reader.read() == b""
            for _ in range(100):
                loop = asyncio.get_running_loop()
                loop.call_exception_handler({"message": "accept", "exception": OSError(24, "Too many open files")})
            assert len(server.clients) == len(others)

    asyncio.run(session())
    err = capfd.readouterr().err
    assert err.count("more are turned away") == err.count("Too many open files") == 1 and "Traceback" not in err
