"""Training: the errors fall, and an interrupted training goes on bit for bit."""

import io
import multiprocessing
import os
import signal
import socket
import time
import warnings
import zipfile
from dataclasses import replace

import pytest
import torch

from lifter import _torch_files, create_model, load_pretrained
from lifter.checkpoints import check_finite
from lifter.data import Dataset
from lifter.training import checkpoints, loop, train
from lifter.training.data import Clips

from .conftest import CPU, TINY

SMALL = {"dim": 16, "depth": 2, "num_heads": 2}
MODELS = {
    "sasmamba": {"dim": 16, "depth": 1},
    "poseretnet": SMALL,
    "htp": SMALL | {"depth": 3},
    "masc_pose": SMALL | {"depth": 3, "dim_rep": 16, "scales": [1, 3, 9], "layer_scale": 0.1},
    "mixsynthformer_lifter": {"dim": 16, "depth": 2, "interval": 2, "steps": 4},
    "videopose3d": {"channels": 32, "drop": 0.0},
}


def weights(folder):
    return checkpoints.newest(folder / "checkpoints", pytest.fail)


def assert_equal(one, other):
    """But for the time that it took."""
    assert one.keys() == other.keys()
    for key, value in one.items():
        if key == "seconds":
            continue
        if isinstance(value, dict):
            assert_equal(value, other[key])
        else:
            assert torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key], key


@pytest.mark.parametrize("name", MODELS)
def test_learns(name, gait, tmp_path):
    """A few clips are learnt, by every parameter."""
    data = gait.select("S1/a")
    recipe = replace(TINY, network=MODELS[name], stride=1, epochs=3, flip=False)
    start = train(name, replace(recipe, max_steps=1), data, data, tmp_path / "start", **CPU)
    end = train(name, recipe, data, data, tmp_path / "end", **CPU)
    assert end["P1"] < 0.6 * start["P1"], (start, end)
    before, pretrained = weights(tmp_path / "start")["model"], load_pretrained(tmp_path / "end" / "best.safetensors")
    learnt = {key: value for key, value in pretrained.model.named_parameters() if value.requires_grad}
    assert not [key for key, value in learnt.items() if torch.equal(value, before[key])]
    assert pretrained.about["model"] == name and pretrained.about["figures"] == end
    assert pretrained.about["recipe"]["network"] == MODELS[name] and pretrained.about["data"] == "gait"


class Killed(Exception):
    pass


@pytest.mark.parametrize("stop", [2, 3, 4, 5])
def test_resumes(stop, gait, tmp_path, monkeypatch, one_thread):
    """After a kill in the middle of an epoch, at its end, and before the first checkpoint after it: weights, averages, the
    optimizer's state and the best figures are those of a training in one go. With dropout and stochastic depth."""
    network = SMALL | {"drop": 0.2, "attn_drop": 0.1, "drop_path": 0.3}
    recipe = replace(TINY, network=network, ema=0.9, epochs=2, clip_gradient=1.0, warmup=2)
    run = lambda out, **options: train("mixste", recipe, gait, gait, out, save_every=2, **CPU, **options)
    whole = run(tmp_path / "whole")
    step = loop.Training._step

    def killed(self, clips):
        if self.step == stop:
            raise Killed
        return step(self, clips)

    monkeypatch.setattr(loop.Training, "_step", killed)
    with pytest.raises(Killed):
        run(tmp_path / "parts")
    monkeypatch.undo()
    assert weights(tmp_path / "parts")["step"] in (stop, stop - 1)  # no more than the interval is lost
    torch.randn(7)
    resumed = run(tmp_path / "parts", resume=True)
    assert resumed == whole
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert one["step"] == 6 and not torch.equal(one["average"]["head.1.weight"], one["model"]["head.1.weight"])
    assert_equal(one, other)


def test_denoisers_resume(gait, tmp_path, one_thread):
    """The noise follows from the step too."""
    recipe = replace(TINY, max_steps=3, epochs=5)
    train("d3dp", recipe, gait, None, tmp_path / "whole", **CPU)
    train("d3dp", replace(recipe, max_steps=1), gait, None, tmp_path / "parts", **CPU)
    train("d3dp", recipe, gait, None, tmp_path / "parts", resume=True, **CPU)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert_equal(one["model"], other["model"])


def test_sigkill(gait, tmp_path, one_thread):
    """A real one, at any moment: what is on disk is whole, and the training goes on from there."""
    recipe = replace(TINY, epochs=6)
    run = lambda out, **options: train("mixste", recipe, gait, None, out, **CPU, **options)
    child = multiprocessing.get_context("fork").Process(target=run, args=(tmp_path / "parts",), kwargs={"save_every": 1})
    child.start()
    deadline = time.monotonic() + 60
    while not checkpoints.found(tmp_path / "parts" / "checkpoints") and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode == -signal.SIGKILL and 1 <= weights(tmp_path / "parts")["step"] < 18
    run(tmp_path / "parts", resume=True)
    run(tmp_path / "whole")
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_damaged_checkpoints(gait, tmp_path, capsys):
    """Files that are cut short or have a flipped bit are passed over, with a message; if none is left there is an error."""
    run = lambda: train("linear", replace(TINY, network={}, epochs=1), gait, None, tmp_path, resume=True, save_every=2, **CPU)
    run()
    files = checkpoints.found(tmp_path / "checkpoints")
    assert [file.name for file in files] == ["step-000000002.ckpt", "step-000000003.ckpt"]
    contents = files[1].read_bytes()
    partly = tmp_path / "checkpoints" / ".0123456789abcdef.part"
    partly.write_bytes(contents[:99])  # never looked at, and goes with the next state
    place = contents.index(weights(tmp_path)["model"]["linear.bias"].numpy().tobytes())
    flipped = contents[:place] + bytes([contents[place] ^ 1]) + contents[place + 1 :]
    for damaged in (contents[:-100], b"", flipped):
        files[1].write_bytes(damaged)
        said = []
        assert checkpoints.newest(tmp_path / "checkpoints", said.append)["step"] == 2
        assert len(said) == 1 and "step-000000003.ckpt: damaged" in said[0]
    run()
    assert weights(tmp_path)["step"] == 3 and not partly.exists()
    for file in files:
        file.write_bytes(b"PK")
    capsys.readouterr()
    with pytest.raises(ValueError, match="all 2 checkpoints are damaged: remove them to start anew"):
        run()
    assert capsys.readouterr().out.count("damaged, not used") == 2
    assert [file.read_bytes() for file in files] == [b"PK", b"PK"]


def rewritten(contents, change):
    """The archive with other entries, as a program that packs it again would write it."""
    with zipfile.ZipFile(io.BytesIO(contents)) as old:
        entries = change([(name, old.read(name)) for name in old.namelist()])
    with zipfile.ZipFile(packed := io.BytesIO(), "w") as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, data in entries:
            new.writestr(name, data)
    return packed.getvalue()


def saved(value):
    torch.save(value, file := io.BytesIO())
    return file.getvalue()


def flipped(contents, place):
    data = bytearray(contents)
    data[place] ^= 4
    return bytes(data)


DAMAGES = {
    "empty": lambda data, state: b"",
    "a byte is left": lambda data, state: data[:1],
    "a half is left": lambda data, state: data[: len(data) // 2],
    "a byte is lost at the end": lambda data, state: data[:-1],
    "the digest is lost": lambda data, state: data[:-64],
    "a byte is lost in the middle": lambda data, state: data[:1000] + data[1001:],
    "a byte is put in": lambda data, state: data[:1000] + b"x" + data[1000:],
    "more at the end": lambda data, state: data + bytes(100),
    "a bit of the beginning": lambda data, state: flipped(data, 0),
    "a bit of the pickle": lambda data, state: flipped(data, data.index(b"optimizer")),
    "a bit of a weight": lambda data, state: flipped(data, data.index(state["model"]["linear.bias"].numpy().tobytes())),
    "a bit of the directory": lambda data, state: flipped(data, data.rindex(b"PK\1\2") + 38),
    "a bit of the digest": lambda data, state: flipped(data, -1),
    "zeros in the middle": lambda data, state: data[:2000] + bytes(512) + data[2512:],
    "two blocks in each other's place": lambda data, state: data[512:1024] + data[:512] + data[1024:],
    "an entry is lost": lambda data, state: rewritten(data, lambda entries: [e for e in entries if "data/0" not in e[0]]),
    "an entry is shorter": lambda data, state: rewritten(data, lambda entries: [(n, d[:-4]) for n, d in entries]),
    "an entry is there twice": lambda data, state: rewritten(data, lambda entries: entries + entries[-1:]),
    "no optimizer": lambda data, state: saved({key: value for key, value in state.items() if key != "optimizer"}),
    "no state": lambda data, state: saved(3),
    "a weight that is not finite": lambda data, state: saved(state | {"model": {"linear.bias": torch.tensor(torch.nan)}}),
    "a folder": None,
    "missing": None,
}


def test_resumes_after_any_damage(gait, tmp_path):
    """From the state before, with a message, to the end of a training that nothing happened to; never from a wrong one."""
    recipe = replace(TINY, network={}, epochs=1)
    run = lambda: train("linear", recipe, gait, None, tmp_path, resume=True, save_every=2, **CPU)
    run()
    folder = tmp_path / "checkpoints"
    (_, last), whole, refused = checkpoints.found(folder), weights(tmp_path), 0
    contents = last.read_bytes()
    assert len(DAMAGES) >= 20 and whole["step"] == 3
    for number, (name, damage) in enumerate(DAMAGES.items()):
        last.unlink()
        if damage is not None:
            last.write_bytes(damage(contents, whole))
            assert last.read_bytes() != contents
        elif name == "a folder":
            last.mkdir()
        said = []
        state = checkpoints.newest(folder, said.append)
        if state["step"] == 3:  # nothing of it was damaged but the digest
            assert_equal(state, whole)
        else:
            assert state["step"] == 2 and len(said) == (name != "missing"), name
            assert all("step-000000003.ckpt: damaged, not used" in line for line in said)
            refused += 1
        if last.is_dir():
            last.rmdir()
        if number % 6 == 0:
            run()
        else:
            last.write_bytes(contents)
        assert_equal(weights(tmp_path), whole)
    assert refused >= 20
    last.rename(folder / "step-000000009.ckpt")  # a name is no part of the state
    run()
    assert_equal(weights(tmp_path), whole)


@pytest.mark.parametrize("where, when", [(w, n) for n, w in enumerate(("model", "optimizer", "average") * 2)])
def test_nan_at_any_step(where, when, gait, tmp_path, monkeypatch):
    """Neither a checkpoint nor best.safetensors ever holds it."""
    step, recipe = loop.Training._step, replace(TINY, ema=0.9)

    def poisoned(self, clips):
        loss = step(self, clips)
        if self.step == when:
            weight = next(self.network.parameters())
            of = {"model": weight, "average": next(self.average.parameters())}
            of["optimizer"] = self.optimizer.state[weight]["exp_avg_sq"]
            of[where].data.view(-1)[3] = torch.nan
        return loss

    monkeypatch.setattr(loop.Training, "_step", poisoned)
    with pytest.raises(ValueError, match="not finite|loss is NaN"):
        train("mixste", recipe, gait, gait, tmp_path, save_every=2, **CPU)
    for path in checkpoints.found(tmp_path / "checkpoints"):
        check_finite(_torch_files.read(path, load=True), path)
        assert int(path.stem[-1]) <= when
    if (tmp_path / "best.safetensors").exists():
        check_finite(load_pretrained(tmp_path / "best.safetensors").model.state_dict(), "best")


@pytest.mark.parametrize("where", ["model", "optimizer"])
def test_nan_is_never_saved(where, gait, tmp_path, monkeypatch):
    """Not in a checkpoint and not in best.safetensors, and a checkpoint that holds it is not resumed from."""
    step = loop.Training._step

    def poisoned(self, clips):
        loss = step(self, clips)
        if self.step == 1:  # the second
            weight = next(self.network.parameters())
            (weight if where == "model" else self.optimizer.state[weight]["exp_avg_sq"]).data.view(-1)[3] = torch.nan
        return loss

    monkeypatch.setattr(loop.Training, "_step", poisoned)
    with pytest.raises(ValueError, match="after step 2, which is not saved: .* is not finite"):
        train("mixste", TINY, gait, gait, tmp_path, save_every=1, **CPU)
    assert weights(tmp_path)["step"] == 1 and not (tmp_path / "best.safetensors").exists()
    state = weights(tmp_path)
    state["model"]["head.1.bias"][0] = torch.inf
    torch.save(state, tmp_path / "checkpoints" / "step-000000002.ckpt")
    said = []
    assert checkpoints.newest(tmp_path / "checkpoints", said.append)["step"] == 1
    assert "step-000000002.ckpt: damaged, not used" in said[0] and "head.1.bias is not finite" in said[0]


def test_errors(gait, tmp_path):
    run = lambda recipe=TINY, **options: train("mixste", recipe, gait, None, tmp_path, **CPU, **options)
    run(replace(TINY, max_steps=1))
    with pytest.raises(FileExistsError, match="has the checkpoints of a training"):
        run()
    with pytest.raises(ValueError, match="trained with other seed, lr: these must not change"):
        run(replace(TINY, lr=1.0), resume=True, seed=1)
    with pytest.raises(ValueError, match="14 clips, expected at least one batch of 40"):
        run(replace(TINY, batch_size=40), resume=True)
    broken = Dataset("", "gait", {"a": lambda: replace(gait["S1/a"], poses=gait["S1/a"].poses * 1e-30)})
    nan = replace(TINY, network=SMALL, lr=1e30, stride=1, batch_size=2, epochs=1)
    with pytest.raises(ValueError, match="the loss is NaN at step"):
        train("mixste", nan, broken, None, tmp_path / "nan", **CPU)


def _as_torchrun(rank, port, *args):
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "1", "RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}",
    }  # fmt: skip
    train(*args, accelerator="cpu")


def test_two_processes(gait, tmp_path, one_thread):
    """Two processes as torchrun starts them share the batches, and come to what one comes to, but for rounding."""
    network = SMALL | {"drop_path": 0.0, "qkv_bias": False}  # the bias of keys has no gradient, which Adam would blow up
    recipe = replace(TINY, network=network, lr=1e-3, loss={"weighted_mpjpe": 1.0})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    both = [
        context.Process(target=_as_torchrun, args=(rank, port, "poseretnet", recipe, gait, gait, tmp_path / "two"))
        for rank in range(2)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    figures = train("poseretnet", recipe, gait, gait, tmp_path / "one", **CPU)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one["step"] == two["step"] == 6
    for key, value in one["model"].items():
        torch.testing.assert_close(two["model"][key], value, rtol=1e-3, atol=1e-4)
    assert two["best"] == pytest.approx(figures, rel=1e-3)
    assert load_pretrained(tmp_path / "two" / "best.safetensors").about["figures"] == two["best"]


def test_half_precision(gait, tmp_path):
    recipe = replace(TINY, network=MODELS["sasmamba"], max_steps=2)
    assert train("sasmamba", recipe, gait, gait, tmp_path, precision="bf16-mixed", **CPU)["P1"] > 0
    assert weights(tmp_path)["model"]["head.1.weight"].dtype == torch.float32


def test_linear(gait, tmp_path):
    """Fitted in closed form, it needs no steps."""
    recipe = replace(TINY, network={}, epochs=0)
    assert train("linear", recipe, gait, gait, tmp_path, **CPU)["P1"] < 100
    model = create_model("linear")
    clips = Clips(gait, recipe.num_frames)
    model.fit(clips[i, False] for i in range(len(clips)))
    assert torch.equal(load_pretrained(tmp_path / "best.safetensors").model.linear.weight, model.linear.weight)
