"""Skeletons: joint names, the kinematic tree, and which joints swap when a pose is mirrored."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Skeleton:
    """A joint order. `parents[j]` is the parent of joint j, -1 for the root; `left[i]` mirrors `right[i]`."""

    name: str
    joints: tuple[str, ...]
    parents: tuple[int, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]

    @property
    def num_joints(self) -> int:
        return len(self.joints)

    @property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """(joint, parent) of every joint but the root."""
        return tuple((joint, parent) for joint, parent in enumerate(self.parents) if parent >= 0)

    @property
    def nearest(self) -> tuple[tuple[int, ...], ...]:
        """For each joint, all joints sorted by distance along the bones; ties are sorted by distance to the root."""
        ways = [[joint] for joint in range(self.num_joints)]  # from each joint to the root
        for way in ways:
            while (parent := self.parents[way[-1]]) >= 0:
                way.append(parent)
        bones = lambda one, other: len(set(ways[one]) ^ set(ways[other]))
        joints = range(self.num_joints)
        return tuple(tuple(sorted(joints, key=lambda other: (bones(joint, other), len(ways[other])))) for joint in joints)

    @property
    def flip_pairs(self) -> tuple[tuple[int, int], ...]:
        """Pairs (left, right) of joints that are swapped in a mirrored pose."""
        return tuple(zip(self.left, self.right, strict=True))

    @property
    def flip(self) -> tuple[int, ...]:
        """Joint permutation of a mirrored pose: `pose[..., flip, :]` with x negated."""
        order = list(range(self.num_joints))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        return tuple(order)


H36M = Skeleton(
    name="h36m",
    joints=(
        "pelvis", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "spine", "thorax",
        "neck", "head", "left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow", "right_wrist",
    ),
    parents=(-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15),
    left=(4, 5, 6, 11, 12, 13),
    right=(1, 2, 3, 14, 15, 16),
)  # fmt: skip

_LEGS = (0, 4, 5, 6, 1, 2, 3)
# 3DPW as stored by DeciWatch: the order of Human3.6M, but with the left leg first.
PW3D = Skeleton(
    name="pw3d",
    joints=tuple(H36M.joints[joint] for joint in _LEGS) + H36M.joints[7:],
    parents=H36M.parents,
    left=(1, 2, 3, 11, 12, 13),
    right=(4, 5, 6, 14, 15, 16),
)

MPI3DHP = Skeleton(
    name="mpi3dhp",
    joints=(
        "head", "thorax", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
        "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "pelvis", "spine", "neck",
    ),
    parents=(16, 15, 1, 2, 3, 1, 5, 6, 14, 8, 9, 14, 11, 12, -1, 14, 1),
    left=(5, 6, 7, 11, 12, 13),
    right=(2, 3, 4, 8, 9, 10),
)  # fmt: skip

LSP = Skeleton(
    name="lsp",
    joints=(
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist", "right_elbow",
        "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "thorax", "head",
    ),
    parents=(1, 2, 12, 12, 3, 4, 7, 8, 12, 12, 9, 10, -1, 12),
    left=(5, 4, 3, 11, 10, 9),
    right=(0, 1, 2, 6, 7, 8),
)  # fmt: skip

JHMDB = Skeleton(
    name="jhmdb",
    joints=(
        "thorax", "spine", "face", "right_shoulder", "left_shoulder", "right_hip", "left_hip", "right_elbow", "left_elbow",
        "right_knee", "left_knee", "right_wrist", "left_wrist", "right_ankle", "left_ankle",
    ),
    parents=(1, -1, 0, 0, 0, 1, 1, 3, 4, 5, 6, 7, 8, 9, 10),
    left=(4, 6, 8, 10, 12, 14),
    right=(3, 5, 7, 9, 11, 13),
)  # fmt: skip

SKELETONS = {skeleton.name: skeleton for skeleton in (H36M, PW3D, MPI3DHP, LSP, JHMDB)}
