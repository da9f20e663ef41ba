"""Lines of JSON for the tests of `lifter stream`, and what is expected of them."""

import json

import numpy as np
import torch

import lifter
import lifter.data

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


def text(lines):
    lines = (line if isinstance(line, str) else f"{json.dumps(line)}\n" for line in lines)
    return "".join(lines).encode(errors="surrogateescape")


def pushed(stream, x):
    return [*(stream.push(None if pose.isnan().all() else pose) for pose in x), stream.flush()]


def expected(lifted):
    """Poses as they are written."""
    poses = np.concatenate([part.poses.double().numpy() for part in lifted]).round(5)
    return np.where(np.isfinite(poses), poses, None).tolist()
