"""The people of one clip, lifted together: what `lifter lift` does with a video."""

from lifter.skeleton import H36M

from .files import WINDOW, with_poses
from .windows import lift_sequences


def lift_people(model, people, *, flip=True, batch=8, stride=None):
    """Lift the people of a clip: sequences with keypoints -> the same with poses, each relative to its root.

    Args:
        model: as `lifter.inference.files.Model.load` gives it.
        flip, batch, stride: of `lifter.evaluation.lift_sequences`.
    """
    window = getattr(model, "num_frames", None) or WINDOW
    known = [(person, person.keypoints) for person in people]
    lifted = lift_sequences(model, known, window, stride, H36M if flip else None, batch)
    return [with_poses(person, poses.float().cpu()) for person, poses in lifted]
