"""Run by test_peers.py, one process each: `python peers.py NAME FOLDER GOLDEN`, official code as it is cloned in FOLDER.

What a repository imports besides and hardly uses (timm, fvcore, ...) is stood in for where it is not installed. Kernels
come from `lifter.compat`.
"""

import copy
import importlib.util
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

import lifter
import lifter.compat
from benchmarks.official import StandIns


def posemamba():
    from lib.model.PoseMamba import PoseMamba

    return PoseMamba, "posemamba"


def sasmamba():
    from model.SasMamba import SasPoseMamba

    return SasPoseMamba, "sasmamba"


def mixste():
    from common.model_cross import MixSTE2

    return MixSTE2, "mixste"


def motionbert():
    from lib.model.DSTformer import DSTformer

    return DSTformer, "motionbert"


def motionagformer():
    from model.MotionAGFormer import MotionAGFormer

    return MotionAGFormer, "motionagformer"


GOLDEN = {f.__name__: f for f in (posemamba, sasmamba, mixste, motionbert, motionagformer)}


def from_golden(name, folder):
    """The official model with the weights of the golden file, its input and its output."""
    build, file = GOLDEN[name]()
    arrays = np.load(Path(folder) / f"{file}.npz")
    kwargs = json.loads(str(arrays["config"]))["kwargs"]
    model = build(**{key: nn.GELU if value == "GELU" else value for key, value in kwargs.items()})
    model.load_state_dict({key[6:]: torch.from_numpy(arrays[key]) for key in arrays if key.startswith("param/")})
    return model.eval(), torch.from_numpy(arrays["input/0"]), torch.from_numpy(arrays["output/0"])


def vmamba():
    """No golden file: its own scan in plain PyTorch says what is right."""
    import vmamba

    torch.manual_seed(0)
    options = dict(
        patch_size=4, in_chans=3, num_classes=7, depths=[1, 2], dims=16, ssm_d_state=2, ssm_ratio=2.0, mlp_ratio=2.0,
        norm_layer="ln2d", patchembed_version="v2", downsample_version="v3", forward_type="v05_noz", drop_path_rate=0.0,
    )  # fmt: skip
    model = vmamba.VSSM(**options).eval()
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if hasattr(module, "forward_core"):
            module.forward_core.keywords["selective_scan_backend"] = "torch"
    x = torch.randn(2, 3, 24, 40)
    return model, x, plain(x).detach(), plain


def outputs_and_gradients(model, x):
    x = x.clone().requires_grad_()
    out = model(x)
    model.zero_grad()
    out.square().sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"out": out.detach(), "input": x.grad, **grads}


def close(found, expected, tolerance, what):
    for name, value in expected.items():
        error = (found[name] - value).abs().max().item() / max(value.abs().max().item(), 1e-30)
        assert error <= tolerance, f"{what}: {name} is off by {error:.1e} of the largest"
    assert found.keys() == expected.keys(), what


def mamba(folder):
    """mamba-ssm's own Mamba module, its kernels ours, against its pure PyTorch reference of the scan."""
    spec = importlib.util.spec_from_file_location("mamba_simple", Path(folder, "mamba_ssm/modules/mamba_simple.py"))
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    torch.manual_seed(0)
    model = theirs.Mamba(16, d_state=4)
    x = torch.randn(2, 21, 16)
    fast = outputs_and_gradients(model, x)
    ours = lifter.layers.Mamba(16, d_state=4)
    ours.load_state_dict(model.state_dict())
    close(outputs_and_gradients(ours, x), fast, 1e-4, "lifter.layers.Mamba")

    theirs.causal_conv1d_fn = None  # their path without kernels
    model.use_fast_path = False
    close(fast, outputs_and_gradients(model, x), 1e-4, "mamba_inner_fn")
    report = lifter.optimize(model)
    assert report.swapped == ["Mamba"], str(report)
    close(outputs_and_gradients(model, x), fast, 1e-4, "optimize")
    conv_state, ssm_state = model.allocate_inference_cache(2, 21)
    steps = [model.step(x[:, i : i + 1], conv_state, ssm_state)[0] for i in range(21)]
    close({"out": torch.cat(steps, 1)}, {"out": fast["out"]}, 1e-4, "step")


def main(name, folder, golden):
    warnings.simplefilter("ignore")
    sys.meta_path.append(StandIns())
    report = lifter.compat.install()
    assert set(report.values()) == {"provided by lifter"}, report
    sys.path.insert(0, str(folder))
    if name == "mamba":
        return mamba(folder)
    if name == "vmamba":
        model, x, expected, plain = vmamba()
        close(outputs_and_gradients(model, x), outputs_and_gradients(plain, x), 1e-4, "compat")
    else:
        model, x, expected = from_golden(name, golden)
    before = outputs_and_gradients(model, x)
    close({"out": before["out"]}, {"out": expected}, 1e-4, "compat")
    keys = list(model.state_dict())
    report = lifter.optimize(model)
    assert report.swapped and not report.left, str(report)
    assert list(model.state_dict()) == keys
    close(outputs_and_gradients(model, x), before, 1e-4, "optimize")
    with torch.no_grad():
        close({"out": model(x)}, {"out": expected}, 1e-4, "optimize without gradients")
    print(f"{name}: {len(report.swapped)} modules swapped, outputs and {len(before) - 1} gradients equal")


if __name__ == "__main__":
    main(*sys.argv[1:])
