"""Joints by the names that others give them: "LShoulder", "left_shoulder", "ShoulderLeft", "LEFT SHOULDER", "LSHO".

Of the joints or markers that a file names, `named_poses` makes those of Human3.6M. A joint that is not named is put where
those around it say: the pelvis and the thorax in the middle of hips and shoulders, hips by the pelvis's markers.
"""

import re

import numpy as np

from lifter.skeleton import H36M

from .keypoints import COCO

# Parts by their names in small letters without anything between, the best known first.
_SIDED = {
    "eye": ("eye",),
    "ear": ("ear",),
    "shoulder": ("shoulder", "sjc", "sho", "acromion"),
    "elbow": ("elbow", "ejc", "elb"),
    "wrist": ("wrist", "wjc", "wri"),
    "hip": ("hip", "hjc"),
    "knee": ("knee", "kjc", "kne"),
    "ankle": ("ankle", "ajc", "ank", "malleolus"),
    "asis": ("asis", "asi"),
    "psis": ("psis", "psi"),
    "wrist_a": ("wra",),
    "wrist_b": ("wrb",),
    "head_front": ("fhd",),
    "head_back": ("bhd",),
}
_MIDDLE = {
    "nose": ("nose",),
    "pelvis": ("pelvis", "hip", "hips", "midhip", "chip", "centerhip", "hipcenter", "hipscenter", "root", "bodycenter"),
    "spine": ("spine", "spinemid", "midspine", "torso"),
    "thorax": ("thorax", "neck", "headbottom", "midshoulder", "shouldercenter", "spineshoulder"),
    "head": ("head", "headtop", "tophead", "headcenter", "vertex"),
    "c7": ("c7",),
    "clavicle": ("clav",),
}
_WRAPPED = re.compile(r"^(body|poseworldlandmarks?|poselandmarks?|poseworld|pose|kpt?|keypoint|landmark|joint|marker|mp)(?=.{3})")
_CENTRES = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")


def _table():
    table = {name: (part, rank) for part, names in _MIDDLE.items() for rank, name in enumerate(names)}
    for part, names in _SIDED.items():
        for rank, name in enumerate(names):
            for side in ("left", "right"):
                for short in (side, side[0]):
                    table[short + name] = table[name + short] = f"{side}_{part}", rank
    return table


_KNOWN = _table()


def joint_of(name) -> str | None:
    """The name in `COCO`, or "pelvis", "spine", "thorax" or "head", of the joint that others call `name`."""
    return _ranked(name)[0]


def _ranked(name):
    plain = re.sub(r"[^a-z0-9]", "", str(name).rpartition(":")[2].lower())
    while plain not in _KNOWN and (wrapped := _WRAPPED.match(plain)):
        plain = plain[wrapped.end() :]
    return _KNOWN.get(plain, (None, 0))


def joints_of(names) -> dict[str, int]:
    """Where in `names` each joint is that is known; of two names for one, the better known."""
    found = {}
    for place, name in enumerate(names):
        joint, rank = _ranked(name)
        if joint is not None and (joint not in found or rank < found[joint][0]):
            found[joint] = rank, place
    return {joint: place for joint, (_, place) in found.items()}


def has_body(names) -> bool:
    """Whether `names` are those of a body: both hips or the pelvis's markers, and knees, ankles, shoulders, elbows, wrists."""
    known = joints_of(names)
    sided = lambda *parts: all(f"{side}_{part}" in known for side in ("left", "right") for part in parts)
    hips = sided("hip") or sided("asis", "psis")
    wrists = sided("wrist") or sided("wrist_a", "wrist_b")
    return hips and wrists and sided("knee", "ankle", "shoulder", "elbow")


def has_coco(names) -> bool:
    """Whether all of COCO's joints are among `names`."""
    return joints_of(names).keys() >= set(COCO)


def named_poses(names, points, where):
    """(T, 17, D) in the joints of Human3.6M, of points (T, N, D) that are called `names`.

    The neck of Human3.6M is the nose, the head the middle of the eyes if no joint is called so; without either, both lie on
    the line from the spine through the thorax.

    Raises:
        ValueError if `has_body` says no; it lists the names.
    """
    if not has_body(names):
        some = ", ".join(map(str, names[:24]))
        wanted = ", ".join(f"left and right {part}" for part in _CENTRES)
        raise ValueError(f"{where}: {some}: expected names for {wanted}")
    at = {joint: points[:, place] for joint, place in joints_of(names).items()}
    middle = lambda *joints: np.mean([at[joint] for joint in joints], 0) if at.keys() >= set(joints) else None
    for side in ("left", "right"):
        at.setdefault(f"{side}_wrist", middle(f"{side}_wrist_a", f"{side}_wrist_b"))
    if "left_hip" not in at or "right_hip" not in at:
        at["left_hip"], at["right_hip"] = _hips(*(at[f"{side}_{part}"] for part in ("asis", "psis") for side in ("left", "right")))
    pelvis = at.get("pelvis", middle("left_hip", "right_hip"))
    thorax = at.get("thorax", middle("c7", "clavicle"))
    thorax = middle("left_shoulder", "right_shoulder") if thorax is None else thorax
    spine = at.get("spine", (pelvis + thorax) / 2)
    heads = ("left_eye", "right_eye"), ("left_ear", "right_ear")
    heads += (("left_head_front", "right_head_front", "left_head_back", "right_head_back"),)
    head = next((place for place in (at.get("head"), *(middle(*joints) for joints in heads)) if place is not None), None)
    neck = at.get("nose")
    if head is None:
        head = thorax + 0.45 * (thorax - pelvis) if neck is None else neck
    if neck is None:
        neck = (thorax + head) / 2
    at |= {"pelvis": pelvis, "thorax": thorax, "spine": spine, "head": head, "neck": neck}
    return np.stack([at[joint] for joint in H36M.joints], 1)


def _hips(left_front, right_front, left_back, right_back):
    """The centres of the hips, by the pelvis's width (Bell et al. 1990)."""
    front, back = (left_front + right_front) / 2, (left_back + right_back) / 2
    right = right_front - left_front
    width = np.linalg.norm(right, axis=-1, keepdims=True)
    right = right / width
    ahead = front - back
    ahead = ahead - (ahead * right).sum(-1, keepdims=True) * right
    ahead /= np.linalg.norm(ahead, axis=-1, keepdims=True)
    down = -np.cross(right, ahead)
    centre = front + width * (0.30 * down - 0.22 * ahead)
    return centre - 0.36 * width * right, centre + 0.36 * width * right
