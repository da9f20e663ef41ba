"""`lifter stream`: lines of JSON in, lines of JSON out, on standard input and from many clients."""

import asyncio
import contextlib
import json
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

import lifter
import lifter.data
from lifter.__main__ import main
from lifter._notices import Notice
from lifter.data import normalise
from lifter.data.keypoints import seen, to_h36m
from lifter.inference import client
from lifter.inference.client import LONGEST, SHARE, STREAMS
from lifter.inference.server import Form, Server
from lifter.skeleton import H36M

SIZES = {"poseretnet": {"num_frames": 9, "chunk_size": 4}, "mixste": {"num_frames": 9}, "motionbert": {"num_frames": 6}}
SMALL = {"dim": 16, "depth": 1, "num_heads": 2}


def tiny(name="mixste"):
    torch.manual_seed(0)
    return lifter.create_model(name, **SIZES[name], **SMALL).eval()


def frames(count, channels=2, seed=1):
    """With missing coordinates and a dropped frame, and as lines."""
    x = torch.rand(count, 17, channels, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    if channels == 3:
        x[..., 2] = x[..., 2].abs() + 0.1
    x[2:3, 5, 1] = x[4:5, 3, 0] = x[6:7] = torch.nan
    known = [[[None if v != v else v for v in row] for row in pose.tolist()] for pose in x]
    return x, [{"keypoints": None if i == 6 else pose} for i, pose in enumerate(known)]


def read(form, lines):
    """The keypoints of a line."""
    return form.keypoints(form.request(text(lines))["keypoints"])


def text(lines):
    lines = (line if isinstance(line, str) else f"{json.dumps(line)}\n" for line in lines)
    return "".join(lines).encode(errors="surrogateescape")


@pytest.fixture
def stream(tmp_path, monkeypatch):
    """Runs the command on lines: (exit status, lines that it wrote)."""

    def run(model, lines, *options):
        name = type(model).__name__.lower()
        lifter.save_pretrained(tmp_path / "m.safetensors", model, {"model": name, "kwargs": SIZES[name] | SMALL})
        (tmp_path / "in").write_bytes(text(lines))
        with (tmp_path / "in").open() as given, (tmp_path / "out").open("w") as out, monkeypatch.context() as patch:
            patch.setattr("sys.stdin", given)
            patch.setattr("sys.stdout", out)
            status = main(["stream", "--checkpoint", str(tmp_path / "m.safetensors"), *options])
        return status, [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]

    return run


def pushed(stream, x):
    return [*(stream.push(None if pose.isnan().all() else pose) for pose in x), stream.flush()]


def expected(lifted):
    """Poses as they are written."""
    poses = np.concatenate([part.poses.double().numpy() for part in lifted]).round(5)
    return np.where(np.isfinite(poses), poses, None).tolist()


@pytest.mark.parametrize("name, missing", [("poseretnet", "hold"), ("mixste", "mask"), ("motionbert", "hold")])
def test_standard_input_is_a_stream(stream, tmp_path, capfd, name, missing):
    model = tiny(name)
    x, lines = frames(21, model.in_channels)
    for i, line in enumerate(lines):
        line["time"] = f"t{i}"
    options = ("--chunk-size", "4", "--missing", missing, "--fps", "25", "--summary", str(tmp_path / "summary.json"))
    status, out = stream(model, lines, *options)
    ours = lifter.Stream(lifter.freeze(model), 4, fps=25, missing=missing)
    lifted = pushed(ours, x)
    assert status == 0 and [line["pose"] for line in out] == expected(lifted)  # bit for bit
    assert any(None in row for line in out for row in line["pose"]) == (missing == "mask")
    assert [line["frame"] for line in out] == list(range(21))
    assert [line["time"] for line in out] == [f"t{i}" for i in range(21)]
    assert all(line["latency_ms"] > line["compute_ms"] > 0 and line["id"] is None for line in out)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["frames"] == 21 and summary["errors"] == 0
    assert summary["latency_ms"]["max"] == max(line["latency_ms"] for line in out)
    assert "21 frames in" in capfd.readouterr().err


def test_people_and_commands(stream):
    model = tiny()
    x, lines = frames(12)
    mixed = []
    for line in lines:
        mixed += [line | {"id": "a"}, line | {"id": 2}]
    mixed[10:10] = [{"flush": True}, {"leave": 2}]  # after five frames of each
    mixed[16:16] = [{"reset": True}]  # after two more
    status, out = stream(model, mixed, "--chunk-size", "4", "--look-ahead", "2")
    assert status == 0
    seen = {name: [line["frame"] for line in out if line["id"] == name] for name in ("a", 2)}
    assert seen == {"a": [*range(5), *range(5)], 2: [*range(5), *range(5)]}  # the frames before a reset never get a pose
    wanted = [lifted for part in (x[:5], x[7:]) for lifted in pushed(lifter.Stream(model, 4, look_ahead=2), part)]
    poses = np.array([line["pose"] for line in out if line["id"] == "a"], dtype=float)
    np.testing.assert_allclose(poses, np.array(expected(wanted), dtype=float), atol=2e-5)


def test_bad_lines(stream, capfd):
    good = frames(2)[1]
    keypoints = ("3", "[[1, 2]]", "[[1], 2]", '[["a", "b"]]', f"[[1{'0' * 400}, 2]]", 'null, "id": []', 'null, "flush": true')
    bad = ["{", "[1]", '"text"', "[" * 5000, "\udcff", '{"flush": 1}', '{"leave": "nobody"}']
    deep = f"{'[' * 900}{']' * 900}"
    bad += [
        f'{{"keypoints": null, {more}}}'
        for more in ('"id": NaN', '"time": Infinity', f'"time": {deep}', f'"id": "{"x" * 5000}"')
    ]
    bad = [f"{line}\n" for line in (*bad, *(f'{{"keypoints": {value}}}' for value in keypoints))]
    bad.append({"keypoints": [[900.0, 500.0]] * 17})
    status, out = stream(tiny(), [good[0], "\n", *bad, good[1]], "--chunk-size", "2")
    assert status == 0
    assert [line["line"] for line in out if "error" in line] == list(range(3, 3 + len(bad)))
    assert [line["frame"] for line in out if "pose" in line] == [0, 1]
    assert "pixels" in out[-3]["error"]
    assert f"{len(bad)} bad lines" in capfd.readouterr().err

    status, out = stream(tiny(), [good[0], "oops\n", good[1]], "--strict")
    assert status == 1 and [*out[0]] == ["error", "line"] and [line["frame"] for line in out[1:]] == [0]
    status, out = stream(tiny(), [good[0], "1" * 2 * LONGEST + "\n", good[1]])
    assert status == 0 and "longer than" in out[0]["error"] and len(out) == 2
    status, out = stream(tiny(), [good[0], {"keypoints": None}, good[1]], "--missing", "error")
    assert status == 0 and "has no keypoint" in out[0]["error"] and [line.get("frame") for line in out] == [None, 0, 1]


@pytest.mark.parametrize("layout, joints, variant", [("coco", 17, "mhformer"), ("body25", 25, None), ("halpe", 26, None)])
def test_detectors_joints_in_pixels(layout, joints, variant):
    pixels = torch.rand(joints, 3).numpy() * (500, 500, 1)
    pixels[3] = 0  # not found: COCO's left ear, BODY_25's right elbow
    form = Form(3, (640, 480), layout, variant)
    got = read(form, [{"keypoints": pixels.tolist(), "id": "x"}])
    wanted = torch.from_numpy(normalise(to_h36m(seen(pixels[None]), layout, variant)[0], (640, 480))).float()
    torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)
    lost = {"coco": ["head"], "body25": ["right_elbow"], "halpe": []}[layout]  # MHFormer's head is made of the ears, too
    assert [H36M.joints[joint] for joint in got.isnan().any(1).nonzero()] == lost
    without = read(Form(2, (640, 480), layout, variant), [{"keypoints": pixels[:, :2].tolist()}])
    assert without.shape == (17, 2)
    added = read(Form(3), [{"keypoints": got[:, :2].nan_to_num().tolist()}])
    assert (added[:, 2] == 1).all()
    with pytest.raises(ValueError, match=f"expected .T, {joints}, 2 or 3. of {layout}"):
        read(form, [{"keypoints": [[100, 200]] * 5}])


def test_pixels_are_read_as_in_files(tmp_path):
    """The joints by their number, (0, 0) and (-1, -1) as missing, shares of the image as such, which is said once."""
    pixels = np.random.default_rng(0).uniform(10, 400, (17, 3)) * (1, 1, 1e-3)
    pixels[9], pixels[10] = (0, 0, 0.3), (-1, -1, -1)
    np.save(tmp_path / "x.npy", pixels[None])
    (sequence,) = lifter.data.open_data(tmp_path / "x.npy", size=(640, 480))
    form = Form(3, (640, 480))
    got = read(form, [{"keypoints": pixels.tolist()}])
    wanted = np.where(sequence.keypoints[0, :, 2:] > 0, sequence.keypoints[0], np.nan)
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    assert [H36M.joints[joint] for joint in got.isnan().any(1).nonzero()] == ["left_wrist", "right_wrist"]
    line = {"keypoints": (pixels / (640, 480, 1)).tolist()}
    with pytest.warns(Notice, match="read as shares of the image") as said:
        shares = [read(form, [line]) for _ in range(2)]
    assert len(said) == 1
    np.testing.assert_allclose(shares[1][:13], wanted[:13], atol=1e-5)
    centred = read(Form(2), [{"keypoints": [[0, 0]] * 17}])
    assert (centred == 0).all()  # normalised keypoints may be there


def test_joints_and_axes_are_doubted_as_in_files(tmp_path):
    """17 joints in the order of Human3.6M, and a body upside down: what is read and said is the same, and said once."""
    standing = np.array(
        [(300, y) for y in (200, 200, 245, 290, 200, 245, 290, 165, 130, 110, 95, 130, 160, 190, 130, 160, 190)]
    )
    standing = standing + np.array([0, -12, -13, -14, 12, 13, 14, 0, 0, 0, 0, 20, 28, 30, -20, -28, -30])[:, None] * (1, 0)
    for pixels, words in ((standing, ["in the order of h36m"]), (480 - standing, ["in the order of h36m", "upside down"])):
        np.save(tmp_path / "x.npy", pixels[None].astype(float))
        form = Form(2, (640, 480))
        with pytest.warns(Notice) as files:
            (sequence,) = lifter.data.open_data(tmp_path / "x.npy", size=(640, 480))
        with pytest.warns(Notice) as stream:
            got = [read(form, [{"keypoints": pixels.tolist()}]) for _ in range(2)]
        np.testing.assert_allclose(got, [sequence.keypoints[0]] * 2, atol=1e-6)
        for said in (files, stream):
            assert len(said) == len(words) and all(word in str(each.message) for word, each in zip(words, said))


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
    monkeypatch.setattr(lifter.StreamBatch, "push", lambda self, x: calls.append(list(x)) or push(self, x))

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


def test_interrupt_gives_what_waits(tmp_path, monkeypatch, stream, capfd):
    stream(tiny(), [])
    read, write = os.pipe()
    os.write(write, text(frames(7)[1]))
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with open(read) as given, (tmp_path / "out").open("w") as out, monkeypatch.context() as patch:
        patch.setattr("sys.stdin", given)
        patch.setattr("sys.stdout", out)
        assert main(["stream", "--checkpoint", str(tmp_path / "m.safetensors")]) == 0
        os.close(write)
    assert len((tmp_path / "out").read_text().splitlines()) == 7
    assert "7 frames in" in capfd.readouterr().err


def test_a_flood_of_streams_starves_nobody(tmp_path, monkeypatch):
    """A client has so many streams, and a share of each round; all of them are given back."""
    rounds, threads, push = [], set(), lifter.StreamBatch.push

    def counted(self, frames):
        rounds.append([client for client, _ in frames])
        threads.add(threading.get_ident())
        return push(self, frames)

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
        if self.lines and "quiet" in str(self.lines[0]):
            waited.append(rounds - self.since)
        return take(self)

    @contextlib.contextmanager
    def paid(clients):  # the same for every part
        yield
        for one in clients:
            one.used += 1 / len(clients)

    monkeypatch.setattr(Server, "_round", counted)
    monkeypatch.setattr(client.Client, "_add", added)
    monkeypatch.setattr(client.Client, "take", taken)
    monkeypatch.setattr(Form, "keypoints", lambda self, values: converted.append(values) or convert(self, values))
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
            assert [line["frame"] for line in await answers(reader, 2)] == [0, 1]  # what waited
            assert "nothing came" in (await answers(reader, 1))[0]["error"] and await reader.read() == b""
            assert not server.batch._members and not server.clients

    asyncio.run(session())


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
    monkeypatch.setattr(client, "LATE", 0.05)
    push = lifter.StreamBatch.push
    monkeypatch.setattr(lifter.StreamBatch, "push", lambda self, x: time.sleep(0.02) or push(self, x))

    async def session():
        async with serving(tmp_path, drop=drop) as (server, connect):
            reader, writer = await connect()
            await asyncio.sleep(1.1)  # a client is warned once a second
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


@pytest.mark.parametrize("options, message", [
    (["--checkpoint", "none.safetensors"], "none.safetensors"),
    (["--model", "mixste"], "expected a --checkpoint with it"),
    (["--checkpoint", "{m}", "--num-frames", "3"], "name it with --model"),
    (["--checkpoint", "{m}", "--chunk-size", "99"], "chunk_size is 99"),
    (["--checkpoint", "{m}", "--missing", "no"], "missing is 'no'"),
    (["--checkpoint", "{m}", "--listen", "256.0.0.1:1"], ""),
    (["--checkpoint", "{m}", "--listen", "nowhere/s"], "nowhere/s: there is no folder nowhere"),
    (["--checkpoint", "{m}", "--summary", "nowhere/x"], "nowhere/x: there is no folder nowhere"),
])  # fmt: skip
def test_options_that_are_wrong(stream, tmp_path, capfd, options, message):
    stream(tiny(), [])
    capfd.readouterr()
    assert main(["stream", *(option.format(m=tmp_path / "m.safetensors") for option in options)]) == 1
    error = capfd.readouterr().err
    assert error.startswith("lifter stream: ") and message in error and error.count("\n") == 1
