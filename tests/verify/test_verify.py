"""`lifter verify` on the official files of the ops and models, on files it never saw, and on broken ones."""

import json

import numpy as np
import pytest
import torch

from lifter import kernels
from lifter.__main__ import main
from lifter.models import PoseMamba, SasMamba
from lifter.verify import verify


@pytest.fixture
def write(tmp_path):
    """write(name, arrays, **config) -> path of an npz in the golden format."""

    def write(name, arrays, **config):
        np.savez(tmp_path / name, config=np.array(json.dumps(config)), **arrays)
        return tmp_path / name

    return write


def recorded(model, inputs):
    """The arrays of a golden file, with the model's own output as the official one."""
    with kernels.backend("reference"), torch.no_grad():
        output = model.eval()(inputs)
    arrays = {f"param/{key}": value.numpy() for key, value in model.state_dict().items()}
    return arrays | {"input/0": inputs.numpy(), "output/0": output.numpy()}


def sasmamba(write, name="case.npz", **changes):
    torch.manual_seed(0)
    arrays = recorded(SasMamba(5, in_channels=3, dim=8, depth=1, kernel_size=5), torch.randn(1, 4, 17, 3))
    kwargs = {"num_frame": 5, "in_chans": 3, "embed_dim_ratio": 8, "depth": 1, "ssm_conv": 5}
    return write(name, arrays | changes, **{"class": "model.SasMamba.SasPoseMamba", "kwargs": kwargs})


@pytest.mark.parametrize("backend", ["reference", "cpu"])  # tests/kernels has these units in Triton's interpreter
def test_units(shared, backend):
    results = verify(shared / "golden" / "sasmamba_units.npz", backend)
    assert [result.unit for result in results] == [
        "dcn3", "dcn7", "merge/posemamba", "merge/sasmamba", "scan/posemamba", "scan/sasmamba_v3", "ssm",
    ]  # fmt: skip
    for result in results:
        assert result.passed, result


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
@pytest.mark.parametrize(
    "name",
    [
        "sasmamba", "sasmamba_conv7", "sasmamba_units", "posemamba", "mixste", "motionbert", "poseretnet_mpii3d",
        "poseretnet_shared", "poseretnet_units",
    ],
)  # fmt: skip
def test_dtypes(shared, name, dtype):
    for result in verify(shared / "golden" / f"{name}.npz", "reference", dtype):
        assert result.passed, result


@pytest.mark.parametrize("key", ["output/0", "output/chunk/1", "state/0", "state/1"])
def test_wrong_states_and_chunks_fail(write, shared, key):
    """The recorded states are in absolute frames; one frame off is found."""
    arrays = dict(np.load(shared / "golden" / "poseretnet_mpii3d.npz"))
    config = json.loads(str(arrays.pop("config")))
    arrays[key] = np.roll(arrays[key], 1, axis=1)
    (result,) = verify(write("rolled.npz", arrays, **config), "reference")
    assert not result.passed and not result.message, result


def test_noise_of_the_official_code_widens_the_bound(write):
    path = sasmamba(write)
    arrays = dict(np.load(path))
    config = json.loads(str(arrays.pop("config")))
    path = write("noisy.npz", arrays, **config, fp32_vs_fp64_max_abs=1e-3)
    for dtype in ("float32", "float64"):
        (result,) = verify(path, "reference", dtype)
        assert result.tolerance == 4e-3


def test_reduced_precision_leaves_out_one_in_a_hundred(write):
    arrays = dict(np.load(sasmamba(write)))
    config = json.loads(str(arrays.pop("config")))
    for outliers, passed in ((2, True), (3, False)):  # of 4 * 17 * 3
        arrays["output/0"].flat[:outliers] += 99
        (result,) = verify(write("outliers.npz", arrays, **config), "reference", "bfloat16")
        assert result.passed is passed, result


def test_unseen_files(write):
    (result,) = verify(sasmamba(write), "reference")
    assert result.passed and result.absolute == 0, result
    arrays = recorded(PoseMamba(6, dim=24, depth=2), torch.randn(2, 6, 17, 2))
    kwargs = {"num_frame": 6, "embed_dim_ratio": 24, "depth": 2, "drop_path_rate": 0.1}
    path = write("pose.npz", arrays, **{"class": "lib.model.PoseMamba.PoseMamba", "kwargs": kwargs})
    (result,) = verify(path, "reference")
    assert result.passed, result


def test_wrong_numbers_fail(write, shared):
    output = np.load(sasmamba(write))["output/0"]
    (result,) = verify(sasmamba(write, **{"output/0": output + 2e-4}), "reference")
    assert not result.passed and not result.message and 1.9e-4 < result.absolute < 2.1e-4
    (result,) = verify(sasmamba(write, **{"output/0": output + 2e-4}), "reference", tol=1e-3)
    assert result.passed
    (result,) = verify(sasmamba(write, **{"output/0": output * np.nan}), "reference")
    assert not result.passed
    (result,) = verify(sasmamba(write, **{"output/0": output[:, 1:]}), "reference")
    assert not result.passed and "shape" in result.message


@pytest.mark.parametrize(
    "file, key",
    [
        ("sasmamba_units", "dcn3/output"),
        ("sasmamba_units", "merge/posemamba"),
        ("sasmamba_units", "scan/posemamba"),
        ("sasmamba_units", "scan/sasmamba_v3"),
        ("sasmamba_units", "ssm/y"),
        ("poseretnet_units", "gamma/h36m_16"),
        ("poseretnet_units", "xpos64/down_off81"),
        ("poseretnet_units", "msr_causal_joint/recurrent"),
        ("poseretnet_units", "msr_uncausal/parallel"),
        ("poseretnet_units", "msr_uncausal_joint/chunkwise4"),
    ],
)
def test_wrong_units_fail(write, shared, file, key):
    arrays = dict(np.load(shared / "golden" / f"{file}.npz"))
    config = json.loads(str(arrays.pop("config")))
    arrays[key] = np.roll(arrays[key], 1, axis=-1)  # one joint or channel off
    failed = [result.unit for result in verify(write("units.npz", arrays, **config), "reference") if not result.passed]
    assert failed == [key if key.startswith(("merge", "scan")) else key.partition("/")[0]]


def test_what_cannot_be_checked_fails_with_a_message(write, tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "bare.npz", x=np.zeros(3))
    cases = {
        tmp_path / "nowhere.npz": "no file",
        tmp_path: "no file",
        tmp_path / "text.npz": "not a readable npz",
        tmp_path / "bare.npz": "no config",
        write("empty.npz", {}): "nothing to compare",
        write("lone.npz", {"scan/input": np.zeros((1, 2, 3, 17))}): "nothing to compare",
        write("class.npz", {}, **{"class": "some.Model"}): "no model of lifter stands for 'some.Model'",
        write("group.npz", {"mystery/x": np.zeros(3)}): "no check for these arrays",
        write("input.npz", {"ssm/u": np.zeros((1, 2, 3))}): "KeyError: delta",
        sasmamba(write, "extra.npz", **{"param/extra": np.zeros(3)}): "unexpected keys: extra",
        write("depth.npz", {}, **{"class": "model.SasMamba.SasPoseMamba", "kwargs": {"depth": 10**6}}): "more numbers than",
        write("kwargs.npz", {}, **{"class": "model.SasMamba.SasPoseMamba", "kwargs": {"heads": 8}}): "heads",
    }
    for path, message in cases.items():
        (result,) = verify(path)
        assert not result.passed and message in result.message, (path, result)


def test_command(write, tmp_path, capsys):
    """All files are gone through; the exit status tells whether all passed."""
    good = str(sasmamba(write))
    assert main(["verify", good, "--backend", "reference"]) == 0
    assert capsys.readouterr().out.startswith("PASS  case.npz  abs 0.00e+00  rel 0.00e+00  tol 1.0e-04")
    assert main(["verify", str(tmp_path / "nowhere.npz"), good, "--backend", "reference"]) == 1
    assert [line[:4] for line in capsys.readouterr().out.splitlines()] == ["FAIL", "PASS"]
    assert main(["verify", good, "--backend", "reference", "--tol", "-1"]) == 1
    with pytest.raises(SystemExit):
        main(["verify"])
    with pytest.raises(SystemExit):
        main(["verify", good, "--backend", "abacus"])
