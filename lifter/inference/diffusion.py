"""Lifting by diffusion: DDIM sampling of pose hypotheses, and their aggregation to one pose.

Sources: D3DP (ICCV 2023, arXiv 2303.11579); DDIM (arXiv 2010.02502); the cosine schedule (arXiv 2102.09672).
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lifter.geometry import beside, check_poses, mirror, project, recover_root
from lifter.skeleton import H36M, Skeleton

CLAMP = 1.1  # poses, clean or noisy, are clamped to this many times the scale


def cosine_schedule(timesteps: int = 1000) -> tuple[Tensor, Tensor]:
    """Return the cosine schedule (betas, alphas_cumprod), each (timesteps,) float64: the variance added by each step, and the
    remaining variance of the signal. Offset 0.008, betas at most 0.999."""
    t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    signal = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = (1 - signal[1:] / signal[:-1]).clamp(0, 0.999)
    return betas, (1 - betas).cumprod(0)


def diffuse(poses: Tensor, time: Tensor, noise: Tensor, timesteps: int = 1000, scale: float = 1.0) -> Tensor:
    """Add noise to clean poses (B, T, J, 3), as a denoiser sees them at step `time` in training.

    Args:
        time: (B,) int64, 0 to timesteps - 1. noise: (B, T, J, 3) standard normal.
        timesteps, scale: attributes of the denoiser.
    """
    if noise.shape != poses.shape or time.shape != poses.shape[:1]:
        raise ValueError(
            f"diffuse: time and noise have shapes {tuple(time.shape)} and {tuple(noise.shape)}, expected "
            f"{tuple(poses.shape[:1])} and {tuple(poses.shape)} as poses"
        )
    if not poses.is_floating_point() or time.dtype != torch.int64:
        raise TypeError(
            f"diffuse: poses and time have dtypes {poses.dtype} and {time.dtype}, expected a floating-point one and int64"
        )
    if time.numel() and not 0 <= time.min() <= time.max() < timesteps:
        got = f"time goes from {time.min()} to {time.max()}"
        raise ValueError(f"diffuse: {got}, expected 0 to timesteps - 1 = {timesteps - 1}")
    signal = beside(cosine_schedule(timesteps)[1].to(poses.device)[time], poses.dim())
    left, added = signal.sqrt().to(poses.dtype), (1 - signal).sqrt().to(poses.dtype)  # 1 - signal would be 0 in half precision
    bound = CLAMP * scale
    return (left * scale * poses + added * noise).clamp(-bound, bound) / scale


@torch.no_grad()
def sample(
    denoiser: Any,
    keypoints: Tensor,
    hypotheses: int = 20,
    steps: int = 10,
    *,
    flip: Skeleton | None = H36M,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    batch_hypotheses: int | None = None,
    every_step: bool = False,
    **choices,
) -> Tensor:
    """Sample pose hypotheses by DDIM with eta = 1.

    All hypotheses and their mirror images are denoised in one call per step. Everything that depends only on the keypoints is
    computed once.

    Args:
        denoiser: in evaluation mode; `lifter.models.D3DP` or `HTP`, or any module with their attributes `timesteps` and
            `scale` and their methods `embed(keypoints)` and `denoise(embedded, poses, time, **choices)`.
        keypoints: (B, T, J, C), in the dtype in which the denoiser is called; the arithmetic between steps is at least
            float32.
        hypotheses, steps: H and K. Each clip costs K calls with 2 H clips, or H clips without `flip`.
        flip: in every step, average with the mirrored prediction of the mirrored input, using this skeleton. None: do not.
        noise: (K, B, H, T, J, 3) standard normal: the initial poses, then the noise added after each step except the last.
            With the same noise all backends and devices give the same poses up to rounding. None: drawn from `generator`.
        generator: torch.Generator. Default: torch's CPU generator. Noise is drawn on the generator's device, so a CPU
            generator gives the same noise for every device.
        batch_hypotheses: number of hypotheses denoised at once, which bounds the memory. None: all.
        every_step: return the prediction of every step.
        choices: further arguments of `denoise`, such as HTP's `n`, `k` and `kept`.

    Returns:
        The last step's prediction of the clean poses, (B, H, T, J, 3), or those of all steps, (B, K, H, T, J, 3). The root
        joint is near 0 but not exactly 0.

    Raises:
        ValueError for wrong shapes and values, TypeError for wrong dtypes; both name the argument.
    """
    if denoiser.training:
        raise ValueError("sample: denoiser is in training mode, expected denoiser.eval()")
    batch_hypotheses = hypotheses if batch_hypotheses is None else batch_hypotheses
    _check_number("hypotheses", hypotheses)
    _check_number("steps", steps, denoiser.timesteps)
    _check_number("batch_hypotheses", batch_hypotheses)
    if flip is not None and keypoints.shape[2:3] != (flip.num_joints,):
        shape = tuple(keypoints.shape)
        raise ValueError(f"sample: keypoints have shape {shape}, expected {flip.num_joints} joints as flip={flip.name}")
    embedded = denoiser.embed(keypoints if flip is None else torch.cat((keypoints, mirror(keypoints, flip))))

    B, T, J, _ = keypoints.shape
    shape = (B, hypotheses, T, J, 3)
    dtype = torch.promote_types(keypoints.dtype, torch.float32)
    if noise is None:
        device = "cpu" if generator is None else generator.device
        draws = (torch.randn(shape, generator=generator, device=device, dtype=torch.float32) for _ in range(steps))
    elif noise.shape == (steps, *shape):
        draws = iter(noise)
    else:
        raise ValueError(f"sample: noise has shape {tuple(noise.shape)}, expected {(steps, *shape)}")
    draw = lambda: next(draws).to(keypoints.device, dtype)

    def predict(poses, time):
        """Predict the clean poses, scaled and clamped, from noisy ones."""
        time = torch.full((1,), time, device=keypoints.device)  # no copy from the host, so that it can be part of a CUDA graph
        clean = []
        for part in poses.clamp(-bound, bound).div(denoiser.scale).split(batch_hypotheses, 1):
            part = part if flip is None else torch.cat((part, mirror(part, flip)))
            out = denoiser.denoise(embedded, part.to(keypoints.dtype), time, **choices).to(dtype)
            clean.append(out if flip is None else (out[:B] + mirror(out[B:], flip)) / 2)
        return torch.cat(clean, 1).mul(denoiser.scale).clamp(-bound, bound)

    bound = CLAMP * denoiser.scale
    signal = cosine_schedule(denoiser.timesteps)[1].tolist()
    times = torch.linspace(-1, denoiser.timesteps - 1, steps + 1).int().tolist()[::-1]
    poses, predictions = draw(), []
    for time, next_time in zip(times[:-1], times[1:], strict=True):
        clean = predict(poses, time)
        if every_step:
            predictions.append(clean.to(keypoints.dtype))
        if next_time < 0:
            break
        now, then = signal[time], signal[next_time]
        error = (poses - now**0.5 * clean) / (1 - now) ** 0.5  # the noise in the poses before clamping
        variance = (1 - now / then) * (1 - then) / (1 - now)
        poses = then**0.5 * clean + max(0.0, 1 - then - variance) ** 0.5 * error + variance**0.5 * draw()
    return torch.stack(predictions, 1) if every_step else clean.to(keypoints.dtype)


def _check_number(name, number, most=None):
    if not isinstance(number, int) or number < 1 or (most is not None and number > most):
        expected = "a positive integer" if most is None else f"1 to timesteps={most}"
        raise ValueError(f"sample: {name} is {number!r}, expected {expected}")


class Sampler(torch.nn.Module):
    """Denoiser wrapped as an ordinary model, (B, T, J, C) -> (B, T, J, 3): the mean of the hypotheses, with the same noise for
    every clip. `options`: arguments of `sample` except `noise` and `generator`. Default: one hypothesis and one step."""

    def __init__(self, denoiser: Any, **options):
        super().__init__()
        self.denoiser = denoiser
        self.options: dict[str, Any] = {"hypotheses": 1, "steps": 1} | options
        self.num_frames, self.in_channels = denoiser.num_frames, denoiser.in_channels
        self.centred = getattr(denoiser, "centred", False)
        self.train(denoiser.training)

    def forward(self, keypoints: Tensor) -> Tensor:
        B, T, J, _ = keypoints.shape
        shape = (self.options["steps"], 1, self.options["hypotheses"], T, J, 3)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).expand(-1, B, -1, -1, -1, -1)
        return aggregate_mean(sample(self.denoiser, keypoints, noise=noise, **self.options))


def sample_clips(denoiser: Any, clips: Iterable, seed: int = 0, **options) -> Iterator[Tensor]:
    """Sample one clip after another: yield (H, T, J, 3), or (K, H, T, J, 3) with `every_step`.

    Results are yielded as soon as they are ready, and a progress bar can wrap the generator
    (`rich.progress.track(sample_clips(denoiser, clips), total=len(clips))`). Clip i uses the noise of `seed + i`;
    `sample_clips(denoiser, clips[done:], seed + done)` resumes an interrupted run.

    Args:
        clips: iterable of (T, J, C). options: arguments of `sample` except `noise` and `generator`.
    """
    for i, keypoints in enumerate(clips):
        generator = torch.Generator().manual_seed(seed + i)
        yield sample(denoiser, keypoints[None], generator=generator, **options)[0]


# ---- one pose of many: (B, ..., H, T, J, 3) -> (B, ..., T, J, 3), the dots being nothing or steps -----------------------


def aggregate_mean(poses: Tensor) -> Tensor:
    """P-Agg: average the hypotheses."""
    return poses.mean(-4)


def oracle_pose(poses: Tensor, target: Tensor) -> Tensor:
    """P-Best, an oracle that uses the true poses: select the hypothesis with the lowest mean error over all given clips, as
    the official evaluation does for each batch. Pass single clips to get the best of each.

    `target`: (B, T, J, 3).
    """
    errors = _errors(poses, target).mean((0, -2, -1))  # (..., H)
    best = errors.argmin(-1)[None, ..., None, None, None].expand(poses.shape[0], *errors.shape[:-1], 1, *poses.shape[-3:-1])
    return _take(poses, best)


def oracle_joint(poses: Tensor, target: Tensor) -> Tensor:
    """J-Best, an oracle that uses the true poses: select the hypothesis with the lowest error for every joint of every frame.

    `target`: (B, T, J, 3).
    """
    return _take(poses, _errors(poses, target).argmin(-3, keepdim=True))


class Aggregated(NamedTuple):
    """Result of `aggregate_reprojection`."""

    poses: torch.Tensor  # (B, ..., T, J, 3)
    selected: torch.Tensor  # (B, ..., T, J) int64, the hypothesis of each joint
    root: torch.Tensor  # position of the root in camera space, (B, T, 3) as given, or (B, ..., T, 3)
    root_source: str  # "given" or "least squares"


def aggregate_reprojection(poses: Tensor, keypoints: Tensor, camera: Tensor, root: Tensor | None = None) -> Aggregated:
    """J-Agg, D3DP's joint-wise reprojection (JPMA): for every joint of every frame, select the hypothesis whose projection is
    nearest to the keypoint; the first one wins ties.

    Args:
        poses: (B, ..., H, T, J, 3) in metres, relative to the root, which is at 0 as in the official evaluation.
        keypoints: (B, T, J, 2), normalised by the image width like the camera.
        camera: (9,) or (B, 9), see `project`.
        root: (B, T, 3) position of the root in camera space. The official code uses the true one, which is unknown in
            practice. None: estimated by `recover_root` from the mean of the hypotheses. `Aggregated.root_source` tells which
            was used.
    """
    check_poses("aggregate_reprojection", poses, keypoints)
    exact = poses.to(torch.promote_types(poses.dtype, torch.float32))
    keypoints = keypoints.to(exact)
    source = "least squares" if root is None else "given"
    if root is None:
        root = recover_root(aggregate_mean(exact), keypoints, camera)
        place = root.unsqueeze(-3)
    elif root.shape == (poses.shape[0], *poses.shape[-3:-2], 3):
        place = beside(root, poses.dim() - 1)
    else:
        expected = (poses.shape[0], poses.shape[-3], 3)
        raise ValueError(f"aggregate_reprojection: root has shape {tuple(root.shape)}, expected {expected}")
    projected = project(exact + place.unsqueeze(-2), camera)
    selected = _errors(projected, keypoints).argmin(-3, keepdim=True)
    return Aggregated(_take(poses, selected), selected.squeeze(-3), root, source)


def _errors(poses, target):
    """Return the distances (B, ..., H, T, J) of (B, ..., H, T, J, C) to (B, T, J, C)."""
    expected = (poses.shape[0], *poses.shape[-3:])
    if target.shape != expected:
        raise ValueError(f"target has shape {tuple(target.shape)}, expected {expected} as poses")
    return torch.linalg.vector_norm(poses - beside(target, poses.dim()), dim=-1)


def _take(poses, hypothesis):
    """Select the hypotheses with indices (B, ..., 1, T, J) from (B, ..., H, T, J, 3)."""
    return poses.gather(-4, hypothesis[..., None].expand(*hypothesis.shape, 3)).squeeze(-4)
