"""Models as files of torch.export and ONNX that give the same numbers."""

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import lifter
from lifter.__main__ import main
from lifter.inference.export import export
from lifter.kernels import density_peak_prune, topk_temporal_mask, unpack_mask
from lifter.kernels.selective_scan import SELECTIVE_SCAN
from lifter.layers import DeformConv, SkeletonScan

SMALL = {
    "mixste": {"num_frames": 6, "num_heads": 2},
    "d3dp": {"num_frames": 6, "num_heads": 2},
    "poseretnet": {"num_frames": 3, "num_heads": 2},
}


def tiny(name):
    torch.manual_seed(0)
    model = lifter.create_model(name, **{"dim": 16, "depth": 1} | SMALL[name]).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2) if parameter.dim() > 1 else None  # many start at 0
    return model


@pytest.mark.parametrize("name", ["d3dp", "poseretnet"])
def test_with_kernels(tmp_path, name):
    model, path = tiny(name), tmp_path / "model.pt2"
    exported = export(path, model)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert exported.difference < 1e-5 and exported.inputs["keypoints"] == ("batch", "frames", 17, 2)
    x = (torch.randn(5, 2, 17, 2),)
    if name == "d3dp":
        assert exported.inputs["time"] == ("batch",)
        x += torch.randn(5, 2, 17, 3), torch.linspace(0, 999, 5)
    run = torch.export.load(path).module()
    with torch.no_grad():
        torch.testing.assert_close(run(*x), model(*x), rtol=1e-4, atol=1e-5)


class Parts(nn.Module):
    """Parts for which ONNX has no operator: a recurrence, sorting with ties, bits, distances, sampling at places."""

    num_joints, in_channels, num_frames = 17, 3, 5

    def __init__(self):
        super().__init__()
        self.scan, self.conv = SkeletonScan(3, directions=("T-b",)), DeformConv(3)

    def forward(self, keypoints):
        mask = unpack_mask(topk_temporal_mask(keypoints, 2), keypoints.shape[1]).float().mean(1)
        _, scores = density_peak_prune(keypoints.mean(2), 2, mask=mask)
        moved = self.conv(keypoints.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.scan(moved) + scores[..., None, None]


def test_standard_operators(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "parts.onnx"
    motion = torch.randint(-8, 9, (50, 17, 3)).float()  # similarities are exact, so that rounding chooses no frame
    exported = export(path, Parts().eval(), frames=5, motion=motion)
    assert exported.inputs == {"keypoints": ("batch", 5, 17, 3)} and exported.difference < 1e-5
    graph = onnx.load(path)
    assert {node.domain for node in graph.graph.node} == {""} and not graph.functions
    assert "Scan" in {node.op_type for node in graph.graph.node}


class Asks(nn.Module):
    """A module whose branch depends on the values."""

    num_joints, in_channels, num_frames = 17, 2, 3

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 3))

    def forward(self, keypoints):
        return keypoints @ self.weight if keypoints.sum() > 0 else keypoints @ -self.weight


class Solves(Asks):
    """An operator that ONNX does not have."""

    def forward(self, keypoints):
        return keypoints @ self.weight + torch.linalg.eigvalsh(keypoints.mT @ keypoints).sum()


class Pretends(Asks):
    """Other numbers in the file."""

    def forward(self, keypoints):
        return keypoints @ self.weight * (1.001 if torch.compiler.is_exporting() else 1)


class Wavers(Asks):
    """Other numbers with other kernels, as where rounding decides."""

    def forward(self, keypoints):
        factor = 1.001 if SELECTIVE_SCAN.namespace(keypoints) is None else 1
        return keypoints @ self.weight * factor


class Insists(Asks):
    """Calls of one length alone, which torch.export does not see."""

    def forward(self, keypoints):
        if not torch.compiler.is_exporting() and keypoints.shape[1] != self.num_frames:
            raise ValueError("keypoints have another number of frames than 3")
        return keypoints @ self.weight


def test_the_length_that_a_model_insists_on(tmp_path):
    """A file of any length is tried first, and is no longer there."""
    exported = export(tmp_path / "model.pt2", Insists().eval())
    assert exported.inputs == {"keypoints": ("batch", 3, 17, 2)} and exported.difference < 1e-6
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]


@pytest.mark.parametrize("make, suffix, message", [
    (Asks, ".pt2", "Asks: torch.export cannot follow it: .*data-dependent"),
    (Solves, ".onnx", "Solves: no ONNX of it: .*linalg_eigh"),
    (Pretends, ".pt2", "Pretends: the exported file differs by 1.0e-03"),
])  # fmt: skip
def test_refused(tmp_path, make, suffix, message):
    with pytest.raises(RuntimeError, match=message):
        export(tmp_path / f"model{suffix}", make().eval())
    assert not list(tmp_path.iterdir())


def test_a_model_that_wavers(tmp_path):
    exported = export(tmp_path / "model.onnx", Wavers().eval())
    assert abs(exported.difference - 1e-3) < 1e-5 and abs(exported.own - 1e-3) < 1e-5
    assert exported.inputs == {"keypoints": ("batch", "frames", 17, 2)}
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (pose3d,) = session.run(["pose3d"], {"keypoints": torch.ones(4, 7, 17, 2).numpy()})
    assert pose3d.shape == (4, 7, 17, 3) and abs(pose3d - 2.002).max() < 1e-5


def test_wrong_arguments(tmp_path):
    model = tiny("mixste")
    with pytest.raises(ValueError, match=r"path is .*model.pt, expected NAME.pt2 or NAME.onnx"):
        export(tmp_path / "model.pt", model)
    with pytest.raises(ValueError, match="batch is 0"):
        export(tmp_path / "model.pt2", model, batch=0)
    with pytest.raises(ValueError, match="in torch.bfloat16, expected torch.float32 for ONNX"):
        export(tmp_path / "model.onnx", tiny("mixste").bfloat16())
    with pytest.raises(ValueError, match="training mode"):
        export(tmp_path / "model.pt2", model.train())


def test_command(tmp_path, shared, capsys):
    checkpoint, out = tmp_path / "m.safetensors", tmp_path / "m.pt2"
    kwargs = {"dim": 16, "depth": 1} | SMALL["mixste"]
    lifter.save_pretrained(checkpoint, tiny("mixste"), {"model": "mixste", "kwargs": kwargs})
    motion = str(shared / "data/cmu_h36m17.npz")
    assert main(["export", str(checkpoint), "-o", str(out), "--batch", "1", "--frames", "6", "--input", motion]) == 0
    assert "keypoints (1, 6, 17, 2); largest difference" in capsys.readouterr().out
    with pytest.raises(Exception, match="size"):
        torch.export.load(out).module()(torch.randn(1, 5, 17, 2))
    assert main(["export", str(checkpoint), "-o", str(tmp_path / "m.zip")]) == 1
    assert capsys.readouterr().err.startswith("lifter export: export: path is ")
    assert main(["export", "none.pth", "-o", str(out)]) == 1
    assert "none.pth" in capsys.readouterr().err


def test_one_frame_of_a_window(tmp_path):
    """One window, of any batch."""
    model = lifter.create_model("poseformer", 9, dim=4, depth=1, num_heads=2).eval()
    assert export(tmp_path / "model.pt2", model).inputs == {"keypoints": ("batch", 9, 17, 2)}
