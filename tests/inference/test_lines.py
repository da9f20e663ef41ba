"""`lifter stream` on standard input and output: lines of JSON in, lines of JSON out."""

import json
import os
import signal
import threading
import warnings

import numpy as np
import pytest
import torch

import lifter
import lifter.data
from lifter.__main__ import main
from lifter._notices import Notice
from lifter.data import normalise
from lifter.data.keypoints import seen, to_h36m
from lifter.inference.client import LONGEST
from lifter.inference.server import Form, Server
from lifter.skeleton import H36M

from .lines import SIZES, SMALL, expected, frames, pushed, text, tiny


def read(form, lines):
    """The keypoints of a line."""
    (keypoints,) = form.keypoints([form.request(text(lines))["keypoints"]])
    if isinstance(keypoints, Exception):
        raise keypoints
    return keypoints


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


@pytest.mark.parametrize("name, chunk", [("mixste", 3), ("poseretnet", 4)])
def test_nobody_waits_for_a_whole_window(stream, monkeypatch, name, chunk):
    """A model that sees more frames lifts fewer together if nothing is said; a model with a state has a chunk of its own."""
    made, init = [], Server.__init__
    monkeypatch.setattr(Server, "__init__", lambda self, batch, *options: made.append(batch) or init(self, batch, *options))
    monkeypatch.setattr("lifter.commands.stream.LIVE", 3)
    status, out = stream(model := tiny(name), frames(7, model.in_channels)[1])
    assert (status, len(out), made[0].chunk_size) == (0, 7, chunk)


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

    for line in ("oops\n", '{"keypoints": 3}\n'):
        status, out = stream(tiny(), [good[0], line, good[1]], "--strict")
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


@pytest.mark.parametrize("size, scale", [(None, 1), ((640, 480), 400)])
def test_frames_together_are_each_alone(size, scale):
    """Also beside frames with null, in other units, of other joints, and such as are no keypoints."""
    plain = (np.random.default_rng(0).uniform(0.05, 0.9, (4, 17, 3)) * (scale, scale, 1)).tolist()
    holes, low = [[None, *plain[0][0][1:]], *plain[0][1:]], np.multiply(plain[3], (1 / 640, 1 / 480, 1)).tolist()
    percent = np.multiply(plain[2], (1, 1, 100)).tolist()
    together, alone, made = Form(3, size), Form(3, size), []
    convert = together._converted
    together._converted = lambda frames: made.append(len(frames)) or convert(frames)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        mixed = [plain[0], holes, low, "x", percent, plain[1][:5], plain[2]]
        for frames in (plain[:1], plain, [plain[0], None, plain[1]], mixed):
            for got, wanted in zip(together.keypoints(frames), [alone.keypoints([one])[0] for one in frames], strict=True):
                if isinstance(wanted, Exception):
                    assert str(got) == str(wanted)
                else:
                    torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)
    assert made[:3] == [1, 4, 2]


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
