"""Checks of every model of one frame of a window."""

import torch

from lifter.inference.windows import lift_sequence


@torch.no_grad()
def assert_clips_are_windows(model, extra=3):
    """A clip gives the poses that its windows give one by one; so does a sequence, with its edges repeated."""
    for name, p in model.named_parameters():  # what starts as 0 would hide the order of frames
        if "pos" in name or "token" in name:
            torch.nn.init.normal_(p, std=0.2)
    frames, joints = model.num_frames, model.num_joints
    x = torch.randn(2, frames + extra, joints, model.in_channels, generator=torch.Generator().manual_seed(1))
    alone = torch.cat([model(x[:, i : i + frames]) for i in range(extra + 1)], 1)
    assert alone.shape == (2, extra + 1, joints, 3) and (alone[:, 1:] - alone[:, :-1]).abs().max() > 1e-3
    close = lambda actual, expected: torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    close(model(x), alone)
    before, after = model.margins
    assert before + 1 + after == frames
    poses = lift_sequence(model, x[0], batch=2, flip=None)
    close(poses[before : before + extra + 1], alone[0])
    first = torch.cat((x[:1, :1].expand(-1, before, -1, -1), x[:1, : after + 1]), 1)
    close(poses[:1], model(first)[0])
    assert model(x[:0]).shape == (0, extra + 1, joints, 3)
