"""The npz files of DeciWatch and MixSynthFormer: ground truth, and what an estimator made of the images.

<set>_gt_<phase>.npz and <set>_<estimator>_<phase>.npz for the sets h36m, pw3d, aist and jhmdb, as they lie in
groundtruth_poses/<set>/ and detected_poses/<set>/<estimator>/.
"""

from functools import partial

from lifter.skeleton import H36M, JHMDB, LSP, PW3D

from ..cameras import normalise
from ..files import Npz, existing, length, numbers, take
from ..registry import register_format
from ..sequence import Dataset, Sequence

SETS = {"h36m": (H36M, 50.0), "pw3d": (PW3D, 30.0), "aist": (LSP, 60.0), "jhmdb": (JHMDB, None)}  # skeleton, fps


@register_format(
    "deciwatch",
    "DeciWatch's and MixSynthFormer's npz of Human3.6M, 3DPW, AIST++, Sub-JHMDB",
    sniff=lambda file: "imgname" in file.arrays,
    suffix=".npz",
)
def open_deciwatch(path) -> Dataset:
    """Sequences in the order of the file, named by their images' folder ("downtown_bus_00", "downtown_bus_00/2" for the
    second person). The ground truth is `poses`, or `keypoints_true` of Sub-JHMDB; the estimator's are `estimates`, or
    `keypoints`. Given the file of an estimator, the ground truth is taken along where it is found.

    3DPW has Human3.6M's order with left and right leg exchanged: `sequence.to(H36M)` puts it right.
    """
    path = existing(path)
    dataset, _, rest = path.stem.partition("_")
    kind, _, phase = rest.rpartition("_")
    if dataset not in SETS or not kind:
        raise ValueError(f"{path}: the name is not <set>_gt_<phase>.npz or <set>_<estimator>_<phase>.npz of {', '.join(SETS)}")
    archives = {"gt" if kind == "gt" else "detected": Npz(path)}
    if kind != "gt":
        truth = f"{dataset}_gt_{phase}.npz"
        places = [path.with_name(truth)]
        places += [folder / "groundtruth_poses" / dataset / truth for folder in path.absolute().parents[2:4]]
        archives |= dict([("gt", Npz(place)) for place in places if place.is_file()][:1])
    columns = {}
    for which, archive in archives.items():
        wanted = "joints_2d" if dataset == "jhmdb" else "joints_3d"
        keys = ["imgname", wanted, *(["imgshape"] if which == "gt" and dataset == "jhmdb" else [])]
        columns[which] = {key: archive[key] for key in keys}
        counts = {key: length(column, f"{archive.path}: {key}") for key, column in columns[which].items()}
        if len(set(counts.values())) != 1:
            raise ValueError(f"{archive.path}: sequences {counts}, expected as many of each")
    counts = {which: len(column["imgname"]) for which, column in columns.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"{path}: sequences {counts}, expected as many of each")

    items = {}
    for index, images in enumerate(next(iter(columns.values()))["imgname"]):
        if length(images, f"{path}: imgname: sequence {index}") == 0:
            raise ValueError(f"{path}: imgname: sequence {index} has no images")
        name = base = str(images[0]).rpartition("/")[0] or str(index)
        number = 1
        while name in items:
            number += 1
            name = f"{base}/{number}"
        items[name] = partial(_read, name, index, dataset, columns, path)
    return Dataset("deciwatch", path, items)


def _read(name, index, dataset, columns, path) -> Sequence:
    skeleton, fps = SETS[dataset]
    axes = 2 if dataset == "jhmdb" else 3
    arrays = {}
    for which, column in columns.items():
        where = f"{path}: {name} ({which})"
        frames, joints = len(column["imgname"][index]), skeleton.num_joints
        values = numbers(column[f"joints_{axes}d"][index], None, where)
        if values.size != frames * joints * axes:
            raise ValueError(f"{where}: shape {values.shape}, expected ({frames}, {joints} x {axes}) as imgname")
        arrays[which] = values.reshape(frames, joints, axes)
    known = {"fps": fps, "source": str(path)}
    if dataset == "jhmdb":
        shape = numbers(take(columns.get("gt", {}), "imgshape", f"{path}: ground truth")[index], (None,), f"{path}: imgshape")
        if len(shape) < 2 or not (shape[:2] > 0).all():
            raise ValueError(f"{path}: imgshape of {name} is {shape.tolist()}, expected (height, width)")
        known["size"] = (float(shape[1]), float(shape[0]))
        arrays = {which: normalise(values, known["size"]) for which, values in arrays.items()}
        names = {"gt": "keypoints_true", "detected": "keypoints"}
    else:
        names = {"gt": "poses", "detected": "estimates"}
    parts = name.split("/")
    if dataset == "h36m" and len(parts) >= 3:
        known |= {"subject": parts[0], "action": parts[1]}
    elif dataset == "jhmdb":
        known["action"] = parts[0]
    return Sequence(name, skeleton, **{names[which]: values for which, values in arrays.items()}, **known)
