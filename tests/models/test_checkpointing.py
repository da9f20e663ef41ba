"""Tensors saved for the backward of every network may be computed again, or lie elsewhere until then."""

import pytest
import torch
from torch.autograd.graph import save_on_cpu
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.checkpoint import checkpoint

import lifter

SMALL = dict(dim=16, depth=1)
HEADS = SMALL | dict(num_heads=2)
PRUNED = HEADS | dict(depth=6)
NETWORKS = {
    "conv": SMALL, "d3dp": HEADS, "hgmamba_xs": SMALL, "hot_mixste": PRUNED, "htp": PRUNED, "htp_mixste": PRUNED,
    "htp_motionbert": PRUNED, "ktpformer": HEADS, "linear": {}, "masc_pose": HEADS | dict(num_frames=27), "mixste": HEADS,
    "motionagformer_xs": HEADS, "mixsynthformer_lifter": SMALL | dict(num_frames=101), "motionbert": HEADS,
    "posemamba_s": SMALL, "poseretnet": HEADS, "sasmamba": SMALL, "stcformer": HEADS, "tcpformer": HEADS,
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients(name):
    torch.manual_seed(0)
    model = lifter.create_model(name, **dict(num_frames=9) | NETWORKS[name]).train()
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
    frames = model.num_frames or 9
    leaves = [p for p in model.parameters() if p.requires_grad]
    inputs = [torch.randn(2, frames, model.num_joints, model.in_channels)]
    if name in ("d3dp", "htp"):
        inputs += [torch.randn(2, frames, model.num_joints, 3), torch.tensor([3, 70])]

    def gradients(call):
        torch.manual_seed(1)
        return torch.autograd.grad(call(*inputs).square().sum(), leaves, allow_unused=True)

    expected = gradients(model)
    torch.testing.assert_close(gradients(lambda *x: checkpoint(model, *x, use_reentrant=False)), expected)
    with save_on_cpu():
        torch.testing.assert_close(gradients(model), expected)
