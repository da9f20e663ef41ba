"""Detectors: their errors, their holes, and their definitions of joints."""

from dataclasses import dataclass, field

import torch

from lifter.skeleton import H36M

from ..keypoints import COCO, to_h36m
from .checks import check_numbers, check_ranges
from .faces import FLIP, POINTS

# Errors of a joint, relative to those of the trunk.
_SURE = {"wrist": 1.6, "ankle": 1.6, "elbow": 1.3, "knee": 1.3, "hip": 1.1}
FACTORS = torch.tensor([_SURE.get(name.rpartition("_")[2], 1.0) for name in POINTS])
_COCO = [POINTS.index(name) for name in COCO]
_CROWN, _THORAX, _PELVIS = (POINTS.index(name) for name in ("crown", "thorax", "pelvis"))
HABITS = ("h36m", "mmpose", "mhformer", "motionbert")
_LIMBS = (("hip", "knee", "ankle"), ("shoulder", "elbow", "wrist"))
_SWAPS = torch.tensor(  # the whole body, the legs, the arms
    [[True] * len(POINTS), *([name.rpartition("_")[2] in limb for name in POINTS] for limb in _LIMBS)]
)


@dataclass(frozen=True)
class Detectors:
    """The errors of a detector, added to the exact places of joints. Lengths are parts of the body's size in the image.

    Args:
        noise: from the best clip to the worst. A part of it changes slowly.
        defined: metres by which a detector's joints lie elsewhere in the body than those of motion capture.
        hidden: share of the joints of which a clip has a spell that is worse, and in a part of these cases empty.
        swapped: share of clips with a spell in which left is right. thrown: the largest share of single joints elsewhere.
        sure: share of clips whose confidences are all 1.
        habits: weights of the conversions to Human3.6M's joints: `HABITS`; "h36m" is none.
    """

    noise: tuple[float, float] = (0.002, 0.028)
    defined: float = 0.02
    hidden: float = 0.12
    swapped: float = 0.08
    thrown: float = 0.02
    sure: float = 0.15
    habits: dict[str, float] = field(default_factory=lambda: {"h36m": 3, "mmpose": 3, "mhformer": 1.5, "motionbert": 2.5})

    def __post_init__(self):
        check_ranges("Detectors", 1e-9, noise=self.noise)
        check_numbers("Detectors", 0, defined=self.defined)
        check_numbers("Detectors", 0, 1, hidden=self.hidden, swapped=self.swapped, thrown=self.thrown, sure=self.sure)
        check_numbers("Detectors: habits", 0, **self.habits)
        if not set(self.habits) <= set(HABITS) or not sum(self.habits.values()):
            raise ValueError(f"Detectors: habits is {self.habits}, expected weights of {', '.join(HABITS)}, not all 0")

    def define(self, draw, world):
        """Points (B, T, 23, 3) in the world where a detector, one for each clip, has learnt that they are."""
        up = _unit(world[:, :, _THORAX] - world[:, :, _PELVIS])
        right = _unit(world[:, :, H36M.joints.index("right_hip")] - world[:, :, H36M.joints.index("left_hip")])
        axes = torch.stack((right, torch.linalg.cross(up, right), up), -2)
        offsets = self.defined * draw.share(1, 1) * draw.normal(len(POINTS), 3)
        offsets = (offsets + offsets[:, list(FLIP)] * torch.tensor([-1.0, 1.0, 1.0])) / 2**0.5
        return world + torch.einsum("bpi,btij->btpj", offsets, axes)

    def choose(self, draw):
        """(B,) a habit for each clip, its place in `habits`."""
        return draw.index(torch.tensor(list(self.habits.values()), dtype=torch.float64).cumsum(0))

    def targets(self, points, chosen):
        """Points (B, T, 23, 3) in metres -> the joints (B, T, 17, 3) that a habit marks. "mhformer" estimates those of motion
        capture, which are its targets."""
        poses = points[:, :, : H36M.num_joints].clone()
        for number, habit in enumerate(self.habits):
            clips = (chosen == number).nonzero().flatten()
            if habit in ("mmpose", "motionbert") and len(clips):
                poses[clips] = _converted(points[clips], habit)
        return poses

    def find(self, draw, exact, inside, chosen):
        """Find keypoints (B, T, 17, 3) of Human3.6M's joints, with confidences, of exact points (B, T, 23, 2).

        Args:
            inside: (B, T, 23) bool, the points in the image. chosen: (B,) the habits, of `choose`.
        """
        T, P = exact.shape[1:3]
        size = (exact - exact[:, :, _PELVIS : _PELVIS + 1]).norm(dim=-1).amax(2).mean(1).view(-1, 1, 1)
        level = draw.log_uniform(*self.noise, 1, 1) * FACTORS
        hidden = draw.spell(T, max(2, T // 2), P) & draw.chance(self.hidden, 1, P)
        level = torch.where(hidden, level * draw.uniform(1.5, 5, 1, P), level)
        level = torch.where(inside, level, 0.08)
        noise = level[..., None] * (0.5 * draw.normal(T, P, 2) + 0.9 * draw.slow(T, 6, P, 2))
        thrown = draw.share(T, P) < self.thrown * draw.share(1, 1)
        noise = torch.where(thrown[..., None], 0.25 * draw.normal(T, P, 2), noise)

        swapped = draw.spell(T, 10)[..., None] & _SWAPS[(draw.share() * len(_SWAPS)).long()][:, None]
        swapped = swapped & draw.chance(self.swapped, 1, 1)
        found = torch.where(swapped[..., None], exact[:, :, list(FLIP)], exact) + size[..., None] * noise

        wrong = noise.norm(dim=-1) / draw.log_uniform(0.03, 0.2, 1, 1)
        confidence = draw.uniform(0.6, 1, 1, 1) * (-wrong.square()).exp() + 0.05 * draw.normal(T, P)
        confidence = torch.where(inside, confidence, 0.3 * confidence).clamp(0.02, 1)
        confidence = torch.where(draw.chance(self.sure, 1, 1), 1.0, confidence)
        lost = (hidden | ~inside) & draw.chance(0.4, 1, P)
        confidence = torch.where(lost, 0.0, confidence)
        points = torch.cat((found, confidence[..., None]), -1)
        keypoints = points[:, :, : H36M.num_joints].clone()
        for number, habit in enumerate(self.habits):
            clips = (chosen == number).nonzero().flatten()
            if habit != "h36m" and len(clips):
                missing = points[clips, ..., 2:] == 0
                keypoints[clips] = _converted(points[clips].masked_fill(missing, torch.nan), habit).nan_to_num(0.0)
        return filled(keypoints)


def _converted(points, habit):
    """Points (B, T, 23, C) of `POINTS` -> Human3.6M's joints (B, T, 17, C) as a habit makes them; NaN where one is missing."""
    seen = points.flatten(0, 1)
    found = seen[:, _COCO]
    if habit == "motionbert":
        feet = seen[:, :1].expand(-1, 6, -1)  # which nothing is made of
        found = torch.cat((found, seen[:, [_CROWN, _THORAX, _PELVIS]], feet), 1)
    layout = "halpe" if habit == "motionbert" else "coco"
    made = to_h36m(found.numpy(), layout, habit)
    return torch.from_numpy(made).to(points).unflatten(0, points.shape[:2])


def _unit(x):
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-6)


def filled(keypoints):
    """`lifter.data.keypoints.fill` of many clips (B, T, 17, 3): where a confidence is 0 the joint is on the line between the
    frames before and after, or where the nearest joint is that is ever there."""
    seen = keypoints[..., 2] > 0
    frames = keypoints.shape[1]
    time = torch.arange(frames).view(1, -1, 1)
    before = torch.where(seen, time, -1).cummax(1).values
    after = torch.where(seen, time, frames).flip(1).cummin(1).values.flip(1)
    first, last = torch.where(before < 0, after, before), torch.where(after >= frames, before, after)
    part = ((time - first).clamp(min=0) / (last - first).clamp(min=1))[..., None]
    at = lambda frame: keypoints[..., :2].gather(1, frame.clamp(0, frames - 1)[..., None].expand(-1, -1, -1, 2))
    xy = at(first) * (1 - part) + at(last) * part
    nearest = torch.tensor(H36M.nearest)
    ever = seen.any(1)[:, nearest].long().argmax(-1)  # (B, 17): of the nearest ones the first that is there
    other = nearest.gather(1, ever.mT).mT
    xy = xy.gather(2, other[:, None, :, None].expand(-1, frames, -1, 2))
    return torch.cat((xy, keypoints[..., 2:]), -1)
