"""D3DP's sampler with recorded noise, and how it makes one pose of many hypotheses."""

from functools import partial

import torch

from lifter.checkpoints import load_checkpoint
from lifter.inference import diffusion
from lifter.metrics.procrustes import procrustes
from lifter.registry import official_model

SAMPLER = "common.diffusionpose.D3DP"
AGGREGATION = "common.loss.mpjpe_diffusion_reproj + common.camera.project_to_2d"


def check_sampler(data, kwargs, dtype):
    """All steps' predictions, the mirrored keypoints and the schedule; pairs (got, expected)."""
    denoiser = official_model(SAMPLER).build(**kwargs).eval()
    load_checkpoint(denoiser, {key[len("param/") :]: value for key, value in data.items() if key.startswith("param/")})
    keypoints, mirrored, noise = (data[f"input/{i}"].to(dtype) for i in range(3))
    denoiser.to(device=keypoints.device, dtype=dtype)
    steps, _, hypotheses = noise.shape[:3]
    poses = diffusion.sample(denoiser, keypoints, hypotheses, steps, noise=noise, every_step=True)
    betas, alphas = (table.to(poses.device) for table in diffusion.cosine_schedule(denoiser.timesteps))
    return [
        (poses, data["output/0"]),
        (diffusion.mirror(keypoints), mirrored),
        (betas, data["param/betas"]),
        (alphas, data["param/alphas_cumprod"]),
    ]


def aggregation_checks(data):
    """[(unit, check)]; `check(dtype)` returns pairs (got, expected)."""
    names = sorted(name.removeprefix("output/") for name in data if name.startswith("output/"))
    return [(name, partial(_check_aggregation, data, name)) for name in names]


def _check_aggregation(data, name, dtype):
    """In float32 at least: which hypothesis is nearest is no matter of rounding."""
    dtype = torch.promote_types(dtype, torch.float32)
    poses, target, root, camera, keypoints = (
        data[f"input/{key}"].to(dtype) for key in ("pred", "target", "traj", "camera", "target_2d")
    )
    root = root[:, :, 0]
    expected = data[f"output/{name}"]
    if name == "reproj_2d":
        return [(diffusion.project(poses + root[:, None, None, :, None], camera), expected)]
    chosen = diffusion.aggregate_reprojection(poses, keypoints, camera, root)
    if name in ("selected", "aggregated"):
        return [(chosen.selected if name == "selected" else chosen.poses, expected)]

    metric = name.removesuffix("_p2")
    align = (lambda poses: poses) if metric == name else partial(_aligned, target=target)
    aggregated = {
        "P_Best": lambda: diffusion.oracle_pose(align(poses), target),
        "J_Best": lambda: diffusion.oracle_joint(align(poses), target),
        "P_Agg": lambda: align(diffusion.aggregate_mean(poses)),
        "J_Agg": lambda: diffusion._take(align(poses), chosen.selected.unsqueeze(-3)),
    }[metric]()
    return [((aggregated - target[:, None]).norm(dim=-1).mean((0, 2, 3)), expected)]


def _aligned(poses, target):
    """Poses (B, ..., T, J, 3), each aligned to its target (B, T, J, 3): protocol 2."""
    target = target.reshape(len(target), *[1] * (poses.dim() - 4), *target.shape[1:])
    return procrustes(poses, target.expand_as(poses))
