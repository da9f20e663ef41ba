"""Live lifting: keypoints arrive frame by frame and poses are returned chunk by chunk, with bounded latency and constant
memory."""

import inspect
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lifter.skeleton import SKELETONS, Skeleton

from .windows import centred, margins_of

MISSING = ("hold", "mask", "error")
FARTHEST = 1e6  # keypoints are of order 1; larger values are no detections, and norms would overflow


class Lifted(NamedTuple):
    """The M poses that became ready, in frame order.

    The delay of a pose in live use is latency + compute.
    """

    poses: torch.Tensor  # (M, J, 3) float32, on the model's device
    frames: torch.Tensor  # (M,) int64, frame numbers since the start of the stream
    latency: torch.Tensor  # (M,) seconds spent waiting for later frames, from fps
    compute: torch.Tensor  # (M,) seconds of the model call, for all streams in it


class StreamBatch:
    """Many live streams that share a model: streams whose chunk is full are lifted together in one call.

    A stream is named by a dict key, starts with its first push, and runs at its own pace. A model with a state (PoseRetNet)
    sees each frame once; its poses equal those of one call on the whole stream with this `chunk_size`. Any other model, and
    one trained on centred clips, sees the last `num_frames` frames again for every chunk. At the start of a stream there are
    fewer frames; if the model needs more (`clip_multiple`), the first frame is repeated in front. A model with `margins` (see
    `lift_sequence`) waits for the frames that it sees after a chunk; before the start and, at `flush`, after the end of a
    stream the nearest frame is repeated. If a method raises an error, the streams remain unchanged.

    Args:
        model: in evaluation mode, on any device, in any dtype. It is not copied: later changes to it take effect.
        chunk_size: frames that are lifted together; the first frame of a chunk waits for the other `chunk_size - 1`. Default
            and maximum: the frames that the model sees at once; 1 by default for a model with `margins`.
        fps: frames per second, for the latency.
        look_ahead: future frames that each chunk waits for, so that its last frames see them. Only for models without a state.
            A model with `margins` sets it itself.
        missing: handling of keypoints that are not finite or beyond +-1e6, and of dropped frames (None). "hold": use the
            joint's last position or, if it was never seen, that of the nearest joint along the skeleton, with confidence 0.
            "mask": the same, but the pose of the joint is NaN. "error": raise ValueError.
    """

    def __init__(
        self, model: nn.Module, chunk_size: int | None = None, fps: float = 50.0, look_ahead: int = 0, missing: str = "hold"
    ):
        if model.training:
            raise ValueError("Stream: model is in training mode, expected model.eval()")
        original = getattr(model, "_orig_mod", model)  # torch.compile hides the signature
        stateful = "state" in inspect.signature(original.forward).parameters
        self.stateful = stateful and not getattr(original, "centred", False)  # a state needs clips with a common centre
        self._model, self._original = model, original
        self._most, *self._joint_shape = _takes(original)
        self._margins = margins_of(original)
        self._nearest = torch.tensor(_skeleton(self._joint_shape[0]).nearest)
        self._all_seen = torch.zeros(1, self._joint_shape[0], dtype=torch.bool)
        if missing not in MISSING:
            raise ValueError(f"Stream: missing is {missing!r}, expected one of {MISSING}")
        if not fps > 0:
            raise ValueError(f"Stream: fps is {fps!r}, expected a positive number")
        known = any(self._margins)
        if not isinstance(look_ahead, int) or not 0 <= look_ahead < (1 if self.stateful or known else self._most):
            expected = f"0 to {self._most - 1}"
            expected = "0, for the model tells what it sees" if known else expected
            expected = "0, for the model has a state" if self.stateful else expected
            raise ValueError(f"Stream: look_ahead is {look_ahead!r}, expected {expected}")
        look_ahead = self._margins[1] if known else look_ahead
        most = self._most if known else self._most - look_ahead
        chunk_size = (1 if known else most) if chunk_size is None else chunk_size
        if not isinstance(chunk_size, int) or not 1 <= chunk_size <= most:
            raise ValueError(f"Stream: chunk_size is {chunk_size!r}, expected 1 to {most}, what the model sees at once")
        self.chunk_size, self.fps, self.look_ahead, self.missing = chunk_size, float(fps), look_ahead, missing
        self._largest = chunk_size if self.stateful else most
        self.reset()

    def push(self, frames: dict, together: int | None = None) -> dict:
        """Push the next frames of some streams, {name: keypoints}; return {name: Lifted}, the poses that became ready.

        Keypoints are one frame (J, C) or several (N, J, C), a tensor or array of any floating-point dtype, or None for a
        dropped frame. A joint with a value that is not finite, or beyond +-1e6, is missing.

        If more than `chunk_size` frames wait, up to `together` of them form one chunk, which lets a late stream catch up; at
        most the frames that the model sees at once, and at most `chunk_size` for a model with a state.
        """
        members, given = {}, {}
        for name, keypoints in frames.items():
            before = self._members.get(name) or self._new()
            members[name] = self._accept(name, before, keypoints)
            given[name] = self._absent(before.absent, members[name].absent)
        most = max(self.chunk_size, min(together or 0, self._largest))

        def ready(member):
            count = min(member.waiting - self.look_ahead, most)
            return (count, member.lifted + count + self.look_ahead) if count >= self.chunk_size else None

        return self._advance(members, given, ready)

    def flush(self, names: Iterable | None = None) -> dict:
        """Lift all waiting frames of these streams (None: of all) as a short last chunk; return {name: Lifted}. The streams
        may continue."""
        return self._flush(self._members if names is None else names)

    def leave(self, name: Any) -> Lifted:
        """End one stream and return its last poses, like `flush`."""
        if name not in self._members:
            known = ", ".join(map(repr, self._members)) or "none"
            raise KeyError(f"StreamBatch: no stream is named {name!r}; there are: {known}")
        lifted = self._flush([name])[name]
        self.reset([name])
        return lifted

    def reset(self, names: Iterable | None = None) -> None:
        """Forget these streams and their waiting frames; None: all."""
        if names is None:
            self._members, self._states = {}, {}
            return
        for name in names:
            if self._members.pop(name, None) is not None:
                _take(self._states, (name,))

    def state_dict(self) -> dict:
        """Return the state of all streams as CPU tensors, numbers and strings. If names are strings or numbers, it can be
        saved with `torch.save` and loaded with `weights_only=True`."""
        states = dict(self._states)
        _split(states, self._members)
        streams = {}
        for name, member in self._members.items():
            state = states.get((name,))
            keypoints, missing = member.joined().parts[0]
            saved = {"keypoints": keypoints, "missing": missing} | {key: getattr(member, key) for key in _Member._fields[1:]}
            streams[name] = saved | {"state": state and [x.to("cpu", copy=True) for x in state]}
        return self._settings() | {"streams": streams}

    def load_state_dict(self, state: dict) -> None:
        """Restore the streams from `state`. Raise ValueError if its settings or shapes differ. The caller must ensure that the
        model has the same weights."""
        for name, value in self._settings().items():
            if state.get(name) != value:
                raise ValueError(f"load_state_dict: {name} is {state.get(name)!r}, expected {value!r} as here")
        members, states = {}, {}
        shapes = self._state_shapes()
        for name, saved in state["streams"].items():
            saved = dict(saved)
            tensors = saved.pop("state", None)
            if saved.keys() != {"keypoints", "missing", *_Member._fields[1:]}:
                raise ValueError(f"load_state_dict: the stream{_of(name)} holds {sorted(saved)}, not what state_dict() gave")
            part = saved.pop("keypoints"), saved.pop("missing")
            members[name] = member = _Member((part,), **saved)
            kept = len(part[0])
            if not member.waiting <= kept <= member.next or len(part[1]) != kept or member.waiting < 0:
                raise ValueError(f"load_state_dict: the stream{_of(name)} keeps {kept} frames, at least {member.waiting} wait")
            if self.stateful and (tensors is None) != (member.lifted == member.absent):
                raise ValueError(f"load_state_dict: the stream{_of(name)} has no state after {member.lifted} frames")
            if tensors is not None:
                if (found := [tuple(x.shape) for x in tensors]) != shapes:
                    raise ValueError(f"load_state_dict: the state{_of(name)} has shapes {found}, expected {shapes}")
                states[name,] = [x.to(self._device, copy=True) for x in tensors]
        self._members, self._states = members, states

    def wrong(self, frames: dict) -> dict:
        """Return {name: error} for the frames that `push` would refuse."""
        errors = {}
        for name, keypoints in frames.items():
            try:
                self._accept(name, self._members.get(name) or self._new(), keypoints)
            except (ValueError, TypeError) as error:
                errors[name] = error
        return errors

    # ---- one push, on copies of `members` and `states` ---------------------------------------------------------------

    def _flush(self, names) -> dict:
        members = {name: self._members[name] for name in names if name in self._members}
        return self._advance(members, {name: [] for name in names}, lambda m: (m.waiting, m.next) if m.waiting else None)

    def _advance(self, members, lifted, ready):
        """Lift what is ready in these streams, {name: _Member}, store the updated members, and return {name: Lifted}.
        `lifted`: {name: parts lifted already}. `ready(member)`: the number of poses to lift next and the end of their window,
        or None.
        """
        names, done = list(members), set()
        if self.stateful:  # always the same order, so that batches stay together
            names = [name for name in self._members | members if name in members]
        states = dict(self._states)
        while chunks := {name: chunk for name in names if (chunk := ready(members[name]))}:
            members |= {name: members[name].joined() for name in chunks}
            self._lift(members, states, lifted, chunks)
            done |= chunks.keys()
        for name in done:
            waiting = members[name].waiting
            kept = waiting + self._margins[0] if any(self._margins) else self._most
            members[name] = members[name].compact(waiting if self.stateful else kept)
        self._members |= members
        self._states = states
        nothing = None if all(lifted.values()) else self._nothing()
        return {name: Lifted(*map(torch.cat, zip(*parts))) if parts else nothing for name, parts in lifted.items()}

    def _accept(self, name, member, keypoints):
        """Return `member` with these frames appended, before lifting."""
        frames = self._frames(name, keypoints)
        if not len(frames):
            return member
        if np.abs(frames.numpy()).max() <= FARTHEST:  # NaN would be the largest value
            missing, held = self._all_seen.expand(len(frames), -1), frames[-1].clone()
        else:
            missing = ~(frames.abs() <= FARTHEST).all(-1)
            if self.missing != "error" and member.absent == member.next:  # no person was seen yet
                absent = int(missing.all(-1).cumprod(0).sum())
                number = member.absent + absent
                member = member._replace(absent=number, next=number, lifted=number)
                frames, missing = frames[absent:], missing[absent:]
                if not len(frames):
                    return member
            if self.missing == "error":
                frame, joint = missing.nonzero()[0].tolist()
                raise ValueError(f"Stream{_of(name)}: frame {member.next + frame} has no keypoint of joint {joint}")
            frames, held = self._held(member.held, frames, missing)
        return member._replace(parts=(*member.parts, (frames, missing)), held=held, next=member.next + len(frames))

    def _held(self, held, frames, missing):
        """Return `frames` with missing joints held, and the positions to hold after the last frame."""
        seen = torch.cat([held[None], frames])
        last = torch.arange(1, len(seen))[:, None].where(~missing, 0).cummax(0).values  # frame of `seen` to repeat
        frames = seen.gather(0, last[..., None].expand_as(frames))
        held = frames[-1].clone()
        if (never := frames[..., 0].isnan()).any():
            nearest = self._nearest.gather(1, (~never)[:, self._nearest].byte().argmax(-1).T).T
            frames = frames.gather(1, nearest[..., None].expand_as(frames))
        if frames.shape[-1] == 3:
            frames[..., 2].masked_fill_(missing, 0.0)
        return frames, held

    def _frames(self, name, keypoints):
        """Return the frames as (N, J, C) float32 on the CPU, in their own memory."""
        if keypoints is None:
            return torch.full((1, *self._joint_shape), torch.nan)
        if not isinstance(keypoints, torch.Tensor):
            keypoints = torch.from_numpy(np.array(keypoints))
        if not keypoints.is_floating_point():
            raise TypeError(f"Stream{_of(name)}: keypoints have dtype {keypoints.dtype}, expected a floating-point dtype")
        J, C = self._joint_shape
        if keypoints.dim() not in (2, 3) or keypoints.shape[-2:] != (J, C):
            shape = tuple(keypoints.shape)
            raise ValueError(f"Stream{_of(name)}: keypoints have shape {shape}, expected ({J}, {C}) or (N, {J}, {C})")
        return keypoints.detach().to("cpu", torch.float32, copy=True).reshape(-1, J, C)

    def _lift(self, members, states, lifted, chunks):
        """Append to `lifted` the next poses of each stream in `chunks`, {name: (count, end of the window)}. Windows of the
        same length share a call.
        """
        calls = {}
        for name, (_, end) in chunks.items():
            begin = members[name].lifted if self.stateful else max(members[name].absent, end - self._most)
            if any(self._margins):
                begin = members[name].lifted - self._margins[0]
                end = members[name].lifted + chunks[name][0] + self._margins[1]
            calls.setdefault(end - begin, {})[name] = begin
        for length, begins in calls.items():
            windows, missing = zip(*(members[name].window(begin, length) for name, begin in begins.items()))
            batch, seconds = self._call(tuple(begins), states, torch.stack(windows), _placed(~torch.stack(missing)))
            for poses, (name, begin) in zip(batch, begins.items()):
                member, (count, end) = members[name], chunks[name]
                poses = poses.narrow(0, member.lifted - begin - self._margins[0], count)
                if self.missing == "mask":
                    _, missing = member.window(member.lifted, count)
                    poses = poses.masked_fill(missing[..., None].to(poses.device), torch.nan)
                frames = member.lifted + torch.arange(count)
                latency = (end - 1 - frames) / self.fps
                lifted[name].append((poses, frames, latency, torch.full_like(latency, seconds)))
                members[name] = member._replace(lifted=member.lifted + count)

    def _call(self, names, states, keypoints, seen):
        """Return the poses of windows (B, T, J, C) and the seconds that they took; update `states`. `seen`: see `centre`."""
        start = time.perf_counter()
        with torch.inference_mode():
            keypoints = keypoints.to(self._device)
            if self.stateful:
                poses, states[names] = self._model(keypoints, _take(states, names), return_state=True)
            else:
                short = -keypoints.shape[1] % getattr(self._model, "clip_multiple", 1)
                repeated = torch.arange(-short, keypoints.shape[1]).clamp(min=0)  # the first, in front
                clips = centred(self._original, keypoints[:, repeated], seen[:, repeated].to(keypoints.device))
                poses = self._model(clips)[:, short:]
        if poses.is_cuda:
            torch.cuda.synchronize(poses.device)
        return poses, time.perf_counter() - start

    def _absent(self, begin, end):
        """Return NaN poses for frames before a person was seen."""
        if begin == end:
            return []
        nothing = torch.zeros(end - begin)
        poses = torch.full((end - begin, self._joint_shape[0], 3), torch.nan, device=self._device)
        return [(poses, torch.arange(begin, end), nothing, nothing)]

    def _nothing(self):
        nothing = torch.empty(0)
        poses = torch.empty(0, self._joint_shape[0], 3, device=self._device)
        return Lifted(poses, torch.empty(0, dtype=torch.int64), nothing, nothing)

    # ---- what the streams are ----------------------------------------------------------------------------------------

    def _new(self):
        J, C = self._joint_shape
        return _Member(((torch.empty(0, J, C), self._all_seen[:0]),), torch.full((J, C), torch.nan))

    def _settings(self):
        joints, channels = self._joint_shape
        return {
            "chunk_size": self.chunk_size, "fps": self.fps, "look_ahead": self.look_ahead, "missing": self.missing,
            "num_joints": joints, "in_channels": channels, "window": None if self.stateful else self._most,
        }  # fmt: skip

    def _state_shapes(self):
        """Return the shapes of a stream's state, determined by lifting one frame."""
        if not self.stateful:
            return None
        states = {}
        self._call((), states, torch.zeros(1, 1, *self._joint_shape), torch.ones(1, 1, dtype=torch.bool))
        return [tuple(x.shape) for x in states[()]]

    @property
    def _device(self):
        return next(self._model.parameters(), torch.empty(0)).device  # frozen, a model may have none


class Stream:
    """One live stream: `push` keypoints and get the poses that are ready.

        stream = lifter.Stream(model, chunk_size=9, fps=50)
        poses, frames, latency, compute = stream.push(keypoints)

    Arguments and `push` are those of `StreamBatch`, without the dict.
    """

    def __init__(
        self, model: nn.Module, chunk_size: int | None = None, fps: float = 50.0, look_ahead: int = 0, missing: str = "hold"
    ):
        self._batch = StreamBatch(model, chunk_size, fps, look_ahead, missing)

    def push(self, keypoints: Tensor | np.ndarray | None) -> Lifted:
        """Push the next frames, (J, C) or (N, J, C), or None for a dropped one; return the poses that became ready."""
        return self._batch.push({None: keypoints})[None]

    def flush(self) -> Lifted:
        """Lift all waiting frames as a short last chunk. The stream may continue."""
        return self._batch.flush().get(None) or self._batch._nothing()

    def reset(self) -> None:
        """Restart at frame 0."""
        self._batch.reset()

    def state_dict(self) -> dict:
        """Return the state of the stream, see `StreamBatch.state_dict`."""
        return self._batch.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Restore the stream from `state`. Raise ValueError if its settings or shapes differ."""
        if others := state.get("streams", {}).keys() - {None}:
            raise ValueError(f"load_state_dict: state has the streams {sorted(map(str, others))} of a StreamBatch")
        self._batch.load_state_dict(state)


class _Member(NamedTuple):
    """A stream without the model's state. Its tensors are never written to, so an old member can be restored."""

    parts: tuple  # the last frames: (n, J, C) as given to the model, and (n, J) bool, True for missing joints
    held: torch.Tensor  # (J, C), the last position of each joint, NaN if never seen
    next: int = 0  # frames pushed, which is the number of the next one
    lifted: int = 0  # frames lifted
    absent: int = 0  # frames before a person was seen

    @property
    def waiting(self):
        return self.next - self.lifted

    def joined(self):
        """Return the member with its frames joined to one part, which `window` and `compact` require."""
        return self if len(self.parts) == 1 else self._replace(parts=(tuple(map(torch.cat, zip(*self.parts))),))

    def window(self, begin, length):
        """Return `length` frames from number `begin` on, and which of their joints are missing. Before the first and after the
        last frame, that frame is repeated."""
        ((keypoints, missing),) = self.parts
        first = begin - self.next + len(keypoints)
        if 0 <= first <= len(keypoints) - length:
            return keypoints.narrow(0, first, length), missing.narrow(0, first, length)
        there = torch.arange(first, first + length).clamp(0, len(keypoints) - 1)
        return keypoints[there], missing[there]

    def compact(self, n):
        """Keep only the last n frames, in their own memory."""
        ((keypoints, missing),) = self.parts
        first = max(0, len(keypoints) - n)
        if first == 0:
            return self
        return self._replace(parts=((keypoints[first:].clone(), missing[first:].clone()),))


# States are {names: [tensors of batch len(names)]}: while the same streams are lifted together, theirs stay together, and
# nothing is copied.


def _take(states, names):
    """Take the states of `names` out of `states` as one batch: zeros for new streams, None if all are new."""
    if names in states:
        return states.pop(names)
    _split(states, names)
    found = [states.pop((name,), None) for name in names]
    known = next((state for state in found if state is not None), None)
    if known is None:
        return None
    zeros = [torch.zeros_like(x) for x in known]
    return [torch.cat(rows) for rows in zip(*(state or zeros for state in found))]


def _split(states, names):
    """Split every batch that contains one of `names` into single streams, in their own memory."""
    for batch in [batch for batch in states if len(batch) > 1 and not set(names).isdisjoint(batch)]:
        state = states.pop(batch)
        for row, name in enumerate(batch):
            states[name,] = [x[row : row + 1].clone() for x in state]


def _placed(seen):
    """Reduce visible joints (B, T, J) to the frames (B, T) that show a person's position: frames with the root or, if there
    are none, with any joint."""
    root = seen[..., 0]
    return root | seen.any(-1) & ~root.any(-1, keepdim=True)


def _skeleton(num_joints):
    """Return the skeleton with this number of joints (17: Human3.6M's); if none is known, a chain of joints."""
    row = Skeleton("row", ("",) * num_joints, tuple(range(-1, num_joints - 1)), (), ())
    return next((skeleton for skeleton in SKELETONS.values() if skeleton.num_joints == num_joints), row)


def _takes(model):
    """Return (frames at once, joints, channels) of a model's input."""
    parameters = inspect.signature(model.forward).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(needed) > 1:
        raise TypeError(f"Stream: {type(model).__name__} takes {', '.join(needed)}, expected a model of keypoints alone")
    try:
        return getattr(model, "chunk_size", None) or model.num_frames, model.num_joints, model.in_channels
    except AttributeError:
        raise TypeError(f"Stream: model is {type(model).__name__}, expected a model of lifter that lifts clips") from None


def _of(name):
    return "" if name is None else f" {name!r}"
