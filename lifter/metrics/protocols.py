"""Evaluation protocols: named ways to compute published figures from predictions.

Two figures are only comparable under the same protocol; `evaluate` returns figures together with their protocol. In all
protocols, P1 to P3 are means over frames, and differences in time are taken within a sequence. Official codes that count the
frames of an overlapping last window twice (MixSTE, D3DP) or take differences across sequences (MixSTE) are not followed in
this.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np
import torch
from torch import Tensor, nn

from lifter.data.sequence import Dataset
from lifter.inference.windows import lift_sequence, lift_sequences, margins_of
from lifter.skeleton import H36M, LSP, MPI3DHP, Skeleton

from .errors import accel, auc, in_a_row, mpjpe, mpjve, n_mpjpe, p_mpjpe, pck
from .procrustes import check_finite, check_poses

ROOT_RULES = ("as_predicted", "zeroed", "shifted")
AVERAGES = {"action": "per action, then their mean", "sequence": "per sequence, then their mean", "frame": "over all frames"}
H36M_14 = (1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 13, 14, 15, 16)  # without pelvis, spine and nose
MM_150 = {"threshold": 150.0}


@dataclass(frozen=True)
class Protocol:
    """An evaluation protocol. Use `dataclasses.replace` to change one, for example its `window`, or its `scale` for poses in
    millimetres."""

    name: str
    window: int  # frames per window
    stride: int  # frames between the starts of two windows
    drop_last: bool  # ignore the frames after the last whole window, instead of adding a window that ends with them
    root_rule: str  # see `align_root`
    root: int | tuple[int, ...]  # the root joint, or joints whose mean is the root
    average: str  # one of AVERAGES
    blocklist: tuple[str, ...]  # names, or prefixes of names, of excluded sequences
    pck_joints: tuple[int, ...] | None  # joints of PCK and AUC; None: all
    scale: float = 1000.0  # poses to millimetres
    skeleton: Skeleton = H36M  # skeleton that root and pck_joints refer to

    def __post_init__(self):
        if self.root_rule not in ROOT_RULES or self.average not in AVERAGES:
            got = f"root_rule is {self.root_rule!r}, average {self.average!r}"
            raise ValueError(f"Protocol: {got}, expected one of {ROOT_RULES} and of {tuple(AVERAGES)}")

    def evaluated(self, length: int) -> int:
        """Return the number of frames to evaluate, from the first on. A sequence shorter than the window is evaluated
        completely."""
        return length // self.window * self.window if self.drop_last and length >= self.window else length

    def blocks(self, name: str) -> bool:
        """Return whether the blocklist contains this sequence: its name, up to its end or to one of `_`, `.` and blank."""
        return any(name == entry or name.startswith(tuple(entry + end for end in "_. ")) for entry in self.blocklist)

    def lift(self, model: nn.Module, keypoints: Tensor | np.ndarray, flip: Skeleton | None = H36M, batch: int = 8) -> Tensor:
        """Call `lift_sequence` with this protocol's windows."""
        return lift_sequence(model, keypoints, self.window, self.stride, flip, batch)

    def __str__(self):
        root = f"joint {self.root}" if isinstance(self.root, int) else f"mean of joints {', '.join(map(str, self.root))}"
        windows = f"windows of {self.window} every {self.stride}" + (", whole ones only" if self.drop_last else "")
        pck_joints = "all joints" if self.pck_joints is None else f"{len(self.pck_joints)} joints"
        return f"{self.name}: root {self.root_rule} ({root}), {windows}, {AVERAGES[self.average]}, PCK of {pck_joints}"


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        # VideoPose3D, MixSTE, PoseRetNet (D3DP: zeroed)
        Protocol("vp3d", 243, 243, False, "as_predicted", 0, "action", (), H36M_14),
        # MotionBERT, MotionAGFormer, and who follows them: three sequences of S9 whose annotation is off do not count
        Protocol(
            "motionbert", 243, 243, True, "zeroed", 0, "action",
            ("s_09_act_05_subact_02", "s_09_act_10_subact_02", "s_09_act_13_subact_01"), H36M_14,
        ),
        # mmpose's configuration of MotionBERT: the mean is over frames, and more of S9 does not count
        Protocol(
            "mmpose", 243, 243, True, "zeroed", 0, "frame",
            ("S9_Greet", "S9_SittingDown", "S9_Wait_1", "S9_Greeting", "S9_Waiting_1"), H36M_14,
        ),
        # MPI-INF-3DHP's test set, univ_annot3 in the order of its 17 joints; PCK and AUC of the first 14, as its Matlab code
        Protocol("3dhp-univ", 81, 81, False, "zeroed", 14, "frame", (), tuple(range(14)), skeleton=MPI3DHP),
        # the same, annot3 of VIBE's 14 joints, an ankle first, the head last, as PoseRetNet's `mpii3d`; the mean of videos
        Protocol("3dhp-annot", 81, 81, False, "as_predicted", (2, 3), "sequence", (), None, skeleton=LSP),
    )
}  # fmt: skip


def align_root(predictions: Tensor, targets: Tensor, rule: str, root: int | Sequence[int] = 0) -> tuple[Tensor, Tensor]:
    """Make predictions and targets (..., J, 3) root-relative by one of three rules. Targets are always relative to their own
    root.

    Args:
        rule: "as_predicted": use the prediction as it is, so that its root counts (VideoPose3D, MixSTE, PoseRetNet). "zeroed":
            set its root to 0 (MotionBERT, D3DP). "shifted": subtract its own root (MixSynthFormer, and for predictions in
            camera space).
        root: a joint, or joints whose mean is the root; "zeroed" requires one joint.
    """
    targets = targets - _root(targets, root)
    if rule == "shifted":
        return predictions - _root(predictions, root), targets
    if rule == "zeroed":
        if not isinstance(root, int):
            raise ValueError(f"align_root: root is {root!r}, expected one joint for rule='zeroed'")
        predictions = predictions.clone()
        predictions[..., root, :] = 0
    elif rule != "as_predicted":
        raise ValueError(f"align_root: rule is {rule!r}, expected one of {ROOT_RULES}")
    return predictions, targets


def _root(poses, root):
    return poses[..., [root] if isinstance(root, int) else list(root), :].mean(-2, keepdim=True)


@dataclass(frozen=True)
class Evaluation:
    """Figures in millimetres (MPJVE per frame, Accel per frame squared; PCK and AUC in percent) and their protocol."""

    protocol: Protocol
    metrics: dict[str, float]
    per_action: dict[str, dict[str, float]]  # over the frames of an action
    frames: int
    sequences: int
    blocked: tuple[str, ...]  # names of excluded sequences
    note: str

    def __str__(self):
        table = side_by_side(self.per_action | {"mean": self.metrics})
        return f"{self.protocol}\n{self._counts()}\n{table}"

    def _counts(self):
        blocked = f", {len(self.blocked)} blocked" if self.blocked else ""
        return f"{self.frames:,} frames of {self.sequences} sequences{blocked}{self.note}"


def evaluate(
    predictions: Sequence,
    targets: Sequence,
    actions: Sequence[str],
    protocol: str | Protocol = "vp3d",
    *,
    names: Sequence[str] | None = None,
    valid: Sequence | None = None,
):
    """Evaluate predictions under a protocol.

    Args:
        predictions, targets: lists of sequences (T, J, 3), tensors or arrays of any floating-point dtype. Computed in float64,
            one sequence at a time, on the predictions' device.
        actions: the action of each sequence.
        protocol: a name from PROTOCOLS or a Protocol; for several, the result is a list for `compare`.
        names: the name of each sequence, for the blocklist.
        valid: (T,) bool for each sequence, frames to evaluate. None: all.

    Returns:
        Evaluation with MPJPE, P-MPJPE, N-MPJPE, MPJVE, Accel, PCK@150 and AUC; print it. Sequences are weighted by their
        frames, for differences in time too, as in VideoPose3D. A figure without data (Accel of two frames) is NaN.

    Raises:
        ValueError for lists of different lengths, missing frames, wrong shapes and, naming sequence and frame, for values that
        are not finite.
    """
    if not isinstance(protocol, str | Protocol):
        return [evaluate(predictions, targets, actions, one, names=names, valid=valid) for one in protocol]
    if isinstance(protocol, str):
        if protocol not in PROTOCOLS:
            raise ValueError(f"evaluate: protocol is {protocol!r}, expected one of {', '.join(PROTOCOLS)}")
        protocol = PROTOCOLS[protocol]
    count = len(predictions)
    for argument, given in (("targets", targets), ("actions", actions), ("names", names), ("valid", valid)):
        if given is not None and len(given) != count:
            raise ValueError(f"evaluate: {argument} has {len(given)} entries, expected {count} as predictions")

    rows, blocked, frames = [], [], 0
    for i in range(count):
        name = str(i) if names is None else names[i]
        if names is not None and protocol.blocks(name):
            blocked.append(name)
            continue
        values, seen = _sequence(name, predictions[i], targets[i], None if valid is None else valid[i], protocol)
        rows.append((actions[i], values))
        frames += seen
    if frames == 0:
        raise ValueError(f"evaluate: no frames of {count} sequences count under {protocol.name}")
    per_action = {}
    for action in sorted({action for action, _ in rows}):
        per_action[action] = _weighted([values for name, values in rows if name == action])
    groups = {"action": per_action.values(), "frame": [_weighted([values for _, values in rows])]}
    groups["sequence"] = [_weighted([values]) for _, values in rows]
    means = {figure: _nanmean([group[figure] for group in groups[protocol.average]]) for figure in FIGURES}
    note = ", no names: blocklist not applied" if protocol.blocklist and names is None else ""
    return Evaluation(protocol, means, per_action, frames, len(rows), tuple(blocked), note)


def evaluate_model(
    model: nn.Module,
    data: Dataset,
    protocols: Sequence[str] = ("vp3d",),
    flip: Skeleton | None = H36M,
    batch: int = 8,
    step: Callable[[], object] = lambda: None,
) -> list[Evaluation]:
    """Evaluate a model on a data set under several protocols, reading one sequence at a time.

    A model made for a certain number of frames gets windows of that length, which the evaluations state.

    Args:
        model, flip, batch: see `lifter.evaluation.lift_sequences`.
        data: a `lifter.data.Dataset` with keypoints and poses. The joints of Human3.6M and of the protocols are found by name.
            Sequences without keypoints or poses are skipped and counted in the note.
        protocols: names from PROTOCOLS. step: called for every sequence read, once for each window length.

    Returns:
        A list with one Evaluation per protocol.

    Raises:
        ValueError, KeyError: see `evaluate`; also for data that cannot be read.
    """
    if unknown := [name for name in protocols if name not in PROTOCOLS]:
        raise ValueError(f"protocol is {' '.join(unknown)}, expected some of {', '.join(PROTOCOLS)}")
    window = getattr(model, "num_frames", None)
    fitting = {"window": window, "stride": window} if window else {}
    if any(margins_of(model)):
        fitting |= {"stride": 1, "drop_last": False}
    chosen = [replace(PROTOCOLS[name], **fitting) for name in protocols]
    results = {}
    for window, stride in dict.fromkeys((protocol.window, protocol.stride) for protocol in chosen):
        pairs = [
            (sequence, poses.float().cpu().numpy())
            for sequence, poses in lift_sequences(
                model, _with_truth(data, step), window, stride, flip, batch, camera_of=attrgetter("camera")
            )
        ]
        if not pairs:
            raise ValueError(f"{data.path}: no sequence with keypoints and poses")
        names = [sequence.name.removeprefix("test/").replace("/", "_") for sequence, _ in pairs]  # as blocklists have them
        actions = [sequence.action or "all" for sequence, _ in pairs]
        valid = [np.ones(len(sequence), bool) if sequence.valid is None else sequence.valid for sequence, _ in pairs]
        for protocol in (protocol for protocol in chosen if (protocol.window, protocol.stride) == (window, stride)):
            order = [H36M.joints.index(joint) for joint in protocol.skeleton.joints]
            both = [poses[:, order] for _, poses in pairs], [sequence.poses[:, order] for sequence, _ in pairs]
            result = evaluate(*both, actions, protocol, names=names, valid=valid)
            lacking = len(data) - len(pairs)
            note = f", {lacking} more lack keypoints or poses" if lacking else ""
            results[protocol.name] = replace(result, note=result.note + note)
    return [results[protocol.name] for protocol in chosen]


def _with_truth(data, step):
    """Yield (sequence without its keypoints, keypoints) for sequences that also have poses."""
    for sequence in data:
        step()
        if sequence.keypoints is not None and sequence.poses is not None:
            sequence = sequence.to(H36M)
            yield replace(sequence, keypoints=None, keypoints_true=None, estimates=None), sequence.keypoints


def compare(evaluations: Sequence[Evaluation]) -> str:
    """Return a text that compares several evaluations and states their protocols."""
    heads = [f"{evaluation.protocol}; {evaluation._counts()}" for evaluation in evaluations]
    return "\n".join([*heads, side_by_side({each.protocol.name: each.metrics for each in evaluations})])


def side_by_side(rows: dict[str, dict[str, float]]) -> str:
    """Return a text table of {row: {figure: number}}."""
    figures = list(next(iter(rows.values())))
    width = max(len(str(name)) for name in rows)
    lines = [" " * width + "".join(f"{figure:>10}" for figure in figures)]
    lines += [f"{name:<{width}}" + "".join(f"{row[figure]:>10.2f}" for figure in figures) for name, row in rows.items()]
    return "\n".join(lines)


FIGURES = {
    "MPJPE": mpjpe, "P-MPJPE": p_mpjpe, "N-MPJPE": n_mpjpe, "MPJVE": mpjve,
    "Accel": accel, "PCK@150": pck, "AUC": auc,
}  # fmt: skip


def _sequence(name, predictions, targets, valid, protocol):
    """Return {figure: (mean over the sequence, number of frames)} and the number of evaluated frames."""
    predictions, targets = (_tensor(poses) for poses in (predictions, targets))
    where = f"evaluate: sequence {name!r}"
    check_poses(where, predictions, targets)
    if predictions.dim() != 3 or predictions.shape[-1] != 3:
        raise ValueError(f"{where}: predictions have shape {tuple(predictions.shape)}, expected (T, J, 3)")
    length = protocol.evaluated(len(predictions))
    poses = [poses[:length].to(predictions.device, torch.float64) * protocol.scale for poses in (predictions, targets)]
    counted = torch.ones(length, dtype=torch.bool, device=predictions.device)
    if valid is not None:
        valid = torch.as_tensor(valid)
        if valid.shape != predictions.shape[:1] or valid.dtype != torch.bool:
            got = f"valid has shape {tuple(valid.shape)} and dtype {valid.dtype}"
            raise ValueError(f"{where}: {got}, expected ({len(predictions)},) and torch.bool")
        counted &= valid[:length].to(counted.device)
        poses = [x.where(counted[:, None, None], 0) for x in poses]  # NaN may be what makes them invalid
    check_finite(where, poses[0] + poses[1], *poses)
    predictions, targets = poses
    poses = align_root(predictions, targets, protocol.root_rule, protocol.root)
    joints = range(poses[0].shape[1]) if protocol.pck_joints is None else protocol.pck_joints

    values = {}
    for figure, function in FIGURES.items():
        used, options = poses, {}
        if figure in ("PCK@150", "AUC"):
            used, options = [x[:, list(joints)] for x in poses], MM_150
        errors = function(*used, reduction="frame", **options) * (100 if options else 1)
        kept = in_a_row(counted[:, None], errors[:, None])[:, 0]
        mean = errors[kept].mean().item() if kept.any() else float("nan")
        values[figure] = mean, int(counted.sum()) if kept.any() else 0
    return values, int(counted.sum())


def _tensor(poses):
    """Convert to a tensor, without torch's warning for read-only arrays."""
    return torch.from_numpy(np.require(poses, requirements="W")) if isinstance(poses, np.ndarray) else poses


def _weighted(sequences):
    """Return {figure: mean} over sequences as returned by `_sequence`, weighted by their frames."""
    means = {}
    for figure in FIGURES:
        pairs = [values[figure] for values in sequences if values[figure][1]]
        frames = sum(count for _, count in pairs)
        means[figure] = sum(mean * count for mean, count in pairs) / frames if pairs else float("nan")
    return means


def _nanmean(values):
    values = [value for value in values if value == value]
    return sum(values) / len(values) if values else float("nan")
