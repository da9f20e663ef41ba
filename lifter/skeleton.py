"""Skeletons: joint names, the kinematic tree, and which joints swap when a pose is mirrored."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Skeleton:
    """A joint order. `parents[j]` is the joint that j hangs on, -1 for the root; `left[i]` mirrors `right[i]`."""

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
    def flip_pairs(self) -> tuple[tuple[int, int], ...]:
        """(left, right) joints that swap in a mirrored pose."""
        return tuple(zip(self.left, self.right, strict=True))

    @property
    def flip(self) -> tuple[int, ...]:
        """The permutation of a mirrored pose: `pose[..., flip, :]`, with x negated."""
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
