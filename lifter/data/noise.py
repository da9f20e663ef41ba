"""Exact keypoints as a 2D detector finds them: the noise model of ../shared/data, seeded."""

import zlib

import numpy as np

from lifter.skeleton import H36M

SIGMA = 4.0  # pixels, times the joint's factor
_FACTORS = {
    "ankle": 1.5, "wrist": 1.6, "elbow": 1.2, "knee": 1.0, "hip": 0.9, "shoulder": 0.9, "head": 0.9, "spine": 0.8,
    "neck": 0.8, "pelvis": 0.7, "thorax": 0.7,
}  # fmt: skip
FACTORS = np.array([_FACTORS[joint.rpartition("_")[2]] for joint in H36M.joints])
SLOW_SHARE, SLOW_CORRELATION = 0.7, 0.9  # of the variance an AR(1) process with that lag-1 correlation
BURST_RATE, BURST_FRAMES = 0.002, 5.0  # starts per joint and frame, times the factor; mean length
SWAP_SHARE, SHIFT = 0.25, (25.0, 90.0)  # bursts that jump to the mirrored joint; pixels that the others move


def detect(pixels, size, seed):
    """Detections of exact keypoints.

    Args:
        pixels: (T, 17, 2). size: (width, height). seed: a number, or (number, text): a stream for each text.

    Returns:
        (T, 17, 3) x, y, confidence; and (T, 17) bool, where there is an outlier.
    """
    if pixels.ndim != 3 or pixels.shape[1:] != (H36M.num_joints, 2):
        raise ValueError(f"detect: pixels have shape {pixels.shape}, expected (T, 17, 2)")
    seed = (seed[0], zlib.crc32(seed[1].encode())) if isinstance(seed, tuple) else seed
    rng = np.random.default_rng(seed)
    T, J, _ = pixels.shape
    sigma = SIGMA * FACTORS[:, None]
    steps = rng.standard_normal((T, J, 2))
    slow = np.empty_like(steps)
    for t in range(T):
        slow[t] = SLOW_CORRELATION * slow[t - 1] + (1 - SLOW_CORRELATION**2) ** 0.5 * steps[t] if t else steps[t]
    white = rng.standard_normal((T, J, 2))
    found = pixels + sigma * (SLOW_SHARE**0.5 * slow + (1 - SLOW_SHARE) ** 0.5 * white)

    outlier = np.zeros((T, J), bool)
    for start, joint in np.argwhere(rng.random((T, J)) < BURST_RATE * FACTORS):
        stop = start + rng.geometric(1 / BURST_FRAMES)
        mirrored, angle, shift = H36M.flip[joint], rng.uniform(0, 2 * np.pi), rng.uniform(*SHIFT)
        if rng.random() < SWAP_SHARE and mirrored != joint:
            found[start:stop, joint] += pixels[start:stop, mirrored] - pixels[start:stop, joint]
        else:
            found[start:stop, joint] += shift * np.array([np.cos(angle), np.sin(angle)])
        outlier[start:stop, joint] = True

    error = np.linalg.norm(found - pixels, axis=-1)
    confidence = 0.25 + 0.68 * np.exp(-((error / 20) ** 2)) + 0.06 * rng.standard_normal((T, J))
    outside = ((found < 0) | (found >= size)).any(-1)
    confidence = np.clip(np.where(outside, 0.3, 1.0) * confidence, 0.02, 1)
    return np.concatenate((found, confidence[..., None]), -1), outlier
