"""Motion capture in CMU's ASF (skeleton) and AMC (motion) files.

Forward kinematics: with C the rotation of a bone's axis and M its motion, the bone turns by R = R_parent C M C^-1 and ends at
p = p_parent + R (direction * length).
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from lifter.skeleton import H36M

from ..files import existing, parse_number
from ..mocap import rotation, z_up
from ..registry import register_format
from ..sequence import Dataset, Sequence

FPS = 120.0
BONES = {  # the joints of Human3.6M but the pelvis, and the bone at whose end each is
    "right_hip": "rhipjoint", "right_knee": "rfemur", "right_ankle": "rtibia", "left_hip": "lhipjoint",
    "left_knee": "lfemur", "left_ankle": "ltibia", "spine": "lowerback", "thorax": "thorax", "neck": "upperneck",
    "head": "head", "left_shoulder": "lclavicle", "left_elbow": "lhumerus", "left_wrist": "lwrist",
    "right_shoulder": "rclavicle", "right_elbow": "rhumerus", "right_wrist": "rwrist",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Bone:
    parent: str
    offset: np.ndarray  # (3,) from its start to its end, in the file's unit
    axis: np.ndarray  # (3, 3)
    freedom: tuple[str, ...]  # "rx", ...; of the root also "tx", ...


class Asf:
    """A skeleton: `bones` by name in an order in which parents come first, the root the first of all."""

    def __init__(self, path):
        self.path = existing(path)
        sections = _sections(_text(self.path))
        units = dict(line.split()[:2] for line in sections.get("units", []) if len(line.split()) > 1)
        self.metres = 0.0254 / self._number(units.get("length", "1"), "units: length")
        self.radians = np.pi / 180 if units.get("angle", "deg").startswith("deg") else 1.0
        root = {line.split()[0].lower(): line.split()[1:] for line in sections.get("root", []) if line.split()}
        order = tuple(word.lower() for word in root.get("order", ()))
        if not order:
            raise ValueError(f"{self.path}: root: no order of its degrees of freedom")
        axis = self._axis(root.get("orientation", ["0", "0", "0"]), root.get("axis", ["XYZ"])[0], "root")
        origin = self._vector(root.get("position", ["0", "0", "0"]), "root: position")
        self.bones = {"root": Bone("", origin, axis, self._freedom(order, "root"))}
        bones = {name: bone for name, bone in self._bones(sections.get("bonedata", []))}
        for line in sections.get("hierarchy", []):
            parent, *children = line.split() or [""]
            for child in children:
                if parent not in self.bones or child not in bones:
                    raise ValueError(f"{self.path}: hierarchy: {line.strip()!r} names a bone that is not there")
                self.bones[child] = replace(bones[child], parent=parent)
        if len(self.bones) < 2:
            raise ValueError(f"{self.path}: no bones, expected :bonedata and :hierarchy")

    def _bones(self, lines):
        values = {}
        for line in lines:
            word, *rest = line.split() or [""]
            if word == "begin":
                values = {}
            elif word == "end":
                for key in ("name", "direction", "length", "axis"):
                    if key not in values:
                        raise ValueError(f"{self.path}: a bone without {key}: {values}")
                name = values["name"][0]
                offset = self._vector(values["direction"], name) * self._number(values["length"][0], name)
                axis = self._axis(values["axis"][:3], values["axis"][-1], name)
                yield name, Bone("", offset, axis, self._freedom(map(str.lower, values.get("dof", ())), name))
            else:
                values[word] = rest or [""]

    def _number(self, word, where):
        return parse_number(word, f"{self.path}: {where}")

    def _vector(self, words, where):
        if len(words) < 3:
            raise ValueError(f"{self.path}: {where}: {' '.join(words)!r}, expected three numbers")
        return np.array([self._number(word, where) for word in words[:3]])

    def _axis(self, words, order, where):
        if sorted(order.lower()) != ["x", "y", "z"]:
            raise ValueError(f"{self.path}: {where}: axis order {order!r}, expected XYZ or another order of these")
        return rotation(order.lower(), self._vector(words, where) * self.radians)

    def _freedom(self, words, where):
        words = tuple(words)
        allowed = ("rx", "ry", "rz", "tx", "ty", "tz") if where == "root" else ("rx", "ry", "rz")
        if not set(words) <= set(allowed):
            raise ValueError(f"{self.path}: {where}: degrees of freedom {' '.join(words)}, expected of {' '.join(allowed)}")
        return words

    def read(self, path) -> dict[str, np.ndarray]:
        """An AMC file's values: by bone (T, degrees of freedom), in the file's units."""
        path = existing(path)
        frames = []
        for number, line in enumerate(_text(path).splitlines(), 1):
            words = line.split()
            if not words or words[0][0] in "#:":
                continue
            where = f"{path}: line {number}"
            if len(words) == 1 and words[0].isdigit():
                frames.append({})
            elif not frames or words[0] not in self.bones:
                raise ValueError(f"{where}: {line[:40]!r}, expected a frame's number or a bone of {self.path.name}")
            else:
                frames[-1][words[0]] = words[1:]
        if not frames:
            raise ValueError(f"{path}: no frames")
        motion = {}
        for name, bone in self.bones.items():
            if not bone.freedom:
                continue
            rows = [frame.get(name, ()) for frame in frames]
            wrong = next((i for i, row in enumerate(rows) if len(row) != len(bone.freedom)), None)
            if wrong is not None:
                count = len(rows[wrong])
                raise ValueError(f"{path}: frame {wrong}: {name} has {count} values, expected {len(bone.freedom)}")
            try:
                motion[name] = np.array(rows, np.float64)
            except ValueError as error:
                raise ValueError(f"{path}: {name}: {error}") from None
            if not np.isfinite(motion[name]).all():
                frame = int(np.argwhere(~np.isfinite(motion[name]))[0, 0])
                raise ValueError(f"{path}: frame {frame}: {name} is {motion[name][frame].tolist()}, expected finite numbers")
        return motion

    def ends(self, motion) -> dict[str, np.ndarray]:
        """Return the end of each bone, (T, 3) by name, metres in the world, z up."""
        frames = len(motion["root"])
        turns, places = {}, {}
        for name, bone in self.bones.items():
            values = motion.get(name, np.zeros((frames, 0)))
            turning = [i for i, kind in enumerate(bone.freedom) if kind[0] == "r"]
            moved = rotation([bone.freedom[i][1] for i in turning], values[:, turning] * self.radians)
            turn = bone.axis @ moved @ bone.axis.T
            if name == "root":
                place = np.tile(bone.offset, (frames, 1))
                for i, kind in enumerate(bone.freedom):
                    if kind[0] == "t":
                        place[:, "xyz".index(kind[1])] += values[:, i]
            else:
                turn = turns[bone.parent] @ turn
                place = places[bone.parent] + turn @ bone.offset
            turns[name], places[name] = turn, place
        return {name: z_up(place) * self.metres for name, place in places.items()}

    def poses(self, motion):
        """(T, 17, 3), the joints of Human3.6M."""
        ends = self.ends(motion)
        if lost := [bone for bone in BONES.values() if bone not in ends]:
            raise ValueError(f"{self.path}: no bone {', '.join(lost)}, expected CMU's bones")
        return np.stack([(ends["lhipjoint"] + ends["rhipjoint"]) / 2, *(ends[BONES[joint]] for joint in H36M.joints[1:])], 1)


@register_format(
    "asf",
    "CMU motion capture: an .amc with its .asf, or the folder of them",
    sniff=lambda file: file.is_folder and any(file.path.glob("*.amc")),
    guess=lambda file: file.suffix in (".amc", ".asf"),
)
def open_asf(path, fps=FPS) -> Dataset:
    """Sequences "02_02" of AMC files, poses in the world: of one .amc file, of a folder's, or of those of one .asf file.

    The skeleton of 02_02.amc is 02.asf beside it, or the only .asf file there is.
    """
    path = existing(path)
    folder = path if path.is_dir() else path.parent
    files = [path] if path.suffix.lower() == ".amc" else sorted(folder.glob("*.amc"))
    skeletons = {file.stem: file for file in sorted(folder.glob("*.asf"))}
    if path.suffix.lower() == ".asf":
        skeletons = {path.stem: path}
        files = [file for file in files if file.stem.partition("_")[0] == path.stem] or files
    if not files:
        raise FileNotFoundError(
            f"{path}: no .amc file beside it" if path.is_file() else f"{path}: no .amc file in this folder"
        )
    items = {}
    for file in files:
        skeleton = skeletons.get(file.stem.partition("_")[0])
        if skeleton is None and len(skeletons) == 1:
            skeleton = next(iter(skeletons.values()))
        if skeleton is None:
            raise FileNotFoundError(f"{file}: its skeleton {file.stem.partition('_')[0]}.asf is not beside it")
        items[file.stem] = partial(_read, file, skeleton, fps)
    return Dataset("asf", path, items)


def _read(file: Path, skeleton, fps) -> Sequence:
    asf = Asf(skeleton)
    subject = file.stem.partition("_")[0]
    return Sequence(file.stem, poses=asf.poses(asf.read(file)), fps=fps, subject=subject, source=str(file))


def _text(path):
    try:
        return path.read_text(encoding="latin1")
    except OSError as error:
        raise ValueError(f"{path}: not readable ({error})") from None


def _sections(text):
    """The lines below each ":section" of an ASF file, by its name."""
    sections, lines = {}, []
    for line in text.splitlines():
        if line.lstrip().startswith(":"):
            name = line.split()[0][1:].lower()
            lines = sections.setdefault(name, [])
        elif not line.lstrip().startswith("#"):
            lines.append(line)
    return sections
