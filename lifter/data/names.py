"""The names of joints, in files of all kinds: which side they are on, and what they are called there."""

import os
import re

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SIDES = {"left": "left", "l": "left", "right": "right", "r": "right"}
# Words that rigs put in front of every name: Mixamo, 3ds Max, VRoid, Character Creator, Rigify, Source.
_RIGS = set("mixamorig mixamo bip biped j c cc base def org mch valve character jnt rig".split())
# What the joints of a side are called. Where a file has several of these, the first one is meant.
SIDED = {
    "hip": ("upleg", "upperleg", "thigh", "thighbend", "femur", "hip"),
    "knee": ("knee", "lowleg", "lowerleg", "shin", "shinbend", "calf", "tibia", "leg"),
    "ankle": ("ankle", "foot"),
    "shoulder": ("uparm", "upperarm", "shldrbend", "shldr", "humerus", "arm", "shoulder"),
    "elbow": ("elbow", "forearm", "forearmbend", "lowarm", "lowerarm"),
    "wrist": ("wrist", "hand"),
    "eye": ("eye",),
    "ear": ("ear",),
}
_KNOWN = {word for words in SIDED.values() for word in words}


def without_prefix(labels) -> list[str]:
    """Names without the subject, rig or class that all of them begin with, as "Sub01_LSHO", "PoseLandmark.NOSE"."""
    labels = list(map(str, labels))
    common = os.path.commonprefix(labels)
    begin = max(common.rfind(mark) for mark in ":._- ") + 1 if len(labels) > 1 else 0
    return [label[begin:] for label in labels]


def joint(name) -> tuple[str, str]:
    """(side, word) of a joint's name: ("left", "upleg") of "mixamorig:LeftUpLeg", ("", "headtop") of "head_top"."""
    words = [word.lower() for word in _WORDS.findall(name.rpartition(":")[2])]
    side = next((word for word in words if word in _SIDES), "")
    if side:
        words.remove(side)
    while len(words) > 1 and (words[0] in _RIGS or words[0].isdigit()):
        words.pop(0)
    word = "".join(words)
    for prefix in () if side else _SIDES:  # all in small letters, "leftupleg", "lthigh"
        if word.removeprefix(prefix) in _KNOWN and word not in _KNOWN:
            return _SIDES[prefix], word.removeprefix(prefix)
    if side and word not in _KNOWN and word.rstrip("0123456789") in _KNOWN:  # "upperarm01.L"
        word = word.rstrip("0123456789") if int(word[len(word.rstrip("0123456789")) :]) <= 1 else word
    return _SIDES.get(side, ""), word


def find(joints, side, part) -> int | None:
    """The place of "hip" of "left" in a list of `joint`s, or of a joint in the middle that is called `part` (several: the
    first that is there)."""
    for word in SIDED[part] if side else part:
        if (side, word) in joints:
            return joints.index((side, word))
    return None
